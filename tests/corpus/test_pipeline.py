"""Steps in a row: what goes in comes out or is counted."""

from collections.abc import Iterator
from pathlib import Path

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped, Items, reasons
from foretell.corpus.pipeline import Step, each, road, run
from foretell.corpus.readers.open import records
from foretell.corpus.sources import find_files


def numbers(_: Iterator[Document]) -> Items:
    for number in range(6):
        yield Document(str(number), "é" * number, "source")


def no_odd(document: Document, _: CorpusSettings) -> Document | Dropped:
    return document.dropped("odd") if int(document.id) % 2 else document


def test_a_reader_adds_a_step_by_writing_one_function() -> None:
    steps, dropped = [Step("numbers", numbers), Step("no odd", each(no_odd, CorpusSettings()))], list[Dropped]()
    kept = list(run(steps, iter(()), dropped.append))
    assert [document.id for document in kept] == ["0", "2", "4"]
    assert [item.id for item in dropped] == ["1", "3", "5"]
    assert (steps[0].documents, steps[0].bytes) == (6, 30)
    assert (steps[1].documents, steps[1].bytes, steps[1].dropped) == (3, 12, {"odd": 3})


def test_documents_stream_one_by_one() -> None:
    pulled = []

    def endless() -> Iterator[Document]:
        for number in range(10**9):
            pulled.append(number)
            yield Document(str(number), "text", "source")

    documents = run([Step("same", each(lambda document, _: document, CorpusSettings()))], endless(), lambda dropped: None)
    assert [next(documents).id for _ in range(3)] == ["0", "1", "2"]
    assert pulled == [0, 1, 2]


def test_what_a_step_fails_on_is_left_out_and_told() -> None:
    def broken(document: Document, _: CorpusSettings) -> Document:
        if document.id == "3":
            raise KeyError("what is it?")
        return document

    dropped: list[Dropped] = []
    kept = list(run([Step("broken", each(broken, CorpusSettings()))], numbers(iter(())), dropped.append))
    assert [document.id for document in kept] == ["0", "1", "2", "4", "5"]
    assert [(item.id, item.reason, item.excerpt) for item in dropped] == [("3", "step_failed", "KeyError: 'what is it?'")]


def test_the_road_counts_every_document(tmp_path: Path) -> None:
    prose = " ".join(f"This is sentence {number} of a text." for number in range(40))
    contents = [prose, "short", " \n", "*" * 600, "\udcff".encode("utf-8", "surrogateescape") * 9]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    dropped, settings = list[Dropped](), CorpusSettings()
    items = (item for file in find_files([str(tmp_path)], tmp_path) for item in records(file, settings))
    kept = list(run(road(settings), items, dropped.append))
    assert [Path(document.source).name for document in kept] == ["0.txt"]
    assert [item.reason for item in dropped] == ["too_short", "empty", "mostly_symbols", "not_utf8"]
    assert {item.reason for item in dropped} <= set(reasons())
