"""`foretell shards build` and `append`: corpora to token shards."""

import argparse
from pathlib import Path

from foretell.base.console import Terminal

EXAMPLE = "foretell shards build my-corpus --tokenizer my-tokenizer --out my-shards"


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="build|append")
    build = verbs.add_parser("build", help="encode a corpus")
    build.add_argument("corpus", metavar="CORPUS", type=Path, help="a corpus folder, or a text file")
    build.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer or model directory")
    build.add_argument("--out", type=Path, required=True, help="the new shard folder")
    build.add_argument("--held-out", metavar="FRACTION", default=0.05, help="share of the text not trained on (default 0.05)")
    append = verbs.add_parser("append", help="add the documents that a shard folder does not hold yet")
    append.add_argument("shards", metavar="SHARDS", type=Path, help="a shard folder")
    append.add_argument("corpora", metavar="CORPUS", type=Path, nargs="+", help="corpus folders, or text files")
    for verb in (build, append):
        verb.add_argument("--workers", metavar="N", type=int, help="processes that encode (default: one a processor)")


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.base.errors import SettingError
    from foretell.base.settings import load_settings
    from foretell.data.config import DataSettings
    from foretell.jobs.shards import add_to_shards, build_shards

    if arguments.workers is not None and arguments.workers < 1:
        raise SettingError("at least one process must encode", where="--workers", cure="give 1 or more, or leave it out")
    if arguments.verb == "append":
        return add_to_shards(arguments.shards, arguments.corpora, terminal, arguments.workers)
    settings = load_settings(DataSettings, None, [f"held_out={arguments.held_out}"])
    return build_shards(arguments.corpus, arguments.tokenizer, arguments.out, settings, terminal, arguments.workers)
