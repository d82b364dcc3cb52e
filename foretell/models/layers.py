"""The shelf of layers: norms, MLPs, rotary positions. B batch, T time, D d_model, F d_ff, H heads, K d_head."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foretell.models.config import ModelConfig


def make_norm(config: ModelConfig, width: int | None = None) -> nn.Module:
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019), as the config says."""
    kind: type[nn.Module] = nn.LayerNorm if config.norm == "layernorm" else nn.RMSNorm
    return kind(width or config.d_model, eps=config.norm_eps)


class GeluMLP(nn.Module):
    """x → W₂·gelu(W₁·x): GPT-2's feed-forward layer, with the tanh form of GELU (Hendrycks & Gimpel 2016)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x_BTD), approximate="tanh"))
        return out


class SwiGLU(nn.Module):
    """x → W₃·(silu(W₁·x) ⊙ W₂·x) (Shazeer 2020). Gate and up projection are one matrix: one larger product is faster."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.d_model, 2 * config.d_ff, bias=config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = self.gate_up(x_BTD).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate_BTF) * up_BTF)
        return out


def rotation_table(config: ModelConfig) -> Tensor:
    """cos and sin of every position's angles: (2, context_length, K), fp32; each angle stands twice, for i and i + K/2.

    Source: Su et al. 2021, section 3.2.2; pair (i, i + K/2) turns by position · θ^(−2i/K), the layout of Llama and Qwen.
    """
    frequency_K2 = config.rope_theta ** (-torch.arange(0, config.d_head, 2, dtype=torch.float32) / config.d_head)
    angle_TK2 = torch.arange(config.context_length, dtype=torch.float32)[:, None] * frequency_K2
    angle_TK = torch.cat((angle_TK2, angle_TK2), dim=-1)
    return torch.stack((angle_TK.cos(), angle_TK.sin()))


def rotate(x_BTHK: Tensor, rotation_2TK: Tensor) -> Tensor:
    """Turn each pair of a head's coordinates by its position's angle, given as cos and sin."""
    cos_T1K, sin_T1K = rotation_2TK[:, :, None].unbind()
    first, second = x_BTHK.chunk(2, dim=-1)
    return x_BTHK * cos_T1K + torch.cat((-second, first), dim=-1) * sin_T1K
