"""Spikes: what is one, what is not, and that the history is what a checkpoint keeps."""

import math
import random

import pytest

from foretell.training.guard import ENOUGH, WINDOW, deviations, verdict
from foretell.training.state import Progress


def lived(steps: int, seed: int = 0) -> Progress:
    progress, noise = Progress(steps=1000), random.Random(seed)
    for _ in range(steps):
        assert verdict(progress, 3 + noise.gauss(0, 0.1), 1 + noise.gauss(0, 0.05), None) is None
    return progress


@pytest.mark.parametrize("loss, norm", [(math.nan, 1.0), (math.inf, 1.0), (3.0, math.nan), (3.0, math.inf)])
def test_what_is_no_number_is_skipped_from_the_first_step_and_whatever_is_set(loss: float, norm: float) -> None:
    for sigma in (None, 6.0):
        progress = Progress(steps=10)
        assert "not a finite number" in (verdict(progress, loss, norm, sigma) or "")
        assert (progress.strikes, progress.skipped, progress.recent_losses) == (1, 1, [])


def test_ten_deviations_are_a_spike_and_two_are_not() -> None:
    for loss, norm, name in ((4.0, 1.0, "loss"), (3.0, 1.6, "gradient norm")):
        progress = lived(WINDOW)
        before = list(progress.recent_losses)
        reason = verdict(progress, loss, norm, 6.0)
        assert reason is not None and reason.startswith(name) and "deviations above the mean of the last 128" in reason
        assert progress.recent_losses == before  # a spike is not what later steps are compared with
        assert verdict(progress, 3.2, 1.05, 6.0) is None and progress.strikes == 0
    assert verdict(lived(WINDOW), 4.0, 1.0, None) is None


def test_a_low_loss_is_welcome_and_a_short_history_tells_nothing() -> None:
    assert verdict(lived(WINDOW), 0.5, 0.01, 6.0) is None
    assert verdict(lived(ENOUGH - 1), 400.0, 1.0, 6.0) is None
    assert verdict(lived(ENOUGH), 400.0, 1.0, 6.0) is not None


def test_the_history_is_as_long_as_it_says() -> None:
    assert len(lived(3 * WINDOW).recent_losses) == WINDOW == len(lived(3 * WINDOW).recent_norms)
    assert deviations(1.0, [1.0] * WINDOW) == 0.0
    assert deviations(4.0, [1.0, 3.0] * 64) == pytest.approx(2 / math.sqrt(128 / 127))
