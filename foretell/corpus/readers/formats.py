"""What kind of file it is: by its first bytes where these say so, else by its name."""

import re
from pathlib import PurePosixPath

from foretell.corpus.encoding import MARKS, unmarked_utf16

KINDS_BY_ENDING = """text txt text, markdown md markdown, html htm html xhtml, xml xml, jsonl jsonl ndjson, json json, csv csv,
tsv tsv, parquet parquet, arrow arrow feather, sqlite sqlite sqlite3 db, warc warc wet, mbox mbox, email eml, pdf pdf, epub epub,
docx docx, urls urls, zip zip, tar tar, gz gz tgz, bz2 bz2 tbz2, xz xz txz, zst zst, lz4 lz4, binary xlsx pptx odt ods odp jar"""
LANGUAGES_BY_ENDING = """Python py pyi, C c h, C++ cc cpp cxx hpp hh, C# cs, CUDA cu cuh, Java java, Kotlin kt kts, Scala scala,
Groovy groovy, JavaScript js mjs cjs jsx, TypeScript ts tsx, Go go, Rust rs, Swift swift, Objective-C m mm, Ruby rb, PHP php,
Perl pl pm, Lua lua, R r, Julia jl, Haskell hs, OCaml ml mli, F# fs, Erlang erl, Elixir ex exs, Clojure clj, Lisp lisp el scm,
Fortran f90 f95 f, Pascal pas, Ada adb ads, Assembly asm s, Shell sh bash zsh, PowerShell ps1, SQL sql, Dart dart, Zig zig,
Nim nim, CSS css scss, TeX tex, CMake cmake, TOML toml, YAML yaml yml"""


def _by_ending(told: str) -> dict[str, str]:
    groups = [group.split() for group in told.split(",")]
    return {f".{ending}": name for name, *endings in groups for ending in endings}


KINDS, LANGUAGES = _by_ending(KINDS_BY_ENDING), _by_ending(LANGUAGES_BY_ENDING)
MAGIC = {
    b"%PDF-": "pdf",
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"FEA1": "arrow",
    b"\xff\xff\xff\xff": "arrow",
    b"SQLite format 3\0": "sqlite",
    b"WARC/0.": "warc",
    b"WARC/1.": "warc",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gz",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"\x04\x22\x4d\x18": "lz4",
}
BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")
IN_ZIP = {"zip", "docx", "epub", "binary"}  # binary: what is a zip file inside but holds no documents of its own
COMPRESSED = {"gz", "bz2", "xz", "zst", "lz4"}
LINES = {"text", "markdown", "code", "jsonl"}
TEXTUAL = LINES | {"html", "xml", "json", "csv", "tsv", "mbox", "email", "urls"}
SIGNS = {b"<!doctype html": "html", b"<html": "html", b"<?xml": "xml", b'{"': "jsonl"}  # looked for where the name says nothing
MBOX = re.compile(rb"From \S+ [^\n]{0,80}\d{4}\r?\n[\w-]+:")


def kind_of(name: str, head: bytes) -> tuple[str, str | None]:
    """What the file is, and what its name calls it where that is something else; `wrong_format` where nobody knows."""
    ending = PurePosixPath(name).suffix.lower()
    named = KINDS.get(ending, "code" if ending in LANGUAGES else "")
    found, binary = _by_magic(head), b"\0" in head and encoding_of(head) is None
    if named == "pdf" and b"%PDF-" in head[:1024]:  # some have a few bytes before it
        found = "pdf"
    if (found in IN_ZIP and named in IN_ZIP) or (named == "tar" and found is None):
        return named, None
    if named in TEXTUAL and (found is None or (found in {"parquet", "arrow"} and b"\0" not in head)):
        if named == "json" and _has_one_object_a_line(head):
            named = "jsonl"
        return ("binary" if binary else named), None
    if found is None:
        found = "binary" if binary else _by_signs(head)
        if named in {"", "binary"}:
            return (named or found), None
        if found in {"text", "binary"}:
            return "wrong_format", None
    return found, named if named not in {"", found} else None


def encoding_of(head: bytes) -> str | None:
    """UTF-16 or UTF-32 where a mark, or the zeros of every other byte, say so."""
    marked = next((encoding for mark, encoding in MARKS.items() if head.startswith(mark)), None)
    return unmarked_utf16(head) if marked is None else None if marked == "utf-8-sig" else marked


def language_of_code(name: str) -> str | None:
    """The programming language that the ending of a name stands for."""
    return LANGUAGES.get(PurePosixPath(name).suffix.lower())


def inner_name(name: str) -> str:
    """The name of what a compressed file holds."""
    path = PurePosixPath(name)
    if path.suffix.lower() in {".tgz", ".tbz2", ".txz"}:
        return str(path.with_suffix(".tar"))
    return str(path.with_suffix("")) if KINDS.get(path.suffix.lower()) in COMPRESSED else name


def _by_magic(head: bytes) -> str | None:
    if head[257:262] == b"ustar":
        return "tar"
    found = "bz2" if BZIP2.match(head) else next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)
    if found == "zip":
        return "epub" if b"mimetypeapplication/epub+zip" in head[:100] else "docx" if b"word/" in head else "zip"
    return found


def _by_signs(head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if MBOX.match(start):
        return "mbox"
    return next((kind for sign, kind in SIGNS.items() if start.lower().startswith(sign)), "text")


def _has_one_object_a_line(head: bytes) -> bool:
    """Not one array or object over many lines: its first line is a whole object, or does not end here."""
    first, end, _ = head.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")
    return first.startswith(b"{") and (not end or first.rstrip().endswith(b"}"))
