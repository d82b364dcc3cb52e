"""What defines a network, resolved: a transformer (decoder or encoder) or an LSTM. What a person writes is in settings.py."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from foretell.base.settings import Settings

Activation = Literal["gelu_tanh", "gelu", "relu", "relu2", "silu", "swiglu"]
Size = Annotated[int, Field(gt=0, le=2**24)]  # of a dimension; beyond it a file lies
Count = Annotated[int, Field(gt=0, le=10_000)]  # of layers and heads
Part = Literal["pooler", "masked", "next_sentence"]


class RopeScaling(Settings):
    """How rotary angles are stretched for contexts beyond those of the first training; fields as in published configs.

    linear: Chen et al. 2023. llama3: Llama 3.1's rule by wavelength. yarn: Peng et al. 2023.
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: PositiveFloat
    original_context_length: PositiveInt | None = None
    low_freq_factor: PositiveFloat = 1.0
    high_freq_factor: PositiveFloat = 4.0
    beta_fast: PositiveFloat = 32.0
    beta_slow: PositiveFloat = 1.0
    attention_factor: PositiveFloat | None = None
    """yarn: what cos and sin are multiplied with; absent: 0.1·ln(factor) + 1."""

    @model_validator(mode="after")
    def _complete(self) -> "RopeScaling":
        if self.kind != "linear" and self.original_context_length is None:
            raise ValueError(f"{self.kind} scaling needs the original context length | give rope_scaling.original_context_length")
        return self


class ModelConfig(Settings):
    """What all networks have. In names elsewhere: L n_layer, D d_model, V vocab_size."""

    vocab_size: Size
    context_length: int = Field(gt=1, lt=2**31)
    n_layer: Count
    d_model: Annotated[int, Field(gt=0, le=2**20)]
    tied: bool
    """The output head shares the token embedding's matrix."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    causal: bool = True
    """It reads from left to right; an encoder sees both sides."""


class TransformerConfig(ModelConfig):
    """A decoder, or with causal = false an encoder. In names elsewhere: H n_head, G n_kv_head, K d_head, F d_ff."""

    n_head: Count
    n_kv_head: Count
    d_head: Annotated[int, Field(gt=0, le=2**16)]
    d_ff: Size
    norm: Literal["layernorm", "rmsnorm"]
    norm_eps: PositiveFloat
    norm_position: Literal["pre", "post"] = "pre"
    """pre: x + f(norm(x)), and a final norm (GPT-2 and all since). post: norm(x + f(x)), none final (GPT-1, BERT)."""
    position: Literal["learned", "rotary"]
    rope_theta: PositiveFloat = 10_000.0
    rope_scaling: RopeScaling | None = None
    activation: Activation
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool = False
    attention_scale: PositiveFloat | None = None
    """What scores are multiplied with; absent: 1/√d_head."""
    window: PositiveInt | None = None
    """Banded layers see the last `window` tokens, their own included."""
    windowed_layers: tuple[int, ...] = ()
    faithful: bool = False
    """Dropout on the embedding matrices, once a step, the head's tied matrix included, as in GPT-1's released code."""
    n_segments: Count | None = None
    """Encoders: kinds of segments that have an embedding; embeddings are normalised too."""
    parts: tuple[Part, ...] = ()
    """Encoders: pooler (tanh of the first token), masked (the language model's head), next_sentence."""

    @model_validator(mode="after")
    def _consistent(self) -> "TransformerConfig":
        if self.n_head % self.n_kv_head:
            cure = f"model.n_kv_head one of {divisors(self.n_head)}"
            raise ValueError(f"n_kv_head = {self.n_kv_head} does not divide n_head = {self.n_head} | {cure}")
        if self.position == "rotary" and self.d_head % 2:
            raise ValueError(f"d_head = {self.d_head} is odd, but rotary positions turn pairs | an even model.d_head")
        if (self.window is None) != (not self.windowed_layers) or any(n >= self.n_layer for n in self.windowed_layers):
            raise ValueError("window and windowed_layers do not fit together | give both, of layers that exist")
        if self.faithful and not self.tied:
            raise ValueError("faithful means dropout on the tied matrix, but the head has its own | model.tied=true")
        return self


class LSTMConfig(ModelConfig):
    """Embedding D → L layers of U units → D → head: the baseline of Radford et al. 2018, section 5."""

    d_hidden: Annotated[int, Field(gt=0, le=2**20)]
    """U: units of each layer, 2,048 in the paper."""


def described(config: ModelConfig) -> str:
    """A network in a few words, for reports."""
    sizes = f"{config.n_layer} layers, {config.d_model} wide"
    if isinstance(config, LSTMConfig):
        return f"LSTM: {sizes}, {config.d_hidden} units each"
    if not isinstance(config, TransformerConfig):
        return sizes
    norm = f"{config.norm_position}-{'RMSNorm' if config.norm == 'rmsnorm' else 'LayerNorm'}"
    activation = {"swiglu": "SwiGLU", "gelu_tanh": "GELU", "gelu": "GELU"}.get(config.activation, config.activation)
    kind = f"{'decoder' if config.causal else 'encoder'} with {norm}, {config.position} positions, {activation}"
    heads = f"{config.n_head} heads, {config.n_kv_head} KV heads" if config.causal else f"{config.n_head} heads"
    return f"{kind}: {sizes}, {heads}"


def divisors(number: int, up_to: int | None = None) -> list[int]:
    """All numbers that divide `number`, up to `up_to`."""
    return [divisor for divisor in range(1, (up_to or number) + 1) if number % divisor == 0]
