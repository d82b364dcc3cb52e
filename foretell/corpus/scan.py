"""One look at a text serves all rules: its lines, its runs of visible characters, and what is counted in them.

What a run counts for is kept in a table that grows with the language's vocabulary, so that a text costs some numpy operations and a
lookup a run, whatever the number of rules. Legend: N bytes, R runs, W words of the text; S slots of the table, C columns of COUNTS.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from foretell.corpus.rules.signs import is_sign
from foretell.corpus.rules.words import split_words

BLOCK = 1 << 16  # bytes that are looked at together; a longer run is cut
FORGET_AT = 500_000  # runs: some 100 MB
PAIR_BITS = 20  # at most so many of a hash tell pairs of words apart: 8 MB
STOP = "the be to of and that have with"  # Rae et al. 2021, A1.1
STOP_WORDS = {word: 1 << bit for bit, word in enumerate(STOP.split())}
ASCII_WORD = re.compile(r"[A-Za-z0-9+/=_-]+")
BEYOND_ASCII = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")  # the other spaces of str.split
VISIBLE = bytes(not chr(byte).isspace() or byte > 127 for byte in range(256))
SINGLE_SIGNS = """!"#$%&'()*,.:;<>?@[\\]^`{|}~“”’"""
BASE = 0xD1B54A32D192ED03
COUNTS = ("words", "real_words", "real_characters", "lettered_words", "alphanumeric", "visible", "ascii_words", "ascii_characters")
Array = npt.NDArray[Any]


def _powers(first: int, base: int) -> Array:
    powers = np.full(BLOCK + 2, base, np.uint64)
    powers[0] = first
    return np.multiply.accumulate(powers)


class Vocabulary:
    """The runs seen so far, numbered in the order of their coming (so that frequent ones lie together), and what each counts for.

    slots_S2: a run's hash, 0 where the slot is free, and its number, at a slot that the hash leads to; at most a quarter is taken.
    rows_RC: of a run the columns of COUNTS, where its words begin in hashes_W (64 bits of each) and lengths_W (characters), and
    which stop words it holds, one bit each.
    """

    def __init__(self) -> None:
        self.bits, self.runs, self.words = 16, 0, 0
        self.slots_S2 = np.zeros((1 << self.bits, 2), np.uint64)
        self.rows_RC = np.zeros((0, len(COUNTS) + 2), np.int32)
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
        content = b" %b " % content
        visible_N = np.frombuffer(content.translate(VISIBLE), bool)
        edges_E = np.flatnonzero(visible_N[1:] != visible_N[:-1])  # the bytes before a run and at its end, in turns
        sums_N = np.frombuffer(content, np.uint8).astype(np.uint64)
        sums_N *= self.powers_N[: len(content)]
        sums_E = sums_N.cumsum().take(edges_E)
        hashes_R = ((sums_E[1::2] - sums_E[::2]) * self.inverses_N.take(edges_E[::2])) | np.uint64(1)
        places_R = self._places(hashes_R)
        found_R2 = self.slots_S2.take(places_R, axis=0)
        doubtful_R = np.flatnonzero(found_R2[:, 0] != hashes_R)
        new: list[int] = []
        while len(doubtful_R):
            free_R = found_R2[doubtful_R, 0] == 0
            new += doubtful_R[free_R].tolist()
            doubtful_R = doubtful_R[~free_R]
            places_R[doubtful_R] = (places_R[doubtful_R] + 1) & (len(self.slots_S2) - 1)
            found_R2[doubtful_R] = self.slots_S2[places_R[doubtful_R]]
            doubtful_R = doubtful_R[found_R2[doubtful_R, 0] != hashes_R[doubtful_R]]
        numbers_R = found_R2[:, 1].astype(np.int64)
        if new:
            new.sort()
            begins, ends = (edges_E[side::2][new] + 1 for side in (0, 1))
            runs = [content[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
            numbers_R[new] = self._enter(hashes_R[new].tolist(), runs)
        return numbers_R

    def _enter(self, keys: list[int], contents: list[bytes]) -> list[int]:
        """The numbers of runs that were not known; equal ones among them are one."""
        different = dict(zip(keys, contents, strict=True))
        runs = b"\n".join(different.values()).decode("utf-8", "surrogatepass").split("\n")
        split = [split_words(run) for run in runs]
        words = [word for part in split for word in part]
        rows_RC = np.zeros((len(runs), self.rows_RC.shape[1]), np.int32)
        rows_RC[:, :-2] = np.fromiter(chain.from_iterable(map(counted, runs, split)), np.int32).reshape(-1, len(COUNTS))
        rows_RC[:, -2] = self.words + rows_RC[:, 0].cumsum() - rows_RC[:, 0]
        if not STOP_WORDS.keys().isdisjoint(words):
            rows_RC[:, -1] = [sum({STOP_WORDS[word] for word in part if word in STOP_WORDS}) for part in split]
        hashes = [xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) for word in words]
        self.rows_RC = _written(self.rows_RC, self.runs, rows_RC)
        self.hashes_W = _written(self.hashes_W, self.words, np.array(hashes, np.uint64))
        self.lengths_W = _written(self.lengths_W, self.words, np.array([len(word) for word in words], np.int32))
        numbers = dict(zip(different, range(self.runs, self.runs + len(runs)), strict=True))
        self.words, self.runs = self.words + len(words), self.runs + len(runs)
        self._place(np.fromiter(chain(numbers, numbers.values()), np.uint64).reshape(2, -1).T)
        return [numbers[key] for key in keys]

    def _places(self, hashes_R: Array) -> Array:
        """Where each is looked for first."""
        return (hashes_R >> np.uint64(64 - self.bits)).view(np.int64)

    def _place(self, new_R2: Array) -> None:
        """Give each new key its slot; where more than a quarter would be taken, all move to a table four times as large."""
        if self.runs * 4 > len(self.slots_S2):
            new_R2 = np.concatenate([self.slots_S2[self.slots_S2[:, 0] != 0], new_R2])
            self.bits += 2
            self.slots_S2 = np.zeros((1 << self.bits, 2), np.uint64)
        places_R = self._places(new_R2[:, 0])
        while len(new_R2):
            free_R = self.slots_S2[places_R, 0] == 0
            self.slots_S2[places_R[free_R]] = new_R2[free_R]  # of several for one slot the last
            left_R = self.slots_S2[places_R, 0] != new_R2[:, 0]
            new_R2, places_R = new_R2[left_R], (places_R[left_R] + 1) & (len(self.slots_S2) - 1)


def _written(table: Array, start: int, values: Array) -> Array:
    """The table with the values from `start` on; doubled where it would not hold them."""
    end = start + len(values)
    if end > len(table):
        table = np.concatenate([table, np.zeros((max(end, 1024), *table.shape[1:]), table.dtype)])
    table[start:end] = values
    return table


def counted(run: str, words: list[str]) -> tuple[int, ...]:
    """The columns of COUNTS for a run that has these words."""
    bare = run.strip(SINGLE_SIGNS)
    total, size = len(run), len(bare)
    if bare.isalpha() and bare.isascii() and len(words) == total - size + 1 and bare in words:  # a word, and signs around it
        return (len(words), 1, size, 1, size, total, 1, size)
    real = [word for word in words if not is_sign(word)]
    lettered = sum(1 for word in real if word.isalpha() or any(map(str.isalpha, word)))
    ascii_words = ASCII_WORD.findall(run)
    alphanumeric = sum(map(str.isalnum, run))
    return (len(words), len(real), sum(map(len, real)), lettered, alphanumeric, total, len(ascii_words), sum(map(len, ascii_words)))


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
    def written_lines(self) -> list[str]:
        """The lines with visible characters."""
        return [line for line in self.lines if line and not line.isspace()]

    @cached_property
    def rows_RC(self) -> Array:  # noqa: N802
        """What the vocabulary knows of each run of visible characters."""
        runs_R = self.vocabulary.numbers(self.text)  # before the table, which may be replaced by a larger one
        return self.vocabulary.rows_RC.take(runs_R, axis=0)

    @cached_property
    def counts(self) -> dict[str, int]:
        """What COUNTS names, for the whole text."""
        sums_C = np.einsum("rc->c", self.rows_RC[:, : len(COUNTS)])  # several times as fast as sum(axis=0)
        return dict(zip(COUNTS, sums_C.tolist(), strict=True))

    @cached_property
    def stop_words(self) -> int:
        """How many different ones of the eight stop words."""
        return int(np.bitwise_or.reduce(self.rows_RC[:, -1], initial=0)).bit_count()

    @cached_property
    def words_W(self) -> tuple[Array, Array]:  # noqa: N802
        """A hash and the length in characters of each word, in order."""
        sizes_R = self.rows_RC[:, 0]
        places_W = np.repeat(self.rows_RC[:, -2] - sizes_R.cumsum() + sizes_R, sizes_R)
        places_W += np.arange(len(places_W))
        return self.vocabulary.hashes_W.take(places_W), self.vocabulary.lengths_W.take(places_W)

    @cached_property
    def ends_W(self) -> Array:  # noqa: N802
        """The characters of all words before each, without the spaces between, and at last of all words."""
        return np.concatenate([[0], self.words_W[1].cumsum(dtype=np.int64)])

    @cached_property
    def pairs_W(self) -> Array:  # noqa: N802
        """How often the two words from here on stand together, or a little more; one fewer than words."""
        hashes_W, _ = self.words_W
        bits = min(len(hashes_W).bit_length() + 3, PAIR_BITS)
        kinds_W = ((hashes_W[:-1] * np.uint64(BASE) + hashes_W[1:]) >> np.uint64(64 - bits)).view(np.int64)
        return np.bincount(kinds_W).take(kinds_W)

    def sequences(self, size: int, places: Array) -> Array:
        """A hash of the sequence of so many words at each of these places."""
        hashes_W, _ = self.words_W
        found = np.zeros(len(places), np.uint64)
        for shift in range(size):
            found = found * np.uint64(BASE) + hashes_W.take(places + shift)
        return found


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
