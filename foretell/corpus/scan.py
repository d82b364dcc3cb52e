"""One look at a text serves all rules: its lines, its runs of visible characters, and what is counted in them.

What a run counts for is kept in a table that grows with the language's vocabulary, so that a text costs some numpy operations and a
lookup a run, whatever the number of rules. Legend: N bytes, R runs, W words of the text; S slots of the table, C columns of COUNTS.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from foretell.corpus.rules.signs import is_sign
from foretell.corpus.rules.words import split_words

BLOCK = 1 << 16  # bytes that are looked at together; a longer run is cut
FORGET_AT = 500_000  # runs: some 100 MB
STOP = "the be to of and that have with"  # Rae et al. 2021, A1.1
STOP_WORDS = {word: 1 << bit for bit, word in enumerate(STOP.split())}
ASCII_WORD = re.compile(r"[A-Za-z0-9+/=_-]+")
BEYOND_ASCII = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")  # the other spaces of str.split
VISIBLE = np.array([not chr(byte).isspace() or byte > 127 for byte in range(256)])
BASE = 0xD1B54A32D192ED03
COUNTS = ("words", "real_words", "real_characters", "lettered_words", "alphanumeric", "visible", "ascii_words", "ascii_characters")
Array = npt.NDArray[Any]


def _powers(first: int, base: int) -> Array:
    powers = np.full(BLOCK + 1, base, np.uint64)
    powers[0] = first
    return np.multiply.accumulate(powers)


class Vocabulary:
    """The runs seen so far, numbered in the order of their coming (so that frequent ones lie together), and what each counts for.

    keys_S, numbers_S: a run's hash, 0 where the slot is free, and its number, at a slot that the hash leads to; at most a quarter
    is taken. counts_RC: the columns of COUNTS. stops_R: which stop words it holds, one bit each. begins_R, sizes_R: where its words
    begin in hashes_W (64 bits of each) and lengths_W (characters), and how many they are.
    """

    def __init__(self) -> None:
        self.bits, self.runs, self.words = 16, 0, 0
        self.keys_S, self.numbers_S = np.zeros(1 << self.bits, np.uint64), np.zeros(1 << self.bits, np.int32)
        self.counts_RC, self.stops_R = np.zeros((0, len(COUNTS)), np.int32), np.zeros(0, np.uint8)
        self.begins_R, self.sizes_R = np.zeros(0, np.int32), np.zeros(0, np.int32)
        self.hashes_W, self.lengths_W = np.zeros(0, np.uint64), np.zeros(0, np.int32)
        self.powers_N, self.inverses_N = _powers(BASE, BASE), _powers(1, pow(BASE, -1, 1 << 64))

    def numbers(self, text: str) -> Array:
        """The numbers of a text's runs, in order; what was not known is added."""
        content = (text if text.isascii() else BEYOND_ASCII.sub(" ", text)).encode("utf-8", "surrogatepass")
        parts, start = [], 0
        while len(content) - start > BLOCK:
            end = max(content.rfind(space, start, start + BLOCK) for space in (b" ", b"\n")) + 1 or start + BLOCK
            while content[end] & 0xC0 == 0x80:
                end -= 1  # within a character
            parts.append(self._block(content[start:end]))
            start = end
        parts.append(self._block(content[start:]))
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _block(self, content: bytes) -> Array:
        """A run's hash is Σ byte · BASE^(1 + place) modulo 2^64, from differences of one running sum; 0 is kept for free slots."""
        bytes_N = np.frombuffer(content, np.uint8)
        visible_N = np.zeros(len(content) + 2, bool)
        visible_N[1:-1] = VISIBLE.take(bytes_N)
        edges_R = np.flatnonzero(visible_N[1:] != visible_N[:-1])
        begins_R, ends_R = edges_R[::2], edges_R[1::2]
        sums_N = np.zeros(len(content) + 1, np.uint64)
        np.cumsum(bytes_N * self.powers_N[: len(content)], out=sums_N[1:])
        hashes_R = ((sums_N.take(ends_R) - sums_N.take(begins_R)) * self.inverses_N.take(begins_R)) | np.uint64(1)
        slots_R = (hashes_R >> np.uint64(64 - self.bits)).astype(np.int64)
        doubtful_R = np.flatnonzero(self.keys_S.take(slots_R) != hashes_R)
        new: list[int] = []
        while len(doubtful_R):
            free_R = self.keys_S[slots_R[doubtful_R]] == 0
            new.extend(doubtful_R[free_R].tolist())
            doubtful_R = doubtful_R[~free_R]
            slots_R[doubtful_R] = (slots_R[doubtful_R] + 1) & ((1 << self.bits) - 1)
            doubtful_R = doubtful_R[self.keys_S[slots_R[doubtful_R]] != hashes_R[doubtful_R]]
        numbers_R = self.numbers_S.take(slots_R)
        if new:
            new.sort()
            numbers_R[new] = self._enter(hashes_R[new].tolist(), [content[begins_R[run] : ends_R[run]] for run in new])
        return numbers_R

    def _enter(self, keys: list[int], contents: list[bytes]) -> list[int]:
        """The numbers of runs that were not known; equal ones among them are one."""
        numbers: dict[int, int] = {}
        rows, stops, sizes, words = [], [], [], []
        for key, content in zip(keys, contents, strict=True):
            if key not in numbers:
                numbers[key] = self.runs + len(numbers)
                run = content.decode("utf-8", "surrogatepass")
                parts = split_words(run)
                rows.append(counted(run, parts))
                stops.append(sum({STOP_WORDS[word] for word in parts if word in STOP_WORDS}))
                sizes.append(len(parts))
                words += parts
        self.counts_RC = _written(self.counts_RC, self.runs, np.array(rows, np.int32))
        self.stops_R = _written(self.stops_R, self.runs, np.array(stops, np.uint8))
        self.sizes_R = _written(self.sizes_R, self.runs, np.array(sizes, np.int32))
        self.begins_R = _written(self.begins_R, self.runs, self.words + np.cumsum(sizes) - np.array(sizes))
        hashes = [xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) for word in words]
        self.hashes_W = _written(self.hashes_W, self.words, np.array(hashes, np.uint64))
        self.lengths_W = _written(self.lengths_W, self.words, np.array([len(word) for word in words], np.int32))
        self.words, self.runs = self.words + len(words), self.runs + len(numbers)
        self._place(numbers)
        return [numbers[key] for key in keys]

    def _place(self, numbers: dict[int, int]) -> None:
        """Give each new key its slot; where more than a quarter would be taken, all move to a table four times as large."""
        if self.runs * 4 > len(self.keys_S):
            taken_S = self.keys_S != 0
            numbers = dict(zip(self.keys_S[taken_S].tolist(), self.numbers_S[taken_S].tolist(), strict=True)) | numbers
            self.bits += 2
            self.keys_S, self.numbers_S = np.zeros(1 << self.bits, np.uint64), np.zeros(1 << self.bits, np.int32)
        for key, number in numbers.items():
            slot = key >> (64 - self.bits)
            while self.keys_S.item(slot):
                slot = (slot + 1) & ((1 << self.bits) - 1)
            self.keys_S[slot], self.numbers_S[slot] = key, number


def _written(table: Array, start: int, values: Array) -> Array:
    """The table with the values from `start` on; doubled where it would not hold them."""
    end = start + len(values)
    if end > len(table):
        table = np.concatenate([table, np.zeros((max(end, 1024), *table.shape[1:]), table.dtype)])
    table[start:end] = values
    return table


def counted(run: str, words: list[str]) -> tuple[int, ...]:
    """The columns of COUNTS for a run that has these words."""
    size = len(run)
    if len(words) == 1 and run.isascii() and run.isalpha():
        return (1, 1, size, 1, size, size, 1, size)
    real = [word for word in words if not is_sign(word)]
    lettered = sum(1 for word in real if word.isalpha() or any(map(str.isalpha, word)))
    ascii_words = ASCII_WORD.findall(run)
    alphanumeric = sum(map(str.isalnum, run))
    return (len(words), len(real), sum(map(len, real)), lettered, alphanumeric, size, len(ascii_words), sum(map(len, ascii_words)))


_vocabularies: list[Vocabulary] = []  # one a process: it only remembers what `split_words` says, and no decision depends on it


def vocabulary() -> Vocabulary:
    """The process's, or a new one in its place when it has grown too large."""
    if not _vocabularies or _vocabularies[0].runs > FORGET_AT:
        _vocabularies[:] = [Vocabulary()]
    return _vocabularies[0]


class Scan:
    """What the rules ask of a text; each part is computed when it is first asked for.

    A new measure is a method here, where several rules share it, or a function of a Scan in the rule's own file.
    """

    def __init__(self, text: str) -> None:
        self.text, self.vocabulary = text, vocabulary()

    @cached_property
    def lines(self) -> list[str]:
        """What stands between line feeds."""
        return self.text.split("\n")

    @cached_property
    def runs_R(self) -> Array:  # noqa: N802
        """The numbers of the runs of visible characters."""
        return self.vocabulary.numbers(self.text)

    @cached_property
    def counts(self) -> dict[str, int]:
        """What COUNTS names, for the whole text."""
        runs_R = self.runs_R  # before the table, which may be replaced by a larger one
        return dict(zip(COUNTS, self.vocabulary.counts_RC.take(runs_R, axis=0).sum(axis=0, dtype=np.int32).tolist(), strict=True))

    @cached_property
    def stop_words(self) -> int:
        """How many different ones of the eight stop words."""
        runs_R = self.runs_R
        return int(np.bitwise_or.reduce(self.vocabulary.stops_R.take(runs_R), initial=0)).bit_count()

    @cached_property
    def words_W(self) -> tuple[Array, Array]:  # noqa: N802
        """A hash and the length in characters of each word, in order."""
        runs_R = self.runs_R
        sizes_R = self.vocabulary.sizes_R.take(runs_R)
        ends_R = np.cumsum(sizes_R)
        places_W = np.repeat(self.vocabulary.begins_R.take(runs_R) - ends_R + sizes_R, sizes_R)
        places_W += np.arange(len(places_W))
        return self.vocabulary.hashes_W.take(places_W), self.vocabulary.lengths_W.take(places_W)

    @cached_property
    def pairs_W(self) -> Array:  # noqa: N802
        """How often the two words from here on stand together, or a little more; one fewer than words."""
        hashes_W, _ = self.words_W
        return occurrences(hashes_W[:-1] * np.uint64(BASE) + hashes_W[1:])[0]

    def sequences(self, size: int, places: Array) -> Array:
        """A hash of the sequence of so many words at each of these places."""
        hashes_W, _ = self.words_W
        found = np.zeros(len(places), np.uint64)
        for shift in range(size):
            found = found * np.uint64(BASE) + hashes_W.take(places + shift)
        return found


def occurrences(hashes_W: Array) -> tuple[Array, Array]:
    """How often each hash occurs, and whether it stood before. Or more often: the bits that number W places are not compared.

    The places take those bits, so that one plain sort, several times as fast as one of indices, brings equal hashes together.
    """
    total = len(hashes_W)
    low = np.uint64((1 << total.bit_length()) - 1)
    sorted_W = np.sort((hashes_W & ~low) | np.arange(total, dtype=np.uint64))
    order_W, kinds_W = (sorted_W & low).astype(np.int64), sorted_W & ~low
    first_W = np.ones(total, bool)
    first_W[1:] = kinds_W[1:] != kinds_W[:-1]
    edges_W = np.append(np.flatnonzero(first_W), total)
    sizes_W = edges_W[1:] - edges_W[:-1]
    times_W, again_W = np.empty(total, np.int64), np.empty(total, bool)
    times_W[order_W], again_W[order_W] = np.repeat(sizes_W, sizes_W), ~first_W
    return times_W, again_W


def share(part: float, whole: float) -> float:
    """part / whole, and nothing of nothing is nothing."""
    return part / whole if whole else 0.0


@dataclass(frozen=True, slots=True)
class Rule:
    """A text is dropped for `reason` when the measure of its scan lies below `at_least` or above `at_most`."""

    reason: str
    measure: Callable[[Scan], float]
    at_least: float = -math.inf
    at_most: float = math.inf


def fault(scan: Scan, rules: Iterable[Rule]) -> str | None:
    """The reason of the first rule that the text breaks."""
    return next((rule.reason for rule in rules if not rule.at_least <= rule.measure(scan) <= rule.at_most), None)
