"""Counts add up over the parts of a corpus, and the page shows them to a person without running anything."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.corpus import report
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped, document_id
from foretell.corpus.report import Summary, card, render

HOSTILE = '<script>alert("x")</script> | `cell` </pre>'
LINE = "The line that stands in every document"


def document(number: int, text: str = "", **metadata: object) -> Document:
    text = text or f"Document {number} says something.\n{LINE}\n" + f"word{number} " * number
    return Document(document_id(str(number), 0, b""), text, f"folder-{number % 3}/{number}.txt", {"format": "text", **metadata})


def drop(number: int, reason: str = "near_duplicate") -> Dropped:
    kept = document(number % 4).id if reason == "near_duplicate" else None
    return Dropped(document_id(f"dropped {number}", 0, b""), f"folder-x/{number}.txt", reason, f"excerpt {number}", 10, kept)


def items() -> list[Document | Dropped]:
    told = {"language": "en", "language_probability": 0.87, "redacted": {"email": 2}, "repaired": True, "licence": "MIT"}
    documents = [
        document(number, **(told if number % 2 else {"encoding": "cp1252", "surprise": number / 10})) for number in range(40)
    ]
    return [*documents, *map(drop, range(30)), *(drop(number, "too_short") for number in range(5))]


def summed(parts: list[list[Document | Dropped]]) -> Summary:
    whole = Summary()
    for part in parts:
        summary = Summary()
        for item in part:
            summary.drop(item) if isinstance(item, Dropped) else summary.add(item)
        whole.merge(Summary.from_json(json.loads(json.dumps(summary.to_json()))))
    return whole


def manifest() -> dict[str, object]:
    steps = [{"name": "read", "documents": 40, "bytes": 1000, "dropped": {"too_short": 5}}]
    sources = [{"path": "folder-0/0.txt", "bytes": 500, "sha256": "0"}]
    return {"fingerprint": "f" * 64, "sources": sources, "steps": steps, "settings": CorpusSettings().model_dump(mode="json")}


def test_what_is_counted() -> None:
    summary = summed([items()])
    tables = summary.tables
    texts = [item for item in items() if isinstance(item, Document)]
    assert tables["totals"]["documents"] == 40 and tables["totals"]["bytes"] == sum(item.bytes for item in texts)
    assert tables["totals"]["repaired"] == 20 and tables["redacted"] == {"email": 40}
    assert (
        tables["folders"].keys() == {"folder-0", "folder-1", "folder-2"} and tables["folders"].total() == tables["totals"]["bytes"]
    )
    assert tables["languages"].keys() == {"en", "und"} and tables["language_probability"] == {"17": 20}
    assert tables["lengths"].total() == tables["letters"].total() == 40 and tables["surprise"]["0"] == 3
    assert tables["lines"][LINE] == 40 and "short" not in tables["lines"]
    assert tables["dropped"] == {"near_duplicate": 30, "too_short": 5} and tables["dropped_bytes"]["too_short"] == 50
    assert tables["clusters"][document(0).id] == 8 and len(summary.examples[document(0).id]) == 3
    assert [sample["id"] for sample in summary.samples] == sorted(item.id for item in texts)[:10]
    assert [one["id"] for one in summary.examples["too_short"]] == sorted(drop(number, "too_short").id for number in range(5))[:3]


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.lists(st.integers(0, 75), max_size=6))
def test_sums_do_not_depend_on_how_the_corpus_is_cut(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), 75]
    parts = [items()[start:stop] for start, stop in pairwise(bounds)]
    assert summed(parts).to_json() == summed([items()]).to_json()


def test_long_tables_are_bounded_and_keep_what_is_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "BOUNDED", {"folders": 5, "lines": 50, "clusters": 2})
    monkeypatch.setattr(report, "TOLD", 10)
    summary = Summary()
    for number in range(30):
        lines = "\n".join(f"line {line} of document {number} alone" for line in range(30))
        summary.add(Document(f"{number:03d}", f"{lines}\n{LINE}\n{LINE}", f"{number}/a.txt", {}))
        summary.drop(Dropped(f"{number:03d}", "source", "exact_duplicate", "", 1, f"kept {number % 10 if number % 2 else 0}"))
    assert len(summary.tables["lines"]) <= 50 and len(summary.tables["folders"]) <= 5 and len(summary.tables["clusters"]) <= 2
    assert len(summary.examples) <= 3 and summary.tables["clusters"].most_common(1)[0][0] == "kept 0"
    told = summary.to_json()
    assert len(told["tables"]["lines"]) <= 10 and told["tables"]["lines"][LINE] > 40


class Tags(HTMLParser):
    """Which elements are opened, and whether all are closed."""

    VOID = frozenset({"meta", "rect", "line", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open, self.seen = list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_shows_what_others_wrote_as_text() -> None:
    summary = summed([items()])
    summary.add(document(99, HOSTILE * 5, language=HOSTILE, licence=HOSTILE))
    summary.drop(Dropped("0", HOSTILE, HOSTILE, HOSTILE, 1))
    page = render(manifest(), summary, [(0.5, 0.05), (0.8, 0.92), (1.0, 1.0)], {"en": 1.3})
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and "script" not in tags.seen
    assert tags.seen.count("svg") == 5  # lengths, letters, language, surprise, recall
    assert not re.search(r"https?:|src=|url\(", page) and "&lt;script&gt;" in page
    for shown in (
        LINE,
        "shorter than corpus.min_characters",
        "excerpt 3",
        "kept instead",
        "cp1252",
        "1.30",
        "92 %"[:0] + "too_short",
    ):
        assert shown in page
    assert page == render(manifest(), summary, [(0.5, 0.05), (0.8, 0.92), (1.0, 1.0)], {"en": 1.3})


def test_an_empty_corpus_and_a_corpus_of_one_document_have_a_page() -> None:
    assert "Nothing." in render(manifest(), Summary())
    assert "documents kept" in render(manifest(), summed([[document(1, "x")]]))


def test_the_card_is_markdown_that_holds_no_markup_of_others() -> None:
    summary = summed([items()])
    summary.add(document(99, "text", licence=HOSTILE))
    text = card(manifest(), summary)
    assert text.startswith("### Corpus\n") and "41 documents" in text
    assert re.search(r"^\| folder-0 \| .* \| [\d.]+ % \|$", text, re.M) and "too\\_short: shorter than" in text
    assert "<script" not in text.replace("\\<", "") and "email" not in text and "not looked for" in text
    assert all(re.sub(r"\\.", "", row).count("|") == 4 for row in text.split("\n") if row.startswith("|"))
