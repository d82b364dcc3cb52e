"""The job of pretraining: shards and a recipe in, a run folder with a finished model out. Also continues a run exactly."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from torch.profiler import record_function

from foretell.base.console import Terminal
from foretell.base.errors import Interrupted, SettingError
from foretell.base.files import cache_folder, write_text
from foretell.base.records import dump
from foretell.base.runs import append_record, keep_until, numbered
from foretell.compute.compiling import compiled
from foretell.compute.device import measured_peak
from foretell.data.prefetch import Prefetch
from foretell.data.streams import StreamBatches
from foretell.generation.engine import Engine
from foretell.jobs.feed import held_out_score, training_batches
from foretell.jobs.finish import finish_run
from foretell.jobs.prepare import Prepared, Resume, prepare
from foretell.jobs.recipe import Recipe
from foretell.models.counts import flops_per_token
from foretell.models.gpt import GPT
from foretell.models.lstm import LSTM
from foretell.models.network import LanguageModel, Network
from foretell.training.checkpoint import save_checkpoint
from foretell.training.display import Display
from foretell.training.loop import Observer, graceful_stop, train
from foretell.training.objective import Forward
from foretell.training.observers import Evaluate, Now, TensorBoard, WriteMetrics
from foretell.training.profile import Profile
from foretell.training.rollback import GoBack
from foretell.training.schedules import batch_windows
from foretell.training.state import StepReport, TrainState
from foretell.training.step import train_step

SAMPLE_TOKENS = 32
Facts = dict[str, Any] | None


def pretrain(
    recipe: Recipe,
    out: Path | None,
    terminal: Terminal,
    resume: Resume = None,
    extra: Sequence[Observer] = (),
    facts: Facts = None,
    profile: bool = False,
) -> dict[str, Any]:
    """Train a model; return where it lies and how it scores. Raises ForetellError; Interrupted after a checkpoint.

    resume: continue the run in `out` with its own recipe and these key=value changes; absent: begin. extra: observers of
    the caller. facts: what the caller knows of the text, for card and report. profile: say where the time of a step goes.
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
            _train(prepared, terminal, extra, profile)
    if state.progress.stop_reason == "interrupted":
        cure = f"foretell pretrain {run.recipe} --out {run.path} --resume"
        raise Interrupted(f"stopped after step {state.progress.step}, everything is saved", where=str(run.path), cure=cure)
    if state.progress.stop_reason == "early_stop":
        terminal.say(f"stopped early: no better held-out loss since step {state.progress.best_step}")
    return finish_run(prepared, terminal)


def _train(prepared: Prepared, terminal: Terminal, extra: Sequence[Observer], profile: bool) -> None:
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

        def tell(sentence: str, step: int) -> None:
            terminal.warn(sentence)
            keep_until(run.metrics, step)
            keep_until(run.samples, step)

        def due(now: TrainState) -> bool:
            step, best = now.progress.step, keep_best and now.progress.best_step == now.progress.step
            return step % training.checkpoint_every == 0 or step >= now.progress.steps or best

        def save(now: TrainState) -> None:
            settings = prepared.tokenizer, prepared.environment, training.keep_checkpoints
            save_checkpoint(run.checkpoints, now, *settings, due=due(now))

        observers: list[Observer] = [
            Evaluate(_scorer(prepared), training.evaluate_every, training.patience),
            *extra,
            prepared.check_shards,
            WriteMetrics(run.metrics, training.log_every, readers),
            *_samplers(prepared, display.sample),
            GoBack(run.checkpoints, tell, prepared.recipe.optimizer.learning_rate),
            Now(save, training.checkpoint_every, lambda now: now.finished or due(now)),
        ]
        stack.enter_context(graceful_stop(state.progress))
        stepper = Stepper(prepared, terminal)
        stack.callback(stepper.close)
        train(state, Profile(stepper, run.path, terminal) if profile else stepper, observers)
        save(state)  # a signal may have come after the last observer


class Stepper:
    """One step of a run: its batch, which is read ahead, and the update."""

    def __init__(self, prepared: Prepared, terminal: Terminal) -> None:
        self._recipe, model = prepared.recipe, prepared.state.model
        self._windows = prepared.batch_tokens // model.config.context_length
        seed, data, training = self._recipe.training.seed, self._recipe.data, self._recipe.training
        batches = training_batches(model.config, data, prepared.shards, prepared.tokenizer, seed=seed, rows=self._windows)
        self._feed = Prefetch(batches, training.micro_batch)
        if isinstance(model, GPT):
            model.prepare(model.config.context_length)  # before the graph is traced
        self._forward: Forward | None = None
        if training.compile:
            self._forward, problem = compiled(model, prepared.device, cache_folder() / "compiled")
            if problem is not None:
                prepared.environment["compile"] = False
                terminal.warn(f"no compiler works here ({problem}): the run goes on without, slower on a GPU")
        self.close = self._feed.close

    def __call__(self, state: TrainState) -> StepReport:
        recipe, step, first = self._recipe, state.progress.step, state.next_sample
        count, after = (batch_windows(number, self._windows, recipe.schedule) for number in (step, step + 1))
        with record_function("step: wait for the batch"):
            pieces = self._feed.take(first, count)
        self._feed.ahead(first + count, after)
        batches = self._feed.batches
        begins = isinstance(batches, StreamBatches) and (state.memory is None or batches.starts(first // count))
        if isinstance(state.model, LSTM) and begins:
            state.memory = state.model.new_cache(count, 0)
        return train_step(state, pieces, recipe.optimizer, recipe.schedule, recipe.training, self._forward)


def _scorer(prepared: Prepared) -> Callable[[Network], tuple[float, float | None]]:
    recipe = prepared.recipe
    measure = partial(held_out_score, micro_batch=recipe.evaluation.micro_batch, windows=recipe.evaluation.windows)

    def score(model: Network) -> tuple[float, float | None]:
        with prepared.state.parameters.averaged():
            result = measure(model, recipe.data, prepared.shards, prepared.tokenizer)
        return result.loss, getattr(result, "bits_per_byte", None)  # hidden tokens are no text whose bytes could be counted

    return score


def _samplers(prepared: Prepared, show: Callable[[int, str], None]) -> list[Observer]:
    """What writes a sentence every so often; nothing for an encoder, which writes none."""
    model = prepared.state.model
    if not isinstance(model, LanguageModel):
        return []
    engine = Engine(model, prepared.tokenizer)

    def sample(state: TrainState) -> None:
        step = state.progress.step
        with state.parameters.averaged():
            text = engine.complete("", prepared.recipe.generation.replace(max_tokens=SAMPLE_TOKENS, seed=step)).text
        append_record(prepared.run.samples, {"step": step, "text": text})
        show(step, text)

    return [Now(sample, prepared.recipe.training.sample_every)]
