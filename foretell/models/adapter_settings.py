"""How a LoRA adapter is made (no torch here)."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from foretell.base.settings import Settings

Target = Literal["qkv", "out", "mlp"]
TARGETS: tuple[Target, ...] = ("qkv", "out", "mlp")


class LoRASettings(Settings):
    """The [lora] section of a recipe (Hu et al. 2021): W + scale·B·A, of which only A and B are trained."""

    rank: PositiveInt = 8
    """Rows of A, columns of B: more can learn more, and costs more memory."""
    alpha: PositiveFloat = 16.0
    """What the adapter is multiplied with, times 1/rank: so the learning rate need not change with the rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """On what A reads, in training."""
    targets: tuple[Target, ...] = Field(default=TARGETS, min_length=1)
    """Which matrices of every block: qkv (queries, keys, values), out (attention's output), mlp (all of it)."""
    rslora: bool = False
    """alpha/√rank instead of alpha/rank, which keeps large ranks learning (Kalajdzievski 2023)."""

    @property
    def scale(self) -> float:
        """What B·A is multiplied with."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)
