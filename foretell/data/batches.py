"""Batches of tensors out of a split: in the seeded order for training, window after window for measuring."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from foretell.base.errors import DataError
from foretell.data.order import epoch_offset, window_indices
from foretell.data.shards import Split

AT_ONCE = 4096  # samples whose places are computed together: alone, a batch's cost more than reading it


@dataclass(frozen=True)
class Batch:
    """B windows of T tokens with a target each. weight_BT: float32, 0 where the target is not to be counted.

    Of an encoder's batches only. segments_BT: 0 or 1. keep_BT: bool, False where a token is padding; None: none is. next_B: 0 where
    the second segment really follows the first, 1 where it was taken from elsewhere (BERT's label); None: nobody asks.
    documents_BT: which document of its window a token is from, 0, 1, …; None: tokens see across the borders of documents.
    """

    tokens_BT: torch.Tensor
    targets_BT: torch.Tensor
    weight_BT: torch.Tensor
    segments_BT: torch.Tensor | None = None
    keep_BT: torch.Tensor | None = None
    next_B: torch.Tensor | None = None
    documents_BT: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if value is not None})


class TrainBatches:
    """Training batches, a pure function of (split, seed, context_length, which samples)."""

    def __init__(self, split: Split, seed: int, context_length: int, document_mask: bool = False) -> None:
        """document_mask: say which document each token is from. Raises DataError when the text is too short."""
        self.split, self.seed, self.context_length, self._mask = split, seed, context_length, document_mask
        self.windows = trainable_windows(split, context_length, context_length)
        self._places: tuple[int, NDArray[np.int64]] = 0, np.empty(0, np.int64)

    def batch(self, first_sample: int, count: int) -> Batch:
        """Samples first_sample … first_sample + count - 1 of the run."""
        batch = windows_at(self.split, self.first_targets(first_sample, count), self.context_length)
        return replace(batch, documents_BT=documents_of(batch.tokens_BT, self.split.end_of_text)) if self._mask else batch

    def first_targets(self, first_sample: int, count: int) -> NDArray[np.int64]:
        """Where in the split the targets of these samples begin: what `Split.document_at` traces them by."""
        start, places = self._places  # taken once: another thread may ask too
        if not start <= first_sample <= first_sample + count <= start + len(places):
            start, wanted = first_sample, max(count, AT_ONCE)
            epoch, window = window_indices(self.seed, start, wanted, self.windows)
            places = epoch_offset(self.seed, epoch, self.context_length) + window * self.context_length + 1
            self._places = start, places
        return places[first_sample - start : first_sample - start + count]


def documents_of(tokens_BT: torch.Tensor, end_of_text: int) -> torch.Tensor:
    """The number of each token's document within its window, an end_of_text belonging to the document that follows it."""
    return (tokens_BT == end_of_text).cumsum(1)


def trainable_windows(split: Split, context_length: int, content: int, least: int = 1) -> int:
    """How many windows of `content` tokens fit behind every epoch's offset, with a target for the last. Raises DataError."""
    windows = split.tokens // content - 1
    if windows < least:
        needed, fitting = (least + 1) * content, split.tokens // (least + 1) + context_length - content
        what = f"the training text has {split.tokens} tokens, a context of {context_length} needs at least {needed}"
        cure = f"set model.context_length={fitting} or less, or give more text"
        raise DataError(what, where=str(split.folder), cure=cure)
    return windows


def held_out_windows(split: Split, context_length: int, micro_batch: int = 16, limit_windows: int | None = None) -> Iterator[Batch]:
    """Disjoint windows (at most limit_windows, evenly spaced) in which every token is a target once.

    The first token is predicted from end_of_text. Weight 0: end_of_text, which stands for no text, and the padding at the end.
    """
    for rows in spread(-(-split.tokens // context_length), micro_batch, limit_windows):
        batch = windows_at(split, rows * context_length, context_length)
        yield replace(batch, weight_BT=batch.weight_BT * (batch.targets_BT != split.end_of_text))


def spread(windows: int, micro_batch: int, limit_windows: int | None) -> list[NDArray[np.int64]]:
    """The numbers of all windows, or of limit_windows evenly spaced ones, in groups of micro_batch."""
    taken = windows if limit_windows is None else min(windows, limit_windows)
    return np.split(np.arange(taken) * windows // taken, range(micro_batch, taken, micro_batch))


def windows_at(split: Split, first_targets: NDArray[np.int64], length: int) -> Batch:
    """Windows of targets, each with the token before it; end_of_text where the split has none, with weight 0 as a target."""
    starts, last = first_targets - 1, split.tokens - length - 1
    if len(starts) and starts.min() >= 0 and starts.max() <= last:  # all but some held-out windows
        stream_BT = split.windows(starts, length + 1)
        tokens_BT, targets_BT = (torch.from_numpy(part.astype(np.int64)) for part in (stream_BT[:, :-1], stream_BT[:, 1:]))
        return Batch(tokens_BT, targets_BT, torch.ones(len(starts), length))
    positions = first_targets[:, None] + np.arange(-1, length)
    inside = (positions >= 0) & (positions < split.tokens)
    stream = np.full(positions.shape, split.end_of_text)
    for row, there, wanted in zip(stream, inside, positions, strict=True):
        row[there] = split.read(int(wanted[there][0]), int(there.sum()))
    weight = inside[:, 1:].astype(np.float32)
    return Batch(*(torch.from_numpy(part.copy()) for part in (stream[:, :-1], stream[:, 1:], weight)))
