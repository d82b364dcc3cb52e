"""report.html and the model card of a run, made only from the files in its folder."""

import re
from typing import Any

from foretell.base.files import write_text
from foretell.base.records import read_json
from foretell.base.runs import RunFolder, read_lines
from foretell.base.units import count, duration, size
from foretell.evaluation.page import render, svg
from foretell.interop.huggingface import load_config
from foretell.models.config import ModelConfig, described
from foretell.models.counts import parameter_count

STYLES = (("#3b6ea8", ""), ("#c2571a", "."))  # colour and marker; told apart by colour-blind readers too


def write_report(run: RunFolder, data: dict[str, Any], machine: dict[str, Any], card: str = "") -> None:
    """The run's page (scores, curves, samples, settings, text, speed), readable without network, and its model's card.

    card: what the corpus says of itself, in Markdown.
    """
    kind = read_json(run.model / "config.json")["model_type"]
    metrics, scores = read_lines(run.metrics), read_json(run.evaluation)["metrics"]
    values = {
        "fenced": fenced,
        "name": run.path.name,
        "kind": kind,
        "scores": [{"name": name.removeprefix("held_out_").replace("_", " "), **score} for name, score in scores.items()],
        "samples": read_lines(run.samples)[::-1],
        "recipe": re.sub(r"(?m)^(shards|start_from) = .*\n", "", run.recipe.read_text(encoding="utf-8")),  # nobody's private paths
        "facts": _facts(load_config(run.model), metrics, machine),
        "data": {key.replace("_", " "): f"{value:,}" if isinstance(value, int) else value for key, value in data.items()},
        "corpus": card,
        "loss_svg": _curves(metrics, {"loss": "training", "held_out_loss": "held-out"}, shared="loss (nats per token)"),
        "speed_svg": _curves(metrics, {"tokens_per_second": "tokens per second", "learning_rate": "learning rate"}),
    }
    write_text(run.model / "README.md", render("card.md.jinja", values))
    write_text(run.report, render("run.html.jinja", values))


def fenced(text: str, language: str) -> str:
    """A block of Markdown that shows text as it is, whatever it holds: its fence is longer than any run of backticks in it."""
    fence = "`" * (1 + max([2, *map(len, re.findall("`+", text))]))
    return f"{fence}{language}\n{text.removesuffix(chr(10))}\n{fence}"


def _facts(config: ModelConfig, metrics: list[dict[str, Any]], machine: dict[str, Any]) -> dict[str, str]:
    last, rates = metrics[-1], sorted(record["tokens_per_second"] for record in metrics)
    return {
        "architecture": described(config),
        "parameters": f"{parameter_count(config):,}",
        "context and vocabulary": f"{config.context_length} and {config.vocab_size:,} tokens",
        "learned from": f"{last['tokens']:,} tokens in {last['step']:,} steps",
        "training time": duration(last["elapsed_seconds"]),
        "speed": f"{count(rates[len(rates) // 2])} tokens per second (median)",
        "peak memory": size(machine["peak_memory_bytes"]),
        "threads": str(machine["threads"]),
    }


def _curves(metrics: list[dict[str, Any]], labels: dict[str, str], shared: str | None = None) -> str:
    """Two columns of the metrics over tokens, as SVG: on one axis with a legend when they share a unit, else on one each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    left = figure.add_subplot(xlabel="tokens learned from")
    left.grid(alpha=0.25)
    for axes, (key, label), (colour, marker) in zip((left, left if shared else left.twinx()), labels.items(), STYLES, strict=True):
        records = [record for record in metrics if key in record]
        tokens, values = [record["tokens"] for record in records], [record[key] for record in records]
        axes.plot(tokens, values, color=colour, marker=marker, linewidth=1, label=label)
        axes.set_ylabel(shared or label, color="black" if shared else colour)
        axes.spines[["top", "right"]].set_visible(False)
    if shared:
        left.legend(frameon=False)
    else:
        left.set_ylim(bottom=0)
    return svg(figure)
