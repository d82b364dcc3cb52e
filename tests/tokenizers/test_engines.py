import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.base.errors import DataError
from foretell.tokenizers import engines
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.engines import PROBE, Engine, fastest
from foretell.tokenizers.tokenizer import END_OF_TEXT, Tokenizer
from foretell.tokenizers.train import train

CHOICES: list[dict[str, Any]] = [
    {},
    {"split": "gpt4"},
    {"split": "gpt2"},
    {"split": "gpt2", "digits": "single"},
    {"special_tokens": ("<|im_end|>",)},
]
Panic = type("PanicException", (BaseException,), {})


@pytest.fixture(scope="module")
def learned(source_text: str) -> list[Tokenizer]:
    return [train(lambda: [source_text], TokenizerSettings.model_validate({"vocab_size": 700, **choice})) for choice in CHOICES] + [
        train(list, TokenizerSettings(kind="byte"))
    ]


@pytest.fixture
def much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text is much text."""
    monkeypatch.setattr("foretell.tokenizers.tokenizer.MUCH_TEXT", 0)


@pytest.mark.parametrize("name", ["fastokens", "gigatoken"])
def test_a_fast_library_holds_what_we_learn(learned: list[Tokenizer], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name)
    other = {"fastokens": "_gigatoken", "gigatoken": "_fastokens"}[name]
    monkeypatch.setattr(engines, other, lambda state: None)
    found = [fastest(tokenizer._inner, tokenizer.special_ids) for tokenizer in learned]
    held = [engine is not None for engine in found]
    assert held == ([True] * 6 if name == "fastokens" else [True, True, False, False, True, True])
    assert {engine.name for engine in found if engine} == {name}


@given(st.lists(st.text(max_size=60) | st.text(st.sampled_from("abI's é中9² \t\n\r\x1c\x85\xa0._-<|>"), max_size=60), max_size=5))
@settings(deadline=None)  # the first one finds the libraries
def test_the_ids_are_those_of_the_reference(learned: list[Tokenizer], texts: list[str]) -> None:
    texts += [f"a{END_OF_TEXT}b<|im_end|>", *PROBE]
    for tokenizer in learned:
        reference = [ids.tolist() for ids in tokenizer._by_reference(texts)]
        assert tokenizer._quick is None or [ids.tolist() for ids in tokenizer._quick.ids(texts) or []] == reference


def test_much_text_goes_through_it_and_special_tokens_stay_text(source_text: str) -> None:
    pytest.importorskip("fastokens")
    tokenizer = train(lambda: [source_text], TokenizerSettings(vocab_size=600, special_tokens=("<|im_end|>",)))
    text = f"{source_text}{END_OF_TEXT}<|im_end|> " * 8
    assert tokenizer.encode("few") == tokenizer._by_reference(["few"])[0].tolist()
    assert "_quick" not in tokenizer.__dict__
    ids = tokenizer.encode(text)
    assert tokenizer.__dict__["_quick"].name == tokenizer.engine == "fastokens"
    assert ids == tokenizer._inner.encode(text, add_special_tokens=False).ids
    assert not {0, 1} & set(ids)


def broken(error: type[BaseException]) -> Callable[[str], Any]:
    def encode(texts: list[str]) -> list[Any]:
        raise error("capacity overflow")

    return lambda state: encode


@pytest.mark.parametrize("error", [Panic, ValueError, MemoryError])
def test_a_library_that_fails_is_not_used(
    learned: list[Tokenizer], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    for name in ("_fastokens", "_gigatoken"):
        monkeypatch.setattr(engines, name, broken(error))
    assert fastest(learned[0]._inner, []) is None


def test_a_library_with_other_ids_is_not_used(learned: list[Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    def other(texts: list[str]) -> list[Any]:
        encoded = learned[0]._by_reference(texts)
        encoded[-1][-1] += 1
        return encoded

    for name in ("_fastokens", "_gigatoken"):
        monkeypatch.setattr(engines, name, lambda state: other)
    assert fastest(learned[0]._inner, []) is None


@pytest.mark.usefixtures("much")
def test_where_it_panics_the_reference_encodes(source_text: str) -> None:
    tokenizer, seen = train(lambda: [source_text], TokenizerSettings(vocab_size=300)), []

    def encode(texts: list[str]) -> list[Any]:
        seen.append(texts)
        raise Panic("index out of bounds")

    tokenizer.__dict__["_quick"] = Engine("fast", encode)
    assert tokenizer.encode("the cat") == tokenizer._inner.encode("the cat").ids
    assert seen == [["the cat"]]
    with pytest.raises(DataError, match="failed on a text"):
        tokenizer.encode("a\ud800b")


def test_interruption_passes_through() -> None:
    def encode(texts: list[str]) -> list[Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Engine("fast", encode).ids(["text"])


def test_after_a_fork_the_reference_encodes() -> None:
    engine = Engine("fast", lambda texts: [np.zeros(1, np.uint32)], process=os.getpid() + 1)
    assert engine.ids(["text"]) is None


def test_one_thread_means_the_reference(learned: list[Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert fastest(learned[0]._inner, []) is None


def test_without_the_libraries_the_reference_encodes(source_text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Iterator[None]:
        raise ImportError(name)

    monkeypatch.setattr(engines, "import_module", missing)
    tokenizer = train(lambda: [source_text], TokenizerSettings(vocab_size=300))
    assert tokenizer.engine == "tokenizers"
    assert len(tokenizer.encode(source_text * 9)) > 1000
