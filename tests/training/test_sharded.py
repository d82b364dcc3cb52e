"""A model that is spread over ranks learns what one process learns, and its checkpoints fit any number of ranks, bit for bit."""

import hashlib
import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from foretell.base.console import Terminal
from foretell.base.errors import SettingError
from foretell.base.files import damaged_files
from foretell.compute.distributed import ranks
from foretell.jobs.prepare import Prepared, prepare
from foretell.jobs.pretrain import Stepper, pretrain
from foretell.jobs.recipe import Recipe
from foretell.training.checkpoint import kept_weights, restore
from foretell.training.saving import Saver
from foretell.training.state import Progress, TrainState

STEPS, SIZES = 3, (1, 2, 3, 4)


def recipe_of(**training: Any) -> Recipe:
    """Uneven everywhere: three layers' rows over four ranks, 13 windows over all of them in micro-batches of two."""
    model = {"n_layer": 2, "d_model": 32, "n_head": 2, "context_length": 32}
    values = {"steps": STEPS, "micro_batch": 2, "batch_tokens": 13 * 32, "threads": 1, "precision": "fp32", "ema_decay": 0.5}
    values |= {"parallel": "fsdp", "tensorboard": False, "checkpoint_every": 2, "evaluate_every": 2, "sample_every": 2}
    sections = {
        "data": {"shards": os.environ["FORETELL_TEST_SHARDS"]},
        "schedule": {"warmup_steps": 1},
        "evaluation": {"windows": 2},
    }
    return Recipe.model_validate({**sections, "model": model, "training": values | training})


def quiet() -> Terminal:
    return Terminal(quiet=True, stream=StringIO())


def tensors(state: TrainState) -> dict[str, torch.Tensor]:
    """Everything that a checkpoint must bring back, whole."""
    parameters = state.parameters
    averages = {f"average.{name}": tensor for name, tensor in parameters.named_averages().items()}
    return parameters.whole(parameters.named_masters() | averages | parameters.named_moments(state.optimizers))


def digest_of(state: TrainState) -> str:
    parts = [name.encode() + tensor.contiguous().numpy().tobytes() for name, tensor in sorted(tensors(state).items())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def saver_of(prepared: Prepared, folder: Path) -> Saver:
    return Saver(folder, prepared.tokenizer, prepared.environment, keep=9, background=True)


def train(folder: Path) -> None:
    """Three steps from the same beginning, then what there is of it."""
    with ranks("cpu", 60) as here:
        kind = folder.name.split("-")[0]
        recipe = recipe_of() if kind == "muon" else recipe_of(precision=kind)
        name = "muon" if kind == "muon" else "adamw"
        recipe = recipe.model_copy(update={"optimizer": recipe.optimizer.replace(name=name)})
        prepared = prepare(recipe, folder / "run", quiet(), None, here)
        step = Stepper(prepared, Progress(steps=0))
        reports = [step(prepared.state) for _ in range(STEPS)]
        step.close()
        found = tensors(prepared.state)
        if here.is_first:
            told = {"losses": [r.loss for r in reports], "norms": [r.grad_norm for r in reports], "tokens": reports[-1].tokens}
            torch.save(found, folder / "tensors.pt")
            (folder / "told.json").write_text(json.dumps(told))


def exchange(folder: Path) -> None:
    """At each number of ranks: what every other number has saved comes back whole, and is saved again."""
    with ranks("cpu", 60) as here:
        prepared = prepare(recipe_of(), folder / "run", quiet(), None, here)
        state, checkpoints = prepared.state, folder.parent / "checkpoints"
        if not checkpoints.exists():
            step = Stepper(prepared, Progress(steps=0))
            for _ in range(STEPS):
                step(state)
            step.close()
        found = {}
        for path in sorted(checkpoints.glob("*/step-*")):
            restore(path, state)
            found[path.parent.name] = digest_of(state)
        saved = digest_of(state)
        with saver_of(prepared, checkpoints / str(here.size)) as save:
            save(state)
            for group in state.parameters.groups:  # training goes on while it is written
                for master in group.masters:
                    master.data.add_(1.0)
        if here.is_first:
            (folder / "found.json").write_text(json.dumps({"found": found, "saved": saved}))


def whole_run(folder: Path) -> None:
    pretrain(recipe_of(patience=9), folder / "run", quiet())


def compiled(folder: Path) -> None:
    pretrain(recipe_of(compile=True), folder / "run", quiet())


SCENARIOS = {f"{precision}-{size}": (size, train) for precision in ("fp32", "bf16", "muon") for size in (1, 4)}
SCENARIOS |= {f"exchange-{turn}-{size}": (size, exchange) for turn in (1, 2) for size in SIZES}
SCENARIOS |= {"whole-run": (2, whole_run), "compiled": (2, compiled)}


@pytest.fixture(scope="module")
def played(shards_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "FORETELL_TEST_SHARDS": str(shards_folder)}
    subprocess.run([sys.executable, __file__, str(folder)], env=environment, check=True, timeout=240)
    return folder


@pytest.mark.parametrize(("kind", "tolerance"), [("fp32", 1e-6), ("bf16", 3e-3), ("muon", 1e-4)])
def test_it_learns_what_one_process_learns(played: Path, kind: str, tolerance: float) -> None:
    alone, spread = (torch.load(played / f"{kind}-{size}" / "tensors.pt") for size in (1, 4))
    assert alone.keys() == spread.keys() and any(name.startswith("exp_avg_sq.") for name in alone)
    for name, tensor in alone.items():
        assert torch.allclose(tensor, spread[name], rtol=1e-4, atol=tolerance), name
    told, other = (json.loads((played / f"{kind}-{size}" / "told.json").read_text()) for size in (1, 4))
    assert told["tokens"] == other["tokens"] == STEPS * 13 * 32
    for key in ("losses", "norms"):
        assert told[key] == pytest.approx(other[key], rel=5e-3 if kind == "bf16" else 1e-4)


def test_every_checkpoint_fits_every_number_of_ranks(played: Path) -> None:
    results = {name: json.loads((played / name / "found.json").read_text()) for name in SCENARIOS if name.startswith("exchange")}
    digests = {result["saved"] for result in results.values()}
    digests |= {digest for result in results.values() for digest in result["found"].values()}
    assert len(digests) == 1  # one state, whoever has read it from whomever
    assert all(results[f"exchange-2-{size}"]["found"].keys() == {"1", "2", "3", "4"} for size in SIZES)


def test_a_spread_checkpoint_is_sealed_and_read_without_ranks(played: Path) -> None:
    path = played / "checkpoints" / "3" / f"step-{STEPS:08d}"
    assert not damaged_files(path) and len(list((path / "shards").iterdir())) == 3
    averages = {
        name.removeprefix("average."): t
        for name, t in load_file(path.parents[1] / "1" / path.name / "optimizer.safetensors").items()
    }
    like = load_file(path.parents[1] / "1" / path.name / "model.safetensors")
    kept = kept_weights(path, {name: tensor for name, tensor in averages.items() if not name.startswith("exp_avg") and tensor.ndim})
    assert kept and all(torch.equal(tensor, averages[name]) for name, tensor in kept.items()) and like
    shard = next((path / "shards").iterdir())
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    assert damaged_files(path) == [f"shards/{shard.name} is damaged"]


def test_a_whole_run_ends_with_a_model_directory(played: Path) -> None:
    assert json.loads((played / "ended.json").read_text())["whole-run"] == [[0, ""], [0, ""]]
    assert (played / "whole-run" / "run" / "model" / "model.safetensors").exists()


def test_what_cannot_be_spread_is_refused_once(played: Path) -> None:
    (code, told), other = json.loads((played / "ended.json").read_text())["compiled"]
    assert code == SettingError.exit_code and "training.compile=true" in told and other == [2, ""]


if __name__ == "__main__":
    import forked
    import torch._dynamo  # what FSDP imports, here once for all ranks

    import foretell.training.sharded  # noqa: F401

    forked.main(SCENARIOS)
