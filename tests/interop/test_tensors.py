"""Tensors of Hugging Face directories: what is written is read, as maps of the file; what is hostile gets one sentence."""

import json
import os
import pickle
import shutil
import struct
import weakref
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from foretell.base.errors import ModelError, SettingError
from foretell.interop.tensors import DTYPES, read_tensors, write_tensors

INDEX = "model.safetensors.index.json"


def write_raw(path: Path, header: Any, size: int = 0) -> None:
    """A safetensors file with this header, and `size` bytes of data that take no space on disk."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + size)


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def refused(folder: Path, *words: str) -> ModelError:
    """Reading the folder ends with our error, on one line, with these words."""
    with pytest.raises(ModelError) as caught:
        read_tensors(folder)
    told = f"{caught.value.what} {caught.value.where}"
    assert all(word in told for word in words), told
    assert told.isprintable() and len(told) < 600
    return caught.value


@st.composite
def tensor_dicts(draw: st.DrawFn) -> dict[str, Tensor]:
    tensors = {}
    for name in draw(
        st.lists(st.from_regex(r"[a-z]{1,4}(\.[0-9]{1,2})?\.weight", fullmatch=True), min_size=1, max_size=8, unique=True)
    ):
        shape = draw(st.lists(st.integers(0, 5), max_size=3))
        bits = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) * 3 - 1
        tensors[name] = bits.to(draw(st.sampled_from(sorted(DTYPES.values(), key=str))))
    return tensors


@settings(max_examples=30, deadline=None)
@given(tensors=tensor_dicts(), shard_bytes=st.integers(1, 400))
def test_what_is_written_is_read(tensors: dict[str, Tensor], shard_bytes: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_tensors(folder, tensors, shard_bytes)
        again = read_tensors(folder)
        assert again.keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert again[key].dtype == tensor.dtype and torch.equal(again[key], tensor)
        for path in folder.glob("*.safetensors"):
            held = load_file(path)
            sizes = [tensor.nbytes for tensor in held.values() if tensor.nbytes]
            assert sum(sizes) <= shard_bytes or len(sizes) == 1


def test_shards_are_named_as_everybody_names_them(tmp_path: Path) -> None:
    write_tensors(tmp_path, ((f"t{number}", torch.full((4,), float(number))) for number in range(5)), shard_bytes=32)
    shards = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*shards, INDEX])
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"] == {"total_parameters": 20, "total_size": 80}
    assert index["weight_map"] == {"t0": shards[0], "t1": shards[0], "t2": shards[1], "t3": shards[1], "t4": shards[2]}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*.safetensors")} == {0o644}
    assert read_tensors(tmp_path)["t3"].tolist() == [3.0] * 4


def test_one_file_when_it_fits(tmp_path: Path) -> None:
    write_tensors(tmp_path, {"a": torch.ones(2, 3).T, "b": torch.tensor(7)})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert b'"format":"pt"' in (tmp_path / "model.safetensors").read_bytes()


def test_tied_tensors_are_written_twice_and_never_shared_by_accident(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    write_tensors(tmp_path, {"a": flat[:6], "b": flat[6:], "all": flat, "again": flat})
    again = read_tensors(tmp_path)
    assert torch.equal(again["a"], flat[:6]) and torch.equal(again["b"], flat[6:])
    assert torch.equal(again["all"], flat) and torch.equal(again["again"], flat)


def test_weights_are_never_overwritten(tmp_path: Path) -> None:
    write_tensors(tmp_path, {"a": torch.zeros(4)})
    with pytest.raises(SettingError, match="already exists"):
        write_tensors(tmp_path, {"a": torch.ones(4), "b": torch.ones(4)}, shard_bytes=16)
    assert read_tensors(tmp_path)["a"].tolist() == [0.0] * 4


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def tensors() -> Any:
        yield "a", torch.zeros(4)
        yield "b", torch.zeros(4)
        yield "c", torch.zeros(4)
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        write_tensors(tmp_path, tensors(), shard_bytes=16)
    assert list(tmp_path.iterdir()) == []


def test_only_one_shard_is_in_memory(tmp_path: Path) -> None:
    made, most = list[weakref.ref[Any]](), 0

    def tensors() -> Any:
        nonlocal most
        for number in range(12):
            memory = numpy.zeros(4, dtype=numpy.float32)
            made.append(weakref.ref(memory))
            most = max(most, sum(reference() is not None for reference in made))
            yield f"t{number}", torch.from_numpy(memory)

    write_tensors(tmp_path, tensors(), shard_bytes=48)
    assert len(made) == 12 and most == 4  # a shard of three, and the one that no longer fits


def test_transformers_opens_shards(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=97, n_positions=16)).eval()
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    model.config.save_pretrained(tmp_path / "ours")
    write_tensors(tmp_path / "ours", tensors, shard_bytes=20_000)
    assert len(list((tmp_path / "ours").glob("model-*-of-*.safetensors"))) > 2
    opened, report = GPT2LMHeadModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    ids = torch.arange(10)[None]
    assert torch.equal(opened.eval()(ids).logits, model(ids).logits)

    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    theirs, index = read_tensors(tmp_path / "theirs"), json.loads((tmp_path / "theirs" / INDEX).read_text())
    assert all(torch.equal(theirs[name], tensor) for name, tensor in tensors.items())
    ours = json.loads((tmp_path / "ours" / INDEX).read_text())
    assert ours["metadata"] == index["metadata"] and ours["weight_map"].keys() == index["weight_map"].keys()


def test_a_large_file_costs_nothing_until_it_is_touched(tmp_path: Path) -> None:
    part = 50_000_000
    write_raw(
        tmp_path / "model.safetensors",
        {f"t{n}": entry("F32", [part // 4], n * part, n * part + part) for n in range(10)},
        10 * part,
    )
    process = psutil.Process()
    before = process.memory_info().rss
    tensors = read_tensors(tmp_path)
    assert process.memory_info().rss - before < 20_000_000
    assert tensors["t7"].sum() == 0
    assert 30_000_000 < process.memory_info().rss - before < 120_000_000
    tensors["t7"][0] = 1.0  # a private page: the file stays as it is
    assert read_tensors(tmp_path)["t7"][0] == 0.0


def test_a_zipped_pickle_is_mapped_too(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(20_000_000)}, tmp_path / "pytorch_model.bin")
    process = psutil.Process()
    before = process.memory_info().rss
    tensors = read_tensors(tmp_path)
    assert process.memory_info().rss - before < 20_000_000
    assert tensors["a"].shape == (20_000_000,)


def test_offsets_that_are_not_aligned_and_no_weights_at_all(tmp_path: Path) -> None:
    assert "safetensors" in refused(tmp_path, "the weights are missing").cure
    write_raw(tmp_path / "model.safetensors", {"a": entry("U8", [3], 0, 3), "b": entry("F32", [2], 3, 11)}, 11)
    assert (read_tensors(tmp_path)["b"] + 1).tolist() == [1.0, 1.0]


F32_AT_0, F32_AT_4 = json.dumps(entry("F32", [1], 0, 4)).encode(), json.dumps(entry("F32", [1], 4, 8)).encode()


@pytest.mark.parametrize(
    ("header", "size", "words"),
    [
        ({"a": entry("F8_E4M3", [4], 0, 4)}, 4, ["tensor a is stored as F8_E4M3, which is not supported"]),
        ({"a": entry("F4", [4], 0, 2)}, 2, ["F4"]),
        ({"a\x1b[31m": entry("Q4\x07\n", [4], 0, 2)}, 2, ["a?[31m is stored as Q4?"]),
        ({"n" * 10_000: entry("X" * 10_000, [4], 0, 2)}, 2, ["nnn"]),
        ({"a": {"dtype": ["F32"], "shape": [], "data_offsets": [0, 4]}}, 4, []),
        ({"a": entry("F32", [4], 0, 16)}, 15, ["cannot be read"]),
        ({"a": entry("F32", [4], 0, 16)}, 17, []),
        ({"a": entry("F32", [4], 0, 12)}, 12, []),
        ({"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 8, 24)}, 24, []),
        ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 16, 24)}, 24, []),
        ({"a": entry("F32", [2**40, 2**40], 0, 16)}, 16, ["cannot be read"]),
        ({"a": entry("F32", [-4], 0, 16)}, 16, ["cannot be read"]),
        ({"a": entry("F32", [4], 2**64, 2**64 + 16)}, 16, ["cannot be read"]),
        ({"a": 5}, 0, ["cannot be read"]),
        ({"a": {}}, 0, ["tensor a"]),
        ([1, 2], 0, ["something else"]),
        (b'{"a":%b,"a":%b}' % (F32_AT_0, F32_AT_4), 8, ["two values under one name"]),
        (b'{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,4]}}', 4, ["two values under one name"]),
        (b"\xff\xfe\x00", 0, ["cannot be read"]),
        (b"", 0, ["cannot be read"]),
        (b"[" * 100_000, 0, ["cannot be read"]),
        (b'{"a":' * 50_000, 0, ["cannot be read"]),
        (b'{"a":' + b"9" * 100_000 + b"}", 0, ["cannot be read"]),
    ],
)
def test_hostile_headers(header: Any, size: int, words: list[str], tmp_path: Path) -> None:
    write_raw(tmp_path / "model.safetensors", header, size)
    refused(tmp_path, "model.safetensors", *words)


@pytest.mark.parametrize("content", [b"", b"\x08", b"\xff" * 8, b"\xff" * 99, struct.pack("<Q", 2**63) + b"{}", b"version https"])
def test_files_that_are_something_else(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert "git lfs pull" in refused(tmp_path, "the weights cannot be read: it is cut off, or no safetensors file").cure


def test_every_truncation_is_told(tmp_path: Path) -> None:
    save_file({"a": torch.ones(5), "b": torch.ones(3, dtype=torch.int8)}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "model.safetensors").write_bytes(whole[:length])
        refused(tmp_path, "the weights cannot be read")


def test_huge_headers_are_refused_unparsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object, **__: object) -> None:
        raise AssertionError("parsed")

    million = b'"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' * 1_000_000
    pairs = b'{"__metadata__":{' + b'"a":"",' * 1_100_000 + b"}}"
    with (tmp_path / "sparse").open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(300_000_000)
    write_raw(tmp_path / "million", b"{" + million + b"}")
    write_raw(tmp_path / "pairs", pairs)
    monkeypatch.setattr("foretell.interop.tensors.json.loads", reached)
    monkeypatch.setattr("foretell.interop.tensors.load_file", reached)
    for name in ("sparse", "million", "pairs"):
        shutil.move(tmp_path / name, tmp_path / "model.safetensors")
        refused(tmp_path, "more than 100,000 tensors")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_tensors(tmp_path, {f"t{number}": torch.full((4,), float(number)) for number in range(6)}, shard_bytes=32)
    return tmp_path


def change_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((folder / INDEX).read_text())
    change(content["weight_map"])
    (folder / INDEX).write_text(json.dumps(content))


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    refused(sharded, "1 of its 3 files are missing", "model-00002-of-00003.safetensors")


def test_a_damaged_shard_is_named(sharded: Path) -> None:
    path = sharded / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(sharded, "cannot be read", path.name)


OUTSIDE = ["/etc/passwd", "../model.safetensors", "a/b.safetensors", "a/safetensors", "..", "a\\b.safetensors"]
NO_NAMES = [".hidden.safetensors", "x.bin", "", "a.safetensors\n", "\x1b.safetensors", 5, None, ["model.safetensors"], {}]


@pytest.mark.parametrize("name", [*OUTSIDE, *NO_NAMES])
def test_an_index_may_not_lead_elsewhere(name: Any, sharded: Path) -> None:
    change_index(sharded, lambda weight_map: weight_map.update(t0=name))
    refused(sharded, "not a weight file beside it")


def test_index_and_shards_must_agree(sharded: Path) -> None:
    first, second = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"
    before = (sharded / INDEX).read_text()
    change_index(sharded, lambda weight_map: weight_map.update(t9=first))
    refused(sharded, f"the tensor t9 is in the index but not in {first}")
    (sharded / INDEX).write_text(before)
    change_index(sharded, lambda weight_map: weight_map.pop("t3"))
    refused(sharded, f"the tensor t3 is in {second} but not in the index")
    (sharded / INDEX).write_text(before)
    change_index(sharded, lambda weight_map: weight_map.update(t0=second))
    refused(sharded, "the tensor t0 is in")


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "{}", '{"weight_map": {}}', '{"weight_map": 5}', '{"weight_map": "model"}', "[" * 99_999]
)
def test_an_index_that_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(content)
    refused(tmp_path, "the weights cannot be read", INDEX)


class Evil:
    """Unpickled by pickle, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap", [lambda evil: evil, lambda evil: {"a": torch.ones(2), "b": evil}, lambda evil: {"state_dict": {"a": evil}}]
)
def test_a_pickle_with_code_is_refused_and_not_run(wrap: Callable[[Evil], Any], zipped: bool, tmp_path: Path) -> None:
    target = tmp_path / "made"
    torch.save(wrap(Evil(target)), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    error = refused(tmp_path, "wants to run", "mkdir", "code from data is never run")
    assert "safetensors" in error.cure and not target.exists()
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert target.exists()  # so it would have been run by a loader that trusts


def test_a_bare_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "made"), protocol=2))
    refused(tmp_path, "pytorch_model.bin")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_plain_pickles_are_read(wrapper: str | None, zipped: bool, tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4, dtype=torch.bfloat16))
    plain = OrderedDict(
        a=weight, tied=weight, b=torch.arange(6).view(2, 3).T, mask=torch.ones(2, dtype=torch.bool), scale=torch.tensor(2.0)
    )
    content = {wrapper: plain, "epoch": 3} if wrapper else plain
    torch.save(content, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    again = read_tensors(tmp_path)
    assert again.keys() == plain.keys()
    assert all(type(again[name]) is Tensor and not again[name].requires_grad for name in plain)
    assert all(torch.equal(again[name], tensor) and again[name].dtype == tensor.dtype for name, tensor in plain.items())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": 5}, "a is not a plain tensor"),
        ({"a": [torch.ones(2)]}, "a is not a plain tensor"),
        ({5: torch.ones(2)}, "5 is not a plain tensor"),
        ({"a": torch.ones(1).expand(10**12)}, "a is not a plain tensor"),
        ({"a": torch.eye(3).to_sparse()}, "a is not a plain tensor"),
        ({"a": torch.ones(2, device="meta")}, "a is not a plain tensor"),
        ({"a": torch.ones(2).to(torch.float8_e4m3fn)}, "a is not a plain tensor"),
        ({"state_dict": {"state_dict": {"a": torch.ones(2)}}}, "state_dict is not a plain tensor"),
        ({"state_dict": torch.ones(2)}, "no dictionary of tensors"),
        ([torch.ones(2)], "no dictionary of tensors"),
        (torch.ones(2), "no dictionary of tensors"),
        (None, "no dictionary of tensors"),
    ],
)
def test_pickles_of_anything_else_are_refused(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    refused(tmp_path, words)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_pickles(zipped: bool, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(50), "b": torch.ones(3)}, tmp_path / "whole", _use_new_zipfile_serialization=zipped)
    whole, path = (tmp_path / "whole").read_bytes(), tmp_path / "pytorch_model.bin"
    for length in range(0, len(whole), 29):
        path.write_bytes(whole[:length])
        refused(tmp_path, "pytorch_model.bin")
    for place in torch.randint(len(whole), (100,), generator=torch.Generator().manual_seed(1)).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xA5]) + whole[place + 1 :])
        try:
            assert all(isinstance(tensor, Tensor) for tensor in read_tensors(tmp_path).values())
        except ModelError as error:
            assert error.what.isprintable()


def test_a_compressed_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"a" * 5000: torch.zeros(10)}, tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as bomb, zipfile.ZipFile(tmp_path / "whole") as whole:
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name), zipfile.ZIP_DEFLATED if name.endswith("data.pkl") else zipfile.ZIP_STORED)
    refused(tmp_path, "compressed, which torch.save never does")


def test_pickled_shards(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    shard_of = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))
    refused(tmp_path, "1 of its 2 files are missing")
    torch.save({"b": torch.zeros(2)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    assert read_tensors(tmp_path)["b"].tolist() == [0.0, 0.0]
    write_tensors(tmp_path, {"a": torch.ones(2) * 5})
    assert read_tensors(tmp_path)["a"].tolist() == [5.0, 5.0]  # safetensors come first
