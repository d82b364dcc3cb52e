"""Causal self-attention with grouped KV heads (Vaswani et al. 2017; Ainslie et al. 2023).

B batch, T new tokens, S tokens attended to (S ≥ T), H query heads, G KV heads, R = H/G queries per KV head, K d_head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foretell.models.cache import KVCache
from foretell.models.config import ModelConfig
from foretell.models.layers import make_norm, rotate

EXPLICIT_UP_TO = 512  # on a CPU in bf16, matmul-softmax-matmul is 1.7x faster than the fused kernel up to about here


class Attention(nn.Module):
    """Queries, keys and values come from one matrix of (H + 2G)·K rows: q, then k, then v."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.d_head = config.n_head, config.n_kv_head, config.d_head
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.d_model, (config.n_head + 2 * config.n_kv_head) * config.d_head, bias=config.bias)
        self.out = nn.Linear(config.n_head * config.d_head, config.d_model, bias=config.bias)
        self.q_norm = make_norm(config, config.d_head) if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(config, config.d_head) if config.qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, rotation_2TK: Tensor | None, cache: KVCache | None, layer: int) -> Tensor:
        batch, time, _ = x_BTD.shape
        heads = self.qkv(x_BTD).view(batch, time, -1, self.d_head)
        q_BTHK, k_BTGK, v_BTGK = heads.split((self.n_head, self.n_kv_head, self.n_kv_head), dim=2)
        q_BTHK, k_BTGK = self.q_norm(q_BTHK), self.k_norm(k_BTGK)
        if rotation_2TK is not None:
            q_BTHK, k_BTGK = rotate(q_BTHK, rotation_2TK), rotate(k_BTGK, rotation_2TK)
        q_BHTK, k_BGSK, v_BGSK = q_BTHK.transpose(1, 2), k_BTGK.transpose(1, 2), v_BTGK.transpose(1, 2)
        if cache is not None:
            k_BGSK, v_BGSK = cache.extend(layer, k_BGSK, v_BGSK)
        mixed_BHTK = attend(q_BHTK, k_BGSK, v_BGSK, self.dropout if self.training else 0.0)
        out: Tensor = self.out(mixed_BHTK.transpose(1, 2).reshape(batch, time, -1))
        return out


def attend(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(q·kᵀ/√K + causal mask)·v, (B, H, T, K); the last query sees all S keys. Takes the faster exact path."""
    time, past = q_BHTK.shape[2], k_BGSK.shape[2] - q_BHTK.shape[2]
    small = q_BHTK.device.type == "cpu" and q_BHTK.dtype == torch.bfloat16 and k_BGSK.shape[2] <= EXPLICIT_UP_TO
    if small or (dropout and q_BHTK.device.type == "cpu"):
        return _attend_explicitly(q_BHTK, k_BGSK, v_BGSK, dropout)
    mask = causal_mask(time, past, q_BHTK.dtype, q_BHTK.device) if past and time > 1 else None
    causal = not past and time > 1
    return F.scaled_dot_product_attention(q_BHTK, k_BGSK, v_BGSK, mask, dropout, causal, enable_gqa=True)


def causal_mask(time: int, past: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(T, past + T) to be added to scores: 0 where a query may look, −∞ where it may not."""
    hidden = torch.full((time, past + time), float("-inf"), dtype=dtype, device=device)
    return hidden.triu_(past + 1)


def _attend_explicitly(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, dropout: float) -> Tensor:
    batch, n_head, time, width = q_BHTK.shape
    n_kv_head, source = k_BGSK.shape[1], k_BGSK.shape[2]
    q_GRT = q_BHTK.reshape(batch * n_kv_head, -1, width) * width**-0.5  # queries that share a KV head stand in one matrix
    scores = q_GRT @ k_BGSK.reshape(batch * n_kv_head, source, width).transpose(1, 2)
    scores = scores.view(-1, time, source) + causal_mask(time, source - time, scores.dtype, scores.device)
    weights = F.dropout(scores.softmax(dim=-1), dropout)
    mixed = weights.view(batch * n_kv_head, -1, source) @ v_BGSK.reshape(batch * n_kv_head, source, width)
    return mixed.view(batch, n_head, time, width)
