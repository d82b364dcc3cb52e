"""Runs are listed by what their files say; damaged and foreign folders are named, whatever they hold."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from foretell.cli.main import main


def listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert main(["runs", str(folder), "--json"]) == 0
    return {run["name"]: run for run in json.loads(capsys.readouterr().out)["runs"]}


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_a_finished_run_says_all_of_itself(make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = listed(make_run(tmp_path / "runs" / "mine").parent, capsys)["mine"]
    assert {name: run[name] for name in ("state", "step", "steps", "loss", "tokens", "tokens_per_second", "problem")} == {
        "state": "finished", "step": 40, "steps": 40, "loss": 0.2, "tokens": 4000, "tokens_per_second": 50.0, "problem": None,
    }  # fmt: skip
    assert run["best_held_out_loss"] == pytest.approx(0.3) and run["bits_per_byte"] == pytest.approx(0.25)
    assert run["parameters"] == 300 * 32 + 16 * 32 + 2 * (12 * 32 * 32 + 13 * 32) + 2 * 32  # GPT-2's sum


def test_the_table_has_a_line_for_each_run_the_latest_first(
    make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    age(make_run(tmp_path / "old") / "metrics.jsonl", 500)
    age(tmp_path / "old" / "recipe.toml", 500)
    make_run(tmp_path / "deeper" / "new run", score=False)
    assert main(["runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].split()[:3] == ["run", "state", "loss"]
    assert lines[1].startswith("deeper/new run") and "running" in lines[1] and lines[2].startswith("old ")
    assert "40/40" in lines[1] and "0.300" in lines[1]


def test_states_are_told_by_files(make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("early", "silent", "slow", "longer", "begun")
    early, silent, slow, longer, begun = (make_run(tmp_path / name, score=name in ("early", "longer"), steps=99) for name in names)
    for run in (early, silent, slow, longer):
        age(run / "recipe.toml", 5000)
        age(run / "metrics.jsonl", 300)  # the score of `early` is younger
    age(longer / "evaluation.json", 400)  # resumed for more steps
    with (slow / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 41, "tokens": 4100, "loss": 1.0, "elapsed_seconds": 1000.0}) + "\n")
    age(slow / "metrics.jsonl", 300)
    (begun / "metrics.jsonl").unlink()
    runs = listed(tmp_path, capsys)
    expected = {"early": "finished", "silent": "stopped", "slow": "running", "longer": "stopped", "begun": "running"}
    assert {name: run["state"] for name, run in runs.items()} == expected
    assert all(run["problem"] is None for run in runs.values())


def test_the_best_loss_is_remembered_by_the_checkpoint(make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = make_run(tmp_path / "mine") / "checkpoints" / "step-00000030"
    checkpoint.mkdir(parents=True)
    (checkpoint / "training_state.json").write_text('{"progress": {"best_held_out_loss": 0.125}}')
    assert listed(tmp_path, capsys)["mine"]["best_held_out_loss"] == 0.125


def test_only_the_end_of_long_metrics_is_read(make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_run(tmp_path / "mine") / "metrics.jsonl"
    path.write_bytes(
        b"not JSON at all\n" * 50_000 + b'{"step": 40, "loss": 0.5}\n' * 3000 + b'{"step": 41, "lo'
    )  # cut off by a kill
    run = listed(tmp_path, capsys)["mine"]
    assert (run["step"], run["loss"], run["problem"]) == (40, 0.5, None)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("recipe.toml", "[training\n", "recipe.toml cannot be read"),
        ("recipe.toml", b"\xff\xfe\x00", "recipe.toml cannot be read"),
        ("recipe.toml", None, "there is no recipe.toml"),
        ("metrics.jsonl", "{}\n[1]\nnothing\n", "metrics.jsonl cannot be read"),
        ("metrics.jsonl", None, "there is no metrics.jsonl"),
        ("evaluation.json", "[" * 100_000, "evaluation.json cannot be read"),
        ("evaluation.json", b"x" * (2**22 + 1), "too large"),
        ("metrics.jsonl", '[1]\n7\n"text"\nnull\n', None),
        ("metrics.jsonl", '{"step": "many", "loss": null, "held_out_loss": true}\n', None),
        ("evaluation.json", '{"metrics": []}', None),
        ("recipe.toml", 'model = 3\ntokenizer = "none"\n', None),
    ],
)
def test_damaged_and_foreign_folders_are_listed_with_what_is_wrong(
    name: str, content: str | bytes | None, told: str | None, make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "whole")
    path = make_run(tmp_path / "bad") / name
    path.unlink()
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    runs = listed(tmp_path, capsys)
    assert runs["whole"]["problem"] is None and (told or "") in (runs["bad"]["problem"] or "")
    assert (runs["bad"]["state"] == "unknown") == (told is not None)
    assert main(["runs", str(tmp_path)]) == 0
    assert "bad" in capsys.readouterr().out


def test_a_folder_without_a_run_is_named_a_hidden_one_is_not(
    make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("notes", ".cache", "group/empty"):
        (tmp_path / name).mkdir(parents=True)
    make_run(tmp_path / "group" / "mine")
    runs = listed(tmp_path, capsys)
    assert set(runs) == {"notes", "group/mine"} and runs["notes"]["problem"] == "there is no recipe.toml; there is no metrics.jsonl"
    assert set(listed(tmp_path / "group" / "mine", capsys)) == {"mine"}


def test_a_missing_folder_is_an_error_with_a_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert main(["runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"runs": []}


def test_listing_and_comparing_need_no_torch(make_run: Any, tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", slope=9.0)
    calls = ["runs", str(tmp_path)], ["compare", str(first), str(second), "--out", "page.html"]
    code = f"import sys; from foretell.cli.main import main; sys.exit(any(map(main, {calls})) or 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
