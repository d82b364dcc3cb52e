"""The job of pretraining: shards and a recipe in, a run folder with a finished model out. Also continues a run exactly."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from foretell.base.console import Terminal
from foretell.base.errors import Interrupted, SettingError
from foretell.base.files import write_text
from foretell.base.records import dump
from foretell.base.runs import append_record, keep_until, numbered
from foretell.compute.device import measured_peak
from foretell.data.batches import TrainBatches, held_out_windows
from foretell.evaluation.perplexity import score_batches
from foretell.generation.engine import Engine
from foretell.jobs.finish import finish_run
from foretell.jobs.prepare import Prepared, Resume, prepare
from foretell.jobs.recipe import Recipe
from foretell.models.counts import flops_per_token
from foretell.models.gpt import GPT
from foretell.training.checkpoint import save_checkpoint
from foretell.training.display import Display
from foretell.training.loop import Observer, graceful_stop, train
from foretell.training.observers import Evaluate, Now, TensorBoard, WriteMetrics
from foretell.training.state import StepReport, TrainState
from foretell.training.step import NonFiniteLoss, train_step

SAMPLE_TOKENS = 32
Facts = dict[str, Any] | None


def pretrain(
    recipe: Recipe, out: Path | None, terminal: Terminal, resume: Resume = None, extra: Sequence[Observer] = (), facts: Facts = None
) -> dict[str, Any]:
    """Train a model; return where it lies and how it scores. Raises ForetellError; Interrupted after a checkpoint.

    resume: continue the run in `out` with its own recipe and these key=value changes; absent: begin. extra: observers of
    the caller. facts: what the caller knows of the text, for card and report.
    """
    if resume is not None and out is None:
        raise SettingError("which run is to be continued?", where="command line", cure="add --out RUN")
    folder = out or numbered(Path("runs"), "pretrain")
    prepared = prepare(recipe, folder, terminal, resume)
    run, state = prepared.run, prepared.state
    if state.finished:
        terminal.say(f"this run is complete: {state.progress.step} of {state.progress.steps} steps")
    else:
        if not run.facts.exists():
            write_text(run.facts, dump(facts or {}))
        with run.logged():
            _train(prepared, terminal, extra)
    if state.progress.stop_reason == "interrupted":
        cure = f"foretell pretrain {run.recipe} --out {run.path} --resume"
        raise Interrupted(f"stopped after step {state.progress.step}, everything is saved", where=str(run.path), cure=cure)
    if state.progress.stop_reason == "early_stop":
        terminal.say(f"stopped early: no better held-out loss since step {state.progress.best_step}")
    return finish_run(prepared, terminal)


def _train(prepared: Prepared, terminal: Terminal, extra: Sequence[Observer]) -> None:
    state, run, training = prepared.state, prepared.run, prepared.recipe.training
    keep_best = training.patience is not None
    keep_until(run.metrics, state.progress.step)
    keep_until(run.samples, state.progress.step)
    with ExitStack() as stack:
        peak_flops = measured_peak(prepared.precision, prepared.device)
        display = Display(terminal, state.progress, flops_per_token(state.model.config), peak_flops)
        readers: list[Display | TensorBoard] = [display]
        readers += [TensorBoard(run.tensorboard, purge_step=state.progress.step + 1)] if training.tensorboard else []
        for reader in readers:
            stack.callback(reader.close)
        save = partial(
            save_checkpoint,
            run.checkpoints,
            tokenizer=prepared.tokenizer,
            environment=prepared.environment,
            keep=training.keep_checkpoints,
        )
        observers: list[Observer] = [
            Evaluate(_scorer(prepared), training.evaluate_every, training.patience),
            *extra,
            WriteMetrics(run.metrics, training.log_every, readers),
            Now(_sampler(prepared, display.sample), training.sample_every),
            Now(save, training.checkpoint_every, lambda s: s.finished or (keep_best and s.progress.best_step == s.progress.step)),
        ]
        stack.enter_context(graceful_stop(state.progress))
        try:
            train(state, _stepper(prepared), observers)
        except NonFiniteLoss:
            save(state)  # the weights are those before the bad step
            raise
        save(state)  # a signal may have come after the last observer


def _stepper(prepared: Prepared) -> Callable[[TrainState], StepReport]:
    recipe, context = prepared.recipe, prepared.state.model.config.context_length
    batches = TrainBatches(prepared.shards.train, recipe.training.seed, context)
    windows, micro = prepared.batch_tokens // context, recipe.training.micro_batch
    forward = torch.compile(prepared.state.model) if recipe.training.compile else None

    def step(state: TrainState) -> StepReport:
        first = state.progress.step * windows
        pieces = [batches.batch(first + start, min(micro, windows - start)) for start in range(0, windows, micro)]
        return train_step(state, pieces, recipe.optimizer, recipe.schedule, forward)

    return step


def _scorer(prepared: Prepared) -> Callable[[GPT], tuple[float, float]]:
    settings, context = prepared.recipe.evaluation, prepared.state.model.config.context_length
    bytes_of_token = prepared.tokenizer.byte_lengths()

    def score(model: GPT) -> tuple[float, float]:
        windows = held_out_windows(prepared.shards.held_out, context, settings.micro_batch, settings.windows)
        result = score_batches(model, windows, bytes_of_token)
        return result.loss, result.bits_per_byte

    return score


def _sampler(prepared: Prepared, show: Callable[[int, str], None]) -> Callable[[TrainState], None]:
    engine = Engine(prepared.state.model, prepared.tokenizer)

    def sample(state: TrainState) -> None:
        step = state.progress.step
        text = engine.complete("", prepared.recipe.generation.replace(max_tokens=SAMPLE_TOKENS, seed=step)).text
        append_record(prepared.run.samples, {"step": step, "text": text})
        show(step, text)

    return sample
