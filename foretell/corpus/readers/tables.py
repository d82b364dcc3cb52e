"""What all tables share, and the rows of CSV files."""

import csv
import math
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from typing import Any

from foretell.corpus.config import CorpusSettings
from foretell.corpus.readers.entry import TEXT_FIELDS, Entry, Records
from foretell.corpus.readers.text import lines

ROW_LINES, UNCLOSED_ROWS = 1000, 1000  # more lines in a row are an unclosed quote; more such rows are no table
DELIMITERS = ",;\t|"


def text_column(names: Sequence[str], settings: CorpusSettings) -> str | None:
    """The column that holds the text."""
    wanted = [settings.text_field] if settings.text_field else TEXT_FIELDS
    return next((name for name in wanted if name in names), None)


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
    """A row that has no end."""


def read_csv(entry: Entry, kind: str) -> Records:
    """A record for each row; a row without an end costs its first line alone."""
    head = entry.head.decode("utf-8", "replace").partition("\n")[0]
    delimiter = "\t" if kind == "tsv" else max(DELIMITERS, key=head.count)
    entry.metadata["delimiter"] = delimiter
    csv.field_size_limit(max(csv.field_size_limit(), entry.settings.max_document_bytes))
    rows = _Rows(entry, delimiter)
    header = [str(_json_value(name)) for name in next(iter(rows), None) or []]
    column = text_column(header, entry.settings)
    if column is None:
        yield entry.dropped("no_text_field", f"columns: {', '.join(header)}")
        return
    unclosed = 0
    for number, row in enumerate(rows, start=1):
        if row is not None and len(row) == len(header):
            yield from row_record(entry, number, dict(zip(header, row, strict=True)), column, rows.size_bytes)
        elif row != []:  # a blank line
            yield entry.dropped("broken_row", rows.told, number, rows.size_bytes)
            unclosed += row is None
            if unclosed > UNCLOSED_ROWS:
                yield entry.dropped("broken_table", rows.told, number + 1, 0)
                return


class _Rows:
    """The rows of a CSV file, None for one without an end; after it reading goes on with the second of its lines."""

    def __init__(self, entry: Entry, delimiter: str) -> None:
        self.entry, self.delimiter, self.size_bytes = entry, delimiter, 0
        self._lines = lines(entry.stream, entry.settings.max_document_bytes)
        self._again: deque[tuple[bytes, int]] = deque()
        self._row: list[tuple[bytes, int]] = []

    @property
    def told(self) -> str:
        """The beginning of the row."""
        return self._row[0][0][:240].decode("utf-8", "replace") if self._row else ""

    def __iter__(self) -> Iterator[list[str] | None]:
        reader = csv.reader(self._text(), delimiter=self.delimiter)
        while True:
            self._row, self.size_bytes = [], 0
            try:
                row = next(reader)
            except StopIteration:
                return
            except (_Unclosed, csv.Error):
                self._again.extendleft(reversed(self._row[1:]))
                self.size_bytes, row, reader = self._row[0][1], None, csv.reader(self._text(), delimiter=self.delimiter)
            yield row

    def _text(self) -> Iterator[str]:
        """The lines as csv wants them, while they can belong to a row."""
        while line := self._again.popleft() if self._again else next(self._lines, None):
            content, size_bytes = line
            self._row.append(line)
            self.size_bytes += size_bytes
            too_long = len(self._row) > ROW_LINES or self.size_bytes > self.entry.settings.max_document_bytes
            if too_long or size_bytes > len(content):
                raise _Unclosed
            yield content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        if self._row:
            raise _Unclosed
