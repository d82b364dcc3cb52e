"""Near duplicates: what is found and how fast, ours beside datasketch's and datatrove's MinHash at the same 14 bands of 8 rows.

    python benchmarks/corpus_duplicates.py [--peers PYTHON] [--quick] [--rounds N] [--million]

PYTHON: the interpreter of an environment that has datasketch and datatrove[io,processing]. The documents: 10,000 pieces of 250
words cut from the books of the data folder ($FORETELL_DATA, or ../shared/data), and a copy of 4,000 of them, 500 of each kind of
edit; words are replaced by other words of the books. Found: one of the pair is left out. Wrong: left out among the 6,000 without a
copy. Every system is a process of its own, from the texts in memory to the list of what is left out, ours and a peer in turn; what
counts is the median of the ratios of neighbouring turns. datatrove runs its four stages with one worker, on its default English
words.

--million: beside it 1,000,000 documents of 15 words, a tenth of them copies, with what ours holds in memory and on disk.
"""

import argparse
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "corpus.md"
BEGIN, END = "<!-- duplicates -->", "<!-- /duplicates -->"
BOOKS = Path(os.environ.get("FORETELL_DATA", Path(__file__).parents[2] / "shared" / "data")) / "books"
EDITS = {"exact": 0.0, "case, space": 0.0, "1 %": 0.01, "2 %": 0.02, "4 %": 0.04, "8 %": 0.08, "16 %": 0.16, "+ 20 %": 0.0}
WORDS, OURS = 250, "foretell"
Turn = dict[str, Any]
Planted = list[tuple[str, int, str]]  # kind of edit or "", number of the original, text


def main() -> None:
    """Measure, print and write the table; or, as --worker, be one of the systems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="the peers' interpreter; absent: ours alone")
    parser.add_argument("--quick", action="store_true", help="a tenth of the documents, one round; writes no results")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--million", action="store_true", help="measure a million short documents, too")
    parser.add_argument("--worker", nargs=2, metavar=("SYSTEM", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    with tempfile.TemporaryDirectory() as folder:
        documents, path = planted(1000 if arguments.quick else 10_000), Path(folder, "documents.json")
        path.write_text(json.dumps([text for _, _, text in documents]), encoding="utf-8")
        lines = list(table(documents, path, arguments.peers, 1 if arguments.quick else arguments.rounds))
        lines.append(repetition(turn(sys.executable, "repetition", Path("2" if arguments.quick else "24"))))
        if arguments.million:
            lines.append(million(turn(sys.executable, "million", Path("9" if arguments.quick else "900"))))
    print("\n".join(lines))
    if not arguments.quick and arguments.peers:
        write("\n".join(lines))


def table(documents: Planted, path: Path, peers: str | None, rounds: int) -> Iterator[str]:
    """The lines of the table: ours, and each peer with its ratio."""
    size = sum(len(text.encode()) for _, _, text in documents) / 1e6
    yield f"\n{len(documents):,} documents, {size:.1f} MB\n"
    kinds = " | ".join(EDITS)
    yield f"| system | documents/s, wall | a core's second | peak RSS, MiB | {kinds} | wrong | ours is faster, wall | CPU time |"
    yield "|---" + "|--:" * (len(EDITS) + 6) + "|"
    ours, rows = list[Turn](), list[str]()
    for system, times in {"datasketch": rounds, "datatrove": 1}.items() if peers else [(OURS, rounds)]:
        pairs = [(turn(sys.executable, OURS, path), turn(str(peers), system, path) if peers else {}) for _ in range(times)]
        ours += [mine for mine, _ in pairs]
        if peers:
            wall, cpu = (statistics.median(theirs[name] / mine[name] for mine, theirs in pairs) for name in ("wall", "cpu"))
            rows.append(row(system, documents, [theirs for _, theirs in pairs], f"**{wall:.0f}×** | {cpu:.0f}×"))
    yield row(OURS, documents, ours, "|")
    yield from rows
    yield expected(documents)


def row(system: str, documents: Planted, turns: list[Turn], ratio: str) -> str:
    """One line of the table."""
    out, pairs = set(turns[0]["out"]), dict[int, list[int]]()
    for place, (_, number, _) in enumerate(documents):
        pairs.setdefault(number, []).append(place)
    found = {kind: list[bool]() for kind in EDITS}
    for places in pairs.values():
        if len(places) == 2:
            found[max(documents[place][0] for place in places)].append(any(place in out for place in places))
    wrong = sum(places[0] in out for places in pairs.values() if len(places) == 1)
    speeds = " | ".join(f"{len(documents) / statistics.median(turn[name] for turn in turns):,.0f}" for name in ("wall", "cpu"))
    shares, memory = (
        " | ".join(f"{statistics.mean(some):.3f}" for some in found.values()),
        max(turn["rss"] for turn in turns) / 2**10,
    )
    return f"| {system} | {speeds} | {memory:,.0f} | {shares} | {wrong} | {ratio} |"


def expected(documents: Planted) -> str:
    """What the bands promise of these very pairs: the mean of 1 - (1 - s^8)^14 over their similarities s."""
    shingles, chances = dict[int, set[str]](), {kind: list[float]() for kind in EDITS}
    for kind, number, text in sorted(documents):  # the originals, whose kind is "", come first
        words = re.findall(r"\w+", text.lower())
        mine = {" ".join(words[start : start + 5]) for start in range(len(words) - 4)}
        first = shingles.setdefault(number, mine)
        if first is not mine:
            chances[kind].append(1 - (1 - (len(mine & first) / len(mine | first)) ** 8) ** 14)
    shares = " | ".join(f"{statistics.mean(some):.3f}" for some in chances.values())
    return f"| 1 - (1 - s⁸)¹⁴ | | | | {shares} | | | |"


def million(found: Turn) -> str:
    """What a million short documents took."""
    seconds = found["signatures"] + found["decisions"]
    return (
        f"\n{found['count']:,} documents of 15 words on one core: signatures {found['signatures']:.1f} CPU-s, decisions "
        f"{found['decisions']:.1f} CPU-s, together {found['count'] / seconds:,.0f} documents/s; {found['bytes']} bytes a document "
        f"on disk; peak RSS {found['rss'] / 2**10:,.0f} MiB, {found['before'] / 2**10:,.0f} before the first decision; "
        f"{found['found']:.3f} of the planted exact copies found, {found['near']:.3f} of those with another last word; "
        f"{found['left']:,} left out in all."
    )


def planted(originals: int) -> Planted:
    """The documents in an order of chance: originals (kind "") and one copy of some."""
    choice, pieces = random.Random(1), [" ".join(words) for words in cut(WORDS)]
    choice.shuffle(pieces)
    others = " ".join(pieces[originals : originals + 500]).split()
    documents = [("", number, text) for number, text in enumerate(pieces[:originals])]
    for position, (kind, share) in enumerate(EDITS.items()):
        for number in range(position * originals // 20, (position + 1) * originals // 20):
            words = [choice.choice(others) if choice.random() < share else word for word in pieces[number].split()]
            words += choice.choices(others, k=WORDS // 5) if kind == "+ 20 %" else []
            text = " ".join(words)
            documents.append((kind, number, text.upper().replace(" ", "  ") if kind == "case, space" else text))
    choice.shuffle(documents)
    return documents


def cut(length: int) -> Iterator[list[str]]:
    """The books in pieces of so many words."""
    for path in sorted(BOOKS.glob("*.md")):
        words = path.read_text(encoding="utf-8").split()
        yield from (words[start : start + length] for start in range(0, len(words) - length, length))


def turn(python: str, system: str, path: Path) -> Turn:
    """A process that does it once."""
    command = [python, "-W", "ignore", __file__, "--worker", system, str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{system} ended:\n{done.stderr[-2000:]}")
    found: Turn = json.loads(done.stdout.splitlines()[-1])
    return found


def work(system: str, file: str) -> None:
    """Do it once and say the seconds, the most memory and which documents are left out."""
    with tempfile.TemporaryDirectory() as folder:
        if system == "million":
            found = our_million(int(file) * 1000, Path(folder))
        elif system == "repetition":
            found = our_repetition(int(file) * 1_000_000, Path(folder))
        else:
            texts = json.loads(Path(file).read_text(encoding="utf-8"))
            run = {OURS: ours, "datasketch": datasketch, "datatrove": datatrove}[system](texts, Path(folder))
            wall, cpu = time.perf_counter(), spent()
            out = run()
            found = {"wall": time.perf_counter() - wall, "cpu": spent() - cpu, "out": out}
    print(json.dumps({**found, "rss": peak()}))


def spent() -> float:
    """Seconds of processor time, children included."""
    return sum(os.times()[:4])


def peak() -> int:
    """The most memory so far, KiB; getrusage's figure would count what the parent held."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0])


def ours(texts: Sequence[str], folder: Path) -> Callable[[], list[int]]:
    """What a build does: signatures of chunks of some 8 MB to files, then the decision."""
    import numpy as np

    from foretell.corpus.clusters import duplicates
    from foretell.corpus.config import CorpusSettings
    from foretell.corpus.signatures import signatures

    def run() -> list[int]:
        settings, files = CorpusSettings(), list[Path]()
        for start in range(0, len(texts), 6000):
            files.append(folder / f"{start:08d}.npy")
            np.save(files[-1], signatures(texts[start : start + 6000], settings))
        found: list[int] = np.flatnonzero(duplicates(files, settings, folder).kind).tolist()
        return found

    return run


def datasketch(texts: Sequence[str], folder: Path) -> Callable[[], list[int]]:
    """Its MinHash over the same sequences of words, each document asked for and put into one MinHashLSH."""
    library: Any = import_module("datasketch")
    word = re.compile(r"\w+")

    def run() -> list[int]:
        index, out = library.MinHashLSH(num_perm=112, params=(14, 8)), list[int]()
        for number, text in enumerate(texts):
            words, signature = word.findall(text.lower()), library.MinHash(num_perm=112)
            signature.update_batch({" ".join(words[start : start + 5]).encode() for start in range(max(1, len(words) - 4))})
            if index.query(signature):
                out.append(number)
            else:
                index.insert(number, signature)
        return out

    return run


def datatrove(texts: Sequence[str], folder: Path) -> Callable[[], list[int]]:
    """Its four stages: signatures, buckets, clusters, filter."""
    data, dedup = import_module("datatrove.data"), import_module("datatrove.pipeline.dedup")
    local, base = import_module("datatrove.executor").LocalPipelineExecutor, import_module("datatrove.pipeline.base")
    settings = dedup.MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    signed, buckets, clusters = (str(folder / name) for name in ("signatures", "buckets", "clusters"))
    kept = list[int]()

    class Source(base.PipelineStep):  # type: ignore[misc, name-defined]
        def run(self, documents: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
            yield from (data.Document(text=text, id=str(number)) for number, text in enumerate(texts))

    class Sink(base.PipelineStep):  # type: ignore[misc, name-defined]
        def run(self, documents: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
            for document in documents:
                kept.append(int(document.id))
                yield document

    stages = [
        ([Source(), dedup.MinhashDedupSignature(signed, config=settings)], 1),
        ([dedup.MinhashDedupBuckets(signed, buckets, config=settings)], 14),
        ([dedup.MinhashDedupCluster(buckets, clusters, config=settings)], 1),
        ([Source(), dedup.MinhashDedupFilter(clusters), Sink()], 1),
    ]

    def run() -> list[int]:
        for number, (steps, tasks) in enumerate(stages):
            local(steps, tasks=tasks, workers=1, logging_dir=str(folder / f"logs-{number}"), skip_completed=False).run()
        return sorted(set(range(len(texts))) - set(kept))

    return run


def our_million(originals: int, folder: Path) -> Turn:
    """Originals, and a ninth as many copies behind them, every other one with another last word; made as they are read."""
    import numpy as np

    from foretell.corpus.clusters import duplicates
    from foretell.corpus.config import CorpusSettings
    from foretell.corpus.signatures import signatures

    def texts() -> Iterator[str]:
        yield from (" ".join(words) for words in islice(cut(15), originals))
        for number, words in enumerate(islice(cut(15), originals // 9)):
            yield " ".join([*words[:-1], "another"] if number % 2 else words)

    settings, files, stream, times = CorpusSettings(), list[Path](), texts(), [0.0, 0.0]
    while chunk := list(islice(stream, 80_000)):
        started = time.process_time()
        files.append(folder / f"{len(files):08d}.npy")
        np.save(files[-1], signatures(chunk, settings))
        times[0] += time.process_time() - started
    before, started = peak(), time.process_time()
    kind = duplicates(files, settings, folder).kind
    times[1] = time.process_time() - started
    copies, size = kind[originals:] > 0, sum(path.stat().st_size for path in files) / len(kind) + 4 * (1 + settings.bands)
    found = {"found": float(copies[::2].mean()), "near": float(copies[1::2].mean()), "left": int((kind > 0).sum())}
    return {"count": len(kind), "signatures": times[0], "decisions": times[1], "bytes": round(size), "before": before, **found}


def our_repetition(size: int, folder: Path) -> Turn:
    """Lines that stood before, and sequences of 200 bytes, in pieces of the books, a fifth of which come twice."""
    import numpy as np

    from foretell.corpus.config import CorpusSettings
    from foretell.corpus.lines import line_table, seen_before, without_repeated
    from foretell.corpus.substrings import repeated_spans

    books = "\n".join(path.read_text(encoding="utf-8") for path in islice(sorted(BOOKS.glob("*.md")), 100))[:size]
    texts = [books[start : start + 5000] for start in range(0, len(books), 5000)]
    texts += texts[::4]
    settings, bytes_ = CorpusSettings(duplicate_lines="line", substring_bytes=200), sum(len(text.encode()) for text in texts)
    started = time.process_time()
    np.save(folder / "lines.npy", table := line_table(texts, settings))
    rows = next(seen_before([folder / "lines.npy"], [np.ones(len(texts), np.bool_)], settings, folder))
    bounds = np.searchsorted(rows["document"], np.arange(len(texts) + 1))
    for number, text in enumerate(texts):
        without_repeated(text, rows["key"][bounds[number] : bounds[number + 1]], settings)
    lines, started = time.process_time() - started, time.process_time()
    spans = list(repeated_spans(enumerate(texts), settings, folder))
    substrings = time.process_time() - started
    repeated = sum(stop - start for _, some in spans for start, stop in some)
    return {"bytes": bytes_, "lines": lines, "substrings": substrings, "repeated": repeated, "keys": len(table)}


def repetition(found: Turn) -> str:
    """What lines and substrings took."""
    lines, substrings = (found["bytes"] / found[part] / 1e6 for part in ("lines", "substrings"))
    return (
        f"\n{found['bytes'] / 1e6:.0f} MB of books, a fifth of them twice, on one core: repeated lines {lines:.0f} MB/s "
        f"({found['keys']:,} lines), repeated sequences of 200 bytes {substrings:.1f} MB/s "
        f"({found['repeated'] / 1e6:.1f} MB found); peak RSS {found['rss'] / 2**10:,.0f} MiB, texts included."
    )


def write(text: str) -> None:
    """Put the section between its marks in the results; what stands around it stays."""
    old = RESULT.read_text(encoding="utf-8") if RESULT.exists() else "# Corpus\n"
    old = old if BEGIN in old else f"{old}\n{BEGIN}\n{END}\n"
    before, rest = old.split(BEGIN)
    after = rest.split(END)[1]
    words = ["PYTHON" if last == "--peers" else word for last, word in zip(["", *sys.argv[1:]], sys.argv[1:], strict=False)]
    command, machine = f"python benchmarks/corpus_duplicates.py {' '.join(words)}", f"{platform.machine()}, {os.cpu_count()} cores"
    RESULT.write_text(f"{before}{BEGIN}\n## Near duplicates\n\n`{command}` ({machine})\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
