"""Write constraints.txt: the version in this environment of everything that the project and all its extras need."""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
HOW = "# made by `.venv/bin/python scripts/pin.py`: what the dependencies and all extras reach, as installed; without build tags"


def closure(requirements: list[str]) -> dict[str, str]:
    """Name → version of all that these requirements reach on this platform."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, wanted_by_extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": wanted_by_extra}):
            continue
        name = canonicalize_name(requirement.name)
        found = distribution(name)
        pins[name] = Version(found.version).public
        for extra in ({"", *requirement.extras}) - {done for known, done in seen if known == name}:
            seen.add((name, extra))
            waiting += [(Requirement(text), extra) for text in found.requires or []]
    return pins


def main() -> int:
    """Write the file; return 1 when something is not installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts if not text.startswith("foretell[")]
    try:
        pins = closure([*project["dependencies"], *extras])
    except PackageNotFoundError as missing:
        print(f"error: {missing.name} is not installed\n  try: scripts/install all", file=sys.stderr)
        return 1
    lines = [HOW, *(f"{name}=={version}" for name, version in sorted(pins.items()))]
    (ROOT / "constraints.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
