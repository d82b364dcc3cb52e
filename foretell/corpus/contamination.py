"""Keep evaluation texts out of the corpus: a document that shares a run of words with one of them is dropped.

Source: Brown et al. 2020, appendix C: 13 lower-case words without punctuation. Ours drops the whole document rather than cutting
200 characters around the match. Punctuation separates words, except the apostrophe; each Chinese character or kana is a word.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.base.errors import SettingError
from foretell.corpus.config import CorpusSettings
from foretell.corpus.convert import convert
from foretell.corpus.document import Document, Dropped
from foretell.corpus.extract import extract
from foretell.corpus.readers.open import records
from foretell.corpus.signatures import range_hashes
from foretell.corpus.sources import SourceFile, find_files

SHORTEST_WORDS = 8  # a shorter evaluation text says nothing of its own
MARKS, WORDLESS = re.compile(r"[^\w\s]+"), re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
APOSTROPHES = "'’ʼ_"
ASCII_LETTERS = bytes(byte if bytes([byte]).isalnum() or byte > 127 else 32 for byte in range(256)).lower()
TABLE = re.compile(r"\.[ct]sv(\.(gz|bz2|xz|zst))?\Z", re.IGNORECASE)
LARGEST_BYTES = 2**28  # of a line or a text
FILTER_SLOTS, LARGEST_FILTER_BITS = 32, 28  # bits for each word sequence: what is not there is mostly known in one look

Numbers = NDArray[np.uint64]
Places = NDArray[np.int64]


class Contamination:
    """The word sequences of `settings.decontaminate`; a call drops a document that holds one of them."""

    def __init__(self, settings: CorpusSettings) -> None:
        self._settings, self._words = settings, settings.contamination_words
        self._files, self._lengths = list[str](), set[int]()
        found = [part for path in settings.decontaminate for part in self._index(path)]
        keys, first = np.unique(np.concatenate([keys for keys, _ in found]), return_index=True)
        self._keys, self._origins = keys, np.repeat([file for _, file in found], [len(keys) for keys, _ in found])[first]
        slots = 2 ** max(3, min(LARGEST_FILTER_BITS, (FILTER_SLOTS * len(keys)).bit_length()))
        self._shift = np.uint64(65 - slots.bit_length())
        filled = np.zeros(slots, dtype=bool)
        filled[keys >> self._shift] = True
        self._filter = np.packbits(filled, bitorder="little")

    def __call__(self, document: Document) -> Document | Dropped:
        """The document, or what is said of it: the evaluation file and the words that stand in both."""
        content, begins, ends = words(document.text)
        starts, stops, keys = sequences(content, begins, ends, sorted(self._lengths))
        slots = keys >> self._shift
        likely = np.flatnonzero(self._filter.take(slots >> np.uint64(3)) >> (slots.astype(np.uint8) & np.uint8(7)) & np.uint8(1))
        places = np.searchsorted(self._keys, keys[likely]).clip(max=len(self._keys) - 1)
        for index in np.flatnonzero(self._keys[places] == keys[likely])[:1]:
            shared = content[starts[likely[index]] : stops[likely[index]]].decode("utf-8", "replace")
            dropped = document.dropped("contaminated")
            dropped.excerpt = f"{self._files[self._origins[places[index]]]}: {shared}"
            return dropped
        return document

    def _index(self, path: Path) -> list[tuple[Numbers, int]]:
        """The keys of each text in an evaluation file or folder, with the number of their file. SettingError if there are none."""
        found, least = list[tuple[Numbers, int]](), min(self._words, SHORTEST_WORDS)
        for file in named_files(path):
            self._files.append(file.label)
            for text in dict.fromkeys(text for text in _texts(file, self._settings) if len(text) >= least):
                content, starts, stops = words(text)
                if (length := min(self._words, len(starts))) >= least:
                    self._lengths.add(length)
                    found.append((sequences(content, starts, stops, [length])[-1], len(self._files) - 1))
        if not found:
            what, cure = f"no text of at least {least} words, so nothing could be found by it", "name files that hold the texts"
            raise SettingError(what, where=f"corpus.decontaminate: {path}", cure=cure)
        return found


def words(text: str) -> tuple[bytes, Places, Places]:
    """A text as lower-case words with one space between them, in UTF-8, and where each begins and ends."""
    for mark in APOSTROPHES:
        text = text.replace(mark, "")
    if not text.isascii():
        text = WORDLESS.sub(r" \1 ", MARKS.sub(" ", text.lower()))
    content = b" ".join(text.encode("utf-8", "replace").translate(ASCII_LETTERS).split())
    spaces = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord(" "))
    edges = np.concatenate([[-1], spaces, [len(content)]]) if content else np.zeros(1, dtype=np.int64)
    return content, edges[:-1] + 1, edges[1:]


def sequences(content: bytes, starts: Places, stops: Places, lengths: Sequence[int]) -> tuple[Places, Places, Numbers]:
    """Where each run of so many words begins and ends, for all of these lengths, and its key."""
    starts = np.concatenate([starts[: max(0, len(starts) - length + 1)] for length in lengths])
    stops = np.concatenate([stops[length - 1 :] for length in lengths])
    return starts, stops, range_hashes(np.frombuffer(content, dtype=np.uint8) + np.uint64(1), starts, stops)


def named_files(path: Path) -> list[SourceFile]:
    """The files that a setting names by a path. SettingError where there is none of this name."""
    with TemporaryDirectory(prefix="foretell-") as scratch:
        return [file for file in find_files([str(path)], Path(scratch)) if file.reason != "hidden"]


def documents(file: SourceFile, settings: CorpusSettings, column: str | None = None) -> Iterator[Document]:
    """A file's documents; a record of JSON without a text is one whose `fields` say all. SettingError for what cannot be read.

    A table is read once more for each column where not every row has its text in the usual one.
    """
    told = {"max_document_bytes": LARGEST_BYTES, "text_field": column or settings.text_field}
    columns, textless = dict[str, None](), False
    for raw in records(file, settings.model_copy(update=told)):
        item: Any = raw if isinstance(raw, Dropped) else convert(raw, settings)
        item = extract(item, settings) if isinstance(item, Document) else item
        if not isinstance(raw, Dropped) and raw.format == "row":
            columns |= dict.fromkeys(raw.metadata["fields"])
        if isinstance(item, Document):
            yield item
        elif not isinstance(raw, Dropped) and raw.format in ("json", "row"):
            fields = _json(raw.content) if raw.format == "json" else raw.metadata["fields"]
            yield Document(item.id, "", item.source, {"format": raw.format, "text_field": None, "fields": fields})
        elif item.reason == "no_text_column" and column is None:
            columns |= dict.fromkeys(item.excerpt.partition(": ")[2].split(", "))
            textless = True
        elif item.reason in ("empty", "no_text_field"):
            textless = True
        else:
            cure = "mend, convert or remove it; corpus.text_field=NAME names the column of the text"
            raise SettingError(f"this cannot be read: {item.reason}", where=item.source, cure=cure)
    if textless and column is None:
        for name in columns:
            yield from documents(file, settings, name)


def strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def _texts(file: SourceFile, settings: CorpusSettings) -> Iterator[str]:
    """The texts of a file: all strings of records, the cells of CSV (which often has no header), paragraphs of anything else."""
    table = TABLE.search(file.name)
    for document in documents(replace(file, name=f"{file.name}.txt") if table else file, settings):
        if "text_field" in document.metadata:
            yield from (document.text, *strings(document.metadata.get("fields")))
        elif table:
            yield from (cell for line in document.text.splitlines() for cell in _cells(line))
        else:
            yield from re.split(r"\n\s*\n", document.text)


def _json(content: bytes | str) -> Any:
    """A JSON value; a text that is none stands for itself."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content if isinstance(content, str) else content.decode("utf-8", "replace")


def _cells(line: str) -> Sequence[str]:
    """The cells of one line, so that a stray quote costs no more than that."""
    try:
        return line.split("\t") if "\t" in line else next(csv.reader([line]), [])
    except csv.Error:
        return [line]
