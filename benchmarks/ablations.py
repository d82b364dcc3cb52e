"""What each choice of the modern recipes is worth: one is taken back at a time, and trained for the same processor time.

    python benchmarks/ablations.py [--data DIR] [--task shakespeare|books|all] [--seeds 1] [--only NAME]

The steps of a variant are those that fit into the recipe's own time: a few steps of both are timed in turns first.
"""

import argparse
import os
import shlex
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from time_to_loss import BOOKS, SHAKESPEARE, Task, shards_of, trained

from foretell.base.files import write_text
from foretell.data.shards import ShardReader
from foretell.jobs.recipe import Recipe, load_recipe

RESULTS = Path(__file__).with_name("results") / "ablations.md"
HEADER = "| task | change | steps in the same time | held-out loss | difference |\n|---|---|---|---|---|"
ROUNDS, STEPS = 3, 10
CHANGES: dict[str, tuple[str, ...]] = {
    "AdamW at 4e-3 instead of Muon": ("optimizer.name=adamw", "optimizer.learning_rate=4e-3"),
    "no QK-norm": ("model.qk_norm=false",),
    "learned positions": ("model.position=learned",),
    "rotary base 10,000": ("model.rope_theta=10000",),
    "LayerNorm": ("model.norm=layernorm",),
    "GELU MLP of as many weights": ("model.activation=gelu_tanh",),
    "tied head": ("model.tied=true",),
    "cosine": ("schedule.decay=cosine",),
    "linear from the start": ("schedule.decay=linear",),
    "momentum 0.95": ("optimizer.momentum=0.95",),
    "two layers more": ("model.n_layer={layers}",),
    "half the batch": ("training.micro_batch={half}",),
    "twice the batch": ("training.micro_batch={double}",),
    "as many KV heads as heads": ("model.n_kv_head={n_head}",),
    "weight decay 0.1": ("optimizer.weight_decay=0.1",),
    "z-loss 1e-4": ("training.z_loss=1e-4",),
}


def variant(task: Task, change: tuple[str, ...], recipe: Recipe) -> Recipe:
    """The task's modern recipe with a change."""
    model, windows = recipe.model, recipe.training.micro_batch
    assert model.n_layer is not None and model.d_ff is not None  # noqa: S101
    values = {"n_head": model.n_head, "layers": model.n_layer + 2, "half": windows // 2, "double": 2 * windows}
    changes = [each.format(**values) for each in change]
    if "model.activation=gelu_tanh" in changes:
        changes.append(f"model.d_ff={3 * model.d_ff // 2}")
    return load_recipe(task.modern, changes)


def steps_in_time(base: Recipe, other: Recipe, shards: ShardReader) -> int:
    """How many steps of `other` take as long as all of `base`: the quickest of a few rounds of each, in turns."""
    seconds: dict[int, float] = {}
    for _ in range(ROUNDS):
        for index, recipe in enumerate((base, other)):
            few = recipe.model_copy(update={"training": recipe.training.replace(steps=STEPS)})
            seconds[index] = min(seconds.get(index, 1e9), trained(few, shards, 1, scored=False).processor_seconds)
    return round(base.training.steps * seconds[0] / seconds[1])


def ablated(task: Task, shards: ShardReader, seeds: range, only: str) -> list[str]:
    """The table's rows."""
    base, rows = load_recipe(task.modern), list[str]()

    def add(name: str, recipe: Recipe, best: float | None) -> float:
        loss = statistics.mean(trained(recipe, shards, seed).loss for seed in seeds)
        rows.append(
            f"| {task.name} | {name} | {recipe.training.steps} | {loss:.4f} | {'' if best is None else f'{loss - best:+.4f}'} |"
        )
        print(rows[-1], flush=True)
        return loss

    best = add("**the recipe**", base, None)
    for name, change in CHANGES.items():
        if only in name:
            other = variant(task, change, base)
            steps = steps_in_time(base, other, shards)
            add(name, other.model_copy(update={"training": other.training.replace(steps=steps)}), best)
    return rows


def main() -> None:
    """Run, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FORETELL_DATA", "../shared/data")))
    parser.add_argument("--task", choices=("shakespeare", "books", "all"), default="all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="changes whose name has this in it")
    parser.add_argument("--shards", type=Path, help="where shards are kept between calls; absent: made anew")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[str] = []
    print(HEADER)
    with tempfile.TemporaryDirectory() as scratch:
        for task in (SHAKESPEARE, BOOKS):
            if arguments.task in (task.name, "all"):
                shards = shards_of(task, arguments.data, arguments.shards or Path(scratch))
                rows += ablated(task, shards, range(1, arguments.seeds + 1), arguments.only)
    head = f"# One choice taken back at a time\n\n`{shlex.join(['python', *sys.argv])}`\n\n"
    write_text(arguments.out, head + "\n".join([HEADER, *rows]) + "\n")


if __name__ == "__main__":
    main()
