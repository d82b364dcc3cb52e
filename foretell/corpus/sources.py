"""Which files a SOURCE means: files, folders, globs and standard input, in a fixed order, the rest with its reason."""

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from foretell.base.errors import SettingError
from foretell.corpus.document import Dropped, document_id

GLOB = re.compile(r"[*?\[]")
NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(slots=True)
class SourceFile:
    """A file to read, or to pass over for a reason.

    name: relative to its SOURCE, the same on every machine. label: the path as given. sha256: known when it has been read.
    """

    path: Path
    name: str
    label: str
    bytes: int = 0
    reason: str | None = None
    sha256: str | None = None

    def dropped(self, reason: str, excerpt: str = "", line: int | None = None, size_bytes: int | None = None) -> Dropped:
        """The whole file, or one line or `size_bytes` of it, as left out."""
        label = self.label if line is None else f"{self.label}:{line}"
        return Dropped(document_id(label, 0, b""), label, reason, excerpt, self.bytes if size_bytes is None else size_bytes)


def find_files(sources: Sequence[str], scratch: Path) -> list[SourceFile]:
    """All files that the sources mean, each once. Standard input is copied into `scratch`; SettingError where a path is missing."""
    found: dict[Path, SourceFile] = {}
    for source in sources:
        for file in [_standard_input(scratch / "stdin")] if source == "-" else _expand(source):
            found.setdefault(file.path.absolute(), file)
    return list(found.values())


def _standard_input(copy: Path) -> SourceFile:
    with copy.open("wb") as stream:
        shutil.copyfileobj(sys.stdin.buffer, stream)
    return SourceFile(copy, "stdin", "-", copy.stat().st_size)


def _expand(source: str) -> Iterator[SourceFile]:
    path = Path(source)
    if path.exists():
        yield from _walk(path, path, path if path.is_dir() else path.parent)
        return
    fixed = Path(*takewhile(lambda part: not GLOB.search(part), path.parts))
    try:
        matches = sorted(fixed.glob(str(path.relative_to(fixed)))) if fixed != path else []
    except ValueError:  # `**` beside other letters
        matches = []
    if not matches:
        raise SettingError("there is no such file or folder", where=source, cure="check the spelling; patterns want quotes")
    for match in matches:
        yield from _walk(match, fixed, fixed)


def _walk(path: Path, root: Path, base: Path) -> Iterator[SourceFile]:
    """A file, or a folder's files by name. Links to folders are not followed, so there are no loops."""
    name, label = (os.fsencode(text).decode("utf-8", "replace") for text in (path.relative_to(base), path))
    file = SourceFile(path, name, label)
    try:
        if path != root and path.name.startswith("."):
            yield replace(file, reason="hidden")
        elif path != root and path.is_symlink() and (path.is_dir() or not path.resolve().is_relative_to(root.resolve())):
            yield replace(file, reason="outside_link")
        elif path.is_dir():
            for entry in sorted(path.iterdir()):
                yield from _walk(entry, root, base)
        else:  # a broken link, a socket or a device is no file
            yield replace(file, bytes=path.stat().st_size) if path.is_file() else replace(file, reason="unreadable")
    except (OSError, RuntimeError):  # RuntimeError: a link to itself
        yield replace(file, reason="unreadable")


def standard_library_sources() -> list[str]:
    """The Python files of this Python's standard library, without tests and installed packages: real text on every machine."""
    root = Path(sysconfig.get_path("stdlib"))
    return [str(path) for path in sorted(root.rglob("*.py")) if not NOT_LIBRARY.intersection(path.relative_to(root).parts)]
