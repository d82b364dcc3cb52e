"""Batches of tensors out of a split: in the seeded order for training, window after window for measuring."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from foretell.base.errors import DataError
from foretell.data.order import epoch_offset, window_indices
from foretell.data.shards import Split


@dataclass(frozen=True)
class Batch:
    """B windows of T tokens, each with the token that follows it. weight_BT: float32, 0 where the target is not to be counted."""

    tokens_BT: torch.Tensor
    targets_BT: torch.Tensor
    weight_BT: torch.Tensor


class TrainBatches:
    """Training batches, a pure function of (split, seed, context_length, which samples)."""

    def __init__(self, split: Split, seed: int, context_length: int) -> None:
        """Raises DataError when the text is too short."""
        self.split, self.seed, self.context_length = split, seed, context_length
        self.windows = split.tokens // context_length - 1  # fits behind every epoch's offset, with a target for the last token
        if self.windows < 1:
            what = f"the training text has {split.tokens} tokens, a context of {context_length} needs at least {2 * context_length}"
            cure = f"set model.context_length={split.tokens // 2} or less, or give more text"
            raise DataError(what, where=str(split.folder), cure=cure)

    def batch(self, first_sample: int, count: int) -> Batch:
        """Samples first_sample … first_sample + count - 1 of the run."""
        epoch, window = window_indices(self.seed, first_sample, count, self.windows)
        first_targets = epoch_offset(self.seed, epoch, self.context_length) + window * self.context_length + 1
        return _batch(self.split, first_targets, self.context_length)


def held_out_windows(split: Split, context_length: int, micro_batch: int = 16, limit_windows: int | None = None) -> Iterator[Batch]:
    """Disjoint windows (at most limit_windows, evenly spaced) in which every token is a target once.

    The first token is predicted from end_of_text. Weight 0: end_of_text, which stands for no text, and the padding at the end.
    """
    windows = -(-split.tokens // context_length)
    taken = windows if limit_windows is None else min(windows, limit_windows)
    chosen = np.arange(taken) * windows // taken
    for rows in np.split(chosen, range(micro_batch, taken, micro_batch)):
        batch = _batch(split, rows * context_length, context_length)
        yield replace(batch, weight_BT=batch.weight_BT * (batch.targets_BT != split.end_of_text))


def _batch(split: Split, first_targets: NDArray[np.int64], length: int) -> Batch:
    """Windows of targets, each with the token before it; end_of_text where the split has none, with weight 0 as a target."""
    positions = first_targets[:, None] + np.arange(-1, length)
    inside = (positions >= 0) & (positions < split.tokens)
    stream = np.full(positions.shape, split.end_of_text)
    for row, there, wanted in zip(stream, inside, positions, strict=True):
        row[there] = split.read(int(wanted[there][0]), int(there.sum()))
    weight = inside[:, 1:].astype(np.float32)
    return Batch(*(torch.from_numpy(part.copy()) for part in (stream[:, :-1], stream[:, 1:], weight)))
