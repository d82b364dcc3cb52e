"""A checkpoint in the background is the state at the moment of the call; what goes wrong with it is told at the next occasion."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from foretell.base.errors import CapacityError
from foretell.base.files import damaged_files
from foretell.data.shards import ShardReader
from foretell.interop.huggingface import load_model
from foretell.models.build import build, initialise
from foretell.models.settings import ModelSettings, resolve
from foretell.training import saving
from foretell.training.checkpoint import checkpoints, restore
from foretell.training.config import OptimizerSettings
from foretell.training.optimizers import make_optimizers
from foretell.training.parameters import FlatParameters
from foretell.training.saving import Saver
from foretell.training.state import Progress, TrainState


def state_of(seed: int = 1) -> TrainState:
    config, _ = resolve(ModelSettings(n_layer=1, d_model=16, n_head=1, context_length=8), 512)
    initialise(model := build(config), seed)
    parameters = FlatParameters(model, torch.float32, average=True)
    optimizers = make_optimizers(parameters, OptimizerSettings(), config)
    for optimizer in optimizers:
        optimizer.step()
    return TrainState(model, parameters, optimizers, Progress(steps=9, step=1))


@pytest.fixture
def make(shards_folder: Path, tmp_path: Path) -> Any:
    tokenizer = ShardReader(shards_folder).tokenizer()

    def saver(background: bool = True, keep: int = 2) -> Saver:
        return Saver(tmp_path / "checkpoints", tokenizer, {}, keep, background)

    return saver


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("background", [True, False])
def test_it_holds_the_state_of_the_call(make: Any, tmp_path: Path, background: bool) -> None:
    state, found = state_of(), state_of(seed=2)
    before = {name: tensor.clone() for name, tensor in state.parameters.named_moments(state.optimizers).items()}
    weights = {name: tensor.clone() for name, tensor in state.parameters.named_masters().items()}
    with make(background) as save:
        for step in (1, 2, 3):
            state.progress.step = step
            save(state)
            moments = state.parameters.named_moments(state.optimizers)
            for tensor in (*moments.values(), *state.parameters.named_masters().values()):
                tensor.fill_(7.0)  # training goes on
            if step == 1:
                save.wait()
                restore(tmp_path / "checkpoints" / "step-00000001", found)
                assert found.progress.step == 1
                assert all(torch.equal(tensor, weights[name]) for name, tensor in found.parameters.named_masters().items())
                moments = found.parameters.named_moments(found.optimizers)
                assert moments.keys() == before.keys() and all(torch.equal(moments[name], before[name]) for name in moments)
    left = checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in left] == ["step-00000002", "step-00000003"] and not any(damaged_files(path) for path in left)
    assert all((parameter == 7.0).all() for parameter in load_model(left[-1]).parameters())


def test_what_failed_is_told_at_the_next_save_and_at_the_end(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, save = state_of(), make()
    monkeypatch.setattr(saving, "write_checkpoint", full)
    with pytest.raises(OSError, match="No space left"), save:
        save(state)
    state.progress.step = 2
    with pytest.raises(OSError, match="No space left"):
        save(state)
    assert not checkpoints(tmp_path / "checkpoints")


def test_errors_of_the_disk_name_the_cure(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foretell.training.checkpoint.write_rest", full)
    with pytest.raises(CapacityError, match="the disk is full; what was saved before is untouched"), make() as save:
        save(state_of())
    assert not list((tmp_path / "checkpoints").iterdir())  # nothing half-written


def test_another_error_is_told_first_and_the_checkpoint_is_finished(make: Any, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), make() as save:
        save(state_of())
        raise ZeroDivisionError
    assert len(checkpoints(tmp_path / "checkpoints")) == 1


def test_without_memory_for_a_copy_it_is_written_at_once(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "free_bytes", lambda: 1000)
    make()(state_of())
    assert len(checkpoints(tmp_path / "checkpoints")) == 1
