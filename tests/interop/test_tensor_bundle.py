"""Bundles as TensorFlow writes them are read exactly; damaged ones end in one sentence.

data/tensorflow-2.21.* was written by TensorFlow 2.21 (pip install tensorflow-cpu), a part by each of two calls of
tf.raw_ops.SaveV2 and joined by tf.raw_ops.MergeV2Checkpoints; every tensor counts up from -3. The partitioned one is a SaveV2 with
shape_and_slices ["4 2 0,2:0,2", "4 2 2,2:0,2"]. TensorFlow reads what the writer below writes.
"""

import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foretell.base.errors import ModelError
from foretell.interop.tensor_bundle import TensorBundle

DATA = Path(__file__).with_name("data")
NUMBERS = {"float32": 1, "float64": 2, "int64": 9, "float16": 19}
MAGIC = 0xDB4775248B80FB57

Pairs = list[tuple[bytes, bytes]]


def _byte_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [number >> 1 ^ (0x82F63B78 if number & 1 else 0) for number in table]
    return table


BYTES = _byte_table()


def checksum(data: bytes) -> bytes:
    """The masked CRC-32C, byte by byte."""
    state = 0xFFFFFFFF
    for byte in data:
        state = BYTES[(state ^ byte) & 255] ^ state >> 8
    state ^= 0xFFFFFFFF
    return (((state >> 15 | state << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def varint(number: int) -> bytes:
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b""  # zeros are left out, as by TensorFlow


def entry(dtype: int, shape: Sequence[int], shard: int, start: int, size: int, content: bytes, extra: bytes = b"") -> bytes:
    axes = b"".join(field(2, field(1, axis)) for axis in shape)
    place = field(1, dtype) + field(2, axes) + field(3, shard) + field(4, start) + field(5, size)
    return place + varint(6 << 3 | 5) + checksum(content) + extra


def block(pairs: Pairs, interval: int = 16) -> bytes:
    content, restarts, last = b"", [], b""
    for number, (key, value) in enumerate(pairs):
        shared = 0
        if number % interval == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(last), len(key)) and last[shared] == key[shared]:
                shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return content + b"".join(number.to_bytes(4, "little") for number in (*restarts, len(restarts)))


def table(pairs: Pairs, per_block: int = 1000) -> bytes:
    """A table file; blocks hold per_block pairs each."""
    data, index = b"", []
    for start in range(0, len(pairs), per_block):
        part = block(pairs[start : start + per_block])
        index.append((pairs[start : start + per_block][-1][0], varint(len(data)) + varint(len(part))))
        data += part + b"\0" + checksum(part + b"\0")
    handles = b""
    for part in (block([]), block(index, interval=1)):
        handles += varint(len(data)) + varint(len(part))
        data += part + b"\0" + checksum(part + b"\0")
    return data + handles.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def pairs_of(tensors: dict[str, Any], shards: int = 1) -> tuple[Pairs, list[bytes]]:
    """The index's pairs and the shards' bytes of arrays, dealt out to shards in turn."""
    pairs, contents = [(b"", field(1, shards) + field(3, field(1, 1)))], [b""] * shards
    for number, (name, array) in enumerate(sorted(tensors.items(), key=lambda item: item[0].encode())):
        raw, shard = np.ascontiguousarray(array).tobytes(), number % shards
        place = len(contents[shard])
        pairs.append((name.encode(), entry(NUMBERS[str(array.dtype)], array.shape, shard, place, len(raw), raw)))
        contents[shard] += raw
    return pairs, contents


def write_pairs(prefix: Path, pairs: Pairs, contents: list[bytes], per_block: int = 1000) -> None:
    Path(f"{prefix}.index").write_bytes(table(pairs, per_block))
    for shard, content in enumerate(contents):
        Path(f"{prefix}.data-{shard:05d}-of-{len(contents):05d}").write_bytes(content)


def write_bundle(prefix: Path, tensors: dict[str, Any], shards: int = 1, per_block: int = 1000) -> None:
    write_pairs(prefix, *pairs_of(tensors, shards), per_block)


def arrays(count: int = 5) -> dict[str, Any]:
    generator = np.random.default_rng(1)
    return {f"layer_{n}/kernel": generator.standard_normal((n % 3 + 1, 2), np.float32) for n in range(count)}


def test_what_tensorflow_wrote_is_read() -> None:
    bundle = TensorBundle(DATA / "tensorflow-2.21")
    shapes = {
        "model/h0/attn/c_attn/w": (1, 2, 6),
        "model/h0/ln_1/g": (2,),
        "scalar": (),
        "half": (3,),
        "brain": (3,),
        "double": (2, 2),
    }
    dtypes = {"half": torch.float16, "brain": torch.bfloat16, "double": torch.float64}
    assert set(bundle.entries) == {*shapes, "global_step", "words"}
    assert {found.shard for found in bundle.entries.values()} == {0, 1}
    for name, shape in shapes.items():
        expected = torch.arange(-3, -3 + int(np.prod(shape)), dtype=dtypes.get(name, torch.float32)).reshape(shape)
        tensor = bundle.read(name)
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected)
    for name in ("global_step", "words"):
        with pytest.raises(ModelError, match=f"{name} holds no floating-point numbers"):
            bundle.read(name)


def test_partitioned_variables_are_refused() -> None:
    with pytest.raises(ModelError, match="partitioned variables"):
        TensorBundle(DATA / "tensorflow-2.21-partitioned")


@pytest.mark.parametrize(("shards", "per_block"), [(1, 1000), (3, 7), (10, 1)])
def test_shards_and_blocks_do_not_matter(shards: int, per_block: int, tmp_path: Path) -> None:
    tensors = arrays(60) | {"half": np.arange(3, dtype=np.float16), "after_an_odd_place": np.ones(2, np.float32)}
    write_bundle(tmp_path / "model.ckpt", tensors, shards, per_block)
    bundle = TensorBundle(tmp_path / "model.ckpt")
    assert bundle.entries.keys() == tensors.keys()
    for name, array in tensors.items():
        assert np.array_equal(bundle.read(name).numpy(), array)


def test_checksums_of_every_length(tmp_path: Path) -> None:
    tensors = {
        f"n{size}": np.random.default_rng(size).standard_normal(size, np.float32) for size in (1, 2, 3, 15, 16, 17, 4095, 30_001)
    }
    write_bundle(tmp_path / "model", tensors)
    bundle = TensorBundle(tmp_path / "model")
    assert all(np.array_equal(bundle.read(name).numpy(), array) for name, array in tensors.items())


def test_writing_to_a_tensor_leaves_the_file(tmp_path: Path) -> None:
    write_bundle(tmp_path / "model", {"w": np.zeros(4, np.float32)})
    TensorBundle(tmp_path / "model").read("w").fill_(1)
    assert not any((tmp_path / "model.data-00000-of-00001").read_bytes())


def refused(prefix: Path, pairs: Pairs, contents: list[bytes], match: str) -> None:
    write_pairs(prefix, pairs, contents)
    with pytest.raises(ModelError, match=match):
        TensorBundle(prefix)


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (entry(1, [2, 2], 0, 4, 16, b""), "beyond the file's end"),
        (entry(1, [2, 2], 0, 2**63, 16, b""), "beyond the file's end"),
        (entry(1, [2**40], 0, 0, 2**42, b""), "beyond the file's end"),
        (entry(1, [2, 3], 0, 0, 16, b""), "does not fit its 16 bytes"),
        (entry(1, [2**62, 2**62], 0, 0, 16, b""), "does not fit its 16 bytes"),
        (entry(1, [2**64 - 1, 2**64 - 4], 0, 0, 16, b""), "does not fit its 16 bytes"),
        (entry(1, [0], 0, 0, 0, b""), "does not fit its 0 bytes"),
        (entry(1, [1] * 2000 + [4], 0, 0, 16, b""), "does not fit its 16 bytes"),
        (entry(1, [4], 1, 0, 16, b""), "lies in shard 1, and there are 1"),
        (entry(1, [4], 0, 0, 16, b"", field(7, b"\n\0")), "partitioned"),
        (entry(1, [4], 0, 0, 16, b"")[:-1], "cut off"),
        (b"\x0b", "damaged"),
    ],
)
def test_an_entry_that_lies_is_refused(made: bytes, match: str, tmp_path: Path) -> None:
    pairs, contents = pairs_of({"w": np.zeros((2, 2), np.float32)})
    refused(tmp_path / "model", [pairs[0], (b"w", made)], contents, match)


def test_headers_and_names_that_lie_are_refused(tmp_path: Path) -> None:
    pairs, contents = pairs_of({"v": np.zeros(2, np.float32), "w": np.zeros(2, np.float32)})
    prefix = tmp_path / "model"
    refused(prefix, [pairs[0], pairs[1], pairs[1]], contents, "occur twice")
    refused(prefix, [pairs[0], pairs[2], pairs[1]], contents, "occur twice")
    refused(prefix, pairs[1:], contents, "no header")
    refused(prefix, [(b"", field(1, 1) + field(2, 1)), *pairs[1:]], contents, "big-endian")
    refused(prefix, [], contents, "empty or misstates")
    refused(prefix, [*pairs, (b"x" * 2000, pairs[1][1])], contents, "misstates its length")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_bundle(tmp_path / "model", arrays(20), shards=10)
    (tmp_path / "model.data-00007-of-00010").unlink()
    with pytest.raises(ModelError, match="data-00007-of-00010 is missing"):
        TensorBundle(tmp_path / "model")
    with pytest.raises(ModelError, match=r"other\.index is missing"):
        TensorBundle(tmp_path / "other")


def test_truncated_and_changed_files_are_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "model", arrays())
    index, data = tmp_path / "model.index", tmp_path / "model.data-00000-of-00001"
    whole, content = index.read_bytes(), data.read_bytes()
    for size in range(0, len(whole), 3):
        rewrite(index, whole[:size])
        with pytest.raises(ModelError, match="cut off"):
            TensorBundle(tmp_path / "model")
    index.write_bytes(whole)
    data.write_bytes(content[:-1])
    with pytest.raises(ModelError, match="layer_4/kernel lies beyond the file's end"):
        TensorBundle(tmp_path / "model")
    data.write_bytes(content[:9] + b"?" + content[10:])
    with pytest.raises(ModelError, match="checksum of layer_1/kernel differs"):
        TensorBundle(tmp_path / "model").read("layer_1/kernel")


def rechecked(content: bytes, kind: int = 0) -> bytes:
    """An index whose only block is this one, with good checksums around it."""
    first = content + bytes([kind]) + checksum(content + bytes([kind]))
    index = block([(b"z", varint(0) + varint(len(content)))])
    handles = varint(0) + varint(0) + varint(len(first)) + varint(len(index))
    return first + index + b"\0" + checksum(index + b"\0") + handles.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def test_blocks_that_lie_are_refused(tmp_path: Path) -> None:
    pairs, contents = pairs_of(arrays())
    write_pairs(tmp_path / "model", pairs, contents)
    index, good = tmp_path / "model.index", block(pairs)
    index.write_bytes(rechecked(good))
    assert len(TensorBundle(tmp_path / "model").entries) == 5
    for bad, kind, match in [
        (good[:-4] + (2**31).to_bytes(4, "little"), 0, "misstates its length"),
        (good[:-4] + (len(good) // 4).to_bytes(4, "little"), 0, "misstates its length"),
        (good[:-4] + bytes(4), 0, "occur twice"),
        (b"\x05" + good[1:], 0, "misstates its length"),
        (b"\xff" * 12 + good, 0, "cut off"),
        (good, 1, "compressed"),
    ]:
        index.write_bytes(rechecked(bad, kind))
        with pytest.raises(ModelError, match=match):
            TensorBundle(tmp_path / "model")
    index.write_bytes(table(pairs)[:-1] + b"\0")
    with pytest.raises(ModelError, match="no index of a TensorFlow checkpoint"):
        TensorBundle(tmp_path / "model")


def rewrite(path: Path, content: bytes) -> None:
    with path.open("r+b") as stream:  # some disks are slow to empty a file first
        stream.truncate(stream.write(content))


@pytest.mark.parametrize(("seed", "cases", "measured"), [(0, 1600, False), (1, 400, True)])
def test_random_damage_ends_in_a_sentence(seed: int, cases: int, measured: bool, tmp_path: Path) -> None:
    """Bytes of the index and the shard are changed; in every other case the index's checksums are made good again."""
    chance, (pairs, contents) = random.Random(seed), pairs_of(arrays(4))
    write_pairs(tmp_path / "model", pairs, contents)
    index, data = tmp_path / "model.index", tmp_path / "model.data-00000-of-00001"
    inner, outer, refusals = block(pairs), index.read_bytes(), 0
    if measured:
        tracemalloc.start()
    try:
        for case in range(cases):
            damaged = bytearray(outer if case % 2 else inner)
            for _ in range(chance.randint(1, 3)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            rewrite(index, bytes(damaged) if case % 2 else rechecked(bytes(damaged)))
            rewrite(data, contents[0] if case % 9 else contents[0][: chance.randrange(len(contents[0]))])
            try:
                bundle = TensorBundle(tmp_path / "model")
                for name, found in bundle.entries.items():
                    assert found.dtype is None or bundle.read(name).nbytes <= len(contents[0])
            except ModelError:
                refusals += 1
        assert not measured or tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert cases * 0.8 < refusals <= cases
