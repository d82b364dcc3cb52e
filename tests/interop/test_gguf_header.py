"""The reader of GGUF headers against damaged and hostile files: a ModelError or the truth, and no memory for claims."""

import os
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from foretell.base.errors import ModelError
from foretell.interop.gguf_header import READABLE, read_header

VALUES: dict[str, Any] = {
    "general.architecture": "llama",
    "a.count": 7,
    "a.small": 1e-5,
    "a.flag": True,
    "a.texts": ["one", "zwei", ""],
    "a.numbers": [3, -4, 5],
    "a.scores": [0.5, -2.0],
}
WEIGHTS = np.arange(96, dtype=np.float32).reshape(3, 32) / 7


def write(path: Path, values: dict[str, Any] = VALUES, kinds: tuple[str, ...] = ("F32", "Q8_0")) -> Path:
    writer = gguf.GGUFWriter(path, str(values["general.architecture"]))
    for key, value in list(values.items())[1:]:
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case _:
                writer.add_array(key, value)
    for kind in kinds:
        stored = gguf.quants.quantize(WEIGHTS, gguf.GGMLQuantizationType[kind])
        writer.add_tensor(f"{kind}.weight", stored, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "m.gguf"))
    found = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in header.metadata.items()}
    assert found == VALUES
    assert [(name, entry.shape, entry.kind) for name, entry in header.entries.items()] == [
        ("F32.weight", (3, 32), "F32"),
        ("Q8_0.weight", (3, 32), "Q8_0"),
    ]
    np.testing.assert_array_equal(header.values("F32.weight"), WEIGHTS)
    np.testing.assert_allclose(header.values("Q8_0.weight"), WEIGHTS, atol=WEIGHTS.max() / 127)
    assert header.values("F32.weight").flags.writeable
    with pytest.raises(ModelError, match=r"a\.count is of type int, not str"):
        header.optional("a.count", str)
    with pytest.raises(ModelError, match=r"lack a\.nothing"):
        header.required("a.nothing", int)


@pytest.mark.parametrize("kind", READABLE)
def test_every_readable_type_is_dequantised(kind: str, tmp_path: Path) -> None:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    stored = np.random.default_rng(0).integers(0, 60, (2, max(512 // block, 2) * size), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("w", stored, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    values = read_header(tmp_path / "m.gguf").values("w")
    assert values.shape == (2, stored.shape[1] // size * block) and values.dtype == np.float32
    theirs = gguf.GGUFReader(tmp_path / "m.gguf").tensors[0]
    np.testing.assert_array_equal(values, gguf.quants.dequantize(theirs.data, theirs.tensor_type).reshape(values.shape))


def test_cut_off_at_every_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    ends = max(entry.start + entry.size for entry in read_header(path).entries.values())
    os.truncate(path, ends)
    assert read_header(path).entries
    for length in reversed(range(ends)):
        os.truncate(path, length)
        with pytest.raises(ModelError):
            read_header(path)


def test_thousands_of_mutations(tmp_path: Path) -> None:
    whole, path, chance = write(tmp_path / "m.gguf").read_bytes(), tmp_path / "mutated.gguf", random.Random(5)
    numbers = [0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1, len(whole)]
    refused = 0
    for _ in range(3_000):
        data, start = bytearray(whole), chance.randrange(len(whole) - 384)
        match chance.randrange(4):
            case 0:
                data[start] ^= 1 << chance.randrange(8)
            case 1:
                data[start : start + 8] = struct.pack("<Q", chance.choice(numbers))
            case 2:
                del data[start : start + chance.randrange(1, 32)]
            case _:
                data[start:start] = chance.randbytes(chance.randrange(1, 32))
        path.unlink(missing_ok=True)  # quicker than to empty a file that is mapped
        path.write_bytes(data)
        try:
            header = read_header(path)
            for name in header.entries:
                header.values(name)
        except ModelError:
            refused += 1
    assert 1_000 < refused < 3_000


@pytest.mark.parametrize("number", [2**24, 2**40, 2**61, 2**63, 2**64 - 1])
def test_claims_cost_no_memory(number: int, tmp_path: Path) -> None:
    path, whole = tmp_path / "m.gguf", write(tmp_path / "whole.gguf").read_bytes()
    places = [8, 16, whole.index(b"a.texts") + 7 + 8, whole.index(b"a.numbers") + 9 + 8, whole.index(b"F32.weight") + 10 + 4]
    for place in places:
        path.write_bytes(whole[:place] + struct.pack("<Q", number) + whole[place + 8 :])
        tracemalloc.start()
        with pytest.raises(ModelError):
            read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200_000


def head(tensors: int, values: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values)


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()


def entry(name: str, shape: tuple[int, ...], kind: int = 0, start: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, start)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", r"0 do"),
        (b"PK\3\4....", "no GGUF file"),
        (b"GGUF" + struct.pack(">I", 3), "big-endian"),
        (head(0, 0, version=1), "version 1"),
        (head(70_000, 0), "70000 tensors"),
        (head(0, 2) + 2 * (text("a") + struct.pack("<II", 4, 1)), "have a twice"),
        (head(0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1), "array of arrays"),
        (head(0, 1) + text("a") + struct.pack("<I", 13), "unknown type 13"),
        (head(0, 1) + text("a") + struct.pack("<IQ", 8, 1) + b"\xff", "not UTF-8"),
        (head(0, 1) + text("general.alignment") + struct.pack("<II", 4, 33), "is 33, no power of two"),
        (head(1, 0) + entry("w", (4,) * 5), "5 dimensions"),
        (head(1, 0) + entry("w", ()), "0 dimensions"),
        (head(1, 0) + entry("w", (0, 4)) + bytes(64), "does not fit"),
        (head(1, 0) + entry("w", (2**32, 2**32)), "does not fit"),
        (head(1, 0) + entry("w", (30,), kind=8) + bytes(99), "does not fit"),
        (head(1, 0) + entry("w", (4,), start=3) + bytes(99), "does not fit"),
        (head(1, 0) + entry("w", (4,), start=96) + bytes(99), "ends at byte"),
        (head(1, 0) + entry("w", (256,), kind=16) + bytes(999), "stored as IQ2_XXS"),
        (head(1, 0) + entry("w", (4,), kind=77) + bytes(999), "stored as type 77"),
        (head(2, 0) + entry("w", (4,)) * 2 + bytes(99), "w is there twice"),
        (head(2, 0) + entry("v", (16,)) + entry("w", (4,), start=32) + bytes(999), "v and w overlap"),
    ],
)
def test_refusals_say_what_is_wrong(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=told) as refusal:
        read_header(path)
    assert str(path) in refusal.value.where


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.gguf", tmp_path):
        with pytest.raises(ModelError, match="cannot read the file"):
            read_header(path)
