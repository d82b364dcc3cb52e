"""What `foretell plan --calibrate` says before a run against what the run then takes: time of a step and peak memory.

    python benchmarks/plan.py [--quick] [--work DIR]

Two sizes in three batch shapes each (a small micro-batch, a large one, a small one four times), the text of Python's standard
library, this machine's precision. Each plan and each run is a process of its own; memory is the most that the kernel saw of the
whole run, scoring and saving at its end included; time is the median of the steps that metrics.jsonl holds. Without calibration
memory is the same (it is computed, not measured); the speed is then a guess for each core, in the last column.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "plan.md"
SIZES = {"small, 6 × 384": (6, 384), "base, 12 × 768": (12, 768)}
CONTEXT, VOCABULARY, STEPS = 256, 8192, 12
SHAPES = {"4 windows": (4, 4), "16 windows": (16, 16), "4 × 4 windows": (4, 16)}  # micro-batch, whole batch
COMMAND = (sys.executable, "-m", "foretell")
PREPARE = f"""
import sys
from pathlib import Path
from foretell.base.console import Terminal
from foretell.corpus.config import CorpusSettings
from foretell.corpus.sources import standard_library_sources
from foretell.data.config import DataSettings
from foretell.jobs.corpus import build_corpus
from foretell.jobs.shards import build_shards
from foretell.jobs.tokenizer import train_tokenizer
from foretell.tokenizers.config import TokenizerSettings
work, terminal = Path(sys.argv[1]), Terminal(quiet=True)
build_corpus(standard_library_sources(), work / "corpus", CorpusSettings(), terminal, sample_bytes=6_000_000)
train_tokenizer(work / "corpus", work / "tokenizer", TokenizerSettings(vocab_size={VOCABULARY}), terminal)
build_shards(work / "corpus", work / "tokenizer", work / "shards", DataSettings(held_out=0.001), terminal)
"""


def main() -> None:
    """Plan and run each configuration, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small size alone, and write no results")
    parser.add_argument("--work", type=Path, help="where shards and runs lie; shards that lie there are used again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "shards").exists():
            subprocess.run([sys.executable, "-c", PREPARE, str(work)], check=True)
        rows = []
        for size, (n_layer, d_model) in list(SIZES.items())[: 1 if arguments.quick else None]:
            for shape, (micro_batch, windows) in SHAPES.items():
                rows.append([size, shape, *compared(work, settings(work, n_layer, d_model, micro_batch, windows))])
                print(*rows[-1], sep="  ", flush=True)
    text = table(rows)
    print(text)
    if not arguments.quick:
        head = f"# Planned against measured\n\n`python benchmarks/plan.py` ({os.cpu_count()} shared cores)\n\n"
        RESULT.write_text(head + text, encoding="utf-8")


def settings(work: Path, n_layer: int, d_model: int, micro_batch: int, windows: int) -> list[str]:
    """GPT-2's architecture, without what happens once in a while."""
    never = [f"training.{name}_every=1000" for name in ("evaluate", "sample")]
    never += [f"training.checkpoint_every={STEPS - 2}"]  # one while it trains: its copy in memory is part of the plan
    model = ["model.preset=gpt2", f"model.n_layer={n_layer}", f"model.d_model={d_model}", f"model.context_length={CONTEXT}"]
    training = [f"training.micro_batch={micro_batch}", f"training.batch_tokens={windows * CONTEXT}", f"training.steps={STEPS}"]
    return [f"data.shards={work / 'shards'}", *model, *training, *never, "training.log_every=1", "training.tensorboard=false"]


def compared(work: Path, overrides: list[str]) -> list[float]:
    """Seconds of a step: planned, taken. GiB: planned, taken. Seconds as guessed without calibration."""
    recipe = work / "empty.toml"
    recipe.write_text("", encoding="utf-8")
    calibrated, guessed = (planned(recipe, overrides, words) for words in (["--calibrate"], []))
    run = Path(tempfile.mkdtemp(dir=work)) / "run"
    peak = peak_of([*COMMAND, "pretrain", str(recipe), *overrides, "--out", str(run), "--quiet"])
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    tokens = records[1]["tokens"] - records[0]["tokens"]
    taken = statistics.median(tokens / record["tokens_per_second"] for record in records[2:])
    memory = calibrated["memory_bytes"]["total"] / 2**30
    return [calibrated["step_seconds"], taken, memory, peak / 2**30, guessed["step_seconds"]]


def planned(recipe: Path, overrides: list[str], words: list[str]) -> dict[str, Any]:
    """What `foretell plan` says."""
    done = subprocess.run([*COMMAND, "plan", str(recipe), *overrides, *words, "--json", "--quiet"], capture_output=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def peak_of(command: list[str]) -> int:
    """Run a command; the most memory it had, in bytes."""
    child = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def table(rows: list[list[Any]]) -> str:
    """In Markdown, with the differences."""
    lines = ["| size | batch | s a step, planned | measured | off by | GiB, planned | measured | off by | s, not calibrated |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for size, shape, planned_seconds, seconds, planned_gib, gib, guessed in rows:
        time = f"{planned_seconds:.3g} | {seconds:.3g} | {100 * (planned_seconds / seconds - 1):+.0f} %"
        memory = f"{planned_gib:.2f} | {gib:.2f} | {100 * (planned_gib / gib - 1):+.0f} %"
        lines.append(f"| {size} | {shape} | {time} | {memory} | {guessed:.3g} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
