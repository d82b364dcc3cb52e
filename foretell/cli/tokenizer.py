"""`foretell tokenizer`: train one, and see what one makes of a text."""

import argparse
import sys
from pathlib import Path

from foretell.base.console import Terminal

EXAMPLE = "foretell tokenizer train my-corpus --out my-tokenizer --vocab-size 8192"
KINDS = """bpe: byte-level byte-pair encoding (any bytes come back exactly); wordpiece: BERT's, in small letters;
char, word: a token for each; byte: 256 tokens"""


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="train|show")
    example = f"examples:\n  {EXAMPLE}\n  foretell tokenizer train book.txt --out characters --kind char"
    train = verbs.add_parser("train", help="learn a vocabulary from a corpus", epilog=example)
    train.add_argument("corpus", metavar="CORPUS", nargs="+", type=Path, help="a corpus folder, or text files")
    train.add_argument("--out", type=Path, required=True, help="the new tokenizer directory")
    train.add_argument("--kind", default="bpe", metavar="bpe|wordpiece|char|byte|word", help=KINDS)
    train.add_argument("--vocab-size", default=8192, help="number of tokens (default 8192; char: at most, byte: always 257)")
    example = 'example:\n  foretell tokenizer show my-tokenizer "Call me Ishmael."'
    show = verbs.add_parser("show", help="the tokens of a text, with their ids and bytes", epilog=example)
    show.add_argument("directory", metavar="DIR", type=Path, help="a tokenizer or model directory")
    show.add_argument("text", metavar="TEXT", help="a text, or - for standard input")


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.base.settings import load_settings
    from foretell.jobs.tokenizer import show_tokens, train_tokenizer
    from foretell.tokenizers.config import TokenizerSettings

    if arguments.verb == "show":
        return show_tokens(arguments.directory, sys.stdin.read() if arguments.text == "-" else arguments.text, terminal)
    settings = load_settings(TokenizerSettings, None, [f"kind={arguments.kind}", f"vocab_size={arguments.vocab_size}"])
    return train_tokenizer(arguments.corpus, arguments.out, settings, terminal)
