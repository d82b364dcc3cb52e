"""What this machine offers: versions, device and its measured speed, memory, disk, optional parts."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from foretell import __version__
from foretell.base.files import free_bytes
from foretell.compute.device import DTYPES, available_bytes, default_device, measured_peak, set_threads

PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "pydantic", "transformers")
EXTRAS = {"transformers": "interop"}  # optional package → the extra that brings it


def examine() -> dict[str, Any]:
    """Everything at once; sizes in bytes, speed in floating-point operations a second of large matrix products."""
    device, folder = default_device(), Path.cwd()
    cuda = device.type == "cuda"
    versions = {"foretell": __version__, "python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    return {
        "versions": versions,
        "missing": {name: f'pip install "foretell[{extra}]"' for name, extra in EXTRAS.items() if versions[name] is None},
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability(),
        "threads": set_threads(None),
        "flops_per_second": {precision: measured_peak(precision, device) for precision in DTYPES},
        "available_bytes": available_bytes(device),
        "total_bytes": int(torch.cuda.mem_get_info(device)[1] if cuda else psutil.virtual_memory().total),
        "disk": {"folder": str(folder), "free_bytes": free_bytes(folder)},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
