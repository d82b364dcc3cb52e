"""Spans of bytes that stood before: as a naive search finds them, in any slices."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from foretell.corpus import substrings as module
from foretell.corpus.config import CorpusSettings
from foretell.corpus.substrings import Spans, repeated_spans, without_spans

PIECE = st.text(st.sampled_from("ab"), max_size=40) | st.text(st.sampled_from("aé中🙂"), max_size=12)


@st.composite
def corpora(draw: st.DrawFn) -> list[tuple[int, str]]:
    """Texts that have pieces in common."""
    pool = draw(st.lists(PIECE, min_size=1, max_size=4))
    texts = draw(st.lists(st.lists(st.sampled_from(pool) | PIECE, max_size=4).map("".join), max_size=6))
    return [(3 * number, text) for number, text in enumerate(texts)]


def found(texts: list[tuple[int, str]], length: int) -> list[tuple[int, Spans]]:
    with TemporaryDirectory() as name:
        result = list(repeated_spans(iter(texts), CorpusSettings(substring_bytes=length), Path(name)))
        assert not list(Path(name).iterdir())
    return result


def naive(texts: list[tuple[int, str]], length: int) -> list[tuple[int, Spans]]:
    first: dict[bytes, tuple[int, int]] = {}
    result = list[tuple[int, Spans]]()
    for number, text in texts:
        content, repeated = text.encode(), set[int]()
        for place in range(len(content) - length + 1):
            where = first.setdefault(content[place : place + length], (number, place))
            if where[0] != number or place - where[1] >= length:
                repeated |= set(range(place, place + length))
        before = [len(content[:stop].decode(errors="ignore")) for stop in range(len(content) + 1)]
        whole = [set(range(len(text[:index].encode()), len(text[: index + 1].encode()))) <= repeated for index in range(len(text))]
        edges = [index for index in range(len(text) + 1) if ([False, *whole][index]) != ([*whole, False][index])]
        result += [(number, list(zip(edges[::2], edges[1::2], strict=True)))] if edges else []
        assert before[-1] == len(text)
    return result


@given(corpora(), st.sampled_from([16, 17, 33]), st.sampled_from([40, 2**19]), st.sampled_from([5, 2**20]))
@limits(deadline=None, max_examples=80)
def test_as_a_naive_search(texts: list[tuple[int, str]], length: int, slice_bytes: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SLICE_BYTES", slice_bytes)
        patch.setattr(module, "BLOCK", block)
        assert found(texts, length) == naive(texts, length)


@pytest.mark.parametrize("period", ["a", "ab", "é", "abc" * 30])
def test_periodic_text_keeps_its_beginning(period: str) -> None:
    text = period * (200_000 // len(period))
    ((number, ((start, stop),)),) = found([(5, text)], 100)
    assert (number, stop) == (5, len(text)) and 50 <= start <= 200


def test_nothing_to_do() -> None:
    assert not found([], 20) and not found([(0, "")], 20) and not found([(0, "short"), (1, "short")], 20)
    assert not list(repeated_spans(iter([(0, "a" * 99)]), CorpusSettings(), Path("nowhere")))


def test_without_spans() -> None:
    assert without_spans("0123456789", [(0, 2), (5, 6), (9, 10)]) == "234678"
    assert without_spans("0123", []) == "0123"
