"""PDF, DOCX, EPUB, e-mail and XML: whole ones, broken ones, locked ones and hostile ones."""

import io
import random
import zipfile
from email.message import EmailMessage

import pytest

from foretell.corpus import extract
from foretell.corpus.config import CorpusSettings
from foretell.corpus.papers import Refused, read_paper

SETTINGS = CorpusSettings()
CONTAINER = "<container><rootfiles><rootfile full-path='O/book.opf'/></rootfiles></container>"
LOCK = b"/Encrypt << /Filter /Standard /V 1 /R 2 /O (%s) /U (%s) /P -4 >> /ID [(a) (a)]" % (b"x" * 32, b"y" * 32)


def reason(content: bytes, kind: str, settings: CorpusSettings = SETTINGS) -> str:
    with pytest.raises(Refused) as caught:
        read_paper(content, kind, settings)
    return caught.value.reason


def pdf(*pages: str, trailer: bytes = b"") -> bytes:
    kids = b" ".join(b"%d 0 R" % (5 + 2 * page) for page in range(len(pages)))
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages))]
    objects += [
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        b"<< /Title (A Title) /Author (Ann) >>",
    ]
    for number, page in enumerate(pages):
        lines = b" ".join(b"(%s) Tj T*" % line for line in page.encode("cp1252").split(b"\n"))
        drawn = b"BT /F1 12 Tf 14 TL 50 700 Td %s ET" % lines
        resources = b"/MediaBox [0 0 600 800] /Resources << /Font << /F1 3 0 R >> >>"
        objects.append(b"<< /Type /Page /Parent 2 0 R /Contents %d 0 R %s >>" % (6 + 2 * number, resources))
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn))
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (number, item) for number, item in enumerate(objects, 1))
    return b"%PDF-1.4\n" + body + b"trailer << /Root 1 0 R /Info 4 0 R %s >>\n%%%%EOF\n" % trailer


def zipped(members: dict[str, str | bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def epub(chapters: dict[str, str | bytes], **more: str | bytes) -> bytes:
    items = "".join(f"<item id='i{i}' href='{name}' media-type='application/xhtml+xml'/>" for i, name in enumerate(chapters))
    items += "<item id='toc' href='toc.xhtml' media-type='application/xhtml+xml' properties='nav'/>"
    spine = "<itemref idref='toc'/>" + "".join(f"<itemref idref='i{i}'/>" for i in reversed(range(len(chapters))))
    about = (
        "<metadata xmlns:dc='http://purl.org/dc/elements/1.1/'><dc:title>Tides</dc:title><dc:creator>Ann</dc:creator></metadata>"
    )
    package = f"<package xmlns='http://www.idpf.org/2007/opf'>{about}<manifest>{items}</manifest><spine>{spine}</spine></package>"
    inside = {f"O/{name}": content for name, content in chapters.items() if not name.startswith("..")}
    return zipped({"META-INF/container.xml": CONTAINER, "O/book.opf": package, "O/toc.xhtml": "<p>toc</p>"} | inside | more)


def docx(**said: str) -> bytes:
    import docx as library

    paper, stream = library.Document(), io.BytesIO()
    paper.core_properties.title = "Tides"
    paper.core_properties.author = ""
    paper.add_heading("Heading")
    paper.add_paragraph("one\ttab\nbreak")
    table = paper.add_table(2, 2)
    for cell, text in zip([cell for row in table.rows for cell in row.cells], "abcd", strict=True):
        cell.text = text
    paper.add_paragraph(said.get("end", "after"))
    paper.save(stream)
    return stream.getvalue()


def message(**parts: str) -> bytes:
    mail = EmailMessage()
    mail["Subject"], mail["From"] = "Grüße an alle", "ann@example.org"
    if "plain" in parts:
        mail.set_content(parts["plain"], charset="iso-8859-1")
    if "html" in parts:
        (mail.add_alternative if "plain" in parts else mail.set_content)(parts["html"], subtype="html")
    mail.add_attachment(b"\0\1", maintype="image", subtype="png", filename="a.png")
    return mail.as_bytes()


def test_pdf_pages_and_words_that_were_split() -> None:
    text, metadata = read_paper(pdf("An exam-\nple from Anglo-\nSaxon days", "", "page – three"), "pdf", SETTINGS)
    assert text == "An example from Anglo-\nSaxon days\n\npage – three"
    assert metadata == {"fields": {"title": "A Title", "author": "Ann"}}


def test_pdfs_that_cannot_be_read() -> None:
    assert reason(pdf("secret", trailer=LOCK), "pdf") == "encrypted"
    assert reason(b"%PDF-1.4", "pdf") == reason(b"", "pdf") == reason(pdf("x")[:200], "pdf") == "broken_document"
    assert read_paper(pdf(""), "pdf", SETTINGS)[0] == ""
    assert reason(pdf(*["a line of words\n" * 40] * 4), "pdf", SETTINGS.replace(max_document_bytes=1024)) == "too_large"


def test_pages_beyond_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foretell.corpus.papers.MAX_PAGES", 2)
    text, metadata = read_paper(pdf("one", "two", "three"), "pdf", SETTINGS)
    assert (text, metadata["pages_left_out"]) == ("one\n\ntwo", 1)


def test_docx_paragraphs_and_tables_in_order() -> None:
    text, metadata = read_paper(docx(), "docx", SETTINGS)
    assert text == "Heading\n\none\ttab\nbreak\n\na\tb\nc\td\n\nafter"
    assert metadata == {"fields": {"title": "Tides"}}


def test_docx_insertions_and_controls_are_read_and_deletions_are_not() -> None:
    members = {
        name: zipfile.ZipFile(io.BytesIO(docx(end="MARK"))).read(name) for name in zipfile.ZipFile(io.BytesIO(docx())).namelist()
    }
    new = b"new</w:t></w:r><w:ins><w:r><w:t>er</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del><w:r><w:t>"
    body = members["word/document.xml"].replace(b"MARK", new)
    control = b"<w:sdt><w:sdtContent><w:p><w:r><w:t>held</w:t></w:r></w:p></w:sdtContent></w:sdt><w:sectPr"
    members["word/document.xml"] = body.replace(b"<w:sectPr", control, 1)
    assert read_paper(zipped(members), "docx", SETTINGS)[0].endswith("c\td\n\nnewer\n\nheld")


def test_docx_that_cannot_be_read() -> None:
    assert reason(b"\xd0\xcf\x11\xe0" + "EncryptedPackage".encode("utf-16-le"), "docx") == "encrypted"
    assert reason(b"\xd0\xcf\x11\xe0 an old one", "docx") == "wrong_format"
    assert reason(zipped({"a": "b"}), "docx") == reason(docx()[:-30], "docx") == "broken_document"
    with pytest.raises(Refused) as refused:
        read_paper(zipped({"[Content_Types].xml": "<Types/>"}), "docx", SETTINGS)
    assert refused.value.excerpt == "a part is missing or damaged that every docx file has"
    assert reason(zipped({"word/document.xml": b"\0" * 2**25}), "docx") == "gzip_bomb"


def test_epub_chapters_follow_the_spine() -> None:
    second = "<html><head><title/><script src='x'/></head><body><h1>Two</h1><p>a<a id='x'/> <i>b</i><br/>c</p></body></html>"
    first = "<?xml version='1.0' encoding='iso-8859-1'?><html><body><div>é</div><p>last</p></body></html>".encode("latin-1")
    text, metadata = read_paper(
        epub({"b%20b.xhtml": "<p>zero</p>", "c.xhtml": first, "a.xhtml": second}, **{"O/b b.xhtml": "<p>end</p>"}), "epub", SETTINGS
    )
    assert text == "Two\n\na b\nc\n\né\n\nlast\n\nend"
    assert metadata == {"fields": {"title": "Tides", "author": "Ann"}, "encoding": "cp1252"}


def test_locked_epubs_are_told_from_those_with_hidden_fonts() -> None:
    def locked(method: str) -> bytes:
        part = f"<x><e xmlns='http://www.w3.org/2001/04/xmlenc#'><EncryptionMethod Algorithm='{method}'/></e></x>"
        return epub({"a.xhtml": "<p>words</p>"}, **{"META-INF/encryption.xml": part})

    assert reason(locked("http://www.w3.org/2001/04/xmlenc#aes128-cbc"), "epub") == "encrypted"
    assert read_paper(locked("http://www.idpf.org/2008/embedding"), "epub", SETTINGS)[0] == "words"
    assert reason(epub({"a.xhtml": ""}, **{"META-INF/rights.xml": ""}), "epub") == "encrypted"


def test_hostile_epubs() -> None:
    assert reason(epub({"../../../../etc/passwd": ""}), "epub") == "broken_document"  # no such member
    assert reason(epub({"a.xhtml": b" " * 2**25}), "epub") == "gzip_bomb"
    small = SETTINGS.replace(max_document_bytes=1024)
    assert reason(epub({"a.xhtml": "<p>many words</p>" * 999}), "epub", small) == "too_large"
    assert reason(epub({"a.xhtml": "<p>word</p>" * 300}), "epub", small) == "too_large"


def test_the_plain_part_of_a_message_is_its_text() -> None:
    text, metadata = read_paper(message(plain="Déjà vu\r\n", html="<p>page</p>"), "email", SETTINGS)
    assert text == "Déjà vu\n"
    assert metadata == {"fields": {"subject": "Grüße an alle"}, "attachments": 1, "encoding": "cp1252"}


def test_else_the_main_text_of_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "main_text", lambda html, settings: f"main: {html.strip()}", raising=False)
    assert read_paper(message(html="<p>page</p>"), "email", SETTINGS)[0] == "main: <p>page</p>"


@pytest.mark.parametrize("charset", ["nonsense", "unicode_escape", "utf-16"])
def test_strange_charsets_do_no_harm(charset: str) -> None:
    content = f"Subject: =?{charset}?q?x?=\nContent-Type: text/plain; charset={charset}\n\nwords \\n\n".encode()
    assert read_paper(content, "email", SETTINGS)[0] == "words \\n\n"


def test_messages_without_a_text() -> None:
    assert read_paper(b"Subject: x\nContent-Type: image/png\n\n\0\1", "email", SETTINGS) == ("", {"fields": {"subject": "x"}})
    assert reason(b"Content-Type: multipart/encrypted; boundary=x\n\n--x--", "email") == "encrypted"


def test_header_fields_that_take_long_to_parse_are_refused() -> None:
    for field in (
        'Content-Type: """' + '"' * 30_000,
        "Content-Type: text/plain; " + "a=b;" * 25_000,
        "Subject: x\n" + " =?" * 9_000,
    ):
        assert reason(f"{field}\n\nwords".encode(), "email") == "broken_document"
    assert read_paper(b"To: " + b"ann@example.com, " * 9_000 + b"\n\nwords", "email", SETTINGS)[0] == "words"
    parts = ('--x\nContent-Type: text/plain; a="' + '"' * 2_000 + '"\n\nwords\n') * 50
    assert reason(f"Content-Type: multipart/mixed; boundary=x\n\n{parts}--x--".encode(), "email") == "broken_document"


def test_xml_blocks() -> None:
    content = (
        "<?xml version='1.0' encoding='utf-16'?><d><!-- c --><t>A  title</t><s><p>one <i>two</i>,\nthree</p><p>four</p></s><e/></d>"
    )
    text, metadata = read_paper(content.encode("utf-16"), "xml", SETTINGS)
    assert text == "A title\n\none two, three\n\nfour"
    assert metadata == {"encoding": "utf-16"}


def test_hostile_xml() -> None:
    levels = "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 10))
    assert reason(f"<!DOCTYPE d [<!ENTITY e0 'lol'>{levels}]><d><p>a&e9;b</p></d>".encode(), "xml") == "broken_document"
    outside = "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><d><p>a&x;b</p><p>&x;</p></d>"
    assert read_paper(outside.encode(), "xml", SETTINGS)[0] == "ab"
    assert reason(b"<d>" * 100_000, "xml") == reason(b"<d><p></d>", "xml") == reason(b"", "xml") == "broken_document"


def whole(kind: str) -> bytes:
    match kind:
        case "pdf":
            return pdf("some words")
        case "docx":
            return docx()
        case "epub":
            return epub({"a.xhtml": "<p>words</p>"})
        case "email":
            return message(plain="words", html="<p>words</p>")
    return b"<d><p>words</p><p>more</p></d>"


@pytest.mark.parametrize("kind", ["pdf", "docx", "epub", "email", "xml"])
def test_damage_anywhere_is_never_an_exception(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "main_text", lambda html, settings: None, raising=False)
    noise, intact = random.Random(kind), whole(kind)
    for _ in range(60):
        content = bytearray(intact)
        for _ in range(noise.randint(1, 20)):
            content[noise.randrange(len(content))] = noise.randrange(256)
        try:
            text, _ = read_paper(bytes(content[: noise.choice([None, noise.randrange(len(content))])]), kind, SETTINGS)
        except Refused:
            continue
        assert isinstance(text, str)
