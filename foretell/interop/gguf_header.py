"""The header of a GGUF file, read as a stranger's: every count and size is held against the file before anything is made of it."""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from foretell.base.errors import ModelError

T = TypeVar("T")

NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
TEXT, ARRAY = 8, 9  # the types of values that are no numbers
MOST = 65_536  # tensors, and as many values; published models have some 2,000 and 60
READABLE = ["F32", "F16", "BF16", "Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"]
WHOLE = "fetch the file again from its source: it is damaged or was cut off"


@dataclass(frozen=True)
class Entry:
    """A tensor's place in the file. shape: rows first, as torch has it. kind: how GGML calls its type. start, size: bytes."""

    shape: tuple[int, ...]
    kind: str
    start: int
    size: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself, and its bytes (mapped, not read)."""

    metadata: dict[str, Any]
    entries: dict[str, Entry]
    data: NDArray[np.uint8]
    where: str

    def optional(self, key: str, kind: type[T]) -> T | None:
        """A value of the metadata, if it is there. Raises ModelError when it is of another type."""
        value = self.metadata.get(key)
        if value is not None and type(value) is not kind:
            raise ModelError(f"{key} is of type {type(value).__name__}, not {kind.__name__}", where=self.where, cure=WHOLE)
        return value

    def required(self, key: str, kind: type[T]) -> T:
        """A value of the metadata that must be there. Raises ModelError."""
        if (value := self.optional(key, kind)) is None:
            raise ModelError(f"the metadata lack {key}", where=self.where, cure="convert the model to GGUF again from its source")
        return value

    def values(self, name: str) -> NDArray[np.float32]:
        """A tensor as fp32, dequantised: a copy of its own."""
        library, entry = gguf_library(self.where), self.entries[name]
        rows = self.data[entry.start : entry.start + entry.size].reshape(math.prod(entry.shape[:-1]), -1)
        with np.errstate(all="ignore"):  # whatever the bits of a stranger's scales are
            values = library.quants.dequantize(rows, library.GGMLQuantizationType[entry.kind])
        return np.array(values, np.float32).reshape(entry.shape)


def gguf_library(where: str) -> Any:
    """The library of GGUF's constants, quantisation and writer. Raises ModelError where it is not installed."""
    try:
        import gguf
        import gguf.quants
    except ImportError as error:
        cure = "pip install gguf"
        raise ModelError("GGUF files need the package gguf, which is not installed", where=where, cure=cure) from error
    return gguf


def read_header(path: Path) -> Header:
    """Read the header of a little-endian GGUF file of version 2 or 3. Raises ModelError naming the byte where it is wrong."""
    try:
        data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    except OSError as error:
        raise ModelError(
            f"cannot read the file: {error.strerror}", where=str(path), cure="give the path of a .gguf file"
        ) from error
    reader = _Reader(data, str(path))
    if bytes(reader.take(4)) != b"GGUF":
        raise reader.refusal("this is no GGUF file", "give a file whose first four bytes are GGUF")
    if (version := reader.whole(4)) not in (2, 3):
        found = f"version {version}" if version < 2**16 else "big-endian"
        raise reader.refusal(f"this GGUF file is {found}", "convert the model again: version 2 and 3, little-endian, are read")
    tensors, values = reader.whole(), reader.whole()
    if max(tensors, values) > MOST:
        raise reader.refusal(f"the file claims {tensors} tensors and {values} values of metadata, more than {MOST}")
    metadata: dict[str, Any] = {}
    for _ in range(values):
        if (key := reader.text()) in metadata:
            raise reader.refusal(f"the metadata have {key} twice")
        metadata[key] = reader.value()
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= 2**16 or alignment & (alignment - 1):
        raise reader.refusal(f"general.alignment is {alignment}, no power of two from 8 to 65536")
    relative: dict[str, Entry] = {}
    for _ in range(tensors):
        if (name := reader.text()) in relative:
            raise reader.refusal(f"the tensor {name} is there twice")
        relative[name] = reader.entry(name, alignment)
    first = -(-reader.at // alignment) * alignment
    entries = {name: Entry(entry.shape, entry.kind, first + entry.start, entry.size) for name, entry in relative.items()}
    by_place = sorted(entries.items(), key=lambda item: item[1].start)
    for name, entry in by_place[-1:]:
        if entry.start + entry.size > len(data):
            raise reader.refusal(f"the tensor {name} ends at byte {entry.start + entry.size} of a file of {len(data)}")
    for (name, entry), (other, after) in pairwise(by_place):
        if entry.start + entry.size > after.start:
            raise reader.refusal(f"the tensors {name} and {other} overlap")
    return Header(metadata, entries, data, str(path))


class _Reader:
    """Walks through the bytes; nothing is taken that is not there."""

    def __init__(self, data: NDArray[np.uint8], where: str) -> None:
        self.data, self.where, self.at, self.kinds = data.data, where, 0, gguf_library(where).constants

    def refusal(self, what: str, cure: str = WHOLE) -> ModelError:
        return ModelError(what, where=f"{self.where}, byte {self.at}", cure=cure)

    def take(self, count: int, size: int = 1) -> memoryview:
        if count > (left := len(self.data) - self.at) // size:
            raise self.refusal(f"the file says that {count} × {size} bytes follow, and {left} do")
        self.at += count * size
        return self.data[self.at - count * size : self.at]

    def whole(self, size: int = 8) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        try:
            return str(self.take(self.whole()), "utf-8")
        except UnicodeDecodeError as error:
            raise self.refusal("a text is not UTF-8") from error

    def value(self) -> Any:
        """A number, a text, an array of numbers (numpy, a view of the file) or a list of texts."""
        count, kind = None, self.whole(4)
        if kind == ARRAY:
            kind, count = self.whole(4), self.whole()
        if kind == TEXT:
            return self.text() if count is None else [self.text() for _ in range(count)]
        if kind not in NUMBERS:
            what = "an array of arrays is not supported" if kind == ARRAY else f"the metadata have a value of unknown type {kind}"
            raise self.refusal(what)
        number = np.dtype(NUMBERS[kind])
        values = np.frombuffer(self.take(1 if count is None else count, number.itemsize), number)
        if count is not None:
            return values
        return float(str(values[0])) if number == np.float32 else values[0].item()  # 1e-05, not 9.99999974e-06

    def entry(self, name: str, alignment: int) -> Entry:
        """A tensor's entry, its start counted from the first tensor."""
        if not 1 <= (dimensions := self.whole(4)) <= 4:
            raise self.refusal(f"the tensor {name} has {dimensions} dimensions, not 1 to 4")
        shape = tuple(self.whole() for _ in range(dimensions))[::-1]
        kinds, kind, start = self.kinds.GGMLQuantizationType, self.whole(4), self.whole()
        called = kinds(kind).name if kind in kinds.__members__.values() else f"type {kind}"
        if called not in READABLE:
            raise self.refusal(f"the tensor {name} is stored as {called}", f"convert the model to one of: {', '.join(READABLE)}")
        block, block_bytes = self.kinds.GGML_QUANT_SIZES[kinds(kind)]
        size = math.prod(shape) // block * block_bytes
        if min(shape) < 1 or shape[-1] % block or start % alignment or size > len(self.data):
            raise self.refusal(f"the tensor {name} of shape {list(shape)}, {called}, at {start} does not fit this file")
        return Entry(shape, called, start, size)
