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

from foretell.base.files import atomic_path, write_text
from foretell.base.records import dump
from foretell.corpus.chunks import Chunk
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Dropped, Raw
from foretell.corpus.lines import line_table
from foretell.corpus.pipeline import Step, counts, road, run
from foretell.corpus.readers.open import records
from foretell.corpus.signatures import signatures
from foretell.corpus.store import JsonLines

MARK, DOCUMENTS, DROPPED = "mark.json", "documents.jsonl.zst", "dropped.jsonl.zst"
SIGNATURES, IDENTITIES, LINES = "signatures.npy", "identities.npy", "lines.npy"
IDENTITY = np.dtype("S16")


class _ChangedMeanwhile(Exception):
    pass


def is_done(chunk: Chunk, folder: Path) -> bool:
    """Whether this chunk's work lies there already."""
    return (folder / chunk.fingerprint / MARK).is_file()


def work(chunk: Chunk, settings: CorpusSettings, folder: Path) -> int:
    """Take a chunk into `folder/<its fingerprint>/`; return its bytes of source. Files that change meanwhile are left out."""
    changed = frozenset[Path]()
    while True:
        try:
            with atomic_path(folder / chunk.fingerprint) as partial:
                partial.mkdir()
                mark = _write(_records(chunk, settings, changed), settings, partial)
                if now_changed := {piece.file.path for piece in chunk.pieces if piece.has_changed} - changed:
                    raise _ChangedMeanwhile
                write_text(partial / MARK, dump(mark))
            return chunk.source_bytes
        except _ChangedMeanwhile:
            changed |= now_changed


def _records(chunk: Chunk, settings: CorpusSettings, changed: frozenset[Path]) -> Iterator[Raw | Dropped]:
    for piece in chunk.pieces:
        if piece.file.path in changed:
            yield piece.file.dropped("changed", size_bytes=piece.bytes)
        else:
            yield from records(piece.file, settings, piece.part)
    yield from chunk.items


def _write(items: Iterator[Raw | Dropped], settings: CorpusSettings, folder: Path) -> dict[str, Any]:
    """Write documents, drops and what is compared between documents; return the counts."""
    steps, texts, identities = _fresh_road(settings), list[str](), list[str]()
    with closing(JsonLines(folder / DOCUMENTS)) as documents, closing(JsonLines(folder / DROPPED)) as drops:
        for document in run(steps, items, drops.add):
            documents.add(document)
            texts.append(document.text)
            identities.append(document.id)
    np.save(folder / SIGNATURES, signatures(texts, settings))
    np.save(folder / IDENTITIES, np.array(identities, IDENTITY))
    if settings.duplicate_lines != "keep":
        np.save(folder / LINES, line_table(texts, settings))
    return {"documents": len(texts), "bytes": documents.bytes, "steps": [counts(step) for step in steps]}


def _fresh_road(settings: CorpusSettings) -> list[Step]:
    """The steps with counts at zero; what they learned from files is kept for the process's next chunk."""
    return [replace(step, documents=0, bytes=0, dropped=type(step.dropped)()) for step in _road(settings)]


@lru_cache(maxsize=1)
def _road(settings: CorpusSettings) -> tuple[Step, ...]:
    return tuple(road(settings))
