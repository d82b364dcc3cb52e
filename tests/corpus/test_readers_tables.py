"""Parquet, Arrow, SQLite and datasets: every row, whole or in slices, and nothing of a hostile file is run."""

import json
import logging
import random
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foretell.base.errors import SettingError
from foretell.corpus.chunks import Left
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Dropped, Raw
from foretell.corpus.readers.open import records, slices
from foretell.corpus.sources import find_files

pa = pytest.importorskip("pyarrow")
SETTINGS = CorpusSettings()
ROWS = 50


def read(path: Path, settings: CorpusSettings = SETTINGS) -> list[Raw | Dropped]:
    return [item for file in find_files([str(path)], path.parent) for item in records(file, settings)]


def told(items: list[Raw | Dropped]) -> list[bytes | str]:
    return [item.reason if isinstance(item, Dropped) else item.content for item in items]


def table() -> Any:
    numbers = range(ROWS)
    return pa.table(
        {
            "id": list(numbers),
            "text": [f"grüße {number}" for number in numbers],
            "score": [number / 2 if number else float("nan") for number in numbers],
            "tags": [["a", None]] * ROWS,
            "image": [b"\xff"] * ROWS,
            "at": pa.array([datetime(2024, 1, 2)] * ROWS, pa.timestamp("ns", tz="UTC")),
            "kind": pa.array(["x", "y"] * (ROWS // 2)).dictionary_encode(),
        }
    )


def write(path: Path, rows: Any) -> Path:
    if path.suffix == ".parquet":
        __import__("pyarrow.parquet").parquet.write_table(rows, path, row_group_size=20)
    elif path.suffix == ".feather":
        __import__("pyarrow.feather").feather.write_feather(rows, path, chunksize=20)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows, max_chunksize=20)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow"])
def test_rows_keep_their_other_columns_as_json_has_them(name: str, tmp_path: Path) -> None:
    items = read(write(tmp_path / name, table()))
    assert [(item.number, item.content) for item in items if isinstance(item, Raw)] == [(n + 1, f"grüße {n}") for n in range(ROWS)]
    first = items[0]
    assert isinstance(first, Raw)
    assert first.metadata == {
        "text_field": "text",
        "fields": {"id": 0, "tags": ["a", None], "at": "2024-01-02T00:00:00", "kind": "x"},
    }
    json.dumps(first.metadata, allow_nan=False)
    assert (first.format, first.bytes) == ("row", len("grüße 0".encode()))


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow"])
@pytest.mark.parametrize("target_bytes", [1, 40, 1000, 10**9])
def test_slices_hold_what_the_file_holds(name: str, target_bytes: int, tmp_path: Path) -> None:
    path = write(tmp_path / name, table())
    (file,) = find_files([str(path)], path)
    parts = slices(file, SETTINGS, target_bytes)
    assert parts is not None
    assert len(parts) > 2 if target_bytes < 100 else len(parts) <= 3
    assert [item for part in parts for item in records(file, SETTINGS, part)] == list(records(file, SETTINGS))
    pieces = list(Left(None).share(file, parts, None))
    gone = [item for piece in pieces for item in records(replace(file, reason="changed"), SETTINGS, piece.part)]
    assert told(gone) == ["changed"] * len(parts)
    assert [item.bytes for item in gone] == [piece.bytes for piece in pieces]
    assert abs(sum(item.bytes for item in gone) - file.bytes) < len(parts)


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow"])
def test_columns_without_text_and_rows_without_text(name: str, tmp_path: Path) -> None:
    (dropped,) = read(write(tmp_path / name, pa.table({"a": ["x"], "b": [1]})))
    assert isinstance(dropped, Dropped)
    assert (dropped.reason, dropped.excerpt) == ("no_text_column", "columns: a, b")
    assert told(read(tmp_path / name, CorpusSettings(text_field="a"))) == ["x"]
    assert len(told(read(write(tmp_path / name, table()), CorpusSettings(text_field="a")))) == ROWS  # the usual names all the same
    (file,) = find_files([str(write(tmp_path / name, table().drop_columns("text")))], tmp_path)
    parts = slices(file, SETTINGS, 40) or []
    assert len(parts) > 2
    assert told([item for part in parts for item in records(file, SETTINGS, part)]) == ["no_text_column"]
    assert told(
        read(write(tmp_path / name, pa.table({"text": ["x", None, "", "y" * 2000]})), CorpusSettings(max_document_bytes=1024))
    ) == ["x", "empty", "empty", "too_large"]


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow"])
def test_damaged_tables_never_raise(name: str, tmp_path: Path) -> None:
    whole = write(tmp_path / name, table()).read_bytes()
    chance = random.Random(0)
    for number in range(60):
        damaged = bytearray(whole[: chance.randrange(20, len(whole))] if number % 2 else whole)
        for _ in range(3):
            damaged[chance.randrange(8, len(damaged))] = chance.randrange(256)
        (tmp_path / name).write_bytes(damaged)
        (file,) = find_files([str(tmp_path / name)], tmp_path)
        parts = slices(file, SETTINGS, 100)
        for part in [None, *(parts or [])]:
            reasons = {item.reason for item in records(file, SETTINGS, part) if isinstance(item, Dropped)}
            assert reasons <= {"broken_table", "no_text_field", "no_text_column", "empty", "too_large"}


def test_text_that_is_no_utf8_keeps_its_bytes(tmp_path: Path) -> None:
    column = pa.array([b"fine", "café".encode("latin-1")]).view(pa.string())
    assert told(read(write(tmp_path / "a.parquet", pa.table({"text": column})))) == [b"fine", "café".encode("latin-1")]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "a.db"
    connection = sqlite3.connect(path)
    connection.execute('CREATE TABLE "odd ""name" (id INTEGER PRIMARY KEY, body TEXT, image BLOB)')
    connection.executemany('INSERT INTO "odd ""name" VALUES (?, ?, ?)', [(1, "one", b"x"), (2, None, None), (3, "", None)])
    connection.execute("CREATE TABLE other (n INTEGER)")
    connection.execute("CREATE TABLE text (text TEXT)")
    connection.execute("INSERT INTO text VALUES (CAST(x'636166e9' AS TEXT))")
    connection.execute("CREATE VIEW hostile AS SELECT text FROM text")
    connection.commit()
    connection.close()
    yield path


def test_every_table_with_a_text_column_is_read(database: Path) -> None:
    items = read(database)
    assert told(items) == ["one", "empty", "empty", b"caf\xe9"]
    assert (items[0].name, items[0].metadata["fields"]) == ('a.db!/odd "name', {"id": 1})  # type: ignore[union-attr]
    assert [path.name for path in database.parent.iterdir()] == ["a.db"]


def test_a_query_may_choose(database: Path) -> None:
    assert told(read(database, CorpusSettings(sql='SELECT body AS text FROM "odd ""name" WHERE id = 1;'))) == ["one"]
    assert told(read(database, CorpusSettings(sql="SELECT n FROM other"))) == ["no_text_column"]
    assert told(read(database, CorpusSettings(sql="SELECT text FROM nowhere"))) == ["broken_table"]


@pytest.mark.parametrize("query", ["DROP TABLE text", "SELECT 1; DROP TABLE text", "ATTACH 'x' AS y", "PRAGMA writable_schema = 1"])
def test_a_query_that_is_no_select_is_refused(query: str, database: Path) -> None:
    with pytest.raises(SettingError, match="not a single SELECT"):
        read(database, CorpusSettings(sql=query))


@pytest.mark.parametrize("query", ["WITH x AS (SELECT 1) DELETE FROM text", "SELECT load_extension('x') AS text"])
def test_a_query_can_do_nothing_but_read(query: str, database: Path) -> None:
    before = database.read_bytes()
    assert told(read(database, CorpusSettings(sql=query))) == ["broken_table"]
    assert database.read_bytes() == before


def test_damaged_databases_never_raise(database: Path) -> None:
    whole, chance = database.read_bytes(), random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(20):
            damaged[chance.randrange(16, len(damaged))] = chance.randrange(256)
        database.write_bytes(damaged)
        list(read(database))


def test_datasets_saved_on_disk_are_read_in_the_order_of_their_state(tmp_path: Path) -> None:
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    for name in ("b.arrow", "a.arrow"):
        write(folder / name, pa.table({"text": [name]}))
    (folder / "dataset_info.json").write_text("{}")
    state = {"_data_files": [{"filename": "b.arrow"}, {"filename": "a.arrow"}, {"filename": "../outside.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))
    (folder.parent / "dataset_dict.json").write_text('{"splits": ["train"]}')
    for source in (folder, folder.parent, tmp_path):
        assert told(read(source)) == ["b.arrow", "a.arrow"]


def test_datasets_of_the_hub_stream_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*names: str, **options: Any) -> Iterator[dict[str, Any]]:
        asked.append((names, options))
        if names[0] == "no/where":
            raise FileNotFoundError("no such dataset")
        return iter([{"content": "a", "n": 1, "image": object()}, {"content": "b", "n": 2, "image": object()}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.chdir(tmp_path)
    (file,) = find_files(["hf:some/name/config:test"], tmp_path)
    items = list(records(file, SETTINGS))
    assert told(items) == ["a", "b"]
    assert items[1].metadata == {"text_field": "content", "fields": {"n": 2}}  # type: ignore[union-attr]
    assert asked == [(("some/name", "config"), {"split": "test", "streaming": True})]
    assert slices(file, SETTINGS, 1) is None
    with pytest.raises(SettingError, match="cannot be opened: FileNotFoundError: no such dataset"):
        list(records(find_files(["hf:no/where"], tmp_path)[0], SETTINGS))
    assert not logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING)  # each try, in the library's words
    assert asked[1] == (("no/where",), {"split": "train", "streaming": True})


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SettingError, match=r'pip install "foretell\[datasets\]"'):
        list(records(find_files(["hf:some/name"], tmp_path)[0], SETTINGS))
