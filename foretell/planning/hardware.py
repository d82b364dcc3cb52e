"""What a run would run on: a profile by name, or this machine (no torch)."""

import difflib
import math
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

import psutil
from pydantic import PositiveFloat, PositiveInt

from foretell.base.errors import SettingError
from foretell.base.files import read_text
from foretell.base.machine import WIDE_ENOUGH, usable_processors
from foretell.base.settings import Settings

Precision = Literal["fp32", "bf16"]
# guesses of FLOP/s per core, by what the processor can do; the second is measured (AMD EPYC Zen 4)
CORES: tuple[tuple[str, dict[Precision, float]], ...] = (
    ("amx_bf16", {"bf16": 800e9, "fp32": 100e9}),
    ("avx512_bf16", {"bf16": 210e9, "fp32": 100e9}),
    ("avx512f", {"fp32": 100e9}),
    ("avx2", {"fp32": 50e9}),
    ("", {"fp32": 30e9}),
)
CORE_WATTS, CORE_BANDWIDTH, MEMORY_BANDWIDTH = 10.0, 20e9, 60e9  # guesses: what a core draws and moves, what all together move
CGROUPS = (  # version 2 and 1: folder, the most, what is used (file caches included, which the kernel gives back)
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


class Hardware(Settings):
    """Some equal devices, as in hardware.toml. name: with how many, `h100x8`. All figures are of one device."""

    name: str
    title: str
    kind: Literal["cpu", "cuda"]
    peak_flops: dict[Precision, PositiveFloat]
    memory_bytes: PositiveInt
    bandwidth: PositiveFloat
    watts: PositiveFloat
    price_per_hour: float
    share: PositiveFloat
    width: PositiveInt
    matches: tuple[str, ...] = ()
    devices: PositiveInt = 1
    guessed: bool = False
    """Not from a data sheet: this machine's cores and a guess for each."""

    def precision(self, setting: str, d_model: int) -> Precision:
        """What `training.precision` becomes here."""
        gains = "bf16" in self.peak_flops and d_model >= WIDE_ENOUGH
        return "bf16" if setting == "bf16" or (setting == "auto" and gains) else "fp32"

    def expected_flops(self, precision: Precision, d_model: int) -> float:
        """FLOP/s of forward and backward on one device. bf16 without units for it: half of fp32."""
        peak = self.peak_flops.get(precision) or self.peak_flops["fp32"] / 2
        return peak * self.expected_share(d_model)

    def expected_share(self, d_model: int) -> float:
        """Of the peak: narrow models keep the units less busy."""
        return self.share * math.sqrt(min(1.0, d_model / self.width))


@cache
def profiles() -> dict[str, Hardware]:
    """hardware.toml."""
    raw = tomllib.loads(read_text(Path(__file__).with_name("hardware.toml")))
    return {name: Hardware.model_validate({"name": name, **values}) for name, values in raw.items()}


def named(text: str) -> Hardware:
    """`h100`, or `h100x8` for eight of them. Raises SettingError."""
    found = re.fullmatch(r"(.+?)(?:x([1-9]\d{0,5}))?", text.lower())
    name, devices = (found[1], int(found[2] or 1)) if found else (text, 1)
    name = f"{name}x" if f"{name}x" in profiles() else name  # mi300x8 are eight of them
    if profile := profiles().get(name):
        return profile.replace(name=f"{name}x{devices}" if devices > 1 else name, devices=devices)
    near = difflib.get_close_matches(name, profiles(), n=1)
    cure = f"did you mean {near[0]}?" if near else f"one of {', '.join(profiles())}, with x8 for eight of them"
    raise SettingError(f"there is no hardware '{text}'", where="--hardware", cure=cure)


def this_machine(device: str = "auto") -> Hardware:
    """The GPU of this machine if a profile knows it, else its cores. device: as in training.device."""
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")) if device != "cpu" else []
    for profile in profiles().values():
        if gpus and any(word in read_text(gpus[0]) for word in profile.matches):
            return profile.replace(title=f"this machine's {profile.title}")
    cores, flags = _cores(), _processor_flags()
    each = next(flops for flag, flops in CORES if flag in flags or not flag)
    peak_flops = {precision: cores * flops for precision, flops in each.items()}
    moves = {"memory_bytes": max(1, free_bytes()), "bandwidth": min(MEMORY_BANDWIDTH, CORE_BANDWIDTH * cores)}
    guesses = {"watts": CORE_WATTS * cores, "price_per_hour": 0.0, "share": 0.6, "width": 384, "guessed": True}
    name = {"name": "here", "title": f"this machine: {cores} cores", "kind": "cpu"}
    return Hardware.model_validate({**name, **moves, **guesses, "peak_flops": peak_flops})


def free_bytes() -> int:
    """Memory that a new process can take: what the machine has left, or the container (cgroup) if that is less."""
    free = int(psutil.virtual_memory().available)
    for folder, limit, usage in CGROUPS:
        try:
            most, used = (int((folder / name).read_text()) for name in (limit, usage))
            cached = re.search(r"^(?:total_)?inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
            free = min(free, most - used + int(cached[1] if cached else 0))
        except (OSError, ValueError):  # there is no such version here, or the limit is "max": none
            continue
    return max(0, free)


def _cores() -> int:
    return min(usable_processors(), psutil.cpu_count(logical=False) or usable_processors())


def _processor_flags() -> str:
    try:
        return next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    except OSError:
        return ""
