"""How surprising a document is to a small model of text as it should be: bits a byte under a byte n-gram model.

The idea is CCNet's (Wenzek et al. 2020), who take the perplexity of a KenLM of words. Ours counts bytes, so that it serves every
language without a tokenizer: sequences of up to six, interpolated with absolute discounting (Ney, Essen and Kneser 1994), in tables
found by hashes. A sequence whose place is taken by a more frequent one counts as never seen: probabilities sum to at most 1, and
what the reference never shows may cost more than 8 bits a byte.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foretell.base.errors import SettingError
from foretell.corpus.config import CorpusSettings
from foretell.corpus.contamination import documents, named_files, strings
from foretell.corpus.document import Document, Dropped

ORDER = 6  # bytes of the longest sequence
DISCOUNT = 0.75
REFERENCE_BYTES, TEXT_BYTES, LEAST_BYTES = 2**22, 2**16, 10_000  # of the reference: in all, of one document, at least
JUDGED_BYTES, PIECES = 2**16, 8  # of a longer document so much is scored, in pieces spread evenly over it
WIDTH = 8  # bytes of a machine word, which holds a sequence
PADDING = b"\n" * WIDTH  # stands before each text
MIX = np.uint64(0x9E3779B97F4A7C15)
ENTRY = np.dtype(
    [("left", np.uint16), ("own", np.uint16), ("check", np.uint32)]
)  # probabilities in 65535ths: quick to turn to fp32
WHOLE = np.float32(65535)
MASKS = np.array([[2 ** (8 * order) - 1] for order in range(1, ORDER + 1)], dtype=np.uint64)

Keys = NDArray[np.uint64]


class Surprise:
    """The model of `settings.reference`; a call writes bits a byte into a document's metadata and drops it above the limit."""

    def __init__(self, settings: CorpusSettings) -> None:
        self._limit = settings.max_surprise
        self._left, tables = _learn(PADDING + _sample(settings) + PADDING)
        sizes = np.array([len(table) for table in tables])
        self._table, self._offsets = np.concatenate(tables), (np.cumsum(sizes) - sizes).astype(np.uint64)[:, None]
        self._shifts = np.array([[_shift(table)] for table in tables])

    def __call__(self, document: Document) -> Document | Dropped:
        """The document with its surprise, or what is said of it."""
        bits = self.bits_per_byte(document.text)
        document.metadata["surprise"] = round(bits, 2)
        return document.dropped("surprising") if bits > self._limit else document

    def bits_per_byte(self, text: str) -> float:
        """The mean of -log2 p(byte | the five before it); of a long text over `PIECES` pieces."""
        content = text.encode("utf-8", "replace")
        if len(content) > JUDGED_BYTES:
            step, length = len(content) // PIECES, JUDGED_BYTES // PIECES
            content = b"".join(content[start : start + length] for start in range(0, step * PIECES, step))
        if not content:
            return 0.0
        mixed = (_words(PADDING + content) & MASKS) * MIX  # for each order, what ends before the first byte, and at each
        entries = self._table.take((mixed >> self._shifts) + self._offsets).view(ENTRY)
        known = entries["check"] == _checks(mixed)
        own = np.where(known, entries["own"], np.uint16(0))[:, 1:] / WHOLE
        left = np.where(known, entries["left"], np.uint16(WHOLE))[:, :-1] / WHOLE
        probability = own[0] + np.float32(self._left / 256)
        for order in range(1, ORDER):
            probability = own[order] + left[order - 1] * probability
        return float(-np.log2(probability).mean())


def _words(content: bytes) -> Keys:
    """For each place the eight bytes that begin there, the first of them the most significant."""
    return np.ndarray(len(content) - WIDTH + 1, dtype=">u8", buffer=content, strides=(1,)).astype(np.uint64)


def _learn(content: bytes) -> tuple[float, list[Keys]]:
    """What is left to single bytes when nothing is known, and for each order the table of its sequences.

    An entry tells a sequence's `own` probability after its context, (count - DISCOUNT) / count of the context, and what the
    sequence as a context has `left` for shorter ones, DISCOUNT x distinct next bytes / count. Only the longest are counted; the
    shorter are their contexts.
    """
    keys, counts = np.unique(_words(content) & MASKS[-1], return_counts=True)
    left, tables = np.zeros(len(keys)), list[Keys]()
    for _ in range(ORDER):
        contexts = keys >> np.uint64(8)
        first = np.flatnonzero(np.concatenate([[True], contexts[1:] != contexts[:-1]]))
        totals, distinct = np.add.reduceat(counts, first), np.diff(first, append=len(keys))
        tables.append(_table(keys, counts, (counts - DISCOUNT) / np.repeat(totals, distinct), left))
        keys, counts, left = contexts[first], totals, DISCOUNT * distinct / totals
    return float(left[0]), tables[::-1]


def _table(keys: Keys, counts: NDArray[np.int64], probability: NDArray[np.float64], left: NDArray[np.float64]) -> Keys:
    """Entries by hash in a table of four to eight times their number; of two for one place the more frequent stays."""
    table, frequent = np.zeros(2 ** (len(keys).bit_length() + 2), dtype=np.uint64), np.argsort(counts, kind="stable")
    entries, mixed = np.empty(len(keys), dtype=ENTRY), keys[frequent] * MIX
    entries["check"], entries["own"], entries["left"] = _checks(mixed), probability[frequent] * WHOLE, left[frequent] * WHOLE
    table[mixed >> _shift(table)] = entries.view(np.uint64)  # the last one written stays
    return table


def _shift(table: Keys) -> np.uint64:
    """By how much a mixed key is shifted to be a place of a table."""
    return np.uint64(65 - len(table).bit_length())


def _checks(mixed: Keys) -> NDArray[np.uint32]:
    """What tells a key from others that lie in its place; never 0, which is an empty place's."""
    return mixed.astype(np.uint32) | np.uint32(1)


def _sample(settings: CorpusSettings) -> bytes:
    """Text of the reference: as much of every file. SettingError if it is too little."""
    files, content = named_files(settings.reference or Path()), bytearray()
    for number, file in enumerate(files, 1):
        share = REFERENCE_BYTES * number // len(files)  # what one file does not fill the next ones may
        for document in documents(file, settings):
            text = document.text or "\n".join(strings(document.metadata.get("fields")))
            text = text[:TEXT_BYTES] if "text_field" in document.metadata else text
            content += text.encode("utf-8", "replace")[: share - len(content)] + PADDING
            if len(content) >= share:
                break
    if len(content) < LEAST_BYTES:
        what, cure = f"{len(content)} bytes are too little to learn from", f"give at least {LEAST_BYTES} bytes of text"
        raise SettingError(what, where=f"corpus.reference: {settings.reference}", cure=cure)
    return bytes(content)
