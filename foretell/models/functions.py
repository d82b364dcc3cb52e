"""Functions of the layers with gradients by hand: fewer passes over memory than autograd's, and less kept for them.

Each is the plain formula (what compilers, exporters and inference get) and its derivative. B batch, T time, D d_model, H heads,
K d_head, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def by_hand() -> bool:
    """Gradients are wanted, and no compiler that makes better ones is reading along."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def gradient_sum(parameter: Tensor) -> Tensor | None:
    """The fp32 sum that training keeps of a parameter's gradients, where the parameter itself has fewer bits."""
    kept = parameter.is_leaf and parameter.dtype != parameter.grad_dtype == torch.float32
    return parameter.grad if kept else None


def look_up(tokens_BT: Tensor, table_VD: Tensor) -> Tensor:
    """The tokens' rows of a table, (B, T, D)."""
    total_VD = gradient_sum(table_VD) if by_hand() else None
    if total_VD is None:
        return F.embedding(tokens_BT, table_VD)
    out: Tensor = _Lookup.apply(tokens_BT, table_VD, total_VD)  # type: ignore[no-untyped-call]
    return out


class _Lookup(torch.autograd.Function):
    """The gradient is added to the rows that were read, in fp32; the others are not touched."""

    @staticmethod
    def forward(ctx: Any, tokens_BT: Tensor, table_VD: Tensor, total_VD: Tensor) -> Tensor:
        ctx.save_for_backward(tokens_BT)
        ctx.total_VD = total_VD  # not saved: the loss writes into it meanwhile
        return F.embedding(tokens_BT, table_VD)

    @staticmethod
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[None, None, None]:
        (tokens_BT,) = ctx.saved_tensors
        ctx.total_VD.index_add_(0, tokens_BT.flatten(), grad_BTD.flatten(0, 1).float())
        return None, None, None


def root_norm(x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
    """gain ⊙ x / √(mean x² + eps) over the last dimension, computed in fp32."""
    if not by_hand():
        return F.rms_norm(x, gain_D.shape, gain_D, eps)
    out: Tensor = _RootNorm.apply(x, gain_D, eps)  # type: ignore[no-untyped-call]
    return out


class _RootNorm(torch.autograd.Function):
    """With y = x/rms: ∂gain = Σ g ⊙ y, ∂x = (g ⊙ gain − y · mean(g ⊙ gain ⊙ y)) / rms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        wide = x.float() if x.dtype == torch.bfloat16 else x
        inverse = (torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_() / x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, gain_D, inverse)
        out: Tensor = (wide * inverse).mul_(gain_D).to(x.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain_D, inverse = ctx.saved_tensors
        grad, gain = grad.to(inverse.dtype), gain_D.to(inverse.dtype)
        normed = x * inverse
        product = (grad * normed).flatten(0, -2)
        grad_gain_D, mean = product.sum(0), (product.mv(gain) / -x.shape[-1]).view_as(inverse)
        return (grad * gain).addcmul_(normed, mean).mul_(inverse).to(x.dtype), grad_gain_D.to(gain_D.dtype), None


def rotate(x_BTHK: Tensor, rotation_2TK: Tensor) -> Tensor:
    """Turn each pair of a head's coordinates by its position's angle, given as cos and sin: (2, T, K) or (2, B, T, K)."""
    cos_T1K, sin_T1K = rotation_2TK.unsqueeze(-2).unbind()
    if by_hand():
        out: Tensor = _Rotation.apply(x_BTHK, cos_T1K, sin_T1K)  # type: ignore[no-untyped-call]
        return out
    first, second = x_BTHK.chunk(2, dim=-1)
    return x_BTHK * cos_T1K + torch.cat((-second, first), dim=-1) * sin_T1K


class _Rotation(torch.autograd.Function):
    """The gradient is turned back by the same angle."""

    @staticmethod
    def forward(ctx: Any, x_BTHK: Tensor, cos_T1K: Tensor, sin_T1K: Tensor) -> Tensor:
        ctx.save_for_backward(cos_T1K, sin_T1K)
        return _turned(x_BTHK, cos_T1K, sin_T1K, 1)

    @staticmethod
    def backward(ctx: Any, grad_BTHK: Tensor) -> tuple[Tensor, None, None]:
        cos_T1K, sin_T1K = ctx.saved_tensors
        return _turned(grad_BTHK, cos_T1K, sin_T1K, -1), None, None


def _turned(x_BTHK: Tensor, cos_T1K: Tensor, sin_T1K: Tensor, sense: int) -> Tensor:
    out_BTHK, sin_T1K2 = x_BTHK * cos_T1K, sin_T1K.chunk(2, dim=-1)[0]
    (first, second), (out_first, out_second) = x_BTHK.chunk(2, dim=-1), out_BTHK.chunk(2, dim=-1)
    out_first.addcmul_(second, sin_T1K2, value=-sense)
    out_second.addcmul_(first, sin_T1K2, value=sense)
    return out_BTHK
