"""What decides whether two documents are the same, or nearly: a digest of the text, and bands of MinHash values of its words.

Words are taken in lower case and without punctuation; in scripts without spaces every character is one. The set of a document's
sequences of `shingle_words` words is reduced to the smallest values under `bands × rows` hash functions, and those of a band to one
number. Everything is computed on arrays: a range of hashes h is summed as Σ h_i · base^(i - start) mod 2^64 out of one running sum.
Sources: Broder 1997; for the bands Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from foretell.corpus.config import CorpusSettings

Hashes = NDArray[np.uint64]
SEED = 1  # of rensa's hash functions; with BASES all there is to a signature but the text
BASES = (0x9E3779B97F4A7C15, 0xD1342543DE82EF95)  # odd, hence invertible mod 2^64
BATCH_CHARACTERS = 2**18  # arrays of 2 MB: they stay in the cache
NO_SPACES = "0E00-0EFF 1000-109F 1780-17FF 3040-30FF 3400-9FFF F900-FAFF 20000-33FFF"  # Thai, Lao, Burmese, Khmer, kana, Han


def signature_type(settings: CorpusSettings) -> np.dtype[np.void]:
    """A document's record: 240 bytes with the defaults. sketch: a byte of each MinHash value (Li and König 2010)."""
    bands = settings.bands if settings.near_duplicates else 0
    return np.dtype([("exact", np.uint64, (2,)), ("bands", np.uint64, (bands,)), ("sketch", np.uint8, (bands * settings.rows,))])


def signatures(texts: Sequence[str], settings: CorpusSettings) -> NDArray[np.void]:
    """One record a text: exact, the XXH3-128 of its UTF-8 form; bands, one number each. A text's record depends on nothing else.

    Memory: some 25 MB, and 15 bytes a character of the longest text.
    """
    from xxhash import xxh3_128_digest

    result = np.zeros(len(texts), signature_type(settings))
    digests = b"".join(xxh3_128_digest(text.encode("utf-8", "surrogatepass")) for text in texts)
    result["exact"] = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    if settings.near_duplicates:
        for first, last in _batches(texts):
            bands, sketch = _bands(texts[first:last], result["exact"][first:last, 0], settings)
            result["bands"][first:last], result["sketch"][first:last] = bands, sketch
    return result


def range_hashes(values: Hashes, starts: NDArray[np.int64], stops: NDArray[np.int64], base: int = BASES[0]) -> Hashes:
    """The hashes of values[start:stop]: equal ranges have equal ones wherever they stand."""
    powers, inverse = _powers(1 << max(10, len(values).bit_length()), base)
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return mixed((sums[stops] - sums[starts]) * inverse[starts])


def mixed(hashes: Hashes) -> Hashes:
    """Spread what the low bits know over all of them. Source: SplitMix64 (Steele, Lea and Flood 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Neighbouring texts of some BATCH_CHARACTERS together, at least one."""
    first = size = 0
    for number, text in enumerate(texts):
        if size and size + len(text) > BATCH_CHARACTERS:
            yield first, number
            first, size = number, 0
        size += len(text) + 1
    if first < len(texts):
        yield first, len(texts)


def _bands(texts: Sequence[str], exact: Hashes, settings: CorpusSettings) -> tuple[Hashes, NDArray[np.uint8]]:
    from rensa import RMinHash

    words, ends = _words(texts)
    shingles, counts = _shingles(words, ends, exact, settings.shingle_words)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(shingles, offsets, settings.bands * settings.rows, SEED)
    least = np.array(matrix.to_rows(), np.uint64).reshape(len(texts), settings.bands, settings.rows)
    bands = np.zeros((len(texts), settings.bands), np.uint64)
    for row in range(settings.rows):
        bands = mixed(bands * np.uint64(BASES[0]) + least[:, :, row])
    return bands, mixed(least).astype(np.uint8).reshape(len(texts), -1)


def _words(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """The hashes of all words, and how many there are up to the end of each text. A long text is cut, whatever stands there."""
    if len(texts) == 1 and len(texts[0]) > BATCH_CHARACTERS:
        cuts = range(0, len(texts[0]), BATCH_CHARACTERS)
        words = np.concatenate([_words([texts[0][cut : cut + BATCH_CHARACTERS]])[0] for cut in cuts])
        return words, np.array([len(words)])
    kinds_of, values_of = _characters()
    codes = np.frombuffer("\n".join([*texts, ""]).encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = kinds_of[codes]
    before = np.concatenate([np.zeros(1, np.uint8), kinds[:-1]])
    apart = kinds | before > 1
    starts = np.flatnonzero((kinds > 0) & ((before == 0) | apart))
    stops = np.flatnonzero((before > 0) & ((kinds == 0) | apart))
    bounds = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
    return range_hashes(values_of[codes], starts, stops), np.searchsorted(starts, bounds)


def _shingles(words: Hashes, ends: NDArray[np.int64], exact: Hashes, length: int) -> tuple[Hashes, NDArray[np.int64]]:
    """The hashes of sequences of `length` words, or of the words there are, text by text; a text without words has itself."""
    firsts = np.concatenate([[0], ends[:-1]])
    counts = np.maximum(ends - firsts - length + 1, 1)
    rows = np.cumsum(counts) - counts
    starts = np.arange(counts.sum()) + np.repeat(firsts - rows, counts)
    stops = starts + length
    short = ends - firsts < length
    stops[rows[short]] = ends[short]
    shingles = range_hashes(words, starts, stops)
    none = ends == firsts
    shingles[rows[none]] = exact[none]
    return shingles, counts


@lru_cache(maxsize=1)
def _characters() -> tuple[NDArray[np.uint8], Hashes]:
    """For every code point: 0 between words, 1 in a word, 2 a word by itself; and the hash of its lower case."""
    kinds, values = np.zeros(0x110000, np.uint8), np.zeros(0x110000, np.uint64)
    lower = np.arange(0x34000)  # above are tags and private characters
    for code in range(0x34000):
        if unicodedata.category(chr(code))[0] in "LMN" or chr(code) == "_":
            kinds[code], lower[code] = 1, ord(chr(code).lower()[0])
    for span in NO_SPACES.split():
        first, last = (int(code, 16) for code in span.split("-"))
        kinds[first : last + 1] *= 2
    values[: len(lower)] = mixed(lower.astype(np.uint64) + np.uint64(1))
    return kinds, values


@lru_cache(maxsize=4)
def _powers(size: int, base: int) -> tuple[Hashes, Hashes]:
    """base, base², base³, … and their inverses, mod 2^64."""
    powers, inverse = (np.full(size, number, np.uint64) for number in (base, pow(base, -1, 2**64)))
    return np.cumprod(powers, dtype=np.uint64), np.cumprod(inverse, dtype=np.uint64)
