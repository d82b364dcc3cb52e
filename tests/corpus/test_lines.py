"""Lines and paragraphs that stood in an earlier document go, all else stays."""

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from foretell.corpus.config import CorpusSettings
from foretell.corpus.lines import line_keys, line_table, seen_before, without_repeated

LINES = CorpusSettings(duplicate_lines="line", min_line_characters=2)
PARAGRAPHS = CorpusSettings(duplicate_lines="paragraph", min_line_characters=2)
LINE = st.sampled_from(["aa", " aa ", "bb", "cc", "dd", "x", "", " "])
TEXTS = st.lists(st.tuples(st.lists(LINE, max_size=6).map("\n".join), st.booleans()), max_size=10)


def cleaned(texts: list[tuple[str, bool]], cuts: list[int], settings: CorpusSettings) -> list[str]:
    """The texts that are kept (True), after the whole road."""
    bounds = [0, *sorted(cut % (len(texts) + 1) for cut in cuts), len(texts)]
    chunks = [texts[start:stop] for start, stop in pairwise(bounds)]
    with TemporaryDirectory() as name:
        files = [Path(name, f"{number}.npy") for number in range(len(chunks))]
        for path, chunk in zip(files, chunks, strict=True):
            np.save(path, line_table([text for text, _ in chunk], settings))
        kept = [np.array([stays for _, stays in chunk], np.bool_) for chunk in chunks]
        result = list[str]()
        for chunk, rows in zip(chunks, seen_before(files, kept, settings, Path(name)), strict=True):
            result += [
                without_repeated(text, rows["key"][rows["document"] == number], settings)
                for number, (text, stays) in enumerate(chunk)
                if stays
            ]
        assert len(list(Path(name).iterdir())) == len(files)
    return result


def naive(texts: list[tuple[str, bool]]) -> list[str]:
    seen, result = set[str](), list[str]()
    for text, stays in texts:
        if stays:
            lines = text.splitlines(keepends=True)
            result.append("".join(line for line in lines if line.strip() not in seen))
            seen |= {line.strip() for line in lines if len(line.strip()) >= 2}
    return result


@given(TEXTS, st.lists(st.integers(0, 10), max_size=3))
@limits(deadline=None, max_examples=60)
def test_lines_in_any_chunks(texts: list[tuple[str, bool]], cuts: list[int]) -> None:
    assert cleaned(texts, cuts, LINES) == naive(texts)


def test_paragraphs() -> None:
    texts = ["one\nline\n\ntwo\n \n\n  three", "two\n\nTwo\n\n\nthree\nmore", "one\nline", "two\n\n\nthree\n"]
    assert cleaned([(text, True) for text in texts], [2], PARAGRAPHS) == [texts[0], "Two\n\n\nthree\nmore", "", ""]


def test_short_lines_and_other_settings_leave_the_text_alone() -> None:
    text = "a line\na line\n"
    assert len(line_keys(text, LINES)) == 1
    assert not len(line_keys(text, CorpusSettings(duplicate_lines="line")))
    assert not len(line_keys(text, CorpusSettings()))
    assert without_repeated(text, line_keys("another", LINES), LINES) == text


@pytest.mark.parametrize("text", ["\n" * 100_000, " " * 100_000, ("\n" + " " * 200) * 1000, "x\n\n" * 50_000])
def test_odd_texts_are_no_trouble(text: str) -> None:
    assert without_repeated(text, line_keys("other", PARAGRAPHS), PARAGRAPHS) == text
