import copy
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from foretell.base.console import Terminal
from foretell.base.errors import DataError, ModelError, SettingError
from foretell.corpus.document import Document
from foretell.data.build import write_shards
from foretell.data.config import DataSettings
from foretell.data.shards import ShardReader, Split
from foretell.tokenizers.tokenizer import Tokenizer

from .conftest import MakeShards


def decoded(split: Split, tokenizer: Tokenizer) -> dict[str, bytes]:
    """Document id → its bytes, through the index."""
    tokens = split.read(0, split.tokens)
    owners = split.document_at(np.arange(split.tokens))
    assert (tokens == split.end_of_text).sum() == split.documents
    return {
        split.document_id(number): tokenizer.decode_bytes(tokens[owners == number].tolist()) for number in range(split.documents)
    }


def build(documents: list[Document], out: Path, tokenizer: Tokenizer) -> None:
    write_shards(lambda: iter(documents), tokenizer, out, DataSettings(), Terminal(stream=StringIO()))


def test_documents_come_back_byte_for_byte(make_shards: MakeShards, documents: list[Document], tokenizer: Tokenizer) -> None:
    reader = make_shards(documents, held_out=0.2)
    train, held_out = decoded(reader.train, tokenizer), decoded(reader.held_out, tokenizer)
    assert not train.keys() & held_out.keys()
    assert train | held_out == {document.id: document.text.encode() for document in documents}
    assert reader.train.bytes + reader.held_out.bytes == sum(map(len, (train | held_out).values()))
    assert 0.1 < reader.held_out.bytes / reader.train.bytes < 0.5
    reader.verify()


def test_one_document_is_cut_and_that_is_said(make_shards: MakeShards, documents: list[Document], tokenizer: Tokenizer) -> None:
    text = "\n".join(document.text for document in documents)
    said = StringIO()
    reader = make_shards([Document("0123456789abcdef", text, "book")], stream=said, held_out=0.1)
    train, held_out = decoded(reader.train, tokenizer), decoded(reader.held_out, tokenizer)
    assert train["0123456789abcdef"] + held_out["0123456789abcdef"] == text.encode()
    assert train["0123456789abcdef"].endswith(b"\n")
    assert 0.1 <= reader.held_out.bytes / len(text.encode()) < 0.12
    assert "ends of the longest documents" in said.getvalue()
    assert "ends of the longest" in reader.manifest.held_out.method


def test_the_layout_is_what_interfaces_promise(make_shards: MakeShards, documents: list[Document], tokenizer: Tokenizer) -> None:
    reader = make_shards(documents)
    manifest = json.loads((reader.path / "manifest.json").read_text())
    assert manifest["tokenizer"] == tokenizer.fingerprint == reader.tokenizer().fingerprint
    assert (manifest["dtype"], manifest["vocab_size"], manifest["end_of_text"]) == ("<u2", 600, 0)
    train = manifest["splits"]["train"]
    assert list(train["files"]) == ["train-identities.bin", "train-starts.bin", "train-tokens.bin"]
    starts, tokens = np.fromfile(reader.path / "train-starts.bin", "<u8"), np.fromfile(reader.path / "train-tokens.bin", "<u2")
    assert np.array_equal(tokens, reader.train.read(0, train["tokens"]))
    assert starts[0] == 0
    assert np.array_equal(starts[1:] - 1, np.flatnonzero(tokens == 0)[:-1])


def test_building_is_deterministic(make_shards: MakeShards, documents: list[Document]) -> None:
    first, second = make_shards(documents), make_shards(documents)
    assert first.manifest == second.manifest


def test_any_stretch_can_be_read(make_shards: MakeShards, documents: list[Document]) -> None:
    split = make_shards(documents).train
    whole = split.read(0, split.tokens)
    assert whole.dtype == np.int64
    for start, length in [(0, 1), (50, 400), (split.tokens - 3, 3)]:
        assert np.array_equal(split.read(start, length), whole[start : start + length])


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 0), (0, 10**9)])
def test_reading_beyond_the_ends_is_refused(make_shards: MakeShards, documents: list[Document], start: int, length: int) -> None:
    with pytest.raises(IndexError):
        make_shards(documents).train.read(start, length)


def test_documents_of_any_shape_of_positions(make_shards: MakeShards, documents: list[Document]) -> None:
    train = make_shards(documents).train
    positions = np.arange(20).reshape(4, 5)
    assert train.document_at(positions).shape == (4, 5)
    assert int(train.document_at(train.tokens - 1)) == train.documents - 1


def test_large_vocabularies_need_four_bytes(tmp_path: Path, documents: list[Document], tokenizer: Tokenizer) -> None:
    for vocab_size, dtype in ((2**16, "<u2"), (2**16 + 1, "<u4")):
        large = copy.copy(tokenizer)
        large.vocab_size = vocab_size
        build(documents, tmp_path / dtype, large)
        reader = ShardReader(tmp_path / dtype)
        assert reader.manifest.dtype == dtype
        assert decoded(reader.train, tokenizer)[documents[0].id] == documents[0].text.encode()


@pytest.mark.parametrize("name", ["train-tokens.bin", "held_out-starts.bin", "train-identities.bin"])
def test_a_truncated_file_is_found_when_opened(make_shards: MakeShards, documents: list[Document], name: str) -> None:
    path = make_shards(documents).path
    (path / name).write_bytes((path / name).read_bytes()[:-2])
    with pytest.raises(DataError, match="bytes where") as caught:
        ShardReader(path)
    assert caught.value.where.endswith(name)
    (path / name).unlink()
    with pytest.raises(DataError, match="has 0 bytes where"):
        ShardReader(path)


def test_a_flipped_bit_is_found_by_verify(make_shards: MakeShards, documents: list[Document]) -> None:
    path = make_shards(documents).path
    damaged = path / "held_out-tokens.bin"
    content = bytearray(damaged.read_bytes())
    content[10] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DataError, match="has changed") as caught:
        ShardReader(path).verify()
    assert caught.value.where == str(damaged)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"tokenizer": "x"}'])
def test_a_damaged_manifest_is_a_data_error(make_shards: MakeShards, documents: list[Document], content: str) -> None:
    path = make_shards(documents).path
    (path / "manifest.json").write_text(content)
    with pytest.raises(DataError):
        ShardReader(path)


def test_a_folder_without_shards_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest.json is missing"):
        ShardReader(tmp_path)


def test_another_tokenizer_in_the_folder_is_found(make_shards: MakeShards, documents: list[Document]) -> None:
    reader = make_shards(documents)
    path = reader.path / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"[^', '"[x^', 1).replace("?i:'s", "?i:'z", 1))
    with pytest.raises(DataError, match="not the one that made the shards"):
        reader.tokenizer()
    path.unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        reader.tokenizer()


def test_existing_shards_are_never_overwritten(tmp_path: Path, documents: list[Document], tokenizer: Tokenizer) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(SettingError, match="already exists"):
        build(documents, tmp_path, tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_failed_build_leaves_nothing(tmp_path: Path, documents: list[Document], tokenizer: Tokenizer) -> None:
    def broken() -> Iterator[Document]:
        yield from documents
        raise DataError("the text cannot be read", where="x", cure="y")

    with pytest.raises(DataError, match="cannot be read"):
        write_shards(broken, tokenizer, tmp_path / "out", DataSettings(), Terminal(stream=StringIO()))
    with pytest.raises(DataError, match="too few"):
        build([], tmp_path / "out", tokenizer)
    assert list(tmp_path.iterdir()) == []
