"""JSON: whole files, and Zstandard files of one object a line, read as streams."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from foretell.base.errors import DataError
from foretell.base.files import read_text


def dump(record: Any, *, indent: int | None = None) -> str:
    """JSON text of a value, with letters as they are and NaN refused."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False, indent=indent)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a `.jsonl.zst` file. Raises DataError when it is damaged."""
    try:
        with path.open("rb") as raw:
            stream, rest = zstandard.ZstdDecompressor().decompressobj(), b""
            while block := raw.read(2**20):
                *lines, rest = (rest + stream.decompress(block)).split(b"\n")
                yield from map(json.loads, lines)
        if not stream.eof:
            raise ValueError("it was cut off")
    except (OSError, zstandard.ZstdError, ValueError) as error:
        raise DataError(f"cannot read these records: {error}", where=str(path), cure="build the folder again") from error


def read_json(path: Path) -> Any:
    """Read one JSON file that must be there and whole. Raises DataError."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"cannot read this JSON file: {error}", where=str(path), cure="restore or rebuild the file") from error
