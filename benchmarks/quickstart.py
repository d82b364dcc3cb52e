"""Quickstart's model against a small GPT-2 trained the usual way, and against a compressor: bits per byte of the same text.

    python benchmarks/quickstart.py --minutes 5 [SOURCE...]

(ours)  `foretell quickstart`: the whole road in the given minutes.
(a)     transformers' GPT2LMHeadModel in nanoGPT's CPU shape (4 layers, 4 heads, 128 wide, context 64, batch 12, no dropout)
        with nanoGPT's training settings (AdamW 0.9/0.99, decay 0.1, clip 1, rate 1e-3 to 1e-4 by cosine, 100 steps of
        warm-up, random crops), fp32, on the same tokenizer and training text; its schedule fits the given time exactly.
        It trains for as long as our model trained, and in a second row for the minutes of our whole road.
(b)     xz -9e: the compressed size of training and held-out text, minus that of the training text alone.

All are scored on all held-out text, each model in disjoint windows of its own context.
"""

import argparse
import json
import lzma
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from foretell.data.batches import held_out_windows
from foretell.data.shards import ShardReader, Split

CONTEXT, BATCH, WARM_UP, PEAK_RATE, LAST_RATE = 64, 12, 100, 1e-3, 1e-4


def main() -> None:
    """Run quickstart, then the peers on its shards, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--run", type=Path, default=Path("runs/benchmark-quickstart"), help="a finished run is used as it is")
    arguments = parser.parse_args()
    if not arguments.run.exists():
        command = [sys.executable, "-m", "foretell", "quickstart", *arguments.sources, "--minutes", str(arguments.minutes)]
        subprocess.run([*command, "--out", str(arguments.run)], check=True)
    shards = ShardReader(arguments.run / "shards")
    metrics = [json.loads(line) for line in (arguments.run / "metrics.jsonl").read_text().splitlines()]
    scores = json.loads((arguments.run / "evaluation.json").read_text())["metrics"]
    ours, trained_seconds = scores["held_out_bits_per_byte"]["value"], metrics[-1]["elapsed_seconds"]
    rows = [("foretell quickstart", ours, trained_seconds, metrics[-1]["tokens"])]
    for seconds in (trained_seconds, 60 * arguments.minutes):
        bits, tokens = train_peer(shards, seconds)
        rows.append(("transformers GPT-2, nanoGPT's CPU shape", bits, seconds, tokens))
    rows.append(("xz -9e", compressor_bits(shards), math.nan, 0))
    print("\n| system | bits per byte | ours is lower by | training seconds | tokens |\n|---|---|---|---|---|")
    for name, bits, seconds, tokens in rows:
        print(f"| {name} | {bits:.4f} | {100 * (1 - ours / bits):.1f} % | {seconds:.0f} | {tokens:,} |", flush=True)


def train_peer(shards: ShardReader, seconds: float) -> tuple[float, int]:
    """Train the peer for `seconds`; return its held-out bits per byte and how many tokens it saw."""
    torch.manual_seed(1337)
    config = GPT2Config(
        vocab_size=shards.manifest.vocab_size, n_positions=CONTEXT, n_embd=128, n_layer=4, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).train()
    matrices, vectors = [p for p in model.parameters() if p.ndim >= 2], [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.99))
    crops = np.random.default_rng(1337)
    started, step = time.perf_counter(), 0
    while (progress := (time.perf_counter() - started) / seconds) < 1:  # the schedule follows the clock: it always ends in time
        rate = LAST_RATE + 0.5 * (1 + math.cos(math.pi * progress)) * (PEAK_RATE - LAST_RATE)
        for group in optimizer.param_groups:
            group["lr"] = min(rate, PEAK_RATE * (step + 1) / (WARM_UP + 1))
        starts = crops.integers(0, shards.train.tokens - CONTEXT, BATCH)
        tokens_BT = torch.from_numpy(np.stack([shards.train.read(int(start), CONTEXT) for start in starts]))
        optimizer.zero_grad(set_to_none=True)
        model(tokens_BT, labels=tokens_BT).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
    return peer_bits(model.eval(), shards), step * BATCH * CONTEXT


@torch.no_grad()
def peer_bits(model: GPT2LMHeadModel, shards: ShardReader) -> float:
    """Bits per byte of all held-out text, counted as ours are."""
    lengths = torch.from_numpy(shards.tokenizer().byte_lengths())
    nats, byte_count = 0.0, 0
    for batch in held_out_windows(shards.held_out, CONTEXT, 32):
        losses = F.cross_entropy(model(batch.tokens_BT).logits.flatten(0, 1), batch.targets_BT.flatten(), reduction="none")
        nats += float((losses * batch.weight_BT.flatten()).sum())
        byte_count += int(lengths[batch.targets_BT[batch.weight_BT > 0]].sum())
    return nats / math.log(2) / byte_count


def compressor_bits(shards: ShardReader) -> float:
    """Bits that xz -9e adds for each byte of held-out text behind the training text."""

    def text(split: Split) -> bytes:
        return shards.tokenizer().decode_bytes(split.read(0, split.tokens).tolist())

    train, held_out = text(shards.train), text(shards.held_out)
    sizes = [len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) for data in (train + held_out, train)]
    return 8 * (sizes[0] - sizes[1]) / len(held_out)


if __name__ == "__main__":
    main()
