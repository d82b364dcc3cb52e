"""The pages of web archives (WARC, WET; plain, gz, lz4, zst)."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

from foretell.corpus.document import Dropped, Raw
from foretell.corpus.readers.entry import HEAD_BYTES, Bomb, Budget, Entry, Records
from foretell.corpus.readers.formats import kind_of

KINDS = {"text/html": "html", "application/xhtml+xml": "html", "text/plain": "text", "text/markdown": "markdown"}
KINDS |= {"application/pdf": "pdf", "text/xml": "xml", "application/xml": "xml"}

PACKED = {"gzip", "x-gzip", "deflate"}


class _Broken(Exception):
    """The archive, or a record of it, cannot be read."""


def read_warc(entry: Entry) -> Records:
    """A record for each page that was fetched, and each text that was made of one; where the archive is damaged it ends."""
    warc = import_module("fastwarc.warc")
    try:
        for number, (record, block) in enumerate(_blocks(warc.ArchiveIterator, entry), start=1):
            if record.record_type in (warc.response, warc.resource, warc.conversion):
                yield _page(entry, number, record, block)
    except Bomb:
        yield entry.dropped("gzip_bomb")
    except _Broken as error:
        yield entry.dropped("broken_warc", str(error))


def _blocks(open_archive: Callable[..., Any], entry: Entry) -> Iterator[tuple[Any, bytes]]:
    """The records, and what stands in them (of the largest the beginning)."""
    budget = Budget(entry.size_bytes, entry.settings)
    records = iter(_guarded(open_archive, entry.stream, parse_http=False, fsspec_args=False))
    while (record := _guarded(next, records, None)) is not None:
        budget.spend(record.content_length)
        block = _guarded(record.reader.read, entry.whole_bytes + 1)
        if len(block) < min(record.content_length, entry.whole_bytes):  # fastwarc ends there without a word
            raise _Broken("a record is cut short")
        yield record, block


def _guarded(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    try:
        return call(*arguments, **named)
    except (KeyboardInterrupt, SystemExit, Bomb):
        raise
    except BaseException as error:  # what panics in Rust is no Exception
        raise _Broken(str(error)) from error


def _page(entry: Entry, number: int, record: Any, block: bytes) -> Raw | Dropped:
    """The page that a record holds, of the kinds that hold text."""
    url, told = record.headers.get("WARC-Target-URI"), record.headers.get("Content-Type")
    charset, status = None, 200
    try:
        _guarded(record.set_bytes_content, _with_whole_line_ends(block) if record.is_http else block)
        if record.is_http:
            _guarded(record.parse_http, auto_decode="transfer")
            told, charset, status = record.http_content_type, record.http_charset, record.http_headers.status_code
        content = _guarded(record.reader.read, entry.whole_bytes + 1)
        if record.is_http and (record.http_headers.get("Content-Encoding") or "").lower() in PACKED:
            with suppress(zlib.error):  # some servers say so and do not do it
                content = zlib.decompressobj(wbits=47).decompress(content, entry.whole_bytes + 1)  # 47: gzip or zlib, as it begins
    except _Broken as error:
        return entry.dropped("broken_warc", f"{url}: {error}", number, len(block))
    kind = page_kind(told, content)
    reason = "fetch_failed" if status and not 200 <= status < 300 else "binary" if kind is None else None
    if kind is not None and len(content) > (entry.whole_bytes if kind == "pdf" else entry.settings.max_document_bytes):
        reason = "too_large"
    if kind is None or reason:
        return entry.dropped(reason or "binary", f"{url}: {status} {told}", number, len(block))
    known = {"url": url, "date": record.headers.get("WARC-Date"), "charset": charset}
    return entry.raw(number, content, kind, len(block), **{name: value for name, value in known.items() if value})


def _with_whole_line_ends(block: bytes) -> bytes:
    """The same answer of a server, with the line ends that HTTP asks for in its header: others are read past its end."""
    head, end, body = *block[:HEAD_BYTES].partition(b"\n\n")[:2], block
    if not end or b"\r\n\r\n" in head:
        return block
    return head.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n\r\n" + body[len(head) + 2 :]


def page_kind(told: str | None, content: bytes) -> str | None:
    """The kind that a Content-Type names, or what it looks like where there is none; None = nothing with text in it."""
    if told:
        return KINDS.get(told.partition(";")[0].strip().lower())
    found = kind_of("", content[:HEAD_BYTES])[0]
    return found if found in KINDS.values() else None
