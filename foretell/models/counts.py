"""Parameters, FLOPs and cache bytes as functions of the config alone (no torch).

FLOPs: a product of (m, k) and (k, n) matrices counts 2·m·k·n; norms, activations and softmax are not counted, as usual.
Backward takes twice what forward takes. Sources: Kaplan et al. 2020, section 2.1 (2N forward, 6N with backward);
Chowdhery et al. 2022 (PaLM), appendix B (attention scores).
"""

from dataclasses import dataclass

from foretell.models.config import LSTMConfig, ModelConfig, TransformerConfig


@dataclass(frozen=True)
class Parameters:
    """embedding: of tokens, positions and segments, and a head of its own; non_embedding: all else (Kaplan's N)."""

    embedding: int
    non_embedding: int

    @property
    def total(self) -> int:
        """All parameters, a tied head counted once."""
        return self.embedding + self.non_embedding


@dataclass(frozen=True)
class Flops:
    """Per token, at a given context."""

    forward: int
    rule_6n: int
    """6 · (non-embedding parameters): the rule of thumb for training."""

    @property
    def backward(self) -> int:
        """Twice the forward pass: one product for the weights' gradient, one for the inputs'."""
        return 2 * self.forward

    @property
    def training(self) -> int:
        """Forward and backward."""
        return self.forward + self.backward


def parameters(config: ModelConfig) -> Parameters:
    """Parameters by kind."""
    width = config.d_model
    embedding = config.vocab_size * width
    if isinstance(config, LSTMConfig):
        rest = matrix_parameters(config) + 8 * config.d_hidden * config.n_layer + width
        return Parameters(embedding * (1 if config.tied else 2), rest)
    assert isinstance(config, TransformerConfig)  # noqa: S101
    norm = width * (2 if config.norm == "layernorm" else 1)
    head_norm = config.d_head * (2 if config.norm == "layernorm" else 1)
    embedding += (config.n_segments or 0) * width + (config.context_length * width if config.position == "learned" else 0)
    biases = config.d_head * (config.n_head + 2 * config.n_kv_head) * config.qkv_bias + width * config.out_bias
    biases += (config.d_ff * (2 if config.activation == "swiglu" else 1) + width) * config.mlp_bias
    rest = matrix_parameters(config) + config.n_layer * (biases + 2 * norm + 2 * head_norm * config.qk_norm)
    if config.causal:
        untied = 0 if config.tied else config.vocab_size * width
        return Parameters(embedding + untied, rest + (norm if config.norm_position == "pre" else 0))
    rest += norm + (width * (width + 1)) * ("pooler" in config.parts) + 2 * (width + 1) * ("next_sentence" in config.parts)
    if "masked" in config.parts:
        rest += width * (width + 1) + norm + config.vocab_size
        embedding += 0 if config.tied else config.vocab_size * width
    return Parameters(embedding, rest)


def parameter_count(config: ModelConfig) -> int:
    """All parameters of the model, a tied head counted once."""
    return parameters(config).total


def matrix_parameters(config: ModelConfig) -> int:
    """Parameters of the layers' matrices: what every token is multiplied with, embeddings and heads left out."""
    width = config.d_model
    if isinstance(config, LSTMConfig):
        first, later = width + config.d_hidden, 2 * config.d_hidden
        return 4 * config.d_hidden * (first + later * (config.n_layer - 1)) + config.d_hidden * width
    assert isinstance(config, TransformerConfig)  # noqa: S101
    attention = width * config.d_head * (2 * config.n_head + 2 * config.n_kv_head)
    mlp = width * config.d_ff * (3 if config.activation == "swiglu" else 2)
    return config.n_layer * (attention + mlp)


def flops(config: ModelConfig, context: int | None = None, *, halved: bool = True) -> Flops:
    """FLOPs per token, head included. context: tokens in the window; absent: the whole context.

    halved: causal attention counted as what is needed, half of the square (a band even less); False: the whole square, as
    kernels that compute and mask it do, and as PaLM counts.
    """
    width, time = config.d_model, context or config.context_length
    head = config.vocab_size * width
    if isinstance(config, TransformerConfig) and not config.causal:
        head = (head + width * width) if "masked" in config.parts else 0
    forward = 2.0 * (matrix_parameters(config) + head)
    if isinstance(config, TransformerConfig):
        for layer in range(config.n_layer):
            window = config.window if layer in config.windowed_layers else None
            forward += 4 * config.n_head * config.d_head * _seen(time, window, config.causal and halved)
    return Flops(int(forward), 6 * parameters(config).non_embedding)


def _seen(time: int, window: int | None, halved: bool) -> float:
    """Keys that a token is compared with, on average over a window."""
    if not halved:
        return time
    band = min(time, window or time)
    return (band * (band + 1) / 2 + (time - band) * band) / time


def flops_per_token(config: ModelConfig, context: int | None = None) -> int:
    """Training FLOPs per token as the field reports them for utilisation: attention's whole square (PaLM, appendix B)."""
    return flops(config, context, halved=False).training


def cache_bytes_per_token(config: ModelConfig, value_bytes: int = 2) -> int:
    """Bytes of the KV cache for each token of each sequence; 0 for an LSTM, whose state does not grow, and for encoders."""
    if not isinstance(config, TransformerConfig) or not config.causal:
        return 0
    return 2 * config.n_layer * config.n_kv_head * config.d_head * value_bytes
