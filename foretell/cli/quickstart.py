"""`foretell quickstart`."""

import argparse
from pathlib import Path

from foretell.base.console import Terminal

EXAMPLE = "foretell quickstart my-texts/ --minutes 5 --out runs/mine"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", metavar="SOURCE", nargs="*", help="files, folders, globs; default: the standard library's text")
    parser.add_argument("--out", metavar="RUN", type=Path, help="the run's folder; default: a new one in runs/")
    parser.add_argument("--minutes", metavar="M", type=float, default=5.0, help="time for the whole road (default 5)")


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.jobs.quickstart import quickstart

    return quickstart(arguments.sources, arguments.out, arguments.minutes, terminal)
