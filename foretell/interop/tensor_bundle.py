"""TensorFlow's checkpoints (tensor bundles) without TensorFlow: an index of names, and shards of plain numbers.

Source: TensorFlow's table format (LevelDB's) and tensor_bundle.proto. Whatever a file says of lengths and places is compared
with what is there before it is used, and the checksums of the index and of every tensor are verified.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.base.errors import ModelError

MAGIC, FOOTER_BYTES, TRAILER_BYTES = 0xDB4775248B80FB57, 48, 5
LARGEST_INDEX, LONGEST_NAME, MOST_TENSORS, MOST_AXES = 2**26, 2**10, 2**16, 8  # GPT-2's index has 20 kB and 580 names
DTYPES = {1: torch.float32, 2: torch.float64, 14: torch.bfloat16, 19: torch.float16}  # the numbers of types.proto
CURE = "copy all files of the release again; partitioned or compressed checkpoints must be saved anew as plain ones"
POLYNOMIAL = 0x82F63B78  # Castagnoli's, its bits reversed
START = b"Td\x1fd"  # after these a CRC that began at 0 stands at 0xFFFFFFFF, where CRC-32C begins
BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: `size` bytes from `start` on in a shard. dtype: None for what is no floating-point number."""

    dtype: torch.dtype | None
    shape: tuple[int, ...]
    shard: int
    start: int
    size: int
    checksum: int


class TensorBundle:
    """A checkpoint: `entries` by their names in the graph, and their tensors."""

    def __init__(self, prefix: Path) -> None:
        """prefix: the checkpoint's path without `.index`. Raises ModelError naming the file that is missing or damaged."""
        self._prefix, sizes = prefix, dict[Path, int]()
        index = prefix.with_name(f"{prefix.name}.index")
        with damage(index):
            if index.stat().st_size > LARGEST_INDEX:
                raise ValueError("the index is too large to be one")
            self._shards, self.entries = _read_index(index.read_bytes())
        for name, entry in self.entries.items():
            with damage(path := self._path(entry)):
                sizes[path] = sizes.get(path) or path.stat().st_size
                if entry.start + entry.size > sizes[path]:
                    raise ValueError(f"{name} lies beyond the file's end")

    def read(self, name: str) -> Tensor:
        """A tensor, its checksum verified: a view of a memory map; writing to it never changes the file. Raises ModelError."""
        entry, path = self.entries[name], self._path(self.entries[name])
        with damage(path):
            if entry.dtype is None:
                raise ValueError(f"{name} holds no floating-point numbers")
            content = np.memmap(path, np.uint8, "c", entry.start, (entry.size,))
            if _masked(_crc32c(content)) != entry.checksum:
                raise ValueError(f"the checksum of {name} differs")
        aligned = content.copy() if entry.start % entry.dtype.itemsize else content
        return torch.from_numpy(aligned).view(entry.dtype).reshape(entry.shape)

    def _path(self, entry: Entry) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}.data-{entry.shard:05d}-of-{self._shards:05d}")


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into an error for the user."""
    try:
        yield
    except (ValueError, OSError) as error:
        what = f"{path.name} is missing" if isinstance(error, FileNotFoundError) else f"the checkpoint cannot be read: {error}"
        raise ModelError(what, where=str(path), cure=CURE) from error


def _read_index(data: bytes) -> tuple[int, dict[str, Entry]]:
    """How many shards there are, and the entries. Raises ValueError."""
    footer = _cut(data, len(data) - FOOTER_BYTES, FOOTER_BYTES)
    if int.from_bytes(footer[-8:], "little") != MAGIC:
        raise ValueError("this is no index of a TensorFlow checkpoint, or it was cut off")
    _, at = _varint(footer, 0)  # the index of blocks follows that of metadata, which is empty
    _, at = _varint(footer, at)
    pairs = (pair for _, handle in _block(data, footer[at:]) for pair in _block(data, handle))
    last, value = next(pairs)
    header, entries = _message(value), dict[str, Entry]()
    shards = header.get((1, int), [0])[-1]
    if last or not shards or header.get((2, int), [0])[-1]:  # it comes first, under the empty name
        raise ValueError("the index has no header, or one of big-endian numbers, which are not supported")
    for key, value in pairs:
        if key <= last or len(entries) == MOST_TENSORS:
            raise ValueError("its names are too many, or occur twice")
        last, name = key, key.decode("utf-8", "backslashreplace")
        entries[name] = _entry(name, value, shards)
    return shards, entries


def _entry(name: str, value: bytes, shards: int) -> Entry:
    """One BundleEntryProto, its parts consistent with each other."""
    fields = _message(value)
    if (7, bytes) in fields or not name.isprintable():  # the parts lie under names that are not text
        raise ValueError("it has partitioned variables, which are not supported")
    kind, shard, start, size, checksum = (fields.get((field, int), [0])[-1] for field in (1, 3, 4, 5, 6))
    axes = (axis for shape in fields.get((2, bytes), []) for axis in _message(shape).get((2, bytes), []))
    shape, dtype = tuple(_message(axis).get((1, int), [0])[-1] for axis in axes), DTYPES.get(kind)
    if dtype and (len(shape) > MOST_AXES or not size or math.prod(shape) * dtype.itemsize != size):
        raise ValueError(f"the shape {list(shape)[:MOST_AXES]} of {name} does not fit its {size:,} bytes")
    if shard >= shards:
        raise ValueError(f"{name} lies in shard {shard}, and there are {shards}")
    return Entry(dtype, shape, shard, start, size, checksum)


def _block(data: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block: each key is stored as what differs from the one before. handle: start and size."""
    start, at = _varint(handle, 0)
    size, _ = _varint(handle, at)
    block = _cut(data, start, size + TRAILER_BYTES)
    if _masked(_crc32c(block[: size + 1])) != int.from_bytes(block[size + 1 :], "little"):
        raise ValueError("the checksum of the index differs")
    if block[size]:
        raise ValueError("its index is compressed, which is not supported")
    end = size - 4 * (1 + int.from_bytes(_cut(block, size - 4, 4), "little"))  # places to start a search fill the rest
    if end <= 0:
        raise ValueError("a block of the index is empty or misstates its length")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or shared + own > LONGEST_NAME or at + own + length > end:
            raise ValueError("a name in the index misstates its length")
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def _message(data: bytes) -> dict[tuple[int, type], list[Any]]:
    """A protocol buffer's values by field and by what they are: numbers, or bytes for text and messages."""
    fields, at = dict[tuple[int, type], list[Any]](), 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = divmod(tag, 8)
        value, at = _varint(data, at) if kind in (0, 2) else (0, at)
        if kind not in (0, 1, 2, 5):
            raise ValueError("an entry of the index is damaged")
        content = _cut(data, at, {0: 0, 1: 8, 2: value, 5: 4}[kind])
        read = content if kind == 2 else int.from_bytes(content, "little") if kind else value
        fields.setdefault((number, type(read)), []).append(read)
        at += len(content)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    number = 0
    for place, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, at + place + 1
    raise ValueError("a number in the index is cut off")


def _cut(data: bytes, start: int, size: int) -> bytes:
    if start < 0 or size < 0 or start + size > len(data):
        raise ValueError("it was cut off")
    return data[start : start + size]


def _masked(checksum: int) -> int:
    """A CRC as these files store it, so that a CRC of text with CRCs in it stays a good one."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c(data: bytes | NDArray[np.uint8]) -> int:
    """The CRC-32C of bytes, some hundred MB a second: a word of every row at a time, and the rows then joined by twos.

    A CRC is linear: one of a whole is that of its left part, shifted over the right part's length, xor that of the right.
    """
    content = np.frombuffer(data, np.uint8)
    columns = math.isqrt(len(content)) // 4 | 1  # odd, for the sake of the processor's cache
    rows = -(-(len(content) + len(START)) // (2 * columns))
    padded = np.zeros((rows + 32, 2 * columns), np.uint8)  # zeros in front do not count; the last 32 rows find the shift
    flat = padded[:rows].reshape(-1)
    flat[len(flat) - len(content) :] = content
    flat[len(flat) - len(content) - len(START) :][: len(START)] = np.frombuffer(START, np.uint8)
    table, states = _table(), np.append(np.zeros(rows, np.uint32), BITS)
    for words in padded.view("<u2").T:
        states = table[(states ^ words) & 0xFFFF] ^ states >> 16
    states, shifts = states[:rows], states[rows:]  # (32,) what becomes of each bit
    while len(states) > 1:
        states = np.append(np.zeros(len(states) % 2, np.uint32), states)
        left, shifts = (np.bitwise_xor.reduce((part[:, None] & BITS > 0) * shifts, axis=1) for part in (states[::2], shifts))
        states = left ^ states[1::2]
    return int(states[0]) ^ 0xFFFFFFFF


@cache
def _table() -> NDArray[np.uint32]:
    """What becomes of two bytes: (65536,)."""
    table = np.arange(2**16, dtype=np.uint32)
    for _ in range(16):
        table = table >> np.uint32(1) ^ (table & np.uint32(1)) * np.uint32(POLYNOMIAL)
    return table
