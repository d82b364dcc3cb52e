"""From JSON lines to token ids, ours beside datatrove: published rules, personal data, near duplicates, encoding.

    python benchmarks/corpus.py --peers PYTHON [--megabytes 48] [--rounds 1] [--quick]

PYTHON: the interpreter of an environment that has datatrove[io,processing] and spacy. Both read the same file with two worker
processes and the same tokenizer: documents of 1 to 10 kB cut from the books of the data folder (FORETELL_DATA), of which one in
twenty comes twice with a few words changed. Ours is what a user calls, `foretell corpus build` and `foretell shards build`, with
start-up and report (without the languages, which theirs does not tell either); theirs is the pipeline of their own examples:
reader, the four filters, PIIFormatter, the four stages of MinHash, DocumentTokenizer, in forked processes (those of a fork server
would not be counted). The parts have benchmarks of their own: corpus_extraction.py, corpus_rules.py, corpus_duplicates.py,
corpus_tokenizers.py, corpus_loader.py.
"""

import argparse
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

RESULT = Path(__file__).parent / "results" / "corpus.md"
BEGIN, END = "<!-- text path -->", "<!-- /text path -->"
RULES = "gopher-repetition,gopher,c4,fineweb"
PEER = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter

def main():
    source, out, tokenizer = sys.argv[1:4]
    config = MinhashConfig(num_buckets=14, hashes_per_bucket=8, n_grams=5)
    def do(name, pipeline, tasks=2):
        options = {"workers": min(tasks, 2), "logging_dir": f"{out}/logs/{name}", "start_method": "fork"}
        LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, **options).run()
    filters = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(), FineWebQualityFilter(), PIIFormatter()]
    do("clean", [JsonlReader(source), *filters, JsonlWriter(f"{out}/clean", compression=None)])
    do("sign", [JsonlReader(f"{out}/clean"), MinhashDedupSignature(output_folder=f"{out}/signatures", config=config)])
    do("buckets", [MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config)], tasks=14)
    do("cluster", [MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=config)], tasks=1)
    words = {"tokenizer_name_or_path": tokenizer, "eos_token": "<|endoftext|>", "shuffle_documents": False}
    do("encode", [JsonlReader(f"{out}/clean"), MinhashDedupFilter(f"{out}/remove"), DocumentTokenizer(f"{out}/tokens", **words)])

if __name__ == "__main__":
    main()
"""


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="the peers' interpreter; absent: ours alone")
    parser.add_argument("--megabytes", type=float, default=48.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a megabyte, to see that everything runs; writes no results")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="foretell-benchmark-") as name:
        folder = Path(name)
        size_bytes = write_input(folder / "input", 1e6 if arguments.quick else arguments.megabytes * 1e6)
        call(
            sys.executable,
            "-m",
            "foretell",
            "tokenizer",
            "train",
            str(folder / "input/all.jsonl"),
            "--out",
            str(folder / "tok"),
            "--vocab-size",
            "8192",
        )
        ours, theirs = list[tuple[float, float]](), list[tuple[float, float]]()
        for number in range(arguments.rounds):
            ours.append(our_path(folder, number))
            theirs += [their_path(folder, number, arguments.peers)] if arguments.peers else []
        text = "\n".join(table(size_bytes, ours, theirs))
    print(text)
    if not arguments.quick and arguments.peers:
        write(text)


def write_input(folder: Path, size_bytes: float) -> int:
    """Documents of 1 to 10 kB of the books, every twentieth once more with 2 % of its words changed; the bytes of their text."""
    data = Path(os.environ.get("FORETELL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    books, chance, written, documents = sorted((data / "books").glob("*.md")), random.Random(0), 0, list[str]()
    for text in (book.read_text(encoding="utf-8") for book in books):
        paragraphs, document, wanted = text.split("\n\n"), "", chance.randint(1000, 10000)
        for paragraph in paragraphs:
            document += paragraph + "\n\n"
            if len(document) >= wanted:
                documents.append(document.strip())
                document, wanted = "", chance.randint(1000, 10000)
                if len(documents) % 20 == 0:
                    documents.append(re.sub(r"\w+", lambda word: "other" if chance.random() < 0.02 else word[0], documents[-1]))
    folder.mkdir()
    with (folder / "all.jsonl").open("w", encoding="utf-8") as stream:
        for number, document in enumerate(documents):
            if written < size_bytes:
                stream.write(json.dumps({"id": str(number), "text": document}, ensure_ascii=False) + "\n")
                written += len(document.encode())
    return written


def our_path(folder: Path, number: int) -> tuple[float, float]:
    """Seconds by the clock and of processors of the two commands."""
    source, corpus, shards = str(folder / "input/all.jsonl"), str(folder / f"corpus-{number}"), str(folder / f"shards-{number}")
    settings = [f"corpus.rules={RULES}", "corpus.redact=email,phone,ip,iban,card", "corpus.identify_languages=false"]
    first = call(sys.executable, "-m", "foretell", "corpus", "build", source, "--out", corpus, "--workers", "2", *settings)
    second = call(
        sys.executable,
        "-m",
        "foretell",
        "shards",
        "build",
        corpus,
        "--tokenizer",
        str(folder / "tok"),
        "--out",
        shards,
        "--workers",
        "2",
    )
    return first[0] + second[0], first[1] + second[1]


def their_path(folder: Path, number: int, python: str) -> tuple[float, float]:
    """The same of datatrove."""
    script = folder / "peer.py"
    script.write_text(PEER)
    return call(python, str(script), str(folder / "input"), str(folder / f"peer-{number}"), str(folder / "tok/tokenizer.json"))


def call(*command: str) -> tuple[float, float]:
    """Run a command to its end; its seconds by the clock and of processors, its children's included."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)}\n{ended.stdout[-3000:]}{ended.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(size_bytes: int, ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> Iterator[str]:
    """The lines of the result."""
    yield f"{size_bytes / 1e6:.0f} MB of text, two workers each.\n"
    yield "| system | seconds | MB/s | processor seconds | MB a processor second |"
    yield "|---|--:|--:|--:|--:|"
    for system, rows in (("foretell", ours), ("datatrove", theirs)):
        if rows:
            wall, processor = (statistics.median(row[column] for row in rows) for column in (0, 1))
            rates = size_bytes / 1e6 / wall, size_bytes / 1e6 / processor
            yield f"| {system} | {wall:.1f} | {rates[0]:.2f} | {processor:.1f} | {rates[1]:.2f} |"
    if theirs:
        wall, processor = (statistics.median(b[column] / a[column] for a, b in zip(ours, theirs, strict=True)) for column in (0, 1))
        yield f"\n**{wall:.0f} times** datatrove's speed by the clock, {processor:.0f} times by processor time."


def write(text: str) -> None:
    """Put the section between its marks in the results."""
    old = RESULT.read_text(encoding="utf-8") if RESULT.exists() else "# From text to shards\n"
    if BEGIN not in old:
        old += f"\n{BEGIN}\n{END}\n"
    before, rest = old.split(BEGIN)
    words = " ".join("PYTHON" if word.endswith("python") else word for word in sys.argv[1:])
    section = f"\n## The whole text path\n\n`python benchmarks/corpus.py {words}`\n\n{text}\n"
    RESULT.write_text(f"{before}{BEGIN}{section}{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
