"""Rows of Parquet and Arrow files, and of datasets on the Hugging Face Hub."""

import logging
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from foretell.base.errors import ForetellError, SettingError, first_line
from foretell.corpus.readers.entry import Entry, Records, Slice
from foretell.corpus.readers.tables import row_record, text_column

BATCH_BYTES, BATCH_ROWS = 2**22, 1024
MOST_PIECES = 1000  # of a row group, whatever its header says of its size


def read_columns(entry: Entry, kind: str, source: Path | BinaryIO, part: Slice | None) -> Records:
    """A record for each row. What comes after damage is one `broken_table`."""
    arrow, number = import_module("pyarrow"), part.start if part else 0
    try:
        for batch in _parquet(source, part) if kind == "parquet" else _arrow(source, part):
            column = text_column(batch.schema.names, entry.settings)
            if column is None:
                if not number:  # said once for all slices
                    yield entry.dropped("no_text_column", f"columns: {', '.join(batch.schema.names)}")
                return
            for row in _rows(batch, column):
                number += 1
                yield from row_record(entry, number, row, column)
    except (arrow.ArrowException, OSError, ValueError, TypeError, LookupError, RuntimeError, MemoryError, OverflowError) as error:
        yield entry.dropped("broken_table", str(error), size_bytes=entry.size_bytes if not number else 0)


def slices_of_columns(kind: str, path: Path, target_bytes: int) -> list[Slice]:
    """Groups of row groups or record batches; a row group of several times `target_bytes` is cut by rows."""
    found: list[Slice] = []
    first = stop = size_bytes = 0
    for rows, group_bytes in _groups(kind, path):
        pieces = max(
            1, min(rows, MOST_PIECES, group_bytes // (4 * target_bytes))
        )  # rows before a slice have to be decoded for it too
        for piece in range(pieces):
            stop += rows * (piece + 1) // pieces - rows * piece // pieces
            size_bytes += group_bytes // pieces
            if size_bytes >= target_bytes:
                found.append(Slice(first, stop, first + 1))
                first, size_bytes = stop, 0
    return [*found, Slice(first, stop, first + 1)] if stop > first else found


def _groups(kind: str, path: Path) -> Iterator[tuple[int, int]]:
    """Rows and bytes of each row group or record batch."""
    if kind == "parquet":
        with import_module("pyarrow.parquet").ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                group = file.metadata.row_group(index)
                yield group.num_rows, group.total_byte_size
    else:
        for batch in _batches(path):
            yield batch.num_rows, batch.get_total_buffer_size()  # nbytes would follow offsets that nobody has checked


def _parquet(source: Path | BinaryIO, part: Slice | None) -> Iterator[Any]:
    """Batches of few rows of the row groups that hold the part."""
    with import_module("pyarrow.parquet").ParquetFile(source) as file:
        row = 0
        for index in range(file.num_row_groups):
            group = file.metadata.row_group(index)
            start, row = row, row + group.num_rows
            if part is None or (start < part.stop and row > part.start):
                rows = _few(group.num_rows, group.total_byte_size)
                for batch in file.iter_batches(rows, row_groups=[index], use_threads=False):
                    yield _cut(batch, start, part)
                    start += batch.num_rows


def _arrow(source: Path | BinaryIO, part: Slice | None) -> Iterator[Any]:
    row = 0
    for batch in _batches(source):
        if part is None or (row < part.stop and row + batch.num_rows > part.start):
            batch.validate(full=True)  # or offsets out of bounds would be followed
            rows = _few(batch.num_rows, batch.nbytes)
            for start in range(0, batch.num_rows, rows):
                yield _cut(batch.slice(start, rows), row + start, part)
        row += batch.num_rows


def _batches(source: Path | BinaryIO) -> Iterator[Any]:
    """The record batches of an Arrow file or, as `datasets` writes it, stream; they are mapped, not read."""
    arrow = import_module("pyarrow")
    with arrow.memory_map(str(source)) if isinstance(source, Path) else arrow.PythonFile(source) as file:
        head = file.read(6)
        file.seek(0)
        if head[:4] == b"FEA1":
            yield from import_module("pyarrow.feather").read_table(file).to_batches()
        elif head == b"ARROW1":
            reader = arrow.ipc.open_file(file)
            yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            yield from arrow.ipc.open_stream(file)


def _few(rows: int, size_bytes: int) -> int:
    """So many rows hold some BATCH_BYTES, if they are alike."""
    return max(1, min(BATCH_ROWS, BATCH_BYTES * rows // max(1, size_bytes)))


def _cut(batch: Any, start: int, part: Slice | None) -> Any:
    """What of a batch, whose first row is `start`, belongs to the part."""
    if part is None:
        return batch
    first = max(0, part.start - start)
    return batch.slice(first, max(0, part.stop - start - first))


def _rows(batch: Any, text: str) -> Iterator[dict[str, Any]]:
    """The rows as Python has them, without columns of bytes other than the text."""
    arrow, types = import_module("pyarrow"), import_module("pyarrow.types")
    names, columns = [], []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if types.is_timestamp(column.type):
            column = column.cast(arrow.timestamp("us"), safe=False)
        if name == text or not (types.is_binary(column.type) or types.is_large_binary(column.type)):
            names.append(name)
            try:
                columns.append(column.to_pylist())
            except UnicodeDecodeError:  # Parquet files may hold any bytes as text
                columns.append(column.cast("large_string", safe=False).view("large_binary").to_pylist())
    return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def _datasets() -> ModuleType:
    try:
        return import_module("datasets")
    except ImportError as error:
        raise SettingError("hf: needs the package datasets", where="SOURCE", cure='pip install "foretell[datasets]"') from error


def read_hub(entry: Entry) -> Records:
    """A dataset of the Hub, `hf:owner/name[/config][:split]`, as it streams in. Raises SettingError where it never begins."""
    told, _, split = entry.label.removeprefix("hf:").partition(":")
    owner, name, *config = told.split("/", 2)
    datasets, number = _datasets(), 0
    for library in ("datasets", "huggingface_hub"):  # which tell each try
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        rows = datasets.load_dataset(f"{owner}/{name}", *config, split=split or "train", streaming=True)
        for number, row in enumerate(rows, start=1):
            column = text_column(list(row), entry.settings)
            if column is None:
                yield entry.dropped("no_text_column", f"columns: {', '.join(row)}")
                return
            yield from row_record(entry, number, dict(row), column)
    except ForetellError:
        raise
    except Exception as error:  # whatever the library and what it stands on raise
        if not number:
            cure = "check the name, the configuration and the split, and the network"
            raise SettingError(f"this dataset cannot be opened: {first_line(error)}", where=entry.label, cure=cure) from error
        yield entry.dropped("fetch_failed", first_line(error))
