"""Self-attention with grouped KV heads, causal, banded or in both directions (Vaswani et al. 2017; Ainslie et al. 2023).

B batch, T new tokens, S tokens attended to (S ≥ T), H query heads, G KV heads, R = H/G queries per KV head, K d_head.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foretell.models.cache import KVCache
from foretell.models.config import TransformerConfig
from foretell.models.functions import by_hand, rotate
from foretell.models.layers import make_norm

EXPLICIT_UP_TO = 512  # on a CPU in bf16, matmul-softmax-matmul takes 0.4x the fused kernel's time; beyond, weights take much memory
BLOCK = 128  # queries that are compared at once with all keys up to the last of them: what lies ahead is not computed


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
    if explicit and time == source > 1 and not dropout and by_hand():
        blocks: Tensor = _Blocks.apply(q_BHTK, k_BGSK, v_BGSK, mask, causal, scale)  # type: ignore[no-untyped-call]
        return blocks
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


class _Blocks(torch.autograd.Function):
    """Attention of T queries to T keys, by blocks of queries; keeps the weights that it computed and nothing twice as large.

    N = B·H. mask: none, (T, T) or (B, 1, T, T); with causal it hides what lies ahead, or is none.
    """

    @staticmethod
    def forward(
        ctx: Any, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> Tensor:
        batch, n_head, time, width = q_BHTK.shape
        repeats = n_head // k_BGTK.shape[1]
        q_NTK = (q_BHTK * scale).reshape(-1, time, width)
        k_NTK, v_NTK = (_repeated(x_BGTK, repeats).reshape(-1, time, width) for x_BGTK in (k_BGTK, v_BGTK))
        mixed_NTK, kept = torch.empty_like(q_NTK), list[Tensor]()
        for rows, seen in _blocks(time, causal):
            scores_NTS = q_NTK[:, rows] @ k_NTK[:, :seen].transpose(1, 2)
            if mask is not None:
                scores_NTS.view(batch, n_head, -1, seen).add_(mask[..., rows, :seen])
            elif causal:
                scores_NTS[:, :, rows.start :].add_(causal_mask(seen - rows.start, 0, q_NTK.dtype, q_NTK.device))
            weights_NTS = scores_NTS.softmax(dim=-1)
            torch.bmm(weights_NTS, v_NTK[:, :seen], out=mixed_NTK[:, rows])
            kept.append(weights_NTS)
        ctx.save_for_backward(q_NTK, k_NTK, v_NTK, *kept)
        ctx.causal, ctx.scale, ctx.repeats, ctx.shape = causal, scale, repeats, q_BHTK.shape
        return mixed_NTK.view(q_BHTK.shape)

    @staticmethod
    def backward(ctx: Any, grad_BHTK: Tensor) -> tuple[Tensor | None, ...]:
        q_NTK, k_NTK, v_NTK, *kept = ctx.saved_tensors
        grad_NTK, grad_q_NTK = grad_BHTK.reshape(q_NTK.shape), torch.empty_like(q_NTK)
        for (rows, seen), weights_NTS in reversed(list(zip(_blocks(q_NTK.shape[1], ctx.causal), kept, strict=True))):
            grad_weights_NTS = grad_NTK[:, rows] @ v_NTK[:, :seen].transpose(1, 2)
            grad_scores_NTS = torch._softmax_backward_data(grad_weights_NTS, weights_NTS, -1, weights_NTS.dtype)
            torch.bmm(grad_scores_NTS, k_NTK[:, :seen], out=grad_q_NTK[:, rows])
            to_keys, to_values = (grad_scores_NTS.transpose(1, 2), q_NTK[:, rows]), (weights_NTS.transpose(1, 2), grad_NTK[:, rows])
            if weights_NTS is kept[-1]:  # the last block of queries sees all keys
                grad_k_NTK, grad_v_NTK = torch.bmm(*to_keys), torch.bmm(*to_values)
            else:
                grad_k_NTK[:, :seen].baddbmm_(*to_keys)
                grad_v_NTK[:, :seen].baddbmm_(*to_values)
        batch, n_head, time, width = ctx.shape
        shape_BGRTK = (batch, n_head // ctx.repeats, ctx.repeats, time, width)
        grads = (grad_NTK.view(shape_BGRTK) for grad_NTK in (grad_k_NTK, grad_v_NTK))
        grad_k_BGTK, grad_v_BGTK = (grad.sum(2) if ctx.repeats > 1 else grad.squeeze(2) for grad in grads)
        return grad_q_NTK.mul_(ctx.scale).view(ctx.shape), grad_k_BGTK, grad_v_BGTK, None, None, None


def _blocks(time: int, causal: bool) -> list[tuple[slice, int]]:
    """Blocks of queries, and how many keys each of them sees."""
    if not causal:
        return [(slice(0, time), time)]
    return [(slice(start, min(start + BLOCK, time)), min(start + BLOCK, time)) for start in range(0, time, BLOCK)]


def _repeated(x_BGTK: Tensor, times: int) -> Tensor:
    """Every KV head as often as there are queries to it."""
    return x_BGTK if times == 1 else x_BGTK.repeat_interleave(times, dim=1)
