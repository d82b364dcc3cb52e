"""The corpus folder on disk: documents and drops as Zstandard JSON lines, beside a manifest and a report."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import zstandard

from foretell.base.errors import DataError
from foretell.base.records import dump, read_records
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped
from foretell.corpus.sources import find_files

MANIFEST, REPORT, CARD = "manifest.json", "report.html", "card.md"
DOCUMENTS_PART, DROPPED_PART = "documents-{:05d}.jsonl.zst", "dropped-{:05d}.jsonl.zst"


class JsonLines:
    """A file of one object a line. digest: of what was written, before compression; bytes: of the documents' text."""

    def __init__(self, path: Path, level: int = 3) -> None:
        self._stream: Any = zstandard.ZstdCompressor(level=level, write_checksum=True).stream_writer(path.open("wb"))
        self.digest, self.bytes, self.lines = hashlib.sha256(), 0, 0

    def add(self, item: Document | Dropped) -> None:
        """Write one more."""
        if isinstance(item, Document):
            record: dict[str, Any] = {"id": item.id, "text": item.text, "source": item.source, "metadata": item.metadata}
        else:
            record = {name: value for name, value in asdict(item).items() if value is not None}
        line = _line(record)
        self.digest.update(line)
        self._stream.write(line)
        self.lines += 1
        self.bytes += item.bytes

    def close(self) -> None:
        """End the file."""
        self._stream.close()


def read_dropped(folder: Path) -> Iterator[Dropped]:
    """What was left out of a corpus, in the order of its parts."""
    return (Dropped(**record) for path in sorted(folder.glob("dropped-*.jsonl.zst")) for record in read_records(path))


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of a corpus folder, or of plain files (extracted, not filtered; DataError for one that is no text)."""
    if (path / MANIFEST).exists():
        for part in sorted(path.glob("documents-*.jsonl.zst")):
            yield from (Document(**record) for record in read_records(part))
        return
    from foretell.corpus.pipeline import reading, run
    from foretell.corpus.readers.open import records

    settings = CorpusSettings()
    with TemporaryDirectory(prefix="foretell-") as scratch:
        items = (item for file in find_files([str(path)], Path(scratch)) for item in records(file, settings))
        yield from run(reading(settings), items, _refuse)


def _line(record: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(record) + b"\n"
    except TypeError:  # half characters and numbers of more than 64 bits
        return dump(record).encode("utf-8", "surrogatepass") + b"\n"


def _refuse(dropped: Dropped) -> None:
    if dropped.reason != "hidden":
        cure = "give the folder of a `foretell corpus build`, which leaves such files out and counts them"
        raise DataError(f"this cannot be read as text: {dropped.reason}", where=dropped.source, cure=cure)
