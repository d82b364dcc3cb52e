"""Other places that show a run: TensorBoard, Weights & Biases, trackio, MLflow. They hear what metrics.jsonl says, and may fail.

None asks for an account: without a key a run is kept on this machine, where the tracker's own commands find it.
"""

import importlib
import importlib.util
import os
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from foretell.base.errors import SettingError
from foretell.base.files import read_text, write_text
from foretell.base.records import dump
from foretell.base.runs import RunFolder

PROJECT = "foretell"
MOST_PARAMETERS = 100  # that MLflow takes at once
Names = Sequence[Literal["wandb", "trackio", "mlflow"]]
Record = dict[str, Any]


class Tracker(Protocol):
    """What is asked of a place that shows runs. It is told its folder, key or step when it is made."""

    def start(self, name: str, settings: Record) -> None:
        """Begin, or continue, the run of this name with these resolved settings."""

    def log(self, record: Record) -> None:
        """A line of metrics.jsonl, or {"step", "sample"}: numbers, texts, and numbers by name one level down."""

    def finish(self) -> None:
        """The run is over, or stops here."""


class Trackers:
    """All that were asked for, as one reader of metrics. One that fails is left out from then on, which is said once."""

    def __init__(self, trackers: dict[str, Tracker], name: str, settings: Record, warn: Callable[[str], None]) -> None:
        """Starts each."""
        self._trackers, self._warn = trackers, warn
        self._each(lambda tracker: tracker.start(name, settings))

    def __call__(self, record: Record) -> None:
        """A line of metrics.jsonl."""
        self._each(lambda tracker: tracker.log(record))

    def sample(self, step: int, text: str) -> None:
        """A sentence that the model wrote."""
        self({"step": step, "sample": text})

    def close(self) -> None:
        """After the last step, or the last before a stop."""
        self._each(lambda tracker: tracker.finish())

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                with redirect_stdout(sys.stderr), warnings.catch_warnings():  # standard output is for results
                    warnings.simplefilter("ignore")  # about their own insides: nothing that the user could mend
                    act(tracker)
            except Exception as error:
                del self._trackers[name]
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self._warn(f"{name} is told no more of this run ({reason}); metrics.jsonl has it all")


class TensorBoard:
    """Event files in the run folder: what older ones say of `next_step` and later is void."""

    def __init__(self, folder: Path, next_step: int) -> None:
        self._folder, self._next_step = folder, next_step

    def start(self, name: str, settings: Record) -> None:
        self._open(self._next_step)
        self._writer.add_text("recipe", _as_code(dump(settings, indent=2)), self._next_step)

    def log(self, record: Record) -> None:
        step = record["step"]
        if step < self._next_step - 1:  # the run went back to a checkpoint
            self._writer.close()
            self._open(step)
        for name, value in flattened(record).items():
            if isinstance(value, str):
                self._writer.add_text(name, _as_code(value), step)
            else:
                self._writer.add_scalar(name, value, step)
        self._writer.flush()
        self._next_step = step + 1

    def finish(self) -> None:
        self._writer.close()

    def _open(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=step)


class WandB:
    """Weights & Biases, and trackio, which has the same words. key: of the run, the same after a resume."""

    def __init__(self, library: str, folder: Path, key: str) -> None:
        self._name, self._folder, self._key = library, folder, key

    def start(self, name: str, settings: Record) -> None:
        self._library = library = importlib.import_module(self._name)
        if self._name == "trackio":  # it knows a run by its name alone
            options = {"name": f"{name}-{self._key}", "embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
        else:
            silent = library.Settings(silent=True, console="off", disable_git=True, disable_code=True)
            options = {"name": name, "id": self._key, "dir": str(self._folder), "settings": silent, "mode": wandb_mode(library)}
        library.init(project=PROJECT, config=settings, resume="allow", **options)

    def log(self, record: Record) -> None:
        self._library.log(flattened(record), step=record["step"])

    def finish(self) -> None:
        self._library.finish()


class MLflow:
    """MLflow at MLFLOW_TRACKING_URI, or in the local store that it takes by itself. key: of the run, the same after a resume."""

    def __init__(self, key: str) -> None:
        self._key = key

    def start(self, name: str, settings: Record) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        client, self._entities = importlib.import_module("mlflow").MlflowClient(), importlib.import_module("mlflow.entities")
        experiment = client.get_experiment_by_name(PROJECT)
        folder = experiment.experiment_id if experiment else client.create_experiment(PROJECT)
        found = client.search_runs([folder], f"tags.foretell_key = '{self._key}'", max_results=1)
        run = found[0] if found else client.create_run(folder, run_name=name, tags={"foretell_key": self._key})
        self._client, self._id = client, run.info.run_id
        values = [] if found else [self._entities.Param(key, str(value)) for key, value in flattened(settings).items()]
        for first in range(0, len(values), MOST_PARAMETERS):
            client.log_batch(self._id, params=values[first : first + MOST_PARAMETERS])

    def log(self, record: Record) -> None:
        step, now, values = record["step"], int(time.time() * 1000), flattened(record)
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        self._client.log_batch(self._id, [self._entities.Metric(name, value, now, step) for name, value in numbers.items()])
        for name in values.keys() - numbers.keys():
            self._client.log_text(self._id, values[name], f"{name}/step-{step:08d}.txt")

    def finish(self) -> None:
        self._client.set_terminated(self._id)


def require_trackers(names: Names) -> None:
    """Refuse, before a run begins, a tracker that is not installed. Raises SettingError."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            cure = f"pip install {name}, or leave it out of training.trackers"
            raise SettingError(f"{name} is not installed", where=f"training.trackers: {name}", cure=cure)


def make_trackers(
    names: Names, tensorboard: bool, run: RunFolder, next_step: int, settings: Record, warn: Callable[[str], None]
) -> Trackers:
    """The trackers of a run, started. next_step: the first that they will hear of; settings: the resolved recipe, as JSON has it.

    Raises SettingError for one that is not installed; any other trouble is told to `warn`, and the run goes on without it.
    """
    require_trackers(names)
    trackers: dict[str, Tracker] = {"TensorBoard": TensorBoard(run.tensorboard, next_step)} if tensorboard else {}
    key_file = run.path / "tracker-key.txt"  # by which a tracker knows the run again when it is resumed
    if names and not key_file.exists():
        write_text(key_file, secrets.token_hex(4))
    for name in names:
        key = read_text(key_file).strip()
        trackers[name] = MLflow(key) if name == "mlflow" else WandB(name, run.path, key)
    return Trackers(trackers, run.path.resolve().name, settings, warn)


def flattened(record: Record) -> dict[str, float | str]:
    """All but the step and what is absent; what lies deeper as outer/inner, lists as text."""
    flat: dict[str, float | str] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{inner}": deeper for inner, deeper in flattened(value).items()}
        elif name != "step" and value is not None:
            flat[name] = value if isinstance(value, int | float | str) else str(value)
    return flat


def wandb_mode(wandb: Any) -> str:
    """WANDB_MODE, but offline where there is no key that the server takes: nobody is ever asked to log in."""
    mode = os.environ.get("WANDB_MODE", "online")
    with suppress(Exception):  # an old version, a wrong key, no network
        if mode != "online" or wandb.login(prompt=False):
            return mode
    return "offline"


def _as_code(text: str) -> str:
    """Markdown that shows a text as it is."""
    return "".join(f"    {line}\n" for line in text.splitlines())
