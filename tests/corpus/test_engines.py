"""Whoever does the work: what is done comes back, what goes wrong is told as an error of ours, and nobody is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from foretell.base.errors import SettingError
from foretell.corpus.engines import run_tasks

SCRIPT = """
import os, signal, sys, threading, time
from pathlib import Path
from foretell.base.errors import DataError, ForetellError
from foretell.corpus.engines import run_tasks

class Unsendable(Exception):
    def __init__(self, one, two):
        super().__init__("two arguments and a lock")
        self.lock = threading.Lock()

def function(task):
    match task:
        case bytes():
            return len(task)
        case "data":
            raise DataError("a bad row", where="row 7", cure="mend it")
        case "unsendable":
            raise Unsendable(1, 2)
        case "memory":
            raise MemoryError
        case "kill" | "kill once" if task == "kill" or not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        case "here":
            return Path("tasks.py").exists()
        case "sleep":
            Path(f"sleeping-{os.getpid()}").touch()
            time.sleep(300)
    return task

def tasks(name):
    for number in range(12):
        yield name if number == 5 or name == "sleep" else bytes(2_000_000)

if __name__ == "__main__":
    kind, *names = sys.argv[1:]
    for name in names:
        try:
            print(name, sorted(map(str, run_tasks(function, tasks(name), 2, kind))))
        except ForetellError as error:
            print(name, type(error).__name__, error.exit_code, error, "cause:", error.__cause__)
        except KeyboardInterrupt:
            print("interrupted")
"""
SIZES = ["2000000"] * 11


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def sleepers(script: Path, request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A process with two workers that are at work on what never ends, and everything that it has started."""
    command = [sys.executable, str(script), request.param, "sleep"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=script.parent, start_new_session=True, text=True, stdout=pipe, stderr=pipe) as process:
        while process.poll() is None and len(list(script.parent.glob("sleeping-*"))) < 2:
            time.sleep(0.02)
        started = psutil.Process(process.pid).children(recursive=True)
        yield process, started
        for left in started:
            if left.is_running():
                left.kill()


def outcomes(script: Path, kind: str, *names: str) -> dict[str, str]:
    command = [sys.executable, str(script), kind, *names]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, check=True, env=environment())
    assert done.stderr == "" or "kill once" in names  # where Ray says that it died
    assert "raylet" not in done.stdout
    return {name: done.stdout.split(f"{name} ", 1)[1].split("\n[")[0] for name in names}


def environment() -> dict[str, str]:
    return {**os.environ, "RAY_ADDRESS": "127.0.0.1:9"}


def check_errors(told: dict[str, str]) -> None:
    """Each as three lines of ours, with the trace of the worker behind it."""
    assert told["data"].startswith("DataError 1 error: a bad row\nwhere: row 7\n  try: mend it cause: \nTraceback")
    assert told["unsendable"].startswith("ForetellError 1 error: Unsendable: two arguments and a lock\nwhere: ")
    assert "in function" in told["unsendable"]
    assert told["memory"].startswith("CapacityError 3 error: a worker's memory is used up")


def test_what_goes_wrong_in_a_worker_is_told_as_an_error_of_ours(script: Path) -> None:
    told = outcomes(script, "local", "well", "data", "unsendable", "memory", "kill")
    assert eval(told["well"].splitlines()[0]) == [*SIZES, "well"]  # noqa: S307
    check_errors(told)
    assert told["kill"].startswith("CapacityError 3 error: a worker process was killed from outside")


def check_gone(started: list[psutil.Process], seconds: int = 30) -> None:
    _, alive = psutil.wait_procs(started, timeout=seconds)
    assert not alive


@pytest.mark.parametrize("sleepers", ["local"], indirect=True)
def test_interrupting_ends_the_workers_at_once(sleepers: tuple[subprocess.Popen[str], list[psutil.Process]]) -> None:
    process, started = sleepers
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers hear it too
    assert process.communicate(timeout=60) == ("interrupted\n", "")
    check_gone(started)


@pytest.mark.parametrize("sleepers", ["local"], indirect=True)
def test_workers_do_not_outlive_a_killed_parent(sleepers: tuple[subprocess.Popen[str], list[psutil.Process]]) -> None:
    process, started = sleepers
    process.kill()
    check_gone(started)


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "unguarded.py"
    path.write_text("import math\nfrom foretell.corpus.engines import run_tasks\nprint(list(run_tasks(math.sqrt, [1, 4, 9], 2)))")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.rstrip().endswith("or do without them: one worker")
    assert f"where: {path}\n" in done.stderr
    assert '`if __name__ == "__main__":`' in done.stderr


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_one_task_needs_no_workers(kind: str) -> None:
    assert list(run_tasks(os.getppid, [], 2, kind)) == []  # type: ignore[arg-type]
    assert list(run_tasks(lambda _: os.getpid(), [1], 2, kind)) == [os.getpid()]  # type: ignore[arg-type]


def test_a_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError) as caught:
        list(run_tasks(str, [1, 2], 2, "ray"))
    assert caught.value.cure == 'pip install "foretell[ray]"'


@pytest.mark.slow
def test_ray_does_the_same_with_the_same_errors_alone_and_quietly(script: Path) -> None:
    pytest.importorskip("ray")
    told = outcomes(script, "ray", "here", "kill once", "data", "unsendable", "memory")
    assert eval(told["here"].splitlines()[0]) == [*SIZES, "True"]  # noqa: S307
    assert eval(told["kill once"].splitlines()[0]) == [*SIZES, "kill once"]  # noqa: S307
    check_errors(told)


@pytest.mark.slow
@pytest.mark.parametrize("sleepers", ["ray"], indirect=True)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_of_ray_is_left_behind(sleepers: tuple[subprocess.Popen[str], list[psutil.Process]], how: signal.Signals) -> None:
    pytest.importorskip("ray")
    process, started = sleepers
    assert len(started) > 4
    os.killpg(process.pid, how) if how == signal.SIGINT else process.kill()
    assert process.communicate(timeout=60) == ("interrupted\n" if how == signal.SIGINT else "", "")
    check_gone(started, seconds=120)  # after a kill, two of Ray's agents call for a minute before they give up; its workers do not


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "what"),
    [("127.0.0.1:9", "no Ray cluster answers"), ("ray://127.0.0.1:9", "no Ray"), ("nowhere", "Invalid address")],
)
def test_an_address_where_nobody_answers_is_told(address: str, what: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(SettingError, match=what) as caught:
        list(run_tasks(str, [1, 2], 2, "ray", address))
    assert caught.value.where == address
