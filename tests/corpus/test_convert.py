"""Records of every format become documents, or are dropped with a reason; nothing raises."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.corpus import extract
from foretell.corpus.config import CorpusSettings
from foretell.corpus.convert import convert
from foretell.corpus.document import Document, Dropped, Raw, document_id

SETTINGS = CorpusSettings()


def raw(content: bytes | str, kind: str = "text", number: int = 0, **metadata: Any) -> Raw:
    return Raw("a/b", "given/a/b", number, content, kind, metadata)


def document(content: bytes | str, kind: str = "text", settings: CorpusSettings = SETTINGS, **metadata: Any) -> Document:
    converted = convert(raw(content, kind, 3, **metadata), settings)
    assert isinstance(converted, Document), converted
    return converted


def dropped(content: bytes | str, kind: str = "text", settings: CorpusSettings = SETTINGS) -> Dropped:
    converted = convert(raw(content, kind), settings)
    assert isinstance(converted, Dropped), converted
    return converted


def test_plain_text_is_itself() -> None:
    assert document("grüße\n".encode(), part=3) == Document(
        document_id("a/b", 3, "grüße\n".encode()), "grüße\n", "given/a/b", {"format": "text", "part": 3}
    )
    assert document("grüße\n").id == document("grüße\n".encode()).id


def test_json_keeps_its_other_fields_and_says_where_it_stood() -> None:
    line = b'{"content": "first", "n": 1.5, "tags": ["a"]}'
    found = document(line, "json")
    assert (found.text, found.source, found.id) == ("first", "given/a/b:3", document_id("a/b", 3, line))
    assert found.metadata == {"format": "json", "line": 3, "text_field": "content", "fields": {"n": 1.5, "tags": ["a"]}}


def test_json_that_the_quick_reader_refuses_or_rounds() -> None:
    line = b'{"text": "h\\ud800", "score": NaN, "big": 1e999, "id": 123456789012345678901, "k": ["\\udfff"], "f": 1e30}'
    found = document(line, "json", SETTINGS.replace(max_undecodable=1))
    assert found.text == "h\ufffd"
    assert found.metadata["fields"] == {"score": None, "big": None, "id": 123456789012345678901, "k": ["\ufffd"], "f": 1e30}
    assert document(b'{"text": "x", "id": 123456789012345678901}', "json").metadata["fields"] == {"id": 123456789012345678901}
    json.dumps(found.metadata, allow_nan=False)


def test_json_in_another_encoding_is_said_to_be() -> None:
    line = json.dumps({"text": "Все счастливые семьи похожи друг на друга"}, ensure_ascii=False)
    found = document(line.encode("cp1251"), "json")
    assert found.text == json.loads(line)["text"]
    assert found.metadata["encoding"] == "cp1251 (guessed)"
    assert document(line.encode("utf-16"), "json", SETTINGS.replace(encoding="utf-16")).text == found.text
    assert document(line, "json").text == found.text


@pytest.mark.parametrize(
    ("line", "reason", "excerpt"),
    [
        (b"{broken", "broken_json", "{broken"),
        (b"[" * 100_000, "broken_json", "[" * 240),
        (b'{"n": ' + b"9" * 5000 + b', "text": "x"', "broken_json", '{"n": ' + "9" * 234),
        (b'{"title": "no text"}', "no_text_field", "fields: title"),
        (b"[1]", "no_text_field", "[1]"),
        (b'{"text": 5}', "no_text_field", "fields: text"),
        (b'{"text": " "}', "empty", ""),
        (b"null", "no_text_field", "null"),
    ],
)
def test_json_without_a_text(line: bytes, reason: str, excerpt: str) -> None:
    found = dropped(line, "json")
    assert (found.reason, found.excerpt, found.bytes) == (reason, excerpt, len(line))


def test_the_text_field_can_be_named() -> None:
    assert document(b'{"text": "not me", "story": "me"}', "json", SETTINGS.replace(text_field="story")).text == "me"
    assert document(b'{"text": "else I"}', "json", SETTINGS.replace(text_field="story")).text == "else I"
    assert dropped(b'{"story": 5}', "json", SETTINGS.replace(text_field="story")).reason == "no_text_field"


def test_rows_are_text_with_their_columns() -> None:
    found = document("cell\ud800", "row", SETTINGS.replace(max_undecodable=1), fields={"url": "u"})
    assert (found.text, found.source) == ("cell\ufffd", "given/a/b:3")
    assert found.metadata == {"format": "row", "fields": {"url": "u"}, "replaced_characters": 1}


def test_pages_say_their_encoding_or_the_server_does() -> None:
    page = '<meta http-equiv="x" content="text/html; charset=iso-8859-1"><p>“café”'
    found = document(page.encode("cp1252"), "html")
    assert (found.text, found.metadata["encoding"]) == (page, "cp1252")
    assert document("<p>日本語".encode("shift_jis"), "html", charset="Shift_JIS").text == "<p>日本語"


def test_few_bad_bytes_are_replaced_and_counted_many_drop_the_text() -> None:
    assert document(b"caf\xe9 " + b"good text " * 50).metadata["replaced_characters"] == 1
    assert dropped(b"d\xe9j\xe0 vu").reason == "not_utf8"
    assert dropped(b"a\0b and more").reason == "binary"
    assert dropped(b"").reason == dropped("\n \n").reason == "empty"


def test_mending_is_said_and_can_be_turned_off() -> None:
    found = document("schÃ¶n".encode())
    assert (found.text, found.metadata) == ("schön", {"format": "text", "repaired": True})
    assert document(b'{"text": "sch\\u00c3\\u00b6n"}', "json").metadata["repaired"]
    assert document("schÃ¶n".encode(), settings=SETTINGS.replace(repair=False)).text == "schÃ¶n"


def test_papers_are_read_and_their_titles_stand_beside_the_fields() -> None:
    found = document(b"Subject: Tides\n\nwords\n", "email", fields={"box": "in"})
    assert (found.text, found.metadata) == ("words\n", {"format": "email", "fields": {"box": "in", "subject": "Tides"}})
    broken = dropped(b"%PDF", "pdf")
    assert (broken.reason, broken.bytes) == ("broken_document", 4)
    assert "Failed to load" in broken.excerpt
    assert dropped(b"Content-Type: image/png\n\n\0", "email").reason == "empty"


KINDS = ["text", "code", "markdown", "html", "xml", "json", "row", "pdf", "docx", "epub", "email"]
STARTS = [
    b"",
    b"%PDF-1.7\n",
    b"PK\3\4",
    b"<?xml version='1.0' encoding='utf-16'?>",
    b'{"text": "',
    b"\xff\xfe",
    b"<meta charset=hz>",
]
STARTS += [
    b"Content-Type: text/html; charset=big5\n\n",
    b"From: =?utf-8?q?=ff?= <a@b\nSubject: =?x?b?=\nContent-Type: multipart/mixed; boundary=a\n\n--a\n",
]


@pytest.mark.parametrize("kind", KINDS)
def test_no_bytes_raise(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "main_text", lambda html, settings: html, raising=False)

    @settings(deadline=None, derandomize=True, max_examples=60)
    @given(st.sampled_from(STARTS), st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
    def check(start: bytes, rest: bytes) -> None:
        found = convert(raw(start + rest, kind), SETTINGS)
        if isinstance(found, Document):
            found.text.encode()
            json.dumps(found.metadata, allow_nan=False).encode()

    check()


@pytest.mark.parametrize("kind", ["text", "json", "row", "html"])
def test_no_text_raises(kind: str) -> None:
    @settings(deadline=None, derandomize=True, max_examples=60)
    @given(st.text(st.characters(exclude_categories=()), max_size=100))
    def check(text: str) -> None:
        found = convert(raw(text, kind), SETTINGS)
        assert isinstance(found, Dropped) or found.text.encode()

    check()
