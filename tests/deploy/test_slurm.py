"""slurm.sbatch on a real Slurm: two nodes on this machine, a job that is told to stop, queued again, and resumed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .conftest import DEPLOY

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
QUEUED_AGAIN_SECONDS = 20  # Slurm holds a requeued job for as long as a credential lives, two minutes unless told otherwise
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
SlurmdParameters=config_overrides
AuthInfo=socket={folder}/munge.socket,cred_expire={expire}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SchedulerParameters=batch_sched_delay=1,sched_interval=2
ReturnToService=2
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=1000
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=1000
PartitionName=all Nodes=ALL Default=YES State=UP
"""
STAND_IN = """
import os, signal, sys, time
from pathlib import Path

run, rank = Path(sys.argv[sys.argv.index("--out") + 1]), int(os.environ["RANK"])
assert (sys.argv[-1], os.environ["WORLD_SIZE"]) == ("--resume", "2")
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(time.time()))
(run / "checkpoints").mkdir(parents=True, exist_ok=True)
(run / "checkpoints/step-00000001").mkdir(exist_ok=True)
step = max(int(path.name[5:]) for path in (run / "checkpoints").iterdir())
while step < 100 and not asked:
    time.sleep(0.1)
    step += 1
if rank == 0:
    time.sleep(2)  # to save takes time; nobody may cut it short
    (run / f"checkpoints/step-{step:08d}").mkdir(exist_ok=True)
    with (run / "metrics.jsonl").open("a") as stream:
        print(f'{{"step": {step}}}', file=stream)
if asked:
    sys.exit(130)
(run / "model").mkdir(exist_ok=True)
(run / "model/model.safetensors").touch()
"""


class Slurm:
    """Calls the programs of a Slurm of two nodes."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def __call__(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    def job(self, number: str, word: str) -> str:
        """What Slurm knows of a job: JobState, Restarts, …"""
        return dict(pair.partition("=")[::2] for pair in self("scontrol", "show", "job", number).split())[word]

    def ended(self, number: str) -> bool:
        return self.job(number, "JobState") not in ("PENDING", "RUNNING", "COMPLETING")


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    """Run a program of a Slurm of two nodes; its daemons end with the test."""
    sbin = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in DAEMONS if shutil.which(name, path=sbin) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here: install Slurm and MUNGE")
    folder = tmp_path / "slurm"
    for name in ("state", "spool-one", "spool-two"):
        (folder / name).mkdir(parents=True)
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    values = {"host": socket.gethostname(), "ports": free_ports(3), "user": user, "folder": folder, "expire": QUEUED_AGAIN_SECONDS}
    (folder / "slurm.conf").write_text(CONFIG.format(**values), encoding="utf-8")
    path = f"{Path(sys.executable).parent}:{sbin}"  # the environment that holds foretell, as if activated
    environment = {**os.environ, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf"), "FORETELL_HOME": str(tmp_path / "home")}
    files = [
        f"--{name}={folder / file}" for name, file in {"key-file": "key", "socket": "munge.socket", "log-file": "munge.log"}.items()
    ]
    files += [f"--pid-file={folder / 'munge.pid'}", f"--seed-file={folder / 'munge.seed'}"]
    daemons = [
        ["munged", "--foreground", "--force", *files],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", "one"],
        ["slurmd", "-D", "-N", "two"],
    ]
    with ExitStack() as stack:
        stack.callback(lambda: print((folder / "slurmctld.log").read_text(encoding="utf-8")[-3000:]))
        for command in daemons:
            daemon = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(daemon.wait, 30)
            stack.callback(daemon.terminate)
            time.sleep(0.5)

        call = Slurm(tmp_path, environment)
        until(lambda: call("sinfo", "--noheader", "--format=%T").strip() == "idle", "two idle nodes", 60)
        stack.callback(call, "scancel", "--signal=KILL", "--user", user)
        yield call


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("", 0))).getsockname()[1] for _ in range(count)]


def until(true: Callable[[], bool], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["stand-in", "foretell"])
def test_a_job_is_stopped_queued_again_and_ends(program: str, slurm: Slurm, shards_folder: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log.txt"
    if program == "stand-in":
        (tmp_path / "packages" / "foretell").mkdir(parents=True)
        (tmp_path / "packages" / "foretell" / "__init__.py").touch()
        (tmp_path / "packages" / "foretell" / "__main__.py").write_text(STAND_IN, encoding="utf-8")
        slurm.environment["PYTHONPATH"] = str(tmp_path / "packages")
    options = ["--nodes=2", "--gpus-per-node=0", "--cpus-per-task=1", "--time=5", f"--output={log}"]
    recipe = ["tiny", f"data.shards={shards_folder}", "training.steps=1500", "training.checkpoint_every=100", "--out", str(run)]
    number = slurm("sbatch", "--parsable", *options, str(DEPLOY / "slurm.sbatch"), *recipe).strip()
    try:
        follow(slurm, number, run / "checkpoints")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log.read_text(encoding='utf-8')[-5000:] if log.exists() else 'no log'}") from error
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert steps == sorted(set(steps))
    assert (steps[-1], (run / "model" / "model.safetensors").exists()) == (100 if program == "stand-in" else 1500, True)


def follow(slurm: Slurm, number: str, checkpoints: Path) -> None:
    """Stop a job as Slurm does before the time limit, and see it through."""
    until(lambda: slurm.ended(number) or (checkpoints.is_dir() and any(checkpoints.iterdir())), "a checkpoint", 90)
    assert not slurm.ended(number), "the job ended before it was stopped"
    slurm("scancel", "--batch", "--signal=USR1", number)
    until(lambda: slurm.job(number, "Restarts") == "1", "the job in the queue again", 60)
    saved = max(path.name for path in checkpoints.iterdir())
    until(lambda: slurm.ended(number), "the end", 120)
    assert slurm.job(number, "JobState") == "COMPLETED"
    assert saved < max(path.name for path in checkpoints.iterdir()), "the first part did it all"
