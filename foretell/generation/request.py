"""What is asked of the engine and what it answers."""

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "end_of_text", "length", "context"]


@dataclass(frozen=True)
class Alternative:
    """A token that could have come, and the model's own probability for it (before temperature and filters)."""

    token: int
    text: str
    probability: float


@dataclass(frozen=True)
class TokenEvent:
    """One generated token.

    text: what became certain with it (a half character or the beginning of a stop string is held back).
    probability: the model's own. alternatives: the likeliest tokens of that step, best first, when asked for.
    """

    token: int
    text: str
    probability: float
    alternatives: tuple[Alternative, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass
class Completion:
    """A whole answer. seed: the one that repeats it."""

    prompt: str
    text: str
    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    seed: int | None = None
