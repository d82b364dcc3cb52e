"""report.html and the model card of a run, made only from the files in its folder."""

from pathlib import Path
from typing import Any

from foretell.base.files import write_text
from foretell.base.records import read_json
from foretell.base.runs import RunFolder, read_lines
from foretell.base.units import count, duration, size
from foretell.evaluation.curves import loss_curve, speed_curve
from foretell.generation.config import GenerationSettings
from foretell.interop.huggingface import load_config
from foretell.models.config import ModelConfig
from foretell.models.counts import cache_bytes_per_token, flops_per_token, parameter_count


def write_report(run: RunFolder, data: dict[str, Any], machine: dict[str, Any]) -> None:
    """One self-contained page: score, curves, samples over time, settings, text, speed."""
    metrics, config = read_lines(run.metrics), load_config(run.model)
    page = _render(
        "run.html.jinja",
        name=run.path.name,
        scores=_scores(run),
        loss_svg=loss_curve(metrics),
        speed_svg=speed_curve(metrics),
        samples=read_lines(run.samples)[::-1],
        recipe=run.recipe.read_text(encoding="utf-8"),
        facts=_facts(config, metrics, machine),
        data=_readable(data),
    )
    write_text(run.report, page)


def write_card(run: RunFolder, data: dict[str, Any], generation: GenerationSettings) -> None:
    """README.md of the model directory: what it is, how well it does, how to use it, what it must not be used for."""
    config = load_config(run.model)
    samples = read_lines(run.samples)
    card = _render(
        "card.md.jinja",
        name=run.path.name,
        config=config,
        parameters=count(parameter_count(config)),
        scores=_scores(run),
        data=_readable(data),
        sample=samples[-1]["text"] if samples else None,
        generation=generation,
        recipe=run.recipe.read_text(encoding="utf-8"),
    )
    write_text(run.model / "README.md", card)


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    templates = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=templates, undefined=StrictUndefined, autoescape=select_autoescape(["html.jinja"]), trim_blocks=True
    )
    return environment.get_template(template).render(**values) + "\n"


def _scores(run: RunFolder) -> list[dict[str, Any]]:
    metrics = read_json(run.evaluation)["metrics"]
    return [{"name": name.removeprefix("held_out_").replace("_", " "), **metric} for name, metric in metrics.items()]


def _facts(config: ModelConfig, metrics: list[dict[str, Any]], machine: dict[str, Any]) -> dict[str, str]:
    last = metrics[-1]
    rates = sorted(record["tokens_per_second"] for record in metrics)
    return {
        "architecture": f"{config.preset}: {config.n_layer} layers, {config.d_model} wide, {config.n_head} heads, {config.n_kv_head} KV heads",
        "parameters": f"{parameter_count(config):,}",
        "context": f"{config.context_length} tokens",
        "vocabulary": f"{config.vocab_size:,} tokens",
        "steps": f"{last['step']:,}",
        "tokens learned from": f"{last['tokens']:,}",
        "training time": duration(last["elapsed_seconds"]),
        "speed": f"{count(rates[len(rates) // 2])} tokens per second (median)",
        "work": f"{flops_per_token(config) * last['tokens'] / 1e12:.3g} TFLOP",
        "KV cache": f"{size(cache_bytes_per_token(config))} per token",
        "peak memory": size(machine["peak_memory_bytes"]),
        "threads": str(machine["threads"]),
    }


def _readable(data: dict[str, Any]) -> dict[str, str]:
    return {key.replace("_", " "): f"{value:,}" if isinstance(value, int) else str(value) for key, value in data.items()}
