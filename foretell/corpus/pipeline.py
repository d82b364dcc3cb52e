"""The road of a document: a list of named steps, and the running of it with counters.

A step is a function from documents to documents, which yields a `Dropped` in the place of one that it leaves out: nothing
vanishes without a reason. To extend the road, write such a function and put a `Step` with it into the list.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from foretell.base.errors import ForetellError, first_line
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


def each(function: Callable[[Any, CorpusSettings], Document | Dropped], settings: CorpusSettings) -> Apply:
    """A step from a function that looks at one item at a time."""
    return each_alone(lambda item: function(item, settings))


def each_alone(function: Callable[[Any], Document | Dropped]) -> Apply:
    """A step from a function that looks at one item at a time. What it fails on, whatever the reason, is left out and counted."""

    def apply(items: Iterator[Any]) -> Items:
        for item in items:
            try:
                result = item if isinstance(item, Dropped) else function(item)
            except (ForetellError, KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # what panics in Rust is no Exception
                result = replace(item.dropped("step_failed"), excerpt=first_line(error))
            yield result

    return apply


def reading(settings: CorpusSettings) -> list[Step]:
    """From records to the text that people wrote in them: what every reader of plain files needs."""
    return [Step("read", each(convert, settings)), Step("extract", each(extract, settings))]


def road(settings: CorpusSettings) -> list[Step]:
    """What a document meets on its own, in order; duplicates are found afterwards, when all documents are known."""
    steps = [*reading(settings)]
    if settings.boilerplate:
        steps.append(Step("boilerplate", each(strip, settings)))
    steps.append(Step("normalise", each(normalise, settings)))
    if settings.identify_languages:
        steps.append(Step("language", each(identify, settings)))
    steps.append(Step("filter", each(judge, settings)))
    if settings.redact:
        steps.append(Step("redact", each(redact, settings)))
    if settings.reference:
        steps.append(Step("surprise", each_alone(Surprise(settings))))
    if settings.decontaminate:
        steps.append(Step("decontaminate", each_alone(Contamination(settings))))
    return steps
