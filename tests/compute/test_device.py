"""Threads by the work there is; precision by width and by what was measured."""

from collections.abc import Iterator

import pytest
import torch

from foretell.compute import device
from foretell.compute.device import choose_precision, set_threads

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_little_work_takes_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert set_threads(None) == 2 == torch.get_num_threads()
    assert set_threads(None, work_flops=1e9) == 1 == torch.get_num_threads()
    assert set_threads(None, work_flops=1e11) == 2
    assert set_threads(2, work_flops=1e9) == 2  # what is set is set


def test_bf16_where_it_is_faster_and_the_model_wide_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"fp32": 1e11, "bf16": 2e11}
    monkeypatch.setattr(device, "measured_peak", lambda precision, _: speeds[precision])
    assert choose_precision("auto", CPU, 64) == ("bf16", "measured 100 GFLOP/s in fp32, 200 in bf16")
    assert choose_precision("auto", CPU, 32)[0] == "fp32"
    assert choose_precision("bf16", CPU, 32) == ("bf16", "as set")
    speeds["bf16"] = 1.1e11
    assert choose_precision("auto", CPU, 64)[0] == "fp32"
