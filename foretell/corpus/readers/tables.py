"""What all tables share, and the rows of CSV files."""

import csv
import math
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast

from foretell.corpus.config import CorpusSettings
from foretell.corpus.readers.entry import TEXT_FIELDS, Entry, Records
from foretell.corpus.readers.text import CHUNK_BYTES, lines

DELIMITERS = ",;\t|"


def text_column(names: Sequence[str], settings: CorpusSettings) -> str | None:
    """The column that holds the text: the one that was named, else one of the usual names."""
    return next((name for name in (settings.text_field, *TEXT_FIELDS) if name in names), None)


def row_record(entry: Entry, number: int, row: dict[str, Any], column: str, size_bytes: int | None = None) -> Records:
    """The record of a row: its text, and the other columns as far as JSON has them."""
    text = row.pop(column)
    if isinstance(text, str):
        text = _undecoded(text)
    if not isinstance(text, str | bytes) or not text:
        yield entry.dropped("no_text_field" if text else "empty", repr(text)[:240] if text else "", number, size_bytes or 0)
    elif len(text) > entry.settings.max_document_bytes:
        yield entry.dropped("too_large", str(text[:240]), number, size_bytes or len(text))
    else:
        fields = {name: told for name, value in row.items() if (told := _json_value(value)) is not None}
        yield entry.raw(number, text, "row", size_bytes, text_field=column, fields=fields)


def _undecoded(text: str) -> str | bytes:
    """The bytes again where they were no UTF-8, so that their encoding is found where that of all texts is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")
    return text


def _json_value(value: Any) -> Any:
    """The value as JSON has it, or None."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(name): _json_value(inner) for name, inner in value.items()}
    return [_json_value(inner) for inner in value] if isinstance(value, list) else None


class _Unclosed(Exception):
    """A row goes on at the end of the file, or beyond what a document may hold."""


def read_csv(entry: Entry, kind: str) -> Records:
    """A record for each row; a quote that nothing closes costs its own line alone. Most rows broken is one `broken_table` more."""
    head = entry.head.decode("utf-8", "replace").partition("\n")[0]
    delimiter = "\t" if kind == "tsv" else max(DELIMITERS, key=head.count)
    entry.metadata["delimiter"] = delimiter
    csv.field_size_limit(max(csv.field_size_limit(), entry.settings.max_document_bytes))
    table = _Rows(entry, delimiter)
    rows, broken, kept = iter(table), 0, 0
    header = [str(_json_value(name)) for name in next(rows, None) or []]
    column = text_column(header, entry.settings)
    if column is None:
        yield entry.dropped("no_text_column", f"columns: {', '.join(header)}")
        return
    for number, row in enumerate(rows, start=1):
        if row is not None and len(row) == len(header):
            kept += 1
            yield from row_record(entry, number, dict(zip(header, row, strict=True)), column, table.size_bytes)
        elif row != []:  # a blank line
            broken += table.reason == "broken_row"
            yield entry.dropped(table.reason, table.told, number, table.size_bytes)
    if broken > kept:
        yield entry.dropped("broken_table", f"{broken} broken rows, {kept} whole ones", size_bytes=0)


class _Rows:
    """The rows of a CSV file; None for one that cannot be had, with its `reason`. size_bytes: of the row as it lies there."""

    def __init__(self, entry: Entry, delimiter: str) -> None:
        self.stream, self.limit, self.delimiter = entry.stream, entry.settings.max_document_bytes, delimiter
        self.reason, self.size_bytes = "broken_row", 0
        self._row: list[bytes] = []

    @property
    def told(self) -> str:
        """The beginning of the row."""
        return self._row[0][:240].decode("utf-8", "replace")

    def __iter__(self) -> Iterator[list[str] | None]:
        reader = csv.reader(self._text(), delimiter=self.delimiter)
        while True:
            self._row, self.size_bytes, self.reason = [], 0, "broken_row"
            try:
                yield next(reader)
                continue
            except StopIteration:
                return
            except csv.Error:
                yield None
            except _Unclosed:
                with SpooledTemporaryFile(self.limit) as rest:
                    if self._has_end(cast(BinaryIO, rest)):
                        self.reason = "too_large"
                        yield None
                    else:
                        self.size_bytes = len(self._row[0])
                        yield None
                        rest.seek(0)
                        yield from self._line_by_line(cast(BinaryIO, rest))
            reader = csv.reader(self._text(), delimiter=self.delimiter)

    def _text(self) -> Iterator[str]:
        """The lines as csv wants them, while they can belong to a row."""
        while line := self.stream.readline(self.limit + 1):
            self._row.append(line)
            self.size_bytes += len(line)
            if self.size_bytes > self.limit:
                raise _Unclosed
            yield _decoded(line)
        if self._row:
            raise _Unclosed

    def _has_end(self, rest: BinaryIO) -> bool:
        """Read on to the end of a large row, by the parity of its quotes; `rest` gets what follows its first line."""
        rest.writelines(self._row[1:])
        inside, line = sum(line.count(b'"') for line in self._row) % 2, self._row[-1]
        while line and (inside or not line.endswith(b"\n")):
            line = self.stream.readline(CHUNK_BYTES)
            rest.write(line)
            self.size_bytes += len(line)
            inside ^= line.count(b'"') % 2
        return not inside and self.size_bytes > self.limit

    def _line_by_line(self, rest: BinaryIO) -> Iterator[list[str] | None]:
        """The rows after a quote that nothing closes: none of them has several lines."""
        for line, size_bytes in lines(rest, self.limit):
            self._row, self.size_bytes = [line], size_bytes
            try:
                yield next(csv.reader([_decoded(line)], delimiter=self.delimiter)) if size_bytes == len(line) else None
            except csv.Error:
                yield None


def _decoded(line: bytes) -> str:
    return line.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
