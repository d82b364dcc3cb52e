"""The shard folder, written: one pass to plan, one to encode, memory that does not grow with the corpus."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.base.console import Terminal
from foretell.base.files import atomic_path, digest, require_new, write_text
from foretell.base.records import dump
from foretell.corpus.document import Document
from foretell.data.config import DataSettings
from foretell.data.held_out import plan
from foretell.data.shards import IDENTITY, SPLITS, START, Manifest, SplitRecord
from foretell.tokenizers.tokenizer import Tokenizer, grouped

GROUP_CHARACTERS = 2_000_000  # encoded together
Documents = Callable[[], Iterable[Document]]


def write_shards(documents: Documents, tokenizer: Tokenizer, out: Path, settings: DataSettings, terminal: Terminal) -> Manifest:
    """Encode documents (read twice: to plan, to write) into a new shard folder. Raises DataError, SettingError."""
    require_new(out)
    held_out = plan(((document.id, len(document.text)) for document in documents()), settings.held_out)
    if held_out.ends:
        terminal.warn(f"held out: {held_out.method}")
    with atomic_path(out) as partial, terminal.progress("encoding", held_out.characters, "characters") as progress:
        tokenizer.save(partial / "tokenizer")
        dtype = "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"
        writers = {name: SplitWriter(partial, name, tokenizer, dtype) for name in SPLITS}
        for group in grouped(documents(), lambda document: len(document.text), GROUP_CHARACTERS):
            parts = [(document.id, held_out.split(document.id, document.text)) for document in group]
            for name, writer in writers.items():
                writer.add([(identity, texts[name]) for identity, texts in parts if name in texts])
            progress.advance(sum(len(document.text) for document in group))
        splits = {name: writer.record() for name, writer in writers.items()}
        if unknown := sum(writer.unknown for writer in writers.values()):
            terminal.warn(f"the tokenizer has no token for parts of the text: {unknown:,} unknown tokens were written")
        coding = {"tokenizer": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size, "end_of_text": tokenizer.end_of_text}
        manifest = Manifest.model_validate({**coding, "dtype": dtype, "held_out": held_out, "splits": splits})
        write_text(partial / "manifest.json", dump(manifest.model_dump(), indent=2) + "\n")
    return manifest


class SplitWriter:
    """The files of one split, growing by some documents at a time."""

    def __init__(self, folder: Path, name: str, tokenizer: Tokenizer, dtype: str) -> None:
        self._folder, self._name, self._tokenizer, self._dtype = folder, name, tokenizer, dtype
        self._tokens = self._documents = self._bytes = self.unknown = 0

    def add(self, documents: list[tuple[str, str]]) -> None:
        """Append (document id, text)."""
        encoded = self._tokenizer.encode_batch([text for _, text in documents])
        lengths = np.array([len(ids) + 1 for ids in encoded], START)
        end = np.array([self._tokenizer.end_of_text], np.uint32)
        self._append("tokens", np.concatenate([end[:0], *(part for ids in encoded for part in (ids, end))]).astype(self._dtype))
        self._append("starts", self._tokens + np.cumsum(lengths) - lengths)
        self._append("identities", np.array([identity for identity, _ in documents], IDENTITY))
        self._tokens += int(lengths.sum())
        if self._tokenizer.unknown is not None:
            self.unknown += sum(int((ids == self._tokenizer.unknown).sum()) for ids in encoded)
        self._documents += len(documents)
        self._bytes += sum(len(text.encode()) for _, text in documents)

    def record(self) -> SplitRecord:
        """What was written, with checksums."""
        files = {path.name: digest(path) for path in sorted(self._folder.glob(f"{self._name}-*.bin"))}
        return SplitRecord(files=files, tokens=self._tokens, documents=self._documents, bytes=self._bytes)

    def _append(self, part: str, values: NDArray[Any]) -> None:
        with (self._folder / f"{self._name}-{part}.bin").open("ab") as stream:
            stream.write(values.tobytes())
