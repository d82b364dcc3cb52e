"""`foretell shards build`: a corpus to token shards."""

import argparse
from pathlib import Path

from foretell.base.console import Terminal

EXAMPLE = "foretell shards build my-corpus --tokenizer my-tokenizer --out my-shards"


def configure(parser: argparse.ArgumentParser) -> None:
    build = parser.add_subparsers(dest="verb", required=True, metavar="build").add_parser("build", help="encode a corpus")
    build.add_argument("corpus", metavar="CORPUS", type=Path, help="a corpus folder, or a text file")
    build.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer or model directory")
    build.add_argument("--out", type=Path, required=True, help="the new shard folder")
    build.add_argument("--held-out", metavar="FRACTION", default=0.05, help="share of the text not trained on (default 0.05)")


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.base.settings import load_settings
    from foretell.data.config import DataSettings
    from foretell.jobs.shards import build_shards

    settings = load_settings(DataSettings, None, [f"held_out={arguments.held_out}"])
    return build_shards(arguments.corpus, arguments.tokenizer, arguments.out, settings, terminal)
