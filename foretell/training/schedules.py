"""The learning rate and the size of the batch as pure functions of the step."""

import math

from foretell.training.config import ScheduleSettings


def learning_rate_share(step: int, steps: int, schedule: ScheduleSettings) -> float:
    """The share of the peak rate at `step` (from 0) of `steps`: linear warm-up, then the decay.

    Source: cosine as in Radford et al. 2018 §4.1 and Loshchilov & Hutter 2017; wsd: Hu et al. 2024 §4.2.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    last = max(steps, schedule.warmup_steps + 1)
    progress = min(1.0, (step - schedule.warmup_steps) / (last - schedule.warmup_steps))  # 0 at the peak, 1 at the end
    if schedule.decay == "constant":
        return 1.0
    if schedule.decay == "inverse_sqrt":
        left = math.sqrt(max(schedule.warmup_steps, 1) / max(step, 1))
    elif schedule.decay == "cosine":
        left = 0.5 * (1 + math.cos(math.pi * progress))
    elif schedule.decay == "linear":
        left = 1 - progress
    else:
        left = min(1.0, (last - step) / max(1.0, schedule.decay_share * last))
    return schedule.final_share + (1 - schedule.final_share) * left


def batch_windows(step: int, windows: int, schedule: ScheduleSettings) -> int:
    """How many of a whole batch's `windows` the batch of `step` (from 0) has."""
    if step >= schedule.batch_ramp_steps:
        return windows
    share = schedule.batch_ramp_from + (1 - schedule.batch_ramp_from) * step / schedule.batch_ramp_steps
    return max(1, round(share * windows))
