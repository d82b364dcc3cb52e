"""A small model of good text is less surprised by good text than by anything else."""

import argparse
import gzip
import inspect
import json
import math
import pickle
import random
from collections import Counter
from pathlib import Path

import pytest

from foretell.base.errors import SettingError
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped
from foretell.corpus.store import DOCUMENTS_PART, MANIFEST, JsonLines
from foretell.corpus.surprise import DISCOUNT, Surprise

GERMAN = "Alle Menschen sind frei und gleich an Würde und Rechten geboren und sollen einander brüderlich begegnen. " * 5


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder of prose to learn from, and prose that is not in it."""
    texts = [inspect.getdoc(value) or "" for value in vars(__import__("statistics")).values() if callable(value)]
    texts += [
        inspect.getdoc(value) or "" for name in ("random", "pathlib", "collections") for value in vars(__import__(name)).values()
    ]
    texts += [inspect.getdoc(method) or "" for value in (Path, str, list, dict) for method in vars(value).values()]
    distinct = sorted(set(filter(None, texts)))
    folder = tmp_path_factory.mktemp("reference")
    for number in range(2):
        (folder / f"{number}.txt").write_text("\n\n".join(distinct[number::3]), encoding="utf-8")
    return folder, "\n\n".join(distinct[2::3])


def test_held_out_prose_is_less_surprising_than_anything_else(parts: tuple[Path, str]) -> None:
    folder, held_out = parts
    model, source = Surprise(CorpusSettings(reference=folder)), random.Random(0)
    words, letters = held_out.split(), list(held_out)
    source.shuffle(words)
    source.shuffle(letters)
    prose = model.bits_per_byte(held_out)
    others = [" ".join(words), GERMAN, "".join(letters), "".join(source.choices("abcdefghijklmnopqrstuvwxyz ", k=5000))]
    shuffled, german, anagram, gibberish = map(model.bits_per_byte, others)
    assert 0.5 < prose < shuffled - 0.2 < german < anagram < gibberish
    assert model.bits_per_byte((folder / "0.txt").read_text()) < prose


def test_documents_are_marked_and_dropped_above_the_limit(parts: tuple[Path, str]) -> None:
    settings = CorpusSettings(reference=parts[0], max_surprise=6)
    model = pickle.loads(pickle.dumps(Surprise(settings)))  # noqa: S301 - as it goes to a worker
    kept, dropped = (model(Document("id", text, "source")) for text in (parts[1], GERMAN.upper()))
    assert isinstance(kept, Document) and kept.metadata["surprise"] == round(kept.metadata["surprise"], 2) < 6
    assert isinstance(dropped, Dropped) and dropped.reason == "surprising"
    assert model(Document("id", "", "source")).metadata["surprise"] == 0


def test_bits_follow_the_written_formula(parts: tuple[Path, str], tmp_path: Path) -> None:
    content = parts[1][:12_000].encode()
    (tmp_path / "reference.txt").write_bytes(content)
    padded = b"\n" * 8 + content + b"\n" * 16
    longest = [padded[stop - 6 : stop] for stop in range(8, len(padded) + 1)]
    counts = [Counter(gram[:order] for gram in longest) for order in range(7)]
    followers = [Counter(gram[:-1] for gram in counts[order]) for order in range(1, 7)]

    def probability(history: bytes, order: int) -> float:
        if order < 0:
            return 1 / 256
        gram, shorter = history[-order - 1 :], probability(history, order - 1)
        if not (total := counts[order][gram[:-1]]):
            return shorter
        own = max(0.0, counts[order + 1][gram] - DISCOUNT) if gram in counts[order + 1] else 0.0
        return own / total + DISCOUNT * followers[order][gram[:-1]] / total * shorter

    text = b"\n" * 8 + b"A word of the reference, and Xq"
    bits = [-math.log2(probability(text[:stop], 5)) for stop in range(9, len(text) + 1)]
    found = Surprise(CorpusSettings(reference=tmp_path / "reference.txt")).bits_per_byte(text[8:].decode())
    expected = sum(bits) / len(bits)
    assert expected - 0.01 < found < 1.07 * expected  # a few rare sequences lose their place in the table


def test_long_documents_are_judged_all_over(parts: tuple[Path, str]) -> None:
    model = Surprise(CorpusSettings(reference=parts[0]))
    prose = parts[1] * (400_000 // len(parts[1]))
    assert model.bits_per_byte(prose) == pytest.approx(model.bits_per_byte(parts[1]), rel=0.15)
    assert model.bits_per_byte(prose + "xqjzvk" * 70_000) > model.bits_per_byte(prose) + 2


@pytest.mark.parametrize("content", [None, b"", b"too little", b"\0" * 20_000])
def test_a_reference_that_teaches_nothing_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "reference.txt").write_bytes(content)
    with pytest.raises(SettingError):
        Surprise(CorpusSettings(reference=tmp_path / "reference.txt"))


def test_json_lines_and_corpora_teach_their_text_alone(parts: tuple[Path, str], tmp_path: Path) -> None:
    texts = (parts[0] / "0.txt").read_text().split("\n\n")
    (tmp_path / "lines.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    folder = tmp_path / "corpus"
    folder.mkdir()
    writer = JsonLines(folder / DOCUMENTS_PART.format(0))
    for text in texts:
        writer.add(Document("0123456789abcdef", text, "source"))
    writer.close()
    (folder / MANIFEST).write_text("{}")
    models = [Surprise(CorpusSettings(reference=path)) for path in (tmp_path / "lines.jsonl", folder)]
    assert models[0].bits_per_byte(parts[1]) == models[1].bits_per_byte(parts[1])
    assert models[0].bits_per_byte('{"text": "{') > models[0].bits_per_byte("The function") + 2


def test_a_table_and_compressed_text_teach_like_text(parts: tuple[Path, str], tmp_path: Path) -> None:
    from pyarrow import table
    from pyarrow.parquet import write_table

    text = (parts[0] / "0.txt").read_text()
    write_table(table({"text": [text], "url": ["zqxjv" * 9999]}), tmp_path / "a.parquet")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": text}))
    (tmp_path / "a.txt").write_text(text)
    models = [Surprise(CorpusSettings(reference=path)) for path in sorted(tmp_path.iterdir())]
    assert len({model.bits_per_byte(parts[1]) for model in models}) == 1 and len(models) == 4


def test_the_sample_is_the_same_each_time(parts: tuple[Path, str]) -> None:
    settings = CorpusSettings(reference=parts[0])
    first, second = Surprise(settings), Surprise(settings)
    text = argparse.__doc__ or ""
    assert first.bits_per_byte(text) == second.bits_per_byte(text)
