"""The shard folder, written in one pass and added to; memory that does not grow with the corpus."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.base.console import Terminal
from foretell.base.files import atomic_path, read_text, remove, require_new, translated_write_errors, write_text
from foretell.base.machine import usable_processors
from foretell.base.records import dump
from foretell.corpus.document import Document
from foretell.data.config import DataSettings
from foretell.data.encode import Group, encoded, tasks, work_folder
from foretell.data.held_out import Survey
from foretell.data.shards import IDENTITY, SPLITS, START, Manifest, ShardReader, SplitRecord, digested, older_manifest
from foretell.tokenizers.tokenizer import Tokenizer

Documents = Callable[[], Iterable[Document]]


def write_shards(
    documents: Documents,
    tokenizer: Tokenizer,
    out: Path,
    settings: DataSettings,
    terminal: Terminal,
    workers: int | None = None,
    characters: int | None = None,
) -> Manifest:
    """Encode documents into a new shard folder, the same bytes with any number of workers (absent: one a processor).

    They are read once; a second time where the ends of some are held out, which only all of them together tell.
    characters: of all documents, if known, to say how far the work is. Raises DataError, SettingError, CapacityError.
    """
    require_new(out)
    workers, survey = workers or usable_processors(), Survey(settings.held_out)
    dtype, fingerprint = "<u2" if tokenizer.vocab_size <= 2**16 else "<u4", tokenizer.fingerprint
    with work_folder(out) as work:
        require_new(out)  # another build may have ended since
        remove(work / "whole")
        with atomic_path(work / "whole") as partial:
            tokenizer.save(partial / "tokenizer")
            with terminal.progress("encoding", characters, "characters") as progress:
                groups = encoded(
                    tasks(_surveyed(documents(), survey), survey.guess()), work, tokenizer, fingerprint, dtype, workers
                )
                writers = _written(partial, groups, dtype, progress.advance)
            held_out = survey.plan()
            if held_out.ends:
                terminal.warn(f"held out: {held_out.method}")
                groups = encoded(
                    tasks(documents(), held_out), work, tokenizer, fingerprint, dtype, workers
                )  # whole ones lie there already
                writers = _written(partial, groups, dtype)
            coding = {"tokenizer": fingerprint, "vocab_size": tokenizer.vocab_size, "end_of_text": tokenizer.end_of_text}
            splits = {name: writer.record() for name, writer in writers.items()}
            manifest = Manifest.model_validate({**coding, "dtype": dtype, "held_out": held_out, "splits": splits})
            _tell_unknown(writers, terminal)
            write_text(partial / "manifest.json", _text(manifest))
        os.replace(work / "whole", out)
    return manifest


def append_shards(
    documents: Documents, folder: Path, terminal: Terminal, workers: int | None = None, characters: int | None = None
) -> tuple[Manifest, int]:
    """Add the documents whose ids a shard folder does not hold yet; the manifest after it, and how many they were.

    The files grow at their ends, then the manifest is replaced in one moment: a reader sees the old state or the new one, and the
    old one stays readable under the digest of its manifest. Raises DataError, SettingError, CapacityError.
    """
    before = ShardReader(folder)
    tokenizer = before.tokenizer()
    with work_folder(folder) as work:
        before = ShardReader(folder)  # another process may have added something since
        manifest = before.manifest
        writers = {name: SplitWriter(folder, name, manifest.dtype, manifest.splits[name]) for name in SPLITS}
        try:
            with terminal.progress("encoding", characters, "characters") as progress:
                new = tasks(_unknown_of(before, documents()), manifest.held_out)
                groups = encoded(new, work, tokenizer, manifest.tokenizer, manifest.dtype, workers or usable_processors())
                characters_added = _added(writers, groups, progress.advance)
            splits = {name: writer.record() for name, writer in writers.items()}
        except BaseException:
            for name in SPLITS:
                SplitWriter.truncate(folder, name, manifest.splits[name], manifest.token_bytes)
            raise
        _tell_unknown(writers, terminal)
        added = sum(writer.documents - manifest.splits[name].documents for name, writer in writers.items())
        if not added:
            return manifest, 0
        held_out = manifest.held_out.replace(characters=manifest.held_out.characters + characters_added)
        after = manifest.replace(splits=splits, held_out=held_out, version=manifest.version + 1)
        write_text(folder / older_manifest(before.state), read_text(folder / "manifest.json"))
        write_text(folder / "manifest.json", _text(after))
    return after, added


class SplitWriter:
    """The files of one split, growing by some documents at a time."""

    def __init__(self, folder: Path, name: str, dtype: str, before: SplitRecord | None = None) -> None:
        """before: what the files hold; what lies behind it, of a killed process, is cut off. Raises DataError where they differ."""
        before = before or SplitRecord(files={}, tokens=0, documents=0, bytes=0)
        self.tokens, self.documents, self.bytes, self.unknown = before.tokens, before.documents, before.bytes, 0
        sizes = self.truncate(folder, name, before, np.dtype(dtype).itemsize)
        self._paths = {part: folder / f"{name}-{part}" for part in sizes}
        self._digests = {part: digested(path, sizes[part]) for part, path in self._paths.items()}
        for part, path in self._paths.items():
            if before.files and self._digests[part].hexdigest() != before.files[path.name]:
                ShardReader(folder).verify()  # says which file it is

    @staticmethod
    def truncate(folder: Path, name: str, record: SplitRecord, token_bytes: int) -> dict[str, int]:
        """Cut the files to what a manifest says; their sizes, by the ends of their names."""
        sizes = record.sizes(token_bytes)
        for part, size in sizes.items():
            with (folder / f"{name}-{part}").open("ab") as stream:
                stream.truncate(size)
        return sizes

    def add(self, group: Group) -> None:
        """Append documents."""
        lengths, _, sizes, unknown = group.counts.T
        self._append("tokens.bin", group.tokens)
        self._append("starts.bin", (self.tokens + np.cumsum(lengths) - lengths).astype(START))
        self._append("identities.bin", group.identities.astype(IDENTITY))
        self.tokens += int(lengths.sum())
        self.documents += len(lengths)
        self.bytes += int(sizes.sum())
        self.unknown += int(unknown.sum())

    def record(self) -> SplitRecord:
        """What was written, safe on the disk, with checksums."""
        for path in self._paths.values():
            with translated_write_errors(path), path.open("ab") as stream:
                os.fsync(stream.fileno())
        files = {self._paths[part].name: digest.hexdigest() for part, digest in sorted(self._digests.items())}
        return SplitRecord(files=files, tokens=self.tokens, documents=self.documents, bytes=self.bytes)

    def _append(self, part: str, values: NDArray[Any]) -> None:
        with translated_write_errors(self._paths[part]), self._paths[part].open("ab") as stream:
            stream.write(values.data)
        self._digests[part].update(values.data)


def _written(
    folder: Path, groups: Generator[Group, None, None], dtype: str, advance: Callable[[float], None] = lambda _: None
) -> dict[str, SplitWriter]:
    writers = {name: SplitWriter(folder, name, dtype) for name in SPLITS}
    _added(writers, groups, advance)
    return writers


def _added(writers: dict[str, SplitWriter], groups: Generator[Group, None, None], advance: Callable[[float], None]) -> int:
    """Write all groups; how many characters they were."""
    total = 0
    with closing(groups):  # an error ends the workers
        for group in groups:
            writers[group.split].add(group)
            characters = int(group.counts[:, 1].sum())
            advance(characters)
            total += characters
    return total


def _surveyed(documents: Iterable[Document], survey: Survey) -> Iterator[Document]:
    for document in documents:
        survey.add(document.id, len(document.text))
        yield document


def _unknown_of(shards: ShardReader, documents: Iterable[Document]) -> Iterator[Document]:
    """The documents that are not in the shards, each once."""
    known, met = np.sort(np.concatenate([split.identities for split in (shards.train, shards.held_out)])), set[bytes]()
    for document in documents:
        identity = document.id.encode()
        place = int(np.searchsorted(known, np.array(identity, IDENTITY)))
        if identity not in met and (place == len(known) or known[place] != identity):
            met.add(identity)
            yield document


def _tell_unknown(writers: dict[str, SplitWriter], terminal: Terminal) -> None:
    if unknown := sum(writer.unknown for writer in writers.values()):
        terminal.warn(f"the tokenizer has no token for parts of the text: {unknown:,} unknown tokens were written")


def _text(manifest: Manifest) -> str:
    return dump(manifest.model_dump(), indent=2) + "\n"
