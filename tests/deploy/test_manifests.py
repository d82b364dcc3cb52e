"""The manifests against the schemas of those who read them, and their numbers against each other."""

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import DEPLOY, PODS, StandIns, documents, job, script

VERSION = "1.31"  # the oldest that kubernetes-job.yaml says it is for


def validate(document: dict[str, Any]) -> None:
    """Raise ValidationError for a field that Kubernetes or JobSet does not know."""
    kubernetes = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate: the test extra has it")
    if document["kind"] != "JobSet":
        kubernetes.validate(document, VERSION, strict=True)
        return
    schema = json.loads((Path(__file__).parent / "jobset-v1alpha2.json").read_text(encoding="utf-8"))
    pytest.importorskip("jsonschema").validate(document, schema)
    for replicated in document["spec"]["replicatedJobs"]:
        validate({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": replicated["name"]}, **replicated["template"]})


@pytest.mark.parametrize("name", ["kubernetes-volume.yaml", *PODS])
def test_every_field_is_known(name: str) -> None:
    kinds = []
    for document in documents(name):
        validate(document)
        kinds.append(document["kind"])
    assert kinds == {"kubernetes-volume.yaml": ["PersistentVolumeClaim"], "kubernetes-job.yaml": ["Service", "Job"]}.get(
        name, ["JobSet"]
    )


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("kubernetes-job.yaml", "backoffLimit: 12", "backofLimit: 12"),
        ("kubernetes-job.yaml", "terminationGracePeriodSeconds", "terminationGracePeriod"),
        ("kubernetes-job.yaml", "completions: 2", 'completions: "2"'),
        ("kubernetes-volume.yaml", "accessModes", "accessMode"),
        ("jobset.yaml", "maxRestarts: 12", "maxRestart: 12"),
        ("jobset.yaml", "RestartJobSetAndIgnoreMaxRestarts", "RestartJobSetIgnoreMaxRestarts"),
        ("jobset.yaml", "onJobFailureReasons: [PodFailurePolicy]", "onJobFailureReasons: [PodFailure]"),
        ("jobset.yaml", "terminationGracePeriodSeconds", "terminationGracePeriod"),
    ],
)
def test_a_typo_is_caught(name: str, right: str, wrong: str) -> None:
    yaml, *readers = (pytest.importorskip(package) for package in ("yaml", "kubernetes_validate", "jsonschema"))
    text = (DEPLOY / name).read_text(encoding="utf-8")
    assert right in text
    *before, last = yaml.safe_load_all(text.replace(right, wrong))
    for document in before:
        validate(document)
    with pytest.raises(tuple(reader.ValidationError for reader in readers)):
        validate(last)


@pytest.mark.parametrize("name", PODS)
def test_the_numbers_of_a_manifest_agree(name: str, stand_ins: StandIns) -> None:
    spec, words = job(name), stand_ins.launch(name)
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    assert f"--nnodes={spec['completions']}" in words
    assert spec["parallelism"] == spec["completions"]
    assert f"--nproc-per-node={container['resources']['limits']['nvidia.com/gpu']}" in words
    saving = next(int(word.partition("=")[2]) for word in words if word.startswith("--shutdown-timeout="))
    assert saving < pod["terminationGracePeriodSeconds"]
    threads = next(int(variable["value"]) for variable in container["env"] if variable["name"] == "OMP_NUM_THREADS")
    assert threads * int(container["resources"]["limits"]["nvidia.com/gpu"]) == int(container["resources"]["requests"]["cpu"])
    mounted = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert mounted == [documents("kubernetes-volume.yaml")[0]["metadata"]["name"]]
    inside = container["volumeMounts"][0]["mountPath"]
    assert words[words.index("--out") + 1].startswith(f"{inside}/")


def test_the_first_pod_has_the_name_that_the_others_call() -> None:
    service, plain = documents("kubernetes-job.yaml")
    (jobset,) = documents("jobset.yaml")
    name, domain = plain["metadata"]["name"], plain["spec"]["template"]["spec"]["subdomain"]
    assert (service["metadata"]["name"], service["spec"]["clusterIP"]) == (domain, "None")
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert f"--rdzv-endpoint={name}-0.{domain}:29400 " in script("kubernetes-job.yaml")[-1]
    first = (
        f"{jobset['metadata']['name']}-{jobset['spec']['replicatedJobs'][0]['name']}-0-0.{jobset['spec']['network']['subdomain']}"
    )
    assert f"--rdzv-endpoint={first}:29400 " in script("jobset.yaml")[-1]


@pytest.mark.slow  # the package alone takes seconds to import
def test_skypilot_reads_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # it writes there when it is imported
    monkeypatch.chdir(DEPLOY.parent)  # workdir: .
    sky = pytest.importorskip("sky", reason="no skypilot here")
    task = sky.Task.from_yaml(str(DEPLOY / "skypilot.yaml"))
    assert (task.num_nodes, task.volumes) == (2, {"/data": "foretell"})
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((DEPLOY / "skypilot.yaml").read_text(encoding="utf-8").replace("num_nodes", "num_node"), encoding="utf-8")
    with pytest.raises(Exception, match="did you mean 'num_nodes'"):
        sky.Task.from_yaml(str(wrong))
