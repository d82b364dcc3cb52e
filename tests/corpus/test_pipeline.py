"""Steps in a row: what goes in comes out or is counted."""

from collections.abc import Iterator
from pathlib import Path

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped, Items, reasons
from foretell.corpus.pipeline import Step, each, run, standard_steps
from foretell.corpus.sources import find_files


def numbers(_: Iterator[Document]) -> Items:
    for number in range(6):
        yield Document(str(number), "é" * number, "source")


def no_odd(document: Document, _: CorpusSettings) -> Document | Dropped:
    return document.dropped("odd") if int(document.id) % 2 else document


def test_a_reader_adds_a_step_by_writing_one_function() -> None:
    steps, dropped = [Step("numbers", numbers), Step("no odd", each(no_odd, CorpusSettings()))], list[Dropped]()
    kept = list(run(steps, dropped.append))
    assert [document.id for document in kept] == ["0", "2", "4"]
    assert [item.id for item in dropped] == ["1", "3", "5"]
    assert (steps[0].documents, steps[0].bytes) == (6, 30)
    assert (steps[1].documents, steps[1].bytes, steps[1].dropped) == (3, 12, {"odd": 3})


def test_documents_stream_one_by_one() -> None:
    pulled = []

    def endless(_: Iterator[Document]) -> Items:
        for number in range(10**9):
            pulled.append(number)
            yield Document(str(number), "text", "source")

    documents = run(
        [Step("endless", endless), Step("same", each(lambda document, _: document, CorpusSettings()))], lambda dropped: None
    )
    assert [next(documents).id for _ in range(3)] == ["0", "1", "2"]
    assert pulled == [0, 1, 2]


def test_the_standard_road_counts_every_document(tmp_path: Path) -> None:
    prose = " ".join(f"This is sentence {number} of a text." for number in range(40))
    contents = [prose, prose, prose + " One more.", "short", " \n", "*" * 600, "\udcff".encode("utf-8", "surrogateescape") * 9]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    dropped: list[Dropped] = []
    kept = list(run(standard_steps(find_files([str(tmp_path)], tmp_path), CorpusSettings()), dropped.append))
    assert [Path(document.source).name for document in kept] == ["0.txt"]
    expected = ["exact_duplicate", "near_duplicate", "too_short", "empty", "mostly_symbols", "not_utf8"]
    assert [item.reason for item in dropped] == expected
    assert dropped[0].duplicate_of == dropped[1].duplicate_of == kept[0].id
    assert set(expected) <= set(reasons())
