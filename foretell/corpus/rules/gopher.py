"""What is no prose. Source: Rae et al. 2021 (Gopher), A1.1 (quality) and table A1 (repetition); thresholds as published.

A measure may stop at a bound that decides: what it returns lies on the same side of its threshold as the exact value.
"""

import numpy as np

from foretell.corpus.scan import Array, Rule, Scan, share

BULLETS, ELLIPSES = ("•", "-"), ("...", "…")
MAX_BULLETS, MAX_ELLIPSES = 0.9, 0.3
MAX_TOP = {2: 0.20, 3: 0.18, 4: 0.16}
MAX_REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def _symbols(scan: Scan) -> float:
    return share(max(scan.text.count("#"), sum(map(scan.text.count, ELLIPSES))), scan.counts["words"])


def _bullets(scan: Scan) -> float:
    if sum(map(scan.text.count, BULLETS)) <= MAX_BULLETS * scan.text.count("\n"):
        return 0.0  # there are fewer bullets than that many lines would need
    lines = scan.text.splitlines()
    return share(sum(line.lstrip().startswith(BULLETS) for line in lines), len(lines))


def _ellipses(scan: Scan) -> float:
    if sum(map(scan.text.count, ELLIPSES)) <= MAX_ELLIPSES * scan.text.count("\n"):
        return 0.0
    lines = scan.text.splitlines()
    return share(sum(line.rstrip().endswith(ELLIPSES) for line in lines), len(lines))


QUALITY = (
    Rule("gopher_few_words", lambda scan: scan.counts["real_words"], at_least=50),
    Rule("gopher_many_words", lambda scan: scan.counts["real_words"], at_most=100_000),
    Rule(
        "gopher_word_length", lambda scan: share(scan.counts["real_characters"], scan.counts["real_words"]), at_least=3, at_most=10
    ),
    Rule("gopher_symbols", _symbols, at_most=0.1),
    Rule("gopher_bullets", _bullets, at_most=MAX_BULLETS),
    Rule("gopher_ellipsis", _ellipses, at_most=MAX_ELLIPSES),
    Rule("gopher_no_letters", lambda scan: share(scan.counts["lettered_words"], scan.counts["words"]), at_least=0.8),
    Rule("gopher_stop_words", lambda scan: scan.stop_words, at_least=2),
)


def repeated(parts: list[str]) -> tuple[int, int]:
    """How many parts stood before, and their characters."""
    different = set(parts)
    if len(different) == len(parts):
        return 0, 0
    return len(parts) - len(different), sum(map(len, parts)) - sum(map(len, different))


def _paragraphs(scan: Scan) -> float:
    pieces = scan.text.strip().split("\n\n")
    return _relative(scan, [piece.lstrip("\n") for piece in pieces if piece.strip("\n")] or [""])


def _lines(scan: Scan) -> float:
    lines = scan.lines
    edges = (lines[:1] + lines[1:][-1:]).count("")  # what stands before a first and after a last line feed is a part, too
    return _relative(scan, [line for line in lines if line] + edges * [""])


def _relative(scan: Scan, parts: list[str]) -> float:
    """The share of repeated parts, or of characters in them, as a multiple of the largest that is allowed."""
    number, characters = repeated(parts)
    return max(share(number, len(parts)) / 0.3, share(characters, len(scan.text)) / 0.2)


def _top_words(scan: Scan) -> float:
    """The largest share of the characters in one sequence of 2, 3 or 4 words, as a multiple of the largest that is allowed.

    No sequence is more frequent than the rarest of its pairs: most texts are decided by that.
    """
    characters, pairs_W, ends_W = len(scan.text), scan.pairs_W, scan.ends_W
    longest = max(MAX_TOP) * (int(scan.words_W[1].max(initial=0)) + 1)
    if int(pairs_W.max(initial=0)) * longest <= min(MAX_TOP.values()) * characters:
        return 0.0
    worst, rarest_W = 0.0, pairs_W
    for size, limit in MAX_TOP.items():
        total = len(pairs_W) + 2 - size
        if total < 1:
            break
        rarest_W = np.minimum(rarest_W[:total], pairs_W[size - 2 : size - 2 + total])
        lengths_W = ends_W[size:] - ends_W[:-size] + size - 1  # with the spaces between
        if (rarest_W * lengths_W).max() > limit * characters:
            worst = max(worst, _top(scan, size, lengths_W) / (limit * characters))
    return worst


def _top(scan: Scan, size: int, lengths_W: Array) -> int:
    """Characters of the commonest sequence of so many words, the earliest of several."""
    _, first, times = np.unique(scan.sequences(size, np.arange(len(lengths_W))), return_index=True, return_counts=True)
    return int(times.max() * lengths_W[first[times == times.max()].min()])


def _repeated_words(scan: Scan) -> float:
    """The largest share of characters in repeated sequences of 5 to 10 words, as a multiple of the largest that is allowed.

    A sequence that returns is one of pairs that return, and of sequences of five that return: only their places are looked at.
    """
    twice_W = scan.pairs_W > 1
    if len(twice_W) < 4:
        return 0.0
    places = np.flatnonzero(twice_W[:-3] & twice_W[1:-2] & twice_W[2:-1] & twice_W[3:])
    characters, ends_W, (_, lengths_W) = len(scan.text), scan.ends_W, scan.words_W
    if (ends_W[places + 5] - ends_W[places]).sum() <= min(MAX_REPEATED.values()) * characters:
        return 0.0
    _, first, kinds, times = np.unique(scan.sequences(5, places), return_index=True, return_inverse=True, return_counts=True)
    covered_W = np.zeros(len(lengths_W), bool)
    for shift in range(5):
        covered_W[np.delete(places, first) + shift] = True
    bound, places = int(lengths_W[covered_W].sum()), places[times[kinds] > 1]
    doubtful = ((size, limit * characters) for size, limit in MAX_REPEATED.items() if bound > limit * characters)
    return max((_walked(scan, size, places) / most for size, most in doubtful), default=0.0)


def _walked(scan: Scan, size: int, places: Array) -> int:
    """Characters in repetitions, from the left: a sequence that stood before is counted and stepped over, another is remembered.

    places: in order, at least those whose sequence of `size` occurs twice. Sequences are compared word by word.
    """
    ends_W = scan.ends_W
    places = places[places < len(ends_W) - size]
    columns = places, scan.sequences(size, places), ends_W[places + size] - ends_W[places]
    total, free = 0, 0
    seen: set[int] = set()
    for place, sequence, characters in zip(*(column.tolist() for column in columns), strict=True):
        if place < free:
            continue
        if sequence in seen:
            total, free = total + characters, place + size
        seen.add(sequence)
    return total


REPETITION = (
    Rule("gopher_repeated_paragraphs", _paragraphs, at_most=1),
    Rule("gopher_repeated_lines", _lines, at_most=1),
    Rule("gopher_top_words", _top_words, at_most=1),
    Rule("gopher_repeated_words", _repeated_words, at_most=1),
)
