"""Muon: momentum whose matrices are orthogonalised before they are subtracted (Jordan et al. 2024).

    M ← μ·M + (1 − μ)·G         U = NewtonSchulz(G + μ·(M − G))         W ← W − η·√max(1, rows/columns)·U − η·λ·W

Matrices of one shape are orthogonalised together, as one batch. A matrix that holds several (queries, keys and values;
gate and up) is taken apart first: orthogonal together is not orthogonal each.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foretell.training.updates import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic: steepest at 0 while what is near 1 stays near 1
STEPS = 5
Split = Callable[[Tensor], list[Tensor]]  # a flat vector as the views of its matrices


class Muon(Optimizer):
    """Updates flat vectors of matrices; `split` says where each matrix lies. Same numbers as torch.optim.Muon, matrix by matrix."""

    def __init__(self, flat: Tensor, split: Split, *, lr: float, momentum: float, weight_decay: float, dtype: torch.dtype) -> None:
        """dtype: what Newton and Schulz's products are computed in."""
        super().__init__([{"params": [flat], "lr": lr, "momentum": momentum, "weight_decay": weight_decay}])
        self._split, self._dtype = split, dtype

    @torch.no_grad()
    def _update(self, vector: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        assert vector.grad is not None  # noqa: S101
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(vector)
        state["step"] += 1
        momentum = state["momentum_buffer"].lerp_(vector.grad, 1 - group["momentum"])
        update = vector.grad.lerp(momentum, group["momentum"])
        vector.mul_(1 - group["lr"] * group["weight_decay"])
        self._subtract(self._split(vector), self._split(update), group["lr"])

    def _subtract(self, weights: list[Tensor], updates: list[Tensor], rate: float) -> None:
        shapes: dict[torch.Size, list[int]] = {}
        for index, update in enumerate(updates):
            shapes.setdefault(update.shape, []).append(index)
        for (rows, columns), indices in shapes.items():
            batch = orthogonalised(torch.stack([updates[index] for index in indices]), self._dtype)
            for index, update in zip(indices, batch, strict=True):
                weights[index].sub_(update, alpha=rate * max(1.0, rows / columns) ** 0.5)


def orthogonalised(matrices_NRC: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest (semi-)orthogonal matrices U·Vᵀ of U·S·Vᵀ, singular values within about 0.7 … 1.2: Newton-Schulz iteration."""
    first, second, third = COEFFICIENTS
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x_NRC = (matrices_NRC.transpose(1, 2) if tall else matrices_NRC).to(dtype)
    x_NRC = x_NRC / x_NRC.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram_NRR = x_NRC @ x_NRC.transpose(1, 2)
        gram_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=second, alpha=third)
        x_NRC = torch.baddbmm(x_NRC, gram_NRR, x_NRC, beta=first)
    return (x_NRC.transpose(1, 2) if tall else x_NRC).float()
