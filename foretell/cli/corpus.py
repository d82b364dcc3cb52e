"""`foretell corpus`: build a corpus, read in it, find where a text comes from."""

import argparse
import re
from pathlib import Path

from foretell.base.console import Terminal

EXAMPLE = "foretell corpus build my-texts/ --out corpora/mine corpus.min_characters=100"


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="build|show|trace")
    build = verbs.add_parser("build", help="read, clean, filter and deduplicate")
    what = "a file, folder, archive or quoted glob, hf:NAME, - for standard input, or corpus.KEY=VALUE; keys are for example "
    what += "text_field, encoding, extractor, languages, rules, redact, min_characters, decontaminate, shuffle"
    build.add_argument("sources", nargs="+", metavar="SOURCE", help=what)
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new corpus folder")
    build.add_argument("--workers", type=int, metavar="N", help="worker processes (default: the processors there are)")
    build.add_argument("--engine", choices=("local", "ray"), default="local", help="who does the work (default local)")
    build.add_argument("--ray-address", metavar="ADDRESS", help="a Ray cluster; without it Ray runs on this machine alone")
    share = "do the I-th of N shares, beside N - 1 such commands on a shared disk; without it, do the rest and end the build"
    build.add_argument("--part", metavar="I/N", help=share)
    show = verbs.add_parser("show", help="print documents, or what was left out")
    show.add_argument("folder", type=Path, metavar="DIR", help="a corpus folder")
    show.add_argument("--dropped", action="store_true", help="what was left out, and why")
    show.add_argument("--reason", help="only what was left out for this reason")
    show.add_argument("--limit", type=int, default=10, metavar="N", help="at most this many (default 10)")
    trace = verbs.add_parser("trace", help="which documents hold the longest verbatim spans of a text")
    trace.add_argument("folder", type=Path, metavar="DIR", help="a corpus folder")
    trace.add_argument("text", metavar="TEXT", help="the text, or - for standard input")
    trace.add_argument("--limit", type=int, default=10, metavar="N", help="at most this many spans (default 10)")


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.base.settings import Settings, load_settings
    from foretell.corpus.config import CorpusSettings
    from foretell.jobs import corpus

    class Recipe(Settings):
        corpus: CorpusSettings = CorpusSettings()

    if arguments.verb == "show":
        return corpus.show_corpus(
            arguments.folder, terminal, dropped=arguments.dropped, reason=arguments.reason, limit=arguments.limit
        )
    if arguments.verb == "trace":
        return corpus.trace_text(arguments.folder, arguments.text, terminal, limit=arguments.limit)
    overrides = [word for word in arguments.sources if re.match(r"[\w.]+=", word) and not Path(word).exists()]
    sources = [word for word in arguments.sources if word not in overrides]
    engine = corpus.chosen_engine(arguments.engine, arguments.workers, arguments.ray_address, arguments.part)
    manifest = corpus.build_corpus(sources, arguments.out, load_settings(Recipe, None, overrides).corpus, terminal, engine=engine)
    corpus.require_readable(manifest, arguments.out)
    return manifest
