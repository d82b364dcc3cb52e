"""Which files a SOURCE means."""

import io
import os
import sys
from pathlib import Path

import pytest

from foretell.base.errors import SettingError
from foretell.corpus.sources import find_files, standard_library_sources


def names(*sources: object, scratch: Path) -> list[tuple[str, str | None]]:
    return [(file.name, file.reason) for file in find_files([str(source) for source in sources], scratch)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "a tree"
    for name in ("b.txt", "a/z.md", "a/y.txt", ".git/config", ".secret"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("text")
    return root


def test_a_folder_is_read_in_order_and_hidden_names_are_counted(tree: Path, tmp_path: Path) -> None:
    assert names(tree, scratch=tmp_path) == [
        (".git", "hidden"),
        (".secret", "hidden"),
        ("a/y.txt", None),
        ("a/z.md", None),
        ("b.txt", None),
    ]


def test_links_out_of_the_folder_and_links_to_folders_are_passed_over(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("out")
    (tree / "c_out").symlink_to(tmp_path / "outside.txt")
    (tree / "d_in").symlink_to(tree / "b.txt")
    (tree / "e_loop").symlink_to(tree)
    (tree / "f_itself").symlink_to(tree / "f_itself")
    (tree / "g_broken").symlink_to(tree / "nothing")
    found = dict(names(tree, scratch=tmp_path))
    assert found["c_out"] == found["e_loop"] == found["f_itself"] == found["g_broken"] == "outside_link"
    assert found["d_in"] is None
    assert names(tree / "f*", tree / "g*", scratch=tmp_path) == [("f_itself", "outside_link"), ("g_broken", "outside_link")]


def test_globs_files_and_folders_name_each_file_once(tree: Path, tmp_path: Path) -> None:
    expected = [("y.txt", None), ("b.txt", None), (".git", "hidden"), (".secret", "hidden"), ("a/z.md", None)]
    assert names(tree / "**" / "*.txt", tree, tree / "b.txt", scratch=tmp_path) == expected
    assert names(tree / "*", scratch=tmp_path) == [("y.txt", None), ("z.md", None), ("b.txt", None)]  # as a shell would


def test_names_do_not_depend_on_where_the_source_lies(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names("a tree", scratch=tmp_path) == names(tree, scratch=tmp_path)
    assert [file.label for file in find_files(["a tree/b.txt"], tmp_path)] == ["a tree/b.txt"]


def test_a_folder_that_may_not_be_entered_is_counted(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Path.iterdir

    def refuse(path: Path) -> object:
        if path.name == "a":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert dict(names(tree, scratch=tmp_path)) == {".git": "hidden", ".secret": "hidden", "a": "unreadable", "b.txt": None}


def test_a_saved_dataset_is_its_tables_alone(tree: Path, tmp_path: Path) -> None:
    (tree / "a" / "state.json").write_text('{"_data_files": [{"filename": "z.md"}, {"filename": "../b.txt"}]}')
    expected = [(".git", "hidden"), (".secret", "hidden"), ("a/z.md", None), ("b.txt", None)]
    assert names(tree, scratch=tmp_path) == expected
    (tree / "dataset_dict.json").write_text('{"splits": ["a", "/etc"]}')
    assert names(tree, scratch=tmp_path) == [("a/z.md", None)]
    (tree / "a" / "state.json").write_text("[")
    assert ("a/y.txt", None) in names(tree, scratch=tmp_path)


def test_a_corpus_folder_is_its_documents_alone(tree: Path, tmp_path: Path) -> None:
    corpus = tree / "a"
    for name in ("documents-00001.jsonl.zst", "documents-00000.jsonl.zst", "dropped-00000.jsonl.zst", "trace/index", "report.html"):
        (corpus / name).parent.mkdir(exist_ok=True)
        (corpus / name).write_text("text")
    assert len(names(corpus, scratch=tmp_path)) == 7
    (corpus / "manifest.json").write_text("{}")
    parts = ["documents-00000.jsonl.zst", "documents-00001.jsonl.zst"]
    assert names(corpus, scratch=tmp_path) == [(name, None) for name in parts]
    expected = [(".git", "hidden"), (".secret", "hidden"), *((f"a/{name}", None) for name in parts), ("b.txt", None)]
    assert names(tree, scratch=tmp_path) == expected


def test_a_dataset_of_the_hub_is_one_source(tmp_path: Path) -> None:
    (file,) = find_files(["hf:owner/name:train"], tmp_path)
    assert (file.name, file.label, file.remote, file.reason) == ("hf:owner/name:train", "hf:owner/name:train", True, None)
    with pytest.raises(SettingError, match="no dataset of the Hub"):
        find_files(["hf:name"], tmp_path)


def test_standard_input_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe")))
    (file,) = find_files(["-"], tmp_path)
    assert (file.label, file.bytes, file.path.read_bytes()) == ("-", 11, b"from a pipe")


@pytest.mark.parametrize("source", ["no/such/file.txt", "*.nothing", "**x"])
def test_a_missing_path_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match="no such file or folder"):
        find_files([source], tmp_path)


def test_a_name_that_is_no_unicode_is_readable_in_the_report(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    assert names(folder, scratch=tmp_path) == [("caf\ufffd.txt", None)]


def test_the_standard_library_is_there_without_its_tests() -> None:
    sources = standard_library_sources()
    assert any(path.endswith("json/decoder.py") for path in sources)
    assert not any("/test/" in path or "site-packages" in path for path in sources)
    assert len(sources) > 400
