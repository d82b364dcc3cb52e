"""LoRA (Hu et al. 2021): every chosen matrix W stays frozen and becomes W + s·B·A, of which only A and B are trained.

Our fused matrices (q|k|v, gate|up) carry one pair (A, B) for each part of their rows, because published layouts keep the parts
apart, or one for all rows where a layout fuses them too. I inputs, O outputs of a part, R rank.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foretell.base.errors import SettingError
from foretell.models.adapter_settings import LoRASettings

PLACE = re.compile(r"(?:^|\.)blocks\.\d+\.(?:attention\.)?(qkv|out|mlp)(?:\.|$)")


class LowRank(nn.Module):
    """x → s·B·(A·x): what is learned for some rows of a matrix. A new one gives 0."""

    def __init__(self, inputs: int, outputs: int, settings: LoRASettings) -> None:
        super().__init__()
        self.settings = settings
        self.a_RI = nn.Parameter(torch.zeros(settings.rank, inputs))
        self.b_OR = nn.Parameter(torch.zeros(outputs, settings.rank))

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, self.settings.dropout, self.training)
        return F.linear(F.linear(x, self.a_RI.to(x.dtype)) * self.settings.scale, self.b_OR.to(x.dtype))

    def product(self) -> Tensor:
        """(O, I) s·B·A, fp32."""
        return self.settings.scale * (self.b_OR.float() @ self.a_RI.float())


class LoRALinear(nn.Module):
    """A frozen matrix and the pairs beside it. pairs: first row → the pair of the rows from there on; other rows have none."""

    def __init__(self, base: nn.Linear, pairs: Mapping[int, LowRank]) -> None:
        super().__init__()
        self.base = base
        self.pairs = nn.ModuleDict({str(first): pairs[first] for first in sorted(pairs)})
        self.to(base.weight.device)
        self.train(base.training)  # dropout must not be on in a model that is not trained

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        parts: list[Tensor] = []
        end = 0
        for first, pair in self.pairs.items():
            parts += [out.new_zeros(*out.shape[:-1], int(first) - end), pair(x)]
            end = int(first) + parts[-1].shape[-1]
        return out + torch.cat((*parts, out.new_zeros(*out.shape[:-1], out.shape[-1] - end)), dim=-1)


def add_adapters(model: nn.Module, parts: Mapping[str, Sequence[int]], settings: LoRASettings, seed: int) -> None:
    """Give the matrices that lora.targets names new pairs, and freeze all but these and a task head. What the model gives stays.

    parts: a linear module's name → how many rows each of its parts has (interop's `adapter_parts`). A is drawn from
    U(−1/√I, 1/√I), as in the paper's code (Kaiming uniform with a = √5), B is 0. Raises SettingError if nothing is named.
    """
    generator, pairs = torch.Generator().manual_seed(seed), dict[str, dict[int, LowRank]]()
    for name in [name for name in parts if target_of(name) in settings.targets]:
        base, first, pairs[name] = model.get_submodule(name), 0, {}
        assert isinstance(base, nn.Linear)  # noqa: S101
        for outputs in parts[name]:
            pairs[name][first] = pair = LowRank(base.in_features, outputs, settings)
            nn.init.uniform_(pair.a_RI, -(base.in_features**-0.5), base.in_features**-0.5, generator=generator)
            first += outputs
    if not pairs:
        what = f"this model has no matrices that lora.targets = {', '.join(settings.targets)} names"
        raise SettingError(what, where="lora.targets", cure="adapt a transformer, or train the whole model without [lora]")
    attach(model, pairs)


def attach(model: nn.Module, pairs: Mapping[str, Mapping[int, LowRank]]) -> None:
    """Put pairs beside linear modules, by their names, and freeze all but these and a task head."""
    model.requires_grad_(False)
    for name, of_module in pairs.items():
        base = model.get_submodule(name)
        assert isinstance(base, nn.Linear)  # noqa: S101
        model.set_submodule(name, LoRALinear(base, of_module))
    if isinstance(head := getattr(model, "task_head", None), nn.Module):
        head.requires_grad_(True)


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add every adapter to its matrix, in fp32, and make the model a plain one again, all of it trainable.

    A matrix keeps its dtype: merge an fp32 model, since in bf16 what was learned may be less than the rounding.
    """
    for name, adapted in adapters(model).items():
        weight = adapted.base.weight.to(torch.float32, copy=True)
        for first, pair in pairs_of(adapted).items():
            product = pair.product()
            weight[first : first + len(product)] += product
        adapted.base.weight = nn.Parameter(weight.to(adapted.base.weight.dtype))
        model.set_submodule(name, adapted.base)
    model.requires_grad_(True)


def adapters(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted modules, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def pairs_of(adapted: LoRALinear) -> dict[int, LowRank]:
    """An adapted module's pairs, by the first row that each is for."""
    return {int(first): pair for first, pair in adapted.pairs.items() if isinstance(pair, LowRank)}


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """What is trained: the pairs, and a task head; names as in the model's state dict."""
    return {name: value for name, value in model.state_dict().items() if ".pairs." in name or name.startswith("task_head.")}


def target_of(name: str) -> str | None:
    """Which of lora.targets a module belongs to."""
    found = PLACE.search(name)
    return found[1] if found else None
