"""The house around the code: what the rules in CONTRIBUTING.md promise, kept."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from foretell.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]


def size_budget(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(root / "scripts" / "size_budget.py")], capture_output=True, text=True, check=False)


def test_the_package_keeps_to_its_size() -> None:
    done = size_budget(ROOT)
    assert done.returncode == 0, done.stderr
    assert "foretell/cli" in done.stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def long():\n" + "    pass\n" * 60, "foretell/a.py:1 long: 61 lines, at most 60"),
        ("# line\n" * 401, "foretell/a.py: 401 lines, at most 400"),
        (["# line\n" * 400] * 51, "the package has 20400 lines; it must stay below 20400"),
    ],
)
def test_the_size_budget_names_what_is_over_it(text: str | list[str], told: str, tmp_path: Path) -> None:
    for name in ("foretell", "scripts"):
        (tmp_path / name).mkdir()
    (tmp_path / "scripts" / "size_budget.py").write_bytes((ROOT / "scripts" / "size_budget.py").read_bytes())
    for number, content in enumerate([text] if isinstance(text, str) else text):
        (tmp_path / "foretell" / f"{'a' * (number + 1)}.py").write_text(content, encoding="utf-8")
    done = size_budget(tmp_path)
    assert (done.returncode, done.stderr) == (1, f"over budget: {told}\n")


@pytest.mark.parametrize("name", ["scripts/quickstart", "scripts/test", "scripts/check", "scripts/install", ".ci/run"])
def test_scripts_can_be_run(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    assert subprocess.run(["bash", "-n", str(ROOT / name)], check=False).returncode == 0


def test_scripts_refuse_an_old_python(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "old").mkdir()
    (tmp_path / "scripts" / "install").write_bytes((ROOT / "scripts" / "install").read_bytes())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11"):
        stand_in = tmp_path / "old" / name
        stand_in.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n', encoding="utf-8")
        stand_in.chmod(0o755)
    path = f"{tmp_path / 'old'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(tmp_path / "scripts" / "install")], capture_output=True, text=True, check=False, env={"PATH": path}
    )
    assert done.returncode == 2
    assert "Python 3.11 or newer; python3 here is: Python 3.9.2" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_has_its_module(verb: str) -> None:
    module = importlib.import_module(COMMANDS[verb][0])
    assert module.EXAMPLE.startswith(f"foretell {verb}")
    assert callable(module.configure)
    assert callable(module.run)


def test_every_room_is_on_the_map() -> None:
    plan = ROOT / "ARCHITECTURE.md"
    if not plan.exists():
        pytest.skip("no ARCHITECTURE.md yet")
    rooms = [path.parent.name for path in ROOT.glob("foretell/*/__init__.py")]
    assert [room for room in rooms if f"{room}/" not in plan.read_text(encoding="utf-8")] == []


def test_every_room_has_its_floor() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    floors = {room.strip() for layer in project["tool"]["importlinter"]["contracts"][0]["layers"] for room in layer.split("|")}
    rooms = {f"foretell.{path.parent.name}" for path in ROOT.glob("foretell/*/__init__.py")}
    assert rooms | {"foretell.api"} == floors


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(text for texts in project["optional-dependencies"].values() for text in texts)]
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    )
    names = {re.split(r"[>\[]", text)[0].replace("_", "-") for text in wanted} - {"foretell"}
    assert names <= set(pins)
    assert not [pin for pin in pins.values() if "+" in pin]
    assert pins["torch"] == version("torch").partition("+")[0]
