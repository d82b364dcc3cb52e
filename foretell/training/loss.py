"""Next-token cross-entropy, fused with the projection onto the vocabulary: the (N, V) logits never exist as a whole.

N = B·T positions, R of them at a time, D d_model, V vocabulary. Loss is summed in nats; whoever calls divides, once, by the whole
batch's weight.

    loss = w · ((1 − ε)·(log Z − l[target]) + ε·(log Z − mean l) + ζ·log² Z)         l = logits, Z = Σ exp l
    error = ∂loss/∂l = w · ((1 + 2ζ·log Z)·softmax l − (1 − ε)·one-hot − ε/V)
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foretell.models.functions import gradient_sum

# Logits held at once, in the compute dtype: rows enough for products at full speed; on a GPU so many times more.
CHUNK_VALUES, GPU_FACTOR = 2**25, 4
CACHE_VALUES = 2**20  # on a CPU the softmax is taken in fp32 of so many at a time: they stay near the processor
CACHE_ROWS = 2048  # and so many rows of the head's gradient are added at a time


class Terms(NamedTuple):
    """What is minimised beside the plain loss: ζ (Chowdhery et al. 2022, section 5) and ε (Szegedy et al. 2016, section 7)."""

    z_loss: float = 0.0
    label_smoothing: float = 0.0


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and gradients in one pass over chunks of rows; backward only scales them.

    total_VD: the head's gradient is added there at once, and is none for autograd.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        targets_N: Tensor,
        weight_N: Tensor,
        bias_V: Tensor | None,
        terms: Terms,
        total_VD: Tensor | None,
    ) -> Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_head_VD = total_VD
        if total_VD is None and ctx.needs_input_grad[1]:
            grad_head_VD = torch.zeros_like(head_VD, dtype=torch.float32)
        grad_bias_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        for rows, logits_RV in _chunks(hidden_ND, head_VD, bias_V):
            targets, weight = targets_N[rows, None], weight_N[rows, None]
            for part in _near(logits_RV):
                loss += _become_error(logits_RV[part], targets[part], weight[part], terms, grad_bias_V)
            torch.mm(logits_RV, head_VD, out=grad_hidden_ND[rows])
            if grad_head_VD is not None:
                _add_product(grad_head_VD, logits_RV, hidden_ND[rows])
        ctx.added, ctx.head_dtype = total_VD is not None, head_VD.dtype
        ctx.save_for_backward(grad_hidden_ND, None if ctx.added else grad_head_VD, grad_bias_V)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        known = float(grad_loss) if grad_loss.device.type == "cpu" else None  # reading a GPU's number would wait for it
        if ctx.added:
            assert known in (1.0, None), "the head's gradient is already added: scale the weights, not the loss"  # noqa: S101
        if ctx.added or known == 1.0:
            scaled = ctx.saved_tensors
        else:
            scaled = [None if grad is None else grad * grad_loss.to(grad.dtype) for grad in ctx.saved_tensors]
        grad_hidden_ND, grad_head_VD, grad_bias_V = scaled
        return grad_hidden_ND, grad_head_VD, None, None, grad_bias_V, None, None


def cross_entropy_sum(
    hidden_BTD: Tensor,
    head_VD: Tensor,
    targets_BT: Tensor,
    weight_BT: Tensor,
    bias_V: Tensor | None = None,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Σ weight · −log softmax(hidden·headᵀ + bias)[target], a scalar in nats, with gradients for hidden, head and bias.

    Where training keeps an fp32 sum of the head's gradients (`gradient_sum`), the gradient is added to it now: then call
    backward on the result as it is, scaled through weight_BT alone.
    """
    flat = hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), head_VD, targets_BT.reshape(-1), weight_BT.reshape(-1).float()
    total_VD = gradient_sum(head_VD) if torch.is_grad_enabled() else None
    loss: Tensor = _LinearCrossEntropy.apply(*flat, bias_V, Terms(z_loss, label_smoothing), total_VD)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def nats_per_token(hidden_BTD: Tensor, head_VD: Tensor, targets_BT: Tensor) -> Tensor:
    """−log p(target) of every position, (B, T), fp32, without gradients."""
    hidden_ND, targets_N = hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), targets_BT.reshape(-1)
    nats_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
    for rows, logits_RV in _chunks(hidden_ND, head_VD, None):
        for part in _near(logits_RV):
            log_probs = logits_RV[part].float().log_softmax(dim=-1)
            nats_N[rows][part] = -log_probs.gather(1, targets_N[rows][part, None]).squeeze(1)
    return nats_N.view(targets_BT.shape)


def _chunks(hidden_ND: Tensor, head_VD: Tensor, bias_V: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of rows and their logits, which the next chunk overwrites."""
    count, vocabulary = len(hidden_ND), len(head_VD)
    at_once = max(64, CHUNK_VALUES * (1 if hidden_ND.device.type == "cpu" else GPU_FACTOR) // vocabulary)
    size = -(-count // max(1, -(-count // at_once)))  # chunks of about one size
    room_RV = hidden_ND.new_empty(size, -(-vocabulary // 64) * 64)[:, :vocabulary]  # rows begin where cache lines begin
    for start in range(0, count, max(1, size)):
        hidden_RD = hidden_ND[start : start + size]
        logits_RV = room_RV[: len(hidden_RD)]
        if bias_V is None:
            torch.mm(hidden_RD, head_VD.t(), out=logits_RV)
        else:
            torch.addmm(bias_V, hidden_RD, head_VD.t(), out=logits_RV)
        yield slice(start, start + len(hidden_RD)), logits_RV


def _near(logits_RV: Tensor) -> list[slice]:
    rows, vocabulary = logits_RV.shape
    step = max(1, CACHE_VALUES // vocabulary) if logits_RV.device.type == "cpu" else rows
    return [slice(start, start + step) for start in range(0, rows, step)]


def _become_error(logits_RV: Tensor, targets_R1: Tensor, weight_R1: Tensor, terms: Terms, grad_bias_V: Tensor | None) -> Tensor:
    """Overwrite logits by the loss's gradient; return the loss. In fp32, whatever the logits are."""
    scores_RV = logits_RV.float()
    error_RV = scores_RV.softmax(dim=-1)
    log_z_R1 = scores_RV.amax(1, keepdim=True) - error_RV.amax(1, keepdim=True).log()  # softmax's maximum is exp(max l)/Z, never 0
    share = 1.0 - terms.label_smoothing
    nats_R1 = log_z_R1 - share * scores_RV.gather(1, targets_R1)
    factor_R1 = weight_R1
    if terms.label_smoothing:
        nats_R1 -= terms.label_smoothing * scores_RV.mean(1, keepdim=True)
    if terms.z_loss:
        nats_R1 += terms.z_loss * log_z_R1.square()
        factor_R1 = weight_R1 * (1 + 2 * terms.z_loss * log_z_R1)
    error_RV *= factor_R1
    error_RV.scatter_add_(1, targets_R1, -share * weight_R1)
    if terms.label_smoothing:
        error_RV -= weight_R1 * (terms.label_smoothing / logits_RV.shape[1])
    if grad_bias_V is not None:
        grad_bias_V += error_RV.sum(0)
    logits_RV.copy_(error_RV)
    return (nats_R1 * weight_R1).sum()


def _add_product(total_VD: Tensor, error_RV: Tensor, hidden_RD: Tensor) -> None:
    """total ← total + errorᵀ·hidden, summed in fp32."""
    if hidden_RD.dtype == torch.float32:
        total_VD.addmm_(error_RV.t(), hidden_RD)
        return
    step = CACHE_ROWS if total_VD.device.type == "cpu" else len(total_VD)
    for start in range(0, len(total_VD), step):
        total_VD[start : start + step].add_(error_RV[:, start : start + step].t() @ hidden_RD)
