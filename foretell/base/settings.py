"""Settings: frozen models that live beside the part they steer, filled from TOML and `key=value`.

Order: default < recipe file < command line. Unknown keys and wrong values name the file, the line, the nearest key
and what is allowed. This module knows no particular section.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from foretell.base.errors import SettingError


class Settings(BaseModel):
    """The base of every section: frozen, strict about names, documented by its fields' docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def replace(self, **changes: Any) -> Self:
        """A copy with some values changed, validated again."""
        return type(self).model_validate({**self.model_dump(), **changes})


S = TypeVar("S", bound=Settings)


def load_settings(schema: type[S], path: Path | None, overrides: Sequence[str] = ()) -> S:
    """Read a TOML file (or nothing) and `key=value` overrides into `schema`. Raises SettingError."""
    text = _read(path) if path else ""
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(
            f"this is not valid TOML: {error}", where=str(path), cure="see https://toml.io for the syntax"
        ) from error
    origins: dict[str, str] = {}
    for override in overrides:
        key, value = _parse_override(override)
        _set(values, key, value, override)
        origins[key] = f"command line: {override}"
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise _explain(error, schema, path, text, origins) from error


def dump_settings(settings: Settings) -> str:
    """The settings as TOML; absent values (None) are left out."""
    import tomli_w

    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def known_keys(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All dotted keys of a schema: 'training.steps', …"""
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from known_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def changed_keys(before: Settings, after: Settings) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ: key → (before, after)."""
    left, right = _flat(before.model_dump()), _flat(after.model_dump())
    return {key: (left.get(key), right.get(key)) for key in sorted(left | right) if left.get(key) != right.get(key)}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingError(
            f"cannot read the recipe: {reason}", where=str(path), cure="`foretell recipes` lists the bundled ones"
        ) from error


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, raw = text.partition("=")
    if not equals or not re.fullmatch(r"[\w.-]+", key):
        raise SettingError(f"'{text}' is not key=value", where="command line", cure="write for example training.steps=200")
    try:
        return key, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return key, raw  # a bare word is a string, so that nobody needs to fight the shell's quotes


def _set(values: dict[str, Any], key: str, value: Any, override: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise SettingError(f"'{parent}' is a value, not a section", where=f"command line: {override}", cure="check the key")
    values[last] = value


def _explain(error: ValidationError, schema: type[Settings], path: Path | None, text: str, origins: dict[str, str]) -> SettingError:
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"]]
    keys = list(known_keys(schema))
    key = ".".join(parts)
    where = next((origins[k] for k in origins if key == k or key.startswith(f"{k}.")), None)
    if where is None:
        line = _line_of(text, parts)
        where = f"{path}:{line}" if line else str(path or "settings")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5) or [k for k in keys if k.endswith(f".{parts[-1]}")]
        siblings = ", ".join(k for k in keys if k.rpartition(".")[0] == key.rpartition(".")[0])
        cure = f"did you mean {near[0]}?" if near else f"known keys: {siblings or ', '.join(keys)}"
        return SettingError(f"unknown setting {key}", where=where, cure=cure)
    if first["type"] == "missing":
        return SettingError(
            f"the setting {key} is needed", where=str(path or "command line"), cure=f"add {key}=… to the command or the recipe"
        )
    if first["type"] == "value_error":
        what, _, cure = str(first["ctx"]["error"]).partition(" | ")
        return SettingError(what, where=where, cure=cure or f"change {key or 'the settings'}")
    allowed = first["msg"].replace("Input should be", "it should be")
    return SettingError(f"{key} = {first['input']!r} is not possible", where=where, cure=allowed)


def _line_of(text: str, parts: list[str]) -> int | None:
    """The line of a dotted key in TOML text; tomllib keeps no positions, so look for its header and name."""
    section: list[str] = []
    best = None
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([\w.\s-]+)\]", line):
            section = [part.strip() for part in header[1].split(".")]
            if parts[: len(section)] == section:
                best = number
        elif (pair := re.match(r"\s*([\w.-]+)\s*=", line)) and [*section, *pair[1].split(".")] == parts[
            : len(section) + pair[1].count(".") + 1
        ]:
            return number
    return best
