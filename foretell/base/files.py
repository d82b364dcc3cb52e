"""Files that are either whole or absent: written to a temporary name, synced, renamed; with digests."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from foretell.base.errors import CapacityError, DataError, ForetellError, SettingError

TEMPORARY_PREFIX = ".partial-"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`, on failure remove it.

    Works for a file and for a whole folder (the folder must not exist yet under its final name).
    Raises CapacityError on a full disk, SettingError without write permission.
    """
    partial = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    with translated_write_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _sync(partial)
            os.replace(partial, path)
            _sync_one(path.parent)
        except BaseException:
            remove(partial)
            raise


@contextlib.contextmanager
def translated_write_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's write errors into errors that name the cure."""
    try:
        yield
    except ForetellError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            raise full_disk(path) from error
        if code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise SettingError(
                f"cannot write here: {os.strerror(code)}",
                where=str(path),
                cure="choose another folder with --out, or change the permissions of this one",
            ) from error
        raise


def full_disk(path: Path) -> CapacityError:
    """The error of a full disk: how much is free where, and that nothing old was touched."""
    return CapacityError(
        "the disk is full; what was saved before is untouched",
        where=f"{path} ({free_bytes(path) / 2**20:.0f} MiB free)",
        cure="free some space there, or choose a folder on another disk with --out",
    )


def free_bytes(path: Path) -> int:
    """Bytes free on the disk that holds `path` (or its nearest existing parent)."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def write_text(path: Path, text: str) -> None:
    """Write a whole text file atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def read_text(path: Path) -> str:
    """Read a UTF-8 text file that must be there. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError("a file is missing", where=str(path), cure="check the path") from error
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"cannot read the file: {error}", where=str(path), cure="check that it is readable UTF-8") from error


def digest(path: Path) -> str:
    """SHA-256 of a file as hex, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sweep_partial(folder: Path) -> None:
    """Remove what a killed process left half-written in a folder that only we write to."""
    for stale in folder.glob(f"{TEMPORARY_PREFIX}*"):
        remove(stale)


def require_new(path: Path, flag: str = "--out") -> None:
    """Refuse to write over something that exists. Raises SettingError."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SettingError(
            "this already exists, and nothing is ever overwritten",
            where=str(path),
            cure=f"give another name with {flag}, or remove it first",
        )


def _sync(path: Path) -> None:
    for item in [*path.rglob("*"), path] if path.is_dir() else [path]:
        _sync_one(item)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


SEAL = "digests.json"


def seal(folder: Path) -> None:
    """Write the digests of a folder's files, so that a flipped bit is found when they are read."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    digests = {path.relative_to(folder).as_posix(): digest(path) for path in files}
    (folder / SEAL).write_text(json.dumps(digests, indent=1), encoding="utf-8")


def damaged_files(folder: Path) -> list[str]:
    """What is wrong with a sealed folder, file by file; an unsealed folder (somebody else's) has nothing to compare."""
    if not (folder / SEAL).exists():
        return []
    try:
        digests: dict[str, str] = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except ValueError:
        return [f"{SEAL} cannot be read"]
    found = {name: folder / name for name in digests}
    missing = [f"{name} is missing" for name, path in found.items() if not path.is_file()]
    return missing + [f"{name} is damaged" for name, path in found.items() if path.is_file() and digest(path) != digests[name]]
