"""The launch files, and stand-ins for the programs of a cluster that write down how they were called."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PODS = ("kubernetes-job.yaml", "jobset.yaml")
LAUNCHERS = ("torchrun.sh", "slurm.sbatch", *PODS, "skypilot.yaml")
STAND_INS = {
    "torchrun": 'printf "%s\\n" "$@" > "$CALLS/torchrun"\n',
    "nvidia-smi": "echo GPU 0\necho GPU 1\n",
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n',
    "scancel": 'echo "$@" > "$CALLS/scancel"\n',
    "scontrol": 'echo "$@" > "$CALLS/scontrol"\n',
}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "4", "SLURM_NODEID": "0", "SLURM_CPUS_PER_TASK": "64", "SLURM_GPUS_ON_NODE": "8"}
SKYPILOT = {
    "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
    "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NUM_GPUS_PER_NODE": "8",
    "SKYPILOT_NODE_RANK": "0",
}


class StandIns:
    """A PATH whose cluster programs are stand-ins; `program` replaces one."""

    def __init__(self, folder: Path) -> None:
        self.calls, self.programs = folder / "calls", folder / "programs"
        self.calls.mkdir()
        self.programs.mkdir()
        self.environment = {"PATH": f"{self.programs}:{os.environ['PATH']}", "CALLS": str(self.calls)}
        for name, text in STAND_INS.items():
            self.program(name, text)

    def program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
        path.chmod(0o755)

    def called(self, name: str) -> str:
        """How a program was called; "" if it was not."""
        path = self.calls / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def torchrun(self, command: list[str], **environment: str) -> list[str]:
        """Run a command of a launch file; return the words that torchrun was given."""
        done = subprocess.run(
            command, env={**self.environment, **environment}, capture_output=True, text=True, check=False, timeout=30
        )
        assert (done.returncode, done.stderr) == (0, "")
        return self.called("torchrun").splitlines()

    def launch(self, name: str, **environment: str) -> list[str]:
        """What torchrun is given on the first node when a launch file is used as it says itself."""
        if name.endswith(".yaml"):
            if name in PODS:
                variables = job(name)["template"]["spec"]["containers"][0]["env"]
                known = {"JOB_COMPLETION_INDEX": "0", **{variable["name"]: variable["value"] for variable in variables}}
            else:
                known = {**SKYPILOT, **documents(name)[0]["envs"]}
            return self.torchrun(script(name), **{**known, **environment})
        example = re.search(rf"^#   .*?(deploy/{name} .*)$", (DEPLOY / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert example is not None
        words = shlex.split(example[1])
        return self.torchrun(["bash", str(DEPLOY / name), *words[1:]], **{**SLURM, **environment})


def documents(name: str) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the manifests")
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def job(name: str) -> dict[str, Any]:
    """The spec of the Job in a manifest of pods."""
    document = documents(name)[-1]
    spec: dict[str, Any] = (
        document["spec"] if document["kind"] == "Job" else document["spec"]["replicatedJobs"][0]["template"]["spec"]
    )
    return spec


def script(name: str) -> list[str]:
    """The command that a YAML file has run on each node."""
    if name not in PODS:
        return ["bash", "-c", documents(name)[0]["run"]]
    container = job(name)["template"]["spec"]["containers"][0]
    return [*container["command"], *container["args"]]


@pytest.fixture
def stand_ins(tmp_path: Path) -> StandIns:
    return StandIns(tmp_path)
