"""Shards beside their peers: building against pure encoding, reading in the order of training, resuming.

    python benchmarks/corpus_loader.py [--peers PYTHON] [--quick]

Building: the books of the data folder in pieces, encoded by `Tokenizer.encode_batch` alone and by what `foretell shards build`
calls, in turns.
Reading: batches of 16 windows of 1,024 tokens out of 26 M uint16 tokens, in a seeded order that is a function of the sample number
(ours, and a mixture of three folders), and datatrove's `DatatroveFolderDataset` on the same tokens, where PYTHON has it.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from foretell.base.console import Terminal
from foretell.corpus.document import Document
from foretell.data.build import write_shards
from foretell.data.config import DataSettings, SourceSettings
from foretell.data.held_out import HeldOut
from foretell.data.shards import Manifest, ShardReader, SplitRecord
from foretell.tokenizers.bpe import train_bpe
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.tokenizer import Tokenizer

RESULT = Path(__file__).parent / "results" / "corpus.md"
ROWS, CONTEXT, PIECE_CHARACTERS = 16, 1024, 20_000
PEER = """
import sys, time, numpy as np
from datatrove.utils.dataset import DatatroveFolderDataset
folder, rows, context, batches = sys.argv[1], *map(int, sys.argv[2:])
data = DatatroveFolderDataset(folder, seq_len=context, filename_pattern="*.ds", token_size=2, shuffle=True, seed=1)
begun, processor = time.perf_counter(), time.process_time()
for number in range(batches * rows):
    data[number % len(data)]
tokens = batches * rows * context
print(tokens / (time.perf_counter() - begun), tokens / (time.process_time() - processor))
"""
Rates = tuple[float, float]


def main() -> None:
    """Measure, print, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="the interpreter of an environment with datatrove")
    parser.add_argument("--quick", action="store_true", help="little text, to see that everything runs; writes no results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        text = "\n".join([*building(Path(scratch), arguments.quick), "", *reading(Path(scratch), arguments.peers, arguments.quick)])
    print(text)
    if not arguments.quick:
        write(text)


def timed(action: Callable[[], object]) -> Rates:
    """Seconds, and seconds of processors, of this process and of those that it waited for."""
    begun, processor = time.perf_counter(), time.process_time() + sum(os.times()[2:4])
    action()
    return time.perf_counter() - begun, time.process_time() + sum(os.times()[2:4]) - processor


def building(scratch: Path, quick: bool) -> list[str]:
    """The part on writing."""
    books = sorted((Path(os.environ.get("FORETELL_DATA", "../shared/data")) / "books").glob("*.md"))
    texts = [path.read_text(encoding="utf-8") for path in books[: 4 if quick else None]]
    places = [(number, start) for number, text in enumerate(texts) for start in range(0, len(text), PIECE_CHARACTERS)]
    pieces = [Document(f"{n:08x}{start:08x}", texts[n][start : start + PIECE_CHARACTERS], "books") for n, start in places]
    train_bpe(texts[: 4 if quick else 40], TokenizerSettings(vocab_size=2000 if quick else 16_000)).save(scratch / "tokenizer")
    megabytes, workers = sum(piece.bytes for piece in pieces) / 1e6, len(os.sched_getaffinity(0))

    def pure() -> None:
        tokenizer = Tokenizer.load(scratch / "tokenizer")  # anew, or it would know the words from the turn before
        for start in range(0, len(pieces), 200):
            tokenizer.encode_batch([piece.text for piece in pieces[start : start + 200]])

    def build(out: Path) -> None:
        write_shards(lambda: pieces, Tokenizer.load(scratch / "tokenizer"), out, DataSettings(), Terminal(quiet=True), workers)

    rounds = [(timed(pure), timed(partial(build, scratch / f"built {number}"))) for number in range(1 if quick else 3)]
    lines = ["**Building**, MB/s of text", "", "| | wall | processor |", "|---|---|---|"]
    for name, place in (("`encode_batch` alone", 0), (f"shards, {workers} workers", 1)):
        rates = [statistics.median(megabytes / turn[place][kind] for turn in rounds) for kind in (0, 1)]
        lines.append(f"| {name} | {rates[0]:.1f} | {rates[1]:.1f} |")
    ratios = [statistics.median(turn[1][kind] / turn[0][kind] for turn in rounds) for kind in (0, 1)]
    told = f"{ratios[0]:.2f} times as long as encoding alone, {ratios[1]:.2f} times the processor time"
    return [*lines, "", f"{megabytes:.0f} MB; building takes {told}."]


def made(folder: Path, tokens: int) -> Path:
    """A shard folder of random tokens."""
    records = {}
    folder.mkdir()
    for name, size in (("train", tokens), ("held_out", 10_000)):
        np.random.default_rng(0).integers(1, 32_000, size).astype("<u2").tofile(folder / f"{name}-tokens.bin")
        np.zeros(1, "<u8").tofile(folder / f"{name}-starts.bin")
        np.array([b"0" * 16], "S16").tofile(folder / f"{name}-identities.bin")
        records[name] = SplitRecord(files={}, tokens=size, documents=1, bytes=size)
    held_out = HeldOut(method="", fraction=0.05, characters=1, ends={})
    manifest = Manifest(tokenizer="random", vocab_size=32_000, end_of_text=0, dtype="<u2", held_out=held_out, splits=records)
    (folder / "manifest.json").write_text(json.dumps(manifest.model_dump()))
    return folder


def reading(scratch: Path, peers: str | None, quick: bool) -> list[str]:
    """The part on reading."""
    from foretell.data.batches import TrainBatches
    from foretell.data.mixture import MixedBatches

    batches, tokens = 50 if quick else 1500, 1_000_000 if quick else 26_000_000
    folder = made(scratch / "tokens", tokens)
    parts = {name: made(scratch / name, tokens // 3) for name in ("a", "b", "c")}
    weights = dict(zip(parts, (0.5, 0.3, 0.2), strict=True))
    sources = {name: SourceSettings(shards=path, weight=weights[name]) for name, path in parts.items()}
    plain = TrainBatches(ShardReader(folder).train, 1, CONTEXT)
    mixed = MixedBatches(sources, [TrainBatches(ShardReader(path).train, 1, CONTEXT) for path in parts.values()])

    def rate(source: TrainBatches | MixedBatches) -> Rates:
        seconds = timed(lambda: [source.batch(number * ROWS, ROWS) and None for number in range(batches)])
        return batches * ROWS * CONTEXT / seconds[0], batches * ROWS * CONTEXT / seconds[1]

    turns: dict[str, list[Rates]] = {"foretell": [], "foretell, mixture of three": []}
    for _ in range(1 if quick else 5):
        turns["foretell"].append(rate(plain))
        turns["foretell, mixture of three"].append(rate(mixed))
        if peers is not None:
            turns.setdefault("datatrove", []).append(datatrove(peers, folder, batches))
    resumed = statistics.median(
        timed(lambda: TrainBatches(ShardReader(folder).train, 1, CONTEXT).batch(10**7, ROWS))[0] for _ in range(20)
    )
    lines = ["**Reading**, million tokens a second", "", "| | wall | processor |", "|---|---|---|"]
    for name, rates in turns.items():
        lines.append(
            f"| {name} | {' | '.join(f'{statistics.median(turn[kind] for turn in rates) / 1e6:.0f}' for kind in (0, 1))} |"
        )
    return [*lines, "", f"Opening the shards and reading the first batch at sample 10,000,000: {resumed * 1e3:.1f} ms."]


def datatrove(peers: str, folder: Path, batches: int) -> Rates:
    """The peer on the same tokens, with an index of documents of its own making."""
    place = folder / "datatrove"
    if not place.exists():
        place.mkdir()
        (place / "00000.ds").symlink_to(folder / "train-tokens.bin")
        ends = np.array([(folder / "train-tokens.bin").stat().st_size // 2], "<u8")
        ends.tofile(place / "00000.ds.index")
    command = [peers, "-c", PEER, str(place), str(ROWS), str(CONTEXT), str(max(1, batches // 10))]
    wall, processor = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:])
    return wall, processor


def write(text: str) -> None:
    """Put the section between its marks."""
    begin, end = "<!-- loader -->", "<!-- /loader -->"
    page = RESULT.read_text(encoding="utf-8") if RESULT.exists() else "# The corpus, measured\n"
    if begin not in page:
        page = f"{page.rstrip()}\n\n## Shards\n\n{begin}\n{end}\n"
    before, after = page.split(begin)[0], page.split(end)[1]
    RESULT.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
