"""The job of comparing runs or evaluations: a table for the terminal, a page with curves, JSON for programs. Torch-free."""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foretell.base.console import Terminal
from foretell.base.errors import SettingError
from foretell.base.files import require_new, write_text
from foretell.base.units import duration
from foretell.evaluation.compare import differing_settings, page, race, read_side, told_apart, verdicts

FORMATS = {"step": ",", "tokens": ",", "tokens_per_second": ",.0f", "loss": ".4f", "best_held_out_loss": ".4f"}


def compare(paths: Sequence[Path], out: Path, terminal: Terminal) -> dict[str, Any]:
    """Put `paths` side by side, say what differs, and write the page. Raises ForetellError; overwrites nothing."""
    letters = string.ascii_uppercase[: len(paths)]
    if not 2 <= len(paths) == len(letters):
        cure = f"give two run folders or more, {len(string.ascii_uppercase)} at most"
        raise SettingError(f"{len(paths)} cannot be compared", where="command line", cure=cure)
    require_new(out)
    sides = [read_side(path) for path in paths]
    names = told_apart([str((path.parent if path.is_file() else path).resolve()) for path in paths])
    runs = [
        {"letter": letter, "name": name, "path": str(path), **side.figures(), "metrics": _without_items(side.metrics)}
        for letter, name, path, side in zip(letters, names, paths, sides, strict=True)
    ]
    settings, raced, tests = differing_settings(sides), race(sides), verdicts(sides)
    shown: dict[str, Any] = {"letters": letters, "heads": [f"{run['letter']} {run['name']}" for run in runs]}
    shown |= {"rows": _rows(runs, raced), "told": [_told(test, letters) for test in tests]}
    shown["settings"] = {key: ["–" if value is None else str(value) for value in values] for key, values in settings.items()}
    terminal.table(["", *shown["heads"]], [[name, *cells] for name, cells in shown["rows"].items()], result=True)
    terminal.table(["settings that differ", *letters], [[key, *cells] for key, cells in shown["settings"].items()], result=True)
    for sentence in shown["told"]:
        terminal.say(sentence, result=True)
    write_text(out, page(shown, sides))
    terminal.say(f"page: {out}")
    return {"runs": runs, "settings": settings, "reached": raced, "tests": tests, "page": str(out)}


def _without_items(metrics: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {key: value for key, value in metric.items() if key != "items"} for name, metric in metrics.items()}


def _rows(runs: list[dict[str, Any]], raced: dict[str, Any] | None) -> dict[str, list[str]]:
    """What the table shows: name → one cell a side; rows that say nothing are left out."""
    metrics = dict.fromkeys(name for run in runs for name in run["metrics"])
    rows = {_words(name): [_interval(run["metrics"].get(name)) for run in runs] for name in metrics}
    rows["measured in"] = [next((str(m.get("protocol", "–")) for m in run["metrics"].values()), "–") for run in runs]
    for name, style in FORMATS.items():
        rows[_words(name)] = ["–" if run[name] is None else format(run[name], style) for run in runs]
    rows["time"] = ["–" if run["elapsed_seconds"] is None else duration(run["elapsed_seconds"]) for run in runs]
    if raced:
        cells = [f"step {at['step']:,}, {duration(at['elapsed_seconds'])}" for at in raced["at"]]
        rows[f"first at {_words(raced['measure'])} {raced['target']:.4f}"] = cells
    return {name: cells for name, cells in rows.items() if set(cells) != {"–"}}


def _interval(metric: dict[str, Any] | None) -> str:
    if metric is None:
        return "–"
    bounds = [f"{metric[bound]:.4f}" for bound in ("low", "high") if metric.get(bound) is not None]
    return f"{metric['value']:.4f}" + (f" ({' to '.join(bounds)})" if bounds else "")


def _told(test: dict[str, Any], letters: str) -> str:
    """A test as a sentence."""
    told = f"{_words(test['metric'])}, {letters[test['side']]} against {letters[0]}: {test['difference']:+.4f}"
    if test["p"] is None:
        return f"{told} ({test['method']})"
    chance = f"p = {test['p']:.3f}" if test["p"] >= 0.001 else "p < 0.001"
    return f"{told} ({test['low']:+.4f} to {test['high']:+.4f}, {chance}): {test['verdict']} ({test['method']})"


def _words(name: str) -> str:
    return name.replace("_", " ")
