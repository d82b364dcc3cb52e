"""From a file's bytes to raw documents, as a stream of bounded memory. What is damaged is dropped, and the rest goes on."""

import codecs
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

from foretell.base.files import digest
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped, Items, document_id, excerpt
from foretell.corpus.sources import SourceFile

CHUNK_BYTES, HEAD_BYTES = 2**20, 2**13
FORMATS = {".md": "markdown", ".markdown": "markdown", ".htm": "html", ".html": "html", ".xhtml": "html"}
FORMATS |= {".txt": "text", ".text": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".py": "python"}
SIGNS = {b"<!doctype html": "html", b"<html": "html", b'{"': "jsonl"}  # what a file begins with whose name says nothing
TEXT_FIELDS = ("text", "content", "body", "document", "article", "passage", "sentence")
HTML_CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([\w-]+)", re.IGNORECASE)


def read_files(files: Sequence[SourceFile], settings: CorpusSettings, sample_bytes: int | None = None) -> Items:
    """The documents of all files in order, until they hold `sample_bytes` of text; absent = all of them."""
    limit_bytes, used_bytes = math.inf if sample_bytes is None else sample_bytes, 0
    for file in files:
        file_bytes, items = 0, FileReader(file, settings).documents()
        for item in items if used_bytes < limit_bytes else [file.dropped("not_sampled")]:
            if used_bytes >= limit_bytes:
                yield file.dropped("not_sampled", size_bytes=max(0, file.bytes - file_bytes))
                break
            file_bytes += item.bytes
            used_bytes += item.bytes if isinstance(item, Document) else 0
            yield item


class FileReader:
    """One file being read: as a whole (pages, programs), in parts (running text) or line by line (JSONL)."""

    def __init__(self, file: SourceFile, settings: CorpusSettings) -> None:
        self.file, self.settings = file, settings

    def documents(self) -> Items:
        """The raw documents of the file; a file that cannot be read is one `Dropped`."""
        path, compressed = self.file.path, self.file.path.suffix.lower() == ".gz"
        try:
            if self.file.reason is None:
                self.file.sha256 = digest(path)
            if reason := self.file.reason or (self._gzip_damage() if compressed else None):
                yield self.file.dropped(reason)
                return
            with cast(io.BufferedReader, gzip.open(path) if compressed else path.open("rb", CHUNK_BYTES)) as stream:
                head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
                utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                if not head or (b"\0" in head and not utf16):
                    yield self.file.dropped("binary" if head else "empty")
                    return
                utf8: Any = codecs.EncodedFile(cast(Any, stream), "utf-8", "utf-16", "replace") if utf16 else stream
                suffix = (path.with_suffix("") if compressed else path).suffix.lower()
                looks = next(
                    (kind for start, kind in SIGNS.items() if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(start)), "text"
                )
                yield from self._read(utf8, FORMATS.get(suffix, looks))
        except OSError as error:
            yield self.file.dropped("unreadable", str(error))

    def _gzip_damage(self) -> str | None:
        """Unpack the file once, keeping nothing, so that it is taken whole or not at all."""
        unpacked_bytes, limit_bytes = 0, max(16 * CHUNK_BYTES, self.settings.max_gzip_ratio * self.file.bytes)
        try:
            with gzip.open(self.file.path) as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    unpacked_bytes += len(chunk)
                    if unpacked_bytes > min(limit_bytes, self.settings.max_gzip_bytes):
                        return "gzip_bomb"
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return "damaged_gzip"
        return None

    def _read(self, stream: BinaryIO, kind: str) -> Items:
        if kind in ("html", "python"):  # these mean something only as a whole
            limit = self.settings.max_page_bytes if kind == "html" else self.settings.max_document_bytes
            content = _read_up_to(stream, limit + 1)
            document = self._document(0, content, _decode(content, kind), format=kind)
            yield self.file.dropped("too_large") if len(content) > limit else document
            return
        line = 0
        for part, piece in enumerate(self._pieces(stream)):
            if isinstance(piece, Dropped):
                line += 1
                yield piece
            elif kind == "jsonl":
                for content in piece.removesuffix(b"\n").split(b"\n"):
                    line += 1
                    if content.strip():
                        yield self._json_document(content, line)
            else:
                yield self._document(part, piece, _decode(piece, kind), format=kind, part=part)

    def _pieces(self, stream: BinaryIO) -> Iterator[bytes | Dropped]:
        """Pieces that end at a blank line, else at a line end; longer lines are dropped as they stream by."""
        buffer, limit = b"", self.settings.max_document_bytes
        while buffer := buffer + _read_up_to(stream, limit + 1 - len(buffer)):
            blank_line = buffer.rfind(b"\n\n", limit // 2, limit)
            cut = blank_line + 2 if blank_line > 0 else buffer.rfind(b"\n", 0, limit) + 1
            end = len(buffer) if len(buffer) <= limit else cut
            if end > 0:
                yield buffer[:end]
            else:
                start, line_bytes = excerpt(_decode(buffer[:HEAD_BYTES], "text")), 0
                while buffer and (end := buffer.find(b"\n") + 1) == 0:
                    line_bytes += len(buffer)
                    buffer = stream.read(CHUNK_BYTES)
                yield self.file.dropped("too_long_line", start, size_bytes=line_bytes + end)
            buffer = buffer[end:]

    def _json_document(self, content: bytes, line: int) -> Document | Dropped:
        text, wanted = _decode(content, "jsonl"), self.settings.jsonl_text_field
        try:
            record = json.loads(text, parse_constant=_finite, parse_float=_finite)
        except (ValueError, RecursionError):
            return self.file.dropped("broken_json", excerpt(text), line, len(content))
        fields = record if isinstance(record, dict) else {}
        name = next((name for name in ([wanted] if wanted else TEXT_FIELDS) if isinstance(fields.get(name), str)), None)
        if name is None:
            told = f"fields: {', '.join(fields)}" if fields else text
            return self.file.dropped("no_text_field", excerpt(told), line, len(content))
        text = fields.pop(name).encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # escapes can make half characters
        return self._document(line, content, text, format="jsonl", line=line, text_field=name, fields=fields)

    def _document(self, number: int, content: bytes, text: str, **metadata: Any) -> Document | Dropped:
        """A raw document, unless too many of its characters could not be decoded."""
        source = f"{self.file.label}:{number}" if "line" in metadata else self.file.label
        if replaced := text.count("\ufffd"):
            metadata["replaced_characters"] = replaced
        document = Document(document_id(self.file.name, number, content), text, source, metadata)
        return document.dropped("not_utf8") if replaced > self.settings.max_undecodable * len(text) else document


def _read_up_to(stream: BinaryIO, size_bytes: int) -> bytes:
    pieces = []
    while size_bytes > 0 and (piece := stream.read(min(size_bytes, CHUNK_BYTES))):
        pieces.append(piece)
        size_bytes -= len(piece)
    return b"".join(pieces)


def _finite(text: str) -> float | None:
    """NaN and infinities, which JSON does not have, are absent numbers."""
    return number if math.isfinite(number := float(text)) else None


def _decode(content: bytes, kind: str) -> str:
    """UTF-8; else the encoding a page declares; else UTF-8 with U+FFFD in place of what is not."""
    declared = HTML_CHARSET.search(content[:HEAD_BYTES]) if kind == "html" else None
    name = declared[1].decode().lower() if declared else "utf-8"
    # Browsers read Latin-1 as Windows-1252 as well: https://encoding.spec.whatwg.org
    for encoding, errors in (("utf-8-sig", "strict"), ({"iso-8859-1": "cp1252"}.get(name, name), "replace")):
        try:
            return content.decode(encoding, errors)
        except (LookupError, UnicodeError):
            continue  # not UTF-8, or declared as an encoding that does not exist
    return content.decode("utf-8", "replace")
