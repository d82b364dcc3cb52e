"""Our trainer beside the library's: the merges must be the very same."""

import argparse
import inspect
import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import models, pre_tokenizers, trainers

from foretell.tokenizers.bpe import LONGEST_WORD, train_bpe
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.merges import learn_merges
from foretell.tokenizers.splits import patterns, splitters, word_counts
from foretell.tokenizers.styles import byte_alphabet
from foretell.tokenizers.tokenizer import END_OF_TEXT

CHOICES = [
    *({"split": "qwen2"}, {"split": "gpt4"}, {"split": "gpt2"}),
    *({"split": "gpt2", "digits": "single"}, {"split": "gpt2", "digits": "up_to_three"}),
]
LETTERS = "abI'sStT é中9²٣½ \t\n\r\v\x1c\x85\xa0\u2028\u3000._-\x00ſK\u0301😀ⅣǅΣ"
PLAIN = st.text(st.sampled_from("ab1.é \n"), max_size=60)  # all white space that the quick way of cutting knows
MIXED = PLAIN | st.text(st.sampled_from(LETTERS), max_size=60) | st.text(max_size=40)


def theirs(texts: list[str], chosen: TokenizerSettings) -> list[tuple[str, str]]:
    """The merges that the library's trainer learns."""
    inner, to_bytes = Inner(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = [*splitters(patterns(chosen)), pre_tokenizers.FixedLength(LONGEST_WORD)]
    inner.pre_tokenizer = pre_tokenizers.Sequence([*words, to_bytes])
    trainer = trainers.BpeTrainer(
        vocab_size=chosen.vocab_size,
        min_frequency=2,
        initial_alphabet=to_bytes.alphabet(),
        special_tokens=[END_OF_TEXT, *chosen.special_tokens],
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return merges(inner)


def merges(inner: Inner) -> list[tuple[str, str]]:
    return [(left, right) for left, right in json.loads(inner.to_str())["model"]["merges"]]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    chance = random.Random(0)
    words = ["".join(chance.choices("aeinrst", k=chance.randint(1, 9))) for _ in range(400)]
    mixed = " ".join(chance.choices([*words, "é中文", "123", "4567", "\n", "\r\n\t", "--", "don't", "!?"], k=8000))
    return {"code": inspect.getsource(argparse), "made up": mixed, "chinese": "的一是不了人我在有他这中大来上国" * 40 + mixed}


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("name", ["code", "made up", "chinese"])
def test_the_merges_are_the_librarys(texts: dict[str, str], name: str, choice: dict[str, str]) -> None:
    chosen = TokenizerSettings.model_validate({"vocab_size": 700, **choice})
    ours = merges(train_bpe([texts[name]], chosen)._inner)
    assert len(ours) == 700 - 257
    assert ours == theirs([texts[name]], chosen)


@given(st.lists(st.text(st.sampled_from("ab-"), max_size=40), max_size=6), st.integers(262, 400))
@settings(max_examples=300)
def test_runs_and_tokens_that_come_twice_are_merged_as_there(parts: list[str], size: int) -> None:
    letters = {byte: letter for letter, byte in byte_alphabet().items()}
    ids = {content: token for token, content in enumerate([END_OF_TEXT, *sorted(letters.values())])}
    chosen = TokenizerSettings(vocab_size=size)
    counts = Counter({word.encode(): count for word, count in word_counts(parts, patterns(chosen)).items()})
    assert learn_merges(counts, ids, [letters[byte] for byte in range(256)], size) == theirs(parts, chosen)


@given(st.lists(MIXED, max_size=4), st.sampled_from(CHOICES))
@settings(max_examples=300)
def test_the_words_are_the_librarys(parts: list[str], choice: dict[str, str]) -> None:
    expressions = patterns(TokenizerSettings.model_validate(choice))
    library = pre_tokenizers.Sequence([*splitters(expressions)])
    expected = Counter(word for text in parts for word, _ in library.pre_tokenize_str(text))
    assert word_counts(parts, expressions) == expected
