"""Self-attention with grouped KV heads, causal, banded or in both directions (Vaswani et al. 2017; Ainslie et al. 2023).

B batch, T new tokens, S tokens attended to (S ≥ T), H query heads, G KV heads, R = H/G queries per KV head, K d_head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foretell.models.cache import KVCache
from foretell.models.config import TransformerConfig
from foretell.models.layers import make_norm, rotate

EXPLICIT_UP_TO = 512  # on a CPU in bf16, matmul-softmax-matmul is 1.7x faster than the fused kernel up to about here


class Attention(nn.Module):
    """Queries, keys and values come from one matrix of (H + 2G)·K rows: q, then k, then v."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.d_head = config.n_head, config.n_kv_head, config.d_head
        self.dropout, self.causal = config.dropout, config.causal
        self.scale = config.attention_scale or config.d_head**-0.5
        self.qkv = nn.Linear(config.d_model, (config.n_head + 2 * config.n_kv_head) * config.d_head, bias=config.qkv_bias)
        self.out = nn.Linear(config.n_head * config.d_head, config.d_model, bias=config.out_bias)
        self.q_norm = make_norm(config, config.d_head) if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(config, config.d_head) if config.qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, rotation_2TK: Tensor | None, mask: Tensor | None, cache: KVCache | None, layer: int) -> Tensor:
        """mask: from `attention_mask`."""
        batch, time, _ = x_BTD.shape
        heads = self.qkv(x_BTD).view(batch, time, -1, self.d_head)
        q_BTHK, k_BTGK, v_BTGK = heads.split((self.n_head, self.n_kv_head, self.n_kv_head), dim=2)
        q_BTHK, k_BTGK = self.q_norm(q_BTHK), self.k_norm(k_BTGK)
        if rotation_2TK is not None:
            q_BTHK, k_BTGK = rotate(q_BTHK, rotation_2TK), rotate(k_BTGK, rotation_2TK)
        q_BHTK, k_BGSK, v_BGSK = q_BTHK.transpose(1, 2), k_BTGK.transpose(1, 2), v_BTGK.transpose(1, 2)
        if cache is not None:
            k_BGSK, v_BGSK = cache.extend(layer, k_BGSK, v_BGSK)
        dropout = self.dropout if self.training else 0.0
        mixed_BHTK = attend(q_BHTK, k_BGSK, v_BGSK, mask, causal=self.causal, scale=self.scale, dropout=dropout)
        out: Tensor = self.out(mixed_BHTK.transpose(1, 2).reshape(batch, time, -1))
        return out


def attend(
    q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, mask: Tensor | None, *, causal: bool, scale: float, dropout: float = 0.0
) -> Tensor:
    """softmax(scale·q·kᵀ + mask)·v, (B, H, T, K). Takes the faster exact path.

    Without a mask the last query sees all S keys, each one before it one less if causal.
    """
    time, source = q_BHTK.shape[2], k_BGSK.shape[2]
    small = q_BHTK.dtype == torch.bfloat16 and source <= EXPLICIT_UP_TO
    explicit = q_BHTK.device.type == "cpu" and (small or bool(dropout))
    if mask is None and causal and time > 1 and (explicit or time < source):
        mask = causal_mask(time, source - time, q_BHTK.dtype, q_BHTK.device)
    if explicit:
        return _attend_explicitly(q_BHTK, k_BGSK, v_BGSK, mask, scale, dropout)
    plain = mask is None and causal and time > 1
    return F.scaled_dot_product_attention(q_BHTK, k_BGSK, v_BGSK, mask, dropout, plain, scale=scale, enable_gqa=True)


def causal_mask(
    time: int, past: int, dtype: torch.dtype, device: torch.device, window: int | None = None, ahead: bool = False
) -> Tensor:
    """(T, past + T) to be added to scores: 0 where a query may look, −∞ where it may not. ahead: it may look forwards too."""
    query_T1 = torch.arange(past, past + time, device=device)[:, None]
    key_S = torch.arange(past + time, device=device)
    hidden = torch.zeros_like(query_T1 > key_S) if ahead else key_S > query_T1
    if window is not None:
        hidden = hidden | (key_S <= query_T1 - window)
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))


def attention_mask(
    config: TransformerConfig,
    time: int,
    past: int,
    like: Tensor,
    keep_BS: Tensor | None = None,
    documents_BT: Tensor | None = None,
    window: int | None = None,
) -> Tensor | None:
    """What is added to scores, (T, S) or (B, 1, T, S), or None where plain causal or full attention is meant.

    keep_BS: False for padding, which nobody sees but itself (a row that sees nothing would be no number).
    documents_BT: tokens see their own document alone (no past then).
    """
    if keep_BS is None and documents_BT is None and (window is None or window >= past + time):
        return None
    mask = causal_mask(time, past, like.dtype, like.device, window, ahead=not config.causal)
    if documents_BT is not None:
        mask = mask.masked_fill(documents_BT[:, None, :, None] != documents_BT[:, None, None, :], float("-inf"))
    if keep_BS is None:
        return mask
    own_TS = torch.ones_like(mask, dtype=torch.bool).tril(past).triu(past)
    return mask.masked_fill(~(keep_BS[:, None, None, :] | own_TS), float("-inf"))


def _attend_explicitly(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, mask: Tensor | None, scale: float, dropout: float) -> Tensor:
    batch, n_head, time, width = q_BHTK.shape
    n_kv_head, source = k_BGSK.shape[1], k_BGSK.shape[2]
    q_GRT = q_BHTK.reshape(batch * n_kv_head, -1, width) * scale  # queries that share a KV head stand in one matrix
    scores = q_GRT @ k_BGSK.reshape(batch * n_kv_head, source, width).transpose(1, 2)
    scores = scores.view(batch, n_head, time, source)
    weights = F.dropout((scores if mask is None else scores + mask).softmax(dim=-1), dropout)
    mixed = weights.view(batch * n_kv_head, -1, source) @ v_BGSK.reshape(batch * n_kv_head, source, width)
    return mixed.view(batch, n_head, time, width)
