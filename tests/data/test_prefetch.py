"""Reading ahead changes nothing: the same batches whether the guess was right, wrong, or never made."""

from typing import Any

import pytest
import torch

from foretell.base.errors import DataError
from foretell.data.batches import Batch
from foretell.data.prefetch import Prefetch


class Numbers:
    """Batches that hold their sample numbers."""

    def batch(self, first_sample: int, count: int) -> Batch:
        if first_sample > 900:
            raise DataError("unreadable", where="here", cure="restore it")
        samples = torch.arange(first_sample, first_sample + count)[:, None]
        return Batch(samples, samples, torch.ones(count, 1))


@pytest.fixture
def feed() -> Any:
    feed = Prefetch(Numbers(), micro_batch=3)
    yield feed
    feed.close()


def numbers(pieces: list[Batch]) -> list[list[int]]:
    return [piece.tokens_BT[:, 0].tolist() for piece in pieces]


def test_the_same_whether_it_was_read_ahead_or_not(feed: Prefetch) -> None:
    expected = [[10, 11, 12], [13, 14, 15], [16]]
    assert numbers(feed.take(10, 7)) == expected
    feed.ahead(10, 7)
    assert numbers(feed.take(10, 7)) == expected
    feed.ahead(17, 7)
    assert numbers(feed.take(10, 7)) == expected  # the run went back: what was read ahead is not what is needed


def test_an_error_of_the_reader_is_told_when_the_batch_is_taken(feed: Prefetch) -> None:
    feed.ahead(901, 2)
    with pytest.raises(DataError, match="unreadable"):
        feed.take(901, 2)
