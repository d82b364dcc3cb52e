"""Running text in parts, lines of JSON, arrays of JSON objects, and what means something only as a whole."""

import codecs
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, cast

from foretell.corpus.readers.entry import Entry, Records, Slice

CHUNK_BYTES, EXCERPT_BYTES = 2**20, 1000  # the latter below the least max_document_bytes
FROM_LINE = re.compile(rb"From .*\d:\d\d")  # who sent it and when; other lines may begin with the word
BETWEEN = re.compile(r"[ \t\r\n,]*")
PAPERS = {"pdf", "docx", "epub", "email"}


def read_running(entry: Entry, kind: str, part: Slice | None) -> Records:
    """A text in parts that end at blank lines, else at line ends; a longer line is dropped as it streams by."""
    limit = entry.settings.max_document_bytes
    for start, content, size_bytes in parts(entry.stream, limit, part.start if part else 0):
        if part and start >= part.stop:
            return
        if size_bytes > len(content):
            yield entry.dropped("too_long_line", _told(content), size_bytes=size_bytes)
        else:
            yield entry.raw(start, content, kind)


def parts(stream: BinaryIO, limit: int, start: int = 0) -> Iterator[tuple[int, bytes, int]]:
    """Where each part begins, the part, and its bytes: of a line of more than `limit` bytes the part is the beginning alone."""
    buffer = stream.read(limit + 1)
    while buffer:
        end = len(buffer) if len(buffer) <= limit else _last_break(buffer, limit)
        if end:
            yield start, buffer[:end], end
            buffer = buffer[end:] + stream.read(end)
        else:
            head, end, buffer = buffer[:EXCERPT_BYTES], len(buffer), b"" if buffer.endswith(b"\n") else buffer
            while buffer and not buffer.endswith(b"\n"):
                buffer = stream.readline(CHUNK_BYTES)
                end += len(buffer)
            yield start, head, end
            buffer = stream.read(limit + 1)
        start += end


def _last_break(content: bytes, limit: int) -> int:
    """The end of the last blank line in the second half, else of the last line; 0 = there is none. `content` has one byte more."""
    for blank in (b"\n\n", b"\n\r\n"):
        if (found := content.rfind(blank, limit // 2, limit)) >= 0:
            return found + len(blank)
    return content.rfind(b"\n", 0, limit) + 1


def lines(stream: BinaryIO, limit: int) -> Iterator[tuple[bytes, int]]:
    """The lines and their bytes; a line of more than `limit` bytes is the beginning alone, and streams by."""
    while line := stream.readline(limit + 1):
        size_bytes, rest = len(line), line
        while size_bytes > limit and rest and not rest.endswith(b"\n"):
            rest = stream.readline(CHUNK_BYTES)
            size_bytes += len(rest)
        yield line if size_bytes <= limit else line[:EXCERPT_BYTES], size_bytes


def read_json_lines(entry: Entry, part: Slice | None) -> Records:
    """A record for each line that is not blank."""
    limit, left_bytes = entry.settings.max_document_bytes, part.stop - part.start if part else None
    for number, (line, size_bytes) in enumerate(lines(entry.stream, limit), start=part.line if part else 1):
        if size_bytes > len(line):
            yield entry.dropped("too_long_line", _told(line), number, size_bytes)
        elif content := (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip():
            yield entry.raw(number, content, "json", size_bytes)
        if left_bytes is not None and (left_bytes := left_bytes - size_bytes) <= 0:
            return


def read_json(entry: Entry) -> Records:
    """The values of an array, or one after the other; one that cannot be read ends it."""
    limit, decode, number, start = entry.settings.max_document_bytes, json.JSONDecoder().raw_decode, 0, 0
    pieces = codecs.iterdecode(iter(lambda: entry.stream.read(CHUNK_BYTES), b""), "utf-8-sig", "replace")
    text = next(pieces, "").lstrip()
    last = "]" if text.startswith("[") else ""
    text = text[len(last) :]
    while True:
        start, end = cast(re.Match[str], BETWEEN.match(text, start)).end(), None
        with suppress(ValueError, RecursionError):
            end = decode(text, start)[1]
        if end in {None, len(text)} and len(text) - start <= limit and (grown := _grown(text[start:], pieces)):
            text, start = grown, 0  # a value that ends with the text may go on
        elif end is None:
            if (left := text[start:]).rstrip() not in {"", last}:
                yield entry.dropped("too_large" if len(left) > limit else "broken_json", left[:240], number + 1, len(left.encode()))
            return
        else:
            number += 1
            yield entry.raw(number, text[start:end], "json")
            start = end


def _grown(text: str, pieces: Iterator[str]) -> str | None:
    """The text with as much again, so that a value is not tried too often; None = there is no more."""
    more: list[str] = []
    while sum(map(len, more)) <= len(text) and (piece := next(pieces, "")):
        more.append(piece)
    return text + "".join(more) if more else None


def read_whole(entry: Entry, kind: str) -> Records:
    """A page, a paper or a message, which is one record."""
    limit = entry.whole_bytes if kind in PAPERS else entry.settings.max_document_bytes
    content = entry.stream.read(limit + 1)
    yield entry.dropped("too_large") if len(content) > limit else entry.raw(0, content, kind)


def read_mbox(entry: Entry) -> Records:
    """The messages of a mailbox: each begins after a blank line with one that begins with `From `."""
    message, size_bytes, number, blank = bytearray(), 0, 0, True

    def record() -> Records:
        if size_bytes > len(message):
            yield entry.dropped("too_large", _told(message[:EXCERPT_BYTES]), number, size_bytes)
        elif size_bytes:
            yield entry.raw(number, bytes(message), "email", size_bytes)

    for line, line_bytes in lines(entry.stream, entry.settings.max_document_bytes):
        if blank and FROM_LINE.match(line):
            yield from record()
            size_bytes, number = 0, number + 1
            message.clear()
        else:
            size_bytes += line_bytes
            message += line if len(line) == line_bytes and size_bytes <= entry.whole_bytes else b""
        blank = not line.strip()
    yield from record()


def slices_of_text(stream: BinaryIO, limit: int, target_bytes: int) -> list[Slice]:
    """Groups of parts of some `target_bytes`."""
    found: list[Slice] = []
    first = end = 0
    for start, _, size_bytes in parts(stream, limit):
        end = start + size_bytes
        if end - first >= target_bytes:
            found.append(Slice(first, end))
            first = end
    return [*found, Slice(first, end)] if end > first else found


def slices_of_lines(stream: BinaryIO, target_bytes: int) -> list[Slice]:
    """Groups of lines of some `target_bytes`, with the number of the first line of each."""
    found: list[Slice] = []
    start, number = 0, 1
    while block := stream.read(target_bytes):
        stop, line = start + len(block), number + block.count(b"\n")
        while block and not block.endswith(b"\n"):
            block = stream.readline(CHUNK_BYTES)
            stop, line = stop + len(block), line + block.endswith(b"\n")
        found.append(Slice(start, stop, number))
        start, number = stop, line
    return found


def _told(content: bytes | bytearray) -> str:
    return content.decode("utf-8", "replace")
