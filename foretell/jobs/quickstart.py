"""The whole road with choices made from the data: raw text to a model, a score, samples, a report, within given minutes."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretell.base.console import Terminal
from foretell.base.errors import SettingError
from foretell.base.files import remove, require_new
from foretell.base.runs import numbered
from foretell.base.units import count, duration, size
from foretell.compute.device import Precision, choose_precision, default_device, peak_bytes, set_threads
from foretell.corpus.config import CorpusSettings
from foretell.corpus.sources import standard_library_sources
from foretell.data.config import DataSettings
from foretell.data.shards import ShardReader
from foretell.evaluation.config import EvaluationSettings
from foretell.generation.config import GenerationSettings
from foretell.generation.engine import Engine
from foretell.interop.huggingface import load_model
from foretell.jobs.calibrate import tokens_per_second
from foretell.jobs.corpus import build_corpus
from foretell.jobs.pretrain import pretrain
from foretell.jobs.recipe import Recipe
from foretell.jobs.shards import build_shards
from foretell.jobs.tokenizer import train_tokenizer
from foretell.models.config import ModelSettings, resolve
from foretell.planning.advise import SHAPES, Plan, best_plan, vocabulary_size
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.tokenizer import Tokenizer
from foretell.training.config import OptimizerSettings, ScheduleSettings, TrainingSettings
from foretell.training.state import StepReport, TrainState

SOURCE_BYTES_PER_MINUTE = 8e6  # raw text that a minute of the road can take in: preparation stays a small part of the time
HELD_OUT_BYTES = 400_000  # enough to tell models apart by half a percent
CONTEXT, WINDOWS = 256, 8
END_SECONDS = 6.0  # samples, report and card


@dataclass(frozen=True)
class Deadline:
    """An observer that keeps the run to its time: the end moves with the speed that the machine really gives."""

    at_seconds: float  # on time.monotonic's clock
    terminal: Terminal
    started_at_seconds: float
    first_step: int = 0

    def __call__(self, state: TrainState, report: StepReport) -> None:
        progress, now = state.progress, time.monotonic()
        done = report.step / progress.steps
        if report.step % 10 or not 0.05 < done < 0.95:
            return
        seconds_per_step = (now - self.started_at_seconds) / (report.step - self.first_step)
        steps = report.step + max(1, int((self.at_seconds - now) / seconds_per_step))
        if abs(steps - progress.steps) > 0.02 * progress.steps:
            progress.steps = steps


def quickstart(sources: list[str], out: Path | None, minutes: float, terminal: Terminal) -> dict[str, Any]:
    """From raw text to a finished run folder in `minutes`. Raises ForetellError; a road that ends early leaves no folder."""
    started_at_seconds = time.monotonic()
    if minutes <= 0:
        raise SettingError(f"--minutes {minutes:g} is no time at all", where="command line", cure="give at least --minutes 0.5")
    run = out or numbered(Path("runs"), "quickstart")
    require_new(run)
    try:
        recipe, facts = _prepare_text(sources, run, minutes, terminal)
        plan, recipe = _plan(recipe, run, started_at_seconds + 60 * minutes, terminal)
        end_seconds = END_SECONDS + _scoring_seconds(run, plan)
        deadline = Deadline(started_at_seconds + 60 * minutes - end_seconds, terminal, time.monotonic())
        results = pretrain(recipe, run, terminal, extra=(deadline,), facts=facts)
    except BaseException:
        if not (run / "recipe.toml").exists():
            remove(run)
        raise
    results["samples"] = _samples(run, terminal)
    elapsed_seconds = time.monotonic() - started_at_seconds
    terminal.say(f"the road took {duration(elapsed_seconds)} and at most {size(peak_bytes())} of memory")
    _say_next(run, terminal)
    return results | {"elapsed_seconds": elapsed_seconds, "peak_memory_bytes": peak_bytes()}


def _prepare_text(sources: list[str], run: Path, minutes: float, terminal: Terminal) -> tuple[Recipe, dict[str, Any]]:
    terminal.say("1 · text", style="bold")
    if not sources:
        terminal.say("no SOURCE given: the text of this Python's standard library")
    limit = int(SOURCE_BYTES_PER_MINUTE * minutes)
    manifest = build_corpus(sources or standard_library_sources(), run / "corpus", CorpusSettings(), terminal, sample_bytes=limit)
    text_bytes = manifest["totals"]["bytes"]
    terminal.say("2 · tokens", style="bold")
    tokenizer = TokenizerSettings(vocab_size=vocabulary_size(text_bytes))
    terminal.say(f"vocabulary of {tokenizer.vocab_size} tokens ← {size(text_bytes)} of text")
    train_tokenizer(run / "corpus", run / "tokenizer", tokenizer, terminal)
    data = DataSettings(shards=run / "shards", held_out=min(0.05, max(0.005, HELD_OUT_BYTES / text_bytes)))
    build_shards(run / "corpus", run / "tokenizer", run / "shards", data, terminal)
    facts = {"documents": manifest["totals"]["documents"], "sources": ", ".join(sources) or "the Python standard library"}
    return Recipe(tokenizer=tokenizer, data=data), facts


def _plan(recipe: Recipe, run: Path, end_at_seconds: float, terminal: Terminal) -> tuple[Plan, Recipe]:
    """Choose the model that is expected to do best in the time that is left, by a few real steps of each candidate."""
    terminal.say("3 · plan", style="bold")
    shards, device = ShardReader(run / "shards"), default_device()
    threads = set_threads(None)
    precision, reason = choose_precision("auto", device, CONTEXT)
    terminal.say(f"precision {precision} ← {reason}; {threads} threads on {device}")
    context = min(CONTEXT, max(16, shards.train.tokens // 64))
    configs = [
        resolve(ModelSettings(n_layer=layers, d_model=width, context_length=context), shards.manifest.vocab_size)[0] for layers, width in SHAPES
    ]
    seconds = end_at_seconds - time.monotonic() - END_SECONDS - 10

    def speed(config: Any) -> float:
        return tokens_per_second(config, micro_batch=WINDOWS, precision=precision, device=device)

    batch_tokens = WINDOWS * context
    plan, plans = best_plan(configs, speed, seconds=max(seconds, 5.0), batch_tokens=batch_tokens, tokens_of_text=shards.train.tokens)
    _say_plan(plan, plans, shards.train.tokens, batch_tokens, terminal)
    return plan, _recipe(recipe, plan, precision, context, shards.train.tokens)


def _say_plan(plan: Plan, plans: list[Plan], text_tokens: int, batch_tokens: int, terminal: Terminal) -> None:
    rows = [
        [
            "→" if candidate is plan else "",
            f"{candidate.config.n_layer} × {candidate.config.d_model}",
            count(candidate.tokens_per_second),
            f"{candidate.steps:,}",
            f"{candidate.steps * batch_tokens / text_tokens:.2g}",
            f"{candidate.expected_loss:.2f}",
        ]
        for candidate in plans
    ]
    terminal.table(["", "layers × width", "tokens/s", "steps in time", "times through the text", "rank by expected loss"], rows)


def _recipe(recipe: Recipe, plan: Plan, precision: Precision, context: int, text_tokens: int) -> Recipe:
    config, steps = plan.config, plan.steps
    repeats = steps * WINDOWS * context / text_tokens
    model = ModelSettings(n_layer=config.n_layer, d_model=config.d_model, context_length=context, dropout=0.1 if repeats > 4 else 0.0)
    return recipe.model_copy(
        update={
            "model": model,
            "optimizer": OptimizerSettings(learning_rate=4e-3),
            "schedule": ScheduleSettings(warmup_steps=min(100, max(1, steps // 20)), decay="wsd", decay_share=0.5),
            "training": TrainingSettings(
                steps=steps,
                micro_batch=WINDOWS,
                precision=precision,
                evaluate_every=max(10, steps // 12),
                checkpoint_every=max(10, steps // 4),
                sample_every=max(10, steps // 6),
                log_every=max(1, steps // 200),
            ),
            "evaluation": EvaluationSettings(windows=32),
            "generation": GenerationSettings(),
        }
    )


def _scoring_seconds(run: Path, plan: Plan) -> float:
    """Forward only, but in fp32: about half the cost of a training step's token."""
    return 0.6 * ShardReader(run / "shards").held_out.tokens / plan.tokens_per_second


def _samples(run: Path, terminal: Terminal) -> list[str]:
    """Three continuations of beginnings that the model has not seen."""
    terminal.say("what it writes", style="bold")
    engine = Engine(load_model(run / "model").to(default_device()), Tokenizer.load(run / "model"))
    split = ShardReader(run / "shards").held_out
    texts = []
    for number, place in enumerate((0, split.tokens // 3, 2 * split.tokens // 3)):
        prompt = engine.tokenizer.decode(split.read(place, min(12, split.tokens - place)).tolist()).lstrip()
        completion = engine.complete(prompt, GenerationSettings(max_tokens=60, seed=number))
        terminal.write(f"  {prompt}", style="bold")
        terminal.say(f"{completion.text}\n")
        texts.append(prompt + completion.text)
    return texts


def _say_next(run: Path, terminal: Terminal) -> None:
    terminal.say(f"model:  {run / 'model'}\nreport: {run / 'report.html'}\ntry next:", style="bold")
    terminal.say(f'  foretell generate {run / "model"} --prompt "The" --explain --max-tokens 8')
    terminal.say(f"  foretell evaluate {run / 'model'} --text FILE")
    terminal.say(f"  foretell pretrain {run / 'recipe.toml'} training.steps=5000 --out runs/longer")
