"""Settings: what is filled from where, and that every mistake names its place and its cure."""

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from foretell.base.errors import SettingError
from foretell.base.settings import Settings, changed_keys, dump_settings, load_settings


class Training(Settings):
    steps: int = Field(default=100, gt=0)
    rate: float = 0.1
    decay: Literal["cosine", "linear"] = "cosine"
    stop: tuple[str, ...] = ()
    seed: int | None = None

    @model_validator(mode="after")
    def _sane(self) -> "Training":
        if self.rate > 1 and self.steps > 50:
            raise ValueError("the rate is too high | training.rate=1")
        if self.rate < 0:
            raise ValueError("the rate is below nothing")
        return self


class Model(Settings):
    width: int = 64
    name: str = "small"


class Recipe(Settings):
    training: Training = Training()
    model: Model = Model()


TEXT = """# a recipe

[training]
steps = 7
stop = ["a",
  "b"]

[model]
width = 8
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "a recipe.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def refused(path: Path | None, *overrides: str) -> SettingError:
    with pytest.raises(SettingError) as caught:
        load_settings(Recipe, path, overrides)
    return caught.value


def test_default_then_file_then_command_line(recipe: Path) -> None:
    assert load_settings(Recipe, None) == Recipe()
    loaded = load_settings(Recipe, recipe, ["model.width=16", "training.rate=1e-3", "model.width=32"])
    assert (loaded.training.steps, loaded.training.rate, loaded.model.width) == (7, 0.001, 32)
    assert (loaded.training.stop, loaded.model.name) == (("a", "b"), "small")


@pytest.mark.parametrize(
    ("override", "value"), [("name=my big model", "my big model"), ("name='7'", "7"), ("name=a=b", "a=b"), ("name=", "")]
)
def test_a_word_needs_no_quotes(override: str, value: str) -> None:
    assert load_settings(Recipe, None, [f"model.{override}"]).model.name == value


@pytest.mark.parametrize(
    ("old", "new", "line", "what", "cure"),
    [
        ("steps = 7", "stepz = 7", 4, "unknown setting training.stepz", "did you mean training.steps?"),
        ("steps = 7", "width = 7", 4, "unknown setting training.width", "did you mean model.width?"),
        ("steps = 7", "qq = 7", 4, "unknown setting training.qq", "known keys: training.steps, training.rate, training.decay, "),
        ("[model]", "[modle]", 8, "unknown setting modle", "did you mean model?"),
        ("[model]", "[qqqq]", 8, "unknown setting qqqq", "known keys: training, model"),
        ("steps = 7", "steps = 'x'", 4, "training.steps = 'x' is not possible", "it should be a valid integer"),
        ("steps = 7", "steps = 0", 4, "training.steps = 0 is not possible", "it should be greater than 0"),
        ("steps = 7", "rate = nan", 4, "training.rate = nan is not possible", "it should be a finite number"),
        ("steps = 7", "decay = 'none'", 4, "training.decay = 'none' is not possible", "it should be 'cosine' or 'linear'"),
        ('  "b"]', "  7]", 6, "training.stop.1 = 7 is not possible", "it should be a valid string"),
        (
            "[model]\nwidth = 8",
            "[[model]]",
            8,
            "model = [{}] is not possible",
            "it should be a valid dictionary or instance of Model",
        ),
        ("steps = 7", "rate = 2.0", 3, "the rate is too high", "training.rate=1"),
        ("steps = 7", "rate = -1.0", 3, "the rate is below nothing", "change training"),
        ("[model]\nwidth", "[model]\n\n\nsize.width", 11, "unknown setting model.size", "known keys: model.width, model.name"),
    ],
)
def test_a_mistake_in_the_file(recipe: Path, old: str, new: str, line: int, what: str, cure: str) -> None:
    recipe.write_text(TEXT.replace(old, new), encoding="utf-8")
    error = refused(recipe)
    assert (error.what, error.where) == (what, f"{recipe}:{line}")
    assert error.cure.startswith(cure)
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("override", "what", "cure"),
    [
        ("training.step=7", "unknown setting training.step", "did you mean training.steps?"),
        ("trainin.steps=7", "unknown setting trainin", "did you mean training?"),
        ("steps=7", "unknown setting steps", "did you mean training.steps?"),
        ("training.steps=many", "training.steps = 'many' is not possible", "it should be a valid integer"),
        ("training.decay=wsd", "training.decay = 'wsd' is not possible", "it should be 'cosine' or 'linear'"),
        ("model.width.x=1", "'width' is a value, not a section", "check the key"),
    ],
)
def test_a_mistake_on_the_command_line(recipe: Path, override: str, what: str, cure: str) -> None:
    error = refused(recipe, "training.rate=0.2", override)
    assert (error.what, error.where) == (what, f"command line: {override}")
    assert error.cure.startswith(cure)


def test_values_that_do_not_fit_each_other(recipe: Path) -> None:
    told = "error: the rate is too high\nwhere: command line: training.rate=2\n  try: training.rate=1"
    assert str(refused(None, "training.rate=2")) == told
    assert str(refused(recipe, "model.width=3", "training.rate=2", "training.steps=100")) == told


@pytest.mark.parametrize("word", ["training.steps", "", "=7", "a b=7"])
def test_an_override_is_key_and_value(word: str) -> None:
    assert refused(None, word).what == f"'{word}' is not key=value"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"[training\n", "this is not TOML: .*line 1"),
        (b"steps = 1\nrate = x", "this is not TOML: .*line 2"),
        (b"\xff", "cannot read the file: .*utf-8"),
        (None, "recipe.toml is missing"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes | None, what: str) -> None:
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingError, match=what) as caught:
        load_settings(Recipe, path)
    assert caught.value.where == str(path)


@settings(deadline=None)  # a busy disk is no failure
@given(
    st.builds(
        Recipe, training=st.builds(Training, steps=st.integers(1, 2**63 - 1), rate=st.floats(0, 1), stop=st.tuples(st.text()))
    )
)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    path = tmp_path_factory.getbasetemp() / "written.toml"
    path.write_text(dump_settings(recipe), encoding="utf-8", newline="")
    assert load_settings(Recipe, path) == recipe


def test_changes_are_named() -> None:
    before, after = Recipe(), Recipe(training=Training(seed=3), model=Model(width=2))
    assert changed_keys(before, after) == {"training.seed": (None, 3), "model.width": (64, 2)}
    assert changed_keys(before, before) == {}


def test_a_copy_is_checked_like_the_original() -> None:
    assert Training().replace(steps=5).steps == 5
    with pytest.raises(ValueError, match="steps"):
        Training().replace(steps=0)
    with pytest.raises(ValueError, match="frozen"):
        Training().steps = 5  # type: ignore[misc]
