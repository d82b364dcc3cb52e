"""Settings: frozen models that live beside the part they steer; every mistake in a recipe names its place and its cure."""

import difflib
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from foretell.base.errors import DataError, SettingError
from foretell.base.files import read_text


class Settings(BaseModel):
    """The base of every section: frozen, strict about names, documented by its fields' docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def replace(self, **changes: Any) -> Self:
        """A copy with some values changed, validated again."""
        return type(self).model_validate({**self.model_dump(), **changes})


S = TypeVar("S", bound=Settings)


def load_settings(schema: type[S], path: Path | None, overrides: Sequence[str] = ()) -> S:
    """Defaults, then a TOML file (or nothing), then `key=value` overrides. Raises SettingError."""
    try:
        text = read_text(path) if path else ""
        values = tomllib.loads(text)
    except DataError as error:
        raise SettingError(error.what, where=error.where, cure="`foretell recipes` lists the bundled ones") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"this is not TOML: {error}", where=str(path), cure="see https://toml.io for the syntax") from error
    origins = {_override(values, override): f"command line: {override}" for override in overrides}
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problem: Any = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        mine = (name for name in origins if f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}."))
        where = next((origins[name] for name in mine), None) or _place(text, path, problem["loc"])
        raise _explained(problem, key, list(_keys(schema)), where) from error


def dump_settings(settings: Settings) -> str:
    """The settings as TOML; absent values (None) are left out."""
    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def changed_keys(before: Settings, after: Settings) -> dict[str, tuple[Any, Any]]:
    """Where two recipes differ: section.key → (before, after)."""
    was, now = before.model_dump(), after.model_dump()
    pairs = {f"{section}.{key}": (value, now[section][key]) for section, values in was.items() for key, value in values.items()}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _override(values: dict[str, Any], override: str) -> str:
    """Put `key=value` into nested values; return the key."""
    key, equals, raw = override.partition("=")
    if not equals or not re.fullmatch(r"[\w.-]+", key):
        raise SettingError(f"'{override}' is not key=value", where="command line", cure="write for example training.steps=200")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise SettingError(f"'{parent}' is a value, not a section", where=f"command line: {override}", cure="check the key")
    values[last] = raw  # a bare word is a string, so that nobody needs to fight the shell's quotes
    with suppress(tomllib.TOMLDecodeError):
        values[last] = tomllib.loads(f"value = {raw}")["value"]
    return key


def _explained(problem: dict[str, Any], key: str, keys: list[str], where: str) -> SettingError:
    """The first thing that pydantic found wrong, in our words."""
    if problem["type"] == "extra_forbidden":
        section, _, name = key.rpartition(".")
        sections = section, f"{section.rpartition('.')[0]}.NAME"  # of sections that the user names
        siblings = {known.rpartition(".")[2]: known for known in keys if known.rpartition(".")[0] in sections}
        near = [known for known in keys if known.endswith(f".{name}")]
        near = near or [siblings[match] for match in difflib.get_close_matches(name, siblings, n=1)]
        cure = f"did you mean {' or '.join(near)}?" if near else f"known keys: {', '.join(siblings.values())}"
        return SettingError(f"unknown setting {key}", where=where, cure=cure)
    if problem["type"] == "value_error":
        what, _, cure = str(problem["ctx"]["error"]).partition(" | ")
        return SettingError(what, where=where, cure=cure or f"change {key or 'the settings'}")
    allowed = problem["msg"].replace("Input should be", "it should be")
    return SettingError(f"{key} = {problem['input']!r} is not possible", where=where, cure=allowed)


def _keys(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All sections and dotted keys of a schema: 'training', 'training.steps', …"""
    for name, field in schema.model_fields.items():
        yield f"{prefix}{name}"
        named = get_origin(field.annotation) is dict  # dict[str, Section]
        inner = get_args(field.annotation)[1] if named else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, f"{prefix}{name}.NAME." if named else f"{prefix}{name}.")


def _place(text: str, path: Path | None, parts: Sequence[str | int]) -> str:
    """The file and line that set a key. tomllib keeps no positions, so read one more line at a time until the key is there."""
    lines = text.split("\n")
    for number in range(1, len(lines) + 1):
        with suppress(tomllib.TOMLDecodeError):
            if _holds(tomllib.loads("\n".join(lines[:number])), parts):
                return f"{path}:{number}"
    return str(path or "command line")


def _holds(values: Any, parts: Sequence[str | int]) -> bool:
    """The key is there, or a value in which it would lie."""
    return not parts or not isinstance(values, dict) or (parts[0] in values and _holds(values[parts[0]], parts[1:]))
