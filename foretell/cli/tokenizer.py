"""`foretell tokenizer`: train one, see what one makes of a text, and compare several."""

import argparse
import re
import sys
from pathlib import Path

from foretell.base.console import Terminal

EXAMPLE = "foretell tokenizer train my-corpus --out my-tokenizer --vocab-size 8192"
KINDS = """bpe: byte-level byte-pair encoding (any bytes come back exactly); unigram: SentencePiece's; wordpiece: BERT's, in
small letters; char, word: a token for each; byte: 256 tokens"""


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="train|show|compare")
    example = f"examples:\n  {EXAMPLE}\n  foretell tokenizer train book.txt --out characters --kind char"
    example += (
        "\n  foretell tokenizer train my-corpus --out mine tokenizer.split=gpt4 'tokenizer.special_tokens=[\"<|im_start|>\"]'"
    )
    train = verbs.add_parser("train", help="learn a vocabulary from a corpus", epilog=example)
    train.add_argument("corpus", metavar="CORPUS", nargs="+", help="a corpus folder, text files, or tokenizer.KEY=VALUE")
    train.add_argument("--out", type=Path, required=True, help="the new tokenizer directory")
    train.add_argument("--kind", default="bpe", metavar="bpe|unigram|wordpiece|char|byte|word", help=KINDS)
    train.add_argument("--vocab-size", default=8192, help="number of tokens (default 8192; char: at most, byte: always 257)")
    example = 'example:\n  foretell tokenizer show my-tokenizer "Call me Ishmael."'
    show = verbs.add_parser("show", help="the tokens of a text, with their ids and bytes", epilog=example)
    show.add_argument("directory", metavar="DIR", type=Path, help="a tokenizer or model directory")
    show.add_argument("text", metavar="TEXT", help="a text, or - for standard input")
    about, example = (
        "bytes per token, tokens per word, vocabulary use and speed of several",
        "foretell tokenizer compare a b my-corpus",
    )
    compare = verbs.add_parser("compare", help=about, epilog=f"example:\n  {example}")
    compare.add_argument("directories", metavar="DIR", nargs="+", type=Path, help="tokenizer or model directories")
    compare.add_argument("corpus", metavar="CORPUS", type=Path, help="a corpus folder, or a text file")


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.base.settings import Settings, load_settings
    from foretell.jobs.tokenizer import compare_tokenizers, show_tokens, train_tokenizer
    from foretell.tokenizers.config import TokenizerSettings

    class Recipe(Settings):
        tokenizer: TokenizerSettings = TokenizerSettings()

    if arguments.verb == "show":
        return show_tokens(arguments.directory, sys.stdin.read() if arguments.text == "-" else arguments.text, terminal)
    if arguments.verb == "compare":
        return compare_tokenizers(arguments.directories, arguments.corpus, terminal)
    overrides = [word for word in arguments.corpus if re.match(r"[\w.]+=", word) and not Path(word).exists()]
    paths = [Path(word) for word in arguments.corpus if word not in overrides]
    given = [f"tokenizer.kind={arguments.kind}", f"tokenizer.vocab_size={arguments.vocab_size}", *overrides]
    return train_tokenizer(paths, arguments.out, load_settings(Recipe, None, given).tokenizer, terminal)
