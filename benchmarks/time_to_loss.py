"""Time to the same held-out loss: the modern recipe against a well-tuned classic one, both trained by Foretell on this machine.

    python benchmarks/time_to_loss.py [--data DIR] [--task shakespeare|books|all] [--seeds 3] [--sweep] [--quick]

classic   GPT-2's block, AdamW (0.9, 0.99), weight decay 0.1, cosine to a tenth, 100 steps of warm-up, the best learning rate
          of a sweep (--sweep runs it again). On Shakespeare it is the shape and budget of nanoGPT's CPU example.
modern    the bundled recipes `shakespeare-char` and `books-bpe`: Qwen3's block, Muon, a short schedule.

Same shards, context, precision, threads and held-out protocol (all of the held-out text, every token scored once).
Seconds are those of training steps with the reading of their batches; start-up and scoring are left out on both sides. The
ratio is of processor seconds, which a busy machine changes little, wall-clock seconds stand beside them.
"""

import argparse
import math
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from foretell.base.console import Terminal
from foretell.base.files import write_text
from foretell.base.machine import WIDE_ENOUGH
from foretell.compute.device import DTYPES, Precision, choose_precision
from foretell.corpus.document import Document
from foretell.data.batches import TrainBatches, held_out_windows
from foretell.data.build import write_shards
from foretell.data.config import DataSettings
from foretell.data.shards import ShardReader
from foretell.evaluation.perplexity import score_batches
from foretell.jobs.recipe import Recipe, load_recipe
from foretell.models.build import build, initialise
from foretell.models.gpt import GPT
from foretell.models.settings import resolve
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.train import train
from foretell.training.optimizers import make_optimizers
from foretell.training.parameters import FlatParameters
from foretell.training.state import Progress, TrainState
from foretell.training.step import train_step

RESULTS = Path(__file__).with_name("results") / "time_to_loss.md"
HEADER = "| task | seed | recipe | steps | tokens | held-out loss | processor s | wall s | faster |\n" + 9 * "|---" + "|"
CLASSIC = (
    "model.preset=gpt2",
    "optimizer.beta2=0.99",
    "optimizer.weight_decay=0.1",
    "schedule.decay=cosine",
    "schedule.final_share=0.1",
    "schedule.warmup_steps=100",
)


@dataclass(frozen=True)
class Task:
    """One text and what is trained on it. rates: the classic recipe's sweep; rate: its winner; modern: a bundled recipe.

    most_bytes: of books.
    """

    name: str
    tokenizer: TokenizerSettings
    held_out: float
    classic: tuple[str, ...]
    rates: tuple[float, ...]
    rate: float
    modern: str
    most_bytes: int = 20_000_000

    def documents(self, data: Path) -> list[Document]:
        """Shakespeare, or whole books in the order of their names as long as they fit into most_bytes."""
        if self.name == "shakespeare":
            paths = [data / "lm/tinyshakespeare/input.txt"]
        else:
            paths, room = [], self.most_bytes
            for path in sorted((data / "books").glob("*.md")):
                room -= path.stat().st_size
                if room < 0:
                    break
                paths.append(path)
        return [Document(path.stem, path.read_text(encoding="utf-8"), path.name) for path in paths]


def _sizes(*, layers: int, width: int, context: int, windows: int, steps: int) -> tuple[str, ...]:
    shape = (f"model.n_layer={layers}", f"model.d_model={width}", "model.n_head=4", f"model.context_length={context}")
    return (*shape, f"training.micro_batch={windows}", f"training.steps={steps}")


SHAKESPEARE = Task(
    name="shakespeare",
    tokenizer=TokenizerSettings(kind="char"),
    held_out=0.1,
    classic=_sizes(layers=4, width=128, context=64, windows=12, steps=2000),
    rates=(1e-3, 2e-3, 4e-3, 8e-3),
    rate=4e-3,
    modern="shakespeare-char",
)
BOOKS = Task(
    name="books",
    tokenizer=TokenizerSettings(kind="bpe", vocab_size=8192),
    held_out=0.05,
    classic=_sizes(layers=4, width=256, context=128, windows=8, steps=1000),
    rates=(1e-3, 2e-3, 4e-3),
    rate=2e-3,
    modern="books-bpe",
)


@dataclass(frozen=True)
class Outcome:
    """What a training run came to. loss: mean nats per held-out token."""

    steps: int
    tokens: int
    loss: float
    processor_seconds: float
    wall_seconds: float


def shards_of(task: Task, data: Path, folder: Path) -> ShardReader:
    """The task's text as shards under `folder`, made unless they are there."""
    path = folder / task.name
    if not path.exists():
        documents = task.documents(data)
        tokenizer = train(lambda: (document.text for document in documents), task.tokenizer)
        write_shards(lambda: documents, tokenizer, path, DataSettings(held_out=task.held_out), Terminal(quiet=True))
    return ShardReader(path)


def classic_recipe(task: Task, rate: float) -> Recipe:
    """The classic recipe at a learning rate."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as empty:
        return load_recipe(empty.name, [*CLASSIC, *task.classic, f"optimizer.learning_rate={rate}"])


@cache
def _precision() -> Precision:
    """The same for all runs, whatever their width."""
    return choose_precision("auto", torch.device("cpu"), WIDE_ENOUGH)[0]


def trained(recipe: Recipe, shards: ShardReader, seed: int, scored: bool = True) -> Outcome:
    """Train once and score all held-out text (or, not scored, only take the time)."""
    config, _ = resolve(recipe.model, shards.manifest.vocab_size)
    model, training = build(config), recipe.training
    assert isinstance(model, GPT)  # noqa: S101
    initialise(model, seed)
    model.prepare(config.context_length)
    torch.manual_seed(seed)  # dropout
    parameters = FlatParameters(model, DTYPES[_precision()], average=training.ema_decay is not None)
    state = TrainState(model, parameters, make_optimizers(parameters, recipe.optimizer, config), Progress(steps=training.steps))
    batches, windows = TrainBatches(shards.train, seed, config.context_length), training.micro_batch
    started, processor_started = time.perf_counter(), time.process_time()
    while not state.finished:
        batch = batches.batch(state.next_sample, windows)
        train_step(state, [batch], recipe.optimizer, recipe.schedule, training)
    processor_seconds, wall_seconds = time.process_time() - processor_started, time.perf_counter() - started
    loss = math.nan
    if scored:
        with parameters.averaged():
            held_out = held_out_windows(shards.held_out, config.context_length, 64)
            loss = score_batches(model, held_out, shards.tokenizer().byte_lengths()).loss
    return Outcome(training.steps, state.progress.tokens, loss, processor_seconds, wall_seconds)


def compared(task: Task, shards: ShardReader, seeds: Sequence[int], steps: int | None) -> list[str]:
    """The table's rows: both recipes for every seed, and how many times faster the modern one was. steps: --quick's few."""
    classic, modern = (shortened(each, steps) for each in (classic_recipe(task, task.rate), load_recipe(task.modern)))
    rows, ratios, reached = list[str](), list[float](), 0
    for seed in seeds:
        slow = trained(classic, shards, seed)
        rows.append(row(task, seed, "classic", slow, ""))
        fast = trained(modern, shards, seed)
        ratios.append(slow.processor_seconds / fast.processor_seconds)
        reached += fast.loss <= slow.loss
        rows.append(row(task, seed, "modern", fast, f"{ratios[-1]:.2f}x"))
        print("\n".join(rows[-2:]), flush=True)
    reached_by = f"modern at or below classic's loss: {reached} of {len(seeds)}"
    rows.append(f"| **{task.name}** | | {reached_by} | | | | | | **{statistics.mean(ratios):.2f}x** |")
    print(rows[-1], flush=True)
    return rows


def shortened(recipe: Recipe, steps: int | None) -> Recipe:
    """The recipe with so many steps instead, if any are said."""
    return recipe.model_copy(update={"training": recipe.training.replace(steps=steps)}) if steps else recipe


def row(task: Task, seed: int, name: str, outcome: Outcome, faster: str) -> str:
    """A line of the table."""
    seconds = f"{outcome.processor_seconds:.1f} | {outcome.wall_seconds:.1f}"
    return f"| {task.name} | {seed} | {name} | {outcome.steps:,} | {outcome.tokens:,} | {outcome.loss:.4f} | {seconds} | {faster} |"


def swept(task: Task, shards: ShardReader) -> list[str]:
    """The classic recipe's learning rates, seed 1."""
    rows = []
    for rate in task.rates:
        rows.append(row(task, 1, f"classic, learning rate {rate:g}", trained(classic_recipe(task, rate), shards, 1), ""))
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Run, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FORETELL_DATA", "../shared/data")))
    parser.add_argument("--task", choices=("shakespeare", "books", "all"), default="all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sweep", action="store_true", help="the classic recipe's learning rates first")
    parser.add_argument("--quick", action="store_true", help="ten steps of everything: shows that it runs, and nothing else")
    parser.add_argument("--shards", type=Path, help="where shards are kept between calls; absent: made anew")
    parser.add_argument("--out", type=Path, help=f"write the table here; absent: {RESULTS.name}, but for --quick")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    chosen = [task for task in (SHAKESPEARE, BOOKS) if arguments.task in (task.name, "all")]
    steps, seeds, rows = 10 if arguments.quick else None, 1 if arguments.quick else arguments.seeds, list[str]()
    if arguments.quick:
        small = TokenizerSettings(kind="bpe", vocab_size=512)
        chosen = [replace(task, most_bytes=300_000, tokenizer=small if task is BOOKS else task.tokenizer) for task in chosen]
    print(HEADER)
    with tempfile.TemporaryDirectory() as scratch:
        for task in chosen:
            shards = shards_of(task, arguments.data, arguments.shards or Path(scratch))
            rows += swept(task, shards) if arguments.sweep and not arguments.quick else []
            rows += compared(task, shards, range(1, seeds + 1), steps)
    out = arguments.out or (None if arguments.quick else RESULTS)
    if out is not None:
        how = f"`{shlex.join(['python', *sys.argv])}` (torch {torch.__version__}, {arguments.threads} thread, {_precision()})"
        write_text(out, "\n".join(["# Time to the same held-out loss", "", how, "", HEADER, *rows, ""]))


if __name__ == "__main__":
    main()
