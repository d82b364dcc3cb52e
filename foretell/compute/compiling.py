"""torch.compile where it can be had: with a cache that outlives the run, and a plain word where there is no compiler."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foretell.base.errors import first_line


def compiled(model: nn.Module, device: torch.device, cache: Path) -> tuple[Callable[..., Any], str | None]:
    """The compiled model and None; or the model itself and why it is not compiled.

    cache: compiled code is kept there, so that the next run begins warm. A user's own TORCHINDUCTOR_CACHE_DIR is respected.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    try:
        torch.compile(_probe)(torch.zeros(8, device=device))  # a few lines: whether a compiler is there shows now, not in step 1
    except Exception as error:
        return model, first_line(error)[:160]
    return torch.compile(model), None


def _probe(x: torch.Tensor) -> torch.Tensor:
    return (x + 1).relu()
