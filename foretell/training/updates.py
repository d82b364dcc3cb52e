"""Adam, AdamW and SGD over long vectors: torch's own fused updates, without torch.optim.Optimizer around them.

That class imports torch's compiler when it is made, which takes longer than torch itself does.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

Groups = list[dict[str, Any]]


class Optimizer(ABC):
    """param_groups: {"params": tensors whose .grad is used, "lr": …}. state: per tensor, what is remembered, by name."""

    def __init__(self, groups: Groups) -> None:
        self.param_groups = groups
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def step(self) -> None:
        """One update from the gradients."""
        for group in self.param_groups:
            for vector in group["params"]:
                state = self.state.setdefault(vector, {})
                if "step" not in state:
                    state["step"] = torch.zeros((), dtype=torch.float32, device=vector.device)
                self._update(vector, state, group)

    @abstractmethod
    def _update(self, vector: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        """Change one tensor and what is remembered of it."""


class Adam(Optimizer):
    """Kingma & Ba 2015. decoupled: weight decay apart from the gradient, AdamW (Loshchilov & Hutter 2019)."""

    def __init__(self, groups: Groups, *, betas: tuple[float, float], eps: float, decoupled: bool) -> None:
        super().__init__(groups)
        self._betas, self._eps, self._decoupled = betas, eps, decoupled

    @torch.no_grad()
    def _update(self, vector: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        if "exp_avg" not in state:
            state |= {"exp_avg": torch.zeros_like(vector), "exp_avg_sq": torch.zeros_like(vector)}
        moments = [state["exp_avg"]], [state["exp_avg_sq"]]
        assert vector.grad is not None  # noqa: S101
        adam(
            [vector], [vector.grad], *moments, [], [state["step"]],
            fused=True, amsgrad=False, beta1=self._betas[0], beta2=self._betas[1], lr=group["lr"],
            weight_decay=group["weight_decay"], eps=self._eps, maximize=False, decoupled_weight_decay=self._decoupled,
        )  # fmt: skip


class SGD(Optimizer):
    """Stochastic gradient descent with Nesterov's momentum (Sutskever et al. 2013); weight decay is part of the gradient."""

    def __init__(self, groups: Groups, *, momentum: float) -> None:
        super().__init__(groups)
        self._momentum = momentum

    @torch.no_grad()
    def _update(self, vector: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        assert vector.grad is not None  # noqa: S101
        buffers: list[Tensor | None] = [state.get("momentum_buffer")]
        sgd(
            [vector], [vector.grad], buffers,
            fused=True, weight_decay=group["weight_decay"], momentum=self._momentum, lr=group["lr"], dampening=0.0,
            nesterov=self._momentum > 0, maximize=False,
        )  # fmt: skip
        state["step"] += 1
        if buffers[0] is not None:
            state["momentum_buffer"] = buffers[0]
