"""What is being read: a file or a member of an archive, with what it may expand to."""

import codecs
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Dropped, Raw, document_id

BUFFER_BYTES, HEAD_BYTES = 2**16, 2**13
WHOLE_BYTES = 2**27  # of a paper or message, whose text is far smaller
SMALL_BYTES = 2**24  # what stays smaller is no bomb, however well it was compressed
TEXT_FIELDS = ("text", "content", "body", "document", "article", "passage", "sentence")

Records = Iterator[Raw | Dropped]


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a file that can be read by itself. start, stop: bytes, or rows of a table, from 0. line: the first, from 1.

    bytes: what it takes of the file; absent = nobody counted.
    """

    start: int
    stop: int
    line: int = 1
    bytes: int | None = None


@dataclass(slots=True)
class Entry:
    """A file or a member of an archive. size_bytes: as it lies there.

    depth: archives around it. called: its name by itself, where it was unpacked. metadata: every record inherits it.
    """

    name: str
    label: str
    stream: BinaryIO
    size_bytes: int
    settings: CorpusSettings
    seekable: bool = True
    depth: int = 0
    called: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def head(self) -> bytes:
        """The first 8 KiB, which are read once more afterwards."""
        return cast(io.BufferedReader, self.stream).peek(HEAD_BYTES)[:HEAD_BYTES]

    @property
    def whole_bytes(self) -> int:
        """What may be held in memory of papers and messages, whose text is far smaller than they are."""
        return max(self.settings.max_document_bytes, WHOLE_BYTES)

    def raw(self, number: int, content: bytes | str, kind: str, size_bytes: int | None = None, **metadata: Any) -> Raw:
        """A record of it."""
        if "encoding" in self.metadata and isinstance(content, bytes):
            content = content.decode("utf-8", "replace")  # what `as_utf8` made
        if size_bytes is None and isinstance(content, str) and not content.isascii():
            size_bytes = len(content.encode("utf-8", "replace"))
        return Raw(self.name, self.label, number, content, kind, {**self.metadata, **metadata}, size_bytes)

    def dropped(self, reason: str, excerpt: str = "", number: int | None = None, size_bytes: int | None = None) -> Dropped:
        """All of it, or the record of this line or row, as left out."""
        label = self.label if number is None else f"{self.label}:{number}"
        told = " ".join(excerpt[:240].split()).encode("utf-8", "replace").decode()
        return Dropped(
            document_id(self.name, number or 0, b""), label, reason, told, self.size_bytes if size_bytes is None else size_bytes
        )


class Bomb(Exception):
    """More came out of something compressed than it may hold."""


class Budget:
    """How many bytes may still come out of something compressed, and out of what it lies in."""

    def __init__(
        self, compressed_bytes: int, settings: CorpusSettings, outer: "Budget | None" = None, small_bytes: int = SMALL_BYTES
    ) -> None:
        self.left_bytes, self.outer = max(small_bytes, int(compressed_bytes * settings.max_expansion)), outer

    def spend(self, size_bytes: int) -> None:
        """Count what came out. Raises Bomb."""
        self.left_bytes -= size_bytes
        if self.outer is not None:
            self.outer.spend(size_bytes)
        if self.left_bytes < 0:
            raise Bomb


class Derived(io.RawIOBase):
    """A stream that is made from another by a function that gives its next bytes, at most as many as it is asked for."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, as io.RawIOBase wants it."""
        content = self._read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def counted(read: Callable[[int], bytes], budget: Budget) -> io.BufferedReader:
    """What `read` gives, until the budget is spent, and all of it before an error. Reading it may raise Bomb."""
    failure: Exception | None = None

    def spending(size_bytes: int) -> bytes:
        nonlocal failure
        ready = bytearray()
        try:
            while failure is None and len(ready) < size_bytes and (content := read(size_bytes - len(ready))):
                ready += content
        except Exception as error:
            failure = error
        if failure is not None and not ready:
            raise failure
        budget.spend(len(ready))
        return bytes(ready)

    return io.BufferedReader(Derived(spending), BUFFER_BYTES)


def as_utf8(stream: BinaryIO, encoding: str) -> io.BufferedReader:
    """A stream of UTF-16 or UTF-32, in which line ends cannot be found by their bytes, as UTF-8."""
    decoder, ready = codecs.getincrementaldecoder(encoding)("replace"), bytearray()

    def read(size_bytes: int) -> bytes:
        while len(ready) < size_bytes and (content := stream.read(BUFFER_BYTES)):
            ready.extend(decoder.decode(content).encode("utf-8", "replace"))
        if len(ready) < size_bytes:
            ready.extend(decoder.decode(b"", final=True).encode("utf-8", "replace"))
        taken = bytes(ready[:size_bytes])
        del ready[:size_bytes]
        return taken

    return io.BufferedReader(Derived(read), BUFFER_BYTES)
