"""The next batch is read while the present one is learned from. Which one it is is told, never guessed from an iterator's state."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from foretell.data.batches import Batch


class Batches(Protocol):
    """Training batches as a pure function of the sample numbers."""

    def batch(self, first_sample: int, count: int) -> Batch:
        """Samples first_sample … first_sample + count - 1 of the run."""


class Prefetch:
    """Micro-batches of a range of samples; `ahead` has the next range read in a thread."""

    def __init__(self, batches: Batches, micro_batch: int) -> None:
        self.batches, self._micro_batch = batches, micro_batch
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._waiting: tuple[tuple[int, int], Future[list[Batch]]] | None = None

    def take(self, first_sample: int, count: int) -> list[Batch]:
        """Samples first_sample … first_sample + count - 1 in pieces of micro_batch; at once if `ahead` has read them."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting[0] == (first_sample, count):
            return waiting[1].result()
        return self._read(first_sample, count)

    def ahead(self, first_sample: int, count: int) -> None:
        """Begin to read what will be taken next."""
        self._waiting = (first_sample, count), self._reader.submit(self._read, first_sample, count)

    def close(self) -> None:
        """Let the thread end."""
        self._reader.shutdown(cancel_futures=True)

    def _read(self, first_sample: int, count: int) -> list[Batch]:
        micro = self._micro_batch
        return [self.batches.batch(first_sample + start, min(micro, count - start)) for start in range(0, count, micro)]
