"""The shelf of layers: norms, MLPs, rotary positions. B batch, T time, D d_model, F d_ff, H heads, K d_head."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foretell.models.config import TransformerConfig
from foretell.models.functions import root_norm


def make_embedding(rows: int, width: int) -> nn.Embedding:
    """A table of vectors, zeros: `initialise` or read weights fill it (torch's own way takes a second to import)."""
    return nn.Embedding(rows, width, _weight=torch.zeros(rows, width))


def make_norm(config: TransformerConfig, width: int | None = None) -> nn.Module:
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019), as the config says."""
    kind: type[nn.Module] = nn.LayerNorm if config.norm == "layernorm" else RMSNorm
    return kind(width or config.d_model, eps=config.norm_eps)


class RMSNorm(nn.RMSNorm):
    """x ⊙ gain / root-mean-square of x."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.eps is not None  # noqa: S101
        return root_norm(x, self.weight, self.eps)


def make_mlp(config: TransformerConfig) -> "MLP | SwiGLU":
    """The feed-forward layer that the config's activation names."""
    return SwiGLU(config) if config.activation == "swiglu" else MLP(config)


def activate(x: Tensor, kind: str) -> Tensor:
    """GELU exact or by tanh (Hendrycks & Gimpel 2016), ReLU, its square (So et al. 2021) or SiLU."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "gelu": F.gelu,
        "relu": F.relu,
        "relu2": lambda x: F.relu(x).square(),
        "silu": F.silu,
    }
    return functions[kind](x)


class MLP(nn.Module):
    """x → W₂·f(W₁·x)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.up = nn.Linear(config.d_model, config.d_ff, bias=config.mlp_bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.mlp_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.down(activate(self.up(x_BTD), self.activation))
        return out


class SwiGLU(nn.Module):
    """x → W₃·(silu(W₁·x) ⊙ W₂·x) (Shazeer 2020). Gate and up projection are one matrix: one larger product is faster."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.d_model, 2 * config.d_ff, bias=config.mlp_bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.mlp_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = self.gate_up(x_BTD).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate_BTF) * up_BTF)
        return out


def rotation_table(config: TransformerConfig, length: int) -> Tensor:
    """cos and sin of the first positions' angles: (2, length, K), fp32; each angle stands twice, for i and i + K/2.

    Source: Su et al. 2021, section 3.2.2; pair (i, i + K/2) turns by position · θ^(−2i/K), the layout of Llama and Qwen.
    """
    frequency_K2, size = rotary_frequencies(config)
    angle_TK2 = torch.arange(length, dtype=torch.float32, device="cpu")[:, None] * frequency_K2
    angle_TK = torch.cat((angle_TK2, angle_TK2), dim=-1)
    return torch.stack((angle_TK.cos(), angle_TK.sin())) * size


def rotary_frequencies(config: TransformerConfig) -> tuple[Tensor, float]:
    """Radians per position of each pair (K/2, fp32), and what cos and sin are multiplied with (1, but for yarn)."""
    exponent_K2 = torch.arange(0, config.d_head, 2, dtype=torch.float32, device="cpu") / config.d_head
    frequency_K2, scaling = 1.0 / config.rope_theta**exponent_K2, config.rope_scaling
    if scaling is None:
        return frequency_K2, 1.0
    slow_K2 = frequency_K2 / scaling.factor
    if scaling.kind == "linear":
        return slow_K2, 1.0
    original = scaling.original_context_length or config.context_length
    if scaling.kind == "llama3":  # long waves are stretched, short ones kept, those between mixed
        turns_K2 = original * frequency_K2 / (2 * math.pi)
        kept_K2 = (turns_K2 - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        kept_K2 = kept_K2.clamp(0, 1)
        return (1 - kept_K2) * slow_K2 + kept_K2 * frequency_K2, 1.0

    def pair(turns: float) -> float:  # the pair that makes so many turns within the original context
        return config.d_head * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    first = max(math.floor(pair(scaling.beta_fast)), 0)
    last = min(math.ceil(pair(scaling.beta_slow)), config.d_head - 1)
    index_K2 = torch.arange(config.d_head // 2, dtype=torch.float32, device="cpu")
    stretched_K2 = ((index_K2 - first) / max(last - first, 0.001)).clamp(0, 1)
    size = scaling.attention_factor or (0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0)
    return slow_K2 * stretched_K2 + frequency_K2 * (1 - stretched_K2), size
