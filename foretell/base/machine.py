"""What this machine has, and what is worth using of it (no torch)."""

import os
from pathlib import Path

WIDE_ENOUGH = 64  # a model narrower than this gains nothing from bf16: the operations around the products dominate
CGROUPS = (  # version 2 and 1: microseconds of processor time that a container may take, and in how many
    (Path("/sys/fs/cgroup/cpu.max"),),
    (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")),
)


def usable_processors() -> int:
    """How many processors this process may keep busy: those it may run on, or whole ones of its container's share if fewer."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in CGROUPS:
        try:
            quota, period = (int(word) for file in files for word in file.read_text().split())
        except (OSError, ValueError):  # there is no such version here, or the quota is "max": none
            continue
        if quota > 0 and period > 0:  # -1: none, in version 1
            processors = min(processors, max(1, quota // period))
    return processors
