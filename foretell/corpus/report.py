"""What is in a corpus and what is not: counts that add up over its parts, and the page and the card that are made of them."""

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from heapq import nsmallest
from typing import Any

import numpy as np

from foretell.base.units import count, size
from foretell.corpus.document import Document, Dropped, reasons

SAMPLES, SAMPLE_CHARACTERS, EXAMPLES = 10, 1200, 3
LINE_CHARACTERS, LONGEST_CHARACTERS = 20, 160  # of a line that is counted, and of what is shown of it
BOUNDED = {"folders": 20_000, "lines": 200_000, "clusters": 20_000}  # names that a table holds while it is filled
TOLD, SHOWN = 1000, 20  # of them when it is written, and on the page
MEASURES = {  # title and width of a column
    "letters": ("Share of letters among the visible characters", 0.05),
    "language_probability": ("How sure the language is", 0.05),
    "surprise": ("Bits a byte under the model of corpus.reference", 0.5),
}
KINDS = ("format", "encoding", "extractor", "licence")
LETTERS = bytes(byte > 127 or chr(byte).isalpha() for byte in range(256))
VISIBLE = bytes(byte > 32 and byte != 127 for byte in range(256))

Rows = list[tuple[str, int]]


class Summary:
    """Tables of counts, and the documents and drops with the smallest ids: a fair choice, for ids are digests.

    All sums are exact and the same however the corpus is cut into parts, except the longest tables (`BOUNDED`): of these each part
    tells its TOLD largest counts, and parts must be merged in order; in a corpus of one part these are exact.
    """

    def __init__(self) -> None:
        self.tables: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.samples: list[dict[str, Any]] = []
        self.examples: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)  # by reason, and by the document kept instead

    def add(self, document: Document) -> None:
        """Count a document of the corpus."""
        tables, told, content = self.tables, document.metadata, document.text.encode("utf-8", "replace")
        repaired, replaced = int("repaired" in told), told.get("replaced_characters", 0)
        tables["totals"].update(
            documents=1, bytes=len(content), characters=len(document.text), repaired=repaired, replaced_characters=replaced
        )
        tables["lengths"][str(len(document.text).bit_length())] += 1
        tables["folders"][document.source.rpartition("/")[0] or "."] += len(content)
        tables["languages"][told.get("language", "und")] += len(content)
        for key in KINDS:
            if key in told:
                tables[key][str(told[key])] += len(content)
        tables["redacted"].update(told.get("redacted", {}))
        letters, visible = (int(np.count_nonzero(np.frombuffer(content.translate(kind), bool))) for kind in (LETTERS, VISIBLE))
        for name, value in (
            ("letters", letters / max(1, visible)),
            *((name, float(told[name])) for name in MEASURES if name in told),
        ):
            tables[name][str(int(value / MEASURES[name][1] + 1e-9))] += 1
        lines = [line.strip()[:LONGEST_CHARACTERS] for line in document.text.split("\n") if len(line) >= LINE_CHARACTERS]
        tables["lines"].update([line for line in lines if len(line) >= LINE_CHARACTERS])
        self._bound()
        sample = {
            "id": document.id,
            "source": document.source,
            "text": document.text[:SAMPLE_CHARACTERS],
            "language": told.get("language"),
        }
        _keep(self.samples, sample, SAMPLES)

    def drop(self, dropped: Dropped) -> None:
        """Count what was left out."""
        told = {name: getattr(dropped, name) for name in dropped.__slots__}  # asdict would copy deeply
        self.tables["dropped"][dropped.reason] += 1
        self.tables["dropped_bytes"][dropped.reason] += dropped.bytes
        _keep(self.examples[dropped.reason], told, EXAMPLES)
        if dropped.duplicate_of:
            self.tables["clusters"][dropped.duplicate_of] += 1
            _keep(self.examples[dropped.duplicate_of], told, EXAMPLES)
            self._bound()

    def merge(self, other: "Summary") -> None:
        """Add the counts of the corpus' next part."""
        for name, table in other.tables.items():
            self.tables[name].update(table)
        for sample in other.samples:
            _keep(self.samples, sample, SAMPLES)
        for reason, examples in other.examples.items():
            for example in examples:
                _keep(self.examples[reason], example, EXAMPLES)
        self._bound()

    def to_json(self) -> dict[str, Any]:
        """As JSON, the same for the same counts."""
        self.tables |= {name: Counter(dict(ranked(self.tables[name], TOLD))) for name in BOUNDED}
        tables = {name: dict(sorted(table.items())) for name, table in sorted(self.tables.items())}
        return {"tables": tables, "samples": self.samples, "examples": self._examples()}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Summary":
        """From what `to_json` wrote."""
        summary = cls()
        summary.tables.update({name: Counter(table) for name, table in told["tables"].items()})
        summary.samples, summary.examples = list(told["samples"]), defaultdict(list, told["examples"])
        return summary

    def _bound(self) -> None:
        """Forget what was counted least in tables that have grown too long."""
        for name, most in BOUNDED.items():
            if len(table := self.tables[name]) > most:
                least = sorted(table.values(), reverse=True)[most // 2]
                self.tables[name] = Counter({key: value for key, value in table.items() if value > least})
                self.examples = self._examples()

    def _examples(self) -> defaultdict[str, list[dict[str, Any]]]:
        """The examples of reasons and of clusters that are still counted."""
        known = self.tables["dropped"] | self.tables["clusters"]
        return defaultdict(list, {key: found for key, found in sorted(self.examples.items()) if key in known})


def ranked(table: Mapping[str, int], most: int = SHOWN) -> Rows:
    """The largest counts of a table, equal ones by name."""
    return nsmallest(most, table.items(), key=lambda row: (-row[1], row[0]))


def classes(table: Mapping[str, int]) -> list[int]:
    """The counts of neighbouring classes from the first to the last that has any, with the number of the first before them."""
    numbers = [int(key) for key in table]
    return [min(numbers), *(table.get(str(number), 0) for number in range(min(numbers), max(numbers) + 1))] if numbers else []


def render(
    manifest: Mapping[str, Any],
    summary: Summary,
    recall: Sequence[tuple[float, float]] = (),
    fertility: Mapping[str, float] | None = None,
) -> str:
    """`report.html`: one page without network that shows what is in the corpus, what is not, and why.

    recall: (similarity, probability that such a pair is found). fertility: tokens a word of the tokenizer, by language.
    """
    told = {"recall": recall, "fertility": fertility or {}, "reasons": reasons(), "measures": MEASURES}
    return _filled("report.html.jinja", manifest=manifest, tables=summary.tables, summary=summary, **told)


def card(manifest: Mapping[str, Any], summary: Summary) -> str:
    """The data section of a model's card, in Markdown: what the text is, where it is from, what was done to it and left out."""
    return _filled("card.md.jinja", manifest=manifest, tables=summary.tables, reasons=reasons())


def _filled(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("foretell.corpus"),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "size": size, "ranked": ranked, "classes": classes, "cell": _cell}
    return environment.get_template(template).render(values) + "\n"


def _cell(text: object) -> str:
    """A text that stays within its cell of a Markdown table, and is no markup."""
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|#~&" else sign for sign in " ".join(str(text).split()))


def _keep(kept: list[dict[str, Any]], one: dict[str, Any], most: int) -> None:
    """Add one where it is among the first by id."""
    key = (one["id"], one["source"])
    if len(kept) < most or key < (kept[-1]["id"], kept[-1]["source"]):
        insort(kept, one, key=lambda item: (item["id"], item["source"]))
        del kept[most:]
