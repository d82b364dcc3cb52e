"""The whole road with choices made from the data: raw text to a model, a score, samples, a report, within given minutes."""

import shlex
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from foretell.base.console import Terminal
from foretell.base.errors import DataError, SettingError
from foretell.base.files import remove, require_new
from foretell.base.runs import numbered
from foretell.base.units import count, duration, size
from foretell.compute.device import choose_precision, default_device, peak_bytes, set_threads
from foretell.corpus.sources import standard_library_sources
from foretell.data.shards import ShardReader
from foretell.generation.config import GenerationSettings
from foretell.generation.engine import Engine
from foretell.interop.huggingface import open_model
from foretell.jobs.calibrate import tokens_per_second
from foretell.jobs.corpus import build_corpus
from foretell.jobs.pretrain import pretrain
from foretell.jobs.recipe import Recipe, load_recipe
from foretell.jobs.shards import build_shards
from foretell.jobs.tokenizer import train_tokenizer
from foretell.models.settings import resolve
from foretell.planning.advise import SHAPES, Plan, best_plan, vocabulary_size
from foretell.training.state import StepReport, TrainState

SOURCE_BYTES_PER_MINUTE = 12e6  # raw text that a minute of the road can take in: preparation stays a small part of the time
LEARNED_BYTES_PER_MINUTE = 3e6  # what a laptop gets through: a larger vocabulary would not be learned
LEAST_BYTES = 20_000  # below this not even a small vocabulary is supported
HELD_OUT_BYTES = 400_000  # enough to tell models apart by half a percent
END_SECONDS = 6.0  # samples, report and card


def quickstart(sources: list[str], out: Path | None, minutes: float, terminal: Terminal) -> dict[str, Any]:
    """From raw text to a finished run folder in `minutes`. Raises ForetellError; a road that ends early leaves no folder."""
    end_at_seconds = time.monotonic() + 60 * minutes
    if not 0 < minutes < 1e6:
        raise SettingError(f"--minutes {minutes:g} is no time at all", where="command line", cure="give at least --minutes 0.5")
    run = out or numbered(Path("runs"), "quickstart")
    require_new(run)
    try:
        overrides, facts = _prepare_text(sources, run, minutes, terminal)
        recipe = _plan(overrides, run, end_at_seconds, terminal)
        deadline = keep_to_time(end_at_seconds - END_SECONDS, ShardReader(run / "shards").held_out.tokens)
        results = pretrain(recipe, run, terminal, extra=(deadline,), facts=facts)
    except BaseException:
        if run.exists() and not (run / "recipe.toml").exists():
            remove(run)
        raise
    results |= {"samples": _samples(run, terminal), "peak_memory_bytes": peak_bytes()}
    results["elapsed_seconds"] = time.monotonic() - end_at_seconds + 60 * minutes
    terminal.say(f"the road took {duration(results['elapsed_seconds'])} and at most {size(peak_bytes())} of memory")
    _say_next(run, terminal)
    return results


def keep_to_time(end_at_seconds: float, held_out_tokens: int) -> Callable[[TrainState, StepReport], None]:
    """An observer that moves the run's last step with the speed that the machine really gives, scoring at the end included."""
    then_seconds, then_step, mean_seconds = time.monotonic(), 0, 0.0

    def observe(state: TrainState, report: StepReport) -> None:
        nonlocal then_seconds, then_step, mean_seconds
        progress, now, step = state.progress, time.monotonic(), report.step
        if step % 10:
            return
        if step <= then_step:  # the run went back
            then_seconds, then_step = now, step
            return
        recent_seconds = (now - then_seconds) / (step - then_step)
        mean_seconds = 0.8 * mean_seconds + 0.2 * recent_seconds if mean_seconds else recent_seconds
        then_seconds, then_step = now, step
        scoring_seconds = 0.6 * mean_seconds * held_out_tokens / report.step_tokens  # forward only, but in fp32
        steps = step + max(1, int((end_at_seconds - scoring_seconds - now) / mean_seconds))
        if 0.05 < step / progress.steps < 0.95 and abs(steps - progress.steps) > 0.02 * progress.steps:
            progress.steps = steps

    return observe


def _prepare_text(sources: list[str], run: Path, minutes: float, terminal: Terminal) -> tuple[list[str], dict[str, Any]]:
    named = ", ".join(sources) or "the text of this Python's standard library"
    terminal.say(f"1 · text: {named}", style="bold")
    recipe, limit = load_recipe("quickstart"), int(SOURCE_BYTES_PER_MINUTE * minutes)
    manifest = build_corpus(sources or standard_library_sources(), run / "corpus", recipe.corpus, terminal, sample_bytes=limit)
    text_bytes = manifest["totals"]["bytes"]
    if text_bytes < LEAST_BYTES:
        what = f"there is too little text to learn from: {size(text_bytes)}, where {size(LEAST_BYTES)} are the least"
        raise DataError(what, where=named, cure="give more text; a model of some use needs a megabyte")
    vocab_size, held_out = (
        vocabulary_size(min(text_bytes, int(LEARNED_BYTES_PER_MINUTE * minutes))),
        min(0.05, max(0.005, HELD_OUT_BYTES / text_bytes)),
    )
    terminal.say(f"2 · tokens: a vocabulary of {vocab_size} ← {size(text_bytes)} of text", style="bold")
    train_tokenizer(run / "corpus", run / "tokenizer", recipe.tokenizer.replace(vocab_size=vocab_size), terminal)
    build_shards(run / "corpus", run / "tokenizer", run / "shards", recipe.data.replace(held_out=held_out), terminal)
    facts = {"documents": manifest["totals"]["documents"], "sources": named}
    return [f"tokenizer.vocab_size={vocab_size}", f"data.held_out={held_out}", f"data.shards={run / 'shards'}"], facts


def _plan(overrides: list[str], run: Path, end_at_seconds: float, terminal: Terminal) -> Recipe:
    """Choose the model that is expected to do best in the time that is left, by a few real steps of each candidate."""
    terminal.say("3 · plan", style="bold")
    shards, device, recipe = ShardReader(run / "shards"), default_device(), load_recipe("quickstart", overrides)
    tokens, threads = shards.train.tokens, set_threads(None)
    precision, reason = choose_precision("auto", device, d_model=256)
    terminal.say(f"precision {precision} ← {reason}; {threads} threads on {device}")
    context = min(recipe.model.context_length or 256, max(16, tokens // 64))
    micro_batch = recipe.training.micro_batch
    speed = partial(tokens_per_second, micro_batch=micro_batch, precision=precision, device=device)
    shapes = (recipe.model.replace(n_layer=layers, d_model=width, context_length=context) for layers, width in SHAPES)
    configs = (resolve(model, shards.manifest.vocab_size)[0] for model in shapes)
    seconds = max(5.0, end_at_seconds - time.monotonic() - END_SECONDS - 10)
    plan, plans = best_plan(configs, speed, seconds=seconds, batch_tokens=micro_batch * context, tokens_of_text=tokens)
    rows = [["→" if candidate is plan else "", *_row(candidate)] for candidate in plans]
    terminal.table(["", "layers × width", "tokens/s", "steps in time", "times through the text", "rank score"], rows)
    sizes = {"n_layer": plan.config.n_layer, "d_model": plan.config.d_model, "context_length": context}
    chosen = [f"model.{name}={value}" for name, value in sizes.items()] + [f"training.precision={precision}"]
    chosen += [f"training.steps={plan.steps}", f"model.dropout={0.1 if plan.epochs > 4 else 0.0}"]
    chosen += [f"schedule.warmup_steps={min(50, 1 + plan.steps // 20)}", f"training.log_every={1 + plan.steps // 200}"]
    often = {"evaluate": 12, "sample": 6, "checkpoint": 4}
    chosen += [f"training.{name}_every={max(10, plan.steps // times)}" for name, times in often.items()]
    return load_recipe("quickstart", overrides + chosen)


def _row(plan: Plan) -> list[str]:
    shape = f"{plan.config.n_layer} × {plan.config.d_model}"
    return [shape, count(plan.tokens_per_second), f"{plan.steps:,}", f"{plan.epochs:.2g}", f"{plan.expected_loss:.2f}"]


def _samples(run: Path, terminal: Terminal) -> list[str]:
    """Three continuations of beginnings that the model has not seen."""
    terminal.say("what it writes", style="bold")
    engine, split, texts = Engine(*open_model(run / "model")), ShardReader(run / "shards").held_out, []
    for number, place in enumerate((0, split.tokens // 3, 2 * split.tokens // 3)):
        prompt = engine.tokenizer.decode(split.read(place, min(12, split.tokens - place)).tolist()).lstrip()
        completion = engine.complete(prompt, GenerationSettings(max_tokens=60, seed=number))
        terminal.say(f"  {prompt} ▸ {completion.text}\n")
        texts.append(prompt + completion.text)
    return texts


def _say_next(run: Path, terminal: Terminal) -> None:
    program = "foretell" if shutil.which("foretell") else f"{shlex.quote(sys.executable)} -m foretell"
    model, recipe = shlex.quote(str(run / "model")), shlex.quote(str(run / "recipe.toml"))
    terminal.say(f"model:  {run / 'model'}\nreport: {run / 'report.html'}\ntry next:", style="bold")
    terminal.say(f'  {program} generate {model} --prompt "The" --explain --max-tokens 8\n  {program} evaluate {model} --text FILE')
    terminal.say(f"  {program} pretrain {recipe} training.steps=10000 --out {shlex.quote(f'{run}-longer')}")
