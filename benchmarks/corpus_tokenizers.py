"""Learning a byte-level BPE and encoding with it, ours beside other libraries, on books.

    python benchmarks/corpus_tokenizers.py [--peers PYTHON] [--quick]

PYTHON: an interpreter that has `tokenizers` (and may have rustbpe, gigatoken); absent: this one. $FORETELL_DATA: the folder that
holds `books/`. Every system works in a process of its own, one after the other, with two threads where it can use them; what counts
is the ratio to `tokenizers`, in wall time and in processor time. Learned are 32,768 tokens with Qwen2's split (gigatoken knows only
GPT-2's); encoded is the same text once, cold: with the search for the fastest library, and for ours with arrays as the result.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "corpus.md"
BEGIN, END = "<!-- tokenizers -->", "<!-- /tokenizers -->"
OURS, REFERENCE = "foretell", "tokenizers"
TRAINERS = [REFERENCE, OURS, "rustbpe", "gigatoken"]
ENCODERS = [REFERENCE, OURS, "gigatoken"]
BYTES, VOCABULARY = 100_000_000, 32_768


def main() -> None:
    """Measure, print and write the tables; or, as --worker, be one of the systems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable, help="the peers' interpreter")
    parser.add_argument("--quick", action="store_true", help="little text, to see that everything runs; writes no results")
    parser.add_argument("--worker", nargs=4, metavar=("WHAT", "SYSTEM", "BYTES", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        what, system, size, folder = arguments.worker
        print(
            json.dumps(
                learn(system, books(int(size)), Path(folder)) if what == "learn" else encode(system, books(int(size)), folder)
            )
        )
        return
    size = 2_000_000 if arguments.quick else BYTES
    with tempfile.TemporaryDirectory() as folder:
        tables = [
            table(what, systems, arguments.peers, size, folder) for what, systems in (("learn", TRAINERS), ("encode", ENCODERS))
        ]
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    text = f"## Tokenizers\n\n`python benchmarks/corpus_tokenizers.py` ({machine}), {size / 1e6:.0f} MB of books\n\n" + "\n".join(
        tables
    )
    print(text)
    if not arguments.quick:
        write(text)


def table(what: str, systems: list[str], peers: str, size: int, folder: str) -> str:
    """The lines of one table; a system that is not installed has none."""
    heading = {"learn": f"{VOCABULARY:,} tokens are learned", "encode": "The text is encoded once"}[what]
    lines = [f"### {heading}\n", "| system | s | CPU-s | MB/s | peak RSS, MiB | time, of tokenizers' | CPU | result |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|---|")
    turns: dict[str, dict[str, Any]] = {}
    for system in systems:
        python = sys.executable if system == OURS else peers
        command = [python, __file__, "--worker", what, system, str(size), folder]
        environment = {**os.environ, "RAYON_NUM_THREADS": "2"}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        if done.returncode:
            print(f"{system}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            continue
        turns[system] = turn = json.loads(done.stdout.splitlines()[-1])
        reference = turns[REFERENCE]
        same = "the same" if turn["digest"] == reference["digest"] else "another"
        ratios = f"{turn['wall'] / reference['wall']:.2f} | {turn['cpu'] / reference['cpu']:.2f}"
        speed = f"{turn['wall']:.1f} | {turn['cpu']:.1f} | {size / 1e6 / turn['wall']:.1f} | {turn['rss'] / 2**20:,.0f}"
        lines.append(f"| {system} | {speed} | {ratios} | {same} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join([*lines, ""])


def books(size: int) -> list[str]:
    """The first books, together at most this many bytes."""
    folder = Path(os.environ.get("FORETELL_DATA", Path(__file__).parents[2] / "shared" / "data")) / "books"
    texts, filled = list[str](), 0
    for path in sorted(folder.glob("*.md")):
        if (filled := filled + path.stat().st_size) > size:
            break
        texts.append(path.read_text(encoding="utf-8"))
    return texts


def learn(system: str, texts: list[str], folder: Path) -> dict[str, Any]:
    """Learn with one system; digest: of the merges."""
    started_at, cpu_at = time.perf_counter(), time.process_time()
    match system:
        case "foretell":
            from foretell.tokenizers.bpe import train_bpe
            from foretell.tokenizers.config import TokenizerSettings

            learned = train_bpe(texts, TokenizerSettings(vocab_size=VOCABULARY if len(texts) > 50 else 4096))
            took = spent(started_at, cpu_at)
            learned.save(folder / "tokenizer")
            merges = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]["merges"]
        case "tokenizers":
            inner, trainer = reference(len(texts) > 50)
            inner.train_from_iterator(texts, trainer)
            took, merges = spent(started_at, cpu_at), json.loads(inner.to_str())["model"]["merges"]
        case "rustbpe":
            library = import_module(system).Tokenizer()
            library.train_from_iterator(iter(texts), VOCABULARY - 1 if len(texts) > 50 else 4095, pattern=SPLIT)
            took, merges = spent(started_at, cpu_at), "its own"
        case _:
            train = import_module(system).train_bpe
            train("\0".join(texts).encode(), VOCABULARY if len(texts) > 50 else 4096, ["<|endoftext|>"], separator=b"\0")
            took, merges = spent(started_at, cpu_at), "GPT-2's split"
    return took | {"digest": hashlib.sha256(json.dumps(merges).encode()).hexdigest()}


SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def reference(whole: bool) -> tuple[Any, Any]:
    """The library's tokenizer and trainer, set as ours."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    inner, to_bytes = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.FixedLength(256), to_bytes])
    special, alphabet = ["<|endoftext|>"], to_bytes.alphabet()
    size = VOCABULARY if whole else 4096
    return inner, trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )


def encode(system: str, texts: list[str], folder: str) -> dict[str, Any]:
    """Encode with one system; digest: of all ids. The time of hashing is not counted, that of loading is."""
    path = Path(folder, "tokenizer")
    started_at, cpu_at = time.perf_counter(), time.process_time()
    ids: Any
    match system:
        case "foretell":
            from foretell.tokenizers.tokenizer import Tokenizer

            ids = Tokenizer.load(path).encode_batch(texts)
            took = spent(started_at, cpu_at)
        case "tokenizers":
            library = import_module(system).Tokenizer.from_file(str(path / "tokenizer.json"))
            library.encode_special_tokens = True
            encodings = library.encode_batch_fast(texts, add_special_tokens=False)
            ids = [encoding.ids for encoding in encodings]
            took = spent(started_at, cpu_at)
        case _:
            library = import_module(system).Tokenizer(path / "tokenizer.json")
            ids = library.encode_batch(texts)
            took = spent(started_at, cpu_at)
    digest = hashlib.sha256()
    for row in ids:
        digest.update(import_module("numpy").asarray(row, dtype="uint32").tobytes())
    return took | {"digest": digest.hexdigest()}


def spent(started_at: float, cpu_at: float) -> dict[str, float]:
    """Seconds since, of the clock and of the processor, and the most memory so far."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"wall": time.perf_counter() - started_at, "cpu": time.process_time() - cpu_at, "rss": memory}


def write(text: str) -> None:
    """Put the tables between their marks in the results, and leave the rest."""
    whole = RESULT.read_text(encoding="utf-8") if RESULT.is_file() else "# Corpus: measured\n"
    if BEGIN not in whole:
        whole += f"\n{BEGIN}\n{END}\n"
    before, _, rest = whole.partition(BEGIN)
    _, _, after = rest.partition(END)
    RESULT.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
