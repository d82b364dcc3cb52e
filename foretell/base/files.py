"""Files that are either whole or absent: written to a temporary name, synced, renamed; with digests."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from foretell.base.errors import CapacityError, DataError, SettingError
from foretell.base.units import size

TEMPORARY_PREFIX = ".partial-"
SEAL, LOCK = "digests.json", "lock"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`, on failure remove it.

    Works for a file and for a new folder. Raises CapacityError on a full disk, SettingError without write permission.
    """
    partial = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    with translated_write_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            for item in (*partial.rglob("*"), partial):
                _sync(item)
            os.replace(partial, path)
            _sync(path.parent)
        except BaseException:
            remove(partial)
            raise


@contextlib.contextmanager
def translated_write_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's write errors into errors that name the cure."""
    try:
        yield
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            free = shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free
            where, cure = f"{path} ({size(free)} free)", "free some space there, or choose a folder on another disk with --out"
            raise CapacityError("the disk is full; what was saved before is untouched", where=where, cure=cure) from error
        if code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            cure = "choose another folder with --out, or change the permissions of this one"
            raise SettingError(f"cannot write here: {os.strerror(code)}", where=str(path), cure=cure) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a whole text file atomically."""
    with atomic_path(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def read_text(path: Path) -> str:
    """Read a UTF-8 text file that must be there. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        what = f"{path.name} is missing" if isinstance(error, FileNotFoundError) else f"cannot read the file: {error}"
        raise DataError(what, where=str(path), cure="check the path, and that it is readable UTF-8") from error


def digest(path: Path) -> str:
    """SHA-256 of a file as hex, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where what can be made again is kept between runs: FORETELL_HOME, or a folder in the user's cache."""
    return Path(os.environ.get("FORETELL_HOME") or Path.home() / ".cache" / "foretell")


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sweep_partial(folder: Path) -> None:
    """Remove what a killed process left half-written anywhere in a folder that only we write to."""
    for stale in list(folder.rglob(f"{TEMPORARY_PREFIX}*")):
        remove(stale)


def require_new(path: Path, besides: Collection[str] = (), cure: str = "give another name with --out, or remove it first") -> None:
    """Refuse to write over anything that exists `besides` these names in a folder. Raises SettingError."""
    with translated_write_errors(path):
        taken = path.exists() and (not path.is_dir() or any(item.name not in besides for item in path.iterdir()))
    if taken:
        raise SettingError("this already exists, and nothing is ever overwritten", where=str(path), cure=cure)


@contextlib.contextmanager
def only_writer(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a folder's lock while it is written; `shared` with others that ask for it so. Raises SettingError if it is held."""
    import fcntl

    with translated_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("a")
    with stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            cure = "wait until the other one has finished, or give another name with --out"
            raise SettingError("another process is writing here at this moment", where=str(folder), cure=cure) from error
        yield


def seal(folder: Path) -> None:
    """Write the digests of a folder's files, so that a flipped bit is found when they are read."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    digests = {path.relative_to(folder).as_posix(): digest(path) for path in files}
    (folder / SEAL).write_text(json.dumps(digests, indent=1), encoding="utf-8")


def damaged_files(folder: Path) -> list[str]:
    """What is wrong with a sealed folder, file by file; an unsealed folder (somebody else's) has nothing to compare."""
    try:
        digests: dict[str, str] = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError:
        return [f"{SEAL} cannot be read"]
    found = {name: digest(folder / name) if (folder / name).is_file() else None for name in digests}
    return [f"{name} is {'damaged' if found[name] else 'missing'}" for name in digests if found[name] != digests[name]]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
