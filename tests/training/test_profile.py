"""The profile: every operation has one kind, seconds are per step, and the files are written."""

import json
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from foretell.base.console import Terminal
from foretell.training.profile import STEPS, WARM_UP, Profile, kind_of, summary
from foretell.training.state import Progress


@pytest.mark.parametrize(
    "operation, kind",
    [
        ("aten::addmm", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_fused_adamw_", "optimizer"),
        ("gloo:all_reduce", "communication"),
        ("aten::copy_", "copies and casts"),
        ("aten::gelu", "element by element, and the rest"),
    ],
)
def test_kinds_of_work(operation: str, kind: str) -> None:
    assert kind_of(operation) == kind


def test_summary_counts_phases_by_the_clock_and_kinds_by_own_time() -> None:
    def event(key: str, own: float, whole: float = 0.0) -> SimpleNamespace:
        return SimpleNamespace(key=key, self_cpu_time_total=own, cpu_time_total=whole, self_device_time_total=0)

    events = [event("step: backward", 5.0, 4e6), event("aten::mm", 1e6), event("aten::addmm", 3e6), event("aten::gelu", 2e6)]
    found = summary(events, steps=2)
    assert found["phases"] == {"backward": 2.0}
    assert found["kinds"] == {"matrix products": 2.0, "element by element, and the rest": 1.0}
    assert list(found["kinds"]) == ["matrix products", "element by element, and the rest"]


def test_the_run_goes_on_and_the_files_are_there(tmp_path: Path) -> None:
    state, stream = SimpleNamespace(finished=False, progress=Progress(steps=99)), StringIO()

    def step(_: object) -> str:
        with torch.profiler.record_function("step: update"):
            torch.ones(8, 8) @ torch.ones(8, 8)
        return "report"

    profile = Profile(step, tmp_path, Terminal(stream=stream))  # type: ignore[arg-type]
    assert {profile(state) for _ in range(WARM_UP + STEPS + 2)} == {"report"}  # type: ignore[arg-type]
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["steps"] == STEPS and "update" in found["phases"] and "matrix products" in found["kinds"]
    assert "traceEvents" in json.loads((tmp_path / "trace.json").read_text())
    assert "where the time of a step goes" in stream.getvalue()
