"""The [model] section: one dial is enough; everything that is left out is derived from it and the preset."""

import difflib
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, field_validator

from foretell.base.errors import SettingError
from foretell.base.files import read_text
from foretell.base.settings import Settings
from foretell.models.config import Activation, LSTMConfig, ModelConfig, RopeScaling, TransformerConfig, divisors

HEAD_WIDTH = 64  # derived heads are about this wide, as in every GPT of the papers
SIZES = {"nano": 2, "micro": 3, "tiny": 4, "mini": 6, "small": 12, "medium": 18, "large": 24}  # → n_layer
ENCODERS = {"position": "learned", "norm_position": "post", "window": None, "faithful": False}  # what models/bert.py computes


class ModelSettings(Settings):
    """The [model] section of a recipe."""

    preset: str = "modern"
    """An architecture (gpt1, gpt2, gpt3, llama, qwen2, modern, bert, lstm) or a published size of one (gpt2-xl, bert-base, …)."""
    size: Literal["nano", "micro", "tiny", "mini", "small", "medium", "large"] | None = None
    """A named n_layer: nano 2, micro 3, tiny 4, mini 6, small 12 (GPT-2's 124M shape), medium 18, large 24."""
    n_layer: PositiveInt | None = None
    n_head: PositiveInt | None = None
    n_kv_head: PositiveInt | None = None
    d_model: PositiveInt | None = None
    d_head: PositiveInt | None = None
    d_ff: PositiveInt | None = None
    d_hidden: PositiveInt | None = None
    """lstm: units of each layer."""
    context_length: int | None = Field(default=None, gt=1)
    tied: bool | None = None
    """The output head shares the token embedding's matrix."""
    norm: Literal["layernorm", "rmsnorm"] | None = None
    norm_position: Literal["pre", "post"] | None = None
    position: Literal["learned", "rotary"] | None = None
    rope_theta: PositiveFloat | None = None
    rope_scaling: RopeScaling | None = None
    activation: Activation | None = None
    qkv_bias: bool | None = None
    out_bias: bool | None = None
    mlp_bias: bool | None = None
    qk_norm: bool | None = None
    window: PositiveInt | None = None
    """Every second layer sees only this many tokens back, as in GPT-3; the others see all."""
    faithful: bool | None = None
    """gpt1: dropout on the tied embedding matrix, as in the released code."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    start_from: Path | None = None
    """A model directory whose weights begin the run; its architecture and tokenizer come along."""

    @field_validator("preset")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in presets():
            near = difflib.get_close_matches(name, presets(), n=1)
            raise ValueError(f"there is no preset '{name}' | {f'did you mean {near[0]}?' if near else ', '.join(presets())}")
        return name


@cache
def presets() -> dict[str, dict[str, Any]]:
    """presets.toml, each preset with what it takes over from the one that it is `like`."""
    raw = tomllib.loads(read_text(Path(__file__).with_name("presets.toml")))
    return {name: {**raw.get(values.get("like", ""), {}), **values} for name, values in raw.items()}


def resolve(settings: ModelSettings, vocab_size: int) -> tuple[ModelConfig, list[str]]:
    """Derive the whole config from the dials that were set; also say what was derived from what.

    The dial is depth: d_model = 64·n_layer, heads 64 wide; d_ff = 4·d_model, with gates 8/3·d_model (the same matrix sizes
    with three matrices); modern: half as many KV heads. Raises SettingError.
    """
    preset, notes = dict(presets()[settings.preset]), list[str]()
    preset.pop("like", None)
    if settings.size and (settings.n_layer not in (None, SIZES[settings.size]) or "n_layer" in preset):
        what = "size and n_layer say different things" if settings.n_layer else f"{settings.preset} has its own size"
        raise SettingError(what, where="model.size, model.n_layer", cure="leave model.size out")
    given = settings.model_dump(exclude_none=True, exclude={"preset", "size", "start_from"})
    values = {"vocab_size": vocab_size, **preset, **given}

    def derive(name: str, value: int, reason: str) -> int:
        if name not in values:
            values[name] = value
            notes.append(f"{name} {value} ← {reason}")
        return int(values[name])

    if values.get("d_model") and not settings.size:
        n_layer = derive("n_layer", max(1, values["d_model"] // HEAD_WIDTH), "d_model / 64")
    else:
        n_layer = derive("n_layer", SIZES[settings.size or "small"], f"size={settings.size or 'small'}")
    d_model = derive("d_model", HEAD_WIDTH * n_layer, "64 · n_layer")
    kind: type[ModelConfig] = LSTMConfig if values.pop("kind", None) == "lstm" else TransformerConfig
    if kind is TransformerConfig:
        _derive_transformer(values, derive, d_model, settings)
    for name in [name for name in given if name not in kind.model_fields]:
        cure = f"leave model.{name} out, or choose another preset"
        raise SettingError(f"{settings.preset} has no {name}", where=f"model.{name}", cure=cure)
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        what, _, cure = error.errors()[0]["msg"].removeprefix("Value error, ").partition(" | ")
        raise SettingError(what, where="[model]", cure=cure or "change the model's sizes") from error
    for name, only in ENCODERS.items() if not config.causal else ():
        if (value := getattr(config, name)) != only:
            cure = f"leave model.{name} out, or choose another preset"
            raise SettingError(f"{settings.preset} has no {name} = {value}", where=f"model.{name}", cure=cure)
    return config, notes


def _derive_transformer(values: dict[str, Any], derive: Any, d_model: int, settings: ModelSettings) -> None:
    grouped, gated = values.pop("grouped", False), values["activation"] == "swiglu"
    n_head = derive("n_head", max(divisors(d_model, up_to=max(1, d_model // HEAD_WIDTH))), "d_model / 64")
    if d_model % n_head and "d_head" not in values:
        step = 2 * n_head if values["position"] == "rotary" else n_head
        fits = [n for n in divisors(d_model) if values["position"] == "learned" or d_model // n % 2 == 0]
        cure = f"model.n_head one of {fits}, or model.d_model={max(1, round(d_model / step)) * step}"
        raise SettingError(f"n_head = {n_head} does not divide d_model = {d_model}", where="model.n_head", cure=cure)
    values.setdefault("d_head", d_model // n_head)
    halved = grouped and n_head % 2 == 0
    derive("n_kv_head", n_head // 2 if halved else n_head, "n_head / 2" if halved else "n_head")
    derive("d_ff", -(-8 * d_model // 96) * 32 if gated else 4 * d_model, "8/3 · d_model" if gated else "4 · d_model")
    if values.get("window") is not None:
        values["windowed_layers"] = tuple(range(1, values["n_layer"], 2))
        if not values["windowed_layers"]:
            del values["window"]
