"""The learning rate at the places that matter."""

import pytest

from foretell.training.config import ScheduleSettings
from foretell.training.schedules import batch_windows, learning_rate_share


@pytest.mark.parametrize("decay", ["cosine", "linear", "wsd", "constant"])
def test_rises_to_the_peak_and_ends_where_it_should(decay: str) -> None:
    schedule = ScheduleSettings(warmup_steps=10, decay=decay, decay_share=0.5, final_share=0.1)
    shares = [learning_rate_share(step, 100, schedule) for step in range(101)]
    assert shares[:10] == sorted(shares[:10]) and 0 < shares[0] < shares[9] < 1
    assert shares[10] == 1.0 and max(shares) == 1.0
    assert shares[100] == pytest.approx(1.0 if decay == "constant" else 0.1)
    assert shares[10:] == sorted(shares[10:], reverse=True)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert learning_rate_share(50, 100, ScheduleSettings(warmup_steps=0, decay="cosine")) == pytest.approx(0.5)


def test_wsd_is_stable_until_its_decay_begins() -> None:
    schedule = ScheduleSettings(warmup_steps=5, decay="wsd", decay_share=0.4)
    assert learning_rate_share(59, 100, schedule) == 1.0
    assert learning_rate_share(80, 100, schedule) == pytest.approx(0.5)


def test_a_run_shorter_than_its_warm_up_still_has_a_rate() -> None:
    assert 0 < learning_rate_share(2, 3, ScheduleSettings(warmup_steps=100)) < 1


def test_inverse_sqrt_falls_as_it_says_and_meets_the_warm_up() -> None:
    schedule = ScheduleSettings(decay="inverse_sqrt", warmup_steps=100)
    shares = [learning_rate_share(step, 10_000, schedule) for step in (99, 100, 400, 2500)]
    assert shares == pytest.approx([100 / 101, 1.0, 0.5, 0.2])
    assert learning_rate_share(0, 10, ScheduleSettings(decay="inverse_sqrt", warmup_steps=0)) == 1.0


def test_the_batch_grows_evenly_and_is_never_empty() -> None:
    ramp = ScheduleSettings(batch_ramp_steps=100, batch_ramp_from=0.25)
    sizes = [batch_windows(step, 64, ramp) for step in range(120)]
    assert sizes[0] == 16 and sizes[50] == 40 and sizes[100:] == [64] * 20 and sizes == sorted(sizes)
    assert batch_windows(0, 1, ramp) == 1
    assert [batch_windows(step, 64, ScheduleSettings()) for step in (0, 1000)] == [64, 64]
