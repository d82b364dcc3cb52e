"""Memory and time of importing models of 124M parameters: `python benchmarks/import_memory.py`.

The peer is transformers opening the same directory. Memory is the peak beyond what the imports of the libraries take, as the
kernel counts it (mapped file pages included); time is beside plainly reading the file.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OURS = """
from pathlib import Path
from foretell.base.console import Terminal
from foretell.jobs.convert import import_model
def act(source, out): import_model(source, Path(out), Terminal(quiet=True))
"""
LOADED = """
from pathlib import Path
from foretell.interop.huggingface import load_model
def act(source, out): load_model(Path(source))
"""
THEIRS = """
import transformers
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.qwen3 import modeling_qwen3
def act(source, out): transformers.AutoModelForCausalLM.from_pretrained(source, dtype="auto")
"""
MEASURE = """
import resource, sys, time
def peak():
    return int(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))) * 1024
before, then = peak(), time.perf_counter()
act(sys.argv[1], sys.argv[2])
print(peak() - before, time.perf_counter() - then)
"""


def measured(code: str, source: Path, out: Path) -> tuple[int, float]:
    """Bytes and seconds of one run in a process of its own."""
    arguments = [sys.executable, "-W", "ignore", "-c", code + MEASURE, str(source), str(out)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    extra, seconds = done.stdout.splitlines()[-1].split()
    return int(extra), float(seconds)


def models() -> Iterator[tuple[str, Any]]:
    """Name and random weights of what is imported."""
    import torch
    import transformers

    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    yield "GPT-2, fp32", gpt2
    yield "GPT-2, bf16", gpt2.to(torch.bfloat16)
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 6, "head_dim": 64}
    words = {**sizes, "intermediate_size": 2048, "vocab_size": 50257, "tie_word_embeddings": True}
    yield "Qwen3 layout, fp32", transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**words))


def main() -> None:
    """Print a line for each model and reader."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, model) in enumerate(models()):
            source = Path(folder) / f"model-{number}"
            model.save_pretrained(source)
            size = (source / "model.safetensors").stat().st_size
            then = time.perf_counter()
            with (source / "model.safetensors").open("rb") as file:
                while file.read(2**24):
                    pass
            print(f"{name}: {size / 1e6:.0f} MB, read in {time.perf_counter() - then:.2f} s", flush=True)
            for reader, code in (("foretell import", OURS), ("foretell load", LOADED), ("transformers", THEIRS)):
                extra, seconds = measured(code, source, Path(folder) / f"out-{number}")
                print(f"  {reader:16} {extra / size:.2f} × the file in extra memory, {seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
