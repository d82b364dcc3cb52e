"""Archives, compressed files and web archives: hostile and damaged ones cost only what cannot be read."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Dropped, Raw
from foretell.corpus.readers.open import records
from foretell.corpus.sources import find_files

SETTINGS = CorpusSettings()
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: zstandard.ZstdCompressor(write_checksum=True).compress(content),
}


def read(path: Path, settings: CorpusSettings = SETTINGS) -> list[Raw | Dropped]:
    return [item for file in find_files([str(path)], path.parent) for item in records(file, settings)]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def told(items: list[Raw | Dropped]) -> list[bytes | str]:
    return [item.reason if isinstance(item, Dropped) else item.content for item in items]


def zipped(members: dict[str, bytes]) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return whole.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w", links: dict[str, str] | None = None) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
        for name, target in (links or {}).items():
            header = tarfile.TarInfo(name)
            header.type, header.linkname = tarfile.SYMTYPE, target
            archive.addfile(header)
    return whole.getvalue()


@pytest.mark.parametrize("ending", COMPRESS)
def test_compressed_files_are_read_as_what_they_hold(ending: str, tmp_path: Path) -> None:
    lines = b'{"text": "x"}\n' * 3
    (first, *_) = items = read(write(tmp_path / f"a.jsonl.{ending}", COMPRESS[ending](lines) + COMPRESS[ending](lines)))
    assert [item.number for item in items if isinstance(item, Raw)] == [1, 2, 3, 4, 5, 6]
    assert (first.name, first.format) == (f"a.jsonl.{ending}", "json")  # type: ignore[union-attr]
    assert told(read(write(tmp_path / f"b.py.{ending}", COMPRESS[ending](b"print()")))) == [b"print()"]
    assert told(read(write(tmp_path / f"c.txt.{ending}", COMPRESS[ending](b"")))) == ["empty"]
    assert told(read(write(tmp_path / "nameless", COMPRESS[ending](b"text")))) == [b"text"]


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("where", ["end", "middle"])
def test_a_damaged_compressed_file_is_left_out_whole(ending: str, where: str, tmp_path: Path) -> None:
    whole = COMPRESS[ending](random.Random(0).randbytes(300_000).hex().encode())
    damaged = whole[:-9] if where == "end" else whole[:90_000] + b"\xff" * 9 + whole[90_009:]
    assert told(read(write(tmp_path / f"a.txt.{ending}", damaged), CorpusSettings(max_document_bytes=1024))) == ["damaged_gzip"]


@pytest.mark.parametrize("ending", COMPRESS)
def test_bombs_are_left_out(ending: str, tmp_path: Path) -> None:
    assert told(read(write(tmp_path / f"a.txt.{ending}", COMPRESS[ending](b"\n" * 2**24 + b"end")))) == ["gzip_bomb"]
    assert told(read(write(tmp_path / f"b.txt.{ending}", COMPRESS[ending](b"\n" * 2**21)))) == [b"\n" * 2**21]


def test_bombs_within_archives_cost_themselves_alone(tmp_path: Path) -> None:
    bomb = b"a\n" * 2**23 + b"end"
    members = {"a.txt": b"first", "bomb.txt": bomb, "bomb.txt.gz": gzip.compress(bomb), "z.txt": b"last"}
    assert told(read(write(tmp_path / "a.zip", zipped(members)))) == [b"first", "gzip_bomb", "gzip_bomb", b"last"]
    del members["bomb.txt"]
    assert told(read(write(tmp_path / "a.tar", tarred(members)))) == [b"first", "gzip_bomb", b"last"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz", "a.tar.zst", "nameless"])
def test_members_are_read_as_files_are(name: str, tmp_path: Path) -> None:
    members = {"in/a.txt": b"text", "b.jsonl": b'{"text": "x"}\n{"text": "y"}', "c.txt.gz": gzip.compress(b"inner"), "e.txt": b""}
    ending = {"tgz": "gz"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
    whole = zipped(members) if ending == "zip" else COMPRESS.get(ending, bytes)(tarred(members))
    items = read(write(tmp_path / name, whole))
    assert told(items) == [b"text", b'{"text": "x"}', b'{"text": "y"}', b"inner", "empty"]
    first = items[0]
    assert isinstance(first, Raw)
    assert (first.name, first.label) == (f"{name}!/in/a.txt", f"{tmp_path / name}!/in/a.txt")
    assert len({(item.name, item.number) for item in items if isinstance(item, Raw)}) == 4


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_members_that_lead_out_are_refused(pack: Callable[[dict[str, bytes]], bytes], tmp_path: Path) -> None:
    names = ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:evil.txt"]
    items = read(write(tmp_path / "a", pack({**dict.fromkeys(names, b"evil"), ".hidden/a.txt": b"x", "good.txt": b"good"})))
    assert told(items) == ["escaping_member"] * 5 + ["hidden", b"good"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_links_are_refused(tmp_path: Path) -> None:
    assert told(read(write(tmp_path / "a.tar", tarred({"a.txt": b"x"}, links={"b": "/etc/passwd"})))) == [b"x", "outside_link"]
    link = zipfile.ZipInfo("b.txt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert told(read(tmp_path / "b.zip")) == ["outside_link"]


def test_encrypted_members_are_counted(tmp_path: Path) -> None:
    whole = bytearray(zipped({"a.txt": b"secret", "b.txt": b"open"}))
    whole[6] |= 1
    whole[whole.index(b"PK\x01\x02") + 8] |= 1
    assert told(read(write(tmp_path / "a.zip", bytes(whole)))) == ["encrypted", b"open"]


def test_archives_nest_once(tmp_path: Path) -> None:
    inner = zipped({"a.txt": b"deep"})
    assert told(read(write(tmp_path / "a.zip", zipped({"b.zip": inner})))) == [b"deep"]
    assert told(
        read(write(tmp_path / "b.tgz", gzip.compress(tarred({"b.tar.gz": gzip.compress(tarred({"a.txt": b"deep"}))}))))
    ) == [b"deep"]
    (dropped,) = read(write(tmp_path / "c.zip", zipped({"b.zip": zipped({"c.zip": inner})})))
    assert isinstance(dropped, Dropped)
    assert (dropped.reason, dropped.source) == ("nested_too_deep", f"{tmp_path / 'c.zip'}!/b.zip!/c.zip")


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz", "tar.zst"])
def test_whole_members_before_the_damage_of_a_tar_are_kept(ending: str, tmp_path: Path) -> None:
    members = {f"{number}.txt": random.Random(number).randbytes(20_000).hex().encode() for number in range(5)}
    compress = COMPRESS.get(ending.rpartition(".")[2], bytes)
    cut = compress(tarred(members))
    items = told(read(write(tmp_path / f"a.{ending}", cut[: len(cut) * 3 // 4])))
    assert items == [*list(members.values())[: len(items) - 1], "broken_archive"]
    assert len(items) > 2
    whole = bytearray(tarred(members))
    whole[whole.index(b"3.txt") + 150] ^= 0xFF  # its checksum
    assert told(read(write(tmp_path / "b.tar", bytes(whole)))) == [*list(members.values())[:3], "broken_archive"]


def test_a_damaged_member_of_a_zip_costs_itself_alone(tmp_path: Path) -> None:
    whole = bytearray(zipped({"a.txt": b"first " * 50, "b.txt": random.Random(0).randbytes(500), "c.txt": b"last"}))
    whole[whole.index(b"b.txt") + 100] ^= 0xFF
    assert told(read(write(tmp_path / "a.zip", bytes(whole)))) == [b"first " * 50, "broken_archive", b"last"]
    assert told(read(write(tmp_path / "b.zip", bytes(whole[:600])))) == ["broken_archive"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.warc", "a.warc.gz", "a.txt.zst"])
def test_damaged_archives_never_raise(name: str, tmp_path: Path) -> None:
    members = {"a.txt": b"text " * 50, "b.zip": zipped({"c.txt": b"x"}), "d.jsonl": b'{"text": 1}\n'}
    whole = {"zip": zipped(members), "tar": tarred(members), "warc": record(b"<p>text") * 3}.get(name.split(".")[1], b"text" * 100)
    whole = COMPRESS.get(name.rpartition(".")[2], bytes)(whole)
    chance = random.Random(0)
    for _ in range(150):
        damaged = bytearray(whole[: chance.randrange(8, len(whole))] if chance.random() < 0.3 else whole)
        for _ in range(3):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            read(write(tmp_path / name, bytes(damaged)))


def record(content: bytes, kind: bytes = b"response", told: bytes = b"text/html; charset=latin1", status: int = 200) -> bytes:
    http = b"HTTP/1.1 %d X\r\nContent-Type: %s\r\n\r\n%s" % (status, told, content)
    block, told = (http, b"application/http; msgtype=response") if kind == b"response" else (content, told)
    head = b"WARC/1.0\r\nWARC-Type: %s\r\nWARC-Target-URI: http://a/b\r\nWARC-Date: 2024-01-02T03:04:05Z\r\n" % kind
    return head + b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n" % (told, len(block), block)


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.wet.zst", "nameless", "a.jsonl.gz"])
def test_pages_of_web_archives(name: str, tmp_path: Path) -> None:
    pages = [
        record(b"<p>caf\xe9"),
        record(b"who asks", b"request"),
        record(b"png", told=b"image/png"),
        record(b"gone", status=404),
        record(b"plain", b"conversion", b"text/plain"),
        record(b"x" * 2000),
        record(b"%PDF-1.4", told=b"application/pdf"),
    ]
    items = read(
        write(tmp_path / name, COMPRESS.get(name.rpartition(".")[2], bytes)(b"".join(pages))),
        CorpusSettings(max_document_bytes=1024),
    )
    assert told(items) == [b"<p>caf\xe9", "binary", "fetch_failed", b"plain", "too_large", b"%PDF-1.4"]
    first = items[0]
    assert isinstance(first, Raw)
    known = {key: first.metadata[key] for key in ("url", "date", "charset")}
    assert known == {"url": "http://a/b", "date": "2024-01-02T03:04:05Z", "charset": "latin1"}
    assert [(item.number, item.format) for item in items if isinstance(item, Raw)] == [(1, "html"), (5, "text"), (7, "pdf")]


def test_whole_pages_before_the_damage_of_a_web_archive_are_kept(tmp_path: Path) -> None:
    pages = [record(b"<p>%d" % number * 20) for number in range(3)]
    whole = b"".join(pages)
    assert told(read(write(tmp_path / "a.warc", whole[:-80]))) == [b"<p>0" * 20, b"<p>1" * 20, "broken_warc"]
    assert told(read(write(tmp_path / "b.warc", pages[0] + b"XXXX" + whole[4:]))) == [b"<p>0" * 20, "broken_warc"]
    assert told(read(write(tmp_path / "c.zip", zipped({"a.warc": whole})))) == [b"<p>%d" % number * 20 for number in range(3)]


def test_real_web_archives(data_folder: Path) -> None:
    found = {path.name: told(read(path)) for path in sorted((data_folder / "html" / "warc").iterdir())}
    assert found["warcfile.warc"] == found["warcfile.warc.gz"] == found["warcfile.warc.lz4"]
    assert len(found["warcfile.warc"]) == 16
    assert all(isinstance(content, bytes) and b"<" in content for content in found["warcfile.warc"])
    assert found["clipped.warc.gz"] == ["broken_warc"]
    assert len(found["clueweb-quirk.warc.gz"]) == 29


def test_servers_that_end_lines_their_own_way_and_say_gzip_without_doing_it(tmp_path: Path) -> None:
    page, other = b"<html><p>Nobody packed this page,\n\nwhatever was said.</p></html>", b"<html><p>This one was packed.</p></html>"
    answers = (
        b"HTTP/1.1 200 OK\nContent-Type: text/html\nContent-Encoding: gzip\n\n" + page,
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(other),
    )
    head = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\n"
    blocks = (b"%sContent-Length: %d\r\n\r\n%s\r\n\r\n" % (head, len(answer), answer) for answer in answers)
    (tmp_path / "a.warc").write_bytes(b"".join(blocks))
    (file,) = find_files([str(tmp_path / "a.warc")], tmp_path)
    assert [(item.format, item.content) for item in records(file, CorpusSettings()) if isinstance(item, Raw)] == [
        ("html", page),
        ("html", other),
    ]
