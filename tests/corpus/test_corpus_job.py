"""The corpus folder: built whole or not at all, read back as it was written."""

import argparse
import gzip
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from foretell.base.console import Terminal
from foretell.base.errors import DataError, SettingError
from foretell.base.files import digest
from foretell.cli import corpus as command
from foretell.corpus.config import CorpusSettings
from foretell.corpus.store import read_documents, read_dropped
from foretell.jobs.corpus import build_corpus, show_corpus


def build(sources: list[object], out: Path, *, sample_bytes: int | None = None, **settings: Any) -> tuple[dict[str, Any], str]:
    stream = io.StringIO()
    terminal = Terminal(stream=stream)
    manifest = build_corpus([str(source) for source in sources], out, CorpusSettings(**settings), terminal, sample_bytes)
    return manifest, stream.getvalue()


@pytest.fixture
def mixed(text_folder: Path) -> Path:
    prose = " ".join(f"Sentence {number} is about <b>nothing</b> in particular." for number in range(50))
    (text_folder / "copy.md").write_text(next(text_folder.glob("*.txt")).read_text())
    (text_folder / "image.png").write_bytes(b"\x89PNG\0")
    (text_folder / "lines.jsonl").write_text(json.dumps({"content": prose, "url": "u"}) + "\n{broken <script>alert(1)</script>\n")
    (text_folder / "cut.txt.gz").write_bytes(gzip.compress(prose.encode())[:-9])
    return text_folder


def test_a_corpus_comes_back_as_it_was_written(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "a corpus"
    manifest, said = build([mixed], out)
    documents, dropped = list(read_documents(out)), list(read_dropped(out))
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert manifest["totals"]["documents"] == len(documents) == 10
    assert manifest["totals"]["bytes"] == sum(document.bytes for document in documents)
    assert manifest["totals"]["characters"] == sum(len(document.text) for document in documents)
    assert {reason: amounts["documents"] for reason, amounts in manifest["dropped"].items()} == {
        "binary": 1, "damaged_gzip": 1, "broken_json": 1, "near_duplicate": 1
    }  # fmt: skip
    assert sorted(item.reason for item in dropped) == sorted(manifest["dropped"])
    assert {entry["path"]: entry["sha256"] for entry in manifest["sources"]}[str(mixed / "ast.txt")] == digest(mixed / "ast.txt")
    names = ["read", "extract", "boilerplate", "normalise", "language", "filter", "exact duplicates", "near duplicates"]
    assert [step["name"] for step in manifest["steps"]] == names
    assert manifest["steps"][-1] == {
        "name": "near duplicates",
        "documents": 10,
        "bytes": manifest["totals"]["bytes"],
        "dropped": {"near_duplicate": 1},
    }
    assert manifest["settings"]["bands"] == 14
    line = next(document for document in documents if document.metadata["format"] == "json")
    told = {"format": "json", "line": 1, "text_field": "content", "fields": {"url": "u"}}
    assert line.metadata | told == line.metadata
    assert line.metadata["language"] == "en"
    assert "damaged_gzip" in said
    assert sorted(path.name.partition("-")[0] for path in out.iterdir()) == [
        "card.md",
        "documents",
        "dropped",
        "manifest.json",
        "report.html",
    ]


def test_the_same_files_give_the_same_corpus(mixed: Path, tmp_path: Path) -> None:
    first, second = (build([mixed], tmp_path / name)[0] for name in ("one", "two"))
    assert first["fingerprint"] == second["fingerprint"]
    assert (tmp_path / "one/documents-00000.jsonl.zst").read_bytes() == (tmp_path / "two/documents-00000.jsonl.zst").read_bytes()
    (mixed / "ast.txt").write_text("Something else altogether, though not long.")
    assert build([mixed], tmp_path / "three")[0]["fingerprint"] != first["fingerprint"]


def test_a_flipped_byte_is_noticed(mixed: Path, tmp_path: Path) -> None:
    build([mixed], tmp_path / "corpus")
    shard = tmp_path / "corpus/documents-00000.jsonl.zst"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match="cannot read these records"):
        list(read_documents(tmp_path / "corpus"))


def test_the_report_stands_alone_and_escapes_what_it_shows(mixed: Path, tmp_path: Path) -> None:
    build([mixed], tmp_path / "corpus")
    page = (tmp_path / "corpus/report.html").read_text()
    HTMLParser().feed(page)
    assert "<script" not in page
    assert "&lt;b&gt;nothing&lt;/b&gt;" in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r"(src|href)=|https?://|@import|url\(", page)
    for told in ("near_duplicate", "cut short or corrupt", "kept instead", "10</b>documents kept", str(mixed)):
        assert told in page


def test_a_sample_takes_whole_files_and_says_what_it_left(mixed: Path, tmp_path: Path) -> None:
    total = sum(path.stat().st_size for path in mixed.iterdir())
    manifest, said = build([mixed], tmp_path / "some", sample_bytes=30_000)
    again, _ = build([mixed], tmp_path / "again", sample_bytes=30_000)
    assert 0 < manifest["totals"]["documents"] < 9
    assert manifest["fingerprint"] == again["fingerprint"]
    read = [entry["path"] for entry in manifest["sources"]]
    assert read != sorted(read)
    assert manifest["dropped"]["not_sampled"]["bytes"] > 0
    assert len(manifest["sources"]) + manifest["dropped"]["not_sampled"]["documents"] >= len(list(mixed.iterdir()))
    assert "not_sampled" in said
    assert "not_sampled" not in build([mixed], tmp_path / "all", sample_bytes=total)[0]["dropped"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there are no files"),
        ({"a.png": b"\0", "b.png": b"\0"}, "binary 2"),
        ({"a.txt": b"short", "b.bin": b"\0"}, "too_short 1, binary 1"),
        ({"a.jsonl": b'{"prompt": "x"}\n{"prompt": "y"}'}, "no_text_field 2"),
    ],
)
def test_nothing_left_is_an_error_that_counts_the_reasons(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, content in files.items():
        (source / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        build([source], tmp_path / "out")
    assert caught.value.exit_code == 1
    assert caught.value.where.startswith(str(source))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_the_cure_for_a_missing_field_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "x"}')
    with pytest.raises(DataError) as caught:
        build([tmp_path / "a.jsonl"], tmp_path / "out")
    assert "corpus.text_field=NAME" in caught.value.cure
    assert caught.value.where.endswith("a.jsonl:1 fields: prompt")


def test_nothing_is_overwritten_and_missing_paths_are_named(mixed: Path, tmp_path: Path) -> None:
    build([mixed], tmp_path / "corpus")
    with pytest.raises(SettingError, match="already exists"):
        build([mixed], tmp_path / "corpus")
    with pytest.raises(SettingError, match="no such file") as caught:
        build([mixed, tmp_path / "nowhere"], tmp_path / "other")
    assert caught.value.where.endswith("nowhere")
    assert not (tmp_path / "other").exists()


def test_a_folder_may_hold_its_own_corpus(mixed: Path) -> None:
    manifest, _ = build([mixed], mixed / "corpus")
    assert manifest["totals"]["documents"] == 10


def test_plain_files_are_documents_too(mixed: Path, tmp_path: Path) -> None:
    assert [document.text for document in read_documents(mixed / "ast.txt")] == [(mixed / "ast.txt").read_text()]
    (mixed / ".hidden").write_text("x")
    for name in ("image.png", "cut.txt.gz", "lines.jsonl"):
        with pytest.raises(DataError, match="cannot be read as text"):
            list(read_documents(mixed))
        (mixed / name).unlink()
    assert len(list(read_documents(mixed))) == 10
    with pytest.raises(SettingError, match="no such file"):
        list(read_documents(tmp_path / "nowhere"))


def test_show_prints_documents_or_what_was_left_out(mixed: Path, tmp_path: Path) -> None:
    build([mixed], tmp_path / "corpus")
    stream = io.StringIO()
    terminal = Terminal(stream=stream)
    shown = show_corpus(tmp_path / "corpus", terminal, dropped=False, reason=None, limit=2)
    assert [len(shown), set(shown[0])] == [2, {"id", "text", "source", "metadata"}]
    left_out = show_corpus(tmp_path / "corpus", terminal, dropped=True, reason=None, limit=10)
    assert len(left_out) == 4
    assert [item["reason"] for item in show_corpus(tmp_path / "corpus", terminal, dropped=False, reason="binary", limit=10)] == [
        "binary"
    ]
    assert "image.png" in stream.getvalue()
    with pytest.raises(SettingError, match="nothing was left out for 'nonsense'") as caught:
        show_corpus(tmp_path / "corpus", terminal, dropped=True, reason="nonsense", limit=1)
    assert "binary" in caught.value.cure
    with pytest.raises(DataError, match=r"manifest.json is missing"):
        show_corpus(mixed, terminal, dropped=False, reason=None, limit=1)


def run_command(*words: object) -> Any:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return command.run(parser.parse_args([str(word) for word in words]), Terminal(stream=io.StringIO()))


def test_the_command_tells_settings_from_sources(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.txt").write_text("A file whose name looks like a setting is a file.")
    (mixed / "cut.txt.gz").unlink()
    manifest = run_command("build", "a=b.txt", mixed, "corpus.min_characters=40", "--out", tmp_path / "out")
    assert manifest["settings"]["min_characters"] == 40
    assert manifest["totals"]["documents"] == 11
    assert len(run_command("show", tmp_path / "out", "--limit", 3)) == 3
    assert {item["reason"] for item in run_command("show", tmp_path / "out", "--reason", "binary")} == {"binary"}


@pytest.mark.parametrize("word", ["corpus.min_charcters=40", "min_characters=40"])
def test_misspelt_settings_name_the_nearest(word: str, mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="unknown setting") as caught:
        run_command("build", mixed, word, "--out", tmp_path / "out")
    assert "corpus.min_characters" in caught.value.cure


def test_real_text_is_kept(data_folder: Path, tmp_path: Path) -> None:
    """A play in one file, tokenized articles and books: nothing of them is dropped."""
    sources = [data_folder / "lm/tinyshakespeare/input.txt", data_folder / "lm/wikitext-2", data_folder / "books/Al*.md"]
    manifest, _ = build(sources, tmp_path / "corpus")
    assert not manifest["dropped"]
    assert manifest["totals"]["bytes"] > 0.99 * sum(entry["bytes"] for entry in manifest["sources"])
