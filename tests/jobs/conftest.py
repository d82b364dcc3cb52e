"""Run folders as training leaves them, made by hand: listing and comparing reads files alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run() -> MakeRun:
    """A run of 40 steps whose losses are `slope` / step, evaluated every 10 steps."""

    def make(path: Path, slope: float = 8.0, score: bool = True, **settings: Any) -> Path:
        path.mkdir(parents=True)
        training = {"steps": 40, "seed": 1, **settings}
        lines = ["[model]", 'preset = "gpt2"', "n_layer = 2", "d_model = 32", "n_head = 2", "context_length = 16", "[tokenizer]"]
        lines += ["vocab_size = 300", "[data]", f'shards = "{path.parent}/shards"', "[training]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in training.items()]
        (path / "recipe.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        with (path / "metrics.jsonl").open("w", encoding="utf-8") as stream:
            for step in range(1, 41):
                record = {"step": step, "tokens": step * 100, "loss": slope / step, "learning_rate": 1e-3, "grad_norm": 1.0}
                record |= {"tokens_per_second": 50.0, "elapsed_seconds": step * 2.0, "grad_norms": {"head": 0.5}}
                evaluated = {"held_out_loss": slope / step + 0.1, "held_out_bits_per_byte": slope / step + 0.05}
                stream.write(json.dumps(record | (evaluated if step % 10 == 0 else {})) + "\n")
        if score:
            (path / "model").mkdir()
            value = slope / 40 + 0.1
            metric = {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 900, "protocol": "windows of 16"}
            (path / "evaluation.json").write_text(json.dumps({"metrics": {"held_out_loss": metric}}), encoding="utf-8")
        return path

    return make
