"""Leave out what was there before: equal texts by digest, nearly equal ones by MinHash. The first in input order stays.

Sources: Broder 1997; for the bands Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from foretell.corpus.document import Document, Items

WORD = re.compile(r"\w+")
SHINGLE_WORDS, SLICE_CHARACTERS = 5, 2**16
PERMUTATIONS, BANDS, SEED = 128, 16, 1  # bands of 8 rows: 50 % of pairs at similarity 0.68 become candidates, 95 % at 0.8


def exact_duplicates(documents: Iterator[Document]) -> Items:
    """Drop documents whose text equals an earlier one. Memory: about 200 bytes a kept document."""
    kept: dict[bytes, str] = {}
    for document in documents:
        key = hashlib.blake2b(document.text.encode(), digest_size=16).digest()
        yield document.dropped("exact_duplicate", kept[key]) if key in kept else document
        kept.setdefault(key, document.id)


def near_duplicates(documents: Iterator[Document], threshold: float) -> Items:
    """Drop documents whose signature agrees with an earlier one in `threshold` of its places. Memory: 2 kB a kept document."""
    from rensa import RMinHashDeduplicator

    index = RMinHashDeduplicator(threshold, PERMUTATIONS, True, BANDS, SEED)
    for document in documents:
        signature = minhash(document.text)
        if index.add(document.id, signature):
            yield document
        else:
            yield document.dropped("near_duplicate", min(index.get_duplicates(signature), default=None))


def minhash(text: str) -> Any:
    """The signature of a text's set of five-word sequences, without case and punctuation; in slices, to bound memory."""
    from rensa import RMinHash

    signature = RMinHash(PERMUTATIONS, SEED)
    for start in range(0, len(text), SLICE_CHARACTERS):
        part = text[start : start + SLICE_CHARACTERS].lower()
        words = WORD.findall(part) or [part]
        signature.update([" ".join(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))])
    return signature
