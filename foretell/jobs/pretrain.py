"""The job of pretraining: shards and a recipe in, a run folder with a finished model out. Also continues a run exactly."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch.profiler import record_function

from foretell.base.console import Terminal
from foretell.base.errors import Interrupted, SettingError
from foretell.base.files import write_text
from foretell.base.records import dump
from foretell.base.runs import append_record, keep_until, numbered
from foretell.compute.device import measured_peak
from foretell.compute.distributed import PeerLost, ranks
from foretell.data.batches import Batch
from foretell.data.prefetch import Prefetch
from foretell.data.streams import StreamBatches
from foretell.generation.engine import Engine
from foretell.jobs.feed import held_out_score, training_batches
from foretell.jobs.finish import finish_run
from foretell.jobs.prepare import Prepared, Resume, prepare
from foretell.jobs.recipe import Recipe
from foretell.models.counts import flops_per_token
from foretell.models.lstm import LSTM
from foretell.models.network import LanguageModel, Network
from foretell.training.activations import WatchActivations
from foretell.training.display import Display
from foretell.training.guard import STRIKES
from foretell.training.loop import Observer, graceful_stop, train
from foretell.training.objective import Totals
from foretell.training.observers import Evaluate, Now, WriteMetrics
from foretell.training.parameters import FlatParameters
from foretell.training.profile import Profile
from foretell.training.rollback import GoBack
from foretell.training.saving import Saver
from foretell.training.schedules import batch_windows
from foretell.training.state import Progress, StepReport, TrainState
from foretell.training.step import train_step
from foretell.training.trackers import make_trackers

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
    with ranks(recipe.training.device, recipe.training.collective_timeout_seconds) as here:
        folder = out or Path(here.from_first("folder", lambda: str(numbered(Path("runs"), "pretrain"))))
        heard = terminal if here.is_first else Terminal(quiet=True, stream=StringIO())
        return _pretrain(prepare(recipe, folder, heard, resume, here), heard, extra, facts, profile)


def _pretrain(prepared: Prepared, terminal: Terminal, extra: Sequence[Observer], facts: Facts, profile: bool) -> dict[str, Any]:
    run, state, first = prepared.run, prepared.state, prepared.state.ranks.is_first
    if state.finished:
        terminal.say(f"this run is complete: {state.progress.step} of {state.progress.steps} steps")
    else:
        if first and not run.facts.exists():
            write_text(run.facts, dump(facts or {}))
        with run.logged():
            _train(prepared, terminal, extra, profile)
    if state.progress.stop_reason == "interrupted":
        several = f"torchrun --nproc-per-node {state.ranks.local_size} -m " if state.ranks.size > 1 else ""
        cure = f"{several}foretell pretrain {run.recipe} --out {run.path} --resume"
        raise Interrupted(f"stopped after step {state.progress.step}, everything is saved", where=str(run.path), cure=cure)
    if state.progress.stop_reason == "early_stop":
        terminal.say(f"stopped early: no better held-out loss since step {state.progress.best_step}")
    parameters = state.parameters
    weights = parameters.whole(parameters.named_averages() or parameters.named_masters())
    return finish_run(prepared, weights, terminal) if first else {}


def _train(prepared: Prepared, terminal: Terminal, extra: Sequence[Observer], profile: bool) -> None:
    state, run, training = prepared.state, prepared.run, prepared.recipe.training
    keep_best = training.patience is not None
    settings = prepared.tokenizer, prepared.environment, training.keep_checkpoints, training.async_checkpoint
    with ExitStack() as stack:
        saver = Saver(run.checkpoints, *settings)

        def tell(sentence: str, step: int) -> None:
            terminal.warn(sentence)
            if state.ranks.is_first:
                run.note(sentence)
                keep_until(run.metrics, step)
                keep_until(run.samples, step)

        def due(now: TrainState) -> bool:
            step, best = now.progress.step, keep_best and now.progress.best_step == now.progress.step
            return step % training.checkpoint_every == 0 or step >= now.progress.steps or best

        def save(now: TrainState) -> None:
            saver(now, due(now))

        def settle(now: TrainState, report: StepReport) -> None:
            if now.progress.strikes >= STRIKES:  # the run may go back: to what is saved by now, on every rank
                saver.settle(now.ranks)

        observers: list[Observer] = [
            Evaluate(_scorer(prepared), training.evaluate_every, training.patience),
            *extra,
            prepared.check_shards,
            WatchActivations(_two_rows(prepared)),
            *(_watchers(prepared, terminal, stack) if state.ranks.is_first else ()),
            settle,
            GoBack(run.checkpoints, tell, prepared.recipe.optimizer.learning_rate),
            Now(save, training.checkpoint_every, lambda now: now.finished or due(now)),
        ]
        asked = state.progress if state.ranks.size == 1 else Progress(steps=0)  # of several ranks: they stop after the same step
        stack.enter_context(graceful_stop(asked))
        stepper = Stepper(prepared, asked)
        stack.callback(stepper.close)
        stack.enter_context(saver)
        train(state, Profile(stepper, run.path, terminal) if profile and state.ranks.is_first else stepper, observers)
        save(state)  # a signal may have come after the last observer


def _watchers(prepared: Prepared, terminal: Terminal, stack: ExitStack) -> list[Observer]:
    """What only the first rank does: metrics, the display, samples."""
    state, run, training = prepared.state, prepared.run, prepared.recipe.training
    keep_until(run.metrics, state.progress.step)
    keep_until(run.samples, state.progress.step)
    peak_flops = measured_peak(prepared.precision, prepared.device) * state.ranks.size
    share_of_one_token = flops_per_token(state.model.config) / peak_flops
    settings = prepared.recipe.model_dump(mode="json", exclude={"data": {"shards"}, "model": {"start_from"}})  # private paths
    trackers = make_trackers(training.trackers, training.tensorboard, run, state.progress.step + 1, settings, terminal.warn)
    display = Display(terminal, state.progress)  # its clock starts now
    for reader in (display, trackers):
        stack.callback(reader.close)

    def show(step: int, text: str) -> None:
        display.sample(step, text)
        trackers.sample(step, text)

    metrics = WriteMetrics(run.metrics, training.log_every, (display, trackers), share_of_one_token)
    return [metrics, *_samplers(prepared, show)]


def _two_rows(prepared: Prepared) -> Batch:
    """The run's first windows: what the activations are looked at with."""
    config, recipe = prepared.state.model.config, prepared.recipe
    seed = recipe.training.seed
    return training_batches(config, recipe.data, prepared.shards, prepared.tokenizer, seed=seed, rows=2).batch(0, 2)


class Stepper:
    """One step of a run: this rank's share of the batch, which is read ahead, and the update."""

    def __init__(self, prepared: Prepared, asked: Progress) -> None:
        """asked: its stop_reason is set where this rank is asked to stop."""
        self._recipe, self._asked, model = prepared.recipe, asked, prepared.state.model
        self._windows = prepared.batch_tokens // model.config.context_length
        seed, data, training = self._recipe.training.seed, self._recipe.data, self._recipe.training
        batches = training_batches(model.config, data, prepared.shards, prepared.tokenizer, seed=seed, rows=self._windows)
        self._feed = Prefetch(batches, training.micro_batch)
        self._forward, self.close = prepared.forward, self._feed.close

    def __call__(self, state: TrainState) -> StepReport:
        recipe, step, first = self._recipe, state.progress.step, state.next_sample
        count, after = (batch_windows(number, self._windows, recipe.schedule) for number in (step, step + 1))
        mine, following = state.ranks.share(count), state.ranks.share(after)
        state.ranks.at(step + 1)
        with record_function("step: wait for the batch"):
            pieces, totals = self._read(state, first + mine.start, len(mine))
        self._feed.ahead(first + count + following.start, len(following))
        batches = self._feed.batches
        begins = isinstance(batches, StreamBatches) and (state.memory is None or batches.starts(first // count))
        if isinstance(state.model, LSTM) and begins:
            state.memory = state.model.new_cache(len(mine), 0)
        if state.ranks.size > 1:  # another dropout on each rank, and nothing of it to save
            torch.manual_seed((recipe.training.seed + step * state.ranks.size + state.ranks.rank) % 2**63)
            if not isinstance(state.parameters, FlatParameters):  # whose ranks make the same passes
                passes = math.ceil(math.ceil(count / state.ranks.size) / recipe.training.micro_batch)
                pieces += [_blank(pieces[-1])] * (passes - len(pieces))
        report = train_step(state, pieces, recipe.optimizer, recipe.schedule, recipe.training, self._forward, totals)
        if state.ranks.agree(self._asked.stop_reason is not None):
            state.progress.stop_reason = state.progress.stop_reason or "interrupted"
        return report

    def _read(self, state: TrainState, first: int, count: int) -> tuple[list[Batch], Totals]:
        """This rank's pieces, and what the whole batch weighs. A rank that cannot read ends all of them now."""
        pieces, failure = list[Batch](), None
        try:
            pieces = self._feed.take(first, count)
        except Exception as error:
            failure = error
        weight, sequences, tokens, failed = state.ranks.sums([*Totals.of(pieces), failure is not None])
        if failure is not None:
            raise failure
        if failed:
            raise PeerLost("another process cannot read its share of the batch", where="the batch", cure="see its error")
        return pieces, Totals(weight, int(sequences), int(tokens))


def _blank(batch: Batch) -> Batch:
    """A batch that nothing is learned from."""
    return replace(batch, weight_BT=torch.zeros_like(batch.weight_BT), next_B=None)


def _scorer(prepared: Prepared) -> Callable[[Network], tuple[float, float | None]]:
    recipe = prepared.recipe
    measure = partial(held_out_score, micro_batch=recipe.evaluation.micro_batch, windows=recipe.evaluation.windows)

    def score(model: Network) -> tuple[float, float | None]:
        with prepared.state.parameters.averaged():
            result = measure(model, recipe.data, prepared.shards, prepared.tokenizer)
        bits = getattr(result, "bits_per_byte", None)  # hidden tokens are no text whose bytes could be counted
        loss, *known = prepared.state.ranks.first([result.loss, *([] if bits is None else [bits])])  # all stop for one figure
        return loss, known[0] if known else None

    return score


def _samplers(prepared: Prepared, show: Callable[[int, str], None]) -> list[Observer]:
    """What writes a sentence every so often; nothing for an encoder, which writes none, and a model that no process holds."""
    model = prepared.state.model
    if not isinstance(model, LanguageModel) or not isinstance(prepared.state.parameters, FlatParameters):
        return []
    engine = Engine(model, prepared.tokenizer)

    def sample(state: TrainState) -> None:
        step = state.progress.step
        with state.parameters.averaged():
            text = engine.complete("", prepared.recipe.generation.replace(max_tokens=SAMPLE_TOKENS, seed=step)).text
        append_record(prepared.run.samples, {"step": step, "text": text})
        show(step, text)

    return [Now(sample, prepared.recipe.training.sample_every)]
