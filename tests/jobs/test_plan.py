"""A plan says what a run needs, at once and without torch; what will not fit is refused with 3, after the plan."""

import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from foretell.base.console import Terminal
from foretell.base.errors import CapacityError, DataError, SettingError
from foretell.base.units import size
from foretell.cli import main as command
from foretell.data.shards import ShardReader
from foretell.jobs import calibrate
from foretell.jobs.plan import Wishes, plan
from foretell.jobs.recipe import load_recipe
from foretell.models import attention
from foretell.models.counts import flops_per_token, parameter_count
from foretell.models.settings import resolve
from foretell.planning.duration import Speed
from foretell.planning.memory import BLOCK, EXPLICIT_UP_TO, LOGITS_AT_ONCE
from foretell.training.loss import CHUNK_VALUES, GPU_FACTOR

PROMISED = {"parameters", "flops_per_token", "memory_bytes", "tokens_per_second", "duration_seconds"}
PARTS = {"weights", "gradients", "optimizer", "activations", "logits", "total"}


def planned(name: str, *overrides: str, **wishes: Any) -> tuple[dict[str, Any], CapacityError | None, str]:
    stream = StringIO()
    result, problem = plan(name, overrides, Wishes(**wishes), Terminal(stream=stream))
    return result, problem, stream.getvalue()


def test_a_plan_needs_no_torch() -> None:
    words = ["plan", "gpt3-6.7b", "--hardware", "h100x8", "--hours", "24", "--json", "--quiet"]
    code = f"import sys; from foretell.cli.main import main; sys.exit(main({words}) or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result.keys() >= PROMISED and result["memory_bytes"].keys() >= PARTS
    assert result["memory_bytes"]["total"] == sum(part for name, part in result["memory_bytes"].items() if name != "total")


def test_a_preset_is_planned_as_published_and_what_is_assumed_is_said() -> None:
    result, problem, told = planned("gpt2-xl", hardware="h100x8")
    assert problem is None and result["parameters"] == 1_557_611_200
    assert "a vocabulary of 50,257 ← gpt2 as published" in told and "training.batch_tokens=524288" in told
    assert result["tokens_per_parameter"] == pytest.approx(20, rel=1e-3)
    assert result["duration_seconds"] == pytest.approx(result["tokens"] / result["tokens_per_second"], rel=1e-6)
    assert all(word in told for word in ("tokens/s", "kWh", "US$", "nats", "activations"))


def test_what_is_said_is_not_assumed() -> None:
    said = ["training.steps=7", "training.batch_tokens=8192", "training.micro_batch=2", "tokenizer.vocab_size=1000"]
    result, _, told = planned("gpt2", *said, "model.n_layer=2", hardware="a100")
    assert result["tokens"] == 7 * 8192 and result["assumed"] == [
        "a vocabulary of 1,000 ← tokenizer.vocab_size; there are no shards"
    ]
    assert "7 steps of 8.19k tokens" in told


def test_parameters_and_flops_are_those_of_the_model_that_is_built() -> None:
    result, _, _ = planned("tiny")
    config = resolve(load_recipe("tiny").model, 8192)[0]
    assert (result["parameters"], result["flops_per_token"]) == (parameter_count(config), flops_per_token(config))


def test_shards_say_vocabulary_and_text(shards_folder: Path) -> None:
    result, _, told = planned("tiny", f"data.shards={shards_folder}")
    tokens = ShardReader(shards_folder).train.tokens
    assert result["epochs"] == pytest.approx(200 * 8 * 64 / tokens) and "times through the text" in told
    assert result["parameters"] == parameter_count(resolve(load_recipe("tiny").model, 512)[0]) and result["assumed"] == []


def test_shards_that_are_not_there_are_told(shards_folder: Path, tmp_path: Path) -> None:
    absent = f"there are no shards at {tmp_path / 'nosuch'} yet"
    result, _, told = planned("tiny", f"data.shards={tmp_path / 'nosuch'}")
    assert absent in result["assumed"] and absent in told and result["epochs"] is None
    mixed = [f"data.sources.a.shards={shards_folder}", f"data.sources.b.shards={tmp_path / 'nosuch'}"]
    assert [note for note in planned("tiny", *mixed)[0]["assumed"] if "yet" in note] == [absent]


def test_sources_with_different_tokenizers_are_refused(shards_folder: Path, tmp_path: Path) -> None:
    manifest = json.loads((shards_folder / "manifest.json").read_text())
    sources = [f"data.sources.a.shards={shards_folder}", f"data.sources.b.shards={tmp_path}"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert planned("tiny", *sources)[0]["assumed"] == []
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"tokenizer": "another"}))
    with pytest.raises(DataError, match=r"sources\.a\.shards and data\.sources\.b\.shards were made with different tokenizers"):
        planned("tiny", *sources)


def test_weights_are_split_only_where_they_must_be() -> None:
    small = "gpt2-xl", "training.micro_batch=4"
    assert planned(*small, hardware="h100x8")[0]["shards"] == 1 and planned("gpt3-6.7b", hardware="h100x8")[0]["shards"] == 8
    assert planned(*small, "training.parallel=fsdp", hardware="h100x8")[0]["shards"] == 8
    one, eight = (planned(*small, hardware=name)[0]["tokens_per_second"] for name in ("h100", "h100x8"))
    assert 7 < eight / one < 8.1


def test_a_batch_that_grows_takes_less_time() -> None:
    whole = planned("tiny", "training.steps=100")[0]
    growing = planned("tiny", "training.steps=100", "schedule.batch_ramp_steps=100", "schedule.batch_ramp_from=0.5")[0]
    assert growing["tokens"] == 0.75 * whole["tokens"]


def test_prices_are_what_is_given() -> None:
    result = planned("gpt2", hardware="a100x8", price_per_hour=2.0, price_per_kwh=0.5)[0]
    hours = result["duration_seconds"] / 3600
    assert result["rent"] == pytest.approx(16 * hours) and result["electricity"] == pytest.approx(8 * 0.4 * hours * 0.5)


def test_what_will_not_fit_is_3_after_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["plan", "gpt3-175b", "--hardware", "h100x8", "--json"]) == 3
    shown = capsys.readouterr()
    needed = json.loads(shown.out)["memory_bytes"]["total"]
    what, where, cure = shown.err.splitlines()[-3:]
    assert what == f"error: not enough memory: about {size(needed)} needed, {size(80e9)} free"
    assert where == "where: each of 8 × NVIDIA H100 SXM"
    found = re.search(r"training.cpu_offload=true .* or (\d+) such devices with training.checkpoint_activations=true$", cure)
    assert found and planned("gpt3-175b", "training.checkpoint_activations=true", hardware=f"h100x{found[1]}")[1] is None


def test_a_plan_agrees_with_the_run_about_the_copy_of_a_checkpoint() -> None:
    result, problem, told = planned("gpt2", "training.micro_batch=1", hardware="cpu-laptop")
    memory = result["memory_bytes"]
    assert problem is None and memory["staging"] > 0 and result["needed_bytes"] == memory["total"] - memory["staging"]
    assert f"{size(result['needed_bytes'])} of" in told and "without room for it checkpoints are written at once" in told


def test_offloading_makes_room(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "gpt3-6.7b", "training.parallel=fsdp", "--hardware", "rtx-4090x2"]
    assert command.main(words) == 3 and "training.cpu_offload=true" in capsys.readouterr().err
    assert command.main([*words, "training.cpu_offload=true"]) == 0
    assert "fsdp over 2 with cpu_offload" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["tiny", "training.batch_tokens=1000"], "batch_tokens = 1000 is not a multiple of context_length = 64"),
        (["gpt2", "training.batch_tokens=4096", "--hardware", "h100x8"], "8 processes cannot share a batch of 4 windows"),
        (["gpt2", "training.parallel=fsdp", "training.compile=true", "--hardware", "h100x8"], "spread over processes"),
        (["lstm-small", "training.parallel=fsdp", "--hardware", "h100x8"], "a network without layers of one kind"),
        (["bert-tiny", "training.checkpoint_activations=true"], "cannot be trained with this"),
    ],
)
def test_a_plan_refuses_what_a_run_refuses(words: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["plan", *words]) == 2
    shown = capsys.readouterr()
    assert what in shown.err and "try: " in shown.err and shown.out == ""


def test_no_more_devices_are_named_than_a_batch_has_windows(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "gpt3-175b", "training.batch_tokens=32768", "--hardware", "h100x8"]  # 16 windows
    assert command.main(words) == 3 and "such devices" not in capsys.readouterr().err


def test_the_largest_model_in_some_hours_is_planned_to_take_them() -> None:
    result, _, told = planned("gpt2-xl", hardware="h100x8", hours=24)
    largest = result["largest"]
    assert f"{largest['n_layer']} layers, {largest['d_model']} wide" in told and largest["d_model"] == 64 * largest["n_layer"]
    again = planned("gpt2", f"model.n_layer={largest['n_layer']}", hardware="h100x8")[0]
    assert again["parameters"] == largest["parameters"]
    assert (
        again["duration_seconds"] == pytest.approx(largest["duration_seconds"], rel=1e-3)
        and largest["duration_seconds"] < 24 * 3600
    )
    over = planned("gpt2", f"model.n_layer={largest['n_layer'] + 1}", hardware="h100x8")[0]
    assert over["duration_seconds"] > 24 * 3600
    assert "not even one layer" in planned("gpt2", hardware="cpu-laptop", hours=1e-6)[2]


@pytest.mark.parametrize(
    ("name", "wishes", "what", "cure"),
    [
        ("gpt2-xll", {}, "there is no recipe or preset 'gpt2-xll'", "did you mean gpt2-xl?"),
        ("??", {}, "there is no recipe or preset", "a TOML file, or one of bert-tiny, "),
        ("absent.toml", {}, "missing", "foretell recipes"),
        ("tiny", {"hardware": "h1000"}, "there is no hardware 'h1000'", "did you mean h100?"),
        ("tiny", {"hardware": "h100", "calibrate": True}, "measures this machine", "leave one"),
        ("tiny", {"hours": float("nan")}, "no such number", "0 or more"),
        ("tiny", {"price_per_kwh": -1.0}, "no such number", "0 or more"),
        ("lstm", {"hours": 1.0}, "transformers only", "leave --hours out"),
    ],
)
def test_what_cannot_be_planned(name: str, wishes: dict[str, Any], what: str, cure: str) -> None:
    with pytest.raises(SettingError, match=what) as caught:
        planned(name, **wishes)
    assert cure in caught.value.cure


@pytest.mark.parametrize("name", ["tiny", "bert-tiny", "lstm-small"])
def test_speed_and_memory_are_measured_by_real_steps(name: str) -> None:
    small = ["model.context_length=16", "training.micro_batch=2", "training.threads=1"]
    overrides = [*small, "training.precision=fp32", "training.ema_decay=0.9"]
    recipe = load_recipe(name, overrides)
    config = resolve(recipe.model, 300)[0]
    speed, peak = calibrate.measured_speed(recipe, config, rows=2, seconds=0.0)
    assert speed.micro_seconds > 0 and speed.update_seconds >= 0 and "fp32" in speed.source
    assert 1e8 < peak < 1e11


def test_a_plan_with_measured_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: Any) -> tuple[Speed, int]:
        return Speed(2.0, 1.0, "measured: by a test"), 2**30

    monkeypatch.setattr(calibrate, "measured_speed", measured)
    words = ["training.steps=10", "training.batch_tokens=1024", "training.precision=fp32", "training.threads=1"]
    result, problem, told = planned("tiny", *words, calibrate=True)  # 16 windows in micro-batches of 8
    assert problem is None and result["step_seconds"] == 5.0 and result["duration_seconds"] == 50.0
    assert result["tokens_per_second"] == 1024 / 5 and result["measured_peak_bytes"] == 2**30
    assert "measured: by a test" in told and "1 GiB" in told


def test_planning_counts_with_the_sizes_of_the_engine() -> None:
    assert LOGITS_AT_ONCE == {"cpu": CHUNK_VALUES, "cuda": CHUNK_VALUES * GPU_FACTOR}
    assert (EXPLICIT_UP_TO, BLOCK) == (attention.EXPLICIT_UP_TO, attention.BLOCK)
