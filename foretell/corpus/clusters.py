"""Which documents of a corpus are copies of earlier ones, from their signatures alone.

The rule: going through the documents in input order, one is left out if an earlier one that stays has the same text; or if it
agrees in a band with the first one that stays of those with this band value, and the two have `min_similarity` of their word
sequences in common, as all MinHash values estimate it; the first of these is named. So whatever is left out resembles the document
named: clusters are stars around their first document, and there are no chains of copies of copies.
Memory: 9 bytes a document, and at most 100 a document (of a share of them, where half of `memory_bytes` would not do) while a band
is sorted; `scratch` holds 4 bytes a document and band: 60 MB for a million documents with the defaults.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foretell.corpus.config import CorpusSettings

KEPT, EXACT, NEAR = range(3)
SORT_BYTES = 100  # a row of two columns: keys, numbers, order, and their copies while they are sorted
BLOCK = 2**16

Numbers = NDArray[np.signedinteger]
Rows = NDArray[np.uint64]


class Decisions(NamedTuple):
    """For every document: instead, the number of the one that stays in its place, or -1; kind, KEPT, EXACT or NEAR."""

    instead: NDArray[np.int64]
    kind: NDArray[np.uint8]


def duplicates(files: Sequence[Path], settings: CorpusSettings, scratch: Path) -> Decisions:
    """Decide over the documents of signature files (`.npy`, in input order); `scratch` is a folder for what is large meanwhile."""
    parts = [np.load(path, mmap_mode="r") for path in files]
    count, memory = sum(map(len, parts)), settings.memory_bytes // 2
    bands = settings.bands if settings.near_duplicates else 0
    path = scratch / "leaders.npy"
    try:
        leaders = scratch_array(path, np.dtype(np.int32 if count < 2**31 else np.int64), (1 + bands, count))
        first_rows([part["exact"] for part in parts], leaders[0], memory)
        for band in range(bands):
            first_rows([part["bands"][:, band, None] for part in parts], leaders[1 + band], memory)
        return _decided(leaders, count, _comparison(parts, settings))
    finally:
        path.unlink(missing_ok=True)


def scratch_array(path: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A new array in a file, whose space is taken at once: a disk that fills up later would kill the process. Raises OSError."""
    array = np.lib.format.open_memmap(path, "w+", kind, shape)
    with path.open("r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return array


def first_rows(parts: Sequence[Rows], out: Numbers, memory_bytes: int) -> None:
    """For each row of all the parts, the number of the first row that equals it (itself where there is none) into `out`.

    parts: (rows, columns of hashes) each, memory-mapped. The rows are sorted in as many shares as `memory_bytes` asks for, by the
    upper bits of their first column; each share goes through the parts once.
    """
    shares = 1 << max(0, -(-len(out) * SORT_BYTES // memory_bytes) - 1).bit_length()
    shift = np.uint64(65 - shares.bit_length())  # by 64 for a single share, which leaves 0
    for share in range(shares if len(out) else 0):
        rows, numbers, start = list[Rows](), list[Numbers](), 0
        for part in parts:
            chosen = np.flatnonzero(part[:, 0] >> shift == share)
            rows.append(part.take(chosen, axis=0))
            numbers.append(chosen + start)
            start += len(part)
        keys, number_of = np.concatenate(rows), np.concatenate(numbers)
        del rows, numbers
        out[number_of] = number_of
        chosen = _perhaps_repeated(keys[:, 0])
        keys, number_of = keys.take(chosen, axis=0), number_of[chosen]
        order = np.argsort(keys[:, 0], kind="stable")  # stable: equal rows remain in order
        keys, number_of = keys.take(order, axis=0), number_of[order]
        same = keys[1:] == keys[:-1]
        if np.any(same[:, 0] & ~same.all(axis=1)):  # hardly ever: the first column does not tell them apart
            order = np.lexsort(keys.T)
            keys, number_of = keys[order], number_of[order]
            same = keys[1:] == keys[:-1]
        begins = np.append(True, ~same.all(axis=1))[: len(keys)]
        out[number_of] = number_of[begins][np.cumsum(begins) - 1]


def _perhaps_repeated(keys: Rows) -> Numbers:
    """Where the keys stand that occur twice, and few others: sorting values is much cheaper than sorting places."""
    ordered, mark = np.sort(keys), np.zeros(2**22, np.bool_)
    mark[ordered[1:][ordered[1:] == ordered[:-1]] >> np.uint64(42)] = True
    return np.flatnonzero(mark[keys >> np.uint64(42)])


def _comparison(parts: Sequence[NDArray[np.void]], settings: CorpusSettings) -> Callable[[int, int], bool]:
    """Whether two documents are similar enough. A byte of two different values is equal once in 256 times."""
    starts = [0, *accumulate(map(len, parts))]
    needed = settings.min_similarity + (1 - settings.min_similarity) / 256

    def sketch(number: int) -> NDArray[np.uint8]:
        part = bisect_right(starts, number) - 1
        return parts[part]["sketch"][number - starts[part]]  # type: ignore[no-any-return]

    return lambda one, other: not settings.min_similarity or float(np.mean(sketch(one) == sketch(other))) >= needed


def _decided(leaders: Numbers, count: int, similar: Callable[[int, int], bool]) -> Decisions:
    """Go through the documents in order. leaders: (1 + bands, documents), the first document with the same digest or band value.

    A document's own place in a band's row is not needed once it was passed: where it was the first of its group, it then names the
    member that stays, or -1 while there is none.
    """
    leaders = np.asarray(leaders)  # a view that is quicker to index than a memory map
    instead, kind = np.full(count, -1, np.int64), np.zeros(count, np.uint8)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        numbers = np.arange(start, stop)
        later = np.flatnonzero((leaders[:, start:stop] != numbers).any(axis=0)) + start
        for number, (same, *firsts) in zip(later.tolist(), leaders[:, later].T.tolist(), strict=True):
            if same != number:
                kind[number] = EXACT if kind[same] == KEPT else NEAR
                instead[number] = same if kind[same] == KEPT else instead[same]
                continue
            holders = [leaders[band, first] for band, first in enumerate(firsts, 1) if first != number]
            copied = next((holder for holder in sorted({*holders} - {-1}) if similar(number, holder)), None)
            if copied is not None:
                kind[number], instead[number] = NEAR, copied
            for band, first in enumerate(firsts, 1):
                if copied is not None and first == number:
                    leaders[band, first] = -1
                elif copied is None and leaders[band, first] < 0:
                    leaders[band, first] = number
    return Decisions(instead, kind)


def expected_recall(settings: CorpusSettings) -> list[tuple[float, float]]:
    """How likely a pair is found, by the share of word sequences that it has in common (Jaccard): (0.3, …) to (1.0, 1.0)."""
    return [(step / 20, 1 - (1 - (step / 20) ** settings.rows) ** settings.bands) for step in range(6, 21)]
