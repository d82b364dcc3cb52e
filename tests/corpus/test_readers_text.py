"""Text, JSON, CSV, mailboxes and pages: every record, nothing twice, and damage costs only what it touched."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Dropped, Raw
from foretell.corpus.readers.open import records, slices
from foretell.corpus.sources import find_files

SETTINGS, SMALL = CorpusSettings(), CorpusSettings(max_document_bytes=1024)


def read(path: Path, settings: CorpusSettings = SETTINGS) -> list[Raw | Dropped]:
    return [item for file in find_files([str(path)], path.parent) for item in records(file, settings)]


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def told(items: list[Raw | Dropped]) -> list[bytes | str]:
    return [item.reason if isinstance(item, Dropped) else item.content for item in items]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.txt", b"text", "text"),
        ("a.MD", b"text", "markdown"),
        ("a.rs", b"fn main", "code"),
        ("a.htm", b"text", "html"),
        ("a.xhtml", b"text", "html"),
        ("a.xml", b"<a/>", "xml"),
        ("a.eml", b"From: x\n\ny", "email"),
        ("a.pdf", b"%PDF-1.4", "pdf"),
        ("a.pdf", b"\r\n%PDF-1.4", "pdf"),
        ("a.docx", b"PK\x03\x04", "docx"),
        ("a.epub", b"PK\x03\x04", "epub"),
        ("a.unknown", b"text", "text"),
        ("a", b"\xef\xbb\xbf <!DOCTYPE html><p>", "html"),
        ("a", b'{"text": "x"}', "json"),
        ("a", b"<?xml version='1.0'?><a/>", "xml"),
        ("a", b"From me@here Mon Jan  1 10:00:00 2024\nSubject: x\n\ny", "email"),
        ("a", b"%PDF-1.4", "pdf"),
    ],
)
def test_formats_go_by_the_name_or_the_beginning(name: str, content: bytes, kind: str, tmp_path: Path) -> None:
    (record,) = read(write(tmp_path / name, content))
    assert isinstance(record, Raw)
    assert record.format == kind
    assert "named" not in record.metadata


@pytest.mark.parametrize(
    ("name", "content", "kind", "named"),
    [("a.txt", b"%PDF-1.4\0", "pdf", "text"), ("a.pdf", b"<html>", "html", "pdf"), ("a.gz", b'{"text": 1}', "json", "gz")],
)
def test_a_wrong_name_is_noted(name: str, content: bytes, kind: str, named: str, tmp_path: Path) -> None:
    (record,) = read(write(tmp_path / name, content))
    assert isinstance(record, Raw)
    assert (record.format, record.metadata["named"]) == (kind, named)


@pytest.mark.parametrize("ending", ["parquet", "arrow", "sqlite", "gz", "zip", "warc", "docx", "pdf", "zst"])
@pytest.mark.parametrize("content", [b"plain text", b"\x80\0\x01"])
def test_what_is_not_what_its_name_says(ending: str, content: bytes, tmp_path: Path) -> None:
    assert told(read(write(tmp_path / f"a.{ending}", content))) == ["wrong_format"]


@pytest.mark.parametrize("name", ["PAR1 is a magic.txt", "a.txt"])
def test_text_that_begins_like_a_table_stays_text(name: str, tmp_path: Path) -> None:
    assert told(read(write(tmp_path / name, b"PAR1 begins a Parquet file"))) == [b"PAR1 begins a Parquet file"]


def test_binary_and_empty_files_are_each_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.png", b"\x89PNG\0\0")
    write(tmp_path / "b.txt", b"")
    write(tmp_path / "c.txt", b"a\0b")
    os.mkfifo(tmp_path / "d.txt")
    assert told(read(tmp_path)) == ["binary", "empty", "binary", "unreadable"]


def test_a_file_that_the_system_refuses_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.txt", b"one")
    write(tmp_path / "b.txt", b"two")
    open_really = Path.open

    def refuse(path: Path, *arguments: object) -> object:
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied")
        return open_really(path, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    assert told(read(tmp_path)) == ["unreadable", b"two"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_characters_are_read_line_by_line_too(encoding: str, tmp_path: Path) -> None:
    lines = "".join(f'{{"text": "grüße {number}"}}\n' for number in range(50))
    items = read(write(tmp_path / "a.jsonl", lines.encode(encoding)))
    assert told(items) == lines.splitlines()
    assert items[0].metadata["encoding"].startswith(encoding[:6])  # type: ignore[union-attr]


def test_large_pages_are_not_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "a.html", b"<p>\n" * 300)
    assert told(read(path, SMALL)) == ["too_large"]
    assert told(read(path)) == [b"<p>\n" * 300]


def test_parts_end_at_blank_lines_else_at_line_ends(tmp_path: Path) -> None:
    verse = b"a line of verse\n" * 9 + b"\n"
    items = read(write(tmp_path / "a.txt", verse * 20), SMALL)
    assert all(isinstance(item, Raw) and item.content == verse * 7 for item in items[:2])
    assert [item.number for item in items if isinstance(item, Raw)] == [0, 1015, 2030]
    items = read(write(tmp_path / "b.txt", b"line\n" * 300), SMALL)
    assert told(items) == [b"line\n" * 204, b"line\n" * 96]


TEXTS = st.lists(st.sampled_from(["ab", " é", "\n", "\n\n", "\r\n\r\n", "x" * 300, "y" * 1100, "{}"]), max_size=60).map("".join)


@pytest.mark.parametrize("ending", ["txt", "jsonl"])
@settings(deadline=None, derandomize=True, max_examples=150)
@given(text=TEXTS, target=st.integers(1, 5000))
def test_slices_hold_what_the_file_holds(tmp_path_factory: pytest.TempPathFactory, ending: str, text: str, target: int) -> None:
    path = write(tmp_path_factory.mktemp("parts") / f"a.{ending}", "first " + text)
    (file,) = find_files([str(path)], path)
    whole, parts = list(records(file, SMALL)), slices(file, SMALL, target)
    assert parts is not None
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert [item for part in parts for item in records(file, SMALL, part)] == whole
    assert all(item.bytes <= 1024 for item in whole if isinstance(item, Raw))
    if ending == "txt":
        assert sum(item.bytes for item in whole) == len(path.read_bytes())
        assert all(path.read_bytes()[item.number :].startswith(item.content) for item in whole if isinstance(item, Raw))  # type: ignore[arg-type]


def test_what_cannot_be_entered_in_the_middle_has_no_slices(tmp_path: Path) -> None:
    for name, content in (
        ("a.csv", b"text\nx\n"),
        ("a.zip", b"PK\x03\x04"),
        ("a.txt.gz", b"\x1f\x8b"),
        ("u.txt", "x\n".encode("utf-16")),
    ):
        (file,) = find_files([str(write(tmp_path / name, content))], tmp_path)
        assert slices(file, SETTINGS, 1) is slices(file, SETTINGS, 1000) is None
    (file,) = find_files([str(write(tmp_path / "a.pdf", b"%PDF-1.4"))], tmp_path)
    assert [(part.start, part.stop) for part in slices(file, SETTINGS, 1) or []] == [(0, 8)]


def test_json_lines_are_counted_by_line(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "x" * (number % 7) * 400}) if number % 3 else "" for number in range(1, 301)]
    items = read(write(tmp_path / "a.jsonl", "\ufeff" + "\n".join(lines)), SMALL)
    assert [int(item.source.rpartition(":")[2]) if isinstance(item, Dropped) else item.number for item in items] == [
        number for number in range(1, 301) if number % 3
    ]
    assert {item.reason for item in items if isinstance(item, Dropped)} == {"too_long_line"}
    assert told(items)[0] == lines[0].encode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"text": "a"}, {"text": "b"}]', ['{"text": "a"}', '{"text": "b"}']),
        ('{\n "text": "a"\n}\n', ['{\n "text": "a"\n}']),
        ('{\n "a": 1\n}\n{"b": 2}', ['{\n "a": 1\n}', '{"b": 2}']),
        ('{"a": 1}\n{"b": 2}', [b'{"a": 1}', b'{"b": 2}']),
        ('[{"a": 1}, {"b": ', ['{"a": 1}', "broken_json"]),
        ('[{"a": 1}] and more', ['{"a": 1}', "broken_json"]),
        ("[" * 100_000, ["broken_json"]),
        ("[]", []),
    ],
)
def test_arrays_of_objects_are_taken_apart(content: str, expected: list[bytes | str], tmp_path: Path) -> None:
    assert told(read(write(tmp_path / "a.json", content))) == expected


def test_large_arrays_stream(tmp_path: Path) -> None:
    values = [{"text": f"{number} é" * 30} for number in range(20_000)]
    items = read(write(tmp_path / "a.json", json.dumps(values, ensure_ascii=False, indent=1)))
    assert [json.loads(item.content) for item in items if isinstance(item, Raw)] == values
    assert told(read(write(tmp_path / "b.json", json.dumps(["x" * 3_000_000])), SMALL)) == ["too_large"]


def test_rows_of_csv_keep_their_other_columns(tmp_path: Path) -> None:
    (first, second) = read(write(tmp_path / "a.csv", '\ufeffid;text\n1;"two\nlines; ""quoted"""\n\n2;ünï\n'))
    assert isinstance(first, Raw)
    assert isinstance(second, Raw)
    assert (first.content, first.format, first.number) == ('two\nlines; "quoted"', "row", 1)
    assert first.metadata == {"delimiter": ";", "text_field": "text", "fields": {"id": "1"}}
    assert (second.content, second.bytes) == ("ünï", 8)
    (row,) = read(write(tmp_path / "b.tsv", "x, y\ttext\na\tb, c\n"))
    assert (row.content, row.metadata["fields"]) == ("b, c", {"x, y": "a"})  # type: ignore[union-attr]
    (row,) = read(write(tmp_path / "c.csv", "text,n\ncafé,1\n".encode("latin-1")))
    assert row.content == "café".encode("latin-1")  # type: ignore[union-attr] # its encoding is found where that of all texts is
    assert told(read(write(tmp_path / "d.csv", "a,b\n1,2\n"))) == ["no_text_column"]
    assert told(read(tmp_path / "d.csv", CorpusSettings(text_field="b"))) == ["2"]
    assert told(read(write(tmp_path / "e.csv", "text,b\n1,2\n"), CorpusSettings(text_field="a"))) == ["1"]  # a usual name


def test_broken_rows_cost_themselves_alone(tmp_path: Path) -> None:
    content = "id,text\n1,a\n2\n3,b,c\n4,d\n" + '5,"open\n' + "".join(f"{number},row\n" for number in range(6, 3000))
    items = read(write(tmp_path / "a.csv", content))
    assert [type(item).__name__ for item in items[:5]] == ["Raw", "Dropped", "Dropped", "Raw", "Dropped"]
    assert told(items[4:]) == ["broken_row"] + ["row"] * 2994
    assert items[4].excerpt == '5,"open'  # type: ignore[union-attr]
    assert told(read(write(tmp_path / "b.csv", 'text\n"to the end\nx\n'))) == ["broken_row", "x"]
    assert told(read(write(tmp_path / "c.csv", "text\n" + "x" * 5000 + "\nshort\n"), SMALL)) == ["too_large", "short"]


BOOK = "".join(f'{number} she said ""yes, no"",\n' for number in range(3000))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_cells_of_many_lines_are_bounded_by_their_bytes_alone(name: str, tmp_path: Path) -> None:
    def read_rows(content: str, settings: CorpusSettings) -> list[Raw | Dropped]:
        return read(write(tmp_path / name, gzip.compress(content.encode()) if name.endswith("gz") else content), settings)

    content = f'title,text\na,"{BOOK}"\nb,after\n"{"x" * 5000}\n",y\nc,"{BOOK}","{BOOK}"\nd,last\n'
    items = read_rows(content, SETTINGS)
    assert told(items) == [BOOK.replace('""', '"'), "after", "y", "broken_row", "last"]
    items = read_rows(content, SMALL)
    assert told(items) == ["too_large", "after", "too_large", "too_large", "last"]
    assert items[0].bytes == len(BOOK) + 5
    assert sum(item.bytes for item in items) + len("title,text\n") == len(content)
    assert items[0].excerpt.startswith('a,"0 she said')  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_quote_that_nothing_closes_costs_its_line_however_long_the_file_goes_on(name: str, tmp_path: Path) -> None:
    content = 'id,text\n1,a\n2,"open\n' + "".join(f'{number},row ""\n' for number in range(3, 3000)) + "x" * 2000 + "\n4,z"
    path = write(tmp_path / name, gzip.compress(content.encode()) if name.endswith("gz") else content)
    for chosen in (SETTINGS, SMALL):
        items = read(path, chosen)
        assert told(items) == ["a", "broken_row", *['row ""'] * 2997, "broken_row", "z"]
        assert sum(item.bytes for item in items) + len("id,text\n") == len(content)


def test_a_table_of_mostly_broken_rows_is_broken(tmp_path: Path) -> None:
    items = read(write(tmp_path / "a.csv", "id,text\n1,a\n2\n3,b,c\n"))
    assert told(items) == ["a", "broken_row", "broken_row", "broken_table"]
    assert (items[-1].bytes, items[-1].source) == (0, str(tmp_path / "a.csv"))


def test_messages_of_a_mailbox(tmp_path: Path) -> None:
    start = b"From me@here Mon Jan  1 10:00:00 2024\n"
    messages = [b"Subject: a\n\nFrom here on\n\nFrom there\n\n", b"Subject: b\n\n" + b"x" * 100 + b"\n"]
    items = read(write(tmp_path / "a.mbox", b"".join(start + message for message in messages)))
    assert told(items) == messages
    assert [item.number for item in items if isinstance(item, Raw)] == [1, 2]
    items = read(write(tmp_path / "b.mbox", start + b"x" * 2000 + b"\n\n" + start + b"Subject: b\n\n"), SMALL)
    assert told(items) == ["too_large", b"Subject: b\n\n"]


HUGE = """
import resource, sys
from pathlib import Path
from foretell.corpus.config import CorpusSettings
from foretell.corpus.readers.open import records
from foretell.corpus.sources import find_files
(file,) = find_files([sys.argv[1]], Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
items = list(records(file, CorpusSettings()))
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print([getattr(item, "reason", item.bytes) for item in items], items[0].bytes, grown)
"""


@pytest.mark.parametrize(("name", "last"), [("a.txt", 18), ("a.jsonl", 18), ("a.mbox", None)])
def test_a_single_line_of_200_mb_takes_little_memory(name: str, last: int | None, tmp_path: Path) -> None:
    with (tmp_path / name).open("wb") as stream:
        stream.truncate(0)
        for _ in range(200):
            stream.write(b"x" * 10**6)
        stream.write(b'\n{"text": "after"}\n')
    done = subprocess.run([sys.executable, "-c", HUGE, str(tmp_path / name)], capture_output=True, text=True, check=True)
    reasons, size_bytes, grown = done.stdout.rsplit(maxsplit=2)
    assert reasons == (f"['too_long_line', {last}]" if last else "['too_large']")
    assert int(size_bytes) == 200 * 10**6 + (1 if last else 19)
    assert int(grown) < 100
