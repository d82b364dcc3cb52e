"""The report opens without network and shows what was written as text; the card says how the scores were made."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from foretell.base.files import write_text
from foretell.base.records import dump
from foretell.base.runs import RunFolder, append_record
from foretell.evaluation.perplexity import Score, protocol
from foretell.evaluation.report import write_report
from foretell.interop.configs import to_hugging_face
from foretell.models.settings import ModelSettings, resolve

NASTY = '<script>alert("x")</script> & <img src=x onerror=y>'
DATA = {"held_out": "whole documents", "train_tokens": 1234567, "sources": NASTY}
LOADING = {"src", "href", "xlink:href", "data", "action", "poster", "srcset"}


class References(HTMLParser):
    """Collects the elements of a page and what their attributes and styles refer to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.found = set[str](), re.findall(r"@import[^;]*|url\(([^)]*)\)", page)
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value or "" for name, value in attrs if name in LOADING]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(tmp_path / "my <run>")
    for step in range(1, 21):
        record = {"step": step, "tokens": step * 100, "loss": 5 / step, "learning_rate": 1e-3, "tokens_per_second": 10.0 * step}
        evaluated = {"held_out_loss": 6 / step} if step % 10 == 0 else {}
        append_record(run.metrics, record | {"elapsed_seconds": 1.0 * step} | evaluated)
    for step, text in ((10, "the older sample"), (20, NASTY)):
        append_record(run.samples, {"step": step, "text": text})
    write_text(run.recipe, "[model]\nn_layer = 2\n")
    config = resolve(ModelSettings(n_layer=2, d_model=32, context_length=64), 300)[0]
    write_text(run.model / "config.json", dump(to_hugging_face(config)))
    scores(run, windows=9)
    return run


def scores(run: RunFolder, windows: int) -> None:
    score = Score.of(np.array([[64.0, 150.0, 200.0 + number] for number in range(windows)]))
    write_text(run.evaluation, dump({"metrics": score.to_metrics(protocol(64, "fp32"))}))


def written(run: RunFolder) -> tuple[str, str]:
    write_report(run, DATA, {"peak_memory_bytes": 2**30, "threads": 2})
    return run.report.read_text(encoding="utf-8"), (run.model / "README.md").read_text(encoding="utf-8")


def test_the_report_loads_nothing_from_elsewhere(run: RunFolder) -> None:
    page, _ = written(run)
    references = References(page)
    assert {value for value in references.found if not value.startswith("#")} == set()
    assert references.tags & {"script", "link", "iframe", "object", "embed", "img", "base"} == set()
    assert "default-src 'none'" in page
    assert page.count("<svg") == page.count("</svg>") == 2


def test_what_others_wrote_is_shown_as_text(run: RunFolder) -> None:
    page, _ = written(run)
    assert "<script" not in page and "<img" not in page and "<run>" not in page
    assert page.count("&lt;script&gt;alert(&#34;x&#34;)") == 2  # the sample and the source
    assert page.index("alert(") < page.index("the older sample")  # newest first


def test_the_report_shows_score_interval_curves_and_facts(run: RunFolder) -> None:
    page, _ = written(run)
    for text in (
        "95 %: 3.",
        "loss (nats per token)",
        "held-out",
        "learning rate",
        "1,234,567",
        "n_layer = 2",
        "1 GiB",
        "20 s",
        "576 tokens",
    ):
        assert text in page, text
    assert protocol(64, "fp32") in page


def test_a_single_window_has_no_interval(run: RunFolder) -> None:
    scores(run, windows=1)
    page, card = written(run)
    assert "one window: no interval" in page and "| – |" in card


def test_a_run_without_samples_and_evaluations_has_a_report(run: RunFolder) -> None:
    run.samples.unlink()
    write_text(run.metrics, "".join(line + "\n" for line in run.metrics.read_text().splitlines() if "held_out" not in line))
    page, card = written(run)
    assert "No samples were asked for" in page and "```text" not in card


def test_the_card_says_what_the_numbers_mean_and_how_to_use_the_model(run: RunFolder) -> None:
    _, card = written(run)
    assert f"Protocol: {protocol(64, 'fp32')}" in card
    for text in (
        "library_name: transformers",
        "AutoModelForCausalLM",
        "bits per byte",
        "held out: whole documents",
        NASTY,
        "n_layer = 2",
    ):
        assert text in card, text
    assert re.search(r"\| loss \| 3\.1875 \| 3\.\d+ to 3\.\d+ \| 576 \|", card)


def test_backticks_do_not_leave_their_block(run: RunFolder) -> None:
    append_record(run.samples, {"step": 21, "text": "```\n# not a title\n````\n"})
    _, card = written(run)
    assert "\n`````text\n```\n# not a title\n````\n`````\n" in card and "\n```toml\n[model]\nn_layer = 2\n```\n" in card
