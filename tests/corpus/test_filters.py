"""Filters take out what is not language, and nothing else."""

import base64
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped, reasons
from foretell.corpus.filters import judge
from foretell.corpus.rules.lenient import JUDGED_FROM_CHARACTERS, faults
from foretell.corpus.scan import Scan

SETTINGS = CorpusSettings()


def judged(text: str, settings: CorpusSettings = SETTINGS) -> str | None:
    item = judge(Document("id", text, "source"), settings)
    return item.reason if isinstance(item, Dropped) else None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("short", "too_short"),
        ("x " * 150_000, "long_line"),
        ("*~ #= " * 200, "mostly_symbols"),
        (base64.encodebytes(random.Random(0).randbytes(2000)).decode(), "long_words"),
        ("".join(f"Buy now, number {i % 20} of all the twenty lines!\n" for i in range(100)), "repeated_lines"),
        ("never gonna give you up " * 200, "repetitive"),
    ],
)
def test_what_is_not_language_goes(text: str, reason: str) -> None:
    assert judged(text) == reason


def test_lengths_are_settings() -> None:
    assert judged("x" * 30, CorpusSettings(min_characters=31)) == "too_short"
    assert judged("x" * 30, CorpusSettings(max_line_characters=20)) == "long_line"


@settings(deadline=None, derandomize=True)
@given(st.text(min_size=200, max_size=200))
def test_any_text_of_200_characters_stays(text: str) -> None:
    assert judged(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。" * 2 + "各国人民" * 110,
        "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิต่างมีเหตุผลและมโนธรรมและควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ" * 5,
        json.dumps({f"key_{i}": [i, i * i, None, {"a": str(i)}] for i in range(60)}, indent=1),
        "\n".join(f"{random.Random(i).random():.6f}\t{i}\t{i * 7}" for i in range(200)),
        "O Romeo, Romeo,\nwherefore art thou Romeo?\n\n" * 3
        + "\n".join(f"Verse {i}: the {i}th line, and a refrain\nHey ho, hey ho" for i in range(30)),
    ],
    ids=["chinese", "thai", "json", "numbers", "verse"],
)
def test_unusual_text_stays(text: str) -> None:
    assert len(text) >= JUDGED_FROM_CHARACTERS
    assert judged(text) is None


def test_every_reason_is_explained() -> None:
    names = [name for name, _ in faults(Scan("x" * JUDGED_FROM_CHARACTERS), SETTINGS)]
    assert len(names) == 6 and set(names) <= set(reasons())
