"""All parameters in two flat buffers: what decays (matrices) and what does not (gains, biases).

The model's parameters are views into a working buffer; the optimizer sees two long vectors. So clipping, casting,
accumulating and updating are one operation each, whatever the number of tensors. In bf16 the optimizer works on fp32
masters and sums gradients in fp32; in fp32 the master *is* the working buffer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

Named = tuple[str, nn.Parameter]


@dataclass
class _Group:
    """names and shapes in order; master and gradient in fp32; working (and its gradient) in the compute dtype."""

    names: list[str]
    parameters: list[nn.Parameter]
    master: Tensor
    gradient: Tensor
    working: Tensor
    working_gradient: Tensor


class FlatParameters:
    """Owns the storage of a model's parameters from here on.

    dtype: what the model computes in. Every tied tensor is held once.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        parts: tuple[list[Named], list[Named]] = ([], [])
        for named in model.named_parameters():
            parts[named[1].ndim < 2].append(named)
        self.groups = [_flatten(part, dtype) for part in parts]
        self.mixed = dtype != torch.float32

    def masters(self) -> list[Tensor]:
        """The two fp32 vectors that the optimizer updates, each with its fp32 gradient in `.grad`."""
        for group in self.groups:
            group.master.grad = group.gradient
        return [group.master for group in self.groups]

    def accumulate(self) -> None:
        """Add the gradients of one backward pass to the fp32 sums. In fp32 autograd has done it."""
        if self.mixed:
            for group in self.groups:
                group.gradient += group.working_gradient
                group.working_gradient.zero_()

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """The norm of the whole gradient."""
        norms = [torch.linalg.vector_norm(group.gradient) for group in self.groups]
        total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return total

    @torch.no_grad()
    def clip(self, norm: float, limit: float | None) -> None:
        """Scale the gradient down to `limit` where it is longer."""
        if limit is not None and norm > limit:
            for group in self.groups:
                group.gradient *= limit / norm

    def zero(self) -> None:
        """Forget the gradients."""
        for group in self.groups:
            group.gradient.zero_()
            group.working_gradient.zero_()

    def publish(self) -> None:
        """Copy the masters into what the model computes with, after an update."""
        if self.mixed:
            for group in self.groups:
                group.working.copy_(group.master)

    def named_masters(self) -> dict[str, Tensor]:
        """The fp32 weights under the model's own names, as views."""
        tensors: dict[str, Tensor] = {}
        for group in self.groups:
            pieces = torch.split(group.master, [p.numel() for p in group.parameters])
            tensors |= {name: piece.view(p.shape) for name, piece, p in zip(group.names, pieces, group.parameters, strict=True)}
        return tensors

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Fill the masters from named fp32 tensors."""
        for name, master in self.named_masters().items():
            master.copy_(weights[name])
        self.publish()


@torch.no_grad()
def _flatten(named: list[Named], dtype: torch.dtype) -> _Group:
    parameters = [parameter for _, parameter in named]
    sizes = [parameter.numel() for parameter in parameters]
    master = torch.cat([parameter.detach().float().reshape(-1) for parameter in parameters])
    gradient = torch.zeros_like(master)
    mixed = dtype != torch.float32
    working = master.to(dtype) if mixed else master
    working_gradient = torch.zeros_like(working) if mixed else gradient
    for parameter, weight, grad in zip(parameters, torch.split(working, sizes), torch.split(working_gradient, sizes), strict=True):
        parameter.data = weight.view(parameter.shape)
        parameter.grad = grad.view(parameter.shape)
    return _Group([name for name, _ in named], parameters, master, gradient, working, working_gradient)
