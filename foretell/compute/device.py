"""Which device, how many threads, how fast it can be at best, how much memory is used."""

import resource
import sys
import time
from typing import Literal

import psutil
import torch

from foretell.base.errors import SettingError
from foretell.base.machine import WIDE_ENOUGH, usable_processors

Precision = Literal["fp32", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
ONE_THREAD_FLOPS = 5e9  # a micro-batch of less work (0.8M parameters, 768 tokens) is as fast on one thread: the others only wait
_MIN_GAIN = 1.3  # bf16 must multiply this much faster than fp32 before it is chosen


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def chosen_device(setting: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device that a recipe names. Raises SettingError for a GPU that is not there."""
    if setting == "cuda" and not torch.cuda.is_available():
        raise SettingError("there is no GPU that torch can use", where="training.device=cuda", cure="training.device=auto")
    return default_device() if setting == "auto" else torch.device(setting)


def set_threads(count: int | None, work_flops: float | None = None) -> int:
    """Use `count` threads (default: the processors this process may use, at most its physical cores); return how many.

    work_flops: of one micro-batch, forward and backward, where it is known: for a little work the default is one thread.
    """
    if count is None and work_flops is not None and work_flops < ONE_THREAD_FLOPS:
        count = 1
    if count is None:
        usable = usable_processors()
        count = min(usable, torch.get_num_threads()) if usable > 2 else usable
    torch.set_num_threads(count)
    return count


def measured_peak(precision: Precision, device: torch.device, seconds: float = 0.15) -> float:
    """The machine's best matrix-product speed, FLOP/s: the best of repeated 1024³ products (GPU: 8192³)."""
    side = 8192 if device.type == "cuda" else 1024
    left = torch.randn(side, side, device=device, dtype=DTYPES[precision], generator=torch.Generator(device).manual_seed(0))
    best, deadline = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < deadline or best == 0.0:
        started = time.perf_counter()
        torch.mm(left, left)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def choose_precision(setting: Literal["fp32", "bf16", "auto"], device: torch.device, d_model: int) -> tuple[Precision, str]:
    """Resolve `auto` by measuring both, and say why."""
    if setting != "auto":
        return setting, "as set"
    if d_model < WIDE_ENOUGH:
        return "fp32", f"a model {d_model} wide gains nothing from bf16"
    slow, fast = (measured_peak(p, device) for p in ("fp32", "bf16"))
    chosen: Precision = "bf16" if fast > _MIN_GAIN * slow else "fp32"
    return chosen, f"measured {slow / 1e9:.0f} GFLOP/s in fp32, {fast / 1e9:.0f} in bf16"


def used_bytes() -> int:
    """Memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """The most memory this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_bytes(device: torch.device) -> int:
    """Memory that a new run can take, of the GPU or of the machine."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else int(psutil.virtual_memory().available)
