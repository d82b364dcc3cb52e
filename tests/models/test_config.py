"""One dial derives the rest; a preset is what its paper says; what cannot be is refused by name."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from foretell.base.errors import SettingError
from foretell.models.config import LSTMConfig, TransformerConfig
from foretell.models.settings import ModelSettings, presets, resolve


def config_of(preset: str = "modern", vocab_size: int = 100, **settings: Any) -> Any:
    return resolve(ModelSettings.model_validate({"preset": preset, **settings}), vocab_size)[0]


def test_gpt2_is_the_published_small_model() -> None:
    config = config_of("gpt2", 50257)
    assert (config.n_layer, config.d_model, config.n_head, config.context_length) == (12, 768, 12, 1024)
    assert (config.norm_position, config.norm_eps, config.activation, config.d_ff) == ("pre", 1e-5, "gelu_tanh", 3072)


def test_gpt1_is_post_norm_with_512_positions() -> None:
    config = config_of("gpt1", 40478)
    assert (config.n_layer, config.d_model, config.n_head, config.d_ff, config.context_length) == (12, 768, 12, 3072, 512)
    assert (config.norm_position, config.norm_eps, config.activation, config.position) == ("post", 1e-5, "gelu_tanh", "learned")


def test_every_second_layer_of_gpt3_is_banded() -> None:
    config = config_of("gpt3", 50257, n_layer=5)
    assert (config.window, config.windowed_layers, config.context_length) == (256, (1, 3), 2048)
    assert config_of("gpt3-small").windowed_layers == (1, 3, 5, 7, 9, 11)
    single = config_of("gpt3", n_layer=1)
    assert (single.window, single.windowed_layers) == (None, ())


def test_bert_is_the_published_base_model() -> None:
    config = config_of("bert-base", 30522)
    assert (config.n_layer, config.d_model, config.n_head, config.d_ff, config.context_length) == (12, 768, 12, 3072, 512)
    assert (config.causal, config.norm_position, config.norm_eps, config.n_segments) == (False, "post", 1e-12, 2)
    assert config.parts == ("pooler", "masked", "next_sentence")


def test_the_lstm_is_one_layer_of_2048_units() -> None:
    config = config_of("lstm", 40478)
    assert isinstance(config, LSTMConfig)
    assert (config.n_layer, config.d_model, config.d_hidden, config.tied) == (1, 768, 2048, True)


@pytest.mark.parametrize("preset", presets())
def test_all_presets_resolve(preset: str) -> None:
    """To what can be resolved again from all that was derived, as a resumed run does."""
    config = config_of(preset)
    assert isinstance(config, LSTMConfig) == (preset == "lstm")
    if isinstance(config, TransformerConfig):
        assert config.d_head * config.n_head == config.d_model and config.n_head % config.n_kv_head == 0
        assert config.causal == (not preset.startswith("bert"))
    names = [name for name in type(config).model_fields if name in ModelSettings.model_fields]
    assert config_of(preset, **{name: getattr(config, name) for name in names}) == config


def test_one_dial_derives_the_rest_and_says_so() -> None:
    config, notes = resolve(ModelSettings(n_layer=4), 1000)
    assert isinstance(config, TransformerConfig)
    assert (config.d_model, config.n_head, config.n_kv_head) == (256, 4, 2)
    assert "d_model 256 ← 64 · n_layer" in notes
    assert resolve(ModelSettings(size="tiny"), 1000)[0] == config


def test_what_is_given_is_not_derived() -> None:
    config, notes = resolve(ModelSettings(n_layer=3, d_model=96, n_head=6, n_kv_head=3, d_ff=200, context_length=64), 100)
    assert isinstance(config, TransformerConfig)
    assert (config.d_head, config.n_kv_head, config.d_ff) == (16, 3, 200) and notes == []


def test_a_gate_makes_three_matrices_as_large_as_two() -> None:
    config = config_of("llama", d_model=768)
    assert config.d_ff == 2048 and 3 * config.d_ff == 2 * 4 * 768


@pytest.mark.parametrize(
    ("settings", "message", "cure"),
    [
        (
            {"d_model": 100, "n_head": 3},
            "n_head = 3 does not divide d_model = 100",
            r"model\.n_head one of \[1, 2, 5, 10, 25, 50\]",
        ),
        ({"d_model": 96, "n_head": 6, "n_kv_head": 4}, "n_kv_head = 4 does not divide n_head = 6", r"one of \[1, 2, 3, 6\]"),
        ({"d_model": 15, "n_head": 3}, "d_head = 5 is odd", "an even model.d_head"),
        ({"size": "tiny", "n_layer": 7}, "size and n_layer", "leave model.size out"),
        ({"preset": "gpt2-xl", "size": "tiny"}, "gpt2-xl has its own size", "leave model.size out"),
        ({"preset": "lstm", "size": "tiny"}, "lstm has its own size", "leave model.size out"),
        ({"preset": "gpt2", "n_layer": 1, "d_hidden": 64}, "gpt2 has no d_hidden", "leave model.d_hidden out"),
        ({"preset": "lstm", "n_head": 4}, "lstm has no n_head", "leave model.n_head out"),
        ({"preset": "gpt1", "faithful": True, "tied": False}, "the head has its own", "model.tied=true"),
        ({"preset": "bert", "position": "rotary"}, "bert has no position = rotary", "leave model.position out"),
        ({"preset": "bert", "window": 8}, "bert has no window = 8", "leave model.window out"),
        ({"preset": "bert-tiny", "faithful": True}, "bert-tiny has no faithful = True", "choose another preset"),
        ({"preset": "llama", "d_model": 64, "d_head": 7}, "d_head = 7 is odd", "an even model.d_head"),
    ],
)
def test_what_does_not_fit_is_named(settings: dict[str, Any], message: str, cure: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        config_of(**settings)
    assert caught.value.exit_code == 2 and "model" in (caught.value.where or "")
    assert re.search(cure, caught.value.cure or "")


@pytest.mark.parametrize(
    ("preset", "told"), [("gpt-2", "did you mean gpt2?"), ("bert-bas", "did you mean bert-base?"), ("xyz", "gpt1, gpt2")]
)
def test_an_unknown_preset_is_told_the_nearest(preset: str, told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelSettings(preset=preset)
    assert f"there is no preset '{preset}'" in str(caught.value) and told in str(caught.value)


@pytest.mark.parametrize("kind", ["llama3", "yarn"])
def test_scaling_needs_the_context_that_it_scales(kind: str) -> None:
    with pytest.raises(ValidationError, match="needs the original context length"):
        ModelSettings.model_validate({"preset": "llama", "rope_scaling": {"kind": kind, "factor": 8.0}})


def test_a_window_needs_layers_that_exist() -> None:
    config = config_of("gpt2", n_layer=2)
    for changes in ({"window": 4}, {"windowed_layers": (1,)}, {"window": 4, "windowed_layers": (2,)}):
        with pytest.raises(ValidationError, match="window and windowed_layers do not fit together"):
            TransformerConfig.model_validate(config.model_dump() | changes)
