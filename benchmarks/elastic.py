"""Workers killed at random, and how long a step waits for a checkpoint: `python benchmarks/elastic.py --shards DIR`.

Checkpoints of a model of 124M parameters with Adam's moments, written at once and in the background, in turns; then one run of two
processes under torchrun, of which a random one is killed (SIGKILL) twenty times, beside the same run undisturbed.
"""

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

RECIPE = """
[data]
shards = "{shards}"
[model]
n_layer = 2
d_model = 64
n_head = 2
context_length = 64
dropout = 0.1
[training]
steps = {steps}
micro_batch = 4
batch_tokens = 512
checkpoint_every = 10
evaluate_every = 1000
sample_every = 100000
log_every = 1
threads = 1
precision = "fp32"
tensorboard = false
"""


def torchrun(recipe: Path, run: Path) -> "subprocess.Popen[bytes]":
    """The command of docs/cluster.md, on one machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "100"]
    command = [*launcher, "-m", "foretell", "pretrain", str(recipe), "--out", str(run), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def reached(run: Path) -> int:
    """The last step that metrics.jsonl tells of."""
    path = run / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def wait_beyond(agent: "subprocess.Popen[bytes]", run: Path, step: int) -> float:
    """Seconds until the run has done more than `step` steps."""
    began = time.monotonic()
    while reached(run) <= step:
        if agent.poll() is not None or time.monotonic() - began > 300:
            raise SystemExit(f"the run ended or hung at step {reached(run)}")
        time.sleep(0.02)
    return time.monotonic() - began


def killed(folder: Path, shards: Path, kills: int, steps: int) -> list[str]:
    """The table's lines."""
    (recipe := folder / "recipe.toml").write_text(RECIPE.format(shards=shards, steps=steps))
    torchrun(recipe, folder / "undisturbed").wait()
    agent, chance, waits, redone = torchrun(recipe, folder / "killed"), random.Random(1), list[float](), list[int]()
    for number in range(kills):
        wait_beyond(agent, folder / "killed", steps * (number + 1) // (kills + 1) + chance.randrange(5))
        time.sleep(chance.random() * 0.2)
        chance.choice(psutil.Process(agent.pid).children()).kill()
        before = reached(folder / "killed")
        redone.append(before % 10)
        waits.append(wait_beyond(agent, folder / "killed", before))
        print(f"kill {number + 1}: step {before}, {waits[-1]:.1f} s", flush=True)
    code = agent.wait()
    models = [folder / run / "model" / "model.safetensors" for run in ("undisturbed", "killed")]
    same = len({hashlib.sha256(path.read_bytes()).hexdigest() for path in models}) == 1
    return [
        f"| workers killed in one run of {steps} steps | {kills}; torchrun ended with {code} |",
        f"| final weights identical to the undisturbed run's | {'yes' if same else 'NO'} |",
        f"| from the kill to the first step beyond it | median {statistics.median(waits):.1f} s, largest {max(waits):.1f} s |",
    ]


def saved(folder: Path, shards: Path, rounds: int) -> list[str]:
    """Blocking seconds of a save, at once and in the background, in turns."""
    import torch

    from foretell.data.shards import ShardReader
    from foretell.models.build import build, initialise
    from foretell.models.settings import ModelSettings, resolve
    from foretell.training.config import OptimizerSettings
    from foretell.training.optimizers import make_optimizers
    from foretell.training.parameters import FlatParameters
    from foretell.training.saving import Saver
    from foretell.training.state import Progress, TrainState

    config, _ = resolve(ModelSettings(preset="gpt2"), 50257)
    initialise(model := build(config), 1)
    parameters = FlatParameters(model, torch.float32)
    optimizers = make_optimizers(parameters, OptimizerSettings(), config)
    for optimizer in optimizers:
        optimizer.step()  # the moments are there
    state, tokenizer = TrainState(model, parameters, optimizers, Progress(steps=1000)), ShardReader(shards).tokenizer()
    savers = {name: Saver(folder / name, tokenizer, {}, 1, name == "background") for name in ("at once", "background")}
    blocked: dict[str, list[float]] = {name: [] for name in savers}
    whole: list[float] = []
    for step in range(1, rounds + 2):  # the first round takes memory for the copies, and is not counted
        state.progress.step = step
        for name, saver in savers.items():
            began = time.perf_counter()
            saver(state)
            blocked[name].append(time.perf_counter() - began)
            saver.wait()
            whole += [time.perf_counter() - began] if name == "background" else []
            print(f"save {step} {name}: {blocked[name][-1]:.2f} s", flush=True)
    size = sum(path.stat().st_size for path in (folder / "at once").rglob("*") if path.is_file())
    now, later = (statistics.median(blocked[name][1:]) for name in savers)
    shares = [other / one for one, other in zip(blocked["at once"][1:], blocked["background"][1:], strict=True)]
    return [
        f"| checkpoint of GPT-2 124M with Adam's moments | {size / 1e9:.2f} GB |",
        f"| a save at once blocks | {now:.2f} s |",
        f"| a save in the background blocks | {later:.2f} s, {100 * statistics.median(shares):.0f} % of that |",
        f"| the first one, which takes memory for the copies | {blocked['background'][0]:.2f} s |",
        f"| until it lies on the disk | {statistics.median(whole[1:]):.2f} s |",
    ]


def main() -> None:
    """Both tables, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=Path, required=True, help="made with `foretell shards build`")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5, help="saves of each kind")
    parser.add_argument("--folder", type=Path, help="where to write checkpoints; default: the system's temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        lines = saved(Path(name), arguments.shards.resolve(), arguments.rounds) if arguments.rounds else []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        lines += (
            killed(Path(name), arguments.shards.resolve(), arguments.kills, 30 * (arguments.kills + 1)) if arguments.kills else []
        )
    print("\n".join(["| what | measured |", "|---|---|", *lines]))


if __name__ == "__main__":
    main()
