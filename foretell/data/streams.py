"""Training batches for a network with a memory: each row reads on where it stopped in the batch before (Mikolov et al. 2010).

The split is cut into as many equal streams as a batch has rows; batch k holds the k-th window of each. So truncated
backpropagation through time may carry the state from batch to batch: row b of batch k + 1 continues row b of batch k.
"""

import numpy as np

from foretell.base.errors import DataError
from foretell.data.batches import Batch, windows_at
from foretell.data.order import epoch_offset
from foretell.data.shards import Split


class StreamBatches:
    """A pure function of (split, seed, context_length, rows, which samples), as TrainBatches is; each epoch starts elsewhere."""

    def __init__(self, split: Split, seed: int, context_length: int, rows: int) -> None:
        """rows: windows of a whole batch. Raises DataError when the text is too short for them."""
        self.split, self.seed, self.context_length, self.rows = split, seed, context_length, rows
        self.steps = (split.tokens - context_length - 1) // (rows * context_length)  # of an epoch
        self.windows = self.steps * rows
        if self.steps < 1:
            needed = (rows + 1) * context_length + 1
            what = f"the training text has {split.tokens} tokens, {rows} streams of {context_length} need at least {needed}"
            raise DataError(what, where=str(split.folder), cure="choose a smaller training.batch_tokens, or give more text")

    def batch(self, first_sample: int, count: int) -> Batch:
        """Samples first_sample … first_sample + count - 1 of the run: rows of one or more batches."""
        step, row = np.divmod(np.arange(first_sample, first_sample + count), self.rows)
        epoch, place = np.divmod(step, self.steps)
        window = row * self.steps + place
        first_targets = epoch_offset(self.seed, epoch, self.context_length) + window * self.context_length + 1
        return windows_at(self.split, first_targets, self.context_length)

    def starts(self, step: int) -> bool:
        """Whether this batch is the first of an epoch: what was read before it belongs elsewhere."""
        return step % self.steps == 0
