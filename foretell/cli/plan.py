"""`foretell plan`."""

import argparse

from foretell.base.console import Terminal

EXAMPLE = "foretell plan gpt3-6.7b --hardware h100x8 --hours 24"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a TOML file, a bundled name (foretell recipes) or a model preset (gpt2-xl)"
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="settings, e.g. training.micro_batch=4")
    parser.add_argument("--hardware", metavar="NAMExN", help="instead of this machine: h100x8, a100, rtx-4090, cpu-laptop …")
    parser.add_argument("--calibrate", action="store_true", help="measure speed and memory by a few real steps on this machine")
    parser.add_argument("--hours", type=float, metavar="H", help="also: the largest model that trains well in so many hours")
    parser.add_argument("--price-per-hour", type=float, metavar="USD", help="of one device; default: the hardware's, as stated")
    parser.add_argument("--price-per-kwh", type=float, metavar="USD", default=0.15, help="default: %(default)s")


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.jobs.plan import Wishes, plan

    names = ("hardware", "calibrate", "hours", "price_per_hour", "price_per_kwh")
    wishes = Wishes(**{name: getattr(arguments, name) for name in names})
    result, problem = plan(arguments.recipe, arguments.overrides, wishes, terminal)
    if problem is None:
        return result
    if arguments.json:
        from foretell.base.records import dump

        print(dump(result, indent=2))
    raise problem
