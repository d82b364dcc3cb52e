"""The job of listing runs: what each folder says of itself. Torch-free; quick with hundreds: only the end of metrics is read."""

import json
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from foretell.base.console import Terminal
from foretell.base.errors import SettingError
from foretell.base.runs import RunFolder
from foretell.base.units import count

TAIL_BYTES = 2**16  # of metrics.jsonl: some tens of lines, with the gradients of many layers in them
MOST_BYTES = 2**22  # of any other file
SILENT_SECONDS = 120.0  # a run that wrote nothing for so long, and for three times its own pace, has stopped
TITLES = ["run", "state", "loss", "held-out", "bits/byte", "step", "tokens", "tok/s", "size", "changed"]


def list_runs(folder: Path, terminal: Terminal) -> dict[str, Any]:
    """All runs at or below a folder, the latest first. Raises SettingError when there is no such folder."""
    if not folder.is_dir():
        cure = "begin a run (`foretell quickstart`), or name the folder that holds your runs"
        raise SettingError("there is no such folder", where=str(folder), cure=cure)
    runs = sorted((summary(path, folder) for path in run_folders(folder)), key=lambda run: run["changed_at"], reverse=True)
    rows = [TITLES, *map(_row, runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:  # not a folded table: a run stays on a line, whoever reads it
        figures = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        terminal.say("  ".join([name.ljust(widths[0]), *figures]), result=True)
    for run in runs:
        if run["problem"]:
            terminal.warn(f"{run['name']}: {run['problem']}")
    return {"runs": runs}


def run_folders(folder: Path) -> Iterator[Path]:
    """What holds a recipe or metrics, at any depth; and what lies directly in `folder` and holds no run, which is worth knowing."""
    strangers = {path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    for place, below, files in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        if {"recipe.toml", "metrics.jsonl"} & set(files):
            below.clear()
            path = Path(place)
            strangers -= strangers if path == folder else {path, *path.parents}
            yield path
    yield from strangers


def summary(path: Path, folder: Path) -> dict[str, Any]:
    """One run; None for what it does not say. problem: what is wrong with its files, if anything."""
    run, problems = RunFolder(path), list[str]()
    recipe, evaluation = _read(run.recipe, tomllib.loads, problems), _read(run.evaluation, json.loads, problems)
    checkpoint = max(run.checkpoints.glob("step-*/training_state.json"), default=run.checkpoints)
    saved, records = _read(checkpoint, json.loads, problems), _last_records(run.metrics, problems)
    losses = [_number(saved, "progress", "best_held_out_loss"), *(_number(record, "held_out_loss") for record in records)]
    bits = [_number(record, "held_out_bits_per_byte") for record in records]
    bits.append(_number(evaluation, "metrics", "held_out_bits_per_byte", "value"))
    last, steps = records[-1] if records else {}, _number(recipe, "training", "steps")
    changed = max((file.stat().st_mtime for file in (run.recipe, run.metrics) if file.exists()), default=path.stat().st_mtime)
    problems += [f"there is no {file.name}" for file in (run.recipe, run.metrics) if not file.exists() and not _begins(run)]
    return {
        "name": str(path.relative_to(folder)) if path != folder else path.resolve().name,
        "path": str(path),
        "state": "unknown" if problems else _state(run, records, steps, changed),
        **{name: _number(last, name) for name in ("step", "loss", "tokens", "tokens_per_second")},
        "steps": steps,
        "best_held_out_loss": min((loss for loss in losses if loss is not None), default=None),
        "bits_per_byte": next((value for value in reversed(bits) if value is not None), None),
        "parameters": _parameters(recipe),
        "changed_at": datetime.fromtimestamp(changed).astimezone().isoformat(timespec="seconds"),
        "problem": "; ".join(problems) or None,
    }


def _begins(run: RunFolder) -> bool:
    """A recipe alone: its first line of metrics is still to come."""
    return run.recipe.exists() and not run.model.exists() and not run.checkpoints.exists()


def _state(run: RunFolder, records: list[dict[str, Any]], steps: float | None, changed_at: float) -> str:
    """finished: a scored model, and nothing learned since. Told by files alone: the run may be another machine's."""
    scored = bool(records) and run.model.exists() and run.evaluation.exists()
    if scored and (_number(records[-1], "step") == steps or run.evaluation.stat().st_mtime >= run.metrics.stat().st_mtime):
        return "finished"
    times = [_number(record, "elapsed_seconds") or 0.0 for record in records[-2:]] or [0.0]
    return "running" if time.time() - changed_at < max(SILENT_SECONDS, 3 * (times[-1] - times[0])) else "stopped"


def _read(path: Path, parse: Callable[[str], Any], problems: list[str]) -> Any:
    """A small file, parsed; {} when it is absent, or cannot be read, which is a problem."""
    try:
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large")
        return parse(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return {}


def _last_records(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The whole lines at the end of a growing JSONL file."""
    try:
        with path.open("rb") as stream:
            start = max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES)
            stream.seek(start)
            lines = stream.read(TAIL_BYTES).split(b"\n")[1 if start else 0 : -1]
        return [json.loads(line) for line in lines]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return []


def _number(values: Any, *keys: str) -> float | None:
    """A number deep in somebody's tables; None when there is no such number."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, int | float) and not isinstance(values, bool) and abs(values) < 1e300 else None


def _parameters(recipe: Any) -> int | None:
    """Counted from the resolved recipe; None where it does not say enough."""
    from foretell.models.counts import parameter_count
    from foretell.models.settings import ModelSettings, resolve

    try:
        return parameter_count(resolve(ModelSettings.model_validate(recipe["model"]), recipe["tokenizer"]["vocab_size"])[0])
    except Exception:  # whatever an old or foreign recipe holds: the figure is an extra
        return None


def _row(run: dict[str, Any]) -> list[str]:
    losses = ["" if run[name] is None else f"{run[name]:.3f}" for name in ("loss", "best_held_out_loss", "bits_per_byte")]
    steps = "/".join(f"{run[name]:,}" for name in ("step", "steps") if run[name] is not None)
    counts = ["" if run[name] is None else count(run[name]) for name in ("tokens", "tokens_per_second", "parameters")]
    return [run["name"], run["state"], *losses, steps, *counts, run["changed_at"][:16].replace("T", " ")]
