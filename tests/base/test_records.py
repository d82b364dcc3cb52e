"""Zstandard files of one object a line, however they were written."""

import tracemalloc
from pathlib import Path

import pytest
import zstandard

from foretell.base.errors import DataError
from foretell.base.records import read_records


def frame(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def test_a_last_line_without_its_end_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(frame(b'{"a": 1}\n{"a": 2}'))
    assert list(read_records(tmp_path / "a")) == [{"a": 1}, {"a": 2}]


def test_all_frames_are_read_and_lines_may_cross_them(tmp_path: Path) -> None:
    frames = [frame(b'{"a": 1}\n{"a"'), frame(b": 2}\n"), frame(b""), frame(b'{"a": 3}\n')]
    for content in (b"".join(frames), frames[0] + frames[1] + frame(b'{"a": "' + b"x" * 5000 + b'"}\n')):
        (tmp_path / "a").write_bytes(content)
        found = list(read_records(tmp_path / "a"))
        assert found[:2] == [{"a": 1}, {"a": 2}] and len(found) == 3
    (tmp_path / "a").write_bytes(b"".join(frames)[:-3])
    with pytest.raises(DataError, match="it was cut off"):
        list(read_records(tmp_path / "a"))


def test_little_that_expands_to_much_comes_in_steps(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(frame(b"{}\n" + b" " * 2**28 + b"\n" + b"{}\n" * 10))
    tracemalloc.start()
    assert next(read_records(tmp_path / "a")) == {}
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2**27
