"""Which steps are not to be learned from: NaN, infinity, and spikes far above what the last steps were like.

A loss or gradient norm more than σ deviations above the mean of the last 128 good steps: the update is left out and
recorded (the rule of OLMo-core's SkipStepOptimizer). Three in a row: the run goes back to its last good checkpoint and
jumps over the batches since (Chowdhery et al. 2022, section 5.1), which is the same each time, since all of it is state.
"""

import math
from collections.abc import Sequence

from foretell.training.state import Progress

WINDOW, ENOUGH, STRIKES = 128, 64, 3


def verdict(progress: Progress, loss: float, norm: float, sigma: float | None) -> str | None:
    """Why a step is not to be learned from, or None. Remembers it in `progress`."""
    reason = None
    if not (math.isfinite(loss) and math.isfinite(norm)):
        reason = f"not a finite number (loss {loss}, gradient norm {norm})"
    elif sigma is not None:
        for name, value, past in (("loss", loss, progress.recent_losses), ("gradient norm", norm, progress.recent_norms)):
            if (far := deviations(value, past)) > sigma:
                reason = reason or f"{name} {value:.4g}, {far:.1f} deviations above the mean of the last {len(past)} steps"
    if reason is not None:
        progress.strikes, progress.skipped = progress.strikes + 1, progress.skipped + 1
        return reason
    progress.strikes = 0
    progress.recent_losses = [*progress.recent_losses, loss][-WINDOW:]
    progress.recent_norms = [*progress.recent_norms, norm][-WINDOW:]
    return None


def deviations(value: float, past: Sequence[float]) -> float:
    """How many standard deviations `value` lies above the mean of `past`; 0 while there are too few to tell."""
    if len(past) < ENOUGH:
        return 0.0
    mean = math.fsum(past) / len(past)
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in past) / (len(past) - 1))
    return (value - mean) / spread if spread > 0 else 0.0
