"""Pages, Markdown and Python become the text that people wrote in them."""

import gzip
import json
import re
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest

from foretell.corpus.config import CorpusSettings, Extractor
from foretell.corpus.document import Document, Dropped
from foretell.corpus.extract import _hopeless, _time_limit, _TooSlow, extract, main_text

SETTINGS = CorpusSettings()
ENGINES = get_args(Extractor)
SENTENCE = "The harbour was still dark when the first boats came in, and nobody spoke. "
SLOW = "<article>" + f"<p>{SENTENCE}</p>" * 20_000 + "</article>"  # trafilatura needs some three seconds
SHORT_LINES = "<nav>" + "<a href=x>Some words of a link that leads away</a>" * 200 + "</nav><p>Buy now</p><p>Buy now</p>" * 9


def extracted(kind: str, text: str, settings: CorpusSettings = SETTINGS) -> str:
    item = extract(Document("id", text, "source", {"format": kind}), settings)
    return item.reason if isinstance(item, Dropped) else item.text


def read(page: str, engine: str, seconds: float = 2.0) -> tuple[str, str]:
    """The text, or why there is none, and the engine."""
    settings = CorpusSettings.model_validate({"extractor": engine, "page_seconds": seconds})
    item = extract(Document("id", page, "source", {"format": "html", "url": "x"}), settings)
    return (item.reason, "") if isinstance(item, Dropped) else (item.text, item.metadata["extractor"])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_page_loses_what_is_around_its_article(engine: str) -> None:
    page = f"<html><body class=cookies-not-set><nav><a href=x>Home</a></nav><article><p>{SENTENCE * 3}</p></article>"
    page += f"<div id=comments class=comments><p>I disagree! {SENTENCE.upper() * 3}</p></div></body></html>"
    text, used = read(page, engine)
    assert SENTENCE.strip() in text
    assert "Home" not in text and "disagree" not in text
    assert used == ("quality" if engine == "quality" else "fast")


@pytest.mark.parametrize("engine", ENGINES)
def test_code_and_tables_stay_readable(engine: str) -> None:
    page = f"<article><h1>Boats</h1><p>{SENTENCE * 9}</p><pre>def boats(n):\n    return n\n</pre><p>{SENTENCE * 9}</p>"
    page += f"<table><tr><th>Name</th><th>Boats</th></tr><tr><td>Ann</td><td>7</td></tr></table><p>{SENTENCE}</p></article>"
    text, _ = read(page, engine)
    assert "def boats(n):\n    return n" in text
    assert re.search(r"Ann[ \t|]+7", text)


def test_a_fast_reading_ends_with_the_article_but_keeps_lists_and_verse() -> None:
    links = "".join(f"<p>{title}</p>" for title in ("Most read", "Boats lost at sea", "Ten harbours to see"))
    assert read(f"<article><p>{SENTENCE * 9}</p>{links}</article>", "fast")[0] == (SENTENCE * 9).strip()
    verse = "".join(
        f"<p>{line}</p>" for line in ("The boats came in", "And nobody spoke", "The harbour was dark", "And the bell broke")
    )
    assert read(f"<article>{verse}</article>", "fast")[0].endswith("And the bell broke")


def test_auto_reads_doubtful_pages_again() -> None:
    article = f"<article><p>{SENTENCE * 5}</p></article>"
    assert read(article, "auto")[1] == "fast"
    text, used = read(f"<html><body>{SHORT_LINES}{article}</body></html>", "auto")
    assert used == "quality" and SENTENCE.strip() in text


def test_a_slow_page_is_cut_off_and_nothing_stays_behind() -> None:
    before = signal.signal(signal.SIGVTALRM, lambda *_: None)
    try:
        handler = signal.getsignal(signal.SIGVTALRM)
        assert read(SLOW, "quality", seconds=0.1) == ("page_too_slow", "")
        assert read(SLOW, "fast", seconds=0.1)[1] == "fast"
        assert signal.getsignal(signal.SIGVTALRM) is handler
        assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    finally:
        signal.signal(signal.SIGVTALRM, before)


def test_auto_keeps_the_fast_reading_of_a_slow_page() -> None:
    page = f"<html><body>{SHORT_LINES * 30}<article><p>{SENTENCE * 5}</p></article></body></html>"
    text, used = read(page, "auto", seconds=0.01)
    assert used == "fast" and SENTENCE.strip() in text
    assert read(page, "auto", seconds=60.0)[1] == "quality"  # it was doubtful


def test_in_other_threads_the_size_decides() -> None:
    found: list[tuple[str, str]] = []
    pages = (SLOW, f"<article><p>{SENTENCE * 9}</p></article>")
    thread = threading.Thread(target=lambda: found.extend(read(page, "quality", seconds=1.0) for page in pages))
    thread.start()
    thread.join()
    assert found[0] == ("page_too_slow", "") and found[1][1] == "quality"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "page",
    [
        "<div>" * 90_000,
        "</div>" * 90_000 + "<div>" * 9_000,
        "<div></nav>" * 9_000,
        "<rt>" * 9_000,
        "<dd><li>" * 20_000,
        "".join(f"<b id={number}><p>" for number in range(2000)),
        "<nav>" * 50_000 + "</nav>" * 50_000,
        "<p " + " ".join(f"a{number}=1" for number in range(60_000)) + ">",
    ],
)
def test_pages_that_no_timer_could_stop_are_not_begun(page: str, engine: str) -> None:
    assert read(page + SENTENCE, engine) == ("page_too_slow", "")


@pytest.mark.parametrize("piece", ["<p>", "<b><p>", "<font size=2><p>", "<td>", "<b id={}>x</b><p>"])
def test_pages_that_leave_out_ends_are_read(piece: str) -> None:
    page = "<article>" + "".join(piece.format(number) for number in range(3000)) + SENTENCE * 9
    assert not _hopeless(page) and SENTENCE.strip() in read(page, "fast")[0]


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_signal_that_python_swallows_comes_again() -> None:
    with pytest.raises(_TooSlow), _time_limit(0.01, 1):
        with suppress(_TooSlow):
            busy(seconds=10)
        busy(seconds=10)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_the_main_text_of_a_page_for_other_formats() -> None:
    assert (main_text(f"<article><p>{SENTENCE * 9}</p></article>", SETTINGS) or "").startswith(SENTENCE)
    assert main_text("<html></html>", SETTINGS) is None
    assert "\udcff" not in (main_text(f"<p>{SENTENCE}\udcff", SETTINGS) or "")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("page", ["", "<html></html>", "\0\x01", "<p>" * 20_000, "<?xml version='1.0' encoding='nope'?><a>"])
def test_a_page_without_content_is_dropped(page: str, engine: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read(page, engine)[0] in ("no_main_content", "broken_html")
    assert not caplog.records


def test_markdown_becomes_prose() -> None:
    source = """---
title: Front matter
---
# A *title*

A [link](http://x.y), `code`, **bold**
on two lines.<br> ![alt text](a.png)

- one
- two

3. three

```python
x = 1
```

> quoted &amp; done
"""
    expected = "A title\n\nA link, code, bold\non two lines. alt text\n- one\n- two\n3. three\n\nx = 1\n\nquoted & done"
    assert extracted("markdown", source) == expected


def test_front_matter_that_never_ends_takes_no_time() -> None:
    assert extracted("markdown", "---\n" + "-a: b\n" * 5000).count("-a: b") == 5000


def test_a_rule_and_prose_are_no_front_matter() -> None:
    assert extracted("markdown", "---\nProse here.\n\n---\nmore") == "Prose here.\n\nmore"


@pytest.mark.parametrize("kind", ["text", "python", "jsonl"])
def test_all_other_text_stays_as_it_is(kind: str) -> None:
    assert extracted(kind, '"""Doc."""\nx = "<p>&amp; *x*"') == '"""Doc."""\nx = "<p>&amp; *x*"'


def shingles(text: str) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[i : i + 4]) for i in range(max(1, len(words) - 3)))


@pytest.mark.parametrize(("engine", "least"), [("fast", 0.93), ("auto", 0.94), ("quality", 0.955)])
def test_articles_of_real_pages_are_found(data_folder: Path, engine: str, least: float) -> None:
    """Mean precision and recall of four-word sequences on every sixth page; benchmarks/corpus_extraction.py takes them all."""
    truth = json.loads((data_folder / "html/article-extraction/ground-truth.json").read_text())
    precisions, recalls = [], []
    for name in sorted(truth)[::6]:
        page = gzip.decompress((data_folder / f"html/article-extraction/html/{name}.html.gz").read_bytes())
        found, wanted = shingles(read(page.decode("utf-8", "replace"), engine)[0]), shingles(truth[name]["articleBody"])
        common = (found & wanted).total()
        precisions.append(common / found.total())
        recalls.append(common / wanted.total())
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    assert 2 * precision * recall / (precision + recall) > least
