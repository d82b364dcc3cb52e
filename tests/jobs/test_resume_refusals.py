"""What a resumed run refuses, what it only warns of, and that the command that began a run also continues it."""

import json
import shutil
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import StopAt, quiet, recipe_of, weights

from foretell.base.console import Terminal
from foretell.base.errors import CheckpointError, DataError, Interrupted, SettingError
from foretell.base.files import seal
from foretell.jobs import prepare as module
from foretell.jobs.pretrain import pretrain


@pytest.fixture(scope="module")
def stopped(shards_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Copies of a run that was stopped after step 9."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Interrupted):
        pretrain(recipe_of(shards_folder), run, quiet(), extra=(StopAt(9),))

    def copy(to: Path) -> Path:
        return Path(shutil.copytree(run, to / "run"))

    return copy


def change_state(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    newest = sorted((run / "checkpoints").iterdir())[-1]
    values = json.loads((newest / "training_state.json").read_text())
    change(values)
    (newest / "training_state.json").write_text(json.dumps(values))
    (newest / "digests.json").unlink()
    seal(newest)


@pytest.mark.parametrize("version, who", [(99, "newer"), (1, "older")])
def test_a_checkpoint_of_another_version(
    stopped: Callable[[Path], Path], shards_folder: Path, tmp_path: Path, version: int, who: str
) -> None:
    run = stopped(tmp_path)
    change_state(run, lambda values: values.update(version=version))
    with pytest.raises(CheckpointError, match=f"a {who} Foretell wrote this checkpoint"):
        pretrain(recipe_of(shards_folder), run, quiet(), resume=())


@pytest.mark.parametrize("name, was, now", [("threads", 7, 1), ("compile", True, False), ("torch", "1.0", "2.")])
def test_another_environment_is_told_and_the_run_goes_on(
    stopped: Callable[[Path], Path], shards_folder: Path, tmp_path: Path, name: str, was: Any, now: Any
) -> None:
    run, stream = stopped(tmp_path), StringIO()
    change_state(run, lambda values: values["environment"].update({name: was}))
    pretrain(recipe_of(shards_folder), run, Terminal(quiet=True, stream=stream), resume=())
    assert f"{name} was {was}, is {now}" in stream.getvalue() and "not bit for bit" in stream.getvalue()


@pytest.mark.parametrize(
    "override",
    [
        "model.n_layer=2",
        "model.preset=gpt2",
        "training.seed=5",
        "optimizer.name=muon",
        "training.precision=bf16",
        "data.document_mask=true",
    ],
)
def test_a_changed_model_seed_optimizer_or_data_is_refused_by_name(
    stopped: Callable[[Path], Path], shards_folder: Path, tmp_path: Path, override: str
) -> None:
    run = stopped(tmp_path)
    with pytest.raises(SettingError, match=override.partition("=")[0]):
        pretrain(recipe_of(shards_folder), run, quiet(), resume=(override,))


@pytest.mark.parametrize("name", ["train-tokens.bin", "train-starts.bin", "manifest.json"])
def test_a_missing_shard_file_is_named(shards_folder: Path, tmp_path: Path, name: str) -> None:
    shards = Path(shutil.copytree(shards_folder, tmp_path / "shards"))
    (shards / name).unlink()
    with pytest.raises(DataError, match=r"bytes where|missing") as caught:
        pretrain(recipe_of(shards), tmp_path / "run", quiet())
    assert name in str(caught.value) and not (tmp_path / "run").exists()


def test_shards_that_turn_out_to_be_damaged_while_it_trains_end_the_run(
    shards_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large shards are verified behind the first steps: nothing is finished before they are."""
    monkeypatch.setattr(module, "VERIFIED_AT_ONCE", 0)
    shards = Path(shutil.copytree(shards_folder, tmp_path / "shards"))
    with (shards / "train-tokens.bin").open("r+b") as stream:
        stream.write(b"\x01\x02")
    with pytest.raises(DataError, match="has changed since it was written"):
        pretrain(recipe_of(shards), tmp_path / "run", quiet())
    assert not (tmp_path / "run" / "model").exists()


def test_a_clock_that_goes_backwards_harms_nothing(
    shards_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: Callable[[Path], Path]
) -> None:
    pretrain(recipe_of(shards_folder), tmp_path / "whole", quiet())
    run, hours = stopped(tmp_path), iter(range(0, -10_000_000, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(hours)))
    monkeypatch.setattr(time, "time_ns", lambda: next(hours) * 10**9)
    pretrain(recipe_of(shards_folder), run, quiet(), resume=())
    assert weights(run) == weights(tmp_path / "whole")
    assert all(json.loads(line)["elapsed_seconds"] > 0 for line in (run / "metrics.jsonl").read_text().splitlines())


def test_where_no_compiler_works_the_run_goes_on_and_is_recorded_as_eager(
    shards_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "compiled", lambda model, device, cache: (model, "RuntimeError: no g++"))
    stream = StringIO()
    pretrain(recipe_of(shards_folder, training={"compile": True}), tmp_path / "run", Terminal(quiet=True, stream=stream))
    assert "no compiler works here (RuntimeError: no g++)" in stream.getvalue()
    pretrain(recipe_of(shards_folder), tmp_path / "plain", quiet())
    assert weights(tmp_path / "run") == weights(tmp_path / "plain")


def test_the_command_that_began_a_run_continues_it(shards_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it was resolved since: a relative path, precision=auto, a named size. And --resume begins what is not there."""
    from foretell.cli.main import main

    monkeypatch.chdir(shards_folder.parent)
    settings = [
        f"data.shards={shards_folder.name}",
        "training.precision=auto",
        "model.size=nano",
        "training.steps=3",
        "evaluation.windows=2",
    ]
    settings += ["model.context_length=32", "training.micro_batch=2", "training.tensorboard=false"]
    (tmp_path / "small.toml").write_text('[model]\npreset = "modern"\n')
    command = ["pretrain", str(tmp_path / "small.toml"), *settings, "--out", str(tmp_path / "run"), "--resume", "--quiet"]
    assert main(command) == 0
    before = weights(tmp_path / "run")
    assert main(command) == 0 and weights(tmp_path / "run") == before
    assert main([*command, "training.steps=5"]) == 0 and weights(tmp_path / "run") != before
    assert main([*command, "model.size=micro"]) == 2


def test_a_run_that_was_lengthened_and_killed_before_it_saved_is_lengthened_still(
    stopped: Callable[[Path], Path], shards_folder: Path, tmp_path: Path
) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    run = stopped(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe_of(shards_folder), run, quiet(), resume=("training.steps=30",), extra=(kill,))
    assert pretrain(recipe_of(shards_folder), run, quiet(), resume=("training.steps=30",))["steps"] == 30


def test_a_run_that_stopped_early_goes_on_with_more_patience(shards_folder: Path, tmp_path: Path) -> None:
    changes = {"optimizer": {"learning_rate": 0.3}, "schedule": {"decay": "constant"}}
    recipe = recipe_of(shards_folder, training={"steps": 60, "patience": 1, "evaluate_every": 5}, **changes)
    first = pretrain(recipe, tmp_path / "run", quiet())["steps"]
    assert first < 60
    assert pretrain(recipe, tmp_path / "run", quiet(), resume=())["steps"] == first
    assert pretrain(recipe, tmp_path / "run", quiet(), resume=("training.patience=20",))["steps"] > first


def test_a_changed_rate_can_be_changed_back_and_an_end_behind_the_run_is_refused(
    stopped: Callable[[Path], Path], shards_folder: Path, tmp_path: Path
) -> None:
    run = stopped(tmp_path)
    for rate in ("0.002", "0.001"):  # it began with 0.001
        with pytest.raises(Interrupted):
            pretrain(
                recipe_of(shards_folder),
                run,
                quiet(),
                (f"optimizer.learning_rate={rate}",),
                extra=(StopAt(10 if rate == "0.002" else 11),),
            )
        assert f"learning_rate = {rate}" in (run / "recipe.toml").read_text()
    before = (run / "recipe.toml").read_bytes()
    with pytest.raises(SettingError, match="has done 11 steps already"):
        pretrain(recipe_of(shards_folder), run, quiet(), ("training.steps=5",))
    assert (run / "recipe.toml").read_bytes() == before
