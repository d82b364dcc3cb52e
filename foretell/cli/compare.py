"""`foretell compare`."""

import argparse
from pathlib import Path

from foretell.base.console import Terminal

EXAMPLE = "foretell compare runs/small runs/large --out small-or-large.html"


def configure(parser: argparse.ArgumentParser) -> None:
    what = "two or more run folders, or folders or files with an evaluation; the first one is what the others are compared with"
    parser.add_argument("sides", metavar="RUN", type=Path, nargs="+", help=what)
    parser.add_argument(
        "--out", metavar="FILE", type=Path, default=Path("compare.html"), help="the new page (default compare.html)"
    )


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.jobs.compare import compare

    return compare(arguments.sides, arguments.out, terminal)
