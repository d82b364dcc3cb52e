"""All records of a file, or of a part of it, as a stream of bounded memory. What is damaged is dropped, and the rest goes on."""

import io
from dataclasses import replace
from pathlib import Path
from typing import cast

from foretell.base.errors import ForetellError
from foretell.corpus.config import CorpusSettings
from foretell.corpus.readers import archives, text
from foretell.corpus.readers.columns import read_columns, read_hub, slices_of_columns
from foretell.corpus.readers.database import read_sqlite
from foretell.corpus.readers.entry import BUFFER_BYTES, HEAD_BYTES, Bomb, Entry, Records, Slice, as_utf8
from foretell.corpus.readers.fetch import read_urls
from foretell.corpus.readers.formats import COMPRESSED, LINES, encoding_of, inner_name, kind_of, language_of_code
from foretell.corpus.readers.tables import read_csv
from foretell.corpus.readers.web import read_warc
from foretell.corpus.sources import SourceFile

COLUMNS, WHOLE = {"parquet", "arrow"}, {"html", "xml", "pdf", "docx", "epub", "email"}
ARCHIVES, SEEKING = COMPRESSED | {"zip", "tar"}, COMPRESSED | COLUMNS | {"sqlite", "zip", "warc"}
RECODED = LINES | {"json", "csv", "tsv", "urls"}  # pages and messages say their encoding themselves
MAX_DEPTH = 2  # an archive, and one within it


def records(file: SourceFile, settings: CorpusSettings, part: Slice | None = None) -> Records:
    """The records of a file, or of one of its slices, in order. Raises SettingError for a wrong query and missing packages."""
    entry = Entry(file.name, file.label, io.BytesIO(), file.bytes, settings)
    if file.reason is not None:
        yield file.dropped(file.reason, size_bytes=part.bytes if part else None)
    elif file.remote:
        yield from read_hub(entry)
    else:
        try:
            with file.path.open("rb", BUFFER_BYTES) as stream:
                yield from _read(replace(entry, stream=stream), part, file.path)
        except OSError as error:
            yield file.dropped("unreadable", str(error))
        except Bomb:
            yield file.dropped("gzip_bomb")


def slices(file: SourceFile, settings: CorpusSettings, target_bytes: int) -> list[Slice] | None:
    """How a file can be read in parts of some `target_bytes`; None = only as one stream."""
    if file.reason is not None or file.remote or not file.bytes:
        return None
    try:
        with file.path.open("rb", BUFFER_BYTES) as stream:
            head = cast(io.BufferedReader, stream).peek(HEAD_BYTES)[:HEAD_BYTES]
            kind, _ = kind_of(file.name, head)
            if kind in LINES and encoding_of(head) is not None:
                return None
            if kind in WHOLE or (kind in LINES and file.bytes <= target_bytes):
                return [Slice(0, file.bytes)]
            if kind == "jsonl":
                return text.slices_of_lines(stream, target_bytes)
            if kind in LINES:
                return text.slices_of_text(stream, settings.max_document_bytes, target_bytes)
            return (slices_of_columns(kind, file.path, target_bytes) or None) if kind in COLUMNS else None
    except ForetellError:
        raise
    except Exception:  # reading it will tell why
        return None


def _read(entry: Entry, part: Slice | None = None, path: Path | None = None) -> Records:
    """The records of a file or member, whatever it is."""
    head = entry.head
    name = entry.called or entry.name
    kind, named = kind_of(name, head) if head else ("empty", None)
    if kind == "lz4" or (kind in COMPRESSED and inner_name(name).lower().endswith((".warc", ".wet"))):
        kind = "warc"  # whose reader unpacks it record by record
    if named:
        entry.metadata["named"] = named
    if kind in {"empty", "binary", "wrong_format"}:
        yield entry.dropped(kind)
    elif kind in ARCHIVES and entry.depth >= MAX_DEPTH:
        yield entry.dropped("nested_too_deep")
    elif kind in SEEKING:
        with archives.seekable(entry) as whole:
            yield from _read_again(whole, kind, part, path)
    else:
        if kind in RECODED and (encoding := encoding_of(head)):
            entry = replace(entry, stream=as_utf8(entry.stream, encoding), metadata={**entry.metadata, "encoding": encoding})
        elif part and kind in LINES:
            entry.stream.seek(part.start)
        yield from _read_once(entry, kind, part)


def _read_again(entry: Entry, kind: str, part: Slice | None, path: Path | None) -> Records:
    """The records of what is not read from its beginning to its end alone."""
    if kind in COLUMNS:
        return read_columns(entry, kind, path or entry.stream, part)
    if kind == "sqlite":
        return read_sqlite(entry, path)
    if kind == "warc":
        return read_warc(entry)
    return archives.read_zip(entry, _read) if kind == "zip" else archives.read_compressed(entry, kind, _read)


def _read_once(entry: Entry, kind: str, part: Slice | None) -> Records:
    """The records of what streams by."""
    if kind in WHOLE:
        return text.read_whole(entry, kind)
    if kind in {"csv", "tsv"}:
        return read_csv(entry, kind)
    if kind == "tar":
        return archives.read_tar(entry, _read)
    if kind == "jsonl":
        return text.read_json_lines(entry, part)
    if kind == "code":
        entry.metadata["language_of_code"] = language_of_code(entry.called or entry.name)
    if kind in LINES:
        return text.read_running(entry, kind, part)
    return {"json": text.read_json, "mbox": text.read_mbox, "urls": read_urls}[kind](entry)
