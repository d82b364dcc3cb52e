"""`foretell import`."""

import argparse
from pathlib import Path

from foretell.base.console import Terminal

EXAMPLE = """foretell import openai-community/gpt2 --out models/gpt2
  foretell import smollm2-135m-instruct.Q4_1.gguf --out models/smollm2"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a Hugging Face folder or hub name (owner/name), a .gguf file, a PEFT adapter, or a folder of OpenAI's GPT-1 (.npy), "
        "OpenAI's GPT-2 or Google's BERT release (TensorFlow checkpoints)",
    )
    parser.add_argument("--out", type=Path, metavar="MODEL", required=True, help="the new model directory")
    parser.add_argument("--revision", metavar="REV", help="of a hub model: branch, tag or commit")
    parser.add_argument("--base", metavar="MODEL", help="of a PEFT adapter: the model it belongs to (default: the one it names)")
    parser.add_argument(
        "--text",
        choices=("faithful", "transformers"),
        help="of GPT-1: prepare text as OpenAI did (ftfy and spaCy; the default where they are installed) or as transformers does",
    )


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.jobs.convert import import_model

    options = {"revision": arguments.revision, "base": arguments.base, "text": arguments.text}
    return import_model(arguments.source, arguments.out, terminal, **options)
