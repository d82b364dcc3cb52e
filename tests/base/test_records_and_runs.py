"""Records come back as they were written or not at all; a run's files survive kills; numbers and lines as people read them."""

import json
import random
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.base import console
from foretell.base.console import Terminal
from foretell.base.errors import DataError, SettingError
from foretell.base.records import dump, read_json, read_records
from foretell.base.runs import RunFolder, append_record, keep_until, numbered, read_lines
from foretell.base.units import count, duration, size

ANY_TEXT = st.text(st.characters())  # lone surrogates and every line separator of Unicode among them
RECORDS: list[dict[str, Any]] = [{"id": number, "text": f"\ud800 a\u2028b {number * 7919}"} for number in range(40_000)]


def write(path: Path, records: list[dict[str, Any]]) -> bytes:
    lines = b"".join(dump(record).encode("utf-8", "surrogatepass") + b"\n" for record in records)
    content = zstandard.ZstdCompressor(write_checksum=True).compress(lines)
    path.write_bytes(content)
    return content


@settings(deadline=None)  # a busy disk is no failure
@given(st.lists(st.dictionaries(ANY_TEXT, st.one_of(ANY_TEXT, st.integers(), st.none()))))
def test_records_come_back(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.getbasetemp() / "some.jsonl.zst"
    write(path, records)
    assert list(read_records(path)) == records


def test_many_records_come_back_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl.zst"
    noise = random.Random(1)
    records = [{"text": noise.randbytes(500).hex()} for _ in range(5_000)]
    assert len(write(path, records)) > 2 * 2**20  # several blocks, whose borders fall inside lines
    assert list(read_records(path)) == records


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, -5, -4, -1])
def test_a_cut_off_file_is_told(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "cut.jsonl.zst"
    content = write(path, RECORDS)
    path.write_bytes(content[: int(kept if kept != 0.5 else len(content) / 2)])
    with pytest.raises(DataError, match="cannot read these records: it was cut off") as caught:
        list(read_records(path))
    assert caught.value.where == str(path)


def test_a_flipped_bit_is_told(tmp_path: Path) -> None:
    path = tmp_path / "flipped.jsonl.zst"
    content = bytearray(write(path, RECORDS))
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot read these records"):
        list(read_records(path))
    with pytest.raises(DataError, match=r"cannot read these records: .*No such file"):
        list(read_records(tmp_path / "gone.jsonl.zst"))


def test_json_is_written_plainly_and_read_with_care(tmp_path: Path) -> None:
    assert dump({"é": None}) == '{"é": null}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump(float("nan"))
    path = tmp_path / "state.json"
    with pytest.raises(DataError, match=r"state.json is missing"):
        read_json(path)
    path.write_text('{"a": ', encoding="utf-8")
    with pytest.raises(DataError, match="cannot read this JSON file: Expecting value"):
        read_json(path)
    path.write_text('{"a": 1}', encoding="utf-8")
    assert read_json(path) == {"a": 1}


def test_a_run_begins_once_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "mine"
    with pytest.raises(SettingError, match="no run here to continue") as caught:
        RunFolder.open(path)
    assert "--resume" in caught.value.cure
    run = RunFolder.create(path)
    (path / "corpus").mkdir()  # what quickstart prepares
    RunFolder.create(path)
    run.recipe.write_text("", encoding="utf-8")
    with pytest.raises(SettingError, match="already exists") as caught:
        RunFolder.create(path)
    assert "--resume" in caught.value.cure
    (path / "checkpoints" / ".partial-1-step").mkdir(parents=True)
    assert not list(RunFolder.open(path).checkpoints.iterdir())
    with pytest.raises(ValueError, match="→"), run.logged():
        raise ValueError("first →")
    assert "ValueError: first →" in run.log.read_text(encoding="utf-8")


def test_the_first_free_number(tmp_path: Path) -> None:
    for name in ("run", "run-2", "run-3"):
        assert numbered(tmp_path, "run") == tmp_path / name
        (tmp_path / name).mkdir()
    assert numbered(tmp_path / "none", "run") == tmp_path / "none" / "run"


def test_lines_after_a_step_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    keep_until(path, 3)
    assert (read_lines(path), path.exists()) == ([], False)
    records = [{"step": step, "text": "a\u2028b\x85c\nd →"} for step in range(1, 6)]
    for record in records:
        append_record(path, record)
    assert read_lines(path) == records
    keep_until(path, 3)
    assert read_lines(path) == records[:3]
    keep_until(path, 9)
    assert read_lines(path) == records[:3]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_cut_off_by_a_kill_is_not_one(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        append_record(path, {"step": step, "text": "→→"})
    path.write_bytes(path.read_bytes()[:-cut])
    keep_until(path, 2)
    append_record(path, {"step": 2})
    assert [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()] == [1, 2]


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (count(0), "0"), (count(999), "999"), (count(1234567), "1.23M"), (count(999_999), "1M"), (count(-2500), "-2.5k"),
        (count(3e12), "3T"), (count(0.25), "0.25"), (size(0), "0 B"), (size(512), "512 B"), (size(1023 * 2**20), "0.999 GiB"),
        (size(1.9 * 2**30), "1.9 GiB"), (size(2**40), "1 TiB"), (duration(0.0123), "0.012 s"), (duration(8.4), "8.4 s"),
        (duration(42.3), "42 s"), (duration(59.4), "59 s"), (duration(59.9), "1 min 00 s"), (duration(200), "3 min 20 s"),
        (duration(8040), "2 h 14 min"),
    ],
)  # fmt: skip
def test_numbers_as_people_read_them(told: str, text: str) -> None:
    assert told == text


@given(st.floats(0, 9e14))
def test_no_number_needs_an_exponent(number: float) -> None:
    assert "e+" not in count(number) + size(number) + duration(number)


def test_a_terminal_says_what_it_is_given_and_no_more() -> None:
    said, quiet = StringIO(), StringIO()
    for stream, terminal in ((said, Terminal(stream=said)), (quiet, Terminal(stream=quiet, quiet=True))):
        terminal.say("[bold]:smile: it's [/nothing]")
        terminal.say("a", end="")
        terminal.say("b")
        terminal.table(["name", "n"], [["[b]x", "7"], ["y", "12"]])
        terminal.warn("careful")
        assert not terminal.interactive
        assert stream.getvalue().endswith("note: careful\n")
    assert said.getvalue().startswith("[bold]:smile: it's [/nothing]\nab\nname   n")
    assert "[b]x   7" in said.getvalue()
    assert quiet.getvalue() == "note: careful\n"


def test_progress_is_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 4))  # seconds; asked once or twice an advance
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: float(next(now))))
    stream = StringIO()
    with Terminal(stream=stream).progress("reading", 2000, "bytes") as bar:
        for _ in range(6):
            bar.advance(300)
    assert stream.getvalue() == "reading: 900 of 2k bytes\nreading: 1.8k of 2k bytes\n"


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    stream = StringIO()
    terminal = Terminal(stream=stream)
    terminal.console._force_terminal = True
    assert terminal.interactive
    with terminal.progress("[reading]", 4) as bar:
        bar.advance(3)
        assert bar.bar is not None
        assert bar.bar.tasks[0].completed == 3
        bar.bar.refresh()
    assert "[reading] " in stream.getvalue()
    assert "━" in stream.getvalue()
    terminal.quiet = True
    assert not terminal.interactive
