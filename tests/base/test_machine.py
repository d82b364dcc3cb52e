"""What a container may use of a machine is what counts."""

import os
from pathlib import Path

import pytest

from foretell.base import machine
from foretell.base.machine import usable_processors


@pytest.mark.parametrize(
    ("texts", "processors"),
    [
        (["max 100000\n"], 8),
        (["300000 100000\n"], 3),
        (["50000 100000\n"], 1),
        (["1600000 100000\n"], 8),
        (["-1\n", "100000\n"], 8),
        (["250000\n", "100000\n"], 2),
        (["nothing\n"], 8),
    ],
)
def test_a_containers_share_counts(texts: list[str], processors: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tuple(tmp_path / str(number) for number in range(len(texts)))
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "CGROUPS", ((tmp_path / "absent",), files))
    assert usable_processors() == processors
