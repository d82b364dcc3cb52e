from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from foretell.base.errors import DataError, SettingError
from foretell.corpus.document import Document
from foretell.data.batches import Batch
from foretell.data.corruption import MaskedBatches, Masking, held_out_masked
from foretell.data.shards import ShardReader

from .conftest import MakeShards

END, CLS, MASK, UNKNOWN = 0, 600, 601, 602  # end_of_text serves as [SEP], as in WordPiece shards; the others follow the vocabulary
CONTINUES = np.arange(603) % 3 == 0  # any third piece is said to continue a word
MASKING = Masking(cls=CLS, sep=END, mask=MASK, specials=(UNKNOWN,), vocab_size=603, continues_V=CONTINUES)
SINGLE, WORDS = replace(MASKING, next_sentence=False), replace(MASKING, next_sentence=False, whole_word=True)


@pytest.fixture
def reader(make_shards: MakeShards, documents: list[Document]) -> ShardReader:
    return make_shards(documents, held_out=0.2)


def same(left: Batch, right: Batch, rows: slice = slice(None)) -> bool:
    pairs = [(getattr(left, name), getattr(right, name)) for name in Batch.__dataclass_fields__]
    return all(a is b if a is None or b is None else torch.equal(a[rows], b) for a, b in pairs)


def found(text: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> bool:
    """Whether the tokens stand somewhere in the text, one after the other."""
    return bool((np.lib.stride_tricks.sliding_window_view(text, len(wanted)) == wanted).all(axis=1).any())


def segments(batch: Batch, row: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A and B as they were, after a look at the special tokens around them."""
    assert batch.segments_BT is not None
    targets, second = batch.targets_BT[row].numpy(), batch.segments_BT[row].numpy()
    middle = int(second.argmax())
    assert second.tolist() == [0] * middle + [1] * (len(second) - middle)
    assert (targets[0], targets[middle - 1], targets[-1]) == (CLS, END, END)
    return targets[1 : middle - 1], targets[middle:-1]


@pytest.mark.parametrize("masking", [MASKING, SINGLE, WORDS])
def test_shapes_and_types(reader: ShardReader, masking: Masking) -> None:
    batch = MaskedBatches(reader.train, 1, 32, masking).batch(3, 8)
    for name, dtype in (("tokens", torch.int64), ("targets", torch.int64), ("weight", torch.float32), ("segments", torch.int64)):
        part = getattr(batch, f"{name}_BT")
        assert (part.shape, part.dtype) == ((8, 32), dtype)
    assert batch.keep_BT is None  # training windows are always full
    if batch.next_B is not None:
        assert (batch.next_B.shape, batch.next_B.dtype) == ((8,), torch.int64)
    assert (batch.next_B is None) == (not masking.next_sentence)


def test_one_segment_is_a_window_between_cls_and_sep(reader: ShardReader) -> None:
    batches, text = MaskedBatches(reader.train, 1, 32, SINGLE), reader.train.read(0, reader.train.tokens)
    assert batches.windows == reader.train.tokens // 30 - 1
    batch = batches.batch(0, 20)
    for targets in batch.targets_BT.numpy():
        assert (targets[0], targets[-1]) == (CLS, END)
        assert found(text, targets[1:-1])
    assert batch.segments_BT is not None
    assert not batch.segments_BT.any()


def test_label_0_continues_and_label_1_comes_from_elsewhere(reader: ShardReader) -> None:
    text = reader.train.read(0, reader.train.tokens)
    batch = MaskedBatches(reader.train, 1, 64, MASKING).batch(0, 200)
    assert batch.next_B is not None
    cuts = set()
    for row, label in enumerate(batch.next_B.tolist()):
        first, second = segments(batch, row)
        cuts.add(len(first))
        assert len(first) >= 1
        assert len(second) >= 1
        assert len(first) + len(second) == 61
        assert found(text, first)
        assert found(text, second)
        if len(second) > 5 and len(first) > 5:  # shorter ones may follow each other by chance
            assert found(text, np.append(first, second)) == (label == 0)
    assert min(cuts) < 5
    assert max(cuts) > 56


def test_elsewhere_is_any_other_window(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    reader.train.tokens = 72
    monkeypatch.setattr(reader.train, "read", lambda start, length: np.arange(start, start + length))  # a token says where it stood
    batch = MaskedBatches(reader.train, 1, 15, replace(MASKING, sep=UNKNOWN)).batch(0, 5000)  # five windows of 12
    assert batch.next_B is not None
    first, last = batch.targets_BT[:, 1], batch.targets_BT[:, -2]
    distance = (last - first - 11)[batch.next_B == 1]
    assert not distance.remainder(12).any()
    often = torch.bincount(distance.div(12).long().remainder(5))
    assert often[0] == 0
    assert ((often[1:] - len(distance) / 4) ** 2 / (len(distance) / 4)).sum() < 3 + 5 * 6**0.5


@pytest.mark.parametrize("windows", [2, 3, 500])
def test_labels_are_balanced(reader: ShardReader, windows: int) -> None:
    reader.train.tokens = (windows + 1) * 6
    batches = MaskedBatches(reader.train, 7, 9, MASKING)
    assert batches.windows == windows
    labels = batches.batch(0, 4000).next_B
    assert labels is not None
    assert set(labels.tolist()) == {0, 1}
    assert abs(float(labels.double().mean()) - 0.5) < 4 * 0.5 / 4000**0.5


def test_the_shares(reader: ShardReader) -> None:
    batch = MaskedBatches(reader.train, 1, 130, SINGLE).batch(0, 600)
    tokens, targets, chosen = batch.tokens_BT, batch.targets_BT, batch.weight_BT == 1
    assert torch.equal(batch.weight_BT, chosen.float())
    candidates = (~torch.isin(targets, torch.tensor([CLS, END, MASK, UNKNOWN]))).sum(1).double()
    assert torch.equal(chosen.sum(1).double(), (0.15 * candidates).round())
    count = int(chosen.sum())
    assert count > 10_000
    masked, kept = float((tokens == MASK).sum()) / count, float((tokens == targets)[chosen].sum()) / count
    assert abs(masked - 0.8) < 4 * (0.8 * 0.2 / count) ** 0.5
    assert abs(kept - 0.1 - 0.1 / 599) < 4 * (0.1 * 0.9 / count) ** 0.5  # a random token may be the same one
    assert torch.equal(tokens[~chosen], targets[~chosen])


def test_special_tokens_are_neither_chosen_nor_drawn(reader: ShardReader) -> None:
    frequent = np.bincount(reader.train.read(0, reader.train.tokens)).argsort()[-3:].tolist()
    masking = replace(SINGLE, specials=(UNKNOWN, *frequent), share=0.9)
    batch = MaskedBatches(reader.train, 1, 64, masking).batch(0, 200)
    special = torch.tensor([CLS, END, MASK, UNKNOWN, *frequent])
    assert not torch.isin(batch.targets_BT, special)[batch.weight_BT == 1].any()
    drawn = batch.tokens_BT[(batch.tokens_BT != batch.targets_BT) & (batch.tokens_BT != MASK)]
    assert len(drawn) > 500
    assert not torch.isin(drawn, special).any()
    assert len(drawn.unique()) > 300  # of the 596 that may be drawn: all of the vocabulary, not only what the text holds
    assert (batch.targets_BT == END).sum() > len(batch.targets_BT)  # documents end within windows


def test_every_place_is_chosen_equally_often(reader: ShardReader) -> None:
    masking = replace(SINGLE, sep=UNKNOWN, share=0.25)  # end_of_text is an ordinary token here: every place is a candidate
    weight = MaskedBatches(reader.train, 3, 34, masking).batch(0, 3000).weight_BT
    often = weight.sum(0)[1:-1].double() / 3000
    assert abs(often - 0.25).max() < 4.5 * (0.25 * 0.75 / 3000) ** 0.5


def test_words_are_whole(reader: ShardReader) -> None:
    batch = MaskedBatches(reader.train, 1, 130, replace(WORDS, next_sentence=True)).batch(0, 100)
    targets, chosen = batch.targets_BT.numpy(), batch.weight_BT.numpy() == 1
    special = np.isin(targets, [CLS, END])
    joins = CONTINUES[targets[:, 1:]] & ~special[:, 1:] & ~special[:, :-1]
    assert joins.sum() > 1000
    assert np.array_equal(chosen[:, 1:][joins], chosen[:, :-1][joins])
    counts, wanted = chosen.sum(1), np.maximum(1, np.rint(0.15 * (~special).sum(1)))
    assert (counts <= wanted).all()
    assert (counts == wanted).mean() > 0.9  # smaller words fill what a large one leaves
    pieces = batch.tokens_BT.numpy()[:, 1:][joins & chosen[:, 1:]]
    assert 0.7 < (pieces == MASK).mean() < 0.9  # each piece has its own fate
    assert not np.array_equal(chosen, MaskedBatches(reader.train, 1, 130, MASKING).batch(0, 100).weight_BT.numpy() == 1)


def test_a_word_that_is_too_long_is_left(reader: ShardReader) -> None:
    everything = replace(WORDS, continues_V=np.ones(603, np.bool_))  # a document is one word
    batch = MaskedBatches(reader.train, 1, 66, everything).batch(0, 100)
    for tokens, weight in zip(batch.targets_BT.numpy(), batch.weight_BT.numpy(), strict=True):
        lengths = np.diff(np.flatnonzero((tokens == END) | (tokens == CLS))) - 1
        allowed = max(1, round(0.15 * lengths.sum()))
        assert weight.sum() <= allowed
        assert (weight.sum() > 0) == bool((lengths[lengths > 0] <= allowed).any())


def test_the_count(reader: ShardReader) -> None:
    def counts(**settings: Any) -> set[int]:
        batch = MaskedBatches(reader.train, 1, 34, replace(SINGLE, sep=UNKNOWN, **settings)).batch(0, 50)
        return set(batch.weight_BT.sum(1).int().tolist())

    assert counts() == {5}  # 0.15 · 32 = 4.8
    assert counts(share=0.001) == {1}
    assert counts(max_predictions=3) == {3}
    assert counts(max_predictions=30) == {5}
    assert counts(share=1.0) == {32}
    assert counts(specials=tuple(range(599))) == {0}  # nothing to choose from


@pytest.mark.parametrize("masking", [MASKING, replace(MASKING, whole_word=True), SINGLE])
def test_batches_are_pure_in_their_arguments(reader: ShardReader, masking: Masking) -> None:
    batches = MaskedBatches(reader.train, 1, 32, masking)
    whole = batches.batch(5, 12)
    assert same(whole, MaskedBatches(reader.train, 1, 32, masking).batch(5, 12))
    for first, count in ((5, 4), (9, 8), (16, 1)):
        assert same(whole, batches.batch(first, count), slice(first - 5, first - 5 + count))
    other = MaskedBatches(reader.train, 2, 32, masking).batch(5, 12)
    assert not torch.equal(whole.targets_BT, other.targets_BT)
    assert not torch.equal(whole.weight_BT, other.weight_BT)


def test_each_epoch_masks_differently(reader: ShardReader) -> None:
    batches = MaskedBatches(reader.train, 1, 130, replace(SINGLE, sep=UNKNOWN))
    first, second = (batches.batch(epoch * batches.windows, batches.windows).weight_BT for epoch in range(2))
    assert not torch.equal(first, second)
    assert len(first.unique(dim=0)) == len(first)  # and so does each sample


@pytest.mark.parametrize("seed", [-1, 0, 2**80])
def test_any_seed(reader: ShardReader, seed: int) -> None:
    assert MaskedBatches(reader.train, seed, 32, MASKING).batch(2**40, 2).tokens_BT.shape == (2, 32)


def test_the_masks_stay_what_they_were(reader: ShardReader) -> None:
    """A run from an older version must resume exactly: these numbers may never change."""
    batch = MaskedBatches(reader.train, 1, 34, replace(MASKING, sep=UNKNOWN)).batch(8, 4)
    assert batch.next_B is not None
    assert batch.segments_BT is not None
    assert batch.next_B.tolist() == [0, 0, 1, 1]
    assert batch.segments_BT.sum(1).tolist() == [2, 7, 22, 25]
    chosen = [[1, 6, 10, 12, 20], [7, 9, 20, 23, 28], [8, 12, 22, 24, 25], [10, 11, 12, 13, 17]]
    assert [row.nonzero().flatten().tolist() for row in batch.weight_BT] == chosen


@pytest.mark.parametrize("masking", [SINGLE, MASKING])
@pytest.mark.parametrize("context_length", [9, 67, 5000])
def test_held_out_text_comes_once(reader: ShardReader, context_length: int, masking: Masking) -> None:
    split, seen = reader.held_out, list[torch.Tensor]()
    for batch in held_out_masked(split, context_length, masking, micro_batch=3):
        rows = len(batch.targets_BT)
        kept = torch.ones(rows, context_length, dtype=torch.bool) if batch.keep_BT is None else batch.keep_BT
        assert kept[:, 0].all()
        assert not (batch.weight_BT.bool() & ~kept).any()
        lengths = kept.sum(1).tolist()
        assert torch.equal(kept, torch.arange(context_length) < torch.tensor(lengths)[:, None])  # padding stands at the end
        ends = batch.targets_BT[range(rows), [length - 1 for length in lengths]]
        assert set(ends.tolist()) == {END}
        assert batch.segments_BT is not None
        assert not batch.segments_BT[~kept].any()
        seen.append(batch.targets_BT[kept])
    counts = torch.bincount(torch.cat(seen), minlength=603)
    windows, extra = int(counts[CLS]), 2 if masking.next_sentence else 1
    assert windows == -(-split.tokens // (context_length - extra - 1))
    counts[CLS], counts[END] = 0, counts[END] - extra * windows
    assert torch.equal(counts, torch.bincount(torch.from_numpy(split.read(0, split.tokens)), minlength=603))


def test_held_out_windows_are_in_order(reader: ShardReader) -> None:
    text = reader.held_out.read(0, reader.held_out.tokens)
    batches = list(held_out_masked(reader.held_out, 34, SINGLE, micro_batch=4))
    assert {len(batch.tokens_BT) for batch in batches[:-1]} == {4}
    assert np.array_equal(
        torch.cat([batch.targets_BT for batch in batches])[:, 1:-1].flatten().numpy()[: len(text) - 31], text[:-31]
    )


def test_held_out_segments(reader: ShardReader) -> None:
    split, content = reader.held_out, 29
    text, labels = split.read(0, split.tokens), list[int]()
    for batch in held_out_masked(split, 32, MASKING, micro_batch=8):
        assert batch.next_B is not None
        for row, label in enumerate(batch.next_B.tolist()):
            window = text[len(labels) * content : (len(labels) + 1) * content]
            labels.append(label)
            if len(window) == content:
                first, second = segments(batch, row)
                assert np.array_equal(first, window[: len(first)])
                assert len(first) + len(second) == content
                assert found(text, second)
                assert label == 1 or np.array_equal(second, window[len(first) :])
                assert label == 0 or len(second) < 6 or not np.array_equal(second, window[len(first) :])
    assert 0.25 < np.mean(labels) < 0.75
    half = split.tokens // content // 2
    assert labels[:half] == labels[half : 2 * half]
    assert not any(labels[2 * half :])


@pytest.mark.parametrize("masking", [SINGLE, MASKING])
def test_held_out_masks_are_fixed(reader: ShardReader, masking: Masking) -> None:
    def rows(limit: int | None, micro_batch: int) -> list[list[list[int]]]:
        batches = list(held_out_masked(reader.held_out, 16, masking, micro_batch, limit))
        return [torch.cat([getattr(batch, name) for batch in batches]).tolist() for name in ("tokens_BT", "weight_BT")]

    everything = rows(None, 5)
    assert everything == rows(None, 16)
    assert len({tuple(weight) for weight in everything[1]}) > 20
    places = np.arange(7) * len(everything[0]) // 7
    assert rows(7, 3) == [[part[place] for place in places] for part in everything]
    assert rows(10**6, 8) == everything


def test_text_shorter_than_needed_is_a_data_error(reader: ShardReader) -> None:
    for masking, parts, extra in ((SINGLE, 2, 2), (MASKING, 3, 3)):
        fitting = reader.train.tokens // parts + extra
        batch = MaskedBatches(reader.train, 1, fitting, masking).batch(0, 3)
        assert batch.tokens_BT.shape == (3, fitting)
        with pytest.raises(DataError, match=f"has {reader.train.tokens} tokens, a context of {fitting + 1} needs") as caught:
            MaskedBatches(reader.train, 1, fitting + 1, masking)
        assert f"model.context_length={fitting} or less" in caught.value.cure


def test_settings_that_contradict_each_other(reader: ShardReader) -> None:
    with pytest.raises(SettingError, match="whole words cannot be masked"):
        MaskedBatches(reader.train, 1, 32, replace(WORDS, continues_V=None))
    with pytest.raises(SettingError, match="context of 4 leaves no room"):
        next(held_out_masked(reader.held_out, 4, MASKING))
    assert MaskedBatches(reader.train, 1, 5, MASKING).batch(0, 2).tokens_BT.shape == (2, 5)


@pytest.mark.parametrize("tokens", [1, 2, 29, 30])
def test_very_little_held_out_text(reader: ShardReader, tokens: int) -> None:
    split = reader.held_out
    split.tokens = tokens
    (batch,) = held_out_masked(split, 32, MASKING)
    assert batch.next_B is not None
    assert not batch.next_B.any()
    assert (batch.keep_BT is None) == (tokens == 29)
