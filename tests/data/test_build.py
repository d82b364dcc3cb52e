"""Building and adding: the same bytes with any number of workers, after a kill and on a full disk; old tokens never move."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from foretell.base.console import Terminal
from foretell.base.errors import CapacityError, DataError, SettingError
from foretell.base.files import translated_write_errors
from foretell.corpus.document import Document
from foretell.data import build as building
from foretell.data import encode as encoding
from foretell.data.batches import TrainBatches
from foretell.data.build import append_shards, write_shards
from foretell.data.config import DataSettings
from foretell.data.held_out import Survey
from foretell.data.shards import ShardReader
from foretell.tokenizers.tokenizer import Tokenizer

from .conftest import MakeShards

QUIET = Terminal(stream=StringIO())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write(documents: list[Document], out: Path, tokenizer: Tokenizer, workers: int = 1) -> None:
    write_shards(lambda: iter(documents), tokenizer, out, DataSettings(held_out=0.2), QUIET, workers)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "GROUP_CHARACTERS", 1000)
    monkeypatch.setattr(encoding, "FEW", 10)
    monkeypatch.setattr(encoding, "LONG_SECONDS", -1)


@pytest.mark.usefixtures("small_groups")
def test_the_same_bytes_with_any_number_of_workers(tmp_path: Path, documents: list[Document], tokenizer: Tokenizer) -> None:
    write(documents, tmp_path / "alone", tokenizer)
    write(documents, tmp_path / "many", tokenizer, workers=2)
    assert contents(tmp_path / "alone") == contents(tmp_path / "many")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "many"]


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("held_out", [0.2, 0.001])
def test_a_killed_build_goes_on(
    tmp_path: Path, documents: list[Document], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, held_out: float
) -> None:
    """0.001: the ends of documents are held out, for which all is read again."""
    settings, calls, killed_after = DataSettings(held_out=held_out), list[int](), 12
    alive = False
    encode = Tokenizer.encode_batch

    def counting(self: Tokenizer, texts: list[str]) -> object:
        calls.append(len(texts))
        if not alive and len(calls) == killed_after:
            raise KeyboardInterrupt
        return encode(self, texts)

    write_shards(lambda: iter(documents), tokenizer, tmp_path / "undisturbed", settings, QUIET, 1)
    monkeypatch.setattr(Tokenizer, "encode_batch", counting)
    with pytest.raises(KeyboardInterrupt):
        write_shards(lambda: iter(documents), tokenizer, tmp_path / "out", settings, QUIET, 1)
    alive = True
    assert not (tmp_path / "out").exists()
    first = sorted((tmp_path / ".building-out").glob("*.npz"))
    assert 0 < len(first) == len(calls) - 1  # one group is encoded ahead
    at_kill = len(calls)
    first[0].write_bytes(first[0].read_bytes()[:-30])  # not even a damaged file there does harm
    write_shards(lambda: iter(documents), tokenizer, tmp_path / "out", settings, QUIET, 1)
    groups = len(calls) - at_kill + len(first) - 1
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    calls.clear()
    write_shards(lambda: iter(documents), tokenizer, tmp_path / "third", settings, QUIET, 1)
    assert len(calls) == groups  # what the kill had left was not encoded again, but for the damaged one
    assert not list(tmp_path.glob(".*"))


def test_two_builds_of_one_folder(tmp_path: Path, documents: list[Document], tokenizer: Tokenizer) -> None:
    (tmp_path / ".building-out").mkdir()
    with (tmp_path / ".building-out" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SettingError, match="another process is writing here") as caught:
            write(documents, tmp_path / "out", tokenizer)
        assert str(caught.value).count("\n") == 2
    write(documents, tmp_path / "out", tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_another_tokenizer_s_work_is_not_taken(tmp_path: Path, documents: list[Document], tokenizer: Tokenizer) -> None:
    other = tokenizer.with_special_tokens(["<|extra|>"])
    with pytest.raises(KeyboardInterrupt), encoding.work_folder(tmp_path / "out") as work:
        task, paths = next(encoding.tasks(documents, Survey(0.2).guess())), []
        for which in (tokenizer, other):
            which.save(work / "tokenizer")
            paths.append(encoding.encode_group(work, which.fingerprint, "<u2", task)[2])
        assert len(set(paths)) == 2
        raise KeyboardInterrupt
    assert (tmp_path / ".building-out").is_dir()


def test_a_full_disk_keeps_what_was_encoded(
    tmp_path: Path, documents: list[Document], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: building.SplitWriter, group: encoding.Group) -> None:
        with translated_write_errors(tmp_path):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(building.SplitWriter, "add", full)
        with pytest.raises(CapacityError, match="disk is full"):
            write(documents, tmp_path / "out", tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == [".building-out"]
    write(documents, tmp_path / "out", tokenizer)
    ShardReader(tmp_path / "out").verify()


def test_adding_keeps_old_tokens_where_they_are(make_shards: MakeShards, documents: list[Document]) -> None:
    before = make_shards(documents[:120], held_out=0.2)
    batches, tokens = TrainBatches(before.train, 1, 16), before.train.read(0, before.train.tokens)
    expected = batches.batch(0, 50).tokens_BT
    manifest, added = append_shards(lambda: iter([*documents[100:], documents[-1]]), before.path, QUIET, 1)
    assert added == len(documents) - 120
    after = ShardReader(before.path)
    after.verify()
    assert (after.manifest, after.manifest.version) == (manifest, 2)
    assert np.array_equal(after.train.read(0, len(tokens)), tokens)
    assert sum(split.documents for split in (after.train, after.held_out)) == len(documents)
    assert manifest.held_out.characters == sum(len(document.text) for document in documents)
    assert (batches.batch(0, 50).tokens_BT == expected).all()  # a run that goes on with the old state
    before.verify()
    whole = make_shards(documents, held_out=0.2)
    assert sorted(after.held_out.identities) == sorted(whole.held_out.identities)
    older = ShardReader(before.path, before.state)
    older.verify()
    assert (older.state, older.manifest, older.train.tokens) == (before.state, before.manifest, len(tokens))
    assert ShardReader(before.path, "unknown").state == after.state != before.state


def test_nothing_new_changes_nothing(make_shards: MakeShards, documents: list[Document]) -> None:
    reader = make_shards(documents)
    was = contents(reader.path)
    assert append_shards(lambda: iter(documents), reader.path, QUIET, 1) == (reader.manifest, 0)
    assert contents(reader.path) == was


@pytest.mark.usefixtures("small_groups")
def test_an_addition_that_fails_or_was_killed_leaves_the_old_state(make_shards: MakeShards, documents: list[Document]) -> None:
    reader = make_shards(documents[:100])
    was = contents(reader.path)

    def broken() -> Iterator[Document]:
        yield from documents
        raise DataError("the text cannot be read", where="x", cure="y")

    with pytest.raises(DataError, match="cannot be read"):
        append_shards(broken, reader.path, QUIET, 1)
    assert contents(reader.path) == was
    with (reader.path / "train-tokens.bin").open("ab") as stream:
        stream.write(b"left by a killed process")
    ShardReader(reader.path).verify()
    append_shards(lambda: iter(documents), reader.path, QUIET, 1)
    ShardReader(reader.path).verify()
    assert not list(reader.path.parent.glob(".*"))


def test_nothing_is_added_to_damaged_shards(make_shards: MakeShards, documents: list[Document]) -> None:
    reader = make_shards(documents[:100])
    content = bytearray((reader.path / "train-tokens.bin").read_bytes())
    content[8] ^= 1
    (reader.path / "train-tokens.bin").write_bytes(content)
    with pytest.raises(DataError, match="has changed"):
        append_shards(lambda: iter(documents), reader.path, QUIET, 1)


def test_of_ends_nothing_more_is_held_out(make_shards: MakeShards, documents: list[Document]) -> None:
    reader = make_shards(documents[:1])
    assert reader.manifest.held_out.ends
    append_shards(lambda: iter(documents), reader.path, QUIET, 1)
    after = ShardReader(reader.path)
    assert after.held_out.tokens == reader.held_out.tokens
    assert after.train.documents == len(documents)


SCRIPT = """
import sys
from pathlib import Path
from foretell.base.console import Terminal
from foretell.corpus.document import Document
from foretell.data import build, encode
from foretell.data.config import DataSettings
from foretell.tokenizers.tokenizer import Tokenizer

def main():
    encode.GROUP_CHARACTERS, encode.FEW, encode.LONG_SECONDS = 20_000, 4, -1
    lines = [f"{number} times {number} is {number * number}\\n" for number in range(100_000)]
    documents = [Document(f"{start:016x}", "".join(lines[start : start + 100]), "lines") for start in range(0, len(lines), 100)]
    tokenizer, out, workers = Tokenizer.load(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
    build.write_shards(lambda: documents, tokenizer, out, DataSettings(), Terminal(quiet=True), workers)

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_build_that_is_killed_goes_on_with_another_number_of_workers(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """SIGKILL to all its processes, at several moments; the same bytes in the end."""
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "tokenizer")]
    subprocess.run([*command, str(tmp_path / "whole"), "1"], check=True)
    for workers, files in ((2, 10), (1, 40), (2, 90)):
        process = subprocess.Popen([*command, str(tmp_path / "out"), str(workers)], start_new_session=True)
        while process.poll() is None and len(list((tmp_path / ".building-out").glob("*.npz"))) < files:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
    subprocess.run([*command, str(tmp_path / "out"), "2"], check=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / ".building-out").exists()
