import numpy as np
import pytest
import torch

from foretell.base.errors import DataError
from foretell.corpus.document import Document
from foretell.data.batches import Batch, TrainBatches, held_out_windows, spread, trainable_windows

from .conftest import MakeShards

REQUIRED = ("tokens_BT", "targets_BT", "weight_BT")


def same(left: Batch, right: Batch) -> bool:
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in REQUIRED)


def joined(batches: list[Batch]) -> Batch:
    return Batch(*(torch.cat([getattr(batch, name) for batch in batches]) for name in REQUIRED))


def test_a_decoder_s_batches_hold_nothing_of_an_encoder_s(make_shards: MakeShards, documents: list[Document]) -> None:
    reader = make_shards(documents)
    for batch in (TrainBatches(reader.train, seed=1, context_length=32).batch(0, 2), next(held_out_windows(reader.held_out, 32))):
        assert (batch.segments_BT, batch.keep_BT, batch.next_B) == (None, None, None)


def test_a_batch_is_what_the_shards_hold(make_shards: MakeShards, documents: list[Document]) -> None:
    split = make_shards(documents).train
    text = split.read(0, split.tokens)
    batch = TrainBatches(split, seed=1, context_length=32).batch(3, 8)
    assert batch.tokens_BT.shape == batch.targets_BT.shape == batch.weight_BT.shape == (8, 32)
    assert (batch.tokens_BT.dtype, batch.weight_BT.dtype) == (torch.int64, torch.float32)
    assert torch.equal(batch.tokens_BT[:, 1:], batch.targets_BT[:, :-1])
    assert bool((batch.weight_BT == 1).all())
    windows = np.lib.stride_tricks.sliding_window_view(text, 33)
    for tokens, targets in zip(batch.tokens_BT, batch.targets_BT, strict=True):
        assert (windows == np.append(tokens.numpy(), targets[-1])).all(axis=1).any()


def test_batches_are_pure_in_their_arguments(make_shards: MakeShards, documents: list[Document]) -> None:
    split = make_shards(documents).train
    batches = TrainBatches(split, seed=1, context_length=16)
    whole = batches.batch(5, 12)
    assert same(whole, TrainBatches(split, seed=1, context_length=16).batch(5, 12))
    assert same(whole, joined([batches.batch(5, 4), batches.batch(9, 8)]))
    assert not same(whole, TrainBatches(split, seed=2, context_length=16).batch(5, 12))
    assert not same(whole, batches.batch(5 + batches.windows, 12))


@pytest.mark.parametrize("context_length", [7, 64])
def test_an_epoch_sees_all_text_but_its_edges_once(make_shards: MakeShards, documents: list[Document], context_length: int) -> None:
    split = make_shards(documents).train
    batches = TrainBatches(split, seed=3, context_length=context_length)
    for epoch in range(3):
        seen = batches.batch(epoch * batches.windows, batches.windows).targets_BT.flatten()
        counts = torch.bincount(seen, minlength=600)
        missing = torch.bincount(torch.from_numpy(split.read(0, split.tokens)), minlength=600) - counts
        assert int(missing.min()) >= 0
        assert int(missing.sum()) == split.tokens - batches.windows * context_length < 2 * context_length


def test_text_shorter_than_needed_is_a_data_error(make_shards: MakeShards, documents: list[Document]) -> None:
    split = make_shards(documents).train
    fitting = split.tokens // 2
    assert TrainBatches(split, seed=1, context_length=fitting).batch(0, 3).tokens_BT.shape == (3, fitting)
    with pytest.raises(DataError, match=f"has {split.tokens} tokens, .* context of {fitting + 1} needs") as caught:
        TrainBatches(split, seed=1, context_length=fitting + 1)
    assert f"model.context_length={fitting} or less, or give more text" in caught.value.cure


@pytest.mark.parametrize("context_length", [1, 13, 64, 10**5])
def test_held_out_windows_hold_every_token_once_as_target(
    make_shards: MakeShards, documents: list[Document], context_length: int
) -> None:
    reader = make_shards(documents)
    split, text = reader.held_out, reader.held_out.read(0, reader.held_out.tokens)
    batch = joined(list(held_out_windows(split, context_length, micro_batch=3)))
    targets, weights = batch.targets_BT.flatten().numpy(), batch.weight_BT.flatten().numpy()
    assert np.array_equal(targets[: split.tokens], text)
    assert np.array_equal(batch.tokens_BT.flatten().numpy()[: split.tokens], np.append(split.end_of_text, text[:-1]))
    assert np.array_equal(weights, np.append(text != split.end_of_text, np.zeros(len(targets) - split.tokens)))
    lengths = reader.tokenizer().byte_lengths()
    assert (lengths[targets] * weights).sum() == split.bytes


def test_held_out_batches_have_their_size(make_shards: MakeShards, documents: list[Document]) -> None:
    split = make_shards(documents).held_out
    rows = [len(batch.tokens_BT) for batch in held_out_windows(split, 8, micro_batch=4)]
    assert set(rows[:-1]) == {4}
    assert sum(rows) == -(-split.tokens // 8)


def test_limited_windows_are_evenly_spaced(make_shards: MakeShards, documents: list[Document]) -> None:
    split = make_shards(documents).held_out
    everything = joined(list(held_out_windows(split, 8)))
    some = joined(list(held_out_windows(split, 8, limit_windows=5)))
    places = np.arange(5) * len(everything.tokens_BT) // 5
    assert torch.equal(some.targets_BT, everything.targets_BT[places])
    assert torch.equal(joined(list(held_out_windows(split, 8, limit_windows=10**6))).tokens_BT, everything.tokens_BT)


def test_windows_are_spread_and_grouped() -> None:
    assert [rows.tolist() for rows in spread(7, 3, None)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [rows.tolist() for rows in spread(7, 2, 3)] == [[0, 2], [4]]


def test_content_that_is_less_than_the_context(make_shards: MakeShards, documents: list[Document]) -> None:
    split = make_shards(documents).train
    content = split.tokens // 3
    assert trainable_windows(split, content + 3, content, least=2) == 2
    with pytest.raises(DataError, match=f"context of {content + 4} needs at least {3 * (content + 1)}") as caught:
        trainable_windows(split, content + 4, content + 1, least=2)
    assert f"model.context_length={content + 3} or less" in caught.value.cure
