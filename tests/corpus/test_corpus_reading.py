"""Files of every format, and damaged ones: one reason each, and the rest goes on."""

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped
from foretell.corpus.reading import read_files
from foretell.corpus.sources import find_files

SETTINGS = CorpusSettings()


def read(path: Path, settings: CorpusSettings = SETTINGS) -> list[Document | Dropped]:
    return list(read_files(find_files([str(path)], path.parent), settings))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def told(items: list[Document | Dropped]) -> list[str]:
    return [item.reason if isinstance(item, Dropped) else item.text for item in items]


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.txt", "text"), ("a.MD", "markdown"), ("a.htm", "html"), ("a.py", "python"), ("a.rst", "text"), ("a", "text")],
)
def test_formats_go_by_the_name(name: str, kind: str, zipped: str, tmp_path: Path) -> None:
    (document,) = read(write(tmp_path / (name + zipped), "grüße\n".encode()))
    assert isinstance(document, Document)
    assert (document.text, document.metadata["format"]) == ("grüße\n", kind)


@pytest.mark.parametrize(("start", "kind"), [("\ufeff <!DOCTYPE html><p>", "html"), ('{"text": "x"}', "jsonl"), ("plain", "text")])
def test_files_whose_name_says_nothing_go_by_their_beginning(start: str, kind: str, tmp_path: Path) -> None:
    (document,) = read(write(tmp_path / "page", start.encode()))
    assert isinstance(document, Document)
    assert document.metadata["format"] == kind


def test_ids_are_the_same_everywhere_and_differ_by_name_and_content(tmp_path: Path) -> None:
    ids = []
    for folder, name, content in (("x", "a.txt", b"1"), ("y", "a.txt", b"1"), ("y", "b.txt", b"1"), ("y", "a.txt", b"2")):
        (tmp_path / folder).mkdir(exist_ok=True)
        ids.append(read(write(tmp_path / folder / name, content))[0].id)
    assert ids[0] == ids[1] == "f8ec1813a18115bc"
    assert len(set(ids)) == 3


def test_json_lines_keep_their_other_fields_and_say_where_they_stood(tmp_path: Path) -> None:
    lines = [
        '{"content": "first", "score": NaN, "big": 1e999, "n": 1.5}',
        "",
        "{broken",
        '{"title": "no text"}',
        "[1]",
        '{"text": 5}',
        '{"text": "h\\ud800", "url": "u"}',
        "[" * 100_000,
    ]
    items = read(write(tmp_path / "a.jsonl", "\n".join(lines).encode()), SETTINGS.replace(max_undecodable=1))
    assert told(items) == ["first", "broken_json", "no_text_field", "no_text_field", "no_text_field", "h\ufffd", "broken_json"]
    assert [item.source.rpartition(":")[2] for item in items] == ["1", "3", "4", "5", "6", "7", "8"]
    first = items[0]
    assert isinstance(first, Document)
    assert first.metadata["fields"] == {"score": None, "big": None, "n": 1.5}
    assert first.metadata["text_field"] == "content"
    json.dumps(first.metadata, allow_nan=False)
    assert items[2].excerpt == "fields: title"  # type: ignore[union-attr]


def test_json_lines_are_counted_across_pieces(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"line {number}"}) if number % 3 else "" for number in range(1, 301)]
    items = read(write(tmp_path / "a.jsonl", "\n".join(lines).encode()), SETTINGS.replace(max_document_bytes=1024))
    assert all(item.source.endswith(f":{text.split()[1]}") for item, text in zip(items, told(items), strict=True))
    assert len(items) == 200


def test_the_json_text_field_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "not me", "story": "me"}')
    assert told(read(path, CorpusSettings(jsonl_text_field="story"))) == ["me"]


def test_binary_empty_and_unreadable_files_are_each_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.png", b"\x89PNG\0\0")
    write(tmp_path / "b.txt", b"")
    write(tmp_path / "c.txt", b"fine")
    os.mkfifo(tmp_path / "d.txt")
    assert told(read(tmp_path)) == ["binary", "empty", "fine", "unreadable"]


def test_a_file_that_the_system_refuses_is_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.txt", b"one")
    write(tmp_path / "b.txt", b"two")
    open_really = Path.open

    def refuse(path: Path, *arguments: object) -> object:
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied")
        return open_really(path, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    items = read(tmp_path)
    assert told(items) == ["unreadable", "two"]
    assert "Permission denied" in items[0].excerpt  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-9], lambda whole: whole[:200] + b"\xff" * 9 + whole[209:], lambda whole: b"no gzip"]
)
def test_a_damaged_gzip_is_left_out_whole(damage: object, tmp_path: Path) -> None:
    whole = gzip.compress(random.Random(0).randbytes(3000).hex().encode())
    (tmp_path / "a.txt.gz").write_bytes(damage(whole))  # type: ignore[operator]
    write(tmp_path / "b.txt", b"fine")
    assert told(read(tmp_path, SETTINGS.replace(max_document_bytes=1024))) == ["damaged_gzip", "fine"]


def test_gzip_bombs_are_left_out(tmp_path: Path) -> None:
    assert told(read(write(tmp_path / "large.txt.gz", b"a\n" * 2**24))) == ["gzip_bomb"]
    assert told(read(write(tmp_path / "small.txt.gz", b"a\n" * 2**21))) == ["a\n" * 2**21]


def test_few_bad_bytes_are_replaced_and_counted_many_drop_the_text(tmp_path: Path) -> None:
    (document,) = read(write(tmp_path / "few.txt", b"caf\xe9 " + b"good text " * 50))
    assert isinstance(document, Document)
    assert document.metadata["replaced_characters"] == 1
    assert told(read(write(tmp_path / "many.txt", "déjà vu à la fête".encode("latin-1") * 9))) == ["not_utf8"]


def test_byte_order_marks_are_understood(tmp_path: Path) -> None:
    assert told(read(write(tmp_path / "a.txt", "grüße 𝔘".encode("utf-8-sig")))) == ["grüße 𝔘"]
    assert told(read(write(tmp_path / "b.txt", "grüße 𝔘".encode("utf-16")))) == ["binary"]  # whose cure names iconv


@pytest.mark.parametrize(
    ("declared", "encoding"), [("iso-8859-1", "cp1252"), ("Shift_JIS", "shift_jis"), ("utf-8", "utf-8"), ("nonsense", "utf-8")]
)
def test_pages_say_their_encoding(declared: str, encoding: str, tmp_path: Path) -> None:
    text = "日本語" if encoding == "shift_jis" else "“café”"
    page = f'<html><meta http-equiv="x" content="text/html; charset={declared}"><p>{text}</p>'
    assert told(read(write(tmp_path / "a.html", page.encode(encoding)))) == [page]


def test_large_pages_are_not_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "a.html", b"<p>\n" * 300)
    assert told(read(path, SETTINGS.replace(max_document_bytes=1024))) == ["too_large"]
    assert told(read(path)) == ["<p>\n" * 300]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.text("ab é\n", max_size=700), max_size=12).map("".join))
def test_parts_lose_nothing_and_keep_to_the_limit(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = write(tmp_path_factory.mktemp("parts") / "a.txt", text.encode())
    items = read(path, SETTINGS.replace(max_document_bytes=1024))
    lengths = [item.bytes for item in items]
    assert sum(lengths) == len(text.encode())
    kept = [item for item in items if isinstance(item, Document)]
    assert all(item.bytes <= 1024 for item in kept)
    assert all(line in text for item in kept for line in item.text.split("\n"))
    if all(len(line.encode()) < 1024 for line in text.split("\n")):
        assert "".join(item.text for item in kept) == text


def test_parts_end_at_the_end_of_a_line(tmp_path: Path) -> None:
    text = "line\n" * 300
    items = read(write(tmp_path / "a.txt", text.encode()), SETTINGS.replace(max_document_bytes=1024))
    assert told(items) == ["line\n" * 204, "line\n" * 96]
    assert [item.metadata["part"] for item in items if isinstance(item, Document)] == [0, 1]
    assert len({item.id for item in items}) == 2


def test_a_sample_stops_where_it_is_full_and_counts_the_rest(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.txt", b"line\n" * 600)
    items = list(read_files(find_files([str(tmp_path)], tmp_path), SETTINGS.replace(max_document_bytes=1024), 4000))
    rest = [item for item in items if isinstance(item, Dropped)]
    assert [Path(item.source).name for item in rest] == ["b.txt", "c.txt"]
    assert sum(item.bytes for item in items) == 9000
    assert 4000 <= sum(item.bytes for item in items if isinstance(item, Document)) < 4000 + 1024


HUGE = """
import resource, sys
from pathlib import Path
from foretell.corpus.config import CorpusSettings
from foretell.corpus.reading import read_files
from foretell.corpus.sources import find_files
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
items = list(read_files(find_files([sys.argv[1]], Path(sys.argv[1])), CorpusSettings()))
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print([getattr(item, "reason", item.bytes) for item in items], items[0].bytes, grown)
"""


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_single_line_of_200_mb_takes_little_memory(name: str, tmp_path: Path) -> None:
    with (tmp_path / name).open("wb") as stream:
        for _ in range(200):
            stream.write(b"x" * 10**6)
        stream.write(b'\n{"text": "after"}\n')
    done = subprocess.run([sys.executable, "-c", HUGE, str(tmp_path / name)], capture_output=True, text=True, check=True)
    reasons, size_bytes, grown = done.stdout.rsplit(maxsplit=2)
    assert reasons == ("['too_long_line', 18]" if name == "a.txt" else "['too_long_line', 5]")
    assert int(size_bytes) == 200 * 10**6 + 1
    assert int(grown) < 100
