"""`foretell recipes`: the bundled recipes, and what is in one."""

import argparse

from foretell.base.console import Terminal

EXAMPLE = "foretell recipes show tiny"


def configure(parser: argparse.ArgumentParser) -> None:
    show = parser.add_subparsers(title="commands", metavar="COMMAND").add_parser("show", help="print one recipe")
    show.add_argument("name", metavar="NAME", help="a bundled name, or a TOML file")


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.base.files import read_text
    from foretell.jobs.recipes import bundled, find

    if "name" in arguments:
        text = read_text(find(arguments.name))
        terminal.say(text, end="", result=True)
        return {"name": arguments.name, "text": text}
    recipes = bundled()
    for recipe in recipes:
        needs = " · ".join(f"{name} {recipe[name]}" for name in ("hardware", "time", "memory", "score"))
        terminal.say(f"{recipe['name']:12}  {recipe['title']}\n{'':12}  {needs}\n", result=True)
    terminal.say("`foretell recipes show NAME` prints one; `foretell pretrain NAME data.shards=DIR --out RUN` runs it.")
    return recipes
