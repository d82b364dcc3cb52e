"""JSON: whole files, and Zstandard files of one object a line, read as streams."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from foretell.base.errors import DataError
from foretell.base.files import read_text

STEP_BYTES = 2**10  # of which at most 32 MB come out


def dump(record: Any, *, indent: int | None = None) -> str:
    """JSON text of a value, with letters as they are and NaN refused."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False, indent=indent)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a `.jsonl.zst` file. Raises DataError when it is damaged."""
    try:
        with path.open("rb") as raw:
            rest = bytearray()
            for piece in _pieces(raw):
                rest += piece
                if b"\n" in piece:
                    *lines, rest = rest.split(b"\n")
                    yield from map(json.loads, lines)
            if rest:
                yield json.loads(rest)
    except (OSError, zstandard.ZstdError, ValueError) as error:
        raise DataError(f"cannot read these records: {error}", where=str(path), cure="build the folder again") from error


def _pieces(raw: BinaryIO) -> Iterator[bytes]:
    """What the frames of a Zstandard file hold. Raises ValueError where the last is cut short."""
    stream = zstandard.ZstdDecompressor().decompressobj()
    while block := (stream.unused_data if stream.eof else b"") or raw.read(STEP_BYTES):
        if stream.eof:
            stream = zstandard.ZstdDecompressor().decompressobj()
        yield stream.decompress(block)
    if not stream.eof:
        raise ValueError("it was cut off")


def read_json(path: Path) -> Any:
    """Read one JSON file that must be there and whole. Raises DataError."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"cannot read this JSON file: {error}", where=str(path), cure="restore or rebuild the file") from error
