"""Small networks of every kind, with weights in which nothing is zero or one, so that no wrong place hides."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from foretell.models.build import build, initialise
from foretell.models.network import Network
from foretell.models.settings import ModelSettings, resolve

VOCABULARY, CONTEXT = 60, 24
LSTM_SIZES = {"n_layer": 2, "d_model": 16, "d_hidden": 24}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt1": {"preset": "gpt1"},
    "gpt2": {"preset": "gpt2"},
    "gpt3": {"preset": "gpt3", "n_layer": 3, "window": 5},
    "llama": {"preset": "llama"},
    "llama-linear": {"preset": "llama", "rope_scaling": {"kind": "linear", "factor": 4.0}},
    "llama-llama3": {"preset": "llama", "rope_scaling": {"kind": "llama3", "factor": 8.0, "original_context_length": 12}},
    "llama-yarn": {"preset": "llama", "rope_scaling": {"kind": "yarn", "factor": 2.0, "original_context_length": 12}},
    "qwen2": {"preset": "qwen2", "n_head": 4, "n_kv_head": 2},
    "modern": {"preset": "modern", "n_head": 4, "n_kv_head": 1},
    "relu2": {"preset": "gpt2", "activation": "relu2"},
    "lstm": {"preset": "lstm", **LSTM_SIZES},
}
MakeNetwork = Callable[..., Any]


@pytest.fixture(scope="session")
def make_network() -> MakeNetwork:
    """Settings of a network, on top of a small default → the network, random in every weight, in evaluation mode."""

    def make(preset: str = "gpt2", **settings: Any) -> Network:
        sizes = {} if preset == "lstm" else {"n_layer": 2, "d_model": 32, "n_head": 2}
        sized = ModelSettings.model_validate({"preset": preset, "context_length": CONTEXT, **sizes, **settings})
        network = build(resolve(sized, VOCABULARY)[0])
        initialise(network, seed=1)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
        return network.eval()

    return make


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest, make_network: MakeNetwork) -> Any:
    """Every kind of network that reads from left to right."""
    return make_network(**DECODERS[request.param])


@pytest.fixture
def tokens() -> torch.Tensor:
    """Three windows of random tokens, (3, 24)."""
    return torch.randint(0, VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(3))
