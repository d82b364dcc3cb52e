"""One JSON object a line: plain, gzipped or Zstandard files, read and written as streams."""

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from foretell.base.errors import DataError
from foretell.base.files import atomic_path

Record = dict[str, Any]


def dump(record: Any, *, indent: int | None = None) -> str:
    """JSON text of a value, with letters as they are and NaN refused."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False, indent=indent)


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write records to a `.jsonl` or `.jsonl.zst` file atomically; return how many."""
    count = 0
    with atomic_path(path) as partial, partial.open("wb") as raw:
        stream = zstandard.ZstdCompressor(level=3).stream_writer(raw, closefd=False) if path.suffix == ".zst" else raw
        for record in records:
            stream.write(dump(record).encode("utf-8", "surrogatepass") + b"\n")
            count += 1
        if stream is not raw:
            stream.close()
    return count


def read_records(path: Path) -> Iterator[Record]:
    """Read a file that `write_records` wrote. Raises DataError when it is damaged."""
    try:
        with path.open("rb") as raw:
            binary = zstandard.ZstdDecompressor().stream_reader(raw) if path.suffix == ".zst" else raw
            for line in io.TextIOWrapper(binary, encoding="utf-8", errors="surrogatepass", newline="\n"):
                yield json.loads(line)
    except (OSError, zstandard.ZstdError, ValueError) as error:
        raise DataError(f"cannot read these records: {error}", where=str(path), cure="build the folder again") from error


def read_json(path: Path) -> Any:
    """Read one JSON file that must be there and whole. Raises DataError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path.name} is missing", where=str(path.parent), cure="check that this is the right folder") from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read this JSON file: {error}", where=str(path), cure="restore or rebuild the file") from error
