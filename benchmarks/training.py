"""Throughput and memory of a training step, ours beside transformers' and litgpt's.

    python benchmarks/training.py --peers PYTHON [--quick] [--rounds N]

PYTHON: the interpreter of an environment that has torch, transformers and litgpt. Every system is a process of its own that holds
one model and makes steps when it is told to. Ours and one peer take turns, a few steps each, so that whatever else the machine does
meets both; what counts is the median of the ratios of neighbouring turns, in wall time and in processor time. Between them the
machine's peak is measured: the best of repeated 1024³ products in bf16. One step is forward, backward, clipping, update, on the
same random tokens; dropout is off for all.

`fp32` is eager PyTorch with its default AdamW, `bf16` autocast with its default AdamW (what `litgpt pretrain` does on a CPU),
`bf16 + fused` autocast with fused AdamW, the best that flags give.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

RESULT = Path(__file__).parent / "results" / "training.md"
BEGIN, END = "<!-- throughput -->", "<!-- /throughput -->"


class Shape(NamedTuple):
    """A GPT-2 and its batch."""

    n_layer: int
    d_model: int
    n_head: int
    vocabulary: int
    rows: int
    context: int


SHAPES = {"124M": Shape(12, 768, 12, 50257, 4, 256), "small": Shape(6, 384, 6, 8192, 16, 256), "toy": Shape(2, 64, 2, 512, 2, 32)}
OURS, PEAK = "foretell", "peak"
PEERS = {
    "transformers, fp32": ("transformers", False, False),
    "transformers, bf16 + fused": ("transformers", True, True),
    "litgpt, fp32": ("litgpt", False, False),
    "litgpt, bf16": ("litgpt", True, False),
    "litgpt, bf16 + fused": ("litgpt", True, True),
}
LITGPT = {"parallel_residual": False, "rotary_percentage": 1.0, "gelu_approximate": "tanh"}  # as near to GPT-2 as it comes
Step = Callable[[], float]
Turn = dict[str, float]


def main() -> None:
    """Measure, print and write the table; or, as --worker, be one of the systems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="the peers' interpreter; absent: ours alone")
    parser.add_argument("--quick", action="store_true", help="a toy, to see that everything runs; writes no results")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", choices=SHAPES, help="one shape; writes no results")
    parser.add_argument("--worker", nargs=2, metavar=("SYSTEM", "SHAPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker[0], arguments.worker[1], arguments.threads)
        return
    shapes, rounds = (["toy"], 1) if arguments.quick else (["124M", "small"], arguments.rounds)
    shapes = [arguments.only] if arguments.only else shapes
    text = "\n".join(section for shape in shapes for section in measured(shape, arguments.peers, rounds, arguments.threads))
    print(text)
    if not arguments.quick and not arguments.only and arguments.peers:
        write(text)


def measured(shape: str, peers: str | None, rounds: int, threads: int) -> Iterator[str]:
    """The lines of one shape's table: ours against each peer in turn."""
    sizes, ours, peaks, lines = SHAPES[shape], list[Turn](), list[float](), list[str]()
    with worker(sys.executable, OURS, shape, threads) as our_turn, worker(sys.executable, PEAK, shape, threads) as peak_turn:
        for kind in PEERS if peers else [OURS]:
            turns: list[tuple[Turn, Turn]] = []
            with worker(str(peers), kind, shape, threads) if peers else nullcontext(our_turn) as their_turn:
                for _ in range(rounds):
                    turns.append((our_turn(), their_turn()))
                    peaks.append(peak_turn()["peak"])
            ours += [mine for mine, _ in turns]
            if peers:
                wall, cpu = (statistics.median(theirs[name] / mine[name] for mine, theirs in turns) for name in ("wall", "cpu"))
                lines.append(row(kind, sizes, [theirs for _, theirs in turns], max(peaks), f"**{wall:.2f}×** | {cpu:.2f}×"))
                print(lines[-1], file=sys.stderr, flush=True)
    size = f"{sizes.n_layer} layers × {sizes.d_model}, {sizes.rows} × {sizes.context} tokens, V {sizes.vocabulary:,}"
    yield f"\n### {shape}: {size}\n"
    yield "| system | tokens/s, median (best) | of the peak | CPU-ms a step | peak RSS, GiB | ours is faster, wall | CPU time |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    yield row(OURS, sizes, ours, max(peaks), "|")
    yield from lines
    yield f"\nPeak of 1024³ bf16 products beside it: {max(peaks) / 1e9:.0f} GFLOP/s; {flops(sizes) / 1e6:.1f} MFLOP a token."


def row(system: str, sizes: Shape, turns: list[Turn], peak: float, ratio: str) -> str:
    """One line of the table."""
    tokens = sizes.rows * sizes.context
    median, best = tokens / statistics.median(turn["wall"] for turn in turns), tokens / min(turn["best"] for turn in turns)
    cpu, memory = 1000 * statistics.median(turn["cpu"] for turn in turns), max(turn["rss"] for turn in turns) / 2**30
    use = f"{median * flops(sizes) / peak:.0%} ({best * flops(sizes) / peak:.0%})"
    return f"| {system} | {median:,.0f} ({best:,.0f}) | {use} | {cpu:,.0f} | {memory:.2f} | {ratio} |"


def flops(sizes: Shape) -> float:
    """Training FLOPs of a token, attention's whole square counted, as models/counts.py does."""
    layers = 12 * sizes.n_layer * sizes.d_model**2
    return 6.0 * (layers + sizes.vocabulary * sizes.d_model) + 12 * sizes.n_layer * sizes.context * sizes.d_model


@contextmanager
def worker(python: str, system: str, shape: str, threads: int) -> Iterator[Callable[[], Turn]]:
    """A process that holds a system; call what is yielded for its turn."""
    command = [python, "-W", "ignore", __file__, "--worker", system, shape, "--threads", str(threads)]
    environment = {**os.environ, "GOMP_SPINCOUNT": "1000", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdin and process.stdout  # noqa: S101

    def turn() -> Turn:
        assert process.stdin and process.stdout  # noqa: S101
        process.stdin.write("turn\n")
        process.stdin.flush()
        while (line := process.stdout.readline()) and not line.startswith("{"):
            pass
        if not line:
            raise SystemExit(f"{system} ended")
        found: Turn = json.loads(line)
        return found

    try:
        yield turn
    finally:
        process.stdin.close()
        process.wait()


def work(system: str, shape: str, threads: int) -> None:
    """Make some steps for each line that comes in; say seconds a step and the most memory so far."""
    import torch

    torch.set_num_threads(threads)
    if system == PEAK:
        for _ in sys.stdin:
            print(json.dumps({"peak": peak(1.0)}), flush=True)
        return
    step, steps = (our_step(SHAPES[shape]) if system == OURS else peer_step(*PEERS[system], SHAPES[shape])), 2
    for _ in range(2):  # the first steps make the moments and find their memory
        step()
    for _ in sys.stdin:
        wall, cpu, each = time.perf_counter(), time.process_time(), list[float]()
        for _ in range(steps):
            started = time.perf_counter()
            loss = step()
            each.append(time.perf_counter() - started)
        spent = {"wall": (time.perf_counter() - wall) / steps, "cpu": (time.process_time() - cpu) / steps, "best": min(each)}
        print(json.dumps({**spent, "loss": loss, "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


def peak(seconds: float) -> float:
    """FLOP/s of the best 1024³ product in bf16."""
    import torch

    square, best, deadline = torch.randn(1024, 1024).bfloat16(), 0.0, time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        torch.mm(square, square)
        best = max(best, 2 * 1024**3 / (time.perf_counter() - started))
    return best


def our_step(sizes: Shape) -> Step:
    """What `foretell pretrain` does at each step, in bf16."""
    import torch

    from foretell.compute.allocator import keep_memory
    from foretell.data.batches import Batch
    from foretell.models.build import build, initialise
    from foretell.models.settings import ModelSettings, resolve
    from foretell.training.config import OptimizerSettings, ScheduleSettings, TrainingSettings
    from foretell.training.optimizers import make_optimizers
    from foretell.training.parameters import FlatParameters
    from foretell.training.state import Progress, TrainState
    from foretell.training.step import train_step

    keep_memory()
    layers, widths = {"n_layer": sizes.n_layer, "n_head": sizes.n_head}, {"d_model": sizes.d_model}
    settings = ModelSettings.model_validate({"preset": "gpt2", "context_length": sizes.context, **layers, **widths})
    config = resolve(settings, sizes.vocabulary)[0]
    model, optimizer = build(config), OptimizerSettings()
    initialise(model, 0)
    parameters = FlatParameters(model, torch.bfloat16)
    state = TrainState(model, parameters, make_optimizers(parameters, optimizer, config), Progress(steps=10**9))
    tokens_BT, targets_BT = random_tokens(sizes)
    batch, schedule, training = Batch(tokens_BT, targets_BT, torch.ones(tokens_BT.shape)), ScheduleSettings(), TrainingSettings()
    return lambda: train_step(state, [batch], optimizer, schedule, training).loss


def peer_step(library: str, bf16: bool, fused: bool, sizes: Shape) -> Step:
    """A peer's model in the loop that its users write."""
    import torch

    torch.manual_seed(0)
    model, loss_of = transformers_model(sizes) if library == "transformers" else litgpt_model(sizes)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=fused or None)
    tokens_BT, targets_BT = random_tokens(sizes)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            loss = loss_of(tokens_BT, targets_BT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def transformers_model(sizes: Shape) -> tuple[Any, Callable[..., Any]]:
    """GPT2LMHeadModel and its own loss; it shifts the labels itself, so they are given one place later."""
    from torch.nn import functional as F

    library: Any = import_module("transformers")
    widths = {"vocab_size": sizes.vocabulary, "n_positions": sizes.context, "n_embd": sizes.d_model}
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = library.GPT2LMHeadModel(library.GPT2Config(**widths, **drops, n_layer=sizes.n_layer, n_head=sizes.n_head)).train()
    return model, lambda tokens_BT, targets_BT: model(tokens_BT, labels=F.pad(targets_BT, (1, 0))[:, :-1]).loss


def litgpt_model(sizes: Shape) -> tuple[Any, Callable[..., Any]]:
    """litgpt's GPT, with the loss of `litgpt pretrain`; its positions are rotary and its head is not tied."""
    models, utils = import_module("litgpt.model"), import_module("litgpt.utils")
    widths = {"n_embd": sizes.d_model, "n_layer": sizes.n_layer, "n_head": sizes.n_head, "intermediate_size": 4 * sizes.d_model}
    words = {"block_size": sizes.context, "vocab_size": sizes.vocabulary, "padded_vocab_size": sizes.vocabulary}
    model = models.GPT(models.Config(**widths, **words, **LITGPT)).train()
    return model, lambda tokens_BT, targets_BT: utils.chunked_cross_entropy(model(tokens_BT), targets_BT)


def random_tokens(sizes: Shape) -> Any:
    """Inputs and the tokens behind them, the same for all systems: (B, T) each."""
    import torch

    stream = torch.randint(0, sizes.vocabulary, (sizes.rows, sizes.context + 1), generator=torch.Generator().manual_seed(0))
    return stream[:, :-1].contiguous(), stream[:, 1:].contiguous()


def write(text: str) -> None:
    """Put the tables between their marks in the results; what stands around them stays."""
    old = RESULT.read_text(encoding="utf-8") if RESULT.exists() else f"# Training\n\n{BEGIN}\n{END}\n"
    before, rest = old.split(BEGIN)
    after = rest.split(END)[1]
    words = ["PYTHON" if before == "--peers" else word for before, word in zip(["", *sys.argv[1:]], sys.argv[1:], strict=False)]
    command, machine = f"python benchmarks/training.py {' '.join(words)}", f"{platform.machine()}, {os.cpu_count()} cores"
    RESULT.write_text(f"{before}{BEGIN}\n## Throughput\n\n`{command}` ({machine})\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
