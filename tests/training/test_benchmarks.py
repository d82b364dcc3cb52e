"""The benchmarks of training run, at toy size."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def script(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")
def test_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    script("gpu").main(["--steps", "1"])
    told = capsys.readouterr().out
    assert "| foretell | " in told and "llm.c" in told


@pytest.mark.filterwarnings("ignore")
def test_training() -> None:
    module = script("training")
    toy = module.SHAPES["toy"]
    ours = module.our_step(toy)
    first = ours()
    assert 0.0 < ours() < first < 8.0
    pytest.importorskip("transformers")
    theirs = module.peer_step(*module.PEERS["transformers, bf16 + fused"], toy)
    assert abs(theirs() - first) < 0.5  # the same tokens, weights drawn alike
    turn = {"wall": 0.5, "best": 0.5, "cpu": 1.0, "rss": 2.0**30}
    assert module.row("it", toy, [turn], 1e9, "|").startswith("| it | 128 (128) | 11% (11%) | 1,000 | 1.00 |")
