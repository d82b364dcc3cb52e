"""Find sequences of bytes that stood earlier in the corpus, exactly and whatever their length from `substring_bytes` on.

A place is repeated if the n = `substring_bytes` bytes from there on stood in an earlier document, or before in the same one without
overlapping; the spans are the unions of repeated places' bytes. Two passes find them without comparing all with all:
1. Winnowing (Schleimer, Wilkerson and Aiken 2003): of every n bytes the half whose hash is smallest is an anchor, so that equal
   sequences have equal anchors, at about 4/n of all places. Only around anchors that occur twice can anything be repeated.
2. There every place's n bytes are hashed (to 128 bits), and equal hashes are found by sorting.
Time is proportional to the text, whatever it is: "aaaa…" too. Memory: what sorting needs, in shares that `memory_bytes` bounds, and
32 bytes an anchor that occurs twice; `scratch` holds the text, 24 bytes an anchor and 32 for a place looked at in the second pass.
Lee et al. 2022, whose definition this is, build suffix arrays; they need 9 bytes of memory for each of the corpus.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from foretell.corpus.clusters import first_rows, scratch_array
from foretell.corpus.config import CorpusSettings
from foretell.corpus.signatures import BASES, Hashes, mixed, range_hashes

SLICE_BYTES, BLOCK = 2**19, 2**20
END = b"\xff"  # between documents: it occurs in no UTF-8
BYTE_HASHES = mixed(np.arange(1, 257, dtype=np.uint64))

Places = NDArray[np.int64]
Spans = list[tuple[int, int]]


def repeated_spans(texts: Iterable[tuple[int, str]], settings: CorpusSettings, scratch: Path) -> Iterator[tuple[int, Spans]]:
    """(number, spans) of each text that repeats something, in order. A span: (start, stop) in characters, cut to whole ones."""
    length = settings.substring_bytes
    if length is None:
        return
    with TemporaryDirectory(dir=scratch) as name:
        folder, memory = Path(name), settings.memory_bytes // 2
        numbers, ends = _joined(texts, folder / "text")
        if not numbers:
            return
        data = np.memmap(folder / "text", np.uint8, "r")
        anchors = _twice(_anchors(data, length), folder / "anchors", memory)
        regions = _regions(
            np.concatenate([np.zeros(0, np.int64), *(places for pair in anchors for places in pair)]), length, len(data)
        )
        repeated = _twice(_windows(data, regions, ends, length), folder / "windows", memory)
        spans = _spans((place[place - first >= length] for place, first in repeated), length)
        for number, some in groupby(spans, lambda span: int(np.searchsorted(ends, span[0], "right"))):
            begin = int(ends[number - 1]) + 1 if number else 0
            yield (
                numbers[number],
                _in_characters(data[begin : ends[number]], [(start - begin, stop - begin) for start, stop in some]),
            )


def without_spans(text: str, spans: Spans) -> str:
    """The text without these spans, which are in order and do not overlap."""
    starts, stops = [0, *(stop for _, stop in spans)], [*(start for start, _ in spans), len(text)]
    return "".join(text[start:stop] for start, stop in zip(starts, stops, strict=True))


def _joined(texts: Iterable[tuple[int, str]], path: Path) -> tuple[list[int], Places]:
    """Write all texts to one file; their numbers, and where each one's END stands."""
    numbers, ends, size = list[int](), list[int](), 0
    with path.open("wb") as stream:
        for number, text in texts:
            size += stream.write(text.encode("utf-8", "replace") + END)
            numbers.append(number)
            ends.append(size - 1)
    return numbers, np.array(ends, np.int64)


def _hashes(data: NDArray[np.uint8], places: Places, length: int, base: int) -> Hashes:
    """The hashes of `length` bytes from each of these places on, which are in ascending order."""
    first = int(places[0])
    values = BYTE_HASHES[data[first : int(places[-1]) + length]]
    return range_hashes(values, places - first, places - first + length, base)


def _anchors(data: NDArray[np.uint8], length: int) -> Iterator[tuple[Places, list[Hashes]]]:
    """The places of anchors and their hashes. Some are given twice, where slices meet."""
    half = length // 2
    width = length - half + 1  # so many halves lie in a whole
    for start in range(0, len(data) - length + 1, SLICE_BYTES):
        places = np.arange(start, min(start + SLICE_BYTES + width - 1, len(data) - half + 1))
        hashes = _hashes(data, places, half, BASES[0])
        least = _sliding_least(hashes, width)
        padded = np.concatenate([np.zeros(width - 1, np.uint64), least, np.zeros(width - 1, np.uint64)])
        chosen = hashes == ~_sliding_least(~padded, width)  # the least of some window that it lies in
        yield places[chosen], [hashes[chosen]]


def _sliding_least(values: Hashes, width: int) -> Hashes:
    """The least of each `width` neighbours. Source: van Herk 1992, with a running least from both ends of every block."""
    count = len(values) - width + 1
    blocks = np.concatenate([values, np.full(-len(values) % width, 2**64 - 1, np.uint64)]).reshape(-1, width)
    onwards = np.minimum.accumulate(blocks, axis=1).reshape(-1)
    backwards = np.minimum.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].reshape(-1)
    return np.minimum(backwards[:count], onwards[width - 1 : width - 1 + count])


def _regions(anchors: Places, length: int, size: int) -> tuple[Places, Places]:
    """Starts and stops of the places whose bytes may hold one of these anchors."""
    anchors = np.sort(anchors)
    starts = np.maximum(anchors - (length - length // 2), 0)
    stops = np.minimum(anchors + 1, size - length + 1)
    return _merged(starts, np.maximum(starts, stops))


def _merged(starts: Places, stops: Places) -> tuple[Places, Places]:
    """Ranges in ascending order, with those that meet made one."""
    apart = starts[1:] > stops[:-1]
    return starts[np.append(True, apart)[: len(starts)]], stops[np.append(apart, True)[: len(stops)]]


def _windows(
    data: NDArray[np.uint8], regions: tuple[Places, Places], ends: Places, length: int
) -> Iterator[tuple[Places, list[Hashes]]]:
    """The places of all sequences within the regions that lie in one document, and their two hashes."""
    for start in range(0, len(data), SLICE_BYTES):
        first, last = np.searchsorted(regions[1], start, "right"), np.searchsorted(regions[0], start + SLICE_BYTES)
        starts = np.maximum(regions[0][first:last], start)
        counts = np.minimum(regions[1][first:last], start + SLICE_BYTES) - starts
        places = np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
        places = places[ends[np.searchsorted(ends, places)] - places >= length]
        if len(places):
            yield places, [_hashes(data, places, length, base) for base in BASES]


def _twice(found: Iterable[tuple[Places, list[Hashes]]], path: Path, memory_bytes: int) -> Iterator[tuple[Places, Places]]:
    """The places, block by block, whose hashes stood before, and where they stood first."""
    columns = 0
    with path.open("wb") as stream:
        for places, hashes in found:
            columns = len(hashes)
            stream.write(np.stack([places.astype(np.uint64), *hashes], axis=1).tobytes())
    if columns:
        rows = np.memmap(path, np.uint64, "r").reshape(-1, 1 + columns)
        places = rows[:, 0].view(np.int64)
        leaders = scratch_array(path.with_suffix(".npy"), np.dtype(np.int64), (len(rows),))
        blocks = range(0, len(rows), BLOCK)
        first_rows([rows[start : start + BLOCK, 1:] for start in blocks], leaders, memory_bytes)
        for start in blocks:
            firsts = places[leaders[start : start + BLOCK]]
            later = firsts != places[start : start + BLOCK]
            yield places[start : start + BLOCK][later], firsts[later]


def _spans(blocks: Iterable[Places], length: int) -> Iterator[tuple[int, int]]:
    """What the sequences at these places cover, as ranges of bytes."""
    start = stop = -1
    for places in blocks:
        for first, last in zip(*(bounds.tolist() for bounds in _merged(places, places + length)), strict=True):
            if first > stop:
                if stop > start:
                    yield start, stop
                start = first
            stop = last
    if stop > start:
        yield start, stop


def _in_characters(content: NDArray[np.uint8], spans: Spans) -> Spans:
    """Ranges of UTF-8 bytes as ranges of the characters that lie wholly in them."""
    begins = (content & 0xC0) != 0x80
    before = np.concatenate([[0], np.cumsum(begins)])
    inside = np.append(~begins, False)  # in the middle of a character
    pairs = [(int(before[start]), int(before[stop] - inside[stop])) for start, stop in spans]
    return [(start, stop) for start, stop in pairs if stop > start]
