"""The benchmarks that stand in for claims still run: at toy size, for what they print and not for how fast they are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_time_to_loss_compares_both_recipes_and_writes_the_table(data_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    command = [sys.executable, str(BENCHMARKS / "time_to_loss.py"), "--quick", "--data", str(data_folder), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in out.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    runs = [row for row in rows if row[2:] and row[2] in ("classic", "modern")]
    assert [(row[0], row[2]) for row in runs] == [
        (task, name) for task in ("shakespeare", "books") for name in ("classic", "modern")
    ]
    assert all(float(row[5]) < {"shakespeare": 4.2, "books": 6.2}[row[0]] for row in runs)  # of guessing: log 67, log 512
