"""The published rules and personal data: decisions and speed, ours beside datatrove's.

    python benchmarks/corpus_rules.py [--peers PYTHON] [--quick] [--documents FILE]

PYTHON: the interpreter of an environment that has datatrove and spaCy. 2,000 documents of 0.2 to 20 KB are cut from books,
Wikipedia, verse, web pages ($FORETELL_DATA, default ../shared/data) and Python's own library; FILE keeps them. Both systems are
processes of one thread that take turns, a fifth of the documents each, so that whatever else the machine does meets both. MB/s are
of processor time.
"""

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "corpus.md"
BEGIN, END = "<!-- rules -->", "<!-- /rules -->"
TURNS = 5
NOTE = """The first row includes learning the vocabulary. Privacy: five kinds here, e-mail and IPv4 addresses there. Decisions
differ where the splitting into words does (`):` or `:*` within code or markup is two signs here, a smiley there), mostly on texts
close to a limit; besides, repeated sequences are compared word by word here, as joined letters there."""
FILTERS = {
    "gopher": "GopherQualityFilter",
    "gopher-repetition": "GopherRepetitionFilter",
    "c4": "C4QualityFilter",
    "fineweb": "FineWebQualityFilter",
    "privacy": "PIIFormatter",
}
THEIRS = {  # our reason for theirs; top_… and duplicated_… are told by their beginning
    "gopher_short_doc": "gopher_few_words",
    "gopher_long_doc": "gopher_many_words",
    "gopher_below_avg_threshold": "gopher_word_length",
    "gopher_above_avg_threshold": "gopher_word_length",
    "gopher_too_many_hashes": "gopher_symbols",
    "gopher_too_many_ellipsis": "gopher_symbols",
    "gopher_too_many_bullets": "gopher_bullets",
    "gopher_too_many_end_ellipsis": "gopher_ellipsis",
    "gopher_below_alpha_threshold": "gopher_no_letters",
    "gopher_enough_stop_words": "gopher_stop_words",
    "dup_para_frac": "gopher_repeated_paragraphs",
    "dup_para_char_frac": "gopher_repeated_paragraphs",
    "dup_line_frac": "gopher_repeated_lines",
    "dup_line_char_frac": "gopher_repeated_lines",
    "lorem_ipsum": "c4_bad_words",
    "curly_bracket": "c4_bad_words",
    "too_few_sentences": "c4_few_sentences",
    "line_punct_ratio": "fineweb_line_punctuation",
    "short_line_ratio": "fineweb_short_lines",
    "char_dup_ratio": "fineweb_repeated_lines",
    "list_ratio": "fineweb_newlines",
}
Step = Callable[[str], tuple[str | None, str]]
Turn = dict[str, Any]


def main() -> None:
    """Measure, print and write the table; or, as --worker, be one of the systems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="the peer's interpreter; absent: ours alone")
    parser.add_argument("--quick", action="store_true", help="100 documents, to see that everything runs; writes no results")
    parser.add_argument("--documents", type=Path, help="a JSONL file of the documents; made where absent")
    parser.add_argument("--worker", nargs=2, metavar=("SYSTEM", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker[0], Path(arguments.worker[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.documents or Path(folder) / "rules.jsonl"
        if not path.exists():
            texts = documents(Path(os.environ.get("FORETELL_DATA", Path(__file__).parents[1] / "../shared/data")))
            path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
        text = "\n".join(measured(path, arguments.peers, 100 if arguments.quick else 2000))
    print(text)
    if not arguments.quick and arguments.peers:
        old = RESULT.read_text(encoding="utf-8") if RESULT.exists() else ""
        old = old if BEGIN in old else f"{old.rstrip()}\n\n{BEGIN}\n{END}\n".lstrip()
        RESULT.write_text(old[: old.index(BEGIN)] + f"{BEGIN}\n{text}\n" + old[old.index(END) :], encoding="utf-8")


def documents(data: Path) -> list[str]:
    """2,000 pieces of text, the same ones whenever the data are."""
    from resiliparse.extract.html2text import extract_plain_text

    draw = random.Random(5)

    def cut(path: Path, number: int) -> Iterator[str]:
        text = path.read_text(encoding="utf-8", errors="replace")
        for _ in range(number):
            size = int(200 * 100 ** draw.random())
            start = text.rfind("\n", 0, draw.randrange(max(1, len(text) - size))) + 1
            end = text.find("\n", min(len(text), start + size))
            yield text[start : end if end > 0 else None][:20_000].strip()

    books = draw.sample(sorted((data / "books").glob("*.md")), 60)
    library = draw.sample(sorted(Path(os.__file__).parent.glob("*.py")), 150)
    pieces = [piece for path in books for piece in cut(path, 15)] + [piece for path in library for piece in cut(path, 2)]
    for path in sorted((data / "lm/wikitext-2").glob("*.txt")):
        pieces += cut(path, 200)
    pieces += cut(data / "lm/tinyshakespeare/input.txt", 60)
    for path in sorted((data / "html/article-extraction/html").glob("*.html.gz")):
        page = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        pieces += [extract_plain_text(page, main_content=main)[:20_000].strip() for main in (True, False)]
    draw.shuffle(pieces)
    return [piece for piece in pieces if piece][:2000]


def measured(path: Path, peers: str | None, number: int) -> Iterator[str]:
    """The section: documents, then a row a rule."""
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()[:number]]
    sizes = [len(text.encode()) for text in texts]
    yield f"{len(texts):,} documents, {sum(sizes) / 1e6:.1f} MB; one thread each; MB/s of processor time.\n"
    yield "| rule | foretell MB/s | datatrove MB/s | ratio | same decision | same reason | same text |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    systems = {"foretell": sys.executable} | ({"datatrove": peers} if peers else {})
    workers = {name: started(name, python, path) for name, python in systems.items()}
    bounds = [len(texts) * turn // TURNS for turn in range(TURNS + 1)]
    for rule in [*FILTERS, "gopher-repetition,gopher,c4,fineweb,privacy"]:
        turns: dict[str, list[Turn]] = {name: [] for name in systems}
        for start, end in pairwise(bounds):
            for name, worker in workers.items():
                turns[name].append(asked(worker, {"rule": rule, "start": start, "end": end}))
        yield row(rule, turns, sum(sizes))
    yield f"\n{NOTE}"
    for worker in workers.values():
        worker.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        worker.wait()


def row(rule: str, turns: dict[str, list[Turn]], size: int) -> str:
    """A line of the table."""
    speed = {name: size / 1e6 / sum(turn["seconds"] for turn in row) for name, row in turns.items()}
    cells = [rule, f"{speed['foretell']:.1f}"]
    if "datatrove" in speed:
        ratio = statistics.median(b["seconds"] / a["seconds"] for a, b in zip(turns["foretell"], turns["datatrove"], strict=True))
        pairs = list(
            zip(*([item for turn in turns[name] for item in turn["items"]] for name in ("foretell", "datatrove")), strict=True)
        )
        kept = [(ours, theirs) for ours, theirs in pairs if ours[0] is None and theirs[0] is None]
        same = sum((ours[0] is None) == (theirs[0] is None) for ours, theirs in pairs)
        cells += [f"{speed['datatrove']:.2f}", f"{ratio:.0f}×"]
        same_text = f"{sum(ours[1] == theirs[1] for ours, theirs in kept) / max(len(kept), 1):.2%}"
        same_reason = f"{sum(ours[0] == theirs[0] for ours, theirs in pairs) / len(pairs):.2%}"
        cells += (
            ["–"] * 3 if rule == "privacy" else [f"{same / len(pairs):.2%}", same_reason, "–" if "privacy" in rule else same_text]
        )
    return f"| {' | '.join(cells)} |"


def started(name: str, python: str, path: Path) -> subprocess.Popen[str]:
    """A system, waiting for turns."""
    command = [python, __file__, "--worker", name, str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def asked(worker: subprocess.Popen[str], turn: Turn) -> Turn:
    """What the system answers to a turn."""
    assert worker.stdin and worker.stdout  # noqa: S101  # they are pipes
    worker.stdin.write(json.dumps(turn) + "\n")
    worker.stdin.flush()
    answer: Turn = json.loads(worker.stdout.readline())
    return answer


def work(system: str, path: Path) -> None:
    """Take turns: judge documents, say for how long and what of them."""
    from hashlib import blake2b

    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    steps = {rule: (ours if system == "foretell" else theirs)(rule) for rule in FILTERS}
    for line in sys.stdin:
        turn = json.loads(line)
        chosen = turn["rule"].split(",")
        todo = [ours(turn["rule"])] if system == "foretell" else [steps[rule] for rule in chosen]
        started_at = time.process_time()
        items = [run(todo, text) for text in texts[turn["start"] : turn["end"]]]
        seconds = time.process_time() - started_at
        told = [(reason, blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()) for reason, text in items]
        print(json.dumps({"seconds": seconds, "items": told}), flush=True)


def run(steps: list[Step], text: str) -> tuple[str | None, str]:
    """One step after the other, until one drops the text."""
    for step in steps:
        reason, text = step(text)
        if reason:
            return reason, text
    return None, text


def ours(rules: str) -> Step:
    """Foretell's rules and personal data, as the pipeline has them."""
    from foretell.corpus.config import CorpusSettings
    from foretell.corpus.document import Document, Dropped
    from foretell.corpus.filters import judge
    from foretell.corpus.privacy import redact

    names = rules.split(",")
    redacted = ("email", "phone", "ip", "iban", "card") if "privacy" in names else ()
    settings = CorpusSettings.model_validate({"rules": [name for name in names if name != "privacy"], "redact": redacted})

    def step(text: str) -> tuple[str | None, str]:
        item = judge(Document("", text, ""), settings)
        return (item.reason, "") if isinstance(item, Dropped) else (None, redact(item, settings).text)

    return step


def theirs(rule: str) -> Step:
    """A filter of datatrove, its reasons in our words."""
    from importlib import import_module

    data: Any = import_module("datatrove.data")
    kind = "formatters" if rule == "privacy" else "filters"
    judge: Any = getattr(import_module(f"datatrove.pipeline.{kind}"), FILTERS[rule])()

    def step(text: str) -> tuple[str | None, str]:
        if rule == "privacy":
            return None, judge.format(text)
        document = data.Document(text=text, id="")
        result = judge.filter(document)
        if result is True:
            return None, document.text
        family = {"top": "gopher_top_words", "duplicated": "gopher_repeated_words"}.get(result[1].partition("_")[0], "")
        return family or THEIRS.get(result[1], result[1]), ""

    return step


if __name__ == "__main__":
    main()
