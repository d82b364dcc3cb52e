"""Several processes learn what one learns, from the same samples, and end together; killed or stopped, they end as undisturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest

from foretell.base.console import Terminal
from foretell.base.errors import DataError
from foretell.base.files import digest
from foretell.base.runs import read_lines
from foretell.base.settings import dump_settings
from foretell.data.batches import TrainBatches
from foretell.jobs.pretrain import pretrain
from foretell.jobs.recipe import Recipe
from foretell.training import objective
from foretell.training.state import StepReport, TrainState

Ended = dict[str, list[tuple[int, str]]]  # by scenario and rank: exit code, what was told
STEPS = 12


def recipe_of(model: dict[str, Any] | None = None, **training: Any) -> Recipe:
    """13 windows a step, which no number of ranks divides, in micro-batches of three."""
    values = {"steps": STEPS, "micro_batch": 3, "batch_tokens": 13 * 32, "threads": 1, "precision": "fp32", "tensorboard": False}
    values |= {"checkpoint_every": 4, "evaluate_every": 4, "sample_every": 50, "log_every": 1, "seed": 3}
    shape = {"n_layer": 1, "d_model": 32, "n_head": 2, "context_length": 32} if model is None else model
    sections = {"data": {"shards": os.environ["FORETELL_TEST_SHARDS"]}, "model": shape, "schedule": {"warmup_steps": 1}}
    return Recipe.model_validate({**sections, "evaluation": {"windows": 4}, "training": values | training})


def quiet() -> Terminal:
    return Terminal(quiet=True, stream=StringIO())


def stop_at(step: int) -> Any:
    def observer(state: TrainState, report: StepReport) -> None:
        if report.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return observer


LSTM = {"preset": "lstm", "n_layer": 1, "d_model": 32, "d_hidden": 32, "context_length": 32}
LONG = {"steps": 200, "evaluate_every": 100}
DROPOUT = {"n_layer": 1, "d_model": 32, "n_head": 2, "context_length": 32, "dropout": 0.1}


def run(folder: Path) -> None:
    pretrain(recipe_of(), folder / "run", quiet())


def lstm(folder: Path) -> None:
    pretrain(recipe_of(LSTM), folder / "run", quiet())


def stopped(folder: Path) -> None:
    """One rank alone is asked to stop."""
    observers = (stop_at(6),) if os.environ["RANK"] == "1" else ()
    pretrain(recipe_of(LSTM), folder.parent / "stopped-run", quiet(), extra=observers)


def resumed(folder: Path) -> None:
    pretrain(recipe_of(LSTM), folder.parent / "stopped-run", quiet(), resume=())


def unreadable(folder: Path) -> None:
    original = TrainBatches.batch

    def batch(self: TrainBatches, first_sample: int, count: int) -> Any:
        if first_sample >= 5 * 13 and os.environ["RANK"] == "1":
            raise DataError("the file is cut off", where="train-tokens.bin", cure="get it again")
        return original(self, first_sample, count)

    TrainBatches.batch = batch  # type: ignore[method-assign]
    run(folder)


def poisoned(folder: Path) -> None:
    """The loss of one rank is NaN in three steps: all go back together."""
    original, calls = objective.cross_entropy_sum, []

    def cross_entropy_sum(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        spoilt = os.environ["RANK"] == "1" and 3 * 5 <= len(calls) < 3 * 8  # three passes a step
        return original(*arguments, **options) * (float("nan") if spoilt else 1.0)

    objective.cross_entropy_sum = cross_entropy_sum
    run(folder)


def crowded(folder: Path) -> None:
    pretrain(recipe_of(batch_tokens=32, micro_batch=1), folder / "run", quiet())


def undisturbed(folder: Path) -> None:
    pretrain(recipe_of(DROPOUT, **LONG), folder / "run", quiet())


def continued(folder: Path) -> None:
    pretrain(recipe_of(DROPOUT, **LONG), folder.parent / "elastic", quiet(), resume=())


SCENARIOS = {
    "run-1": (1, run), "run-2": (2, run), "run-3": (3, run), "lstm-1": (1, lstm), "stopped": (3, stopped), "resumed": (2, resumed),
    "unreadable": (2, unreadable), "poisoned": (2, poisoned), "crowded": (2, crowded), "undisturbed": (2, undisturbed),
}  # fmt: skip
if Path(sys.argv[-1]).name == "elastic":
    SCENARIOS = {"continued": (2, continued)}


def play(folder: Path, shards: Path) -> Ended:
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "FORETELL_TEST_SHARDS": str(shards)}
    subprocess.run([sys.executable, __file__, str(folder)], env=environment, check=True, timeout=240)
    ended: Ended = json.loads((folder / "ended.json").read_text())
    return ended


@pytest.fixture(scope="module")
def played(shards_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    folder = tmp_path_factory.mktemp("distributed")
    return folder, play(folder, shards_folder)


def curve(run: Path) -> list[float]:
    return [record["loss"] for record in read_lines(run / "metrics.jsonl")]


def test_any_number_of_ranks_learns_the_same(played: tuple[Path, Ended]) -> None:
    folder, ended = played
    for size in (2, 3):
        assert ended[f"run-{size}"] == [[0, ""]] * size
        assert curve(folder / f"run-{size}" / "run") == pytest.approx(curve(folder / "run-1" / "run"), rel=2e-5)
        last = [read_lines(folder / f"run-{n}" / "run" / "metrics.jsonl")[-1] for n in (1, size)]
        assert last[0]["tokens"] == last[1]["tokens"] == STEPS * 13 * 32
        assert last[0]["held_out_loss"] == pytest.approx(last[1]["held_out_loss"], rel=2e-5)


def test_the_number_of_ranks_may_change_and_a_memory_is_dealt_anew(played: tuple[Path, Ended]) -> None:
    folder, ended = played
    (code, told), *others = ended["stopped"]
    assert code == 130 and "stopped after step" in told and others == [[130, ""]] * 2
    assert 6 <= int(told.split("after step ")[1].split(",")[0]) <= 7  # the one who was asked, and all others
    assert ended["resumed"] == [[0, ""]] * 2
    assert curve(folder / "stopped-run") == pytest.approx(curve(folder / "lstm-1" / "run"), rel=2e-5)


def test_one_rank_that_cannot_read_ends_all(played: tuple[Path, Ended]) -> None:
    folder, ended = played
    first, (code, told) = ended["unreadable"]
    assert first == [1, ""] and code == 1 and "the file is cut off" in told and "rank 1 of 2, train-tokens.bin" in told
    assert [path.name for path in (folder / "unreadable" / "run" / "checkpoints").iterdir()] == ["step-00000004"]


def test_all_ranks_go_back_together(played: tuple[Path, Ended]) -> None:
    folder, ended = played
    assert ended["poisoned"] == [[0, ""]] * 2
    newest = folder / "poisoned" / "run" / "checkpoints" / f"step-{STEPS:08d}" / "training_state.json"
    progress = json.loads(newest.read_text())["progress"]
    assert (progress["rollbacks"], progress["went_back_to"], progress["jumped"]) == (1, 4, 3 * 13)


def test_more_ranks_than_windows_are_refused(played: tuple[Path, Ended]) -> None:
    (code, told), other = played[1]["crowded"]
    assert code == 2 and "2 processes cannot share a batch of 1 windows" in told and other == [2, ""]
    assert not (played[0] / "crowded" / "run").exists()


def test_killed_restarted_and_stopped_under_torchrun(played: tuple[Path, Ended], shards_folder: Path, tmp_path: Path) -> None:
    """SIGKILL for a worker: all start again from the last checkpoint. SIGTERM for torchrun: all save and leave."""
    os.environ["FORETELL_TEST_SHARDS"] = str(shards_folder)
    recipe, out, folder = tmp_path / "recipe.toml", tmp_path / "elastic" / "elastic", tmp_path / "elastic"
    folder.mkdir()
    recipe.write_text(dump_settings(recipe_of(DROPOUT, **LONG)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]
    command = [*torchrun, "-m", "foretell", "pretrain", str(recipe), "--out", str(out), "--resume"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with (tmp_path / "told.txt").open("w") as told:
        agent = subprocess.Popen(command, env=environment, stdout=told, stderr=told)
        try:
            wait_for(agent, out, 10)
            worker = max(psutil.Process(agent.pid).children(), key=lambda child: child.pid)
            worker.kill()
            reached = read_lines(out / "metrics.jsonl")[-1]["step"]
            wait_for(agent, out, reached + 4)
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(timeout=60) != 0
        finally:
            agent.kill()
    text = (tmp_path / "told.txt").read_text()
    assert text.count("rank 1 (last seen at step") == 1 and text.count("everything is saved") <= 1
    newest = sorted(path.name for path in (out / "checkpoints").iterdir())[-1]
    assert reached < int(newest.removeprefix("step-")) < LONG["steps"]
    assert read_lines(out / "metrics.jsonl")[-1]["step"] <= int(newest.removeprefix("step-"))  # the step it stopped after is saved
    assert play(folder, shards_folder)["continued"] == [[0, ""]] * 2
    model = Path("run", "model", "model.safetensors")
    assert digest(out / "model" / "model.safetensors") == digest(played[0] / "undisturbed" / model)


def wait_for(agent: "subprocess.Popen[bytes]", run: Path, step: int) -> None:
    """Until the run has reached a step."""
    deadline = time.monotonic() + 100
    while not any(record["step"] >= step for record in read_lines(run / "metrics.jsonl")[-1:]):
        assert agent.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


if __name__ == "__main__":
    import forked

    forked.main(SCENARIOS)
