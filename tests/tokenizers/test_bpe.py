import random
import time
from collections.abc import Iterator

import pytest

from foretell.base.errors import DataError, SettingError
from foretell.base.settings import load_settings
from foretell.tokenizers.bpe import SPLIT, train_bpe
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.tokenizer import Tokenizer

PATHOLOGICAL = {
    "spaces": " " * 10**6,
    "one letter": "a" * 10**6,
    "random letters": "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=10**6)),
    "newlines": "\n" * 10**6,
    "no seam": "_-" * 500_000,
    "one digit": "0" * 10**6,
    "chinese": "".join(random.Random(0).choices("的一是不了人我在有他这中大来上国", k=10**6)),
    "spaces before letters": (" " * 999 + "x") * 1000,
}


def test_the_vocabulary_has_the_size_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 1000
    assert tokenizer.end_of_text == 0
    assert sorted(tokenizer.byte_lengths()[:257]) == [0] + [1] * 256


def test_the_split_is_that_of_qwen2(tokenizer: Tokenizer) -> None:
    split = tokenizer._inner.pre_tokenizer.pre_tokenize_str("DON'T  stop123!\n\n x")
    assert [piece for piece, _ in split] == ["DON", "'T", "Ġ", "Ġstop", "1", "2", "3", "!ĊĊ", "Ġx"]
    assert "{1,3}" not in SPLIT


def test_special_tokens_come_first_and_are_no_text(source_text: str) -> None:
    chosen = TokenizerSettings(vocab_size=400, special_tokens=("<|im_start|>", "<|im_end|>"))
    tokenizer = train_bpe([source_text + "<|im_start|>" * 50], chosen)
    assert tokenizer.special_ids == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    assert tokenizer.vocab_size == 400
    assert not {0, 1, 2} & set(tokenizer.encode("a<|im_start|>b<|endoftext|>"))
    assert tokenizer.decode(tokenizer.encode("a<|im_start|>b")) == "a<|im_start|>b"


@pytest.mark.parametrize("tokens", ['["<|endoftext|>"]', '["<a>","<a>"]', '["x"]'])
def test_special_tokens_that_cannot_be_told_apart_are_refused(tokens: str) -> None:
    with pytest.raises(SettingError, match="special_tokens = "):
        load_settings(TokenizerSettings, None, [f"special_tokens={tokens}"])


def test_special_tokens_take_places_in_the_vocabulary() -> None:
    with pytest.raises(SettingError, match="special_tokens = ") as caught:
        load_settings(TokenizerSettings, None, ["vocab_size=257", 'special_tokens=["<a>"]'])
    assert "vocab_size=258 or more" in caught.value.cure


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"split": "gpt2"}, ["DON", "'", "T", "Ġ", "Ġstop", "Ġ1234", "!", "ĊĊĠ", "Ġx"]),
        ({"split": "gpt4"}, ["DON", "'T", "Ġ", "Ġstop", "Ġ", "123", "4", "!ĊĊ", "Ġ", "Ġx"]),
        ({"split": "gpt4", "digits": "single"}, ["DON", "'T", "Ġ", "Ġstop", "Ġ", "1", "2", "3", "4", "!ĊĊ", "Ġ", "Ġx"]),
        ({"split": "gpt2", "digits": "single"}, ["DON", "'", "T", "Ġ", "Ġstop", "Ġ", "1", "2", "3", "4", "!", "ĊĊĠ", "Ġx"]),
        ({"split": "qwen2", "digits": "up_to_three"}, ["DON", "'T", "Ġ", "Ġstop", "Ġ", "123", "4", "!ĊĊ", "Ġ", "Ġx"]),
    ],
    ids=str,
)
def test_the_other_splits(source_text: str, chosen: dict[str, str], words: list[str]) -> None:
    settings = TokenizerSettings.model_validate({"vocab_size": 300, **chosen})
    split = train_bpe([source_text], settings)._inner.pre_tokenizer.pre_tokenize_str("DON'T  stop 1234!\n\n  x")
    assert [piece for piece, _ in split] == words


def test_training_is_deterministic(tokenizer: Tokenizer, source_text: str) -> None:
    again = train_bpe([source_text], TokenizerSettings(vocab_size=1000))
    assert again.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("kind", PATHOLOGICAL)
def test_pathological_text_trains_and_encodes_in_linear_time(tokenizer: Tokenizer, kind: str) -> None:
    started_at = time.process_time()
    text = PATHOLOGICAL[kind]
    train_bpe([text], TokenizerSettings(vocab_size=257))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert time.process_time() - started_at < 20


def test_training_on_one_huge_random_word_is_not_quadratic() -> None:
    started_at = time.process_time()
    train_bpe([PATHOLOGICAL["random letters"]], TokenizerSettings(vocab_size=2000))
    assert time.process_time() - started_at < 20


def test_too_large_a_vocabulary_names_what_the_text_supports() -> None:
    texts = ["the cat sat on the mat and the rat " * 3]
    with pytest.raises(SettingError, match=r"1000 tokens is more than this text supports, which is (2[0-9]+)") as caught:
        train_bpe(texts, TokenizerSettings(vocab_size=1000))
    assert caught.value.exit_code == 2
    supported = int(caught.value.what.rpartition(" ")[2])
    assert str(supported) in caught.value.cure
    assert train_bpe(texts, TokenizerSettings(vocab_size=supported)).vocab_size == supported


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(SettingError, match="vocab_size = 256 is not possible"):
        load_settings(TokenizerSettings, None, ["vocab_size=256"])


def test_a_panic_of_the_library_becomes_a_data_error() -> None:
    panic = type("PanicException", (BaseException,), {})

    def texts() -> Iterator[str]:
        yield "text"
        raise panic("index out of bounds")

    with pytest.raises(DataError, match="failed on this text"):
        train_bpe(texts(), TokenizerSettings(vocab_size=257))


def test_errors_of_the_reader_pass_through_training() -> None:
    def texts() -> Iterator[str]:
        yield "text"
        raise DataError("unreadable", where="file", cure="mend it")

    with pytest.raises(DataError, match="unreadable"):
        train_bpe(texts(), TokenizerSettings(vocab_size=257))


def test_interruption_passes_through_training() -> None:
    def texts() -> Iterator[str]:
        yield "text"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_bpe(texts(), TokenizerSettings(vocab_size=257))
