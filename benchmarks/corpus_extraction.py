"""Main content of pages: how much of it is found, and how fast, ours beside trafilatura and resiliparse.

    python benchmarks/corpus_extraction.py [--peers PYTHON] [--quick] [--rounds N] [--docs FOLDER]

PYTHON: an interpreter that has trafilatura and resiliparse; absent: this one. The pages are the 181 of the article-extraction
benchmark in the data folder ($FORETELL_DATA), scored as there: four-word sequences, precision and recall of each page, their
means, and the F1 of those. FOLDER: a folder of pages without known text, for speed alone (Debian's python3.11-doc). Every system is
a process of its own on one core; they take turns, a pass over all pages each, so that whatever else the machine does meets all of
them. Ratios are medians of the ratios of turns of the same round, in processor time.

The rule by which `auto` doubts a page was found by looking at these pages. Their two halves (every other page by name) are scored
apart, to show by how much such a set decides; of an independent one, expect the lower.
"""

import argparse
import gzip
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "corpus.md"
BEGIN, END = "<!-- extraction -->", "<!-- /extraction -->"
DATA = Path(os.environ.get("FORETELL_DATA", Path(__file__).parents[2] / "shared" / "data"))
ARTICLES = DATA / "html" / "article-extraction"
OURS = {f"foretell, {engine}": engine for engine in ("fast", "auto", "quality")}
REFERENCE = "trafilatura, fast=True"
RESILIPARSE = {"main_content": True, "alt_texts": False, "links": False, "form_fields": False, "comments": False}
PEERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    REFERENCE: ("trafilatura", "extract", {"fast": True, "include_comments": False}),
    "trafilatura, as datatrove calls it": (
        "trafilatura",
        "extract",
        {"favor_precision": True, "include_comments": False, "deduplicate": True},
    ),
    "resiliparse, as DCLM calls it": ("resiliparse.extract.html2text", "extract_plain_text", RESILIPARSE),
}
Reader = Callable[[str], str | None]
Turn = dict[str, Any]


def main() -> None:
    """Measure, print and write the tables; or, as --worker, be one of the systems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable, help="the peers' interpreter")
    parser.add_argument("--quick", action="store_true", help="ten pages, one round; writes no results")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--docs", type=Path, help="a folder of pages, for speed alone")
    parser.add_argument("--worker", nargs=3, metavar=("SYSTEM", "PAGES", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker[0], Path(arguments.worker[1]), int(arguments.worker[2]))
        return
    count, rounds = (10, 1) if arguments.quick else (10**6, arguments.rounds)
    lines = ["\n### Articles of 181 news sites and blogs\n", *table(ARTICLES, count, rounds, arguments.peers, scored=True)]
    if arguments.docs:
        count = min(count, 60)
        lines += [
            f"\n### Manuals: {count} pages of Python's documentation\n",
            *table(arguments.docs, count, rounds, arguments.peers),
        ]
    print("\n".join(lines))
    if not arguments.quick:
        write("\n".join(lines))


def table(folder: Path, count: int, rounds: int, peers: str, scored: bool = False) -> Iterator[str]:
    """The lines of a table: every system over the same pages, in turns."""
    systems = [*OURS, *PEERS]
    workers = {system: worker(sys.executable if system in OURS else peers, system, folder, count) for system in systems}
    turns: list[dict[str, Turn]] = [{system: turn(process) for system, process in workers.items()} for _ in range(rounds)]
    for process in workers.values():
        process.communicate()
    scores = "| P | R | **F1** | F1, halves " if scored else ""
    yield f"| engine {scores}| MB/s, median (best) | pages/s | times trafilatura's speed | slowest page, ms | peak RSS, MiB |"
    yield f"|---{'|--:' * (9 if scored else 5)}|"
    for system in systems:
        mine = [each[system] for each in turns]
        speed = [one["bytes"] / one["cpu"] / 1e6 for one in mine]
        ratio = statistics.median(each[REFERENCE]["cpu"] / each[system]["cpu"] for each in turns)
        slowest, memory = 1000 * statistics.median(one["slowest"] for one in mine), max(one["rss"] for one in mine) / 2**20
        pages = statistics.median(one["pages"] / one["cpu"] for one in mine)
        rates = (
            f"{statistics.median(speed):.1f} ({max(speed):.1f}) | {pages:,.0f} | **{ratio:.1f}** | {slowest:,.0f} | {memory:,.0f} |"
        )
        yield f"| {system} | " + (f"{mine[0]['score']} | " if scored else "") + rates


def worker(python: str, system: str, folder: Path, count: int) -> subprocess.Popen[str]:
    """A process that holds a system and the pages, and reads them all for each line it is sent."""
    command = [python, "-W", "ignore", __file__, "--worker", system, str(folder), str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def turn(process: subprocess.Popen[str]) -> Turn:
    """What one pass of a worker took."""
    assert process.stdin and process.stdout  # noqa: S101
    process.stdin.write("turn\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit("a system ended")
    found: Turn = json.loads(line)
    return found


def work(system: str, folder: Path, count: int) -> None:
    """Read all pages for each line that comes in; say what that took, and how good it was."""
    paths = sorted(folder.rglob("*.html*"))
    pages = {path.stem: text_of(path) for path in paths[:: max(1, len(paths) // count)][:count]}
    read, size = reader(system), sum(len(page.encode()) for page in pages.values())
    for page in list(pages.values())[:3]:
        read(page)
    for _ in sys.stdin:
        started, slowest, texts = time.process_time(), 0.0, dict[str, str]()
        for name, page in pages.items():
            begun = time.process_time()
            texts[name] = read(page) or ""
            slowest = max(slowest, time.process_time() - begun)
        spent = {"cpu": time.process_time() - started, "slowest": slowest, "bytes": size, "pages": len(pages)}
        score = scores(texts) if folder == ARTICLES else ""
        print(json.dumps({**spent, "score": score, "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


def text_of(path: Path) -> str:
    """A page as text."""
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8", "replace")


def reader(system: str) -> Reader:
    """A system as a function from a page to its text."""
    if system in OURS:
        from foretell.corpus.config import CorpusSettings
        from foretell.corpus.extract import main_text

        settings = CorpusSettings.model_validate({"extractor": OURS[system], "page_seconds": 60.0})
        return lambda page: main_text(page, settings)
    module, function, options = PEERS[system]
    call = getattr(import_module(module), function)
    return lambda page: call(page, **options)


def scores(texts: dict[str, str]) -> str:
    """Precision, recall, F1, and the F1 of each half, as cells."""
    truth = json.loads((ARTICLES / "ground-truth.json").read_text(encoding="utf-8"))
    names = sorted(texts)
    marks = {name: mark(shingles(texts[name]), shingles(truth[name.removesuffix(".html")]["articleBody"])) for name in names}
    precision, recall, f1 = means([marks[name] for name in names])
    halves = " / ".join(f"{means([marks[name] for name in names[start::2]])[2]:.3f}" for start in (0, 1))
    return f"{precision:.3f} | {recall:.3f} | **{f1:.3f}** | {halves}"


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """Sequences of four words, as the benchmark counts them."""
    words = re.findall(r"\w+", text)
    return Counter(gram for start in range(max(1, len(words) - 3)) if (gram := tuple(words[start : start + 4])))


def mark(found: Counter[tuple[str, ...]], wanted: Counter[tuple[str, ...]]) -> tuple[float | None, float]:
    """Precision (none where nothing was found) and recall of a page."""
    common = (found & wanted).total()
    return (common / found.total() if found else None), common / wanted.total()


def means(marks: list[tuple[float | None, float]]) -> tuple[float, float, float]:
    """Mean precision, mean recall, and the F1 of both."""
    precision = statistics.mean(value for value, _ in marks if value is not None)
    recall = statistics.mean(value for _, value in marks)
    return precision, recall, 2 * precision * recall / (precision + recall)


def write(text: str) -> None:
    """Put the tables between their marks in the results; what stands around them stays."""
    old = RESULT.read_text(encoding="utf-8") if RESULT.exists() else "# Corpus\n"
    if BEGIN not in old:
        old = f"{old.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, rest = old.split(BEGIN)
    after = rest.split(END)[1]
    hidden = {"--peers": "PYTHON", "--docs": "FOLDER"}
    words = [hidden.get(last, word) for last, word in zip(["", *sys.argv[1:]], sys.argv[1:], strict=False)]
    command, machine = f"python benchmarks/corpus_extraction.py {' '.join(words)}".strip(), f"{platform.machine()}, one core"
    RESULT.write_text(
        f"{before}{BEGIN}\n## Main content of pages\n\n`{command}` ({machine})\n{text}\n{END}{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
