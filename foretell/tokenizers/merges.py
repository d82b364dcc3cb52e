"""Which pairs of tokens byte-pair encoding joins, learned from the counts of words: quick, and exactly as `tokenizers` does it."""

import heapq
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Pairs = Iterator[tuple[int, int, Numbers]]  # a pair, how often it occurs, the slots where it begins
WALL, GONE = -1, -2  # in place of a token: around words, and where a token has gone into the one before it
HALF = 1 << 32  # a pair is the number left * HALF + right: smaller numbers for smaller left, then right


class Words:
    """All distinct words in flat arrays of S slots, a wall around each; `after_S` and `before_S` link the tokens that are left."""

    def __init__(self, counts: Mapping[bytes, int], byte_ids: Numbers) -> None:
        """counts: of words, none of them empty. byte_ids: (256,) the token of each byte."""
        lengths = np.array([len(word) for word in counts], np.int64)
        self.ends = np.cumsum(lengths + 1)  # (words,) the wall behind each
        self.token_S = byte_ids[np.frombuffer(b"\0" + b"\0".join([*counts, b""]), np.uint8)]
        self.token_S[0] = self.token_S[self.ends] = WALL
        self.weight_S = np.concatenate([[0], np.repeat(np.fromiter(counts.values(), np.int64, len(counts)), lengths + 1)])
        self.after_S, self.before_S = np.arange(1, len(self.token_S) + 1), np.arange(-1, len(self.token_S) - 1)

    def pairs(self) -> Pairs:
        """Each pair of neighbours, how often it occurs, and the slots where it begins."""
        left, right = self.token_S[:-1], self.token_S[1:]
        slots = np.flatnonzero((left >= 0) & (right >= 0))
        return by_pair(left[slots] * HALF + right[slots], self.weight_S[slots], slots)

    def join(self, pair: int, new: int, at: Numbers) -> tuple[Pairs, Pairs]:
        """Join a pair where it is still found; gives the pairs of neighbours that vanish by this, and those that arise."""
        token_S, (left, right) = self.token_S, divmod(pair, HALF)
        second = self.after_S[at]
        found = (token_S[at] == left) & (token_S[second] == right)
        at, second = at[found], second[found]
        if left == right:
            at, second = _apart(at, second)
        before, after, weight = self.before_S[at], self.after_S[second], self.weight_S[at]
        token_before, token_after = token_S[before], token_S[after]
        token_S[second], token_S[at] = GONE, new
        self.after_S[at], self.before_S[after] = after, at
        # Where two joined pairs are neighbours, what is between them is counted with the first of them.
        begins, ends = (token_before >= 0) & (token_S[before] != GONE), token_after >= 0
        token_before, weights = token_before[begins], np.concatenate([weight[begins], weight[ends]])
        vanished = np.concatenate([token_before * HALF + left, right * HALF + token_after[ends]])
        arisen = np.concatenate([token_before * HALF + new, new * HALF + token_S[after][ends]])
        slots = np.concatenate([before[begins], at[ends]])
        return by_pair(vanished, weights, slots), by_pair(arisen, weights, slots)


def by_pair(pairs: Numbers, weights: Numbers, slots: Numbers) -> Pairs:
    """Each distinct pair, the sum of its weights, and its slots."""
    if not len(pairs):
        return
    order = np.argsort(pairs, kind="stable")
    pairs, slots = pairs[order], slots[order]
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    ends = [*starts[1:].tolist(), len(pairs)]
    sums = np.add.reduceat(weights[order], starts).tolist()
    for pair, total, start, end in zip(pairs[starts].tolist(), sums, starts.tolist(), ends, strict=True):
        yield pair, total, slots[start:end]


def learn_merges(counts: Mapping[bytes, int], ids: dict[str, int], letters: list[str], size: int) -> list[tuple[str, str]]:
    """Join the most frequent pair, of several the one with the smallest ids, until there are `size` tokens or none occurs twice.

    ids: the tokens to begin with; it grows. letters: of the 256 bytes. Source: Sennrich et al. 2016. No pair is met again once it
    was joined, and no two pairs make the same token: within a token merges do not depend on what stands around it.
    """
    words, contents, merges = Words(counts, np.array([ids[letter] for letter in letters])), list(ids), list[tuple[str, str]]()
    totals, queue, arisen = dict[int, int](), list[tuple[int, int, Numbers]](), words.pairs()
    while True:
        for pair, total, slots in arisen:
            totals[pair] = total
            if total > 1:
                heapq.heappush(queue, (-total, pair, slots))
        while queue and (present := totals[queue[0][1]]) != -queue[0][0]:  # it has become rarer since it was put there
            _, pair, slots = heapq.heappop(queue)
            if present > 1:
                heapq.heappush(queue, (-present, pair, slots))
        if len(contents) >= size or not queue:
            return merges
        _, pair, slots = heapq.heappop(queue)
        merges.append((contents[pair // HALF], contents[pair % HALF]))
        if (new := ids.setdefault("".join(merges[-1]), len(contents))) == len(contents):  # else it is a special token's text
            contents.append("".join(merges[-1]))
        vanished, arisen = words.join(pair, new, slots)
        for gone, total, _ in vanished:
            totals[gone] -= total


def _apart(at: Numbers, second: Numbers) -> tuple[Numbers, Numbers]:
    """Of pairs of one and the same token those that do not overlap, from the left."""
    if not (at[1:] == second[:-1]).any():
        return at, second
    kept, taken = list[int](), -1
    for place, (slot, other) in enumerate(zip(at.tolist(), second.tolist(), strict=True)):
        if slot != taken:
            kept.append(place)
            taken = other
    return at[kept], second[kept]
