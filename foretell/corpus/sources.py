"""Which files a SOURCE means: files, folders, globs, datasets and standard input, in a fixed order, the rest with its reason."""

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path

from foretell.base.errors import SettingError
from foretell.corpus.document import Dropped, document_id

HUB = "hf:"
NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(slots=True)
class SourceFile:
    """A file to read, or to pass over for a reason. name: relative to its SOURCE. label: as given. sha256: once it was read."""

    path: Path
    name: str
    label: str
    bytes: int = 0
    reason: str | None = None
    sha256: str | None = None

    @property
    def remote(self) -> bool:
        """It lies on the Hugging Face Hub, and there is no file at its path."""
        return self.label.startswith(HUB)

    def dropped(self, reason: str, excerpt: str = "", size_bytes: int | None = None) -> Dropped:
        """The whole file, or `size_bytes` of it, as left out."""
        return Dropped(
            document_id(self.name, 0, b""), self.label, reason, excerpt, self.bytes if size_bytes is None else size_bytes
        )


def find_files(sources: Sequence[str], scratch: Path) -> list[SourceFile]:
    """All files that the sources mean, each once. Standard input is copied into `scratch`; SettingError where a path is missing."""
    found: dict[Path, SourceFile] = {}
    for source in sources:
        for file in [_standard_input(scratch / "stdin")] if source == "-" else _expand(source):
            found.setdefault(file.path.absolute(), file)
    return list(found.values())


def standard_library_sources() -> list[str]:
    """The Python files of this Python's standard library, without tests and installed packages: real text on every machine."""
    root = Path(sysconfig.get_path("stdlib"))
    return [str(path) for path in sorted(root.rglob("*.py")) if not NOT_LIBRARY.intersection(path.relative_to(root).parts)]


def _standard_input(copy: Path) -> SourceFile:
    with copy.open("wb") as stream:
        shutil.copyfileobj(sys.stdin.buffer, stream)
    return SourceFile(copy, "stdin", "-", copy.stat().st_size)


def _expand(source: str) -> Iterator[SourceFile]:
    """A file, a folder, a dataset of the Hub, or what a shell would make of a pattern."""
    if source.startswith(HUB):
        if "/" not in source:
            raise SettingError(
                "this is no dataset of the Hub", where=source, cure="write hf:owner/name, then /configuration and :split"
            )
        yield SourceFile(Path(source), source, source)
        return
    paths = [source] if Path(source).exists() else sorted(glob(source, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not paths:
        raise SettingError("there is no such file or folder", where=source, cure="check the spelling; patterns want quotes")
    for path in map(Path, paths):
        yield from _walk(path, path)


def _walk(path: Path, root: Path) -> Iterator[SourceFile]:
    """A file, or a folder's files by name. Links to folders are not followed, so there are no loops."""
    relative = path.relative_to(root) if path != root else path.name
    name, label = (os.fsencode(text).decode("utf-8", "replace") for text in (relative, path))
    file = SourceFile(path, name, label)
    try:
        if path != root and path.name.startswith("."):
            yield replace(file, reason="hidden")
        elif path.is_symlink() and (not path.exists() or (path != root and _leads_out(path, root))):
            yield replace(file, reason="outside_link")
        elif path.is_dir():
            for entry in _corpus_files(path) or _dataset_files(path) or sorted(path.iterdir()):
                yield from _walk(entry, root)
        else:  # a socket or a device is no file
            yield replace(file, bytes=path.stat().st_size) if path.is_file() else replace(file, reason="unreadable")
    except OSError:
        yield replace(file, reason="unreadable")


def _leads_out(link: Path, root: Path) -> bool:
    return link.is_dir() or not link.resolve().is_relative_to(root.resolve())


def _corpus_files(folder: Path) -> list[Path]:
    """The documents of a corpus folder, whose other files tell of them or hold their text once more."""
    return sorted(folder.glob("documents-*.jsonl.zst")) if (folder / "manifest.json").is_file() else []


def _dataset_files(folder: Path) -> list[Path]:
    """The files of a dataset that the library `datasets` saved, in its order; of several splits, their folders."""
    try:
        if (folder / "dataset_dict.json").exists():
            names = json.loads((folder / "dataset_dict.json").read_bytes())["splits"]
        else:
            names = [file["filename"] for file in json.loads((folder / "state.json").read_bytes())["_data_files"]]
        return [folder / name for name in names if Path(name).name == name]
    except (OSError, ValueError, TypeError, LookupError):
        return []
