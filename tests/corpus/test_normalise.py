"""One spelling for the same text."""

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped
from foretell.corpus.normalise import normalise

SETTINGS = CorpusSettings()


def normalised(text: str, settings: CorpusSettings = SETTINGS) -> str:
    item = normalise(Document("id", text, "source"), settings)
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
        ("cafÃ© â€œquotedâ€\x9d Ã…ngstrÃ¶m\nÁrvíztűrő — “é”", "café “quoted” Ångström\nÁrvíztűrő — “é”"),
    ],
)
def test_spellings(text: str, expected: str) -> None:
    assert normalised(text) == expected


def test_settings_steer_it() -> None:
    assert normalised("ﬁ", CorpusSettings(normal_form="NFKC")) == "fi"
    assert normalised("cafÃ©", CorpusSettings(fix_mojibake=False)) == "cafÃ©"
    assert normalised("a\n\n\nb", CorpusSettings(max_blank_lines=0)) == "a\nb"


@settings(deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_twice_is_once(text: str) -> None:
    no_repair = CorpusSettings(fix_mojibake=False)
    once = normalised(text, no_repair)
    assert normalised(once, no_repair) == once
    assert unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize("text", [" " * 10**6 + "x", "\n" * 10**6 + "x", "x\n \n" * 10**5, "Ã" * 10**5])
def test_hostile_runs_take_linear_time(text: str) -> None:
    started_at_seconds = time.perf_counter()
    normalised(text)
    assert time.perf_counter() - started_at_seconds < 5
