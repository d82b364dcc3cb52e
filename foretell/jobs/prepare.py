"""Before the first step: resolve the recipe, refuse what cannot work, build or restore the state."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, get_args

import torch

from foretell.base.console import Terminal
from foretell.base.errors import DataError, ModelError, SettingError
from foretell.base.files import cache_folder, sweep_partial, write_text
from foretell.base.runs import RunFolder
from foretell.base.settings import changed_keys, dump_settings, load_settings
from foretell.base.units import count, size
from foretell.compute.allocator import keep_memory
from foretell.compute.compiling import compiled
from foretell.compute.device import DTYPES, Precision, available_bytes, choose_precision, chosen_device, set_threads
from foretell.compute.distributed import Ranks
from foretell.data.mixture import MixedBatches, open_shards
from foretell.data.shards import Manifest, ShardReader
from foretell.interop.huggingface import load_config, load_model
from foretell.jobs.feed import training_batches
from foretell.jobs.recipe import Recipe
from foretell.models.build import build, initialise
from foretell.models.config import ModelConfig, described
from foretell.models.counts import flops_per_token, parameter_count
from foretell.models.gpt import GPT
from foretell.models.network import Network
from foretell.models.settings import ModelSettings, resolve
from foretell.planning.checks import require_divisible, require_spreadable, require_suited
from foretell.planning.hardware import free_bytes
from foretell.planning.memory import MemoryPlan, plan_memory, require_memory, training_memory
from foretell.tokenizers.config import Kind
from foretell.tokenizers.tokenizer import Tokenizer
from foretell.training.checkpoint import newest_checkpoint, read_state, restore
from foretell.training.objective import Forward
from foretell.training.optimizers import make_optimizers
from foretell.training.parameters import FlatParameters
from foretell.training.schedules import batch_windows
from foretell.training.state import Progress, StepReport, TrainState
from foretell.training.trackers import require_trackers

if TYPE_CHECKING:
    from foretell.training.sharded import ShardedParameters

Resume = Sequence[str] | None  # key=value changes with which to continue a run; absent: begin one
FIXED = ("data.", "model.", "training.seed", "training.batch_tokens", "training.precision", "optimizer.name")
HARMLESS = tuple(f"training.{name}" for name in ("log", "keep", "sample", "tensorboard", "track", "async", "coll"))
NO_RUN = "none"
VERIFIED_AT_ONCE = 2**27  # bytes of shards: more are verified while the run has begun already


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to train."""

    recipe: Recipe
    run: RunFolder
    shards: ShardReader
    tokenizer: Tokenizer
    device: torch.device
    precision: Precision
    batch_tokens: int
    state: TrainState
    environment: dict[str, Any]
    verification: Future[None]
    forward: Forward | None
    """The model compiled, where it is to be and can be."""

    def check_shards(self, state: TrainState, report: StepReport) -> None:
        """An observer: end the run when the shards turn out to be damaged (large ones are verified while it trains)."""
        if self.verification.done() or state.finished:
            self.verification.result()


def prepare(recipe: Recipe, path: Path, terminal: Terminal, resume: Resume, ranks: Ranks | None = None) -> Prepared:
    """Everything up to the first step, on every rank. Raises ForetellError and leaves nothing behind."""
    ranks, found, run, given = ranks or Ranks(), None, None, dump_settings(recipe)
    if resume is not None and (name := ranks.from_first("checkpoint", lambda: _newest(path))) != NO_RUN:
        found, run = path / "checkpoints" / name if name else None, RunFolder(path)
        recipe = _continued(run, resume, terminal)
        if found is None:
            terminal.warn("the run has no checkpoint yet: it begins again from its first step")
    require_trackers(recipe.training.trackers)
    keep_memory()
    shards = open_shards(recipe.data, read_state(found)[1]["shards"] if found is not None else None)
    tokenizer = shards.tokenizer()
    verification = _verified(shards, ranks)
    begin = found or recipe.model.start_from
    config, notes = _resolve_model(recipe.model, begin, tokenizer)
    masked, twice, ramp = recipe.data.document_mask, recipe.training.checkpoint_activations, recipe.schedule.batch_ramp_steps
    require_suited(config, recipe.model.preset, document_mask=masked, checkpoint_activations=twice, batch_ramp_steps=ramp)
    device = ranks.device if ranks.size > 1 else chosen_device(recipe.training.device)
    work_flops = flops_per_token(config) * recipe.training.micro_batch * config.context_length
    threads = set_threads(recipe.training.threads or ranks.threads, work_flops)
    precision, reason = _precision(recipe, device, config, ranks)
    notes.append(f"precision {precision} ← {reason}; {threads} {'thread' if threads == 1 else 'threads'} on {device}")
    batch_tokens = recipe.training.batch_tokens or recipe.training.micro_batch * config.context_length
    rows = require_divisible(batch_tokens, config.context_length)
    batches = training_batches(
        config, recipe.data, shards, tokenizer, seed=recipe.training.seed, rows=rows
    )  # refuses too short a text
    notes += batches.described(recipe.training.steps, rows) if isinstance(batches, MixedBatches) else []
    ranks.share(batch_windows(0, rows, recipe.schedule))  # refuses more ranks than windows
    memory, spread = _memory(recipe, config, precision, device, ranks)
    if ranks.size > 1:
        held = "its share of the model (FSDP), which writes no samples" if spread else "the whole model (DDP)"
        notes.append(f"{ranks.size} processes, each with {held}")
    training: dict[str, Any] = {"precision": precision, "batch_tokens": batch_tokens, "threads": threads}
    if ranks.size > 1:
        training["parallel"] = "fsdp" if spread else "ddp"  # a restart decides no other way
    recipe = _resolved(recipe, config, shards.manifest, tokenizer.kind, **training)
    environment = {"processes": ranks.size, "threads": threads, "device": device.type, "torch": torch.__version__}
    state = _build_state(recipe, None if found else begin, config, device, precision, ranks, spread)
    forward = _compiled(state.model, device, terminal) if recipe.training.compile else None
    environment |= {"compile": forward is not None, "shards": shards.state}
    if found is not None:
        _compare(read_state(found)[1], environment, shards, terminal)
        restore(found, state)
        _see_what_is_asked(state.progress, recipe)
        if state.finished and run is not None:
            recipe = load_settings(Recipe, run.recipe)  # of a run that is complete it says what was trained
    ranks.barrier()  # the others have read the recipe that is written anew now
    run = run or (RunFolder.create(path) if ranks.is_first else RunFolder(path))
    if ranks.is_first:
        write_text(run.recipe, dump_settings(recipe))
        if not run.given.exists():
            write_text(run.given, given)
    if not state.finished:
        shape = f"{described(config)}, {count(parameter_count(config))} parameters"
        steps, tokens = state.progress.steps, shards.train.tokens
        work = f"{steps:,} steps of {count(batch_tokens)} tokens = {steps * batch_tokens / tokens:.2g} times through the text"
        notes += [f"model: {shape}; about {size(memory.total)} of memory", f"run: {path}, {work}"]
        terminal.say("\n".join(notes))
    return Prepared(recipe, run, shards, tokenizer, device, precision, batch_tokens, state, environment, verification, forward)


def _compare(old: dict[str, Any], now: dict[str, Any], shards: ShardReader, terminal: Terminal) -> None:
    """Say what is not as it was when the checkpoint was written. Raises DataError for other shards."""
    if old["shards"] != now["shards"]:
        raise DataError("these are not the shards that the run began with", where=str(shards.path), cure="restore them")
    for key, was in old.items():
        if was != now.get(key):
            terminal.warn(f"{key} was {was}, is {now.get(key)} now: the run goes on, but not bit for bit")


def _compiled(model: Network, device: torch.device, terminal: Terminal) -> Forward | None:
    if isinstance(model, GPT):
        model.prepare(model.config.context_length)  # before the graph is traced
    forward, problem = compiled(model, device, cache_folder() / "compiled")
    if problem is not None:
        terminal.warn(f"no compiler works here ({problem}): the run goes on without, slower on a GPU")
    return forward if problem is None else None


def _see_what_is_asked(progress: Progress, recipe: Recipe) -> None:
    """Another end or patience than when the checkpoint was written begins to count, also for a run that had ended.

    Raises SettingError for an end that is behind it.
    """
    training = recipe.training
    if progress.asked_steps != training.steps:
        progress.steps, progress.stop_reason = training.steps, None
    if progress.asked_patience != training.patience:  # the best step so far may have no checkpoint
        progress.best_step = progress.best_held_out_loss = progress.stop_reason = None
        progress.evaluations_without_gain = 0
    progress.asked_steps, progress.asked_patience = training.steps, training.patience
    if progress.steps < progress.step:
        what = f"the run has done {progress.step} steps already, and cannot end at {progress.steps}"
        raise SettingError(what, where="training.steps", cure=f"training.steps={progress.step} or more, or leave it out")


def _newest(path: Path) -> str:
    """The name of the newest checkpoint, verified; empty where there is none, NO_RUN where there is no run either."""
    if not RunFolder(path).recipe.exists():
        sweep_partial(path)  # of a process that was killed while it began
        return NO_RUN
    found = newest_checkpoint(path / "checkpoints")
    RunFolder.open(path)
    return found.name if found else ""


def _precision(recipe: Recipe, device: torch.device, config: ModelConfig, ranks: Ranks) -> tuple[Precision, str]:
    """As set, or measured by the first rank for all."""
    chosen = ranks.from_first("precision", lambda: "|".join(choose_precision(recipe.training.precision, device, config.d_model)))
    precision, reason = chosen.split("|", 1)
    return "bf16" if precision == "bf16" else "fp32", reason


def _memory(
    recipe: Recipe, config: ModelConfig, precision: Precision, device: torch.device, ranks: Ranks
) -> tuple[MemoryPlan, bool]:
    """What each process will need, and whether the model is spread over them: as set, or where one has no room for it whole.

    Raises CapacityError when it will not fit, SettingError for what a spread model cannot be trained with.
    """
    training, cuda = recipe.training, device.type == "cuda"
    room = available_bytes(device) if cuda else free_bytes() // ranks.local_size
    whole = training_memory(
        config,
        micro_batch=training.micro_batch,
        precision=precision,
        optimizer=recipe.optimizer.name,
        checkpoint_activations=training.checkpoint_activations,
        ema=training.ema_decay is not None,
        kind=device.type,
        offload=training.cpu_offload,
    )
    crowded = ranks.sums([whole.needed - whole.libraries > room])[0] > 0
    spread = ranks.size > 1 and (training.parallel == "fsdp" or (training.parallel == "auto" and crowded))
    if spread:
        require_spreadable(config, training.compile)
    memory = plan_memory(replace(whole.workload, shards=ranks.size)) if spread else whole
    require_memory(memory, room, config, training.micro_batch)
    return memory, spread


def _verified(shards: ShardReader, ranks: Ranks) -> Future[None]:
    """The comparison of the shards with their checksums: done, or for large ones under way; by one rank. Raises DataError."""
    future: Future[None] = Future()
    if not ranks.is_first:
        future.set_result(None)
        return future
    if sum(split.tokens for split in (shards.train, shards.held_out)) * shards.manifest.token_bytes <= VERIFIED_AT_ONCE:
        shards.verify()
        future.set_result(None)
        return future

    def verify() -> None:
        try:
            shards.verify()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    Thread(target=verify, name="verification", daemon=True).start()  # a daemon: an interrupted run need not wait for it
    return future


def _resolve_model(settings: ModelSettings, begin: Path | None, tokenizer: Tokenizer) -> tuple[ModelConfig, list[str]]:
    """begin: the model directory or checkpoint whose weights, and so whose architecture, come first."""
    if begin is None:
        return resolve(settings, tokenizer.vocab_size)
    config = load_config(begin)
    if Tokenizer.load(begin).fingerprint != tokenizer.fingerprint:
        cure = f"make shards with it: foretell shards build CORPUS --tokenizer {begin} --out DIR"
        raise ModelError("the shards were made with another tokenizer than the model's", where=str(begin), cure=cure)
    return config.replace(dropout=settings.dropout), [f"architecture, sizes and weights ← {begin}"]


def _resolved(recipe: Recipe, config: ModelConfig, text: Manifest, kind: str, **training: Any) -> Recipe:
    """The recipe with every derived value written out, so that it gives the same run wherever it is read."""
    names = [name for name in type(config).model_fields if name in ModelSettings.model_fields]
    start = recipe.model.start_from.resolve() if recipe.model.start_from else None
    model = recipe.model.replace(size=None, start_from=start, **{name: getattr(config, name) for name in names})
    made = {"kind": kind} if kind in get_args(Kind) else {}  # a published tokenizer was not trained here
    data = recipe.data.resolved().replace(held_out=text.held_out.fraction)
    sections = {"model": model, "data": data, "tokenizer": recipe.tokenizer.replace(vocab_size=text.vocab_size, **made)}
    return recipe.model_copy(update={**sections, "training": recipe.training.replace(**training)})


def _build_state(
    recipe: Recipe, begin: Path | None, config: ModelConfig, device: torch.device, precision: Precision, ranks: Ranks, spread: bool
) -> TrainState:
    model = build(config)
    if begin is None:
        initialise(model, recipe.training.seed)
    else:
        model.load_state_dict(load_model(begin).state_dict())
    if isinstance(model, GPT):
        model.checkpoint_activations = recipe.training.checkpoint_activations
    model.to(device)
    torch.manual_seed(recipe.training.seed)  # dropout
    average, dtype = recipe.training.ema_decay is not None, DTYPES[precision]
    parameters = _spread(model, dtype, ranks, average, recipe) if spread else FlatParameters(model, dtype, average)
    optimizers = make_optimizers(parameters, recipe.optimizer, config)
    progress = Progress(recipe.training.steps, asked_steps=recipe.training.steps, asked_patience=recipe.training.patience)
    return TrainState(model, parameters, optimizers, progress, ranks=ranks)


def _spread(model: Network, dtype: torch.dtype, ranks: Ranks, average: bool, recipe: Recipe) -> "ShardedParameters":
    from foretell.training.sharded import ShardedParameters  # seldom needed, long to import

    return ShardedParameters(model, dtype, ranks, average, offload=recipe.training.cpu_offload)


def _continued(run: RunFolder, overrides: Sequence[str], terminal: Terminal) -> Recipe:
    """The run's own recipe with `key=value` changes. Raises SettingError for what may not change.

    What the run was already given when it began is no change, though it was resolved since: the same command continues it.
    """
    begun = run.given if run.given.exists() else run.recipe
    asked = changed_keys(load_settings(Recipe, begun), load_settings(Recipe, begun, overrides))
    names = {override: override.partition("=")[0].strip() for override in overrides}
    overrides = [override for override, name in names.items() if name in asked or not name.startswith(FIXED)]
    saved, after = load_settings(Recipe, run.recipe), load_settings(Recipe, run.recipe, overrides)
    changes = changed_keys(saved, after)
    for key, (was, now) in changes.items():
        if key.startswith(FIXED):
            what = f"{key} was {was} in this run and cannot become {now}"
            raise SettingError(what, where=str(run.recipe), cure="begin a new run with another --out")
        if not key.startswith(HARMLESS):
            terminal.warn(f"{key} was {was}, is {now} from here on: the run is not bit for bit what it would have been")
    return after
