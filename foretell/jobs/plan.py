"""What a recipe needs before it is run: parameters, memory, time, money, what may come of it. Without torch, unless measured."""

import difflib
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from foretell.base.console import Terminal
from foretell.base.errors import CapacityError, DataError, SettingError
from foretell.base.records import read_json
from foretell.base.settings import load_settings
from foretell.base.units import count, duration, size
from foretell.jobs.recipe import Recipe, load_recipe
from foretell.jobs.recipes import bundled
from foretell.models.config import LSTMConfig, ModelConfig, TransformerConfig, described
from foretell.models.counts import flops_per_token, parameters
from foretell.models.settings import ModelSettings, presets, resolve
from foretell.planning.checks import require_divisible, require_spreadable, require_suited, require_windows
from foretell.planning.duration import Speed, predicted_speed
from foretell.planning.hardware import Hardware, Precision, named, this_machine
from foretell.planning.memory import MemoryPlan, Workload, plan_memory, too_much
from foretell.planning.scaling import FITTED_FROM, TOKENS_PER_PARAMETER, advice, expected_loss
from foretell.training.schedules import batch_windows

UNFITTED = "not told: the scaling law was fitted to far larger models on far more text"

MANIFEST = "manifest.json"  # of shards, read here without torch
PUBLISHED = {"gpt1": 40_478, "gpt2": 50_257, "gpt3": 50_257, "bert": 30_522, "llama": 32_000, "qwen2": 151_936}  # tokens
BATCH_TOKENS, MICRO_BATCH = 524_288, 16  # of a preset's recipe: about what GPT-2 and the smaller GPT-3 learned from at once
BESIDES = {"staging": "  besides: without room for it checkpoints are written at once"}
SIZES = ("size", "n_layer", "n_head", "n_kv_head", "d_model", "d_head", "d_ff", "d_hidden")


@dataclass(frozen=True)
class Wishes:
    """What is asked besides the recipe. price_per_hour: US$ of one device; absent: the profile's."""

    hardware: str | None = None
    calibrate: bool = False
    hours: float | None = None
    price_per_hour: float | None = None
    price_per_kwh: float = 0.15


@dataclass(frozen=True)
class Subject:
    """A recipe on some hardware. rows: windows of a whole batch; assumed: what nobody has said."""

    recipe: Recipe
    config: ModelConfig
    hardware: Hardware
    precision: Precision
    rows: int
    tokens_of_text: int | None
    assumed: tuple[str, ...]

    def step_seconds(self, speed: Speed) -> float:
        """One optimizer step."""
        return speed.step_seconds(self.rows, self.recipe.training.micro_batch, self.hardware.devices)

    def predicted(self, shards: int) -> Speed:
        """What the hardware's figures say."""
        return predicted_speed(self.config, self.hardware, self.precision, self.recipe.training.micro_batch, shards)

    def training(self, **changes: Any) -> "Subject":
        """The same with other training settings."""
        training = self.recipe.training.replace(**changes)
        told = tuple(f"training.{name}={value}" for name, value in changes.items())
        return replace(self, recipe=self.recipe.model_copy(update={"training": training}), assumed=(*self.assumed, *told))


def plan(name: str, overrides: Sequence[str], wishes: Wishes, terminal: Terminal) -> tuple[dict[str, Any], CapacityError | None]:
    """Say what a recipe, or the usual one for a preset, needs; return it, and the error if it will not fit. Raises SettingError."""
    subject = _subject(name, overrides, wishes)
    memory, hardware = _placed(subject), subject.hardware
    _refuse_what_pretrain_refuses(subject, memory.workload.shards)
    fits, measured, speed = memory.needed <= hardware.memory_bytes, dict[str, Any](), subject.predicted(memory.workload.shards)
    expected_seconds = subject.step_seconds(speed)
    if wishes.calibrate and fits:
        from foretell.jobs.calibrate import measured_speed  # torch

        speed, measured["measured_peak_bytes"] = measured_speed(subject.recipe, subject.config, subject.rows)
    result = _result(subject, memory, speed, wishes) | measured
    if wishes.hours is not None:
        result["largest"] = _largest(subject, wishes.hours, result["step_seconds"] / expected_seconds)
    _say(subject, result, wishes, terminal)
    if fits:
        return result, None
    where = f"each of {hardware.devices} × {hardware.title}"
    return result, too_much(memory, hardware.memory_bytes, where, _more_devices(subject, memory.workload))


def _refuse_what_pretrain_refuses(subject: Subject, shards: int) -> None:
    recipe, config = subject.recipe, subject.config
    training, schedule = recipe.training, recipe.schedule
    wishes = {"document_mask": recipe.data.document_mask, "checkpoint_activations": training.checkpoint_activations}
    require_suited(config, str(recipe.model.preset), **wishes, batch_ramp_steps=schedule.batch_ramp_steps)
    require_windows(batch_windows(0, subject.rows, schedule), subject.hardware.devices)
    if shards > 1:
        require_spreadable(config, training.compile)


def _more_devices(subject: Subject, work: Workload) -> str:
    """How many devices would do, if any number that the batch can be dealt to does."""
    hardware, spreadable = subject.hardware, not (isinstance(subject.config, LSTMConfig) or subject.recipe.training.compile)
    most = min(4096, batch_windows(0, subject.rows, subject.recipe.schedule)) if hardware.kind == "cuda" and spreadable else 1
    for settings, tried in (("", work), (" with training.checkpoint_activations=true", replace(work, checkpoint_activations=True))):
        for devices in (2**power for power in range(1, most.bit_length())):
            if devices > hardware.devices and plan_memory(replace(tried, shards=devices)).needed <= hardware.memory_bytes:
                return f"; or {devices} such devices{settings}"
    return ""


def _subject(name: str, overrides: Sequence[str], wishes: Wishes) -> Subject:
    if wishes.calibrate and wishes.hardware:
        what = "--calibrate measures this machine, --hardware is another"
        raise SettingError(what, where="command line", cure="leave one of them out")
    for option in ("hours", "price_per_hour", "price_per_kwh"):
        if not 0 <= (getattr(wishes, option) or 0) < math.inf:
            raise SettingError("this is no such number", where=f"--{option.replace('_', '-')}", cure="a number of 0 or more")
    recipe, bare = _recipe(name, overrides)
    folders = _shards(recipe)
    vocab_size, tokens_of_text, reason = _text(recipe, folders)
    config = _config(recipe, vocab_size)
    hardware = named(wishes.hardware) if wishes.hardware else this_machine(recipe.training.device)
    precision, context = hardware.precision(recipe.training.precision, config.d_model), config.context_length
    if wishes.calibrate:
        from foretell.jobs.calibrate import place  # torch

        precision = place(recipe, config)[2]
    rows = require_divisible(recipe.training.batch_tokens or recipe.training.micro_batch * context, context)
    assumed = [] if tokens_of_text else [f"a vocabulary of {vocab_size:,} ← {reason}"]
    assumed += [f"there are no shards at {folder} yet" for folder in folders.values() if not (folder / MANIFEST).is_file()]
    subject = Subject(recipe, config, hardware, precision, rows, tokens_of_text, tuple(assumed))
    return _with_defaults(subject, {override.partition("=")[0] for override in overrides}) if bare else subject


def _with_defaults(subject: Subject, said: set[str]) -> Subject:
    """A preset's recipe: batches of half a million tokens, 20 tokens for each parameter, the largest micro-batch that fits."""
    context = subject.config.context_length
    if "training.batch_tokens" not in said:
        subject = replace(subject, rows=max(1, BATCH_TOKENS // context))
        subject = subject.training(batch_tokens=subject.rows * context)
    if "training.steps" not in said:
        tokens = TOKENS_PER_PARAMETER * parameters(subject.config).total
        subject = subject.training(steps=math.ceil(tokens / (subject.rows * context)))
    return subject if "training.micro_batch" in said else _with_micro_batch(subject)


def _with_micro_batch(subject: Subject) -> Subject:
    """The largest power of two up to MICRO_BATCH that fits; 1 if none does."""
    sizes = [MICRO_BATCH >> power for power in range(MICRO_BATCH.bit_length())]
    tried = [subject.training(micro_batch=micro_batch) for micro_batch in sizes]
    return next((one for one in tried if _placed(one).needed <= one.hardware.memory_bytes), tried[-1])


def _recipe(name: str, overrides: Sequence[str]) -> tuple[Recipe, bool]:
    """The recipe, and whether the name is only a preset's."""
    recipes = [recipe["name"] for recipe in bundled()]
    if name in recipes or name.endswith(".toml") or Path(name).is_file():
        return load_recipe(name, overrides), False
    if name in presets():
        return load_settings(Recipe, None, [f"model.preset={name}", *overrides]), True
    near = difflib.get_close_matches(name, [*recipes, *presets()], n=1)
    cure = f"did you mean {near[0]}?" if near else f"a TOML file, or one of {', '.join([*recipes, *presets()])}"
    raise SettingError(f"there is no recipe or preset '{name}'", where="command line", cure=cure)


def _shards(recipe: Recipe) -> dict[str, Path]:
    """The folders of shards, by the settings that name them."""
    if recipe.data.shards:
        return {"data.shards": recipe.data.shards}
    return {f"data.sources.{name}.shards": source.shards for name, source in recipe.data.sources.items()}


def _text(recipe: Recipe, folders: dict[str, Path]) -> tuple[int, int | None, str]:
    """Size of the vocabulary, tokens of the training text if there are shards, and where the size is from. Raises DataError."""
    manifests = {name: read_json(folder / MANIFEST) for name, folder in folders.items() if (folder / MANIFEST).is_file()}
    coded = {name: (manifest["tokenizer"], manifest["end_of_text"]) for name, manifest in manifests.items()}
    first = next(iter(coded), "")
    if other := next((name for name in coded if coded[name] != coded[first]), None):
        cure = f"make both with one: foretell shards build CORPUS --tokenizer {folders[first] / 'tokenizer'} --out DIR"
        raise DataError(f"the shards of {first} and {other} were made with different tokenizers", where=other, cure=cure)
    if folders and len(manifests) == len(folders):
        tokens = sum(int(manifest["splits"]["train"]["tokens"]) for manifest in manifests.values())
        return int(manifests[first]["vocab_size"]), tokens, "the shards"
    family = _architecture(recipe.model)
    if family in PUBLISHED and "vocab_size" not in recipe.tokenizer.model_fields_set:
        return PUBLISHED[family], None, f"{family} as published; there are no shards"
    return recipe.tokenizer.vocab_size, None, "tokenizer.vocab_size; there are no shards"


def _architecture(settings: ModelSettings) -> str:
    return str(presets()[settings.preset].get("like", settings.preset))


def _config(recipe: Recipe, vocab_size: int) -> ModelConfig:
    if recipe.model.start_from is None:
        return resolve(recipe.model, vocab_size)[0]
    from foretell.interop.huggingface import load_config  # torch

    return load_config(recipe.model.start_from)


def _workload(subject: Subject, shards: int = 1) -> Workload:
    training, optimizer = subject.recipe.training, subject.recipe.optimizer.name
    how: dict[str, Any] = {"checkpoint_activations": training.checkpoint_activations, "ema": training.ema_decay is not None}
    how |= {"kind": subject.hardware.kind, "shards": shards, "offload": training.cpu_offload}
    how["staging"] = training.async_checkpoint and subject.hardware.kind == "cpu"  # of a GPU's run it lies in the host's memory
    micro_batch = min(training.micro_batch, -(-subject.rows // subject.hardware.devices))
    return Workload(subject.config, micro_batch, subject.precision, optimizer, **how)


def _placed(subject: Subject) -> MemoryPlan:
    """Whole on every device, or split over all where it is wished or must be."""
    whole, devices, parallel = plan_memory(_workload(subject)), subject.hardware.devices, subject.recipe.training.parallel
    if devices == 1 or parallel == "ddp" or (parallel == "auto" and whole.needed <= subject.hardware.memory_bytes):
        return whole
    return plan_memory(_workload(subject, devices))


def _result(subject: Subject, memory: MemoryPlan, speed: Speed, wishes: Wishes) -> dict[str, Any]:
    hardware, schedule, training = subject.hardware, subject.recipe.schedule, subject.recipe.training
    ramp_steps = min(schedule.batch_ramp_steps, training.steps)
    steps = (
        training.steps - ramp_steps * (1 - schedule.batch_ramp_from) / 2
    )  # small batches counted as what they are of a whole one
    step_tokens, total = subject.rows * subject.config.context_length, parameters(subject.config).total
    step_seconds, of_text = subject.step_seconds(speed), subject.tokens_of_text
    seconds, tokens = steps * step_seconds, int(steps * step_tokens)
    price = hardware.price_per_hour if wishes.price_per_hour is None else wishes.price_per_hour
    hours, energy_kwh = seconds / 3600 * hardware.devices, seconds / 3.6e6 * hardware.devices * hardware.watts
    sizes = {"parameters": total, "flops_per_token": flops_per_token(subject.config)}
    bytes_ = {"memory_bytes": {**memory.parts, "total": memory.total}, "needed_bytes": memory.needed}
    bytes_ |= {"available_bytes": hardware.memory_bytes}
    place = {"hardware": hardware.name, "precision": subject.precision, "shards": memory.workload.shards}
    times = {"tokens_per_second": step_tokens / step_seconds, "duration_seconds": seconds, "step_seconds": step_seconds}
    times |= {"update_seconds": speed.update_seconds}
    cost = {"price_per_hour": price, "rent": hours * price, "energy_kwh": energy_kwh}
    cost |= {"electricity": energy_kwh * wishes.price_per_kwh, "expected_loss": expected_loss(total, tokens, of_text or math.inf)}
    text = {"tokens": tokens, "tokens_per_parameter": tokens / total, "epochs": tokens / of_text if of_text else None}
    said = {"speed_source": speed.source, "assumed": list(subject.assumed)}
    return sizes | bytes_ | times | place | cost | text | said


def _largest(subject: Subject, hours: float, slower: float) -> dict[str, Any] | None:
    """The largest model of the recipe's family that fits and learns from 20 tokens for each parameter in the time.

    slower: how much longer a step was measured to take than the hardware's figures say.
    """
    if not isinstance(subject.config, TransformerConfig):
        raise SettingError("sizes are tried for transformers only", where="--hours", cure="leave --hours out")

    def described_run(tried: Subject) -> dict[str, Any]:
        memory, total = _placed(tried), parameters(tried.config).total
        steps = TOKENS_PER_PARAMETER * total / (tried.rows * tried.config.context_length)
        seconds = steps * slower * tried.step_seconds(tried.predicted(memory.workload.shards))
        sizes = {"n_layer": tried.config.n_layer, "d_model": tried.config.d_model, "parameters": total}
        fitting = seconds if memory.needed <= tried.hardware.memory_bytes else math.inf
        return {**sizes, "tokens": TOKENS_PER_PARAMETER * total, "duration_seconds": fitting}

    kept = subject.recipe.model.model_dump(exclude={*SIZES, "start_from"})
    plain = ModelSettings.model_validate({**kept, "preset": _architecture(subject.recipe.model)})
    configs = (resolve(plain.replace(n_layer=n_layer), subject.config.vocab_size)[0] for n_layer in range(1, 129))
    runs = (described_run(_with_micro_batch(replace(subject, config=config))) for config in configs)
    in_time = deque(takewhile(lambda run: run["duration_seconds"] <= 3600 * hours, runs), maxlen=1)
    return in_time[0] if in_time else None


def _say(subject: Subject, result: dict[str, Any], wishes: Wishes, terminal: Terminal) -> None:
    hardware, kinds, memory = subject.hardware, parameters(subject.config), result["memory_bytes"]
    guess, split = " (a guess)" if hardware.guessed else "", f", fsdp over {result['shards']}" if result["shards"] > 1 else ""
    split += " with cpu_offload" if split and subject.recipe.training.cpu_offload else ""
    steps, step_tokens = subject.recipe.training.steps, subject.rows * subject.config.context_length
    fitted = result["expected_loss"] < math.log(subject.config.vocab_size)
    ratio, each = result["tokens_per_parameter"], duration(result["step_seconds"])
    small = "; so small a model is outside of what it was fitted to" if kinds.total < FITTED_FROM else ""
    lines = [
        ("model", described(subject.config)),
        (
            "parameters",
            f"{count(kinds.total)}: {count(kinds.embedding)} in tables of tokens, {count(kinds.non_embedding)} in layers",
        ),
        ("FLOPs", f"{count(result['flops_per_token'])} for each token learned from"),
        ("hardware", f"{hardware.devices} × {hardware.title}, {result['precision']}"),
        *(("assumed", assumption) for assumption in subject.assumed),
        ("memory", f"{size(result['needed_bytes'])} of {size(hardware.memory_bytes)} on each device{split}"),
        *(("", f"{name:12} {size(part):>9}{BESIDES.get(name, '')}") for name, part in memory.items() if part and name != "total"),
        *(("", f"{'measured':12} {size(result[key]):>9}") for key in ("measured_peak_bytes",) if key in result),
        ("speed", f"{count(result['tokens_per_second'])} tokens/s ← {result['speed_source']}"),
        ("time", f"{_long(result['duration_seconds'])}: {steps:,} steps of {count(step_tokens)} tokens, {each} each"),
        ("", "scoring, samples and saving come on top"),
        ("rent", f"US$ {result['rent']:,.2f} at {result['price_per_hour']:g} for a device's hour"),
        ("energy", f"{result['energy_kwh']:,.1f} kWh at {hardware.watts:g} W each{guess}"),
        ("", f"US$ {result['electricity']:,.2f} at {wishes.price_per_kwh:g} for a kWh"),
        ("tokens", f"{count(result['tokens'])}, {ratio:.3g} for each parameter: {advice(ratio)}"),
        *(("", f"{epochs:.3g} times through the text") for epochs in (result["epochs"],) if epochs),
        ("loss", f"about {result['expected_loss']:.2f} nats per token by a scaling law of web text" if fitted else UNFITTED),
        ("", f"good for comparing two plans, not for what this text will show{small}"),
    ]
    if wishes.hours is not None:
        lines.append((f"in {wishes.hours:g} h", _told(result["largest"])))
    for name, text in lines:
        terminal.say(f"{name:11} {text}", result=True)


def _told(largest: dict[str, Any] | None) -> str:
    if largest is None:
        return "not even one layer learns from 20 tokens for each parameter"
    shape = f"{largest['n_layer']} layers, {largest['d_model']} wide ({count(largest['parameters'])} parameters)"
    return f"{shape} on {count(largest['tokens'])} tokens, in {_long(largest['duration_seconds'])}"


def _long(seconds: float) -> str:
    return duration(seconds) if seconds < 2 * 86_400 else f"{seconds / 86_400:,.1f} days"
