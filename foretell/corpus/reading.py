"""From a file's bytes to raw documents, as a stream of bounded memory. What is damaged is dropped, and the rest goes on."""

import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, cast

from foretell.base.files import digest
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped, Items, document_id, excerpt
from foretell.corpus.sources import SourceFile

CHUNK_BYTES, HEAD_BYTES = 2**20, 2**13
GZIP_BOMB_RATIO, GZIP_BOMB_BYTES = 200, 2**24  # what expands more than that, to more than that; text rarely passes 20
FORMATS = {".md": "markdown", ".markdown": "markdown", ".htm": "html", ".html": "html", ".xhtml": "html"}
FORMATS |= {".txt": "text", ".text": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".py": "python"}
SIGNS = {b"<!doctype html": "html", b"<html": "html", b'{"': "jsonl"}  # what a file begins with whose name says nothing
HTML_CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([\w-]+)", re.IGNORECASE)
TEXT_FIELDS = ("text", "content", "body", "document", "article", "passage", "sentence")


def read_files(files: Sequence[SourceFile], settings: CorpusSettings, sample_bytes: int | None = None) -> Items:
    """The documents of all files in order, until they hold `sample_bytes` of text; absent = all of them."""
    left_bytes = math.inf if sample_bytes is None else sample_bytes
    for file in files:
        unread_bytes = file.bytes
        for item in FileReader(file, settings).documents() if left_bytes > 0 else [file.dropped("not_sampled")]:
            if left_bytes <= 0:
                yield file.dropped("not_sampled", size_bytes=max(0, unread_bytes))
                break
            unread_bytes -= item.bytes
            left_bytes -= item.bytes if isinstance(item, Document) else 0
            yield item


class FileReader:
    """One file being read: as a whole (pages), line by line (JSONL), or in parts (all running text)."""

    def __init__(self, file: SourceFile, settings: CorpusSettings) -> None:
        self.file, self.settings = file, settings

    def documents(self) -> Items:
        """The raw documents of the file; a file that cannot be read is one `Dropped`."""
        path, zipped = self.file.path, self.file.path.suffix.lower() == ".gz"
        try:
            if self.file.reason is None:
                self.file.sha256 = digest(path)
            if reason := self.file.reason or (self._gzip_damage() if zipped else None):
                yield self.file.dropped(reason)
                return
            with cast(io.BufferedReader, gzip.open(path) if zipped else path.open("rb")) as stream:
                head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
                if not head or b"\0" in head:
                    yield self.file.dropped("binary" if head else "empty")
                    return
                start, name = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower(), path.with_suffix("") if zipped else path
                looks = next((kind for sign, kind in SIGNS.items() if start.startswith(sign)), "text")
                yield from self._read(stream, FORMATS.get(name.suffix.lower(), looks))
        except OSError as error:
            yield self.file.dropped("unreadable", str(error))

    def _gzip_damage(self) -> str | None:
        """Unpack the file once, keeping nothing, so that it is taken whole or not at all."""
        limit_bytes = max(GZIP_BOMB_BYTES, GZIP_BOMB_RATIO * self.file.bytes)
        try:
            with gzip.open(self.file.path) as stream:
                while stream.read(CHUNK_BYTES):
                    if stream.tell() > limit_bytes:
                        return "gzip_bomb"
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return "damaged_gzip"
        return None

    def _read(self, stream: BinaryIO, kind: str) -> Items:
        if kind == "html":  # it means something only as a whole
            limit = self.settings.max_document_bytes
            content = stream.read(limit + 1)
            yield self.file.dropped("too_large") if len(content) > limit else self._document(0, content, format=kind)
        elif kind == "jsonl":
            for number, line in enumerate(self._lines(stream), start=1):
                if isinstance(line, Dropped) or line.strip():
                    yield line if isinstance(line, Dropped) else self._json_document(line.strip(), number)
        else:
            for part, lines in enumerate(self._parts(stream)):
                yield lines if isinstance(lines, Dropped) else self._document(part, lines, format=kind, part=part)

    def _parts(self, stream: BinaryIO) -> Iterator[bytes | Dropped]:
        """Lines put together to what a document may hold."""
        part = bytearray()
        for line in self._lines(stream):
            if isinstance(line, Dropped):
                yield line
                continue
            if len(part) + len(line) > self.settings.max_document_bytes:
                yield bytes(part)
                part.clear()
            part += line
        if part:
            yield bytes(part)

    def _lines(self, stream: BinaryIO) -> Iterator[bytes | Dropped]:
        """The lines; one that is longer than a document may be is dropped as it streams by."""
        limit = self.settings.max_document_bytes
        while line := stream.readline(limit + 1):
            if len(line) <= limit:
                yield line
                continue
            start, line_bytes = excerpt(_decode(line[:HEAD_BYTES])), len(line)
            while line and not line.endswith(b"\n"):
                line = stream.readline(CHUNK_BYTES)
                line_bytes += len(line)
            yield self.file.dropped("too_long_line", start, size_bytes=line_bytes)

    def _json_document(self, content: bytes, line: int) -> Document | Dropped:
        told, wanted = _decode(content), self.settings.jsonl_text_field
        try:
            record = json.loads(told, parse_constant=_finite, parse_float=_finite)
        except (ValueError, RecursionError):
            return self.file.dropped("broken_json", excerpt(told), line, len(content))
        fields = record if isinstance(record, dict) else {}
        name = next((name for name in ([wanted] if wanted else TEXT_FIELDS) if isinstance(fields.get(name), str)), None)
        if name is None:
            told = f"fields: {', '.join(fields)}" if fields else told
            return self.file.dropped("no_text_field", excerpt(told), line, len(content))
        text = fields.pop(name).encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # escapes can make half characters
        return self._document(line, content, text, format="jsonl", line=line, text_field=name, fields=fields)

    def _document(self, number: int, content: bytes, text: str | None = None, **metadata: Any) -> Document | Dropped:
        """A raw document, unless too many of its characters could not be decoded."""
        text = _decode(content, metadata["format"]) if text is None else text
        source = f"{self.file.label}:{number}" if "line" in metadata else self.file.label
        if replaced := text.count("\ufffd"):
            metadata["replaced_characters"] = replaced
        document = Document(document_id(self.file.name, number, content), text, source, metadata)
        return document.dropped("not_utf8") if replaced > self.settings.max_undecodable * len(text) else document


def _finite(text: str) -> float | None:
    """NaN and infinities, which JSON does not have, are absent numbers."""
    return number if math.isfinite(number := float(text)) else None


def _decode(content: bytes, kind: str = "text") -> str:
    """UTF-8; else the encoding that a page declares (Latin 1 means cp1252, as in browsers); U+FFFD for what is neither."""
    with suppress(UnicodeDecodeError):
        return content.decode("utf-8-sig")
    declared = HTML_CHARSET.search(content[:HEAD_BYTES]) if kind == "html" else None
    with suppress(LookupError):  # there may be no such encoding
        return content.decode(declared[1].decode().lower().replace("iso-8859-1", "cp1252") if declared else "utf-8", "replace")
    return content.decode("utf-8", "replace")
