"""Documents that hold an evaluation text go, and no setting for it is silently without effect."""

import gzip
import json
import pickle
import random
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.base.errors import SettingError
from foretell.corpus.config import CorpusSettings
from foretell.corpus.contamination import Contamination, sequences, words
from foretell.corpus.document import Document, Dropped

QUESTION = "Which of the four seasons, in the poet's view, is the one that brings the swallows back to the old barn?"
FILLER = " ".join(f"word{number}" for number in range(300))


def index(path: Path, n: int = 13) -> Contamination:
    return Contamination(CorpusSettings(decontaminate=(path,), contamination_words=n))


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def is_contaminated(contamination: Contamination, text: str) -> bool:
    item = contamination(Document("id", text, "source"))
    assert isinstance(item, Document) or item.reason == "contaminated"
    return isinstance(item, Dropped)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", f"A title\n\n{QUESTION}\n\nAnother paragraph"),
        ("a.jsonl", "\n" + json.dumps({"id": 1, "data": [{"question": QUESTION}]}) + "\nnot json\n"),
        ("a.json", json.dumps({"data": [{"paragraphs": [{"context": QUESTION}]}]})),
        ("a.csv", f'id,question\n1,"{QUESTION}"\n2,"stray quote\n'),
        ("a.tsv", f'1\t"\t{QUESTION}\t"no quoting here\n'),
    ],
)
def test_an_evaluation_text_is_found_in_any_dress(tmp_path: Path, name: str, content: str) -> None:
    contamination = pickle.loads(pickle.dumps(index(written(tmp_path / name, content))))  # noqa: S301 - as it goes to a worker
    dress = QUESTION.upper().replace(",", " —").replace("'", "’").replace(" ", "\n")
    item = contamination(Document("id", f"{FILLER} {dress} {FILLER}", "source"))
    assert isinstance(item, Dropped) and item.reason == "contaminated"
    assert item.excerpt == f"{tmp_path / name}: which of the four seasons in the poets view is the one that"
    assert isinstance(contamination(Document("id", FILLER, "source")), Document)


def test_parquet_is_read(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    write_table(pa.table({"id": [1], "question": [QUESTION]}), tmp_path / "a.parquet")
    assert is_contaminated(index(tmp_path), QUESTION)


def test_archives_pages_arrow_and_long_lines_are_read(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"text": ["", "short"], "id": [1, 2], "question": [QUESTION, "?"]})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/a.jsonl", json.dumps({"question": QUESTION}))
    written(tmp_path / "a.jsonl.gz", gzip.compress(json.dumps({"question": QUESTION}).encode()))
    written(tmp_path / "a.csv.gz", gzip.compress(f'1,"{QUESTION}"\n2,"stray quote\n'.encode()))
    written(tmp_path / "a.html", f"<html><body><p>{QUESTION.replace('poet', '<b>poet</b>')}</p></body></html>")
    written(tmp_path / "a.json", json.dumps({"data": [{"context": "x" * 5_000_000, "question": QUESTION}]}))
    written(tmp_path / "b.txt", QUESTION.encode("utf-16"))
    for file in sorted(tmp_path.iterdir()):
        assert is_contaminated(index(file), QUESTION), file


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    content = gzip.compress(QUESTION.encode())
    written(tmp_path / "a.txt", QUESTION)
    for name, damaged in {"b.txt.gz": content[:-9], "b.parquet": b"PAR1 and no more", "b.bin": b"\1\0\2"}.items():
        file = written(tmp_path / name, damaged)
        with pytest.raises(SettingError, match="cannot be read") as caught:
            index(tmp_path)
        assert caught.value.where == str(file)
        file.unlink()


def test_thirteen_words_in_a_row_and_not_twelve(tmp_path: Path) -> None:
    contamination, all_words = index(written(tmp_path / "a.txt", QUESTION)), QUESTION.split()
    assert is_contaminated(contamination, " ".join(["so", *all_words[3:16], "on"]))
    assert not is_contaminated(contamination, " ".join(["so", *all_words[3:15], "on"]))


def test_a_short_evaluation_text_counts_whole_from_eight_words_on(tmp_path: Path) -> None:
    contamination = index(
        written(tmp_path / "a.jsonl", '{"q": "the rain in Spain stays mainly in the plain", "a": "yes of course"}')
    )
    assert is_contaminated(contamination, f"{FILLER} The rain in Spain stays mainly in the plain.")
    assert not is_contaminated(contamination, f"{FILLER} The rain in Spain stays mainly in the plains. Yes of course.")


def test_characters_of_chinese_are_words(tmp_path: Path) -> None:
    contamination = index(written(tmp_path / "a.txt", "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心"))
    assert is_contaminated(contamination, "他说：人人生而自由 在尊严和权利上一律平等！")
    assert not is_contaminated(contamination, "他说：人人生而自由 在尊严与权利！上一律平等")


@pytest.mark.parametrize("content", ["", "seven words are one fewer than needed", "1,2\n3,4\n", b"PK\3\4\0\0\0"])
def test_nothing_to_look_for_is_an_error(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(SettingError):
        index(written(tmp_path / "a.csv", content))


def test_a_missing_path_an_empty_folder_and_one_empty_path_of_two_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    good = written(tmp_path / "a.txt", QUESTION)
    for paths in [(tmp_path / "nowhere",), (tmp_path / "empty",), (good, written(tmp_path / "b.txt", "little"))]:
        with pytest.raises(SettingError):
            Contamination(CorpusSettings(decontaminate=paths))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.sampled_from(["a", "b", "cc", "dé", "é"]), max_size=30), st.integers(2, 6))
def test_keys_agree_exactly_where_the_words_do(chosen: list[str], length: int) -> None:
    content, begins, ends = words(" ".join(chosen))
    assert [content[start:stop].decode() for start, stop in zip(begins, ends, strict=True)] == chosen
    runs = [tuple(chosen[place : place + length]) for place in range(len(chosen) - length + 1)]
    keys = sequences(content, begins, ends, [length])[-1].tolist()
    assert len(keys) == len(runs) and [runs.index(run) for run in runs] == [keys.index(key) for key in keys]


def test_many_texts_against_plain_python(tmp_path: Path) -> None:
    source = random.Random(1)
    texts = [" ".join(source.choices("abcdefgh", k=source.randrange(4, 40))) for _ in range(300)]
    contamination = index(written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, texts[:100]))))
    known = {run for text in texts[:100] if len(text.split()) >= 8 for run in _runs(text, min(13, len(text.split())))}
    lengths = {len(run) for run in known}
    for text in texts:
        assert is_contaminated(contamination, text) == any(run in known for length in lengths for run in _runs(text, length))


def _runs(text: str, length: int) -> list[tuple[str, ...]]:
    split = text.split()
    return [tuple(split[place : place + length]) for place in range(len(split) - length + 1)]
