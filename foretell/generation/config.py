"""How the next token is chosen: the [generation] section, and the flags of `generate`."""

import secrets
from typing import Annotated, Literal

from pydantic import Field

from foretell.base.settings import Settings


class GenerationSettings(Settings):
    """Sampling settings. Filters apply in the order temperature, top_k, top_p."""

    strategy: Literal["greedy", "sample"] = "sample"
    max_tokens: int = Field(default=200, gt=0)
    temperature: float = Field(default=0.8, gt=0)
    """Logits are divided by this: below 1 bolder, above 1 wilder."""
    top_k: int | None = Field(default=None, gt=0)
    """Only the k likeliest tokens."""
    top_p: float | None = Field(default=0.95, gt=0, le=1)
    """Only the likeliest tokens that together hold this probability (nucleus; Holtzman et al. 2020)."""
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """The same seed gives the same text; absent: a new one each time, which is told."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Generation ends before the first of these strings."""

    def chosen_seed(self) -> int:
        """The seed as set, else a new one."""
        return secrets.randbits(31) if self.seed is None else self.seed
