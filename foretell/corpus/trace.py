"""Where a text comes from: the documents of a corpus that hold its longest verbatim spans.

The corpus is indexed once, on demand, by suffix arrays over blocks of bounded size, in its own folder under `trace/`; they are
mapped into memory when they are searched. Source: the maximal matching spans of OLMoTrace (Liu et al. 2025), in bytes.
"""

import mmap
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foretell.base.errors import DataError, SettingError
from foretell.base.files import atomic_path, digest, remove, write_text
from foretell.base.records import dump, read_json
from foretell.corpus.document import Document
from foretell.corpus.store import MANIFEST, read_documents

INDEX, MARK, VERSION = "trace", "index.json", 1
BLOCK_BYTES = 2**27  # a block takes some six times as much memory while it is sorted
BETWEEN = b"\xff"  # documents; no UTF-8 has it, so no span goes from one into the next
SHORTEST_BYTES, LEAST_BYTES, PLACES, CONTEXT_BYTES = 32, 8, 3, 80


@dataclass(frozen=True, slots=True)
class Place:
    """A document that holds a span, and the text around it there."""

    id: str
    source: str
    excerpt: str


@dataclass(frozen=True, slots=True)
class Span:
    """Characters start to stop of the text asked for, how often the corpus holds them, and the first places where it does."""

    start: int
    stop: int
    text: str
    count: int
    places: tuple[Place, ...]


def trace(folder: Path, text: str, limit: int = 10) -> list[Span]:
    """The longest spans of a text that stand verbatim in a corpus, none within another; the first call builds the index.

    Where there is none of SHORTEST_BYTES, those of LEAST_BYTES are told; still shorter ones tell nothing, but for a text that is
    itself so short. Raises SettingError for an empty text, DataError for a damaged folder.
    """
    content = text.encode("utf-8", "replace")
    if not content:
        raise SettingError("there is no text to look for", where="TEXT", cure="give a sentence, or a file that holds one")
    try:
        blocks = _opened(folder)
        found = list(_maximal(content, blocks, SHORTEST_BYTES)) or _maximal(content, blocks, LEAST_BYTES)
        spans = sorted(found, key=lambda span: (span[0] - span[1], span))[:limit]
        return [_described(content, *span, blocks) for span in spans]
    except (OSError, ValueError, IndexError) as error:
        cure = "remove that folder and ask again: it is made anew"
        raise DataError(f"cannot read the index: {error}", where=str(folder / INDEX), cure=cure) from error


class Block:
    """Some documents of the corpus, one after the other, with their suffix array. starts: where text and name of each begin."""

    def __init__(self, folder: Path, number: int) -> None:
        self.text, self.names = (_mapped(folder / f"{number:05d}.{part}") for part in ("text", "names"))
        arrays = (np.load(folder / f"{number:05d}.{part}.npy", mmap_mode="r") for part in ("suffixes", "starts"))
        self.suffixes, self.starts = map(np.asarray, arrays)
        if self.suffixes.dtype != np.int32 or self.suffixes.shape != (len(self.text),) or self.starts.ndim != 2:
            raise ValueError(f"block {number} does not fit together")

    def range(self, pattern: bytes) -> tuple[int, int]:
        """Where in the suffix array the pattern's occurrences begin and end."""
        first = self._first(pattern)
        return first, bisect_right(self.suffixes, pattern, lo=first, key=lambda at: self.text[at : at + len(pattern)])

    def longest(self, pattern: bytes) -> int:
        """How many bytes of the pattern's beginning occur: as many as it shares with one of its neighbours."""
        first = self._first(pattern)
        near = (self.text[at : at + len(pattern)] for at in self.suffixes[max(0, first - 1) : first + 1])
        return max(_shared(pattern, other) for other in near)

    def place(self, at: int, length: int) -> Place:
        """The document at a byte of the block, with what stands around it there."""
        number = int(np.searchsorted(self.starts[:, 0], at, side="right")) - 1
        (start, name), (stop, name_stop) = self.starts[number], self.starts[number + 1]
        identity, source = self.names[name:name_stop].decode().split("\t", 1)
        around = self.text[max(start, at - CONTEXT_BYTES) : min(stop - len(BETWEEN), at + length + CONTEXT_BYTES)]
        return Place(identity, source, " ".join(around.decode("utf-8", "ignore").split()))

    def _first(self, pattern: bytes) -> int:
        return bisect_left(self.suffixes, pattern, key=lambda at: self.text[at : at + len(pattern)])


def _maximal(content: bytes, blocks: Sequence[Block], least: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each span of `least` bytes or more that occurs and lies in no longer one.

    After a span that ends at E the next one begins at the first J for which J to E + 1 occurs: found by bisection, for whatever is
    shorter occurs too. The same leads over what does not occur at all.
    """

    def occurs_from(start: int, stop: int) -> bool:
        return any(block.longest(content[start:stop]) == stop - start for block in blocks)

    start, least = 0, min(least, len(content))
    while start + least <= len(content):
        stop = start + _longest(content, start, blocks)
        if stop - start >= least:
            yield start, stop
        beyond = max(stop, start + least - 1) + 1
        if beyond > len(content):
            return
        start += 1 + bisect_left(range(start + 1, beyond), True, key=lambda begin: occurs_from(begin, beyond))


def _longest(content: bytes, start: int, blocks: Sequence[Block]) -> int:
    """The longest beginning of content[start:] that occurs; looked for in growing pieces, for long texts."""
    asked = 256
    while (found := max((block.longest(content[start : start + asked]) for block in blocks), default=0)) == asked:
        asked *= 8
    return found


def _described(content: bytes, start: int, stop: int, blocks: Sequence[Block]) -> Span:
    """A span with its occurrences, cut to whole characters."""
    while start < stop and content[start] & 0xC0 == 0x80:
        start += 1
    while start < stop < len(content) and content[stop] & 0xC0 == 0x80:
        stop -= 1
    occurrences, places = 0, list[Place]()
    for block in blocks:
        first, last = block.range(content[start:stop])
        occurrences += last - first
        earliest = np.sort(block.suffixes[first:last])[: PLACES - len(places)]
        places += [block.place(int(at), stop - start) for at in earliest]
    begin, text = len(content[:start].decode()), content[start:stop].decode()
    return Span(begin, begin + len(text), text, occurrences, tuple(places))


def _opened(folder: Path) -> list[Block]:
    """The blocks of a corpus' index, made first where there is none or where the corpus is another one by now."""
    index, corpus = folder / INDEX, digest(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
    if corpus is None:
        raise SettingError("this is no corpus folder", where=str(folder), cure="give the folder that `foretell corpus build` made")
    expected = {"version": VERSION, "corpus": corpus}
    mark = read_json(index / MARK) if (index / MARK).is_file() else {}
    if {key: mark.get(key) for key in expected} != expected:
        remove(index)
        with atomic_path(index) as partial:
            partial.mkdir()
            numbers = [_write(group, partial, number) for number, group in enumerate(_blocks(folder))]
            write_text(partial / MARK, dump(expected | {"blocks": len(numbers)}))
        mark = read_json(index / MARK)
    return [Block(index, number) for number in range(int(mark["blocks"]))]


def _blocks(folder: Path) -> Iterator[list[Document]]:
    """The documents of a corpus in groups of about BLOCK_BYTES."""
    group, size_bytes = list[Document](), 0
    for document in read_documents(folder):
        group.append(document)
        size_bytes += document.bytes
        if size_bytes >= BLOCK_BYTES:
            yield group
            group, size_bytes = [], 0
    if group:
        yield group


def _write(documents: Sequence[Document], folder: Path, number: int) -> int:
    """Write a block's files; return its number."""
    from pydivsufsort import divsufsort

    texts = [document.text.encode("utf-8", "replace") + BETWEEN for document in documents]
    names = [f"{document.id}\t{document.source}".encode("utf-8", "replace") for document in documents]
    lengths = [(0, 0), *((len(text), len(name)) for text, name in zip(texts, names, strict=True))]
    np.save(folder / f"{number:05d}.starts.npy", np.cumsum(lengths, axis=0))
    content = b"".join(texts)
    (folder / f"{number:05d}.text").write_bytes(content)
    (folder / f"{number:05d}.names").write_bytes(b"".join(names))
    np.save(folder / f"{number:05d}.suffixes.npy", divsufsort(content))
    return number


def _shared(one: bytes, other: bytes) -> int:
    """How many bytes two strings have in common from their beginning."""
    return bisect_left(range(min(len(one), len(other))), True, key=lambda last: one[: last + 1] != other[: last + 1])


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
