"""`foretell runs`."""

import argparse
from pathlib import Path

from foretell.base.console import Terminal

EXAMPLE = "foretell runs runs/ --json"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, nargs="?", default=Path("runs"), help="where runs lie (default runs/)")


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.jobs.runs import list_runs

    return list_runs(arguments.folder, terminal)
