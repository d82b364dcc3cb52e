"""The rows of SQLite databases, opened so that nothing in them can run or be changed."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from foretell.base.errors import SettingError
from foretell.corpus.config import CorpusSettings
from foretell.corpus.readers.entry import TEXT_FIELDS, Entry, Records
from foretell.corpus.readers.tables import row_record, text_column

ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
TABLES = (
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND sql LIKE 'CREATE TABLE%' ORDER BY rowid"
)


def checked_query(settings: CorpusSettings) -> str | None:
    """The query for SQLite files. Raises SettingError where it is not one SELECT."""
    query = (settings.sql or "").strip().rstrip(";")
    if query and (not query.upper().startswith(("SELECT", "WITH")) or ";" in query):
        cure = "write SELECT column FROM table, without a semicolon"
        raise SettingError("the query is not a single SELECT", where="corpus.sql", cure=cure)
    return query or None


def read_sqlite(entry: Entry, path: Path | None) -> Records:
    """The rows of the query, or of every table that has a text column. path: the file's; absent = in the stream."""
    query = checked_query(entry.settings)
    try:
        with closing(_connect(entry, path)) as connection:
            if query:
                yield from _rows(entry, connection, query)
                return
            tables = [str(name) for (name,) in connection.execute(TABLES)]
            queries = {name: f'SELECT * FROM "{name.replace(chr(34), chr(34) * 2)}"' for name in tables}  # noqa: S608 - quoted
            found = {name: told for name, told in queries.items() if text_column(_columns(connection, told), entry.settings)}
            for name, told in found.items():
                yield from _rows(replace(entry, name=f"{entry.name}!/{name}", label=f"{entry.label}!/{name}"), connection, told)
            if not found:
                yield entry.dropped("no_text_column", f"tables: {', '.join(tables)}")
    except (sqlite3.Error, sqlite3.Warning, UnicodeError, OverflowError, MemoryError) as error:
        yield entry.dropped("broken_table", str(error))


def _connect(entry: Entry, path: Path | None) -> sqlite3.Connection:
    if path is None:
        connection = sqlite3.connect(":memory:")
        connection.deserialize(entry.stream.read())
    else:  # immutable: not even a lock is written; where a log lies beside the file it has to be read
        told = "mode=ro" if path.with_name(path.name + "-wal").exists() else "mode=ro&immutable=1"
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?{told}", uri=True)
    connection.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, entry.whole_bytes)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in ALLOWED else sqlite3.SQLITE_DENY)
    return connection


def _columns(connection: sqlite3.Connection, query: str) -> list[str]:
    return [str(column[0]) for column in connection.execute(f"{query} LIMIT 0").description]


def _rows(entry: Entry, connection: sqlite3.Connection, query: str) -> Records:
    cursor = connection.execute(query)
    names = [str(column[0]) for column in cursor.description]
    column = text_column(names, entry.settings)
    if column is None:
        yield entry.dropped(
            "no_text_column", f"columns: {', '.join(names)}; wanted: {entry.settings.text_field or ', '.join(TEXT_FIELDS)}"
        )
        return
    for number, row in enumerate(cursor, start=1):
        yield from row_record(entry, number, dict(zip(names, row, strict=True)), column)
