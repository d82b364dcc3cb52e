"""All parameters in a few flat buffers, one for each role: layers' matrices, tables (embeddings, head), vectors (gains, biases).

The model's parameters are views into a working buffer; the optimizer sees three long vectors. So clipping, casting,
and updating are one operation each, whatever the number of tensors. In bf16 the optimizer works on fp32 masters, and autograd
adds gradients to fp32 sums (grad_dtype); in fp32 the master *is* the working buffer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from foretell.compute.distributed import Ranks
from foretell.training.updates import Optimizer

Role = Literal["matrices", "tables", "vectors"]
ROLES: tuple[Role, ...] = ("matrices", "tables", "vectors")


def role_of(name: str, parameter: Tensor) -> Role:
    """What a parameter is for the optimizer."""
    if parameter.ndim < 2:
        return "vectors"
    return "tables" if "embedding" in name or name.startswith(("head", "next_sentence")) else "matrices"


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to: token_embedding, blocks.0, …, head."""
    words = name.split(".")
    return ".".join(words[: 2 if len(words) > 1 and words[1].isdigit() else 1])


@dataclass
class Group:
    """master, gradient, average: fp32. working: in the compute dtype; the named parameters are views of it, with fp32 gradients."""

    role: Role
    named: dict[str, nn.Parameter]
    master: Tensor
    gradient: Tensor
    working: Tensor
    average: Tensor | None = None

    @property
    def masters(self) -> list[Tensor]:
        """What the optimizer updates."""
        return [self.master]

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """A flat vector of this group as views under the parameters' names."""
        pieces = torch.split(flat, [parameter.numel() for parameter in self.named.values()])
        return {name: piece.view(p.shape) for (name, p), piece in zip(self.named.items(), pieces, strict=True)}


class FlatParameters:
    """Owns the storage of a model's parameters from here on; a tied tensor is held once. dtype: what the model computes in.

    average: also keep an exponential moving average of the masters (see `follow`).
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, average: bool = False) -> None:
        parts: dict[Role, dict[str, nn.Parameter]] = {role: {} for role in ROLES}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parts[role_of(name, parameter)][name] = parameter
        self.groups = [_flatten(role, part, dtype) for role, part in parts.items() if part]
        self.mixed = dtype != torch.float32
        for group in self.groups if average else ():
            group.average = group.master.clone()

    def reduce(self, ranks: Ranks) -> None:
        """After all passes: sum the gradients over the ranks, so that accumulation costs no more; not overlapped with backward."""
        for group in self.groups:
            ranks.all_reduce(group.gradient)

    def gradient_norm(self) -> float:
        """The norm of the whole gradient."""
        norms = [torch.linalg.vector_norm(group.gradient) for group in self.groups]
        return float(torch.linalg.vector_norm(torch.stack(norms)))

    def gradient_norms(self) -> dict[str, float]:
        """The norm of the gradient of each part of the model: token_embedding, blocks.0, …, head."""
        squares: dict[str, float] = {}
        for group in self.groups:
            for name, gradient in group.split(group.gradient).items():
                part = part_of(name)
                squares[part] = squares.get(part, 0.0) + float(torch.linalg.vector_norm(gradient)) ** 2
        return {part: square**0.5 for part, square in squares.items()}

    def clip(self, norm: float, limit: float | None) -> None:
        """Scale the gradient down to `limit` where its norm is larger."""
        if limit is not None and norm > limit:
            for group in self.groups:
                group.gradient.mul_(limit / norm)

    def zero(self) -> None:
        """Forget the gradients."""
        for group in self.groups:
            group.gradient.zero_()

    def publish(self) -> None:
        """Copy the masters into what the model computes with, after an update."""
        for group in self.groups:
            if self.mixed:
                group.working.copy_(group.master)

    def follow(self, decay: float) -> None:
        """Move the average towards the masters: average ← decay · average + (1 − decay) · master."""
        for group in self.groups:
            if group.average is not None:
                group.average.lerp_(group.master, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within: the model computes with the average, where there is one."""
        kept = [group.master.clone() if group.average is not None and not self.mixed else group.master for group in self.groups]
        for group in self.groups:
            if group.average is not None:
                group.working.copy_(group.average)
        try:
            yield
        finally:
            for group, master in zip(self.groups, kept, strict=True):
                if group.average is not None:
                    group.working.copy_(master)

    def whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Named tensors as they are: each rank holds all."""
        return tensors

    def named_masters(self) -> dict[str, Tensor]:
        """The fp32 weights under the model's own names, as views."""
        return {name: tensor for group in self.groups for name, tensor in group.split(group.master).items()}

    def named_averages(self) -> dict[str, Tensor]:
        """The averaged fp32 weights likewise; empty where none are kept."""
        averages = [(group, group.average) for group in self.groups if group.average is not None]
        return {name: tensor for group, average in averages for name, tensor in group.split(average).items()}

    def named_moments(self, optimizers: list[Optimizer]) -> dict[str, Tensor]:
        """What the optimizers remember, as `exp_avg.NAME` and the like, views; empty before the first update."""
        found: dict[str, Tensor] = {}
        for group in self.groups:
            for optimizer in optimizers:
                for kind, flat in optimizer.state.get(group.master, {}).items():
                    if torch.is_tensor(flat) and flat.shape == group.master.shape:
                        found |= {f"{kind}.{name}": tensor for name, tensor in group.split(flat).items()}
        return found

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor], averages: dict[str, Tensor]) -> None:
        """Fill the masters and the averages from named fp32 tensors; averages begin at the weights where none are given."""
        for name, master in self.named_masters().items():
            master.copy_(weights[name])
        for name, average in self.named_averages().items():
            average.copy_(averages.get(name, weights[name]))
        self.publish()

    @torch.no_grad()
    def load_moments(self, moments: dict[str, Tensor], step: Tensor, optimizers: list[Optimizer]) -> None:
        """Give the optimizers back what `named_moments` said."""
        kinds = {name.split(".", 1)[0] for name in moments}
        for optimizer in optimizers:
            mine = {id(parameter) for settings in optimizer.param_groups for parameter in settings["params"]}
            for group in self.groups:
                if id(group.master) in mine:
                    state = {
                        kind: torch.zeros_like(group.master) for kind in kinds if f"{kind}.{next(iter(group.named))}" in moments
                    }
                    for kind, flat in state.items():
                        for name, tensor in group.split(flat).items():
                            tensor.copy_(moments[f"{kind}.{name}"])
                    optimizer.state[group.master] = {"step": step.to(group.master.device, copy=True), **state}


@torch.no_grad()
def _flatten(role: Role, named: dict[str, nn.Parameter], dtype: torch.dtype) -> Group:
    master = torch.cat([parameter.float().reshape(-1) for parameter in named.values()])
    master.grad = total = torch.zeros_like(master)
    group = Group(role, named, master, total, working=master.to(dtype))  # in fp32 the same tensor
    weights, gradients = group.split(group.working), group.split(total)
    for name, parameter in named.items():
        parameter.data, parameter.grad_dtype, parameter.grad = weights[name], torch.float32, gradients[name]
    return group
