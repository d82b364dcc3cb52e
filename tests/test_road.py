"""The whole road, and the commands of README and docs, as a new user would run them."""

import json
import re
import shlex
from pathlib import Path

import pytest

from foretell.cli.main import main

ROOT = Path(__file__).parents[1]


def test_quickstart_from_a_folder_of_text_to_a_model(text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "my run"
    assert main(["quickstart", str(text_folder), "--out", str(run), "--minutes", "0.3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["held_out"]["bits_per_byte"] < 5 and len(result["samples"]) == 3
    assert result["elapsed_seconds"] > 0  # how well minutes are kept, the benchmark measures
    for name in (
        "report.html",
        "model/config.json",
        "model/README.md",
        "corpus/report.html",
        "recipe.toml",
        "metrics.jsonl",
        "tensorboard",
    ):
        assert (run / name).exists(), name
    assert main(["generate", str(run / "model"), "--prompt", "The", "--max-tokens", "5", "--explain", "--seed", "1"]) == 0
    assert set("█▏▎▍▌▋▊▉") & set(capsys.readouterr().out)  # bars, however short: a loaded machine learns little in this time


def commands(path: Path) -> list[str]:
    """The foretell commands in a page's bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("foretell ")]


@pytest.mark.parametrize(
    ("page", "count", "before"),
    [
        ("step-by-step.md", 11, []),
        ("bring-your-own-data.md", 5, []),
        (
            "tokens.md",
            5,
            ["foretell corpus build my-texts/ --out corpus", "foretell corpus build my-texts/ast.txt --out more-texts"],
        ),
    ],
)
def test_the_commands_of_the_docs_run(
    page: str, count: int, before: list[str], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text_folder.rename(tmp_path / "my-texts")
    (tmp_path / "my-texts" / "README.md").write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    found = commands(ROOT / "docs" / page)
    assert len(found) == count
    for command in [*before, *found]:
        assert main(shlex.split(command)[1:]) == 0, command


def test_the_recipe_in_the_docs_is_valid(tmp_path: Path) -> None:
    from foretell.jobs.recipe import load_recipe

    text = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"), re.DOTALL)
    assert text
    (tmp_path / "mine.toml").write_text(text[1])
    assert load_recipe(str(tmp_path / "mine.toml")).training.batch_tokens == 4096


def test_every_command_in_readme_and_docs_parses() -> None:
    """Each verb and option that the pages name exists: its --help mentions it."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    import contextlib
    import io

    for command in (command for page in pages for command in commands(page)):
        words = shlex.split(command)[1:]
        verbs = words[:2] if words[0] in ("corpus", "tokenizer", "shards") else words[:1]
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            assert main([*verbs, "--help"]) == 0
        for option in (word for word in words if word.startswith("--")):
            assert option in shown.getvalue(), command


def test_every_bundled_recipe_is_valid() -> None:
    from foretell.jobs.recipe import load_recipe
    from foretell.jobs.recipes import bundled

    assert [load_recipe(recipe["name"]) for recipe in bundled()]


def test_the_mixture_in_the_docs_is_valid(tmp_path: Path) -> None:
    from foretell.jobs.recipe import load_recipe

    text = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "tokens.md").read_text(encoding="utf-8"), re.DOTALL)
    assert text
    (tmp_path / "mine.toml").write_text(text[1])
    sources = load_recipe(str(tmp_path / "mine.toml")).data.sources
    assert {name: source.weight for name, source in sources.items()} == {"books": 0.7, "code": 0.3}
