"""Files are whole or absent, whatever goes wrong while they are written; damage is found."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from foretell.base.errors import CapacityError, DataError, SettingError
from foretell.base.files import (
    SEAL,
    atomic_path,
    damaged_files,
    digest,
    read_text,
    remove,
    require_new,
    seal,
    sweep_partial,
    write_text,
)

NOBODY = 65534


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder in which this process may not write, with one that it may not even search; root becomes nobody for the while."""
    was_root = os.geteuid() == 0
    with TemporaryDirectory() as name:  # not tmp_path, which lies in a folder that only its owner may enter
        folder = Path(name) / "closed"
        (folder / "unsearchable").mkdir(parents=True)
        for path, mode in ((folder / "unsearchable", 0o000), (folder, 0o555), (folder.parent, 0o755)):
            path.chmod(mode)
        if was_root:
            os.seteuid(NOBODY)
        yield folder
        if was_root:
            os.seteuid(0)
        for path in (folder, folder / "unsearchable"):
            path.chmod(0o700)


def test_a_file_appears_whole_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomic_path(path) as partial:
        partial.write_text("half", encoding="utf-8")
        assert not path.exists()
    write_text(path, "whole →\n")
    assert path.read_bytes() == "whole →\n".encode()
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_folder_appears_whole_under_its_name(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "folder") as partial:
        (partial / "deep").mkdir(parents=True)
        (partial / "deep" / "file").write_bytes(b"x")
        assert os.listdir(tmp_path) == [partial.name]
    assert (tmp_path / "folder" / "deep" / "file").read_bytes() == b"x"
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [ValueError("odd"), KeyboardInterrupt(), DataError("odd", where="x", cure="y")])
@pytest.mark.parametrize("is_folder", [True, False])
def test_a_failure_leaves_nothing_and_keeps_the_old(tmp_path: Path, error: BaseException, is_folder: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(type(error)) as caught, atomic_path(path) as partial:
        if is_folder:
            partial.mkdir()
        (partial / "x" if is_folder else partial).write_text("new", encoding="utf-8")
        raise error
    assert caught.value is error
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_text(encoding="utf-8") == "old"


def test_a_full_disk_keeps_the_old_and_says_so(small_disk: Path) -> None:
    path = small_disk / "file"
    write_text(path, "old")
    with pytest.raises(CapacityError, match="the disk is full") as caught:
        write_text(path, "x" * 10**6)
    assert caught.value.exit_code == 3
    assert caught.value.where == f"{path} (60 KiB free)"
    assert os.listdir(small_disk) == ["file"]
    assert path.read_text(encoding="utf-8") == "old"


def test_a_full_disk_is_known_from_a_library_that_only_tells_it(tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match="the disk is full"), atomic_path(tmp_path / "new" / "file"):
        raise RuntimeError("safetensors: I/O error: No space left on device (os error 28)")


def test_no_permission_to_write_is_explained(closed_folder: Path) -> None:
    for path in (closed_folder / "file", closed_folder / "new" / "file", closed_folder / "unsearchable" / "file"):
        with pytest.raises(SettingError, match="cannot write here: Permission denied") as caught:
            write_text(path, "x")
        assert caught.value.where == str(path)
        assert "--out" in caught.value.cure
    with pytest.raises(SettingError, match="cannot write here: Permission denied"):
        require_new(closed_folder / "unsearchable" / "file")


def test_a_file_in_the_way_of_a_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path / "file" / "inner", tmp_path / "file" / "deeper" / "inner"):
        with pytest.raises(SettingError, match="cannot write here"):
            write_text(path, "x")
    assert (tmp_path / "file").read_bytes() == b"x"


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file"):
        pass  # nothing was written


def test_reading_explains_what_is_wrong(tmp_path: Path) -> None:
    write_text(tmp_path / "good", "é\n")
    assert read_text(tmp_path / "good") == "é\n"
    with pytest.raises(DataError, match="gone is missing"):
        read_text(tmp_path / "gone")
    (tmp_path / "bad").write_bytes(b"\xff")
    with pytest.raises(DataError, match="cannot read the file: 'utf-8' codec"):
        read_text(tmp_path / "bad")
    with pytest.raises(DataError, match=r"cannot read the file: .*directory"):
        read_text(tmp_path)


def test_only_a_new_or_empty_place_is_taken(tmp_path: Path) -> None:
    require_new(tmp_path / "new")
    require_new(tmp_path)
    (tmp_path / "corpus").mkdir()
    require_new(tmp_path, {"corpus"})
    (tmp_path / "file").write_bytes(b"")
    for path, besides in ((tmp_path, {"corpus"}), (tmp_path / "file", set[str]())):
        with pytest.raises(SettingError, match="already exists") as caught:
            require_new(path, besides)
        assert caught.value.where == str(path)
        assert "--out" in caught.value.cure


def test_what_a_kill_left_behind_is_swept(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".partial-7-step").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".partial-7-step" / ".partial-8-inner").write_bytes(b"x")
    (tmp_path / ".partial-7-file").write_bytes(b"x")
    (tmp_path / "kept").write_bytes(b"x")
    sweep_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "kept"]


def test_removing_a_link_keeps_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove(tmp_path / "link")
    remove(tmp_path / "never there")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_seal_finds_one_flipped_bit(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    content = bytearray(os.urandom(3 * 2**20))
    (tmp_path / "deep" / "weights").write_bytes(content)
    (tmp_path / "small").write_bytes(b"x")
    (tmp_path / "README.md").write_text("a person may edit this", encoding="utf-8")
    assert damaged_files(tmp_path) == []  # not sealed: nothing to compare
    seal(tmp_path)
    (tmp_path / "README.md").write_text("edited", encoding="utf-8")
    assert damaged_files(tmp_path) == []
    content[2**21] ^= 4
    (tmp_path / "deep" / "weights").write_bytes(content)
    assert damaged_files(tmp_path) == ["deep/weights is damaged"]
    (tmp_path / "small").unlink()
    assert damaged_files(tmp_path) == ["deep/weights is damaged", "small is missing"]
    (tmp_path / SEAL).write_text("{", encoding="utf-8")
    assert damaged_files(tmp_path) == [f"{SEAL} cannot be read"]


def test_a_digest_is_sha_256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
