"""Verbatim spans of a text are found in the corpus, with the documents that hold them."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.base.errors import DataError, SettingError
from foretell.corpus import trace as module
from foretell.corpus.document import Document, document_id
from foretell.corpus.store import DOCUMENTS_PART, MANIFEST, JsonLines
from foretell.corpus.trace import trace

RHYME = "Twinkle, twinkle, little star, how I wonder what you are! Up above the world so high — like a diamond in the sky."
OTHER = "Es war einmal mitten im Winter, und die Schneeflocken fielen wie Federn vom Himmel herab; da saß eine Königin am Fenster."


def corpus(folder: Path, texts: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    writer = JsonLines(folder / DOCUMENTS_PART.format(0))
    for number, text in enumerate(texts):
        writer.add(Document(document_id(str(number), 0, b""), text, f"texts/{number}.txt", {}))
    writer.close()
    (folder / MANIFEST).write_text(f'{{"fingerprint": "{writer.digest.hexdigest()}"}}')
    return folder


def naive(texts: list[str], text: str, least: int) -> list[tuple[int, int]]:
    """All spans that occur and cannot be made longer, the longest first."""
    occurs = [(a, b) for a in range(len(text)) for b in range(a + least, len(text) + 1) if any(text[a:b] in one for one in texts)]
    maximal = [(a, b) for a, b in occurs if (a - 1, b) not in occurs and (a, b + 1) not in occurs]
    return sorted(maximal, key=lambda span: (span[0] - span[1], span))


def test_the_longest_spans_come_with_their_documents(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "corpus", ["An introduction. " + RHYME + " An end.", OTHER, RHYME, "nothing of the kind"])
    text = f"My own words first – {OTHER[10:80]} and then, {RHYME} And mine again."
    spans = trace(folder, text)
    assert all(text[span.start : span.stop] == span.text for span in spans)
    assert RHYME in spans[0].text and spans[0].count == 1 and OTHER[10:80] in spans[1].text and spans[1].count == 1
    assert spans[1].places[0].source == "texts/1.txt" and spans[1].places[0].id == document_id("1", 0, b"")
    assert OTHER[80:100].split()[0] in spans[1].places[0].excerpt
    assert trace(folder, text, limit=1) == spans[:1]


def test_occurrences_are_counted_and_the_first_places_told(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "corpus", [f"{RHYME} {RHYME}", *[f"{number} {RHYME}" for number in range(9)]])
    (span,) = trace(folder, RHYME)
    assert (span.start, span.stop, span.count) == (0, len(RHYME), 11)
    assert [place.source for place in span.places] == ["texts/0.txt", "texts/0.txt", "texts/1.txt"]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.text("abe", max_size=40), min_size=1, max_size=6), st.text("abec", min_size=1, max_size=60))
def test_against_all_pairs_of_places(tmp_path_factory: pytest.TempPathFactory, texts: list[str], text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_BYTES", 30)  # several blocks
        patch.setattr(module, "SHORTEST_BYTES", 5)
        folder = corpus(tmp_path_factory.mktemp("corpus"), texts)
        spans = trace(folder, text, limit=100)
    assert [(span.start, span.stop) for span in spans] == naive(texts, text, min(5, len(text)))
    for span in spans:
        starts = [at for one in texts for at in range(len(one)) if one.startswith(span.text, at)]
        assert span.count == len(starts) and 1 <= len(span.places) <= 3


def test_short_spans_are_told_where_there_are_no_long_ones(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "corpus", [RHYME, OTHER])
    text = "He said: a diamond in the ring, and 'mitten im Sommer', on and on and on."
    assert [span.text for span in trace(folder, text)] == [" a diamond in the ", "mitten im "]
    assert [span.text for span in trace(folder, text + RHYME)] == [RHYME]
    assert trace(folder, "Quite other words, of which not even two stand there.") == []


def test_spans_are_whole_characters(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "corpus", ["ü" * 30 + "é" + "ж" * 40])
    (span,) = trace(folder, "ì" + "ж" * 40)
    assert span.text == "ж" * 40 and (span.start, span.stop) == (1, 41)


def test_the_index_is_made_once_and_again_for_another_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, written = corpus(tmp_path / "corpus", [RHYME]), list[int]()
    write = module._write
    monkeypatch.setattr(module, "_write", lambda *given: written.append(1) or write(*given))
    assert len(trace(folder, RHYME)) == len(trace(folder, RHYME)) == 1 and written == [1]
    corpus(folder, [OTHER])
    assert trace(folder, RHYME) == [] and len(trace(folder, OTHER)) == 1 and written == [1, 1]


def test_a_killed_indexing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = corpus(tmp_path / "corpus", [RHYME])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        trace(folder, RHYME)
    assert sorted(path.name for path in folder.iterdir()) == [DOCUMENTS_PART.format(0), MANIFEST]
    assert len(trace(folder, RHYME)) == 1


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "corpus", [RHYME])
    with pytest.raises(SettingError, match="no text"):
        trace(folder, "")
    with pytest.raises(SettingError, match="no corpus folder"):
        trace(tmp_path, RHYME)
    trace(folder, RHYME)
    (folder / "trace" / "00000.text").write_bytes(b"cut")
    with pytest.raises(DataError, match="cannot read the index"):
        trace(folder, RHYME)


def test_long_copies_take_few_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(str(number * 7919 % 100_003) for number in range(5000))
    folder, searches = corpus(tmp_path / "corpus", [text]), list[int]()
    longest = module.Block.longest
    monkeypatch.setattr(module.Block, "longest", lambda block, pattern: searches.append(1) or longest(block, pattern))
    (span,) = trace(folder, text)
    assert span.text == text and len(searches) < 100
    searches.clear()
    assert trace(folder, text.replace(" ", "x")) == [] and len(searches) < len(text)
