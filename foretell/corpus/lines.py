"""Take out lines, or paragraphs, that stood in an earlier document: navigation, licences, signatures.

What repeats within one document alone is left as it is. Lines are compared without the white space around them, by 64 bits of XXH3:
among a thousand million different ones a false repetition is to be expected once in forty times.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from foretell.corpus.clusters import first_rows, scratch_array
from foretell.corpus.config import CorpusSettings

LINE = np.dtype([("key", np.uint64), ("document", np.uint32)])  # document: its number within the chunk
UNITS = {"line": re.compile(r"[^\n]*\n?"), "paragraph": re.compile(r".*?(?:\n[^\S\n]*(?=\n)\s*|\Z)", re.DOTALL)}


def line_keys(text: str, settings: CorpusSettings) -> NDArray[np.uint64]:
    """The keys of a text's lines or paragraphs that are long enough, each once, in ascending order."""
    keys = {key for _, key in _units(text, settings) if key is not None}
    return np.array(sorted(keys), np.uint64)


def line_table(texts: Sequence[str], settings: CorpusSettings, first: int = 0) -> NDArray[np.void]:
    """The keys of a chunk's documents, as it is to be saved for `seen_before`: rows of LINE, document by document."""
    keys = [line_keys(text, settings) for text in texts]
    table = np.zeros(sum(map(len, keys)), LINE)
    if keys:
        table["key"] = np.concatenate(keys)
        table["document"] = first + np.repeat(np.arange(len(keys)), [len(some) for some in keys])
    return table


def seen_before(
    files: Sequence[Path], kept: Sequence[NDArray[np.bool_]], settings: CorpusSettings, scratch: Path
) -> Iterator[NDArray[np.void]]:
    """For each file of lines, in input order: its rows whose key occurs in an earlier document that is kept.

    kept: for each file, which of its documents stay; the others neither hold nor lose lines. Memory: a byte a line, and what
    `first_rows` takes; `scratch` holds 20 bytes a line.
    """
    parts = [np.load(path, mmap_mode="r") for path in files]
    chosen = [stays[part["document"]] for part, stays in zip(parts, kept, strict=True)]
    bounds = np.cumsum([0, *(int(rows.sum()) for rows in chosen)]).tolist()
    if not bounds[-1]:
        yield from (part[:0] for part in parts)
        return
    with TemporaryDirectory(dir=scratch) as folder:
        lines = scratch_array(Path(folder, "lines"), LINE, (bounds[-1],))
        leaders = scratch_array(Path(folder, "leaders"), np.dtype(np.int64), (bounds[-1],))
        slices = [slice(start, stop) for start, stop in pairwise(bounds)]
        for where, part, rows in zip(slices, parts, chosen, strict=True):
            lines[where] = part[rows]
        first_rows([lines["key"][where, None] for where in slices], leaders, settings.memory_bytes // 2)
        for where in slices:
            yield lines[where][leaders[where] != np.arange(where.start, where.stop)]


def without_repeated(text: str, repeated: NDArray[np.uint64], settings: CorpusSettings) -> str:
    """The text without the lines or paragraphs of these keys. Nothing else changes; it may be empty."""
    keys = set(repeated.tolist())
    return "".join(unit for unit, key in _units(text, settings) if key not in keys) if keys else text


def _units(text: str, settings: CorpusSettings) -> Iterator[tuple[str, int | None]]:
    """The pieces that make up the text, each with what follows it, and its key if it is long enough."""
    from xxhash import xxh3_64_intdigest

    if settings.duplicate_lines == "keep":
        return
    for match in UNITS[settings.duplicate_lines].finditer(text):
        bare = match[0].strip()
        long = len(bare) >= settings.min_line_characters
        yield match[0], xxh3_64_intdigest(bare.encode("utf-8", "surrogatepass")) if long else None
