"""Signatures depend on the text alone, and agree as often as theory says."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.corpus import signatures as module
from foretell.corpus.config import CorpusSettings
from foretell.corpus.signatures import BASES, mixed, range_hashes, signatures

DEFAULTS = CorpusSettings()
WORDS = [f"word{number}" for number in range(3000)]
TEXTS = st.lists(st.text(st.sampled_from("abç ,.\n中文ี🙂İΣ") | st.characters(), max_size=40), max_size=12)


def text(seed: int, size: int = 250) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=size))


def edited(original: str, share: float, seed: int) -> str:
    choice = random.Random(seed)
    return " ".join("changed" if choice.random() < share else word for word in original.split())


def found(share: float) -> float:
    first = signatures([text(seed) for seed in range(400)], DEFAULTS)["bands"]
    second = signatures([edited(text(seed), share, seed) for seed in range(400)], DEFAULTS)["bands"]
    return float((first == second).any(axis=1).mean())


@given(TEXTS, st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_a_record_depends_on_its_text_alone(texts: list[str], batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        together = signatures(texts, DEFAULTS)
        patch.setattr(module, "BATCH_CHARACTERS", max(batch, max(map(len, texts), default=1)))
        assert np.array_equal(together, signatures(texts, DEFAULTS))
    for one, record in zip(texts, together, strict=True):
        assert signatures([one], DEFAULTS)[0] == record


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30), st.data())
@settings(deadline=None)
def test_hashes_of_ranges_are_polynomials(values: list[int], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    expected = sum(value * BASES[0] ** place for place, value in enumerate(values[start:stop])) % 2**64
    found = range_hashes(np.array(values, np.uint64), np.array([start]), np.array([stop]))
    assert found[0] == mixed(np.array([expected], np.uint64))[0]


def test_recall_follows_the_curve() -> None:
    # similarity after edits of a share e: (1-e)^5 of the sequences are shared, of 1 + that much in all
    for share in (0.01, 0.02, 0.04):
        common = (1 - share) ** 5
        similarity = common / (2 - common)
        expected = 1 - (1 - similarity**8) ** 14
        assert found(share) == pytest.approx(expected, abs=0.12)
    assert found(0.2) < 0.01


def test_case_and_punctuation_do_not_count() -> None:
    texts = ["The CAT, sat — on the mat!", "the cat sat on the mat", "the cat sat on the hat", "?!?", "***", ""]
    bands = signatures(texts, DEFAULTS)["bands"]
    equal = [[bool((first == second).any()) for second in bands] for first in bands]
    assert equal == [[row == column or {row, column} == {0, 1} for column in range(6)] for row in range(6)]


@pytest.mark.parametrize(
    "original",
    [
        "今天天气很好我们一起去公园散步吧明天也许会下雨" * 3,
        "हिन्दी में लिखा हुआ एक छोटा सा वाक्य यहाँ है और कुछ नहीं",
        "วันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะกันเถอะ" * 3,
    ],
)
def test_scripts_with_marks_and_without_spaces(original: str) -> None:
    changed = original + original[:3]
    bands = signatures([original, changed, original[::-1]], DEFAULTS)["bands"]
    assert (bands[0] == bands[1]).any() and not (bands[0] == bands[2]).any()


def test_long_texts_and_other_settings() -> None:
    long = text(7, 60_000)
    bands = signatures([long, long + " end", text(8, 60_000)], DEFAULTS)["bands"]
    assert (bands[0] == bands[1]).sum() > 10 and not (bands[0] == bands[2]).any()
    other = CorpusSettings(bands=3, rows=5, shingle_words=1)
    assert signatures(["a b c", "c b a"], other)["bands"].shape == (2, 3)
    assert np.array_equal(*signatures(["a b c", "c b a"], other)["bands"])
    exact = signatures(["x", "x", "X"], CorpusSettings(near_duplicates=False))
    assert exact["bands"].shape == (3, 0) and exact.dtype.itemsize == 16
    assert exact["exact"].tolist()[0] == exact["exact"].tolist()[1] != exact["exact"].tolist()[2]


def test_signatures_are_the_same_on_every_machine() -> None:
    record = signatures(["The quick brown fox jumps over the lazy dog. Ünïcode 中文"], DEFAULTS)[0]
    assert (int(record["exact"][0]), int(record["bands"][0]), int(record["bands"][13])) == (
        13648315135406254566,
        3396767590446794309,
        8265811333547069113,
    )
