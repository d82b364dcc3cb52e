"""What defines a decoder. `ModelSettings` is what a person writes (one dial is enough); `ModelConfig` is all of it."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from foretell.base.errors import SettingError
from foretell.base.files import read_text
from foretell.base.settings import Settings

HEAD_WIDTH = 64  # derived heads are about this wide, as in every GPT of the papers
SIZES = {"nano": 2, "micro": 3, "tiny": 4, "mini": 6, "small": 12, "medium": 18, "large": 24}  # → n_layer


class ModelSettings(Settings):
    """The [model] section. Everything that is left out is derived from `size` or `n_layer` and the preset."""

    preset: Literal["gpt2", "modern"] = "modern"
    """gpt2: the GPT-2 paper's block. modern: the Qwen3 layout (RMSNorm, rotary, QK-norm, SwiGLU, grouped KV heads)."""
    size: Literal["nano", "micro", "tiny", "mini", "small", "medium", "large"] | None = None
    """A named n_layer: nano 2, micro 3, tiny 4, mini 6, small 12 (GPT-2's 124M shape), medium 18, large 24."""
    n_layer: PositiveInt | None = None
    n_head: PositiveInt | None = None
    n_kv_head: PositiveInt | None = None
    d_model: PositiveInt | None = None
    d_head: PositiveInt | None = None
    d_ff: PositiveInt | None = None
    context_length: int | None = Field(default=None, gt=1)
    tied: bool | None = None
    """The output head shares the token embedding's matrix."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    start_from: Path | None = None
    """A model directory whose weights begin the run; its architecture and tokenizer come along."""


class ModelConfig(Settings):
    """A decoder, resolved. In names elsewhere: L n_layer, D d_model, H n_head, G n_kv_head, K d_head, F d_ff, V vocab_size."""

    preset: Literal["gpt2", "modern"]
    vocab_size: PositiveInt
    context_length: int = Field(gt=1)
    n_layer: PositiveInt
    n_head: PositiveInt
    n_kv_head: PositiveInt
    d_model: PositiveInt
    d_head: PositiveInt
    d_ff: PositiveInt
    norm: Literal["layernorm", "rmsnorm"]
    norm_eps: PositiveFloat
    position: Literal["learned", "rotary"]
    rope_theta: float = 10_000.0
    activation: Literal["gelu_tanh", "swiglu"]
    bias: bool
    qk_norm: bool
    tied: bool
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if self.n_head % self.n_kv_head:
            cure = f"model.n_kv_head one of {_divisors(self.n_head)}"
            raise ValueError(f"n_kv_head = {self.n_kv_head} does not divide n_head = {self.n_head} | {cure}")
        if self.position == "rotary" and self.d_head % 2:
            raise ValueError(f"d_head = {self.d_head} is odd, but rotary positions turn pairs | an even model.d_head")
        return self


@cache
def presets() -> dict[str, dict[str, Any]]:
    """presets.toml: what each preset fixes."""
    return tomllib.loads(read_text(Path(__file__).with_name("presets.toml")))


def resolve(settings: ModelSettings, vocab_size: int) -> tuple[ModelConfig, list[str]]:
    """Derive the whole config from the dials that were set; also say what was derived from what.

    The dial is depth: d_model = 64·n_layer, heads 64 wide; gpt2: d_ff = 4·d_model; modern: d_ff = 8/3·d_model (the same
    matrix sizes with three matrices) and half as many KV heads. Raises SettingError.
    """
    if settings.size and settings.n_layer not in (None, SIZES[settings.size]):
        raise SettingError("size and n_layer say different things", where="model.size, model.n_layer", cure="give one of them")
    values, notes = settings.model_dump(exclude_none=True, exclude={"size", "start_from"}), list[str]()

    def derive(name: str, value: int, reason: str) -> int:
        if name not in values:
            values[name] = value
            notes.append(f"{name} {value} ← {reason}")
        return int(values[name])

    if settings.d_model and not settings.size:
        n_layer = derive("n_layer", max(1, settings.d_model // HEAD_WIDTH), "d_model / 64")
    else:
        n_layer = derive("n_layer", SIZES[settings.size or "small"], f"size={settings.size or 'small'}")
    d_model = derive("d_model", HEAD_WIDTH * n_layer, "64 · n_layer")
    n_head = derive("n_head", max(_divisors(d_model, up_to=max(1, d_model // HEAD_WIDTH))), "d_model / 64")
    if d_model % n_head and settings.d_head is None:
        what, cure = f"n_head = {n_head} does not divide d_model = {d_model}", f"model.n_head one of {_divisors(d_model)}"
        raise SettingError(what, where="model.n_head", cure=cure)
    modern, halved = settings.preset == "modern", settings.preset == "modern" and n_head % 2 == 0
    derive("n_kv_head", n_head // 2 if halved else n_head, "n_head / 2" if halved else "n_head")
    derive("d_ff", -(-8 * d_model // 96) * 32 if modern else 4 * d_model, "8/3 · d_model" if modern else "4 · d_model")
    preset = {"vocab_size": vocab_size, "d_head": d_model // n_head, **presets()[settings.preset]}
    derive("context_length", preset["context_length"], settings.preset)
    try:
        return ModelConfig.model_validate(preset | values), notes
    except ValidationError as error:
        what, _, cure = error.errors()[0]["msg"].removeprefix("Value error, ").partition(" | ")
        raise SettingError(what, where="[model]", cure=cure or "change the model's sizes") from error


def _divisors(number: int, up_to: int | None = None) -> list[int]:
    return [divisor for divisor in range(1, (up_to or number) + 1) if number % divisor == 0]
