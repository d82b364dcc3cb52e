"""One dial derives the rest; what cannot be is refused by name; counts equal the model's."""

import pytest
import torch

from foretell.base.errors import SettingError
from foretell.models.config import ModelSettings, resolve
from foretell.models.counts import flops_per_token, parameter_count
from foretell.models.gpt import GPT


def test_gpt2_is_the_published_small_model() -> None:
    config, _ = resolve(ModelSettings(preset="gpt2"), 50257)
    assert (config.n_layer, config.d_model, config.n_head, config.context_length) == (12, 768, 12, 1024)
    assert parameter_count(config) == 124_439_808


def test_one_dial_derives_the_rest_and_says_so() -> None:
    config, notes = resolve(ModelSettings(n_layer=4), 1000)
    assert (config.d_model, config.n_head, config.n_kv_head) == (256, 4, 2)
    assert "d_model 256 ← 64 · n_layer" in notes
    assert resolve(ModelSettings(size="tiny"), 1000)[0] == config


def test_what_is_given_is_not_derived() -> None:
    config, notes = resolve(ModelSettings(n_layer=3, d_model=96, n_head=6, n_kv_head=3, d_ff=200, context_length=64), 100)
    assert (config.d_head, config.n_kv_head, config.d_ff) == (16, 3, 200) and notes == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": 100, "n_head": 3}, "n_head = 3 does not divide d_model = 100"),
        ({"d_model": 96, "n_head": 6, "n_kv_head": 4}, "n_kv_head = 4 does not divide n_head = 6"),
        ({"d_model": 15, "n_head": 3}, "d_head = 5 is odd"),
        ({"size": "tiny", "n_layer": 7}, "size and n_layer"),
    ],
)
def test_sizes_that_do_not_fit_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        resolve(ModelSettings.model_validate(settings), 100)
    assert caught.value.exit_code == 2 and "model." in caught.value.cure + caught.value.where


@pytest.mark.parametrize("preset", ["gpt2", "modern"])
@pytest.mark.parametrize("tied", [True, False])
def test_counts_equal_the_model(preset: str, tied: bool) -> None:
    config, _ = resolve(ModelSettings(preset=preset, n_layer=2, d_model=64, n_head=4, context_length=32, tied=tied), 300)
    model = GPT(config)
    assert parameter_count(config) == sum(p.numel() for p in model.parameters())
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model.logits(torch.zeros(1, 32, dtype=torch.int64)).sum().backward()
    counted = counter.get_total_flops() / 32
    assert flops_per_token(config) == pytest.approx(counted, rel=0.12)  # torch does not count all of attention's backward
