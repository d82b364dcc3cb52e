"""The corpus folder on disk: documents and drops as Zstandard JSON lines, beside a manifest."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import zstandard

from foretell.base.errors import DataError
from foretell.base.records import dump, read_json, read_records
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped
from foretell.corpus.pipeline import run, standard_steps
from foretell.corpus.sources import find_files

MANIFEST = "manifest.json"
SHARD_BYTES = 64 * 10**6
SAMPLES, SAMPLE_CHARACTERS, EXAMPLES = 10, 1200, 3


class RecordShards:
    """Numbered `.jsonl.zst` files in a folder, a new one after about 64 MB of text; each carries a checksum."""

    def __init__(self, folder: Path, stem: str) -> None:
        self._folder, self._stem, self._number, self._written_bytes = folder, stem, 0, 0
        self._stream: Any = None
        self.digest = hashlib.sha256()

    def write(self, record: dict[str, Any]) -> None:
        """Add one record."""
        if self._stream is None:
            path = self._folder / f"{self._stem}-{self._number:05d}.jsonl.zst"
            self._stream = zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(path.open("wb"))
        line = dump(record).encode("utf-8", "surrogatepass") + b"\n"
        self._stream.write(line)
        self.digest.update(line)
        self._written_bytes += len(line)
        if self._written_bytes >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """End the current file; the next record begins another."""
        if self._stream is not None:
            self._stream.close()
            self._stream, self._number, self._written_bytes = None, self._number + 1, 0


class CorpusWriter:
    """Writes documents and drops, and gathers what manifest and report tell; memory does not grow with the documents."""

    def __init__(self, folder: Path) -> None:
        self.documents, self._drops = RecordShards(folder, "documents"), RecordShards(folder, "dropped")
        self.totals: Counter[str] = Counter(documents=0, bytes=0, characters=0, replaced_characters=0)
        self.dropped: dict[str, Counter[str]] = {}
        self.examples: dict[str, list[Dropped]] = {}
        self.samples: list[Document] = []
        self.lengths, self.folders, self.formats = Counter[int](), Counter[str](), Counter[str]()

    def close(self) -> None:
        """End the files."""
        self.documents.close()
        self._drops.close()

    def keep(self, document: Document) -> None:
        """Add a document. The samples are the smallest ids: a uniform choice, for ids are digests."""
        self.documents.write({"id": document.id, "text": document.text, "source": document.source, "metadata": document.metadata})
        size_bytes, characters, field = document.bytes, len(document.text), document.metadata.get("text_field")
        self.totals.update(documents=1, bytes=size_bytes, characters=characters)
        self.totals["replaced_characters"] += document.metadata.get("replaced_characters", 0)
        self.lengths[characters.bit_length()] += 1
        self.folders[str(Path(document.source).parent)] += size_bytes
        self.formats[document.metadata["format"] + (f" (field {field})" if field else "")] += size_bytes
        if len(self.samples) < SAMPLES or document.id < self.samples[-1].id:
            short = replace(document, text=document.text[:SAMPLE_CHARACTERS])
            self.samples = sorted([*self.samples, short], key=lambda sample: sample.id)[:SAMPLES]

    def drop(self, dropped: Dropped) -> None:
        """Record what was left out, and remember the first few of each reason."""
        self._drops.write({key: value for key, value in asdict(dropped).items() if value is not None})
        self.dropped.setdefault(dropped.reason, Counter()).update(documents=1, bytes=dropped.bytes)
        if len(examples := self.examples.setdefault(dropped.reason, [])) < EXAMPLES:
            examples.append(dropped)


def read_dropped(folder: Path) -> Iterator[Dropped]:
    """What was left out of a corpus, in the order in which it was met."""
    for path in sorted(folder.glob("dropped-*.jsonl.zst")):
        yield from (Dropped(**record) for record in read_records(path))


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of a corpus folder, or of plain files (extracted, not filtered; DataError for one that is no text)."""
    if (path / MANIFEST).exists():
        yield from _of_corpus(path)
        return
    with TemporaryDirectory(prefix="foretell-") as scratch:
        read_and_extract = standard_steps(find_files([str(path)], Path(scratch)), CorpusSettings())[:2]
        yield from run(read_and_extract, _refuse)


def _of_corpus(folder: Path) -> Iterator[Document]:
    expected, found = read_json(folder / MANIFEST)["totals"]["documents"], 0
    for path in sorted(folder.glob("documents-*.jsonl.zst")):
        for record in read_records(path):
            found += 1
            yield Document(**record)
    if found != expected:
        raise DataError(f"{found} documents are here, the manifest says {expected}", where=str(folder), cure="build it again")


def _refuse(dropped: Dropped) -> None:
    if dropped.reason != "hidden":
        cure = "give the folder of a `foretell corpus build`, which leaves such files out and counts them"
        raise DataError(f"this cannot be read as text: {dropped.reason}", where=dropped.source, cure=cure)
