"""The road of a document: a list of named steps, and the running of it with counters.

A step is a function from documents to documents, which yields a `Dropped` in the place of one that it leaves out: nothing
vanishes without a reason. To extend the road, write such a function and put a `Step` with it into the list.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from foretell.base.errors import DataError, ForetellError
from foretell.corpus.boilerplate import strip
from foretell.corpus.config import CorpusSettings
from foretell.corpus.contamination import Contamination
from foretell.corpus.convert import convert
from foretell.corpus.document import Document, Dropped, Items, Raw
from foretell.corpus.extract import extract
from foretell.corpus.filters import judge
from foretell.corpus.language import identify
from foretell.corpus.normalise import normalise
from foretell.corpus.privacy import redact
from foretell.corpus.surprise import Surprise

Records = Iterator[Raw | Dropped]
Apply = Callable[[Iterator[Any]], Items]


@dataclass(slots=True)
class Step:
    """A named part of the road, and the count of what went on from it and what did not."""

    name: str
    apply: Apply
    documents: int = 0
    bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def run(self, documents: Iterator[Any], drop: Callable[[Dropped], None]) -> Iterator[Document]:
        """Pass documents on and what is left out to `drop`, and count both."""
        for item in self.apply(documents):
            if isinstance(item, Dropped):
                self.dropped[item.reason] += 1
                drop(item)
            else:
                self.documents += 1
                self.bytes += item.bytes
                yield item


def run(steps: Sequence[Step], records: Iterator[Any], drop: Callable[[Dropped], None]) -> Iterator[Document]:
    """Chain the steps behind the records. Documents stream; `drop` gets what is left out."""
    for step in steps:
        records = step.run(records, drop)
    return records


def counts(step: Step) -> dict[str, Any]:
    """What a step says of itself in a manifest."""
    return {"name": step.name, "documents": step.documents, "bytes": step.bytes, "dropped": step.dropped}


def each(function: Callable[[Document, CorpusSettings], Document | Dropped], settings: CorpusSettings) -> Apply:
    """A step from a function that looks at one document at a time. What fails unexpectedly names the document."""

    def apply(documents: Iterator[Document]) -> Items:
        for document in documents:
            try:
                yield function(document, settings)
            except ForetellError:
                raise
            except Exception as error:
                what = f"{function.__name__} failed on a document: {type(error).__name__}: {error}"
                raise DataError(what, where=document.source, cure="leave this source out, and report the file") from error

    return apply


def reading(settings: CorpusSettings) -> list[Step]:
    """From records to the text that people wrote in them: what every reader of plain files needs."""

    def read(records: Records) -> Items:
        for record in records:
            yield record if isinstance(record, Dropped) else convert(record, settings)

    return [Step("read", read), Step("extract", each(extract, settings))]


def road(settings: CorpusSettings) -> list[Step]:
    """What a document meets on its own, in order; duplicates are found afterwards, when all documents are known."""
    steps = [*reading(settings)]
    if settings.boilerplate:
        steps.append(Step("boilerplate", each(strip, settings)))
    steps += [
        Step("normalise", each(normalise, settings)),
        Step("language", each(identify, settings)),
        Step("filter", each(judge, settings)),
    ]
    if settings.redact:
        steps.append(Step("redact", each(redact, settings)))
    if settings.reference:
        surprise = Surprise(settings)
        steps.append(Step("surprise", lambda documents: map(surprise, documents)))
    if settings.decontaminate:
        contamination = Contamination(settings)
        steps.append(Step("decontaminate", lambda documents: map(contamination, documents)))
    return steps
