"""Memory and time of importing a GPT-2 of 124M parameters: `python benchmarks/import_memory.py`.

The peer is transformers opening the same directory. Memory is the peak beyond what the imports of the libraries take, as the
kernel counts it (mapped file pages included); time is beside plainly reading the file.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
def act(source, out): transformers.GPT2LMHeadModel.from_pretrained(source)
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


def main() -> None:
    """Print one line a reader."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "gpt2"
        transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(source)
        size = (source / "model.safetensors").stat().st_size
        then = time.perf_counter()
        with (source / "model.safetensors").open("rb") as file:
            while file.read(2**24):
                pass
        print(f"the file: {size / 1e6:.0f} MB, read in {time.perf_counter() - then:.2f} s")
        for round_ in range(2):
            for name, code in (("foretell import", OURS), ("foretell load", LOADED), ("transformers", THEIRS)):
                extra, seconds = measured(code, source, Path(folder) / f"out-{round_}-{name.split()[-1]}")
                print(f"{name:16} {extra / size:.2f} × the file in extra memory, {seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
