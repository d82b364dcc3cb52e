"""From the [optimizer] section to optimizers over flat parameters."""

import torch
from torch import Tensor

from foretell.models.config import ModelConfig, TransformerConfig
from foretell.training.config import OptimizerSettings
from foretell.training.muon import Muon
from foretell.training.parameters import FlatParameters, Group


def make_optimizers(parameters: FlatParameters, settings: OptimizerSettings, config: ModelConfig) -> list[torch.optim.Optimizer]:
    """What updates the masters, fused where torch has it; decay on matrices and tables only. A group's "rate" names its setting."""
    groups = {group.role: group for group in parameters.groups}
    optimizers: list[torch.optim.Optimizer] = []
    if settings.name == "muon" and (group := groups.pop("matrices", None)):
        optimizers.append(_muon(group, settings, config, torch.bfloat16 if parameters.mixed else torch.float32))
    decay = 0.0 if settings.name == "adam" else settings.weight_decay
    rest = [{"params": [g.master], "weight_decay": 0.0 if g.role == "vectors" else decay} for g in groups.values()]
    rate, betas = settings.learning_rate, (settings.beta1, settings.beta2)
    if settings.name == "sgd":
        optimizers.append(torch.optim.SGD(rest, lr=rate, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=True))
    else:
        kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
        optimizers.append(kind(rest, lr=rate, betas=betas, eps=settings.eps, fused=True))
    for optimizer in optimizers:
        for values in optimizer.param_groups:
            values["rate"] = "muon_learning_rate" if isinstance(optimizer, Muon) else "learning_rate"
    return optimizers


def _muon(group: Group, settings: OptimizerSettings, config: ModelConfig, dtype: torch.dtype) -> Muon:
    def split(flat: Tensor) -> list[Tensor]:
        return [piece for name, matrix in group.split(flat).items() for piece in torch.split(matrix, _rows(name, matrix, config))]

    rate, decay = settings.muon_learning_rate, settings.weight_decay
    return Muon(group.master, split, lr=rate, momentum=settings.momentum, weight_decay=decay, dtype=dtype)


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
