"""The run folder: where everything of a run lies, and how it is added to without ever being overwritten."""

import itertools
import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from foretell.base.errors import SettingError
from foretell.base.files import require_new, sweep_partial, translated_write_errors, write_text
from foretell.base.records import dump

PREPARED = {"corpus", "tokenizer", "shards", ".building-corpus", ".building-shards"}


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: Path) -> None:
        self.path, self.recipe, self.given, self.log = path, path / "recipe.toml", path / "given.toml", path / "log.txt"
        self.metrics, self.samples, self.tensorboard = path / "metrics.jsonl", path / "samples.jsonl", path / "tensorboard"
        self.checkpoints, self.model = path / "checkpoints", path / "model"
        self.evaluation, self.report, self.facts = path / "evaluation.json", path / "report.html", path / "facts.json"

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """A new folder; refuses one that exists, unless it holds nothing but the text that quickstart prepared for it."""
        require_new(path, PREPARED, cure="continue it with --resume, or give another name with --out")
        with translated_write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run, swept of what a killed process left behind."""
        run = cls(path)
        if not run.recipe.exists():
            raise SettingError("there is no run here to continue", where=str(path), cure="leave out --resume to begin one")
        sweep_partial(path)
        return run

    def note(self, sentence: str) -> None:
        """Add a line to log.txt."""
        with suppress(OSError), self.log.open("a", encoding="utf-8") as stream:  # the disk may be what is wrong
            stream.write(sentence + "\n")

    @contextmanager
    def logged(self) -> Iterator[None]:
        """An error inside also leaves its traceback in log.txt."""
        try:
            yield
        except Exception:
            with suppress(OSError), self.log.open("a", encoding="utf-8") as stream:  # the disk may be what is wrong
                traceback.print_exc(file=stream)
            raise


def numbered(parent: Path, name: str) -> Path:
    """The first free of `name`, `name-2`, `name-3`, … in a folder."""
    paths = (parent / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(path for path in paths if not path.exists())


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add one line to a JSONL file and hand it to the disk at once."""
    with translated_write_errors(path), path.open("a", encoding="utf-8") as stream:
        stream.write(dump(record) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a growing JSONL file; a last line that was cut off by a kill is not one."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def keep_until(path: Path, step: int) -> None:
    """Drop the lines after `step`: on resume they will be written again."""
    if path.exists():
        write_text(path, "".join(dump(record) + "\n" for record in read_lines(path) if record["step"] <= step))
