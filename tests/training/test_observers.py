"""metrics.jsonl holds what INTERFACES promises and what was found; the display can say it, however bad it is."""

import io
from pathlib import Path
from typing import Any

import pytest

from foretell.base.console import Terminal
from foretell.base.runs import read_lines
from foretell.training.display import Display
from foretell.training.observers import Now, WriteMetrics, finite
from foretell.training.state import Progress, StepReport, TrainState

PROMISED = {"step", "tokens", "loss", "learning_rate", "grad_norm", "tokens_per_second", "elapsed_seconds"}


def state(steps: int = 100) -> TrainState:
    nothing: Any = None
    return TrainState(nothing, nothing, [], Progress(steps=steps))


def report(step: int, **found: Any) -> StepReport:
    told = StepReport(step, step * 10, 2.0, 1e-3, 0.5, 0.25, 10)
    for name, value in found.items():
        setattr(told, name, value)
    return told


def written(path: Path, *reports: StepReport, share: float | None = None) -> list[dict[str, Any]]:
    heard: list[dict[str, Any]] = []
    write = WriteMetrics(path / "metrics.jsonl", 5, [heard.append], share)
    for each in reports:
        write(state(), each)
    assert heard == read_lines(path / "metrics.jsonl")
    return heard


def test_every_so_many_steps_a_line_with_what_is_promised(tmp_path: Path) -> None:
    lines = written(tmp_path, *(report(step) for step in range(1, 13)))
    assert [line["step"] for line in lines] == [1, 5, 10]
    assert all(set(line) == PROMISED for line in lines)
    assert [line["tokens_per_second"] for line in lines] == [40.0, 40.0, 40.0]


def test_what_was_found_is_written_in_its_own_words(tmp_path: Path) -> None:
    norms, sizes = {"embedding": 0.1, "blocks.0": 0.2}, {"blocks.0.rms": 1.0}
    found = {"grad_norms": norms, "activations": sizes, "held_out_loss": 1.5, "held_out_bits_per_byte": 1.1}
    (line,) = written(tmp_path, report(7, **found), share=0.01)
    assert line == {**line, **found, "share_of_peak": pytest.approx(0.4)} and set(line) == PROMISED | set(found) | {"share_of_peak"}


def test_a_skipped_step_is_written_whatever_its_number_and_its_loss(tmp_path: Path) -> None:
    why = "not a finite number (loss nan, gradient norm inf)"
    (line,) = written(tmp_path, report(7, skipped=why, loss=float("nan"), grad_norm=float("inf")))
    assert (line["skipped"], line["loss"], line["grad_norm"]) == (why, None, None)
    assert finite({"a": {"b": float("-inf"), "c": 1}}) == {"a": {"b": None, "c": 1}}


def test_the_display_says_speed_share_skips_and_scores(tmp_path: Path) -> None:
    stream = io.StringIO()
    display = Display(Terminal(stream=stream), Progress(steps=100))
    line = {**dict.fromkeys(PROMISED, 1.0), "step": 7, "loss": None, "tokens_per_second": 1234.0, "share_of_peak": 0.42}
    display(line | {"skipped": "loss 9.1, 7.0 deviations above the mean", "held_out_loss": 2.5, "held_out_bits_per_byte": 1.25})
    display.sample(7, "a\nsample")
    display.close()
    told = stream.getvalue()
    for text in (
        "step 7 was not learned from: loss 9.1",
        "7/100",
        "loss not a number (held-out 2.500, 1.250 bits/byte)",
        "42 % of peak",
        "a sample",
    ):
        assert text in told, text


def test_now_acts_when_due_at_the_end_and_when_told() -> None:
    acted: list[int] = []
    now = Now(lambda s: acted.append(s.progress.step), 4, lambda s: s.progress.step == 3)
    at = state(steps=6)
    for step in range(1, 7):
        at.progress.step = step
        now(at, report(step))
    assert acted == [3, 4, 6]
