"""The bundled recipes: TOML files whose first lines say what they need and what they give."""

import difflib
import re
from pathlib import Path

from foretell.base.errors import DataError, SettingError
from foretell.base.files import read_text

FOLDER = Path(__file__).resolve().parents[1] / "recipes"
KEYS = ("title", "hardware", "time", "memory", "score")


def bundled(folder: Path = FOLDER) -> list[dict[str, str]]:
    """All recipes of a folder: `name` and KEYS as they are written there. Raises DataError for one whose header is not whole."""
    return [{"name": path.stem, **_header(path)} for path in sorted(folder.glob("*.toml"))]


def find(name: str, folder: Path = FOLDER) -> Path:
    """The file of a recipe: a path, or the name of a bundled one. Raises SettingError."""
    if name.endswith(".toml") or Path(name).is_file():
        return Path(name)
    recipes = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    if name in recipes:
        return recipes[name]
    near = difflib.get_close_matches(name, recipes, n=1, cutoff=0.5)
    cure = f"did you mean {near[0]}?" if near else f"the bundled recipes are: {', '.join(recipes)}; or give a TOML file"
    raise SettingError(f"there is no recipe '{name}'", where="command line", cure=cure)


def _header(path: Path) -> dict[str, str]:
    header = dict(re.findall(r"^# (\w+): (.+)$", read_text(path), re.MULTILINE))
    if missing := [f"# {key}: …" for key in KEYS if key not in header]:
        raise DataError("the recipe does not say all that it needs and gives", where=str(path), cure=f"add {' and '.join(missing)}")
    return {key: header[key] for key in KEYS}
