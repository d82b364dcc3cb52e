"""The command as a user meets it: help, exit codes, errors in three lines, JSON, pipes; and its two small verbs."""

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foretell.base.console import Terminal
from foretell.base.errors import DataError, Interrupted, SettingError
from foretell.cli import main as command
from foretell.jobs import recipes

Run = Callable[[argparse.Namespace, Terminal], object]
HEADER = "".join(f"# {key}: {key} of it\n" for key in recipes.KEYS)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a verb `try` with these functions into the table."""

    def add(run: Run, configure: Callable[[Any], object] = lambda parser: None) -> None:
        module = types.ModuleType("verb_for_tests")
        module.__dict__.update(EXAMPLE="foretell try 100%", configure=configure, run=run)
        monkeypatch.setitem(sys.modules, "verb_for_tests", module)
        monkeypatch.setitem(command.COMMANDS, "try", ("verb_for_tests", "tries"))

    return add


def failing(error: BaseException) -> Run:
    def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
        raise error

    return run


def as_given(arguments: argparse.Namespace, terminal: Terminal) -> object:
    return vars(arguments)


@pytest.mark.parametrize("words", [["--help"], ["recipes"], ["recipes", "show", "tiny"], ["recipes", "--help"]])
def test_quick_commands_import_nothing_heavy(words: list[str]) -> None:
    heavy = {"torch", "numpy", "pydantic", "transformers", "tokenizers"} | ({"rich"} if "--help" in words else set())
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python(
        f"import sys; from foretell.cli.main import main; assert main({words}) == 0; print(sorted({heavy} & set(sys.modules)))"
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "[]"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_importing_the_package_imports_nothing_else() -> None:
    done = python("import sys; before = set(sys.modules); import foretell; print(*set(sys.modules) - before)")
    assert {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names == {"foretell"}


def test_the_public_names_are_there() -> None:
    package = importlib.import_module("foretell")
    assert all(getattr(package, name) for name in package.__all__)


def test_the_package_refuses_a_name_it_has_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        importlib.import_module("foretell").__getattr__("pretrian")


def test_help_lists_every_command_and_each_shows_its_example(capsys: pytest.CaptureFixture[str], verb: Callable[..., None]) -> None:
    verb(as_given, lambda parser: parser.add_subparsers().add_parser("deep"))
    assert command.main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(f"\n  {name} " in overview and summary in overview for name, (_, summary) in command.COMMANDS.items())
    for words in (["try", "--help"], ["try", "deep", "--help"]):
        assert command.main(words) == 0
        explained = capsys.readouterr().out
        assert "foretell try 100%" in explained
        assert "--json" in explained


@pytest.mark.parametrize(
    ("words", "what", "cure"),
    [
        (["recieps"], "there is no command 'recieps'", "did you mean foretell recipes?"),
        (["zzzzzz"], "there is no command 'zzzzzz'", "foretell --help lists the commands"),
        (["--json", "recipes"], "there is no command '--json'", "foretell --help lists the commands"),
        (["recipes", "--jsno"], "unrecognized arguments: --jsno", "foretell recipes --help"),
        (["recipes", "--js"], "unrecognized arguments: --js", "foretell recipes --help"),
        (["recipes", "show"], "the following arguments are required: NAME", "foretell recipes show --help"),
        (["recipes", "show", "tini"], "there is no recipe 'tini'", "did you mean tiny?"),
    ],
)
def test_wrong_usage_is_three_lines_and_2(words: list[str], what: str, cure: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words) == 2
    assert capsys.readouterr() == ("", f"error: {what}\nwhere: command line\n  try: {cure}\n")


def test_no_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 2
    assert "foretell quickstart" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (DataError("broken", where="a.txt:3", cure="mend it"), 1, "error: broken\nwhere: a.txt:3\n  try: mend it\n"),
        (SettingError("wrong", where="x", cure="y"), 2, "error: wrong\nwhere: x\n  try: y\n"),
        (Interrupted("stopped", where="step 3", cure="--resume"), 130, "error: stopped\nwhere: step 3\n  try: --resume\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_a_known_failure(
    error: BaseException, code: int, told: str, verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(failing(error))
    assert command.main(["try"]) == code
    assert capsys.readouterr() == ("", told)


@pytest.mark.parametrize(
    ("error", "code", "what", "cure"),
    [
        (MemoryError(), 3, "the memory is used up (MemoryError: )", "smaller batch"),
        (RuntimeError("can't allocate memory: 9 bytes"), 3, "the memory is used up", "smaller batch"),
        (ValueError("first\nsecond"), 1, "ValueError: first", "--debug"),
    ],
)
def test_an_unexpected_failure(
    error: BaseException, code: int, what: str, cure: str, verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(failing(error))
    assert command.main(["try"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"error: {what}")
    assert "cli/main.py:" in lines[1]
    assert cure in lines[2]


def test_debug_shows_the_traceback(verb: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    verb(failing(ValueError("odd")))
    assert command.main(["try", "--debug"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert "\nerror: ValueError: odd\n" in told


@pytest.mark.parametrize("words", ["try a --out o k=1 --json l=2", "try a k=1 --json l=2 --out o", "try --json --out o a k=1 l=2"])
def test_options_may_stand_anywhere(words: str, verb: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("recipe")
        parser.add_argument("overrides", nargs="*")
        parser.add_argument("--out")

    verb(as_given, configure)
    assert command.main(words.split()) == 0
    expected = {"recipe": "a", "overrides": ["k=1", "l=2"], "out": "o", "json": True, "quiet": False, "debug": False}
    assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize("words", ["try --json deep a --quiet b", "try --quiet deep --json a b", "try deep a b --quiet --json"])
def test_sub_verbs_take_and_keep_the_common_options(
    words: str, verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(as_given, lambda parser: parser.add_subparsers().add_parser("deep").add_argument("sources", nargs="+"))
    assert command.main(words.split()) == 0
    assert json.loads(capsys.readouterr().out) == {"sources": ["a", "b"], "json": True, "quiet": True, "debug": False}


def test_with_json_only_the_result_is_on_standard_output(verb: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    verb(lambda arguments, terminal: terminal.say("to the reader"))
    assert command.main(["try", "--json"]) == 0
    assert capsys.readouterr() == ("null\n", "to the reader\n")
    assert command.main(["try", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("words", ["recipes", "recipes show tiny --json --quiet", "--help", "recipes --help"])
def test_a_reader_who_has_left_is_met_quietly(words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # buffered, as it is for a user
    call = [sys.executable, "-m", "foretell", *words.split()]
    done = subprocess.run(call, stdout=writer, stderr=subprocess.PIPE, check=False, env=environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_sign_the_terminal_lacks_is_escaped() -> None:
    code = "import sys, foretell.cli.main as m; m._dispatch = lambda words: print('→') or 0; sys.exit(m.main(['x']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (0, b"\\u2192\n")


def test_bundled_recipes_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert "tiny" in [recipe["name"] for recipe in listed]
    assert command.main(["recipes", "show", "tiny"]) == 0
    assert capsys.readouterr().out == recipes.find("tiny").read_text(encoding="utf-8")


def test_a_recipe_is_a_bundled_name_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"{HEADER}\n[training]\nsteps = 2\n", encoding="utf-8")
    assert recipes.find("mine", tmp_path) == recipes.find(str(path)) == path
    assert recipes.bundled(tmp_path) == [{"name": "mine", **{key: f"{key} of it" for key in recipes.KEYS}}]
    with pytest.raises(SettingError, match="there is no recipe 'qqqq'") as caught:
        recipes.find("qqqq", tmp_path)
    assert caught.value.cure == "the bundled recipes are: mine; or give a TOML file"


def test_a_recipe_must_say_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "bare.toml").write_text(HEADER.replace("# score: score of it\n", ""), encoding="utf-8")
    with pytest.raises(DataError, match="does not say all") as caught:
        recipes.bundled(tmp_path)
    assert caught.value.cure == "add # score: …"
