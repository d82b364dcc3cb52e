"""Sensible choices from the data and the machine: vocabulary, model size, steps for a given time (no torch).

Of the scaling law (scaling.py) only the *order* of a few small candidates is read off here.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from foretell.models.config import ModelConfig
from foretell.models.counts import matrix_parameters
from foretell.planning.scaling import expected_loss

SHAPES = ((2, 64), (3, 96), (4, 128), (4, 192), (4, 256), (6, 256), (6, 384), (8, 512), (12, 768))  # (n_layer, d_model)


@dataclass(frozen=True)
class Plan:
    """One candidate and what can be expected of it."""

    config: ModelConfig
    tokens_per_second: float
    steps: int
    epochs: float
    expected_loss: float


def vocabulary_size(text_bytes: int) -> int:
    """Tokens for a text of this size: doubling with every fourfold text, 512 for 100 kB, 4,096 for 6 MB, 8,192 at most.

    A rare token is learned from too few examples, and each costs a row of the head.
    """
    doublings = math.log2(max(text_bytes, 1) / 100_000) / 2
    return 1 << min(13, max(9, 9 + round(doublings)))


def best_plan(
    candidates: Iterable[ModelConfig],
    speed: Callable[[ModelConfig], float],
    *,
    seconds: float,
    batch_tokens: int,
    tokens_of_text: int,
) -> tuple[Plan, list[Plan]]:
    """Measure candidates from small to large until one is expected to do worse than the one before; return the best and all."""
    plans: list[Plan] = []
    for config in candidates:
        rate = speed(config)
        steps = max(1, int(seconds * rate / batch_tokens))
        loss = expected_loss(matrix_parameters(config), steps * batch_tokens, tokens_of_text)
        plans.append(Plan(config, rate, steps, steps * batch_tokens / tokens_of_text, loss))
        if len(plans) > 1 and plans[-1].expected_loss > plans[-2].expected_loss:
            break
    return min(plans, key=lambda plan: plan.expected_loss), plans
