"""`foretell generate`."""

import argparse
from pathlib import Path

from foretell.base.console import Terminal

EXAMPLE = 'foretell generate runs/mine/model --prompt "Artificial intelligence is" --explain --max-tokens 5'
SETTINGS = {  # checked where they are defined, in generation/config.py
    "max_tokens": ("N", "tokens to write at most (default 200)"),
    "strategy": ("NAME", "greedy: always the likeliest; sample (default): by chance"),
    "temperature": ("X", "below 1 bolder, above 1 wilder (default 0.8)"),
    "top_k": ("K", "only the K likeliest tokens"),
    "top_p": ("P", "only the likeliest tokens that together hold P (default 0.95)"),
    "seed": ("N", "the same seed writes the same text"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model directory")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", metavar="TEXT", default="", help="the text to continue; empty: the model begins by itself")
    source.add_argument("--input", metavar="FILE", help="one prompt a line; '-' is standard input")
    for name, (metavar, text) in SETTINGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=text)
    parser.add_argument("--stop", metavar="TEXT", action="append", default=[], help="stop before this text; may be given again")
    parser.add_argument("--chat", action="store_true", help="the prompt is a message to a chat model: use its chat template")
    parser.add_argument("--explain", action="store_true", help="show for every step the five likeliest tokens with bars")


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.base.records import dump
    from foretell.base.settings import load_settings
    from foretell.generation.config import GenerationSettings

    given = [f"{name}={value}" for name in SETTINGS if (value := getattr(arguments, name)) is not None]
    settings = load_settings(GenerationSettings, None, [*given, f"stop={dump(arguments.stop)}"])

    from foretell.jobs.generate import generate, read_prompts  # torch: only once the settings are known to be right

    prompts = read_prompts(arguments.input) if arguments.input else [arguments.prompt]
    return generate(arguments.model, prompts, settings, terminal, explained=arguments.explain, chat=arguments.chat)
