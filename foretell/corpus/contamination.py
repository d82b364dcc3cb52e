"""Keep evaluation texts out of the corpus: a document that shares a run of words with one of them is dropped.

Source: Brown et al. 2020, appendix C: 13 lower-case words without punctuation. Ours drops the whole document rather than cutting
200 characters around the match. Punctuation separates words, except the apostrophe; each Chinese character or kana is a word.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.base.errors import SettingError
from foretell.base.records import read_records
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped

SHORTEST_WORDS = 8  # a shorter evaluation text says nothing of its own
MARKS, WORDLESS = re.compile(r"[^\w\s]+"), re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
APOSTROPHES = "'’ʼ_"
ASCII_LETTERS = bytes(byte if bytes([byte]).isalnum() or byte > 127 else 32 for byte in range(256)).lower()
BASE, MIX = 0x9E3779B97F4A7C15, np.uint64(0xD6E8FEB86659FD93)  # odd: the first has an inverse modulo 2^64
FILTER_SLOTS, LARGEST_FILTER_BITS = 32, 28  # bits for each word sequence: what is not there is mostly known in one look

Numbers = NDArray[np.uint64]
Places = NDArray[np.int64]


class Contamination:
    """The word sequences of `settings.decontaminate`; a call drops a document that holds one of them."""

    def __init__(self, settings: CorpusSettings) -> None:
        self._words, self._files, self._lengths = settings.contamination_words, list[str](), set[int]()
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
        for file in text_files(path, "corpus.decontaminate"):
            self._files.append(str(file))
            for text in dict.fromkeys(text for text in texts(file) if len(text) >= least):
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
    """Where each run of so many words begins and ends, for all of these lengths, and its key: a polynomial in its bytes, mixed."""
    starts = np.concatenate([starts[: max(0, len(starts) - length + 1)] for length in lengths])
    stops = np.concatenate([stops[length - 1 :] for length in lengths])
    powers, inverses = _powers(2 ** max(12, len(content).bit_length()))
    sums = np.zeros(len(content) + 1, dtype=np.uint64)
    np.cumsum((np.frombuffer(content, dtype=np.uint8) + np.uint64(1)) * powers[: len(content)], out=sums[1:])
    keys = (sums[stops] - sums[starts]) * inverses[starts]
    keys = (keys ^ keys >> np.uint64(32)) * MIX
    return starts, stops, keys ^ keys >> np.uint64(32)


@lru_cache(maxsize=2)
def _powers(size: int) -> tuple[Numbers, Numbers]:
    """The powers of BASE modulo 2^64, and of its inverse."""
    inverse = pow(BASE, -1, 2**64)
    return tuple(np.cumprod(np.full(size, base, dtype=np.uint64)) * np.uint64(pow(base, -1, 2**64)) for base in (BASE, inverse))  # type: ignore[return-value]


def text_files(path: Path, setting: str) -> list[Path]:
    """The files that a setting names by a path; SettingError where there are none."""
    files = (
        [file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(".")] if path.is_dir() else [path]
    )
    if (path / "manifest.json").is_file():  # a corpus folder
        files = [file for file in files if file.name.startswith("documents-")]
    if not files or not path.exists():
        raise SettingError("there is no such file, or nothing in the folder", where=f"{setting}: {path}", cure="check the spelling")
    return files


def plain_text(file: Path) -> str:
    """All of a text file. SettingError for one that is no text or cannot be read."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SettingError(f"cannot read this file: {error.strerror}", where=str(file), cure="check its permissions") from error
    if b"\0" in content:
        raise SettingError("this is not a text file", where=str(file), cure="convert it to JSONL or plain text, or leave it out")
    return content.decode("utf-8-sig", "replace")


def texts(file: Path) -> Iterator[str]:
    """The texts of a file: all strings of JSON, the cells of tables, the paragraphs of anything else."""
    if file.name.endswith(".jsonl.zst"):
        yield from (text for record in read_records(file) for text in _strings(record))
    elif file.suffix == ".json":
        yield from _strings(_json(plain_text(file)))
    elif file.suffix in (".jsonl", ".ndjson"):
        yield from (text for line in plain_text(file).split("\n") for text in _strings(_json(line)))
    elif file.suffix in (".csv", ".tsv"):
        yield from (cell for line in plain_text(file).splitlines() for cell in _cells(line))
    elif file.suffix == ".parquet":
        yield from _parquet(file)
    else:
        yield from re.split(r"\n\s*\n", plain_text(file))


def _json(text: str) -> Any:
    """A JSON value; a text that is none stands for itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _cells(line: str) -> Sequence[str]:
    """The cells of one line, so that a stray quote costs no more than that."""
    try:
        return line.split("\t") if "\t" in line else next(csv.reader([line]), [])
    except csv.Error:
        return [line]


def _parquet(file: Path) -> Iterator[str]:
    from pyarrow.parquet import ParquetFile

    try:
        for batch in ParquetFile(file).iter_batches():
            yield from _strings(batch.to_pylist())
    except (ValueError, OSError) as error:  # ArrowInvalid is a ValueError
        raise SettingError(f"cannot read this table: {error}", where=str(file), cure="download it again") from error
