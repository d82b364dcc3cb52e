"""Next-token cross-entropy, fused with the projection onto the vocabulary: the (N, V) logits never exist as a whole.

N = B·T positions, D d_model, V vocabulary. Loss is summed in nats; whoever calls divides, once, by the whole batch's weight.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_VALUES = 2**21  # logits held at once: 8 MiB in fp32 stay in the last-level cache


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and both gradients in one pass over chunks of rows; backward only scales them."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weight_N: Tensor, bias_V: Tensor | None) -> Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_head_VD = torch.zeros_like(head_VD, dtype=torch.float32)  # sums over chunks lose digits in bf16
        grad_bias_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        for rows in _chunks(hidden_ND, head_VD):
            hidden, targets, weight = hidden_ND[rows], targets_N[rows, None], weight_N[rows]
            log_probs = _logits(hidden, head_VD, bias_V).log_softmax(dim=-1)
            loss -= (log_probs.gather(1, targets).squeeze(1) * weight).sum()
            error = log_probs.exp_()  # softmax − one-hot: the gradient of each row
            error.scatter_add_(1, targets, torch.full_like(weight, -1.0)[:, None])
            error = error.mul_(weight[:, None])
            if grad_bias_V is not None:
                grad_bias_V += error.sum(0)
            error = error.to(hidden.dtype)
            torch.mm(error, head_VD, out=grad_hidden_ND[rows])
            if head_VD.dtype == torch.float32:
                grad_head_VD.addmm_(error.t(), hidden)
            else:
                grad_head_VD += error.t() @ hidden
        ctx.save_for_backward(grad_hidden_ND, grad_head_VD, grad_bias_V)
        ctx.head_dtype = head_VD.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, None, None, Tensor | None]:
        grad_hidden_ND, grad_head_VD, grad_bias_V = ctx.saved_tensors
        scaled_head_VD = (grad_head_VD * grad_loss).to(ctx.head_dtype)
        scaled_bias_V = None if grad_bias_V is None else (grad_bias_V * grad_loss).to(ctx.head_dtype)
        return grad_hidden_ND * grad_loss.to(grad_hidden_ND.dtype), scaled_head_VD, None, None, scaled_bias_V


def cross_entropy_sum(
    hidden_BTD: Tensor, head_VD: Tensor, targets_BT: Tensor, weight_BT: Tensor, bias_V: Tensor | None = None
) -> Tensor:
    """Σ weight · −log softmax(hidden·headᵀ + bias)[target], a scalar in nats, with gradients for hidden, head and bias."""
    flat = hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), head_VD, targets_BT.reshape(-1), weight_BT.reshape(-1).float()
    loss: Tensor = _LinearCrossEntropy.apply(*flat, bias_V)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def nats_per_token(hidden_BTD: Tensor, head_VD: Tensor, targets_BT: Tensor) -> Tensor:
    """−log p(target) of every position, (B, T), fp32, without gradients."""
    hidden_ND, targets_N = hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), targets_BT.reshape(-1)
    nats_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
    for rows in _chunks(hidden_ND, head_VD):
        log_probs = (hidden_ND[rows] @ head_VD.t()).float().log_softmax(dim=-1)
        nats_N[rows] = -log_probs.gather(1, targets_N[rows, None]).squeeze(1)
    return nats_N.view(targets_BT.shape)


def _logits(hidden_ND: Tensor, head_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    logits_NV = hidden_ND @ head_VD.t()
    return logits_NV.float() if bias_V is None else (logits_NV + bias_V).float()


def _chunks(hidden_ND: Tensor, head_VD: Tensor) -> list[slice]:
    rows = max(64, CHUNK_VALUES // head_VD.shape[0])
    return [slice(start, start + rows) for start in range(0, hidden_ND.shape[0], rows)]
