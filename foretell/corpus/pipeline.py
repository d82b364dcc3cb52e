"""The road of a document: a list of named steps, and the running of it with counters.

A step is a function from documents to documents. Where it leaves one out it yields a `Dropped` in its place, so nothing
can vanish without a reason. To extend the road, write one function and put a `Step` with it into the list.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from foretell.corpus.config import CorpusSettings
from foretell.corpus.dedup import exact_duplicates, near_duplicates
from foretell.corpus.document import Document, Dropped, Items
from foretell.corpus.extract import extract
from foretell.corpus.filters import judge
from foretell.corpus.normalise import normalise
from foretell.corpus.reading import read_files
from foretell.corpus.sources import SourceFile

Apply = Callable[[Iterator[Document]], Items]


@dataclass(slots=True)
class Step:
    """A named part of the road, the settings that steer it, and the count of what went on from it and what did not."""

    name: str
    apply: Apply
    settings: dict[str, Any] = field(default_factory=dict)
    documents: int = 0
    bytes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def run(self, documents: Iterator[Document], after: "Step | None", drop: Callable[[Dropped], None]) -> Iterator[Document]:
        """Pass documents on to the step after this one and what is left out to `drop`, and count both."""
        items = self.apply(documents)
        while True:
            started_at_seconds = time.perf_counter()
            item = next(items, None)
            elapsed_seconds = time.perf_counter() - started_at_seconds
            self.seconds += elapsed_seconds
            if after is not None:
                after.seconds -= elapsed_seconds  # whose clock runs while it waits for us
            if item is None:
                return
            if isinstance(item, Dropped):
                self.dropped[item.reason] = self.dropped.get(item.reason, 0) + 1
                drop(item)
            else:
                self.documents += 1
                self.bytes += item.bytes
                yield item


def run(steps: Sequence[Step], drop: Callable[[Dropped], None]) -> Iterator[Document]:
    """Chain the steps, the first of which reads the sources. Documents stream; `drop` gets what is left out."""
    documents: Iterator[Document] = iter(())
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        documents = step.run(documents, after, drop)
    return documents


def each(function: Callable[[Document, CorpusSettings], Document | Dropped], settings: CorpusSettings) -> Apply:
    """A step's function from one that looks at one document at a time."""
    return lambda documents: (function(document, settings) for document in documents)


def standard_steps(files: Sequence[SourceFile], settings: CorpusSettings, sample_bytes: int | None = None) -> list[Step]:
    """What `foretell corpus build` does, in order; of the files at most `sample_bytes` of text."""

    def some(names: str) -> dict[str, Any]:
        return settings.model_dump(include=set(names.split()))

    near, limits = (
        settings.near_duplicate_threshold,
        "max_document_bytes max_page_bytes max_gzip_ratio max_gzip_bytes max_undecodable",
    )
    shares = "judged_from_characters min_alphanumeric max_word_length max_repeated_lines max_compression"
    return [
        Step("read", lambda _: read_files(files, settings, sample_bytes), some(f"jsonl_text_field {limits}")),
        Step("extract", each(extract, settings), some("python")),
        Step("normalise", each(normalise, settings), some("normal_form fix_mojibake max_blank_lines")),
        Step("filter", each(judge, settings), some(f"min_characters max_characters max_line_characters {shares}")),
        Step("exact duplicates", exact_duplicates),
        Step("near duplicates", lambda documents: near_duplicates(documents, near), some("near_duplicate_threshold")),
    ]
