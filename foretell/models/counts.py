"""Parameters and FLOPs as functions of the config alone (no torch).

Source: Chowdhery et al. 2022 (PaLM), appendix B: 6·N per token for the matrices, 12·L·H·K·T for attention scores and
values, forward and backward.
"""

from foretell.models.config import ModelConfig


def matrix_parameters(config: ModelConfig) -> int:
    """Parameters of the blocks' matrices: what a token is multiplied with, embeddings and head left out."""
    attention = config.d_model * config.d_head * (2 * config.n_head + 2 * config.n_kv_head)
    mlp = config.d_model * config.d_ff * (3 if config.activation == "swiglu" else 2)
    return config.n_layer * (attention + mlp)


def parameter_count(config: ModelConfig) -> int:
    """All parameters of the model, a tied head counted once."""
    width, one_norm = config.d_model, config.d_model * (2 if config.norm == "layernorm" else 1)
    embeddings = config.vocab_size * width * (1 if config.tied else 2)
    positions = config.context_length * width if config.position == "learned" else 0
    biases = (config.d_head * (config.n_head + 2 * config.n_kv_head) + width + config.d_ff + width) if config.bias else 0
    norms = 2 * one_norm + (2 * config.d_head if config.qk_norm else 0)
    return embeddings + positions + matrix_parameters(config) + config.n_layer * (biases + norms) + one_norm


def flops_per_token(config: ModelConfig, context: int | None = None) -> int:
    """Training FLOPs per token, forward and backward, head included, attention counted as if it were not causal (PaLM)."""
    matrices = matrix_parameters(config) + config.vocab_size * config.d_model
    scores = config.n_layer * config.n_head * config.d_head * (context or config.context_length)
    return 6 * matrices + 12 * scores
