"""`foretell corpus`: build a corpus, read in it."""

import argparse
import re
from pathlib import Path

from foretell.base.console import Terminal

EXAMPLE = "foretell corpus build my-texts/ --out corpora/mine corpus.min_characters=100"


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="build|show")
    build = verbs.add_parser("build", help="read, clean, filter and deduplicate")
    what = "a file, folder or quoted glob, - for standard input, or corpus.KEY=VALUE"
    build.add_argument("sources", nargs="+", metavar="SOURCE", help=what)
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new corpus folder")
    show = verbs.add_parser("show", help="print documents, or what was left out")
    show.add_argument("folder", type=Path, metavar="DIR", help="a corpus folder")
    show.add_argument("--dropped", action="store_true", help="what was left out, and why")
    show.add_argument("--reason", help="only what was left out for this reason")
    show.add_argument("--limit", type=int, default=10, metavar="N", help="at most this many (default 10)")


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.base.settings import Settings, load_settings
    from foretell.corpus.config import CorpusSettings
    from foretell.jobs.corpus import build_corpus, show_corpus

    class Recipe(Settings):
        corpus: CorpusSettings = CorpusSettings()

    if arguments.verb == "show":
        return show_corpus(arguments.folder, terminal, dropped=arguments.dropped, reason=arguments.reason, limit=arguments.limit)
    overrides = [word for word in arguments.sources if re.match(r"[\w.]+=", word) and not Path(word).exists()]
    sources = [word for word in arguments.sources if word not in overrides]
    return build_corpus(sources, arguments.out, load_settings(Recipe, None, overrides).corpus, terminal)
