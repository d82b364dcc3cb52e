"""Large blocks are reused instead of being given back to the kernel; results do not depend on it."""

import subprocess
import sys

import pytest

from foretell.compute import allocator

PROGRAM = """
import resource, torch
from foretell.compute.allocator import keep_memory
torch.set_num_threads(1)
kept = keep_memory()
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**25).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(10):
    pages()
print(kept, min(pages() for _ in range(3)))
"""


@pytest.mark.skipif(not allocator._is_glibc(), reason="only glibc has to be told")
def test_a_block_that_was_there_before_costs_no_pages() -> None:
    """128 MiB are 32,768 pages of 4 KiB."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    kept, pages = done.stdout.split()
    assert kept == "True" and int(pages) < 1000


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_is_glibc", lambda: False)
    assert allocator.keep_memory() is False
