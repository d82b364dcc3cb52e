"""Muon against torch's own, matrix by matrix; joined matrices are taken apart; the rest is AdamW."""

import pytest
import torch

from foretell.data.batches import Batch
from foretell.models.build import build, initialise
from foretell.models.settings import ModelSettings, resolve
from foretell.training.config import OptimizerSettings, ScheduleSettings
from foretell.training.muon import orthogonalised
from foretell.training.optimizers import make_optimizers
from foretell.training.parameters import FlatParameters
from foretell.training.state import Progress, TrainState
from foretell.training.step import train_step

MUON = OptimizerSettings(name="muon", muon_learning_rate=0.02, learning_rate=3e-3, weight_decay=0.1, clip=None)
CONSTANT = ScheduleSettings(warmup_steps=0, decay="constant")


def new_state(preset: str = "modern", optimizer: OptimizerSettings = MUON) -> TrainState:
    sizes = {"d_model": 32, "context_length": 16} | ({"d_hidden": 32} if preset == "lstm" else {"n_head": 2})
    model = build(resolve(ModelSettings(preset=preset, n_layer=2, **sizes), 60)[0])
    initialise(model, seed=3)
    parameters = FlatParameters(model, torch.float32)
    return TrainState(model, parameters, make_optimizers(parameters, optimizer, model.config), Progress(steps=100))


def batch_of(seed: int) -> Batch:
    stream = torch.randint(0, 60, (4, 17), generator=torch.Generator().manual_seed(seed))
    return Batch(stream[:, :-1].contiguous(), stream[:, 1:].contiguous(), torch.ones(4, 16))


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 48, 16), (2, 16, 48)])
def test_orthogonalised_matrices_are_nearly_so_and_keep_their_directions(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = orthogonalised(matrices, torch.float32)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.3 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    off = left.transpose(1, 2) @ found @ right.transpose(1, 2)  # diagonal where the singular vectors are the same
    assert (off - torch.diag_embed(off.diagonal(dim1=1, dim2=2))).abs().max() < 1e-3


def test_equal_to_torchs_muon_on_the_same_matrices() -> None:
    """torch computes its iteration in bf16, so do we here; q, k, v and gate, up are matrices of their own."""
    state, count = new_state(), 0
    muon = state.optimizers[0]
    muon._dtype = torch.bfloat16  # type: ignore[attr-defined]
    pieces = [piece.clone().requires_grad_() for piece in muon._split(muon.param_groups[0]["params"][0])]  # type: ignore[attr-defined]
    theirs = torch.optim.Muon(pieces, lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True)
    for seed in range(4):
        gradients: list[torch.Tensor] = []
        original = state.parameters.zero

        def keep() -> None:
            gradients.extend(g.clone() for g in muon._split(muon.param_groups[0]["params"][0].grad))  # type: ignore[attr-defined] # noqa: B023
            original()  # noqa: B023

        state.parameters.zero = keep  # type: ignore[method-assign]
        train_step(state, [batch_of(seed)], MUON, CONSTANT)
        state.parameters.zero = original  # type: ignore[method-assign]
        for piece, gradient in zip(pieces, gradients, strict=True):
            piece.grad = gradient
        theirs.step()
    for ours, expected in zip(muon._split(muon.param_groups[0]["params"][0]), pieces, strict=True):  # type: ignore[attr-defined]
        torch.testing.assert_close(ours, expected, rtol=0, atol=2e-3)
        count += 1
    assert count == 2 * (3 + 1 + 2 + 1)  # q k v, out, gate up, down of two layers


@pytest.mark.parametrize("preset", ["gpt2", "modern", "lstm"])
@pytest.mark.parametrize("name", ["muon", "sgd", "adam", "adamw"])
def test_every_optimizer_learns_every_network(preset: str, name: str) -> None:
    rate = {"sgd": 2.0 if preset == "lstm" else 0.2}.get(name, 5e-3)
    settings = MUON.replace(name=name, learning_rate=rate, clip=1.0, momentum=0.9)
    state = new_state(preset, settings)
    losses = [train_step(state, [batch_of(1)], settings, CONSTANT).loss for _ in range(25)]
    assert losses[-1] < losses[0] - (1e-3 if name == "sgd" else 0.5)


def test_embeddings_head_and_gains_are_left_to_adamw() -> None:
    state = new_state()
    muon, adamw = state.optimizers
    names = {group.role: set(group.named) for group in state.parameters.groups}
    assert muon.param_groups[0]["params"][0].numel() == sum(
        p.numel() for n, p in state.model.named_parameters() if n in names["matrices"]
    )
    assert "token_embedding.weight" in names["tables"] and all("norm" in name for name in names["vectors"])
    assert [group["rate"] for group in (*muon.param_groups, *adamw.param_groups)] == [
        "muon_learning_rate",
        "learning_rate",
        "learning_rate",
    ]
    assert adamw.param_groups[1]["weight_decay"] == 0.0
