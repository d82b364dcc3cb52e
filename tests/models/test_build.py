"""A seed is a network, byte for byte; each architecture begins as its paper says."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from foretell.models.build import assign, build, build_empty, initialise
from foretell.models.network import Network
from foretell.models.settings import ModelSettings, resolve

PRESETS = ["gpt1", "gpt2", "gpt3", "llama", "qwen2", "modern", "bert", "lstm"]


def new(preset: str, seed: int = 1, ambient: int = 1) -> Network:
    sizes = {"d_hidden": 96} if preset == "lstm" else {"n_head": 4}
    settings = {"preset": preset, "n_layer": 2, "d_model": 64, "context_length": 32, **sizes}
    torch.manual_seed(ambient)
    network = build(resolve(ModelSettings.model_validate(settings), 500)[0])
    state = torch.get_rng_state()
    initialise(network, seed)
    assert torch.equal(state, torch.get_rng_state())
    return network


def weights(network: Network) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_seed_gives_the_same_network_whatever_the_random_state(preset: str) -> None:
    first, again, other = weights(new(preset)), weights(new(preset, ambient=2)), weights(new(preset, seed=2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["token_embedding.weight"], other["token_embedding.weight"])


def deviations(preset: str) -> dict[str, float]:
    return {name: float(weight.std()) for name, weight in weights(new(preset)).items() if weight.ndim > 1}


@pytest.mark.parametrize("preset", ["gpt2", "gpt3"])
def test_gpt2_begins_as_published(preset: str) -> None:
    for name, found in deviations(preset).items():
        residual = name.endswith(("out.weight", "down.weight"))
        expected = 0.01 if name.startswith("position") else 0.02 / math.sqrt(4) if residual else 0.02
        assert found == pytest.approx(expected, rel=0.08), name


def test_gpt1_and_bert_begin_as_published() -> None:
    for name, found in deviations("gpt1").items():
        assert found == pytest.approx(0.02, rel=0.08), name
    for name, weight in weights(new("bert")).items():
        if weight.ndim > 1 and weight.numel() > 1000:
            assert float(weight.abs().max()) <= 0.04 and 0.017 < float(weight.std()) < 0.02, name


@pytest.mark.parametrize("preset", ["llama", "qwen2", "modern"])
def test_new_blocks_are_the_identity(preset: str) -> None:
    untied = preset == "llama"  # a vector of 0.02 would be drowned by what the first updates add to the stream
    for name, found in deviations(preset).items():
        residual = name.endswith(("out.weight", "down.weight"))
        embedded = 0.3 if untied and "embedding" in name else 0.02
        expected = embedded if "embedding" in name or "head" in name else 0.0 if residual else 64**-0.5
        assert found == pytest.approx(expected, rel=0.08, abs=1e-9), name


def test_an_lstm_begins_with_open_forget_gates() -> None:
    found = weights(new("lstm"))
    for layer in range(2):
        gates = found[f"lstm.bias_ih_l{layer}"] + found[f"lstm.bias_hh_l{layer}"]
        assert gates.view(4, 96).mean(1).tolist() == [0.0, 1.0, 0.0, 0.0]
    assert float(found["lstm.weight_hh_l1"].std()) == pytest.approx(96**-0.5, rel=0.05)


@pytest.mark.parametrize("preset", PRESETS)
def test_gains_are_one_and_biases_zero(preset: str) -> None:
    for name, weight in weights(new(preset)).items():
        if weight.ndim == 1 and "lstm" not in name:
            assert (weight == (0.0 if name.endswith("bias") else 1.0)).all(), name


@pytest.mark.parametrize("preset", PRESETS)
def test_a_tied_head_is_tied_again_after_loading(preset: str, tokens: Tensor) -> None:
    full: Any = new(preset)
    empty: Any = build_empty(full.config)
    assign(empty, full.state_dict())
    assert (empty.head.weight is empty.token_embedding.weight) == full.config.tied
    assert torch.equal(empty.eval()(tokens), full.eval()(tokens))
