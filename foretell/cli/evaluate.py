"""`foretell evaluate`."""

import argparse
from pathlib import Path

from foretell.base.console import Terminal

EXAMPLE = "foretell evaluate runs/mine/model --text book.txt --json"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model directory")
    text = "a text to score; '-' is standard input; may be given again"
    parser.add_argument("--text", metavar="FILE", type=Path, action="append", default=[], help=text)
    parser.add_argument("--out", metavar="DIR", type=Path, help="also write evaluation.json into this new folder")


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.jobs.evaluate import evaluate

    return evaluate(arguments.model, arguments.text, arguments.out, terminal)
