"""BERT's pretraining data: hidden tokens and pairs of segments, a pure function of (split, seed, sample number).

Source: Devlin et al. 2018, section 3.1 and appendix A.1. Here the two segments are the parts of a window of the shards.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.random import Philox
from numpy.typing import NDArray

from foretell.base.errors import SettingError
from foretell.data.batches import Batch, spread, trainable_windows
from foretell.data.order import epoch_offset, window_indices
from foretell.data.shards import Split

Integers = NDArray[np.int64]

HELD_OUT_SEED = 12345  # what is measured does not change with a run's seed


@dataclass(frozen=True, kw_only=True, eq=False)
class Masking:
    """What is hidden, and the ids that it takes.

    vocab_size: the tokenizer's, not a padded one. specials: ids that are neither hidden nor drawn; cls, sep and mask need not be
    named, unknown, padding and an end_of_text other than sep do. continues_V: True where a piece continues a word (`##`).
    share: of the tokens that are not special; at least one, at most max_predictions. whole_word: all pieces of a word or none.
    next_sentence: two segments, of which half do not belong together.
    """

    cls: int
    sep: int
    mask: int
    vocab_size: int
    specials: tuple[int, ...] = ()
    continues_V: NDArray[np.bool_] | None = None
    share: float = 0.15
    max_predictions: int | None = None
    whole_word: bool = False
    next_sentence: bool = True

    @cached_property
    def ordinary(self) -> NDArray[np.bool_]:
        """(V,) True where an id may be hidden and drawn."""
        return ~np.isin(np.arange(self.vocab_size), [self.cls, self.sep, self.mask, *self.specials])

    def content(self, context_length: int) -> int:
        """How many tokens of text fit between the special ones. Raises SettingError."""
        if self.whole_word and self.continues_V is None:
            what = "this tokenizer does not mark the pieces that continue a word, so whole words cannot be masked"
            raise SettingError(what, where="whole_word", cure="set whole_word=false, or take a WordPiece tokenizer")
        if context_length < 5:
            what = f"a context of {context_length} leaves no room for text between the special tokens"
            raise SettingError(what, where="model.context_length", cure="set model.context_length=5 or more")
        return context_length - (3 if self.next_sentence else 2)


class MaskedBatches:
    """Masked training batches, a pure function of (split, seed, context_length, masking, which samples)."""

    def __init__(self, split: Split, seed: int, context_length: int, masking: Masking) -> None:
        """Raises DataError when the text is too short, SettingError."""
        self.split, self.seed, self.context_length, self.masking = split, seed, context_length, masking
        self._content = masking.content(context_length)
        self.windows = trainable_windows(split, context_length, self._content, least=2 if masking.next_sentence else 1)

    def batch(self, first_sample: int, count: int) -> Batch:
        """Samples first_sample … first_sample + count - 1 of the run."""
        epoch, window = window_indices(self.seed, first_sample, count, self.windows)
        noise = _noise(self.seed, np.arange(first_sample, first_sample + count), self.context_length)
        elsewhere = (window + 1 + noise[:, 0, 2] % max(1, self.windows - 1)) % self.windows
        offset, lengths = epoch_offset(self.seed, epoch, self._content), np.full(count, self._content)
        first, other = (offset + number * self._content for number in (window, elsewhere))
        return _batch(self.split, self.masking, noise, first, other, lengths)


def held_out_masked(
    split: Split, context_length: int, masking: Masking, micro_batch: int = 16, limit_windows: int | None = None
) -> Iterator[Batch]:
    """Disjoint windows (at most limit_windows, evenly spaced) in which every token comes once, masked alike in every run.

    With next_sentence, a window and the one half the split further on share label and cut; those of label 1 exchange their second
    segments. One or two windows at the end may have no partner: label 0.
    """
    content = masking.content(context_length)
    half = split.tokens // content // 2
    for rows in spread(-(-split.tokens // content), micro_batch, limit_windows):
        partner = np.where(rows < half, rows + half, np.where(rows < 2 * half, rows - half, rows))
        noise = _noise(HELD_OUT_SEED, rows, context_length)
        noise[:, 0] = _noise(HELD_OUT_SEED, np.minimum(rows, partner), 0)[:, 0]
        lengths = np.minimum(content, split.tokens - rows * content)
        yield _batch(split, masking, noise, rows * content, partner * content, lengths)


def _batch(split: Split, masking: Masking, noise: Integers, first_B: Integers, other_B: Integers, lengths_B: Integers) -> Batch:
    """[CLS] A [SEP] B [SEP], or [CLS] text [SEP], with lengths_B tokens of text; hidden in part.

    A begins the window at first_B; B is what follows the cut in the same window, or in the one at other_B (label 1).
    """
    length = noise.shape[1] - 1
    next_B = (noise[:, 0, 0] % 2 == 1) & (first_B != other_B)
    second_B = np.where(next_B, other_B, first_B)
    cut_B = 1 + noise[:, 0, 1] % np.maximum(lengths_B - 1, 1) if masking.next_sentence else lengths_B
    targets_BT = np.full((len(first_B), length), masking.sep)  # what stays of it: [SEP] and padding
    targets_BT[:, 0] = masking.cls
    for row, first, second, cut, end in zip(targets_BT, first_B, second_B, cut_B, lengths_B, strict=True):
        row[1 : cut + 1] = split.read(int(first), int(cut))
        if cut < end:
            row[cut + 2 : end + 2] = split.read(int(second + cut), int(end - cut))
    keep_BT = np.arange(length) < (lengths_B + length - masking.content(length))[:, None]
    segments_BT = keep_BT & (np.arange(length) > cut_B[:, None] + 1)
    order_BT, kind_BT, replacement_BT = np.moveaxis(noise[:, 1:], 2, 0)
    chosen_BT, ordinary = _chosen(targets_BT, masking, order_BT), np.flatnonzero(masking.ordinary)
    drawn_BT = np.where(kind_BT % 10 < 8, masking.mask, ordinary[replacement_BT % len(ordinary)])
    tokens_BT = np.where(chosen_BT & (kind_BT % 10 < 9), drawn_BT, targets_BT)  # 80 % [MASK], 10 % any token, 10 % as they were
    parts = (tokens_BT, targets_BT, chosen_BT.astype(np.float32), segments_BT.astype(np.int64), keep_BT, next_B.astype(np.int64))
    tokens, targets, weight, segments, keep, following = (torch.from_numpy(part) for part in parts)
    return Batch(tokens, targets, weight, segments, None if keep.all() else keep, following if masking.next_sentence else None)


def _chosen(tokens_BT: Integers, masking: Masking, order_BT: Integers) -> NDArray[np.bool_]:
    """Words in random order, each taken if it fits whole into what the share leaves. A special token ends a word."""
    candidate_BT = masking.ordinary[tokens_BT]
    starts_BT = candidate_BT.copy()
    if masking.whole_word and masking.continues_V is not None:
        starts_BT[:, 1:] &= ~(masking.continues_V[tokens_BT[:, 1:]] & candidate_BT[:, :-1])
    first_BT = np.maximum.accumulate(np.where(starts_BT, np.arange(tokens_BT.shape[1]), 0), axis=1)
    rows, size_BT, taken_BT = np.arange(len(tokens_BT)), np.zeros_like(tokens_BT), np.zeros_like(candidate_BT)
    np.add.at(size_BT, (rows[:, None], first_BT), candidate_BT)
    wanted_B = np.clip(np.rint(masking.share * candidate_BT.sum(axis=1)), 1, masking.max_predictions)
    room_B = np.minimum(wanted_B, candidate_BT.sum(axis=1)).astype(np.int64)
    for place_B in np.lexsort((order_BT, ~starts_BT)).T:  # the words' starts, in random order, before all other places
        fits_B = size_BT[rows, place_B] <= room_B
        taken_BT[rows, place_B] = fits_B
        room_B = room_B - size_BT[rows, place_B] * fits_B
        if not room_B.any():
            break
    return candidate_BT & np.take_along_axis(taken_BT, first_BT, axis=1)


def _noise(seed: int, samples: Integers, length: int) -> Integers:
    """(B, 1 + T, 3) random numbers: a sample's label, cut and other window; then each token's order, kind and replacement."""
    keys = (np.array([seed % 2**64, sample], np.uint64) for sample in samples.tolist())
    words = [Philox(key=key).random_raw(3 + 3 * length) for key in keys]  # it counts, and has no state (Salmon et al. 2011)
    return (np.stack(words).reshape(-1, 1 + length, 3) >> np.uint64(1)).astype(np.int64)
