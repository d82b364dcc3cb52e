"""The work of one process: a chunk of records goes down the road, and what comes of it is written into a folder of its own.

A chunk's folder appears whole or not at all, so a killed build goes on with the chunks that are missing.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.base.files import atomic_path, write_text
from foretell.base.groups import grouped
from foretell.base.records import dump
from foretell.corpus.chunks import Chunk
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Dropped, Raw
from foretell.corpus.lines import line_table
from foretell.corpus.pipeline import Step, counts, road, run
from foretell.corpus.readers.open import records
from foretell.corpus.rules.bad_words import bad_words
from foretell.corpus.signatures import signatures
from foretell.corpus.store import JsonLines

MARK, DOCUMENTS, DROPPED = "mark.json", "documents.jsonl.zst", "dropped.jsonl.zst"
SIGNATURES, IDENTITIES, LINES = "signatures.npy", "identities.npy", "lines.npy"
IDENTITY = np.dtype("S16")
GROUP_CHARACTERS = 2**24  # of text that is held in memory
Compared = tuple[NDArray[np.void], NDArray[np.void]]


class _ChangedMeanwhile(Exception):
    pass


def is_done(chunk: Chunk, folder: Path) -> bool:
    """Whether this chunk's work lies there already."""
    return (folder / chunk.fingerprint / MARK).is_file()


def work(chunk: Chunk, settings: CorpusSettings, folder: Path) -> int:
    """Take a chunk into `folder/<its fingerprint>/`; return its bytes of source. Files that change meanwhile are left out."""
    changed = frozenset[Path]()
    while not is_done(chunk, folder):  # it may be, where a worker died before it could say so
        try:
            with atomic_path(folder / chunk.fingerprint) as partial:
                partial.mkdir()
                mark = _write(_records(chunk, settings, changed), settings, chunk.key, partial)
                if now_changed := {piece.file.path for piece in chunk.pieces if piece.has_changed} - changed:
                    raise _ChangedMeanwhile
                write_text(partial / MARK, dump(mark))
        except _ChangedMeanwhile:
            changed |= now_changed
    return chunk.source_bytes


def _records(chunk: Chunk, settings: CorpusSettings, changed: frozenset[Path]) -> Iterator[Raw | Dropped]:
    for piece in chunk.pieces:
        if piece.file.path in changed:
            yield piece.file.dropped("changed", size_bytes=piece.bytes)
        else:
            yield from records(piece.file, settings, piece.part)
    yield from chunk.items


def _write(items: Iterator[Raw | Dropped], settings: CorpusSettings, key: str, folder: Path) -> dict[str, Any]:
    """Write documents, drops and what is compared between documents; return the counts."""
    steps, identities, tables = _fresh_road(settings, key), list[str](), list[Compared]()
    with closing(JsonLines(folder / DOCUMENTS, 1)) as documents, closing(JsonLines(folder / DROPPED, 1)) as drops:
        for group in grouped(run(steps, items, drops.add), lambda document: len(document.text), GROUP_CHARACTERS):
            texts = list[str]()
            for document in group:
                try:
                    documents.add(document)
                except RecursionError:  # metadata nested deeper than can be written
                    drops.add(document.dropped("step_failed"))
                    continue
                texts.append(document.text)
                identities.append(document.id)
            tables.append((signatures(texts, settings), line_table(texts, settings, len(identities) - len(texts))))
    tables = tables or [(signatures([], settings), line_table([], settings))]
    np.save(folder / SIGNATURES, np.concatenate([compared for compared, _ in tables]))
    np.save(folder / IDENTITIES, np.array(identities, IDENTITY))
    if settings.duplicate_lines != "keep":
        np.save(folder / LINES, np.concatenate([lines for _, lines in tables]))
    return {"documents": len(identities), "bytes": documents.bytes, "steps": [counts(step) for step in steps]}


def _fresh_road(settings: CorpusSettings, key: str) -> list[Step]:
    """The steps with counts at zero; what they learned from files is kept for the process's next chunk."""
    return [replace(step, documents=0, bytes=0, dropped=type(step.dropped)()) for step in _road(settings, key)]


@lru_cache(maxsize=1)
def _road(settings: CorpusSettings, _: str) -> tuple[Step, ...]:
    bad_words.cache_clear()  # the key has changed, and with it perhaps what lies in the file
    return tuple(road(settings))
