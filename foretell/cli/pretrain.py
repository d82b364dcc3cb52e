"""`foretell pretrain`."""

import argparse
from pathlib import Path

from foretell.base.console import Terminal

EXAMPLE = "foretell pretrain tiny data.shards=shards training.steps=500 --out runs/mine"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file or a bundled name (foretell recipes)")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="settings, e.g. training.steps=500")
    parser.add_argument("--out", type=Path, metavar="RUN", help="the run's folder; default: a new one in runs/")
    parser.add_argument("--profile", action="store_true", help="say where the time of a step goes, after the first eight")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in RUN exactly where it stopped; begin it where there is none"
    )


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.jobs.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)

    from foretell.jobs.pretrain import pretrain  # torch: only once the recipe is known to be right

    resume = arguments.overrides if arguments.resume else None
    return pretrain(recipe, arguments.out, terminal, resume, profile=arguments.profile)
