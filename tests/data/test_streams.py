"""Streams: each row reads on where it stopped, every token of an epoch comes once, and any step can be asked for."""

from typing import Any

import numpy as np
import pytest
import torch

from foretell.base.errors import DataError
from foretell.corpus.document import Document
from foretell.data.shards import Split
from foretell.data.streams import StreamBatches


@pytest.fixture
def split(make_shards: Any, documents: list[Document]) -> Split:
    found = make_shards(documents).train
    assert isinstance(found, Split)
    return found


@pytest.mark.parametrize(("context_length", "rows"), [(16, 4), (7, 5), (40, 1), (33, 16)])
def test_row_b_of_a_batch_continues_row_b_of_the_batch_before(split: Split, context_length: int, rows: int) -> None:
    streams = StreamBatches(split, 1, context_length, rows)
    assert streams.steps > 1
    for epoch in range(2):
        before: torch.Tensor | None = None
        for step in range(epoch * streams.steps, (epoch + 1) * streams.steps):
            batch = streams.batch(step * rows, rows)
            assert batch.tokens_BT.shape == (rows, context_length)
            assert torch.equal(batch.tokens_BT[:, 1:], batch.targets_BT[:, :-1]) and bool((batch.weight_BT == 1).all())
            assert streams.starts(step) == (before is None)
            if before is not None:
                assert torch.equal(batch.tokens_BT[:, 0], before)
            before = batch.targets_BT[:, -1]


@pytest.mark.parametrize(("context_length", "rows"), [(16, 4), (7, 5), (33, 16)])
def test_every_token_of_an_epoch_comes_once(split: Split, context_length: int, rows: int) -> None:
    """The targets of an epoch, stream behind stream, are one run of the text; less than a batch and a window are left out."""
    streams = StreamBatches(split, 1, context_length, rows)
    text = split.read(0, split.tokens)
    beginnings = set()
    for epoch in range(4):
        steps = range(epoch * streams.steps, (epoch + 1) * streams.steps)
        read = torch.stack([streams.batch(step * rows, rows).targets_BT for step in steps], dim=1).flatten().numpy()
        places = [start for start in range(1, context_length + 1) if np.array_equal(text[start : start + len(read)], read)]
        assert places
        assert len(read) == streams.windows * context_length > split.tokens - (rows + 1) * context_length - 1
        beginnings.add(places[0])
    assert len(beginnings) > 1  # another epoch cuts the text at other places


def test_any_step_can_be_asked_for(split: Split) -> None:
    """So that a resumed run reads on exactly, and a batch may be taken in unequal pieces."""
    streams, rows = StreamBatches(split, 1, 16, 6), 6
    for step in (0, 3, streams.steps, 5 * streams.steps + 2, 10**12):
        whole = streams.batch(step * rows, rows)
        again = StreamBatches(split, 1, 16, 6)
        pieces = [again.batch(step * rows + first, count) for first, count in ((0, 1), (1, 3), (4, 2))]
        assert torch.equal(torch.cat([piece.tokens_BT for piece in pieces]), whole.tokens_BT)
        assert torch.equal(torch.cat([piece.targets_BT for piece in pieces]), whole.targets_BT)
    assert any(
        not torch.equal(streams.batch(step, 6).tokens_BT, StreamBatches(split, 2, 16, 6).batch(step, 6).tokens_BT)
        for step in range(3)
    )


def test_text_that_is_too_short_is_told_at_once(split: Split) -> None:
    rows = (split.tokens - 17) // 16
    assert StreamBatches(split, 1, 16, rows).steps == 1
    needed = (rows + 2) * 16 + 1
    with pytest.raises(DataError, match=rf"has {split.tokens} tokens, {rows + 1} streams of 16 need at least {needed}") as caught:
        StreamBatches(split, 1, 16, rows + 1)
    assert "training.batch_tokens" in (caught.value.cure or "")
    split.tokens = needed
    last = StreamBatches(split, 1, 16, rows + 1)
    assert last.steps == 1 and all(bool((last.batch(step * (rows + 1), rows + 1).weight_BT == 1).all()) for step in range(20))
    split.tokens = needed - 1
    with pytest.raises(DataError, match="need at least"):
        StreamBatches(split, 1, 16, rows + 1)
