"""The scaling law gives what its paper's constants give, and repeated text less than new."""

import math

import pytest

from foretell.models.config import ModelConfig
from foretell.models.counts import flops_per_token, parameter_count
from foretell.models.settings import ModelSettings, resolve
from foretell.planning.advise import vocabulary_size
from foretell.planning.duration import BANDWIDTH_SHARE, UPDATE_BYTES, Speed, predicted_speed
from foretell.planning.hardware import named
from foretell.planning.scaling import advice, expected_loss


def gpt2() -> ModelConfig:
    return resolve(ModelSettings(preset="gpt2", n_layer=12), 50257)[0]


def test_chinchilla_is_where_the_constants_put_it() -> None:
    assert expected_loss(70_000_000_000, 1.4e12) == pytest.approx(1.8172 + 0.0808 + 0.0757, abs=2e-3)


def test_text_read_again_counts_less_and_less() -> None:
    once, fresh = expected_loss(10**8, 1e9, 1e9), expected_loss(10**8, 4e9, math.inf)
    four, hundred = expected_loss(10**8, 4e9, 1e9), expected_loss(10**8, 100e9, 1e9)
    assert fresh < four < once and four - fresh < 0.1 * (once - four)
    assert hundred > expected_loss(10**8, 20e9, math.inf)


def test_advice_follows_the_ratio() -> None:
    assert [advice(ratio).split()[0] for ratio in (1, 15, 39, 300)] == ["few:", "about", "about", "many:"]


@pytest.mark.parametrize(
    ("rows", "micro_batch", "devices", "seconds"),
    [(8, 8, 1, 2.5), (16, 8, 1, 4.5), (12, 8, 1, 3.5), (4, 8, 1, 1.5), (16, 8, 2, 2.5), (17, 8, 2, 2.75), (1, 8, 8, 0.75)],
)
def test_a_step_is_its_micro_batches_and_one_update(rows: int, micro_batch: int, devices: int, seconds: float) -> None:
    assert Speed(2.0, 0.5, "").step_seconds(rows, micro_batch, devices) == seconds


def test_speed_is_the_hardwares_peak_and_the_share_that_is_reached() -> None:
    a100, config = named("a100"), gpt2()
    speed = predicted_speed(config, a100, "fp32", micro_batch=4)
    assert speed.micro_seconds == pytest.approx(4 * 1024 * flops_per_token(config) / (19.5e12 * a100.share))
    assert speed.update_seconds == pytest.approx(UPDATE_BYTES * parameter_count(config) / (BANDWIDTH_SHARE * 2039e9))
    assert predicted_speed(config, a100, "fp32", 4, shards=8).update_seconds == speed.update_seconds / 8
    assert predicted_speed(config, a100, "bf16", 4).micro_seconds < speed.micro_seconds / 10


def test_a_vocabulary_grows_with_the_text() -> None:
    assert [vocabulary_size(size) for size in (1, 100_000, 400_000, 6_000_000, 10**12)] == [512, 512, 1024, 4096, 8192]
