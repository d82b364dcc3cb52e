"""A build goes on where it was killed, and gives the same bytes whoever does it."""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from foretell.base.console import Terminal
from foretell.base.errors import DataError, SettingError
from foretell.base.files import digest, only_writer
from foretell.corpus import assemble, chunks
from foretell.corpus.chunks import Chunk, planned
from foretell.corpus.config import CorpusSettings
from foretell.corpus.sources import find_files
from foretell.corpus.store import read_documents, read_dropped
from foretell.jobs.corpus import Engine, build_corpus, chosen_engine, require_readable

BUILD = """
import sys
from pathlib import Path
from foretell.base.console import Terminal
from foretell.corpus import chunks
from foretell.corpus.config import CorpusSettings
from foretell.jobs.corpus import Engine, build_corpus
chunks.CHUNK_BYTES = 20_000
if __name__ == "__main__":
    source, out, workers = sys.argv[1:]
    build_corpus([source], Path(out), CorpusSettings(), Terminal(quiet=True), engine=Engine(workers=int(workers)))
"""


@pytest.fixture
def pile(text_folder: Path) -> Path:
    """Small files beside one that is cut into many chunks, with copies of what stood before."""
    texts = [path.read_text() for path in sorted(text_folder.glob("*.txt"))]
    records = [json.dumps({"text": text[start : start + 1500]}) for text in texts for start in range(0, len(text), 700)]
    (text_folder / "large.jsonl").write_text("\n".join([*records, *records[:20]]))
    return text_folder


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 20_000)
    monkeypatch.setattr(assemble, "PART_BYTES", 60_000)


def built(source: Path, out: Path, engine: Engine | None = None, **settings: Any) -> dict[str, str]:
    """File → digest of a corpus, but for the report."""
    build_corpus([str(source)], out, CorpusSettings(**settings), Terminal(quiet=True), engine=engine or Engine(workers=1))
    return {path.name: digest(path) for path in out.iterdir()}


@pytest.mark.usefixtures("small_chunks")
def test_shares_and_interruptions_give_the_same_bytes(pile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = built(pile, tmp_path / "whole")
    assert len([name for name in whole if name.startswith("documents")]) > 2
    for share in ((1, 3), (3, 3)):
        build_corpus(
            [str(pile)], tmp_path / "shared", CorpusSettings(), Terminal(quiet=True), engine=Engine(workers=1, share=share)
        )
    assert not (tmp_path / "shared").exists()
    made: list[Path] = []
    work = chunks_made(monkeypatch, made.append)
    assert built(pile, tmp_path / "shared") == whole
    assert 0 < len(made) < len(list(planned(find_files([str(pile)], tmp_path), CorpusSettings()))) / 2
    for stop_after in (1, 4):
        monkeypatch.setattr("foretell.jobs.corpus.work", interrupted(work, stop_after))
        with pytest.raises(KeyboardInterrupt):
            built(pile, tmp_path / "interrupted")
    monkeypatch.setattr("foretell.jobs.corpus.work", work)
    assert built(pile, tmp_path / "interrupted") == whole
    assert not list(tmp_path.glob(".building-*"))


def chunks_made(monkeypatch: pytest.MonkeyPatch, tell: Callable[[Any], None]) -> Callable[..., int]:
    from foretell.corpus.work import work

    def told(chunk: Chunk, **named: Any) -> int:
        tell(chunk)
        return work(chunk, **named)

    monkeypatch.setattr("foretell.jobs.corpus.work", told)
    return told


def interrupted(work: Callable[..., int], after: int) -> Callable[..., int]:
    left = after

    def function(chunk: Chunk, **named: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return work(chunk, **named)

    return function


def test_two_workers_killed_and_continued_give_what_one_gives(pile: Path, tmp_path: Path) -> None:
    script = tmp_path / "build.py"
    script.write_text(BUILD)

    def start(out: str, workers: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(script), str(pile), str(tmp_path / out), str(workers)]
        return subprocess.Popen(command, start_new_session=True)

    assert start("one", 1).wait() == 0
    process = start("two", 2)
    while not list(tmp_path.glob(".building-two/chunks/*/mark.json")) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert start("two", 2).wait() == 0
    one, two = ({path.name: digest(path) for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


@pytest.mark.slow
def test_ten_kills_inside_large_files_change_no_byte(data_folder: Path, tmp_path: Path) -> None:
    """40 MB of JSON lines, which workers enter in the middle, and as much in a gzip stream, which they cannot."""
    script, source, random = tmp_path / "build.py", tmp_path / "source", Random(0)
    script.write_text(BUILD.replace("20_000", "2_000_000"))
    source.mkdir()
    texts = [book.read_text() for book in sorted((data_folder / "books").glob("*.md"))]
    records = [json.dumps({"text": text[at : at + 3000]}) for text in texts for at in range(0, len(text), 3000)]
    (source / "a.jsonl").write_text("\n".join(records[: len(records) // 2]))
    with gzip.open(source / "b.jsonl.gz", "wt", compresslevel=1) as stream:
        stream.write("\n".join(records[len(records) // 2 :]))

    def start(out: str, workers: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(script), str(source), str(tmp_path / out), str(workers)]
        return subprocess.Popen(command, start_new_session=True)

    assert start("one", 1).wait() == 0
    marks: list[int] = []
    while len(marks) < 10:
        process, target = start("two", 2), (marks[-1] if marks else 0) + random.randint(1, 3)
        while len(found := list(tmp_path.glob(".building-two/chunks/*/mark.json"))) < target and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None, "the build ended before it was killed ten times"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        marks.append(len(found))
    assert marks == sorted(marks) and marks[-1] >= 10
    assert start("two", 2).wait() == 0
    one, two = ({path.name: digest(path) for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


@pytest.mark.usefixtures("small_chunks")
def test_shuffling_moves_documents_and_loses_none(pile: Path, tmp_path: Path) -> None:
    built(pile, tmp_path / "as they are")
    first = built(pile, tmp_path / "shuffled", shuffle=1)
    assert first == built(pile, tmp_path / "again", shuffle=1)
    assert first != built(pile, tmp_path / "other", shuffle=2)
    plain, mixed = ([document.id for document in read_documents(tmp_path / name)] for name in ("as they are", "shuffled"))
    assert plain != mixed
    assert sorted(plain) == sorted(mixed)


@pytest.mark.usefixtures("small_chunks")
def test_copies_name_what_stays_wherever_it_lies(pile: Path, tmp_path: Path) -> None:
    built(pile, tmp_path / "corpus")
    kept = {document.id for document in read_documents(tmp_path / "corpus")}
    copies = [item for item in read_dropped(tmp_path / "corpus") if item.reason == "exact_duplicate"]
    assert len(copies) >= 20
    assert {item.duplicate_of for item in copies} <= kept


@pytest.mark.usefixtures("small_chunks")
def test_repeated_lines_and_sequences_go_once_all_is_known(tmp_path: Path) -> None:
    notice = "This very notice is repeated in each of the letters, whoever wrote them."
    source = tmp_path / "letters"
    source.mkdir()
    for number in range(3):
        body = " ".join(f"Letter {number} says {number * 37 + word} of its own." for word in range(60))
        (source / f"{number}.txt").write_text(f"{body}\n{notice}\n{body[::-1]}")
    for settings in ({"duplicate_lines": "line"}, {"substring_bytes": 60}):
        out = tmp_path / next(iter(settings))
        built(source, out, **settings)
        texts = [document.text for document in read_documents(out)]
        assert [notice in text for text in texts] == [True, False, False]
        assert all(document.metadata["repeated_characters"] >= 60 for document in list(read_documents(out))[1:])


def test_a_file_that_changes_meanwhile_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foretell.corpus import work as module

    source = tmp_path / "source"
    source.mkdir()
    for name in ("rests", "moves"):
        (source / f"{name}.txt").write_text(f"This is the file that {name} while it is being read.")
    real = module.records

    def records(file: Any, *rest: Any) -> Any:
        yield from real(file, *rest)
        if file.path.name == "moves.txt":
            file.path.write_text("Something else altogether stands here now, and it is longer than before.")

    monkeypatch.setattr(module, "records", records)
    built(source, tmp_path / "out")
    assert [Path(document.source).name for document in read_documents(tmp_path / "out")] == ["rests.txt"]
    assert [item.reason for item in read_dropped(tmp_path / "out")] == ["changed"]


def test_two_builds_into_one_folder_refuse_each_other(pile: Path, tmp_path: Path) -> None:
    with only_writer(tmp_path / ".building-out"), pytest.raises(SettingError, match="another process"):
        built(pile, tmp_path / "out")
    assert built(pile, tmp_path / "out")


def test_unreadable_files_are_told_at_the_end(pile: Path, tmp_path: Path) -> None:
    (pile / "cut.txt.gz").write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\0half of it")
    settings = CorpusSettings()
    manifest = build_corpus([str(pile)], tmp_path / "out", settings, Terminal(quiet=True))
    with pytest.raises(DataError, match="damaged_gzip 1") as caught:
        require_readable(manifest, tmp_path / "out")
    assert "corpus.max_bad=1" in caught.value.cure
    require_readable({**manifest, "settings": {"max_bad": 1}}, tmp_path / "out")
    assert list(read_documents(tmp_path / "out"))


def test_the_plan_does_not_depend_on_what_is_done(pile: Path, tmp_path: Path) -> None:
    files = find_files([str(pile)], tmp_path)
    first, second = (list(planned([replace(file) for file in files], CorpusSettings())) for _ in range(2))
    assert [chunk.fingerprint for chunk in first] == [chunk.fingerprint for chunk in second]
    other = list(planned(files, CorpusSettings(min_characters=30)))
    assert {chunk.fingerprint for chunk in first}.isdisjoint(chunk.fingerprint for chunk in other)
    assert sum(chunk.source_bytes for chunk in first) == sum(file.bytes for file in files)


def test_whatever_decides_the_outcome_is_in_a_chunks_name(pile: Path, tmp_path: Path) -> None:
    (words := tmp_path / "words.txt").write_text("zebra")

    def names(*, sample_bytes: int | None = None, **settings: Any) -> set[str]:
        files = find_files([str(pile)], tmp_path)
        return {chunk.fingerprint for chunk in planned(files, CorpusSettings(bad_words=words, **settings), sample_bytes)}

    before = names()
    assert before == names() == names(memory_bytes=2**30, max_bad=3)
    assert before.isdisjoint(names(extractor="fast") | names(rules=("c4",)))
    assert before != names(sample_bytes=20_000)
    words.write_text("giraffe")
    assert before.isdisjoint(names())


def test_a_list_of_words_that_changed_is_read_again(tmp_path: Path) -> None:
    source, words = tmp_path / "source", tmp_path / "words.txt"
    source.mkdir()
    for name in ("zebra", "giraffe"):
        (source / f"{name}.txt").write_text(f"The {name} stands in a field of its own and looks around for the others.")
    for name, other in (("zebra", "giraffe"), ("giraffe", "zebra")):
        words.write_text(name)
        built(source, tmp_path / name, bad_words=words)
        assert [Path(document.source).stem for document in read_documents(tmp_path / name)] == [other]


@pytest.mark.parametrize("share", ["0/3", "4/3", "1", "a/b", "-1/3"])
def test_a_wrong_share_is_refused(share: str) -> None:
    with pytest.raises(SettingError, match="no share"):
        chosen_engine("local", None, None, share)


@pytest.mark.slow
@pytest.mark.usefixtures("small_chunks")
def test_ray_gives_the_same_bytes(pile: Path, tmp_path: Path) -> None:
    """Also when one of its workers is killed, as soon as the first chunk is there; with several parts to settle."""
    pytest.importorskip("ray")
    killed = list[int]()

    def kill_one() -> None:
        while not list(tmp_path.glob(".building-ray/chunks/*/mark.json")):
            time.sleep(0.01)
        while not killed:
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if "ray::_there" in " ".join(child.cmdline()) and not killed:
                        child.kill()
                        killed.append(child.pid)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    by_ray = built(pile, tmp_path / "ray", Engine("ray", 2))
    killer.join(timeout=1)
    assert killed
    assert by_ray == built(pile, tmp_path / "local")
    assert len([name for name in by_ray if name.startswith("documents")]) > 2
