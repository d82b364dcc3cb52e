"""All parameters in two flat buffers: what decays (matrices) and what does not (gains, biases).

The model's parameters are views into a working buffer; the optimizer sees two long vectors. So clipping, casting,
accumulating and updating are one operation each, whatever the number of tensors. In bf16 the optimizer works on fp32
masters and sums gradients in fp32; in fp32 the master *is* the working buffer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class _Group:
    """master and gradient: fp32. working and its gradient: in the compute dtype; the named parameters are views of them."""

    named: dict[str, nn.Parameter]
    master: Tensor
    gradient: Tensor
    working: Tensor
    working_gradient: Tensor


class FlatParameters:
    """Owns the storage of a model's parameters from here on; a tied tensor is held once. dtype: what the model computes in."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        parts: tuple[dict[str, nn.Parameter], ...] = ({}, {})
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parts[parameter.ndim < 2][name] = parameter
        self.groups = [_flatten(part, dtype) for part in parts]
        self.mixed = dtype != torch.float32

    @property
    def masters(self) -> list[Tensor]:
        """The two fp32 vectors that the optimizer updates, matrices first."""
        return [group.master for group in self.groups]

    def accumulate(self) -> None:
        """Add the gradients of one backward pass to the fp32 sums. In fp32 autograd has done it."""
        if self.mixed:
            for group in self.groups:
                group.gradient.add_(group.working_gradient)
                group.working_gradient.zero_()

    def gradient_norm(self) -> float:
        """The norm of the whole gradient."""
        norms = [torch.linalg.vector_norm(group.gradient) for group in self.groups]
        return float(torch.linalg.vector_norm(torch.stack(norms)))

    def clip(self, norm: float, limit: float | None) -> None:
        """Scale the gradient down to `limit` where its norm is larger."""
        if limit is not None and norm > limit:
            for group in self.groups:
                group.gradient.mul_(limit / norm)

    def zero(self) -> None:
        """Forget the gradients."""
        for group in self.groups:
            group.gradient.zero_()
            group.working_gradient.zero_()

    def publish(self) -> None:
        """Copy the masters into what the model computes with, after an update."""
        for group in self.groups:
            if self.mixed:
                group.working.copy_(group.master)

    def named_masters(self) -> dict[str, Tensor]:
        """The fp32 weights under the model's own names, as views."""
        tensors: dict[str, Tensor] = {}
        for group in self.groups:
            pieces = torch.split(group.master, [parameter.numel() for parameter in group.named.values()])
            tensors |= {name: piece.view(p.shape) for (name, p), piece in zip(group.named.items(), pieces, strict=True)}
        return tensors

    def load(self, weights: dict[str, Tensor]) -> None:
        """Fill the masters from named fp32 tensors."""
        for name, master in self.named_masters().items():
            master.copy_(weights[name])
        self.publish()


@torch.no_grad()
def _flatten(named: dict[str, nn.Parameter], dtype: torch.dtype) -> _Group:
    pieces = [parameter.float().reshape(-1) for parameter in named.values()]
    master = torch.cat(pieces or [torch.zeros(0)])  # adapters alone have no vectors
    master.grad = total = torch.zeros_like(master)
    mixed, sizes = dtype != torch.float32, [parameter.numel() for parameter in named.values()]
    working = master.to(dtype) if mixed else master
    gradient = torch.zeros_like(working) if mixed else total
    for parameter, weights, gradients in zip(
        named.values(), torch.split(working, sizes), torch.split(gradient, sizes), strict=True
    ):
        parameter.data, parameter.grad = weights.view(parameter.shape), gradients.view(parameter.shape)
    return _Group(named, master, total, working, gradient)
