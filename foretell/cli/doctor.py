"""`foretell doctor`: what this machine offers, to read or to put into a report."""

import argparse

from foretell.base.console import Terminal
from foretell.base.units import size

EXAMPLE = "foretell doctor --json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Nothing to choose."""


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    """Examine and print."""
    from foretell.jobs.doctor import examine

    found = examine()
    speeds = ", ".join(f"{speed / 1e9:.0f} GFLOP/s in {precision}" for precision, speed in found["flops_per_second"].items())
    rows = [[name, version or f"missing: {found['missing'].get(name)}"] for name, version in found["versions"].items()]
    rows.append(["device", f"{found['device']} ({found['device_name']}), {found['threads']} threads: {speeds}"])
    rows.append(["memory", f"{size(found['available_bytes'])} of {size(found['total_bytes'])} free"])
    rows.append(["disk", f"{size(found['disk']['free_bytes'])} free in {found['disk']['folder']}"])
    terminal.table(["part", "here"], rows)
    return found
