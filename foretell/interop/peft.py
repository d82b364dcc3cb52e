"""LoRA adapters in PEFT's format, adapter_config.json and adapter_model.safetensors: written, and read from whomever they are."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from foretell.base.errors import ModelError
from foretell.base.files import atomic_path, damaged_files, require_new, write_text
from foretell.base.records import dump, read_json
from foretell.interop.configs import NATIVE, layout_of, to_hugging_face
from foretell.interop.names import Rule, bare, from_theirs, rules, to_theirs
from foretell.interop.tensors import read_pickled, read_safetensors, shown
from foretell.models.adapter_settings import TARGETS, LoRASettings
from foretell.models.adapters import LoRALinear, LowRank, adapter_state, adapters, attach, pairs_of, target_of
from foretell.models.heads import HeadConfig, TaskModel
from foretell.models.network import LanguageModel, Network

CONFIG, WEIGHTS, PICKLED, PREFIX = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "base_model.model."
TASKS = {"classes": "SEQ_CLS", "regression": "SEQ_CLS", "reward": "SEQ_CLS", "tokens": "TOKEN_CLS", "spans": "QUESTION_ANS"}
STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # other ways to start change the base's own weights
HARMLESS = {"auto_mapping", "ensure_weight_tying", "eva_config", "fan_in_fan_out", "inference_mode", "layers_pattern"}
HARMLESS |= {"megatron_core", "modules_to_save", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type"}
ModuleName = Annotated[str, Field(pattern=r"^\^?(\w|\\?\.)+$")]  # PEFT takes regular expressions: a stranger's could run for ever


class Place(NamedTuple):
    """One part of a linear module of ours, and the module that it is in transformers."""

    ours: str
    first: int
    theirs: str
    outputs: int
    inputs: int


class AdapterConfig(BaseModel, extra="allow", allow_inf_nan=False):
    """adapter_config.json, as far as it says what an adapter computes."""

    peft_type: Literal["LORA"]
    base_model_name_or_path: str | None = None
    r: PositiveInt = 8
    lora_alpha: PositiveFloat = 8.0
    lora_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    use_rslora: bool = False
    bias: Literal["none"] = "none"
    init_lora_weights: bool | str | None = True
    target_modules: Annotated[list[str], Field(max_length=10_000)] | str | None = None
    layers_to_transform: Any = None
    exclude_modules: Any = None
    rank_pattern: Annotated[dict[ModuleName, PositiveInt], Field(max_length=10_000)] | None = None
    alpha_pattern: Annotated[dict[ModuleName, PositiveFloat], Field(max_length=10_000)] | None = None

    def settings(self, module: str = "") -> LoRASettings:
        """Of the whole adapter, or of one module, for which the patterns may have other values."""
        patterns, ends = (self.rank_pattern or {}, self.alpha_pattern or {}), _ends(module)
        ranks, alphas = ([value for key, value in one.items() if re.sub(r"[\\^]", "", key) in ends] for one in patterns)
        rank, alpha = int((ranks or [self.r])[0]), (alphas or [self.lora_alpha])[0]
        return LoRASettings(rank=rank, alpha=alpha, dropout=self.lora_dropout, rslora=self.use_rslora)

    def lists(self, place: Place) -> bool:
        """This module of a block is among the targets, so its tensors must be there."""
        if not isinstance(self.target_modules, list) or self.layers_to_transform is not None or self.exclude_modules is not None:
            return False
        return target_of(place.ours) is not None and not _ends(place.theirs).isdisjoint(self.target_modules)


def adapter_parts(model: Network | TaskModel) -> dict[str, tuple[int, ...]]:
    """For each matrix the rows of the parts that its Hugging Face layout keeps apart: what `add_adapters` asks for."""
    return {rule.ours.removesuffix(".weight"): rule.rows for rule in _rules(model) if len(rule.shape) == 2}


def adapter_base(folder: Path) -> str:
    """Name or path of the model that an adapter is for. Raises ModelError."""
    if base := _read_config(folder).base_model_name_or_path:
        return base
    cure = "write it there: base_model_name_or_path"
    raise ModelError("the adapter does not say which model it is for", where=str(folder / CONFIG), cure=cure)


def save_adapter(
    folder: Path, model: Network | TaskModel, settings: LoRASettings, base: str, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model's adapters, and its task head, into an existing folder, fp32: PEFT puts them onto the model `base`.

    weights: the adapter's state, when it is not what the model holds (the fp32 masters of a bf16 run). Raises SettingError when
    the folder holds an adapter, ModelError when the model has none.
    """
    for name in (CONFIG, WEIGHTS):
        require_new(folder / name)
    found, adapted = _rules(model), adapters(model)
    pairs = {place: pairs_of(adapted[place.ours]).get(place.first) for place in _places(model, found) if place.ours in adapted}
    given = {place: pair.settings for place, pair in pairs.items() if pair is not None}
    if not given:
        raise ModelError("this model has no adapters", where=str(folder), cure="save the model itself")
    heads, head = _head_rules(found), model.head_config.kind if isinstance(model, TaskModel) else ""
    config = {
        **{"peft_type": "LORA", "base_model_name_or_path": base, "inference_mode": True, "bias": "none"},
        "task_type": "CAUSAL_LM" if isinstance(model, LanguageModel) else TASKS.get(head),
        **{"r": settings.rank, "lora_alpha": settings.alpha, "lora_dropout": settings.dropout, "use_rslora": settings.rslora},
        "rank_pattern": {place.theirs: own.rank for place, own in given.items() if own.rank != settings.rank},
        "alpha_pattern": {place.theirs: own.alpha for place, own in given.items() if own.alpha != settings.alpha},
        "target_modules": sorted(place.theirs for place in given),
        "modules_to_save": sorted({rule.theirs[0].rpartition(".")[0] for rule in heads}) or None,
        "fan_in_fan_out": any(rule.transposed for rule in found),
    }
    tensors = to_theirs(adapter_state(model) if weights is None else weights, [*_pair_rules(given), *heads])
    with atomic_path(folder / WEIGHTS) as partial:
        whole = {f"{PREFIX}{name}": tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(whole, partial, metadata={"format": "pt"})
        partial.chmod(0o644)  # safetensors writes 0600
    write_text(folder / CONFIG, dump(config, indent=2) + "\n")


def adapter_head(folder: Path, base: Network) -> HeadConfig | None:
    """The task head that an adapter brings for a base without one, as PEFT's SEQ_CLS, TOKEN_CLS and QUESTION_ANS do; else none."""
    task = (_read_config(folder).model_extra or {}).get("task_type")
    raw = to_hugging_face(base.config)
    kind: Any = next((kind for kind, name in TASKS.items() if name == task), None)
    if kind is None or raw["model_type"] == NATIVE or kind not in (heads := layout_of(raw, "")["heads"]):
        return None
    weights = [tensor for name, tensor in _tensors(folder).items() if name.endswith(f"{heads[kind]}.weight")]
    return HeadConfig(kind=kind, n_labels=len(weights[0]), bias=kind in heads["biased"]) if weights else None


def load_adapter(folder: Path, model: Network | TaskModel) -> LoRASettings:
    """Put an adapter, PEFT's or ours, onto a model: its pairs beside the matrices; its head, if it has one, for the model's.

    Returns the settings to train on with. Raises ModelError, leaving the model as it was, for options that would change the
    result and are not known here, and for a tensor that is missing, has another shape or has no place.
    """
    config, where = _read_config(folder), str(folder)
    if damaged := damaged_files(folder):
        raise ModelError(f"the adapter is not what was saved: {damaged[0]}", where=where, cure="restore it from a copy")
    if adapters(model):
        raise ModelError("the model has adapters already", where=where, cure="merge them first, or load the base model again")
    tensors, found = _tensors(folder), _rules(model)
    there = {re.sub(r"(\.lora_[AB])?\.(weight|bias)$", "", bare(name)) for name in tensors}
    places = [place for place in _places(model, found) if bare(place.theirs) in there or config.lists(place)]
    heads = [rule for rule in _head_rules(found) if bare(rule.theirs[0]).rpartition(".")[0] in there]
    given = {place: config.settings(place.theirs) for place in places}
    state = from_theirs(tensors, [*_pair_rules(given), *heads], where)
    if not given:
        raise ModelError("the adapter holds no low-rank pairs", where=where, cure="get its files again, whole")
    pairs: dict[str, dict[int, LowRank]] = {}
    for place, own in given.items():
        pairs.setdefault(place.ours, {})[place.first] = LowRank(place.inputs, place.outputs, own)
    attach(model, pairs)
    model.load_state_dict(state, strict=False)
    return config.settings().replace(targets=[target for target in TARGETS if target in map(target_of, pairs)] or TARGETS)


def _read_config(folder: Path) -> AdapterConfig:
    """adapter_config.json; options that would change the result and are not known here are refused by name."""
    path, cure = folder / CONFIG, "merge the adapter into its base model with PEFT, and use the merged model"
    if not path.is_file():
        raise ModelError("there is no adapter here", where=str(path), cure=f"give the folder that holds {CONFIG}")
    try:
        config = AdapterConfig.model_validate(read_json(path))
    except ValidationError as error:
        problem = error.errors()[0]
        value = "nothing" if problem["type"] == "missing" else repr(problem["input"])
        told = f"{'.'.join(map(str, problem['loc'])) or CONFIG} = {value}"
        raise ModelError(f"the adapter's {shown(told)} is not supported", where=str(path), cure=cure) from error
    odd = {name: value for name, value in (config.model_extra or {}).items() if value and name not in HARMLESS}
    if config.init_lora_weights not in STARTS:
        odd["init_lora_weights"] = config.init_lora_weights
    for name, value in odd.items():
        raise ModelError(f"the adapter's {shown(f'{name} = {value!r}')} is not supported", where=str(path), cure=cure)
    return config


def _tensors(folder: Path) -> dict[str, Tensor]:
    pickled = (folder / PICKLED).exists() and not (folder / WEIGHTS).exists()
    raw = read_pickled(folder / PICKLED) if pickled else read_safetensors(folder / WEIGHTS)
    return {name.removeprefix(PREFIX): tensor for name, tensor in raw.items()}


def _rules(model: Network | TaskModel) -> list[Rule]:
    config, head = (model.body.config, model.head_config) if isinstance(model, TaskModel) else (model.config, None)
    raw = to_hugging_face(config, head)
    return rules(config, None if raw["model_type"] == NATIVE else layout_of(raw, ""), head)


def _head_rules(found: list[Rule]) -> list[Rule]:
    return [rule for rule in found if rule.ours.startswith("task_head.")]


def _pair_rules(given: Mapping[Place, LoRASettings]) -> Iterable[Rule]:
    """What A and B of each place are in PEFT's files."""
    for place, own in given.items():
        for ours, theirs, shape in (("a_RI", "A", (own.rank, place.inputs)), ("b_OR", "B", (place.outputs, own.rank))):
            name = f"{place.theirs}.lora_{theirs}.weight"
            yield Rule(f"{place.ours}.pairs.{place.first}.{ours}", shape, (name,), shape[:1], False)


def _places(model: nn.Module, found: list[Rule]) -> Iterable[Place]:
    """Where pairs may stand: the linear modules inside the network, but no head."""
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | LoRALinear)}
    for rule in found:
        ours, _, kind = rule.ours.rpartition(".")
        if kind == "weight" and ours in linear and not ours.endswith("head"):
            for index, name in enumerate(rule.theirs):
                first, theirs = sum(rule.rows[:index]), name.removesuffix(".weight")
                yield Place(ours, first, theirs, rule.rows[index], rule.shape[1])


def _ends(module: str) -> set[str]:
    """A module's name, and what is left of it when leading parts are taken away."""
    parts = module.split(".")
    return {".".join(parts[start:]) for start in range(len(parts))}
