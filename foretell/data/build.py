"""The shard folder, written: one pass to plan, one to encode, memory that does not grow with the corpus."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.base.console import Terminal
from foretell.base.errors import DataError
from foretell.base.files import atomic_path, digest, require_new, write_text
from foretell.base.records import dump
from foretell.corpus.document import Document
from foretell.data.config import DataSettings
from foretell.data.held_out import plan
from foretell.data.shards import IDENTITY, SPLITS, START, Manifest, SplitRecord
from foretell.tokenizers.pieces import grouped
from foretell.tokenizers.tokenizer import Tokenizer

GROUP_CHARACTERS = 2_000_000  # encoded together
Documents = Callable[[], Iterable[Document]]


def write_shards(documents: Documents, tokenizer: Tokenizer, out: Path, settings: DataSettings, terminal: Terminal) -> Manifest:
    """Encode documents (read twice: to plan, to write) into a new shard folder. Raises DataError, SettingError."""
    require_new(out)
    held_out = plan(((document.id, len(document.text)) for document in documents()), settings.held_out)
    if held_out.ends:
        terminal.warn(f"held out: {held_out.method}")
    with atomic_path(out) as partial, terminal.progress("encoding", held_out.characters, "characters") as bar:
        tokenizer.save(partial / "tokenizer")
        dtype = "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"
        writers = {name: SplitWriter(partial, name, tokenizer, dtype, settings.shard_tokens) for name in SPLITS}
        for group in grouped(documents(), lambda document: len(document.text), GROUP_CHARACTERS):
            parts = [(document.id, held_out.split(document.id, document.text)) for document in group]
            for name, writer in writers.items():
                writer.add([(identity, texts[name]) for identity, texts in parts if name in texts])
            bar.advance(sum(len(document.text) for document in group))
        if sum(writer.characters for writer in writers.values()) != held_out.characters:
            raise DataError("the corpus changed while it was read", where=str(out), cure="build again from a corpus that rests")
        splits = {name: writer.record() for name, writer in writers.items()}
        coding = {"tokenizer": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size, "end_of_text": tokenizer.end_of_text}
        layout = {"dtype": dtype, "shard_tokens": settings.shard_tokens, "held_out": held_out, "splits": splits}
        manifest = Manifest.model_validate(coding | layout)
        write_text(partial / "manifest.json", dump(manifest.model_dump(), indent=2) + "\n")
    return manifest


class SplitWriter:
    """The files of one split, growing by some documents at a time. characters: written so far."""

    def __init__(self, folder: Path, name: str, tokenizer: Tokenizer, dtype: str, shard_tokens: int) -> None:
        self._folder, self._name, self._tokenizer, self._dtype, self._shard_tokens = folder, name, tokenizer, dtype, shard_tokens
        self._tokens = self._documents = self._bytes = self.characters = 0

    def add(self, documents: list[tuple[str, str]]) -> None:
        """Append (document id, text), over the border of a file where they do not fit. Raises DataError."""
        for identity, text in documents:
            if len(identity.encode()) != IDENTITY.itemsize:
                cure = "build the corpus again with `foretell corpus build`"
                raise DataError("a document id must have 16 characters", where=f"document '{identity}'", cure=cure)
            self._bytes += len(text.encode("utf-8", "surrogatepass"))
            self.characters += len(text)
        encoded = self._tokenizer.encode_batch([text for _, text in documents])
        lengths = np.array([len(ids) + 1 for ids in encoded], START)
        self._append("starts", self._tokens + np.cumsum(lengths) - lengths)
        self._append("identities", np.array([identity for identity, _ in documents], IDENTITY))
        self._documents += len(documents)
        end = np.array([self._tokenizer.end_of_text], np.uint32)
        waiting = np.concatenate([end[:0], *(part for ids in encoded for part in (ids, end))]).astype(self._dtype)
        while len(waiting):
            number, filled = divmod(self._tokens, self._shard_tokens)
            fitting, waiting = np.split(waiting, [self._shard_tokens - filled])
            self._append(f"{number:05d}", fitting)
            self._tokens += len(fitting)

    def record(self) -> SplitRecord:
        """What was written, with checksums."""
        files = {path.name: digest(path) for path in sorted(self._folder.glob(f"{self._name}-*.bin"))}
        return SplitRecord(files=files, tokens=self._tokens, documents=self._documents, bytes=self._bytes)

    def _append(self, part: str, values: NDArray[Any]) -> None:
        with (self._folder / f"{self._name}-{part}.bin").open("ab") as stream:
            stream.write(values.tobytes())
