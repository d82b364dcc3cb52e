"""Without a compiler a run goes on uncompiled and says why."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foretell.compute.compiling import compiled


def test_no_compiler_is_told_and_the_model_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    model = nn.Linear(2, 2)
    forward, problem = compiled(model, torch.device("cpu"), tmp_path)
    assert forward is model and problem == "RuntimeError: No working C++ compiler found"
