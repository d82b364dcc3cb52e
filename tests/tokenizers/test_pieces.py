import time

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from foretell.base.groups import grouped
from foretell.tokenizers.pieces import pieces
from foretell.tokenizers.tokenizer import Tokenizer

PROSE = st.text(alphabet=st.sampled_from("abZ é中9 '.,\n\r\t²_\u0301"), max_size=200)


@given(PROSE, st.integers(1, 40), st.integers(0, 40))
def test_pieces_make_the_text_and_are_bounded(text: str, size: int, more: int) -> None:
    parts = list(pieces(text, size, size + more))
    assert "".join(parts) == text
    assert all(parts)
    assert all(len(part) <= size + size + more for part in parts)


@pytest.fixture(scope="module", params=["qwen2", "gpt2"])
def inner(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer.from_str(tokenizer._inner.to_str())
    if request.param == "gpt2":
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return inner


@given(PROSE, st.integers(1, 30))
def test_seams_do_not_change_tokens(inner: tokenizers.Tokenizer, text: str, size: int) -> None:
    parts = inner.encode_batch(list(pieces(text, size, len(text) + 1)))
    assert [token for part in parts for token in part.ids] == inner.encode(text).ids


def test_a_long_text_is_cut_at_seams() -> None:
    assert list(pieces("one two\nthree 4 five", 2, 100)) == ["one", " two\n", "three 4 five"]
    assert list(pieces("x" * 25, 5, 10)) == ["x" * 10, "x" * 10, "x" * 5]


def test_a_megabyte_without_seam_takes_linear_time() -> None:
    started_at = time.process_time()
    assert len(list(pieces(" " * 10**6))) > 1
    assert time.process_time() - started_at < 2


@given(st.lists(st.integers(0, 10)), st.integers(1, 20))
def test_groups_close_at_their_limit(items: list[int], limit: int) -> None:
    groups = list(grouped(items, lambda item: item, limit))
    assert [item for group in groups for item in group] == items
    assert all(sum(group) >= limit > sum(group[:-1]) for group in groups[:-1])
