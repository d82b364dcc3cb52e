"""GPT-2 124M on one GPU: tokens/s and the share of the GPU's peak, ours beside transformers, in bf16 with torch.compile.

    python benchmarks/gpu.py [--rows N] [--steps N] [--no-compile]

Both learn from the same random tokens, windows of 1024; a step is forward, backward, clipping, update with fused AdamW. Without a
GPU everything runs once at toy size on the CPU, uncompiled, so that this script cannot rot. Utilisation is by FLOPs with
attention's whole square (PaLM, appendix B), against the dense bf16 peak in the vendor's data sheet and against measured products.
Published figures stand below for orientation: other machines, other software, read from the sources named.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from foretell.base.files import cache_folder
from foretell.compute.compiling import compiled
from foretell.compute.device import measured_peak
from foretell.data.batches import Batch
from foretell.models.build import build, initialise
from foretell.models.config import ModelConfig
from foretell.models.counts import flops_per_token
from foretell.models.settings import ModelSettings, resolve
from foretell.training.config import OptimizerSettings, ScheduleSettings, TrainingSettings
from foretell.training.optimizers import make_optimizers
from foretell.training.parameters import FlatParameters
from foretell.training.state import Progress, TrainState
from foretell.training.step import train_step

DATA_SHEETS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}  # dense bf16 FLOP/s
PUBLISHED = """
| published | hardware | tokens/s on each GPU | of the peak |
|---|---|--:|--:|
| nanoGPT, 124M | 8 × A100 40G | 110,000 | 30 % |
| llm.c, 124M (scripts/run_gpt2_124M.sh) | 8 × A100 80G | 218,000 | 60 % |
| modded-nanogpt record 5, 124M, modern layout | 8 × H100 | 366,000 | 32 % |
"""
Step = Callable[[], Any]


class Sizes(NamedTuple):
    """What is trained: a GPT-2 of these sizes, rows × context tokens a step."""

    settings: dict[str, Any]
    vocabulary: int
    rows: int
    steps: int


def main(words: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32, help="windows in a step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = Sizes({"size": "small", "context_length": 1024}, 50257, arguments.rows, arguments.steps)
    if device.type == "cpu":
        sizes = Sizes({"n_layer": 2, "d_model": 64, "n_head": 2, "context_length": 32}, 512, 2, 2)
    config = resolve(ModelSettings.model_validate({"preset": "gpt2", **sizes.settings}), sizes.vocabulary)[0]
    compile_it = device.type == "cuda" and not arguments.no_compile
    name = torch.cuda.get_device_name() if device.type == "cuda" else "a CPU, at toy size"
    product = measured_peak("bf16", device, 1.0)
    sheet = next((peak for card, peak in DATA_SHEETS.items() if card in name), None)
    print(f"{name}, torch {torch.__version__}; 8192³ products in bf16: {product / 1e12:.3g} TFLOP/s\n")
    print("| system | tokens/s | ms a step | of the data sheet | of measured products | GiB |\n|---|--:|--:|--:|--:|--:|")
    systems = {"foretell": our_step} | ({"transformers": their_step} if find_spec("transformers") else {})
    for system, make in systems.items():
        step = make(config, sizes, device, compile_it)
        seconds, memory = timed(step, sizes.steps, device)
        speed = sizes.rows * config.context_length / seconds
        shares = [f"{speed * flops_per_token(config) / peak:.1%}" if peak else "" for peak in (sheet, product)]
        print(f"| {system} | {speed:,.0f} | {1000 * seconds:.1f} | {' | '.join(shares)} | {memory:.1f} |", flush=True)
        del step
    print(PUBLISHED)


def timed(step: Step, steps: int, device: torch.device) -> tuple[float, float]:
    """Median seconds of a step, after a few that compile and warm up; GiB of the GPU at the most."""
    seconds = []
    for number in range(steps + 5):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number == 4 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds.append(time.perf_counter() - started)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return statistics.median(seconds[5:]), memory


def random_batch(config: ModelConfig, sizes: Sizes, device: torch.device) -> Batch:
    """Random tokens, the same for both."""
    generator = torch.Generator().manual_seed(0)
    stream = torch.randint(0, sizes.vocabulary, (sizes.rows, config.context_length + 1), generator=generator).to(device)
    tokens_BT, targets_BT = stream[:, :-1].contiguous(), stream[:, 1:].contiguous()
    return Batch(tokens_BT, targets_BT, torch.ones(tokens_BT.shape, device=device))


def our_step(config: ModelConfig, sizes: Sizes, device: torch.device, compile_it: bool) -> Step:
    """What `foretell pretrain` does in each step."""
    model, optimizer = build(config), OptimizerSettings()
    initialise(model, 0)
    parameters = FlatParameters(model.to(device), torch.bfloat16)
    state = TrainState(model, parameters, make_optimizers(parameters, optimizer, config), Progress(steps=10**9))
    forward = compiled(model, device, cache_folder() / "compiled")[0] if compile_it else model
    batch, schedule, training = random_batch(config, sizes, device), ScheduleSettings(), TrainingSettings()
    return lambda: train_step(state, [batch], optimizer, schedule, training, forward)


def their_step(config: ModelConfig, sizes: Sizes, device: torch.device, compile_it: bool) -> Step:
    """GPT2LMHeadModel in autocast, compiled, with fused AdamW."""
    library: Any = import_module("transformers")
    widths = {"vocab_size": sizes.vocabulary, "n_positions": config.context_length, "n_embd": config.d_model}
    counts = {"n_layer": getattr(config, "n_layer", 0), "n_head": getattr(config, "n_head", 0)}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "use_cache": False}
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = library.GPT2LMHeadModel(library.GPT2Config(**widths, **counts, **ends, **drops)).to(device).train()
    forward = torch.compile(model) if compile_it else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batch = random_batch(config, sizes, device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = forward(batch.tokens_BT, labels=batch.tokens_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
