"""`foretell generate`."""

import argparse
from pathlib import Path

from foretell.base.console import Terminal
from foretell.base.errors import SettingError

EXAMPLE = 'foretell generate runs/mine/model --prompt "Artificial intelligence is" --explain --max-tokens 5'
SETTINGS = ("strategy", "max_tokens", "temperature", "top_k", "top_p", "seed")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments. Values are checked where the settings are defined."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model directory")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", metavar="TEXT", help="the text to continue; empty: the model begins by itself")
    source.add_argument("--input", metavar="FILE", help="one prompt a line; '-' is standard input")
    parser.add_argument("--max-tokens", metavar="N", help="tokens to write at most (default 200)")
    parser.add_argument(
        "--strategy", choices=("greedy", "sample"), help="greedy: always the likeliest; sample (default): by chance"
    )
    parser.add_argument("--temperature", metavar="X", help="below 1 bolder, above 1 wilder (default 0.8)")
    parser.add_argument("--top-k", metavar="K", help="only the K likeliest tokens")
    parser.add_argument("--top-p", metavar="P", help="only the likeliest tokens that together hold P (default 0.95)")
    parser.add_argument("--seed", metavar="N", help="the same seed writes the same text")
    parser.add_argument("--stop", metavar="TEXT", action="append", default=[], help="stop before this text; may be given again")
    parser.add_argument("--explain", action="store_true", help="show for every step the five likeliest tokens with bars")


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    """Run the job."""
    from foretell.base.settings import load_settings
    from foretell.generation.config import GenerationSettings

    given = [f"{name}={value}" for name in SETTINGS if (value := getattr(arguments, name)) is not None]
    settings = load_settings(GenerationSettings, None, given).replace(stop=tuple(arguments.stop))
    if "" in settings.stop:
        raise SettingError("a stop string is empty", where="--stop", cure="give the text to stop before, or leave --stop out")

    from foretell.jobs.generate import generate, read_prompts  # torch: only once the settings are known to be right

    prompts = read_prompts(arguments.input) if arguments.input else [arguments.prompt or ""]
    return generate(arguments.model, prompts, settings, terminal, explained=arguments.explain)
