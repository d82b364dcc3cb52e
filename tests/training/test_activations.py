"""What is looked at while training is what flows, and looking changes nothing."""

from typing import Any

import pytest
import torch

from foretell.data.batches import Batch
from foretell.models.build import build, initialise
from foretell.models.gpt import GPT
from foretell.models.network import Network
from foretell.models.settings import ModelSettings, resolve
from foretell.training.activations import WatchActivations, activation_statistics
from foretell.training.state import Progress, StepReport, TrainState


def network(preset: str, **settings: Any) -> Network:
    sizes = {"d_model": 32, "d_hidden": 24} if preset == "lstm" else {"d_model": 32, "n_head": 2}
    model = build(
        resolve(ModelSettings.model_validate({"preset": preset, "n_layer": 3, "context_length": 12, **sizes, **settings}), 60)[0]
    )
    initialise(model, seed=1)
    return model


def batch(**parts: Any) -> Batch:
    tokens_BT = torch.randint(0, 60, (2, 12), generator=torch.Generator().manual_seed(3))
    return Batch(tokens_BT, tokens_BT, torch.ones(2, 12), **parts)


@pytest.mark.parametrize("preset", ["gpt1", "modern", "bert"])
def test_the_residual_stream_of_each_block_is_measured(preset: str) -> None:
    model = network(preset).eval()
    found = activation_statistics(model, batch())
    assert list(found) == [f"blocks.{layer}.{name}" for layer in range(3) for name in ("rms", "largest")]
    if isinstance(model, GPT):
        model.final_norm = torch.nn.Identity()
    with torch.no_grad():
        x_BTD = model(batch().tokens_BT)
    assert found["blocks.2.rms"] == pytest.approx(float(x_BTD.square().mean().sqrt()), rel=1e-5)
    assert found["blocks.2.largest"] == pytest.approx(float(x_BTD.abs().max()), rel=1e-5)


def test_padding_does_not_count() -> None:
    model, keep_BT = network("bert"), torch.arange(12).expand(2, 12) < 7
    segments_BT = torch.zeros(2, 12, dtype=torch.long)
    padded = activation_statistics(model, batch(segments_BT=segments_BT, keep_BT=keep_BT))
    cut = Batch(*(part[:, :7] for part in (batch().tokens_BT, batch().tokens_BT, torch.ones(2, 12))))
    assert padded == pytest.approx(activation_statistics(model, cut), rel=1e-4)


def test_borders_of_documents_are_kept() -> None:
    model, documents_BT = network("gpt2"), (torch.arange(12) > 5).long().expand(2, 12)
    assert activation_statistics(model, batch(documents_BT=documents_BT)) != activation_statistics(model, batch())


def test_a_network_without_blocks_has_nothing_to_say() -> None:
    assert activation_statistics(network("lstm"), batch()) == {}


def test_looking_changes_nothing() -> None:
    model = network("modern", dropout=0.5).train()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    before = torch.get_rng_state()
    first, second = activation_statistics(model, batch()), activation_statistics(model, batch())
    assert first == second and torch.equal(torch.get_rng_state(), before)
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(bool((parameter.grad == 0.5).all()) for parameter in model.parameters() if parameter.grad is not None)


def test_a_failing_look_leaves_the_model_as_it_was() -> None:
    model, wrong = network("gpt2").train(), Batch(torch.full((1, 4), 99), torch.zeros(1, 4), torch.ones(1, 4))
    with pytest.raises(IndexError):
        activation_statistics(model, wrong)
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_the_observer_looks_when_something_was_evaluated() -> None:
    state: Any = TrainState(network("gpt2"), None, [], Progress(steps=9))  # type: ignore[arg-type]
    watch, plain, evaluated = (
        WatchActivations(batch()),
        StepReport(1, 8, 3.0, 1e-3, 1.0, 0.1, 8),
        StepReport(2, 8, 3.0, 1e-3, 1.0, 0.1, 8),
    )
    evaluated.held_out_loss = 3.1
    watch(state, plain)
    watch(state, evaluated)
    assert not getattr(plain, "activations", {}) and len(evaluated.activations) == 6
