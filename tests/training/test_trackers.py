"""Trackers hear what metrics.jsonl says; none can end a run, ask for an account, or be missing without being named."""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from foretell.base.errors import SettingError
from foretell.base.runs import RunFolder
from foretell.training.trackers import Trackers, flattened, make_trackers, require_trackers

SETTINGS = {"model": {"n_layer": 2, "n_head": None}, "training": {"trackers": ["wandb"]}}
LINE = {"step": 3, "tokens": 30, "loss": 2.5, "grad_norm": None, "grad_norms": {"head": 0.5}, "skipped": "a reason"}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "mine")


class Stand:
    """A module with the words of wandb and trackio that notes what it is told."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch, **words: Any) -> None:
        self.started: dict[str, Any] = {}
        self.logged: list[tuple[Any, int | None]] = []
        self.finished = 0
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(
            {
                "init": self.init,
                "log": self.log,
                "finish": self.finish,
                "Settings": lambda **options: options,
                "login": lambda prompt: False,
                **words,
            }
        )
        monkeypatch.setitem(sys.modules, name, module)

    def init(self, **options: Any) -> None:
        self.started = options
        print("noise")

    def log(self, values: Any, step: int | None = None) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished += 1


def silent(sentence: str) -> None:
    raise AssertionError(sentence)


def test_tensorboard_shows_numbers_by_name_and_texts(run: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = make_trackers((), True, run, 1, SETTINGS, silent)
    trackers(LINE)
    trackers.sample(4, "it <b>writes</b>")
    trackers({"step": 2, "loss": 1.5})  # the run went back
    trackers.close()
    again = make_trackers((), True, run, 3, SETTINGS, silent)  # and was resumed
    again({"step": 3, "loss": 1.25})
    again.close()
    shown = EventAccumulator(str(run.tensorboard)).Reload()
    assert [(event.step, event.value) for event in shown.Scalars("loss")] == [(2, 1.5), (3, 1.25)]
    assert set(shown.Tags()["scalars"]) == {"tokens", "loss", "grad_norms/head"}
    assert {"recipe/text_summary", "sample/text_summary", "skipped/text_summary"} == set(shown.Tags()["tensors"])


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_are_told_all_and_say_nothing_on_standard_output(
    name: Any, run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    stand = Stand(name, monkeypatch)
    trackers = make_trackers((name,), False, run, 1, SETTINGS, silent)
    trackers(LINE)
    trackers.sample(4, "text")
    trackers.close()
    assert stand.started["project"] == "foretell" and stand.started["config"] == SETTINGS and stand.started["resume"] == "allow"
    assert stand.logged == [
        ({"tokens": 30, "loss": 2.5, "grad_norms/head": 0.5, "skipped": "a reason"}, 3),
        ({"sample": "text"}, 4),
    ]
    assert stand.finished == 1 and capsys.readouterr() == ("", "noise\n")
    key = (run.path / "tracker-key.txt").read_text()
    if name == "trackio":
        assert stand.started["name"] == f"mine-{key}"
    else:
        assert (stand.started["name"], stand.started["id"], stand.started["mode"]) == ("mine", key, "offline")
    make_trackers((name,), False, run, 4, SETTINGS, silent)
    assert key in (stand.started.get("id"), stand.started["name"].removeprefix("mine-"))  # the same run after a resume


def test_wandb_goes_online_only_with_a_key_and_keeps_still_when_told(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(prompt: bool) -> bool:
        raise ConnectionError("no network")

    asked: list[bool] = []
    cases: list[tuple[str | None, Callable[..., Any], str]] = [
        (None, lambda prompt: not asked.append(prompt), "online"),
        (None, refused, "offline"),
        ("online", lambda prompt: False, "offline"),
        ("disabled", refused, "disabled"),
        ("offline", refused, "offline"),
    ]
    for told, login, mode in cases:
        monkeypatch.delenv("WANDB_MODE", raising=False)
        if told:
            monkeypatch.setenv("WANDB_MODE", told)
        stand = Stand("wandb", monkeypatch, login=login)
        make_trackers(("wandb",), False, run, 1, {}, silent)
        assert stand.started["mode"] == mode
    assert asked == [False]  # never with a prompt


def test_mlflow_finds_the_run_again(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    made: list[Any] = []

    def new(folder: str, run_name: str, tags: dict[str, str]) -> Any:
        made.append(SimpleNamespace(info=SimpleNamespace(run_id="id-1")))
        told.append((run_name, list(tags)))
        return made[0]

    client = SimpleNamespace(
        get_experiment_by_name=lambda name: None,
        create_experiment=lambda name: "7",
        search_runs=lambda folders, words, max_results: list(made),
        create_run=new,
        log_batch=lambda run_id, metrics=(), params=(): told.append((run_id, *metrics, *params)),
        log_text=lambda run_id, text, path: told.append((run_id, text, path)),
        set_terminated=lambda run_id: told.append((run_id, "ended")),
    )
    entities = {"Metric": lambda name, value, when, step: (name, value, step), "Param": lambda name, value: (name, value)}
    for name, words in (("mlflow", {"MlflowClient": lambda: client}), ("mlflow.entities", entities)):
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(words)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")  # so that what start sets does not outlive the test
    for _ in range(2):
        trackers = make_trackers(("mlflow",), False, run, 1, SETTINGS, silent)
    trackers(LINE)
    trackers.close()
    assert told == [
        ("mine", ["foretell_key"]),
        ("id-1", ("model/n_layer", "2"), ("training/trackers", "['wandb']")),
        ("id-1", ("tokens", 30, 3), ("loss", 2.5, 3), ("grad_norms/head", 0.5, 3)),
        ("id-1", "a reason", "skipped/step-00000003.txt"),
        ("id-1", "ended"),
    ]


def test_a_tracker_that_fails_is_left_out_and_named_once() -> None:
    heard: list[Any] = []
    warned: list[str] = []

    class Failing:
        def start(self, name: str, settings: dict[str, Any]) -> None: ...

        def log(self, record: dict[str, Any]) -> None:
            raise OSError("no route\nto the host")

        def finish(self) -> None:
            heard.append("must not be asked")

    good = SimpleNamespace(start=lambda *_: None, log=heard.append, finish=lambda: heard.append("end"))
    trackers = Trackers({"bad": Failing(), "good": good}, "mine", {}, warned.append)
    trackers({"step": 1})
    trackers({"step": 2})
    trackers.close()
    assert heard == [{"step": 1}, {"step": 2}, "end"]
    assert warned == ["bad is told no more of this run (OSError: no route); metrics.jsonl has it all"]


def test_one_that_cannot_start_does_not_keep_the_run_from_starting(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    stand = Stand("wandb", monkeypatch, Settings=None)
    trackers = make_trackers(("wandb",), False, run, 1, {}, warned.append)
    trackers(LINE)
    assert len(warned) == 1 and "wandb is told no more" in warned[0] and not stand.logged


def test_one_that_is_not_installed_is_named_before_the_run_begins(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else found(name))
    with pytest.raises(SettingError, match="mlflow is not installed") as caught:
        require_trackers(("mlflow",))
    assert caught.value.cure.startswith("pip install mlflow") and caught.value.where == "training.trackers: mlflow"
    with pytest.raises(SettingError, match="mlflow is not installed"):
        make_trackers(("mlflow",), True, run, 1, {}, silent)
    assert not run.tensorboard.exists()


def test_records_become_flat() -> None:
    nested = {"step": 1, "a": {"b": 1.5, "c": {"d": 2}}, "e": None, "f": [1], "g": "text"}
    assert flattened(nested) == {"a/b": 1.5, "a/c/d": 2, "f": "[1]", "g": "text"}


REAL_RUN = """
import sys
from pathlib import Path
from foretell.base.runs import RunFolder
from foretell.training.trackers import make_trackers
run, name = RunFolder(Path("mine")), sys.argv[1]
run.path.mkdir()
for first in (1, 3):
    trackers = make_trackers((name,), False, run, first, {"model": {"n_layer": 2}}, sys.exit)
    for step in (first, first + 1):
        trackers({"step": step, "loss": 1.0 / step, "grad_norms": {"head": 0.5}, "skipped": "a reason"})
    trackers.sample(first, "it writes")
    trackers.close()
"""


@pytest.mark.parametrize("name", ["wandb", "trackio", pytest.param("mlflow", marks=pytest.mark.slow)])
def test_the_real_ones_work_without_an_account(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    own = {"HOME": str(tmp_path), "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "MLFLOW_"))} | own
    call = [sys.executable, "-c", REAL_RUN, name]
    done = subprocess.run(
        call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    made = {"wandb": "mine/wandb/offline-run-*", "trackio": "trackio/foretell*.db", "mlflow": "mlflow.db"}[name]
    assert list(tmp_path.glob(made))
