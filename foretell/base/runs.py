"""The run folder: where everything of a run lies, and how it is added to without ever being overwritten."""

import json
import os
from pathlib import Path
from typing import Any

from foretell.base.errors import SettingError
from foretell.base.files import sweep_partial, translated_write_errors, write_text
from foretell.base.records import dump


PREPARED = {"corpus", "tokenizer", "shards"}


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.toml"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples.jsonl"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.model = path / "model"
        self.evaluation = path / "evaluation.json"
        self.report = path / "report.html"
        self.log = path / "log.txt"

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """A new folder; refuses one that exists, unless it holds nothing but the text that quickstart prepared for it."""
        if path.exists() and (not path.is_dir() or {item.name for item in path.iterdir()} - PREPARED):
            raise SettingError(
                "this run exists already, and a run is never overwritten",
                where=str(path),
                cure="continue it with --resume, or give another name with --out",
            )
        with translated_write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run, swept of what a killed process left behind."""
        run = cls(path)
        if not run.recipe.exists():
            raise SettingError("there is no run here to continue", where=str(path), cure="leave out --resume to begin one")
        for folder in (path, run.checkpoints):
            sweep_partial(folder)
        return run

    def write_log(self, text: str) -> None:
        """Add to log.txt."""
        with translated_write_errors(self.log), self.log.open("a", encoding="utf-8") as stream:
            stream.write(text.rstrip("\n") + "\n")


def numbered(parent: Path, name: str) -> Path:
    """The first free of `name`, `name-2`, `name-3`, … in a folder."""
    number, path = 1, parent / name
    while path.exists():
        number += 1
        path = parent / f"{name}-{number}"
    return path


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add one line to a JSONL file and hand it to the operating system at once."""
    with translated_write_errors(path), path.open("a", encoding="utf-8") as stream:
        stream.write(dump(record) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a growing JSONL file; a last line that was cut off by a kill is not one."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def keep_until(path: Path, step: int) -> None:
    """Drop the lines after `step`: on resume they will be written again."""
    kept = [record for record in read_lines(path) if record["step"] <= step]
    if path.exists():
        write_text(path, "".join(dump(record) + "\n" for record in kept))
