"""From the [optimizer] section to optimizers over flat parameters."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from foretell.models.config import ModelConfig, TransformerConfig
from foretell.training.config import OptimizerSettings
from foretell.training.muon import Muon
from foretell.training.parameters import FlatParameters, Group
from foretell.training.updates import SGD, Adam, Optimizer

if TYPE_CHECKING:
    from foretell.training.sharded import ShardedGroup, ShardedParameters


def make_optimizers(
    parameters: "FlatParameters | ShardedParameters", settings: OptimizerSettings, config: ModelConfig
) -> list[Optimizer]:
    """What updates the masters, fused where torch has it; decay on matrices and tables only. A group's "rate" names its setting."""
    groups: dict[str, Group | ShardedGroup] = {group.role: group for group in parameters.groups}
    optimizers: list[Optimizer] = []
    if settings.name == "muon" and (group := groups.pop("matrices", None)):
        optimizers.append(_muon(group, settings, config, torch.bfloat16 if parameters.mixed else torch.float32))
    decay = 0.0 if settings.name == "adam" else settings.weight_decay
    rate, betas = settings.learning_rate, (settings.beta1, settings.beta2)
    rest = [{"params": g.masters, "lr": rate, "weight_decay": 0.0 if g.role == "vectors" else decay} for g in groups.values()]
    if settings.name == "sgd":
        optimizers.append(SGD(rest, momentum=settings.momentum))
    else:
        optimizers.append(Adam(rest, betas=betas, eps=settings.eps, decoupled=settings.name != "adam"))
    for optimizer in optimizers:
        for values in optimizer.param_groups:
            values["rate"] = "muon_learning_rate" if isinstance(optimizer, Muon) else "learning_rate"
    return optimizers


def _muon(group: "Group | ShardedGroup", settings: OptimizerSettings, config: ModelConfig, dtype: torch.dtype) -> Muon:
    def parts(name: str, matrix: Tensor) -> list[Tensor]:
        return list(torch.split(matrix, _rows(name, matrix, config)))

    options = {"lr": settings.muon_learning_rate, "momentum": settings.momentum, "weight_decay": settings.weight_decay}
    if isinstance(group, Group):
        named = group.split
        return Muon(group.master, lambda flat: [p for pair in named(flat).items() for p in parts(*pair)], **options, dtype=dtype)
    from foretell.training.sharded import ShardedMuon  # seldom needed, long to import

    return ShardedMuon(group, parts, **options, dtype=dtype)


def _rows(name: str, matrix: Tensor, config: ModelConfig) -> list[int]:
    """The rows of each matrix that a parameter holds."""
    if isinstance(config, TransformerConfig):
        if name.endswith(".qkv.weight"):
            return [heads * config.d_head for heads in (config.n_head, config.n_kv_head, config.n_kv_head)]
        if name.endswith(".gate_up.weight"):
            return [config.d_ff, config.d_ff]
    elif name.startswith("lstm."):
        return [len(matrix) // 4] * 4  # gates
    return [len(matrix)]
