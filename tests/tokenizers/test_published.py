import json
from pathlib import Path

import pytest

from foretell.base.errors import DataError, ModelError
from foretell.tokenizers.published import gpt1_from_openai, gpt2_from_openai, wordpiece_from_vocab
from foretell.tokenizers.tokenizer import Tokenizer

UGLY = [
    *(
        "",
        "   ",
        "\n",
        "中文字 and 漢字",
        "naïve café ÀÉ",
        "e\u0301a\u0300",
        "a\x00b\x07c\u200bd\u200d\ufeff",
        "👩‍👩‍👧 😀",
        "x" * 300,
    ),
    *(
        "ſ ﬁ İ ΑΣ",
        "don't can't [SEP] <unk> </w> <|endoftext|>",
        "\u2028\u2029\x85\xa0",
        "\ufffd",
        "１２３ ²",
        "नमस्ते ไทย",
        "a\tb\r\nc",
    ),
]


@pytest.fixture(scope="module")
def lines(data_folder: Path) -> list[str]:
    books = sorted((data_folder / "books").glob("*.md"))
    return [line for book in books[:40] for line in book.read_text().split("\n") if line][:10_000]


@pytest.fixture(scope="module")
def folder(data_folder: Path) -> Path:
    return data_folder / "tokenizers"


def merges(path: Path) -> list[tuple[str, ...]]:
    return [tuple(line.split(" ")) for line in path.read_text().split("\n")[1:-1]]


def assert_equal_ids(ours: Tokenizer, theirs: object, texts: list[str]) -> None:
    expected = theirs(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]  # type: ignore[operator]
    assert [ids.tolist() for ids in ours.encode_batch(texts)] == expected


def assert_opens_with_equal_ids(ours: Tokenizer, folder: Path, texts: list[str]) -> None:
    from transformers import AutoTokenizer

    ours.save(folder)
    assert_equal_ids(ours, AutoTokenizer.from_pretrained(folder), texts)
    assert_equal_ids(Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder), texts)


@pytest.mark.parametrize("lowercase", [True, False])
def test_berts_ids_are_those_of_transformers(folder: Path, lines: list[str], tmp_path: Path, lowercase: bool) -> None:
    from transformers import AutoTokenizer, BertTokenizerFast

    path = folder / "bert-uncased" / "vocab.txt"
    ours = wordpiece_from_vocab(path, lowercase)
    vocabulary = {text: token for token, text in enumerate(path.read_text().removesuffix("\n").split("\n"))}
    assert (ours.kind, ours.vocab_size, ours.end_of_text, ours.unknown) == ("wordpiece", 30522, 102, 100)
    assert_equal_ids(
        ours, BertTokenizerFast(vocab=vocabulary, do_lower_case=lowercase), (lines if lowercase else lines[:500]) + UGLY
    )
    assert_opens_with_equal_ids(ours, tmp_path, lines[:200] + UGLY)
    theirs = AutoTokenizer.from_pretrained(tmp_path)("hello", "world")
    assert theirs["input_ids"] == [101, *ours.encode("hello"), 102, *ours.encode("world"), 102]
    assert theirs["token_type_ids"] == [0, 0, 0, 1, 1]


def test_bert_is_decoded_as_by_the_library(folder: Path) -> None:
    ours = wordpiece_from_vocab(folder / "bert-uncased" / "vocab.txt")
    ids = ours.encode("Hello, unbelievable world! Is it 中文 (or not)?")
    assert ours.decode([101, *ids, 102]) == ours._inner.decode(ids) == "hello, unbelievable world! is it 中 文 ( or not )?"
    assert [ours.token_text(token) for token in ours.encode("tokenizer")] == ["␣token", "izer"]


def test_gpt2s_ids_are_those_of_transformers(folder: Path, lines: list[str], tmp_path: Path) -> None:
    from transformers import GPT2TokenizerFast

    ours = gpt2_from_openai(folder / "gpt2")
    vocabulary = json.loads((folder / "gpt2" / "encoder.json").read_text())
    theirs = GPT2TokenizerFast(vocab=vocabulary, merges=merges(folder / "gpt2" / "vocab.bpe"))
    assert (ours.kind, ours.vocab_size, ours.end_of_text, ours.role("eos"), ours.unknown) == ("bpe", 50257, 50256, 50256, None)
    assert_equal_ids(ours, theirs, lines[:2000] + UGLY)
    assert_opens_with_equal_ids(ours, tmp_path, lines[:200] + UGLY)
    assert ours.decode([50256, *ours.encode(UGLY[4])]) == UGLY[4]


def test_gpt1s_other_ids_are_those_of_transformers(folder: Path, lines: list[str], tmp_path: Path) -> None:
    from transformers import OpenAIGPTTokenizer

    ours = gpt1_from_openai(folder / "gpt1", faithful=False)
    vocabulary = json.loads((folder / "gpt1" / "encoder_bpe_40000.json").read_text())
    theirs = OpenAIGPTTokenizer(vocab=vocabulary, merges=merges(folder / "gpt1" / "vocab_40000.bpe"))
    assert (ours.kind, ours.vocab_size, ours.end_of_text, ours.unknown) == ("gpt1", 40478, 40477, 0)
    assert_equal_ids(ours, theirs, lines[:2000] + UGLY)
    assert_opens_with_equal_ids(ours, tmp_path, lines[:200] + UGLY)
    assert ours.special_ids == {"<unk>": 0}


def test_damaged_vocabularies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"encoder.json is missing"):
        gpt2_from_openai(tmp_path)
    (tmp_path / "encoder.json").write_text('{"a": 0}')
    (tmp_path / "vocab.bpe").write_text("#version\na b\n")
    with pytest.raises(ModelError, match="damaged, or do not belong together"):
        gpt2_from_openai(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    with pytest.raises(ModelError, match=r"lacks \[MASK\]"):
        wordpiece_from_vocab(tmp_path / "vocab.txt")
