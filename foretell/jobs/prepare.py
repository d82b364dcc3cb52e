"""Before the first step: resolve the recipe, refuse what cannot work, build or restore the state."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foretell.base.console import Terminal
from foretell.base.errors import ModelError, SettingError
from foretell.base.files import write_text
from foretell.base.runs import RunFolder
from foretell.base.settings import changed_keys, dump_settings, load_settings
from foretell.compute.device import DTYPES, Precision, available_bytes, choose_precision, default_device, set_threads
from foretell.data.batches import TrainBatches
from foretell.data.shards import ShardReader
from foretell.interop.huggingface import load_config, load_model
from foretell.jobs.recipe import Recipe
from foretell.models.config import ModelConfig, ModelSettings, resolve
from foretell.models.gpt import GPT, initialise
from foretell.planning.memory import MemoryPlan, require_memory, training_memory
from foretell.tokenizers.tokenizer import Tokenizer
from foretell.training.checkpoint import checkpoints, newest_checkpoint, read_state, restore
from foretell.training.parameters import FlatParameters
from foretell.training.state import Progress, TrainState, make_optimizer

FIXED = ("data.shards", "model.", "training.seed", "training.batch_tokens", "training.precision")
HARMLESS = (
    "training.log_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.sample_every",
    "training.tensorboard",
)


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to train. notes: what was derived and chosen, for a person."""

    recipe: Recipe
    run: RunFolder
    shards: ShardReader
    tokenizer: Tokenizer
    device: torch.device
    precision: Precision
    batch_tokens: int
    memory: MemoryPlan
    state: TrainState
    environment: dict[str, Any]
    notes: list[str]


def prepare(recipe: Recipe, path: Path, terminal: Terminal, *, resume: bool) -> Prepared:
    """Everything up to the first step. Raises ForetellError and leaves nothing behind."""
    found = newest_checkpoint(path / "checkpoints") if resume and checkpoints(path / "checkpoints") else None
    run, changed = (RunFolder.open(path) if resume else None), set[str]()
    if run is not None:
        recipe, changed = _continued(recipe, run, terminal)
        if found is None:
            terminal.warn("the run has no checkpoint yet: it begins again from its first step")
    shards = _open_shards(recipe)
    tokenizer = shards.tokenizer()
    device = default_device() if recipe.training.device == "auto" else torch.device(recipe.training.device)
    threads = set_threads(recipe.training.threads)
    begin = found or recipe.model.start_from
    config, notes = _resolve_model(recipe.model, begin, tokenizer)
    precision, reason = choose_precision(recipe.training.precision, device, config.d_model)
    notes.append(f"precision {precision} ← {reason}; {threads} threads on {device}")
    batch_tokens = _batch_tokens(recipe, config)
    memory = training_memory(config, micro_batch=recipe.training.micro_batch, precision=precision)
    require_memory(memory, available_bytes(device), config, recipe.training.micro_batch)
    TrainBatches(shards.train, recipe.training.seed, config.context_length)  # refuses text that is too short
    recipe = _resolved(recipe, config, precision, batch_tokens, threads)
    environment = {"threads": threads, "device": str(device), "torch": torch.__version__, "compile": recipe.training.compile}
    state = _build_state(recipe, begin, config, device, precision)
    if found is not None:
        _compare_environment(read_state(found)[1], environment, terminal)
        restore(found, state)
        if "training.steps" in changed:
            state.progress.steps = recipe.training.steps
    run = run or RunFolder.create(path)
    write_text(run.recipe, dump_settings(recipe))
    return Prepared(recipe, run, shards, tokenizer, device, precision, batch_tokens, memory, state, environment, notes)


def _open_shards(recipe: Recipe) -> ShardReader:
    if recipe.data.shards is None:
        raise SettingError(
            "the recipe does not say which text to train on",
            where="data.shards",
            cure="add data.shards=DIR, a folder made by `foretell shards build`",
        )
    if not recipe.data.shards.is_dir():
        raise SettingError(
            "there is no shard folder here", where=f"data.shards={recipe.data.shards}", cure="make it with `foretell shards build`"
        )
    return ShardReader(recipe.data.shards)


def _resolve_model(settings: ModelSettings, begin: Path | None, tokenizer: Tokenizer) -> tuple[ModelConfig, list[str]]:
    """begin: the model directory or checkpoint whose weights, and so whose architecture, come first."""
    if begin is None:
        return resolve(settings, tokenizer.vocab_size)
    config = load_config(begin)
    if Tokenizer.load(begin).fingerprint != tokenizer.fingerprint:
        raise ModelError(
            "the shards were made with another tokenizer than the model's",
            where=str(begin),
            cure=f"make shards with it: foretell shards build CORPUS --tokenizer {begin} --out DIR",
        )
    return config.replace(dropout=settings.dropout), [f"architecture and weights ← {begin}"]


def _batch_tokens(recipe: Recipe, config: ModelConfig) -> int:
    training = recipe.training
    batch_tokens = training.batch_tokens or training.micro_batch * config.context_length
    if batch_tokens % config.context_length:
        nearest = max(1, round(batch_tokens / config.context_length)) * config.context_length
        raise SettingError(
            f"batch_tokens = {batch_tokens} is not a multiple of context_length = {config.context_length}",
            where="training.batch_tokens",
            cure=f"training.batch_tokens={nearest}",
        )
    return batch_tokens


def _resolved(recipe: Recipe, config: ModelConfig, precision: Precision, batch_tokens: int, threads: int) -> Recipe:
    """The recipe with every derived value written out, so that it gives the same run wherever it is read."""
    sizes = {
        name: getattr(config, name)
        for name in ("n_layer", "n_head", "n_kv_head", "d_model", "d_head", "d_ff", "context_length", "tied")
    }
    start = recipe.model.start_from
    model = recipe.model.replace(size=None, preset=config.preset, start_from=start.resolve() if start else None, **sizes)
    training = recipe.training.replace(precision=precision, batch_tokens=batch_tokens, threads=threads)
    shards = recipe.data.shards
    data = recipe.data.replace(shards=shards.resolve() if shards else None)
    return recipe.model_copy(update={"model": model, "training": training, "data": data})


def _build_state(recipe: Recipe, begin: Path | None, config: ModelConfig, device: torch.device, precision: Precision) -> TrainState:
    model = GPT(config)
    if begin is None:
        initialise(model, recipe.training.seed)
    else:
        model.load_state_dict(load_model(begin).state_dict())
    model.to(device)
    torch.manual_seed(recipe.training.seed)  # dropout
    parameters = FlatParameters(model, DTYPES[precision])
    return TrainState(model, parameters, make_optimizer(parameters, recipe.optimizer), Progress(steps=recipe.training.steps))


def _continued(given: Recipe, run: RunFolder, terminal: Terminal) -> tuple[Recipe, set[str]]:
    """The run's own recipe with what the user set differently now, and those keys. Raises SettingError for what may not change."""
    saved = load_settings(Recipe, run.recipe)
    explicit = _set_values(given)
    merged = {name: {**section, **explicit.get(name, {})} for name, section in saved.model_dump(exclude_none=True).items()}
    after = Recipe.model_validate(merged)
    changes = changed_keys(saved, after)
    for key, (was, now) in changes.items():
        if key.startswith(FIXED):
            raise SettingError(
                f"{key} was {was} in this run and cannot become {now}",
                where=str(run.recipe),
                cure="begin a new run with another --out",
            )
        if not key.startswith(HARMLESS):
            terminal.warn(f"{key} was {was}, is {now} from here on: the run is not bit for bit what it would have been")
    return after, set(changes)


def _set_values(given: Recipe) -> dict[str, dict[str, Any]]:
    """What the user wrote, without what only a first resolution understands (names of sizes, `auto`)."""
    values: dict[str, dict[str, Any]] = given.model_dump(exclude_unset=True, exclude_none=True)
    for section in values.values():
        for key in [key for key, value in section.items() if value == "auto" or key == "size"]:
            del section[key]
        for key, value in section.items():
            if isinstance(value, Path):
                section[key] = value.resolve()
    return values


def _compare_environment(was: dict[str, Any], now: dict[str, Any], terminal: Terminal) -> None:
    for key in (key for key in was if was[key] != now.get(key)):
        terminal.warn(f"{key} was {was[key]}, is {now.get(key)} now: the run goes on, but not bit for bit")
