"""Pages, Markdown and Python become the text that people wrote in them."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped
from foretell.corpus.extract import extract

SETTINGS = CorpusSettings()


def extracted(kind: str, text: str, settings: CorpusSettings = SETTINGS) -> str:
    item = extract(Document("id", text, "source", {"format": kind}), settings)
    return item.reason if isinstance(item, Dropped) else item.text


def test_a_page_loses_what_is_around_its_article() -> None:
    paragraph = "The harbour was still dark when the first boats came in, and nobody spoke. "
    page = f"<html><body><nav><a href=x>Home</a></nav><article><p>{paragraph * 3}</p></article>"
    page += f"<div id=comments class=comments><p>I disagree! {paragraph.upper() * 3}</p></div></body></html>"
    text = extracted("html", page)
    assert paragraph.strip() in text
    assert "Home" not in text and "disagree" not in text


@pytest.mark.parametrize("page", ["", "<html></html>", "<", "\0\x01", "<p>" * 20_000, "<?xml version='1.0' encoding='nope'?><a>"])
def test_a_page_without_content_is_dropped(page: str, caplog: pytest.LogCaptureFixture) -> None:
    assert extracted("html", page) in ("no_main_content", "broken_html")
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


def test_a_rule_and_prose_are_no_front_matter() -> None:
    assert extracted("markdown", "---\nProse here.\n\n---\nmore") == "Prose here.\n\nmore"


@pytest.mark.parametrize("kind", ["text", "python", "jsonl"])
def test_all_other_text_stays_as_it_is(kind: str) -> None:
    assert extracted(kind, '"""Doc."""\nx = "<p>&amp; *x*"') == '"""Doc."""\nx = "<p>&amp; *x*"'


def shingles(text: str) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[i : i + 4]) for i in range(max(1, len(words) - 3)))


def test_articles_of_real_pages_are_found(data_folder: Path) -> None:
    """Mean precision and recall of four-word sequences on every sixth page; the whole set gives F1 0.96."""
    truth = json.loads((data_folder / "html/article-extraction/ground-truth.json").read_text())
    precisions, recalls = [], []
    for name in sorted(truth)[::6]:
        page = gzip.decompress((data_folder / f"html/article-extraction/html/{name}.html.gz").read_bytes())
        found, wanted = shingles(extracted("html", page.decode("utf-8", "replace"))), shingles(truth[name]["articleBody"])
        common = (found & wanted).total()
        precisions.append(common / found.total())
        recalls.append(common / wanted.total())
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    assert 2 * precision * recall / (precision + recall) > 0.93
