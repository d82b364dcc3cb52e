"""The published rules: each drops what it is for, at its limit; bounds agree with the plain reading of the rule."""

import random
from collections import Counter
from pathlib import Path

import pytest

from foretell.base.errors import SettingError
from foretell.corpus import scan as scanning
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped, reasons
from foretell.corpus.filters import judge
from foretell.corpus.rules import fineweb, gopher
from foretell.corpus.rules.bad_words import BadWords, bad_words
from foretell.corpus.rules.words import split_words
from foretell.corpus.scan import Scan

SENTENCE = "The ship that came to the harbour of {} in the year {} had a cargo of {} and {} with it. "
THINGS = ["corn", "iron", "salted fish", "timber", "old books", "wine", "silk", "amber", "wool", "glass"]


def prose(sentences: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    return "\n".join(
        "".join(SENTENCE.format(draw.random(), draw.randrange(10**6), *draw.sample(THINGS, 2)) for _ in range(3))[:-1]
        for _ in range(sentences // 3)
    )


def varied(words: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghij", k=5)) for _ in range(words))


def judged(text: str, *rules: str) -> str | None:
    item = judge(Document("id", text, "source"), CorpusSettings.model_validate({"rules": rules}))
    return item.reason if isinstance(item, Dropped) else None


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        ("don't", "do n't"),
        ("(Mr.", "( Mr."),
        ("“end.”", "“ end . ”"),
        ("U.S.,", "U.S. ,"),
        ("well-known", "well - known"),
        ("boy's!", "boy 's !"),
        ("wait...", "wait ..."),
        ("3.14", "3.14"),
        ("5km", "5 km"),
        ("cannot", "can not"),
        ("https://a.org/b-c", "https://a.org/b-c"),
        ("x" * 300 + "-y", "x" * 300 + " - y"),
    ],
)
def test_words(chunk: str, words: str) -> None:
    assert split_words(chunk) == words.split(" ")


def test_words_together_are_the_run() -> None:
    draw = random.Random(1)
    for _ in range(3000):
        run = "".join(draw.choices("aAé1.,-'’\"()[]s…$+%:/@nt中\u0301", k=draw.randint(1, 12)))
        assert "".join(split_words(run)) == run and all(split_words(run))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("the best of times and the worst with that. " * 4, "gopher_few_words"),
        ("the a of I to be " * 60, "gopher_word_length"),
        (prose(9) + " #" * 60, "gopher_symbols"),
        ("\n".join(f"- {line}" for line in prose(30).split("\n")), "gopher_bullets"),
        (prose(30).replace(".\n", "...\n"), "gopher_ellipsis"),
        ("the of " + "1234 " * 100, "gopher_no_letters"),
        ("Alle Menschen werden frei und gleich geboren " * 12, "gopher_stop_words"),
        (prose(30), None),
    ],
)
def test_gopher_quality(text: str, reason: str | None) -> None:
    assert judged(text, "gopher") == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n\n".join(["One paragraph."] * 3 + ["Another."]), "gopher_repeated_paragraphs"),
        (prose(9) + "\nrefrain" * 30, "gopher_repeated_lines"),
        ("spam spam " * 30 + prose(3), "gopher_top_words"),
        (f"{varied(40)} {varied(600, 1)} {varied(40)}", None),
        (f"{varied(40)} {varied(200, 1)} {varied(40)}", "gopher_repeated_words"),
        ("", None),
    ],
)
def test_gopher_repetition(text: str, reason: str | None) -> None:
    assert judged(text, "gopher-repetition") == reason


def plainly_walked(words: list[str], size: int) -> int:
    seen, place, total = set(), 0, 0
    while place <= len(words) - size:
        sequence = tuple(words[place : place + size])
        total += sum(map(len, sequence)) if sequence in seen else 0
        place += size if sequence in seen else 1
        seen.add(sequence)
    return total


def plainly_top(words: list[str], size: int) -> int:
    sequences = [" ".join(words[place : place + size]) for place in range(len(words) - size + 1)]
    most, times = Counter(sequences).most_common(1)[0] if sequences else ("", 0)
    return len(most) * times


@pytest.mark.parametrize("seed", range(40))
def test_bounds_decide_as_the_plain_reading(seed: int) -> None:
    draw = random.Random(seed)
    vocabulary = ["".join(draw.choices("abcdefg", k=draw.randint(1, 9))) for _ in range(draw.choice([3, 12, 60]))]
    words = draw.choices(vocabulary, k=draw.randint(0, 400))
    for _ in range(draw.randint(0, 6)):
        start = draw.randint(0, len(words))
        words += words[start : start + draw.randint(0, 40)]
    text, scan = " ".join(words), Scan(" ".join(words))
    words = [word for run in words for word in split_words(run)]
    top = any(plainly_top(words, size) > limit * len(text) for size, limit in gopher.MAX_TOP.items())
    repeated = any(plainly_walked(words, size) > limit * len(text) for size, limit in gopher.MAX_REPEATED.items())
    assert (gopher._top_words(scan) > 1, gopher._repeated_words(scan) > 1) == (top, repeated)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join(["No full stop here"] * 9 + ["One."]), "fineweb_line_punctuation"),
        ("\n".join(f"Item {number}." for number in range(9)), "fineweb_short_lines"),
        (prose(30) + "\n" + prose(3), "fineweb_repeated_lines"),
        (
            "\n".join(f"An-unbroken-line-of-some-length-and-the-number-{number}." + "\n" * 9 for number in range(9)),
            "fineweb_newlines",
        ),
        (prose(30), None),
        ("", "fineweb_line_punctuation"),
    ],
)
def test_fineweb(text: str, reason: str | None) -> None:
    assert judged(text, "fineweb") == reason


def test_c4_leaves_lines_out_and_counts_them() -> None:
    lines = [
        "A menu",
        "Too short.",
        "Please enable Javascript in your browser.",
        "We have a privacy policy for you.",
        "x" * 1001 + " of one two.",
    ]
    kept = [f"This is sentence number {number}, as one reads[12] it." for number in range(5)]
    item = judge(Document("id", "\n".join(lines + kept), "source"), CorpusSettings(rules=("c4",)))
    assert isinstance(item, Document) and item.metadata == {"dropped_lines": 5}
    assert item.text == "\n".join(kept).replace("[12]", "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("One is here. Two is here. Three is here. Four is here, as Mr. Five said.", "c4_few_sentences"),
        ("One is here. Two is here! Three is here? Four is here. Five is here.", None),
        ("Here is { a bracket.\n" + prose(9), "c4_bad_words"),
        ("Here is Lorem Ipsum text.\n" + prose(9), "c4_bad_words"),
    ],
)
def test_c4(text: str, reason: str | None) -> None:
    assert judged(text, "c4") == reason


def test_later_rules_see_what_c4_left() -> None:
    text = prose(15) + "\n- a menu" * 90
    assert judged(text, "fineweb") == "fineweb_line_punctuation"
    assert judged(text, "c4", "fineweb") is None


def test_every_reason_is_explained() -> None:
    assert {rule.reason for rule in gopher.QUALITY + gopher.REPETITION + fineweb.RULES} <= set(reasons())


@pytest.mark.parametrize("text", ["", " \n", "a", "é\xa0b\u3000c", "\ud800", "中文" * 300, "x" * 200_000, "ab " * 60_000])
def test_counts_are_those_of_the_plain_reading(text: str) -> None:
    scan = Scan(text)
    assert scan.counts["visible"] == sum(map(len, text.split()))
    if len(text) < 70_000:  # longer runs are cut
        assert len(scan.rows_RC) == len(text.split())
    assert len(scan.words_W[0]) == scan.counts["words"] and scan.words_W[1].sum() == scan.counts["visible"]


def test_a_forgetful_vocabulary_decides_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [prose(12, seed) for seed in range(30)]
    counts = [Scan(text).counts for text in texts]
    monkeypatch.setattr(scanning, "FORGET_AT", 50)
    monkeypatch.setattr(scanning, "_vocabularies", [])
    assert [Scan(text).counts for text in texts] == counts


def test_vocabulary_grows() -> None:
    draw = random.Random(3)
    text = " ".join(str(draw.randrange(10**6)) for _ in range(40_000))
    numbers = Scan(text).vocabulary.numbers(text).tolist()
    assert len(set(numbers)) == len(set(text.split()))
    assert numbers == Scan(text).vocabulary.numbers(text).tolist()


def test_bad_words_are_whole_words_and_phrases() -> None:
    words = BadWords(["Darn", "very bad thing", "不好"])
    assert words.in_text("Oh DARN!") and words.in_text("a very\nbad, thing") and words.in_text("这不好吗")
    assert not words.in_text("darning a very badly thing, so bad very thing")
    assert BadWords(["straße"]).in_text("STRASSE")


def test_bad_words_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_text("# a list\ndarn\n\n", encoding="utf-8")
    item = judge(Document("id", "what a darn long and harmless text", "s"), CorpusSettings(bad_words=path))
    assert isinstance(item, Dropped) and item.reason == "bad_words"
    with pytest.raises(SettingError, match="cannot be read"):
        bad_words(tmp_path / "absent.txt")
    (tmp_path / "empty.txt").write_text("#\n", encoding="utf-8")
    with pytest.raises(SettingError, match="empty"):
        bad_words(tmp_path / "empty.txt")
