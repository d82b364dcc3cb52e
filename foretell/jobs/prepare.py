"""Before the first step: resolve the recipe, refuse what cannot work, build or restore the state."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, get_args

import torch

from foretell.base.console import Terminal
from foretell.base.errors import DataError, ModelError, SettingError
from foretell.base.files import digest, write_text
from foretell.base.runs import RunFolder
from foretell.base.settings import changed_keys, dump_settings, load_settings
from foretell.base.units import count, size
from foretell.compute.device import DTYPES, Precision, available_bytes, choose_precision, default_device, set_threads
from foretell.data.shards import Manifest, ShardReader
from foretell.interop.huggingface import load_config, load_model
from foretell.jobs.feed import training_batches
from foretell.jobs.recipe import Recipe
from foretell.models.build import build, initialise
from foretell.models.config import ModelConfig, described
from foretell.models.counts import parameter_count
from foretell.models.settings import ModelSettings, resolve
from foretell.planning.memory import require_memory, training_memory
from foretell.tokenizers.config import Kind
from foretell.tokenizers.tokenizer import Tokenizer
from foretell.training.checkpoint import newest_checkpoint, read_state, restore
from foretell.training.optimizers import make_optimizers
from foretell.training.parameters import FlatParameters
from foretell.training.state import Progress, StepReport, TrainState

Resume = Sequence[str] | None  # key=value changes with which to continue a run; absent: begin one
FIXED = ("data.", "model.", "training.seed", "training.batch_tokens", "training.precision", "optimizer.name")
HARMLESS = tuple(
    f"training.{name}" for name in ("log", "checkpoint_every", "keep", "sample", "tensorboard", "track", "async", "coll")
)
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

    def check_shards(self, state: TrainState, report: StepReport) -> None:
        """An observer: end the run when the shards turn out to be damaged (large ones are verified while it trains)."""
        if self.verification.done() or state.finished:
            self.verification.result()


def prepare(recipe: Recipe, path: Path, terminal: Terminal, resume: Resume) -> Prepared:
    """Everything up to the first step. Raises ForetellError and leaves nothing behind."""
    found, run, changed = None, None, set[str]()
    if resume is not None:
        found, run = newest_checkpoint(path / "checkpoints"), RunFolder.open(path)
        recipe, changed = _continued(run, resume, terminal)
        if found is None:
            terminal.warn("the run has no checkpoint yet: it begins again from its first step")
    shards = _open_shards(recipe)
    tokenizer = shards.tokenizer()
    verification = _verified(shards)
    device = default_device() if recipe.training.device == "auto" else torch.device(recipe.training.device)
    threads = set_threads(recipe.training.threads)
    begin = found or recipe.model.start_from
    config, notes = _resolve_model(recipe.model, begin, tokenizer)
    precision, reason = choose_precision(recipe.training.precision, device, config.d_model)
    notes.append(f"precision {precision} ← {reason}; {threads} threads on {device}")
    batch_tokens = _batch_tokens(recipe, config.context_length)
    rows = batch_tokens // config.context_length
    training_batches(config, recipe.data, shards, tokenizer, seed=recipe.training.seed, rows=rows)  # refuses text that is too short
    memory = training_memory(config, micro_batch=recipe.training.micro_batch, precision=precision)
    require_memory(memory, available_bytes(device), config, recipe.training.micro_batch)
    training = {"precision": precision, "batch_tokens": batch_tokens, "threads": threads}
    recipe = _resolved(recipe, config, shards.manifest, tokenizer.kind, **training)
    environment = {"threads": threads, "device": str(device), "torch": torch.__version__, "compile": recipe.training.compile}
    environment["shards"] = digest(shards.path / "manifest.json")
    state = _build_state(recipe, None if found else begin, config, device, precision)
    if found is not None:
        for key, was in read_state(found)[1].items():
            if key == "shards" and was != environment[key]:
                raise DataError("these are not the shards that the run began with", where=str(shards.path), cure="restore them")
            if was != environment.get(key):
                terminal.warn(f"{key} was {was}, is {environment.get(key)} now: the run goes on, but not bit for bit")
        restore(found, state)
        if "training.steps" in changed:
            state.progress.steps = recipe.training.steps
        if "training.patience" in changed:  # the best step so far may have no checkpoint
            state.progress.best_step = state.progress.best_held_out_loss = None
    run = run or RunFolder.create(path)
    write_text(run.recipe, dump_settings(recipe))
    if not state.finished:
        shape = f"{described(config)}, {count(parameter_count(config))} parameters"
        steps, tokens = state.progress.steps, shards.train.tokens
        work = f"{steps:,} steps of {count(batch_tokens)} tokens = {steps * batch_tokens / tokens:.2g} times through the text"
        notes += [f"model: {shape}; about {size(memory.total)} of memory", f"run: {path}, {work}"]
        terminal.say("\n".join(notes))
    return Prepared(recipe, run, shards, tokenizer, device, precision, batch_tokens, state, environment, verification)


def _open_shards(recipe: Recipe) -> ShardReader:
    folder = recipe.data.shards
    if folder is None or not folder.is_dir():
        what = "there is no shard folder here" if folder else "the recipe does not say which text to train on"
        cure = "make one with `foretell shards build`, and name it: data.shards=DIR"
        raise SettingError(what, where=f"data.shards={folder or ''}", cure=cure)
    return ShardReader(folder)


def _verified(shards: ShardReader) -> Future[None]:
    """The comparison of the shards with their checksums: done, or for large ones under way. Raises DataError."""
    future: Future[None] = Future()
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


def _batch_tokens(recipe: Recipe, context: int) -> int:
    tokens = recipe.training.batch_tokens or recipe.training.micro_batch * context
    if tokens % context:
        what = f"batch_tokens = {tokens} is not a multiple of context_length = {context}"
        raise SettingError(what, where="[training]", cure=f"training.batch_tokens={max(1, round(tokens / context)) * context}")
    return tokens


def _resolved(recipe: Recipe, config: ModelConfig, text: Manifest, kind: str, **training: Any) -> Recipe:
    """The recipe with every derived value written out, so that it gives the same run wherever it is read."""
    names = [name for name in type(config).model_fields if name in ModelSettings.model_fields]
    start, shards = (path.resolve() if path else None for path in (recipe.model.start_from, recipe.data.shards))
    model = recipe.model.replace(size=None, start_from=start, **{name: getattr(config, name) for name in names})
    made = {"kind": kind} if kind in get_args(Kind) else {}  # a published tokenizer was not trained here
    data = recipe.data.replace(shards=shards, held_out=text.held_out.fraction)
    sections = {"model": model, "data": data, "tokenizer": recipe.tokenizer.replace(vocab_size=text.vocab_size, **made)}
    return recipe.model_copy(update={**sections, "training": recipe.training.replace(**training)})


def _build_state(recipe: Recipe, begin: Path | None, config: ModelConfig, device: torch.device, precision: Precision) -> TrainState:
    model = build(config)
    if begin is None:
        initialise(model, recipe.training.seed)
    else:
        model.load_state_dict(load_model(begin).state_dict())
    model.to(device)
    torch.manual_seed(recipe.training.seed)  # dropout
    parameters = FlatParameters(model, DTYPES[precision], average=recipe.training.ema_decay is not None)
    optimizers = make_optimizers(parameters, recipe.optimizer, config)
    return TrainState(model, parameters, optimizers, Progress(steps=recipe.training.steps))


def _continued(run: RunFolder, overrides: Sequence[str], terminal: Terminal) -> tuple[Recipe, set[str]]:
    """The run's own recipe with `key=value` changes, and the changed keys. Raises SettingError for what may not change."""
    saved, after = load_settings(Recipe, run.recipe), load_settings(Recipe, run.recipe, overrides)
    changes = changed_keys(saved, after)
    for key, (was, now) in changes.items():
        if key.startswith(FIXED):
            what = f"{key} was {was} in this run and cannot become {now}"
            raise SettingError(what, where=str(run.recipe), cure="begin a new run with another --out")
        if not key.startswith(HARMLESS):
            terminal.warn(f"{key} was {was}, is {now} from here on: the run is not bit for bit what it would have been")
    return after, set(changes)
