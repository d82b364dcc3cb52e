"""One step: accumulated equals big batch, the flat optimizer equals a plain one, NaN changes nothing, losses go down."""

import copy
from pathlib import Path

import pytest
import torch

from foretell.data.batches import Batch
from foretell.models.build import initialise
from foretell.models.gpt import GPT
from foretell.models.settings import ModelSettings, resolve
from foretell.training.config import OptimizerSettings, ScheduleSettings
from foretell.training.optimizers import make_optimizers
from foretell.training.parameters import FlatParameters
from foretell.training.state import Progress, TrainState
from foretell.training.step import train_step

OPTIMIZER = OptimizerSettings(learning_rate=3e-3, weight_decay=0.1, clip=1.0)
CONSTANT = ScheduleSettings(warmup_steps=0, decay="constant")


def new_state(preset: str = "modern", dtype: torch.dtype = torch.float32, dropout: float = 0.0, steps: int = 100) -> TrainState:
    settings = ModelSettings(preset=preset, n_layer=2, d_model=32, n_head=2, context_length=16, dropout=dropout)
    model = GPT(resolve(settings, 60)[0])
    initialise(model, seed=7)
    torch.manual_seed(7)
    parameters = FlatParameters(model, dtype)
    return TrainState(model, parameters, make_optimizers(parameters, OPTIMIZER, model.config), Progress(steps=steps))


def random_batch(seed: int, rows: int = 8) -> Batch:
    stream = torch.randint(0, 60, (rows, 17), generator=torch.Generator().manual_seed(seed))
    return Batch(stream[:, :-1].contiguous(), stream[:, 1:].contiguous(), torch.ones(rows, 16))


def split(batch: Batch, rows: int) -> list[Batch]:
    fields = (batch.tokens_BT, batch.targets_BT, batch.weight_BT)
    return [Batch(*parts) for parts in zip(*(field.split(rows) for field in fields), strict=True)]


@pytest.mark.parametrize("preset", ["gpt2", "modern"])
def test_accumulated_equals_big_batch(preset: str) -> None:
    """Also with unequal pieces and unequal weights, where a mean of means would be wrong."""
    batch = random_batch(1)
    batch.weight_BT[:3, 4:] = 0.0
    whole, pieces = new_state(preset), new_state(preset)
    report = train_step(whole, [batch], OPTIMIZER, CONSTANT)
    accumulated = train_step(pieces, split(batch, 3), OPTIMIZER, CONSTANT)
    assert accumulated.loss == pytest.approx(report.loss, rel=1e-6)
    assert accumulated.grad_norm == pytest.approx(report.grad_norm, rel=1e-5)
    for left, right in zip(whole.parameters.named_masters().values(), pieces.parameters.named_masters().values(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=2e-5)


def test_flat_adamw_equals_a_plain_one_over_tensors() -> None:
    state = new_state("gpt2")
    plain = copy.deepcopy(state.model)
    decayed = [p for p in plain.parameters() if p.ndim >= 2]
    rest = [p for p in plain.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), eps=1e-8)
    for seed in range(5):
        batch = random_batch(seed)
        train_step(state, [batch], OPTIMIZER, CONSTANT)
        reference.zero_grad()
        torch.nn.functional.cross_entropy(plain.logits(batch.tokens_BT).flatten(0, 1), batch.targets_BT.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        reference.step()
    for (name, ours), theirs in zip(state.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5, msg=name)


def test_a_loss_that_is_not_finite_leaves_the_weights_alone() -> None:
    state = new_state()
    train_step(state, [random_batch(1)], OPTIMIZER, CONSTANT)
    before = [master.clone() for master in state.parameters.named_masters().values()]
    bad = random_batch(2)
    bad.weight_BT[0, 0] = float("nan")
    report = train_step(state, [bad], OPTIMIZER, CONSTANT)
    assert report.skipped is not None and "not a finite number" in report.skipped
    assert (state.progress.step, state.progress.skipped, state.progress.strikes) == (2, 1, 1)
    assert all(torch.equal(old, new) for old, new in zip(before, state.parameters.named_masters().values(), strict=True))
    assert train_step(state, [random_batch(3)], OPTIMIZER, CONSTANT).skipped is None  # and the bad gradient is forgotten
    assert state.progress.strikes == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("preset", ["gpt2", "modern"])
def test_one_batch_can_be_learned_by_heart(preset: str, dtype: torch.dtype) -> None:
    state, batch = new_state(preset, dtype), random_batch(5, rows=2)
    losses = [train_step(state, [batch], OPTIMIZER, CONSTANT).loss for _ in range(100)]
    assert losses[0] == pytest.approx(4.1, abs=0.15)  # ln 60: a new model knows nothing
    assert losses[-1] < 0.6


def test_in_bf16_the_masters_are_fp32_and_the_model_is_their_rounding() -> None:
    state = new_state(dtype=torch.bfloat16)
    train_step(state, [random_batch(1)], OPTIMIZER, CONSTANT)
    for name, parameter in state.model.named_parameters():
        master = state.parameters.named_masters()[name]
        assert (master.dtype, parameter.dtype) == (torch.float32, torch.bfloat16)
        assert torch.equal(master.bfloat16(), parameter)
    assert any((m != m.bfloat16().float()).any() for m in state.parameters.named_masters().values())


def test_golden_losses(golden_losses: Path, update: bool) -> None:
    """Twenty losses as text: a change of numerics anywhere in model, loss or optimizer shows here."""
    lines = []
    for preset in ("gpt2", "modern"):
        state = new_state(preset)
        lines += [
            f"{preset} {step} {train_step(state, [random_batch(step % 4)], OPTIMIZER, CONSTANT).loss:.4f}" for step in range(20)
        ]
    if update:
        golden_losses.write_text("\n".join(lines) + "\n")
    expected = golden_losses.read_text().split("\n")[:-1]
    for ours, golden in zip(lines, expected, strict=True):
        assert ours.split()[:2] == golden.split()[:2]
        assert float(ours.split()[2]) == pytest.approx(float(golden.split()[2]), abs=2e-3)
