"""Runs side by side: what differs, who got there first, what the gap is worth; a page that loads nothing and runs nothing."""

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretell.base.records import dump
from foretell.cli.main import main
from foretell.evaluation.perplexity import Score

NASTY = '<script>alert("x")</script> & $\\frac{$ {{ 7*7 }}'


class Page(HTMLParser):
    """The elements of a page, and what their attributes load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.loaded = set[str](), re.findall(r"@import[^;]*|url\(\s*[^#)]*\)", text)
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loaded += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "data", "srcset"}]


def compared(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    assert main(["compare", *map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_settings_figures_race_and_test(make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", slope=4.0, seed=2, ema_decay=0.9)
    result = compared(capsys, first, second, "--out", tmp_path / "page.html")
    assert result["settings"] == {"training.seed": [1, 2], "training.ema_decay": [None, 0.9]}
    assert [run["name"] for run in result["runs"]] == ["first", "second"]
    assert [run["best_held_out_loss"] for run in result["runs"]] == [pytest.approx(0.3), pytest.approx(0.2)]
    reached = result["reached"]
    assert (reached["measure"], reached["target"]) == ("held_out_bits_per_byte", pytest.approx(0.25))  # where the worse one ends
    assert [(at["step"], at["elapsed_seconds"]) for at in reached["at"]] == [(40, 80.0), (20, 40.0)]
    (test,) = result["tests"]
    assert (test["metric"], test["verdict"]) == ("held_out_loss", "lower") and test["difference"] == pytest.approx(-0.1)
    assert result["page"] == str(tmp_path / "page.html")


def test_the_page_loads_nothing_and_shows_text_as_text(make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make_run(tmp_path / "a" / NASTY.replace("/", "")), make_run(tmp_path / "b" / "it", note=NASTY)
    compared(capsys, first, second, "--out", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert {value for value in page.loaded if not value.startswith("#")} == set()
    assert page.tags & {"script", "link", "iframe", "object", "embed", "img", "base"} == set() and "default-src 'none'" in text
    assert text.count("<svg") == text.count("</svg>") == 2 and "&lt;script&gt;" in text and "{{ 7*7 }}" in text
    assert str(tmp_path) not in text  # nobody's folders
    for told in ("training.note", "held out loss, B against A", "from the two 95 % intervals", "tokens per second"):
        assert told in text, told


def test_the_terminal_is_told_the_same(make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", slope=8.01)
    assert main(["compare", str(first), str(second), "--out", str(tmp_path / "page.html")]) == 0
    told = capsys.readouterr().out
    assert "A first" in told and "B second" in told and "cannot be told apart" in told and "windows of 16" in told
    assert "step 40, 1 min 20 s" in told


def test_items_are_paired_and_evaluations_stand_for_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, gap in (("one", 0.0), ("two", 0.1)):
        items = [0.1 * number + gap + 0.001 * (number % 3) * (gap > 0) for number in range(30)]
        metric = {"value": sum(items) / 30, "low": 0.0, "high": 9.0, "n": 30, "protocol": "p", "items": items}
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text(json.dumps({"metrics": {"accuracy": metric, "perplexity": metric}}))
    result = compared(capsys, tmp_path / "one", tmp_path / "two" / "evaluation.json", "--out", tmp_path / "page.html")
    (test,) = result["tests"]  # perplexity is the loss once more
    assert test["verdict"] == "higher" and test["method"].startswith("paired: the same 30 items")
    assert result["reached"] is None and result["settings"] == {}
    assert "No side has metrics of training" in (tmp_path / "page.html").read_text()


def test_only_the_same_text_is_paired_and_its_bits_per_byte_are_the_loss_once_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, shift, text in (("a", 0.0, "one"), ("b", 0.1, "one"), ("c", 0.1, "other")):
        windows = np.array([[10.0, 30.0, 20.0 + number % 7 + shift * (1 + number % 2)] for number in range(40)])
        (tmp_path / name).mkdir()
        metrics = Score.of(windows, text).to_metrics("windows of 10")
        (tmp_path / name / "evaluation.json").write_text(dump({"metrics": metrics}))
    sides = [tmp_path / name for name in "abc"]
    result = compared(capsys, *sides, "--out", tmp_path / "page.html")
    tests = {(test["side"], test["metric"]): test for test in result["tests"]}
    assert set(tests) == {(1, "held_out_loss"), (2, "held_out_loss"), (2, "held_out_bits_per_byte")}
    assert tests[1, "held_out_loss"]["method"].startswith("paired: the same 40 items")
    assert tests[1, "held_out_loss"]["verdict"] == "higher"
    assert tests[2, "held_out_loss"]["method"].startswith("from the two 95 % intervals")
    assert tests[2, "held_out_loss"]["verdict"] == "cannot be told apart"
    assert all("items" not in metric for run in result["runs"] for metric in run["metrics"].values())


def test_a_file_that_is_too_large_is_not_read(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    monkeypatch.setattr("foretell.evaluation.compare.MOST_BYTES", 2**10)
    assert main(["compare", str(first), str(second), "--out", str(tmp_path / "page.html")]) == 1
    error = capsys.readouterr().err
    assert "this file has more than 1 KiB" in error and str(first / "metrics.jsonl") in error


def test_three_are_compared_with_the_first_by_what_all_of_them_measured(
    make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path / name, slope) for name, slope in (("a", 8.0), ("b", 6.0), ("c", 4.0))]
    path = runs[1] / "metrics.jsonl"
    path.write_text(
        "".join(re.sub(', "held_out.*}', "}", line) for line in path.read_text().splitlines(keepends=True)) + '{"step": 4'
    )
    result = compared(capsys, *runs, "--out", tmp_path / "page.html")
    assert [test["side"] for test in result["tests"]] == [1, 2] and result["reached"]["measure"] == "loss"
    assert [at["step"] for at in result["reached"]["at"]] == [40, 30, 20]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("recipe.toml", "[training", "this is not TOML"),
        ("metrics.jsonl", '{"step": 1, "tokens": 2, "elapsed_seconds": 1}\nnothing\n', "metrics.jsonl:2"),
        ("metrics.jsonl", '{"step": 1, "tokens": "2"}\n', "it says nothing of tokens, elapsed_seconds"),
        ("metrics.jsonl", "[]\n", "this line is no record of a step"),
        ("evaluation.json", "[]", "this is no evaluation"),
        ("evaluation.json", '{"metrics": {"loss": {"value": "low"}}}', "loss is no number"),
        ("evaluation.json", '{"metrics": {"loss": {"value": 1, "items": ["x"]}}}', "loss is no number"),
        ("evaluation.json", '{"metrics": {"loss": {"value": NaN}}}', "loss is no number"),
        ("evaluation.json", f'{{"metrics": {{"loss": {{"value": {10**400}}}}}}}', "loss is no number"),
        ("metrics.jsonl", f'{{"step": {10**400}, "tokens": 2, "elapsed_seconds": 1}}\n', "it says nothing of step"),
    ],
)
def test_damaged_files_are_named(
    name: str, content: str, told: str, make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    (second / name).write_text(content)
    assert main(["compare", str(first), str(second), "--out", str(tmp_path / "page.html")]) == 1
    error = capsys.readouterr().err
    assert told in error and str(second / name) in error and not (tmp_path / "page.html").exists()


def test_what_cannot_be_compared_is_refused(make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, page = make_run(tmp_path / "first"), tmp_path / "page.html"
    for words, told in (
        ([first], "1 cannot be compared"),
        ([first] * 27, "give two run folders or more, 26 at most"),
        ([first, tmp_path], "neither a run nor an evaluation"),
    ):
        assert main(["compare", *map(str, words), "--out", str(page)]) == 2
        assert told in capsys.readouterr().err and not page.exists()
    page.write_text("mine")
    assert main(["compare", str(first), str(first), "--out", str(page)]) == 2
    assert "--out" in capsys.readouterr().err and page.read_text() == "mine"


def test_the_commands_of_the_page_about_watching_run(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "runs" / "first"), make_run(tmp_path / "runs" / "second", slope=9.0)
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "watching.md").read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err}"
