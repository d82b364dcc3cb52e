"""The corpus folder on disk: documents and drops as Zstandard JSON lines, beside a manifest and a report."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import zstandard

from foretell.base.errors import DataError
from foretell.base.records import dump, read_records
from foretell.base.units import count, size
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped, reasons
from foretell.corpus.pipeline import run, standard_steps
from foretell.corpus.sources import find_files

MANIFEST, DOCUMENTS, DROPPED = "manifest.json", "documents-00000.jsonl.zst", "dropped-00000.jsonl.zst"
SAMPLES, SAMPLE_CHARACTERS, EXAMPLES = 10, 1200, 3


class CorpusWriter:
    """Writes documents and drops, and gathers what manifest and report tell; memory does not grow with the documents."""

    def __init__(self, folder: Path) -> None:
        self._documents, self._drops, self.digest = _create(folder / DOCUMENTS), _create(folder / DROPPED), hashlib.sha256()
        self.totals: Counter[str] = Counter(documents=0, bytes=0, characters=0, replaced_characters=0)
        self.dropped: dict[str, Counter[str]] = {}
        self.examples: dict[str, list[Dropped]] = {}
        self.samples: list[Document] = []
        self.lengths, self.folders, self.formats = Counter[int](), Counter[str](), Counter[str]()

    def close(self) -> None:
        """End the files."""
        self._documents.close()
        self._drops.close()

    def keep(self, document: Document) -> None:
        """Add a document. The samples are the smallest ids: a uniform choice, for ids are digests."""
        record = {"id": document.id, "text": document.text, "source": document.source, "metadata": document.metadata}
        self._documents.write(line := _line(record))
        self.digest.update(line)
        size_bytes, characters = document.bytes, len(document.text)
        self.totals.update(documents=1, bytes=size_bytes, characters=characters)
        self.totals["replaced_characters"] += document.metadata.get("replaced_characters", 0)
        self.lengths[characters.bit_length()] += 1
        self.folders[str(Path(document.source).parent)] += size_bytes
        self.formats[document.metadata["format"]] += size_bytes
        short = replace(document, text=document.text[:SAMPLE_CHARACTERS])
        self.samples = sorted([*self.samples, short], key=lambda sample: sample.id)[:SAMPLES]

    def drop(self, dropped: Dropped) -> None:
        """Record what was left out, and remember the first few of each reason."""
        self._drops.write(_line({key: value for key, value in asdict(dropped).items() if value is not None}))
        self.dropped.setdefault(dropped.reason, Counter()).update(documents=1, bytes=dropped.bytes)
        if len(examples := self.examples.setdefault(dropped.reason, [])) < EXAMPLES:
            examples.append(dropped)

    def report(self, manifest: dict[str, Any]) -> str:
        """`report.html`: one page without network that shows what is in the corpus, what is not, and why."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        templates = PackageLoader("foretell.corpus")
        environment = Environment(loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        environment.filters.update(count=count, size=size)
        spans = range(min(self.lengths), max(self.lengths) + 1)
        lengths = [(f"{count(2 ** (bits - 1))} – {count(2**bits)}", self.lengths[bits]) for bits in spans]
        page = environment.get_template("corpus.html.jinja")
        return page.render(manifest=manifest, written=self, lengths=lengths, reasons=reasons())


def _create(path: Path) -> Any:
    return zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(path.open("wb"))


def _line(record: dict[str, Any]) -> bytes:
    return dump(record).encode("utf-8", "surrogatepass") + b"\n"


def read_dropped(folder: Path) -> Iterator[Dropped]:
    """What was left out of a corpus, in the order in which it was met."""
    return (Dropped(**record) for record in read_records(folder / DROPPED))


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of a corpus folder, or of plain files (extracted, not filtered; DataError for one that is no text)."""
    if (path / MANIFEST).exists():
        yield from (Document(**record) for record in read_records(path / DOCUMENTS))
        return
    with TemporaryDirectory(prefix="foretell-") as scratch:
        read_and_extract = standard_steps(find_files([str(path)], Path(scratch)), CorpusSettings())[:2]
        yield from run(read_and_extract, _refuse)


def _refuse(dropped: Dropped) -> None:
    if dropped.reason != "hidden":
        cure = "give the folder of a `foretell corpus build`, which leaves such files out and counts them"
        raise DataError(f"this cannot be read as text: {dropped.reason}", where=dropped.source, cure=cure)
