"""One spelling for the same text."""

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped
from foretell.corpus.normalise import normalise


def normalised(text: str) -> str:
    item = normalise(Document("id", text, "source"), CorpusSettings())
    return item.reason if isinstance(item, Dropped) else item.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc\x85d\u2028e", "a\nb\nc\nd\ne"),
        ("a \t\nb\u00a0\n", "a\nb"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("\ufeffa\x00b\x1bc\x9f", "abc"),
        ("cafe\u0301", "café"),
        ("    indented\n\tcode", "    indented\n\tcode"),
        (" \n\t\n", "empty"),
        ("\N{WOMAN}\u200d\N{PERSONAL COMPUTER}", "\N{WOMAN}\u200d\N{PERSONAL COMPUTER}"),
    ],
)
def test_spellings(text: str, expected: str) -> None:
    assert normalised(text) == expected


def test_thirty_marks_on_a_letter_stay() -> None:
    assert normalised("o" + "\u0308\u0323" * 15 + "x") == "\u1ecd" + "\u0323" * 14 + "\u0308" * 15 + "x"
    assert normalised("o" + "\u0308\u0323" * 99 + "x") == "\u1ecd" + "\u0323" * 14 + "\u0308" * 15 + "x"


@settings(deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_twice_is_once(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once
    assert unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize(
    "text", [" " * 10**6 + "x", "\n" * 10**6 + "x", "x\n \n" * 10**5, "Ã" * 10**5, "a" + "\u0301\u0323" * 10**5, "\u0f73" * 10**5]
)
def test_hostile_runs_take_linear_time(text: str) -> None:
    started_at_seconds = time.perf_counter()
    normalised(text)
    assert time.perf_counter() - started_at_seconds < 5
