"""The road of a document: a list of named steps, and the running of it with counters.

A step is a function from documents to documents, which yields a `Dropped` in the place of one that it leaves out: nothing
vanishes without a reason. To extend the road, write such a function and put a `Step` with it into the list.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

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
    """A named part of the road, and the count of what went on from it and what did not."""

    name: str
    apply: Apply
    documents: int = 0
    bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def run(self, documents: Iterator[Document], drop: Callable[[Dropped], None]) -> Iterator[Document]:
        """Pass documents on and what is left out to `drop`, and count both."""
        for item in self.apply(documents):
            if isinstance(item, Dropped):
                self.dropped[item.reason] += 1
                drop(item)
            else:
                self.documents += 1
                self.bytes += item.bytes
                yield item


def run(steps: Sequence[Step], drop: Callable[[Dropped], None]) -> Iterator[Document]:
    """Chain the steps, the first of which reads the sources. Documents stream; `drop` gets what is left out."""
    documents: Iterator[Document] = iter(())
    for step in steps:
        documents = step.run(documents, drop)
    return documents


def each(function: Callable[[Document, CorpusSettings], Document | Dropped], settings: CorpusSettings) -> Apply:
    """A step's function from one that looks at one document at a time."""
    return lambda documents: (function(document, settings) for document in documents)


def standard_steps(files: Sequence[SourceFile], settings: CorpusSettings, sample_bytes: int | None = None) -> list[Step]:
    """What `foretell corpus build` does, in order; of the files at most `sample_bytes` of text."""
    return [
        Step("read", lambda _: read_files(files, settings, sample_bytes)),
        Step("extract", each(extract, settings)),
        Step("normalise", each(normalise, settings)),
        Step("filter", each(judge, settings)),
        Step("exact duplicates", exact_duplicates),
        Step("near duplicates", partial(near_duplicates, threshold=settings.near_duplicate_threshold)),
    ]
