"""Runs and evaluations side by side: settings that differ, figures, who got there first, what the gaps are worth. Torch-free."""

import json
import math
import os
import statistics
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretell.base.errors import DataError, SettingError
from foretell.base.runs import RunFolder
from foretell.base.units import size
from foretell.evaluation.intervals import difference, matched
from foretell.evaluation.page import render, svg

MEASURES = ("held_out_bits_per_byte", "held_out_loss", "loss")  # by which runs are raced: the first that all of them have
CURVES = {"loss": "training loss (nats per token)", "held_out_loss": "held-out loss (nats per token)"}
AXES = {"step": "steps", "tokens": "tokens", "elapsed_seconds": "seconds"}
MOST_POINTS = 1000  # of a curve
MOST_BYTES = 2**28  # of a file: metrics of a million lines or so
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe & Ito 2008: for all eyes
STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Side:
    """What one folder says. settings: section.key → value; metrics: of evaluation.json. All may be empty."""

    settings: dict[str, Any]
    records: list[dict[str, float]]
    metrics: dict[str, dict[str, Any]]

    def figures(self) -> dict[str, float | None]:
        """What the metrics add up to; None where they do not say."""
        last, rates = self.records[-1] if self.records else {}, column(self.records, "tokens_per_second")
        return {name: last.get(name) for name in ("step", "tokens", "elapsed_seconds", "loss")} | {
            "best_held_out_loss": min(column(self.records, "held_out_loss"), default=None),
            "tokens_per_second": statistics.median(rates) if rates else None,
        }


def read_side(path: Path) -> Side:
    """A run folder, a folder with evaluation.json, or that file. Raises SettingError, DataError."""
    if path.is_file():
        return Side({}, [], _metrics(path))
    run = RunFolder(path)
    if not any(file.exists() for file in (run.recipe, run.metrics, run.evaluation)):
        cure = "give a run folder, or what `foretell evaluate --out` wrote"
        raise SettingError("there is neither a run nor an evaluation here", where=str(path), cure=cure)
    settings, records = _settings(run.recipe) if run.recipe.exists() else {}, _records(run.metrics) if run.metrics.exists() else []
    return Side(settings, records, _metrics(run.evaluation) if run.evaluation.exists() else {})


def differing_settings(sides: Sequence[Side]) -> dict[str, list[Any]]:
    """section.key → its value on each side (None: not set), where runs differ. Evaluations have no say."""
    told = [side.settings for side in sides if side.settings]
    keys = dict.fromkeys(key for settings in told for key in settings)
    differing = [key for key in keys if any(settings.get(key) != told[0].get(key) for settings in told)]
    return {key: told_apart([side.settings.get(key) for side in sides]) for key in differing}


def race(sides: Sequence[Side]) -> dict[str, Any] | None:
    """When each side first was as good as the worst one ended. None where there is nothing that all of them measured."""
    measure = next((name for name in MEASURES if all(column(side.records, name) for side in sides)), None)
    if measure is None:
        return None
    target = max(column(side.records, measure)[-1] for side in sides)
    firsts = [next(record for record in side.records if record.get(measure, math.inf) <= target) for side in sides]
    return {"measure": measure, "target": target, "at": [{name: first[name] for name in AXES} for first in firsts]}


def verdicts(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """Every side against the first, in each metric that both have and that is not the loss once more."""
    first, *others = (side.metrics for side in sides)
    return [
        {"metric": name, "side": number, **difference(first[name], metrics[name])}
        for number, metrics in enumerate(others, start=1)
        for name in first
        if name in metrics and not _loss_once_more(name, first, metrics)
    ]


def _loss_once_more(name: str, first: dict[str, dict[str, Any]], second: dict[str, dict[str, Any]]) -> bool:
    """Perplexity, and bits per byte of the very same tokens, whose losses are paired."""
    loss = name.removesuffix("bits_per_byte") + "loss"
    paired = loss in first and loss in second and matched(first[loss], second[loss])
    return name.endswith("perplexity") or (name.endswith("bits_per_byte") and paired)


def page(values: dict[str, Any], sides: Sequence[Side]) -> str:
    """The comparison as HTML without anything from elsewhere. values: what the template shows, made by jobs/compare.py."""
    curves = [_curves(sides, name, values["letters"]) for name in CURVES if any(column(side.records, name) for side in sides)]
    return render("compare.html.jinja", values | {"curves": curves})


def told_apart(values: list[Any]) -> list[Any]:
    """Of absolute paths only where they part, which is short, and tells nobody's folders when a page is passed on."""
    paths = [value for value in values if isinstance(value, str) and Path(value).is_absolute()]
    common = os.path.commonpath([Path(path).parent for path in paths]) if paths else ""
    return [os.path.relpath(value, common) if value in paths else value for value in values]


def column(records: Sequence[dict[str, float]], name: str) -> list[float]:
    """The values of one figure, from the lines that have it."""
    return [record[name] for record in records if name in record]


def _curves(sides: Sequence[Side], name: str, letters: Sequence[str]) -> str:
    """One figure of all sides over steps, tokens and seconds, as SVG. Sides go by letter: their names are anybody's text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = figure.subplots(1, len(AXES), sharey=True)
    for axes, (key, label) in zip(panels, AXES.items(), strict=True):
        axes.set_xlabel(label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        for number, side in enumerate(sides):
            records = [record for record in side.records if name in record]
            thinned = records[:: 1 + len(records) // MOST_POINTS] + records[-1:]
            style = {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number % len(STYLES)], "linewidth": 1.2}
            axes.plot(column(thinned, key), column(thinned, name), label=letters[number], **style)
    panels[0].set_ylabel(CURVES[name])
    panels[-1].legend(frameon=False)
    return svg(figure)


def _settings(path: Path) -> dict[str, Any]:
    try:
        sections = tomllib.loads(_bytes(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"this is not TOML: {error}", where=str(path), cure="mend the file, or leave this run out") from error
    tables = {name: values if isinstance(values, dict) else {"": values} for name, values in sections.items()}
    return {f"{section}.{key}".rstrip("."): value for section, values in tables.items() for key, value in values.items()}


def _records(path: Path) -> list[dict[str, float]]:
    """The numbers of the whole lines of metrics.jsonl. Raises DataError."""
    found = list[dict[str, float]]()
    for number, line in enumerate(_bytes(path).split(b"\n")[:-1], start=1):
        try:
            found.append({name: value for name, value in json.loads(line).items() if _is_number(value)})
            if missing := [name for name in AXES if name not in found[-1]]:
                raise ValueError(f"it says nothing of {', '.join(missing)}")
        except (ValueError, AttributeError, RecursionError) as error:
            cure = "remove the line, or leave this run out"
            raise DataError(f"this line is no record of a step: {error}", where=f"{path}:{number}", cure=cure) from error
    return found


def _metrics(path: Path) -> dict[str, dict[str, Any]]:
    """The metrics of an evaluation.json. Raises DataError."""
    try:
        metrics: dict[str, dict[str, Any]] = json.loads(_bytes(path))["metrics"]
        for name, metric in metrics.items():
            bounds = [metric[bound] for bound in ("low", "high") if metric.get(bound) is not None]
            if not all(map(_is_number, [metric["value"], *bounds, *(metric.get("items") or ())])):
                raise ValueError(f"{name} is no number")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        cure = "make one with `foretell evaluate --out DIR`"
        raise DataError(f"this is no evaluation ({type(error).__name__}: {error})", where=str(path), cure=cure) from error
    return metrics


def _bytes(path: Path) -> bytes:
    """A file of a run or an evaluation. Raises DataError when it cannot be read, or is too large to be one."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"cannot read the file: {error}", where=str(path), cure="check the path, and that it is readable"
        ) from error
    if len(content) > MOST_BYTES:
        raise DataError(f"this file has more than {size(MOST_BYTES)}", where=str(path), cure="leave this run out")
    return content


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300  # neither NaN nor endless
