"""The launch files of a corpus that many machines build: shares that fit together, commands that foretell understands."""

import argparse
import subprocess

from foretell.cli import corpus

from .conftest import DEPLOY, StandIns, documents
from .test_manifests import validate


def understood(words: list[str]) -> argparse.Namespace:
    assert words[:4] == ["-m", "foretell", "corpus", "build"]
    parser = argparse.ArgumentParser()
    corpus.configure(parser)
    return parser.parse_args(words[3:])


def called(stand_ins: StandIns, command: list[str], **environment: str) -> argparse.Namespace:
    """What `python` is given by a launch file."""
    stand_ins.program("python", 'printf "%s\\n" "$@" > "$CALLS/python"\n')
    subprocess.run(command, env={**stand_ins.environment, **environment}, check=True, timeout=30)
    return understood(stand_ins.called("python").splitlines())


def test_every_task_of_a_slurm_array_has_its_share(stand_ins: StandIns) -> None:
    command = ["bash", str(DEPLOY / "corpus.sbatch"), "/shared/my texts", "--out", "/shared/corpus"]
    array = {"SLURM_ARRAY_TASK_COUNT": "16", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_CPUS_PER_TASK": "16"}
    found = [called(stand_ins, command, **array, SLURM_ARRAY_TASK_ID=str(task)) for task in (1, 16)]
    assert [(one.part, one.workers, one.sources) for one in found] == [
        ("1/16", 16, ["/shared/my texts"]),
        ("16/16", 16, ["/shared/my texts"]),
    ]
    assert called(stand_ins, command, SLURM_CPUS_PER_TASK="4").part is None


def test_every_pod_has_its_share(stand_ins: StandIns) -> None:
    (job,) = documents("kubernetes-corpus.yaml")
    spec = job["spec"]
    container = spec["template"]["spec"]["containers"][0]
    command = [*container["command"], *container["args"]]
    found = [called(stand_ins, command, JOB_COMPLETION_INDEX=str(index)) for index in range(spec["completions"])]
    assert [one.part for one in found] == [f"{number}/16" for number in range(1, 17)]
    assert spec["parallelism"] == spec["completions"] == 16
    assert found[0].workers == int(container["resources"]["requests"]["cpu"])
    mounted = [volume["persistentVolumeClaim"]["claimName"] for volume in spec["template"]["spec"]["volumes"]]
    assert mounted == [documents("kubernetes-volume.yaml")[0]["metadata"]["name"]]
    assert str(found[0].out).startswith(container["volumeMounts"][0]["mountPath"])


def test_kubernetes_knows_every_field() -> None:
    for document in documents("kubernetes-corpus.yaml"):
        validate(document)
