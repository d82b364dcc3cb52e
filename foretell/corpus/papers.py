"""The text of papers that are not text files: PDF, DOCX, EPUB, e-mail, XML. Nothing is executed, fetched or written to disk."""

import importlib
import io
import posixpath
import re
import zipfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from foretell.base.errors import ForetellError
from foretell.corpus.config import CorpusSettings
from foretell.corpus.encoding import HEAD_BYTES, decode

MAX_PAGES, BOMB_BYTES = 5_000, 2**24
MAX_FIELD = 8_000  # characters of header fields that are parsed, which takes the square; lists of recipients are not
CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([\w-]+)|<\?xml[^>]{0,200}encoding=[\"']([\w-]+)", re.IGNORECASE)
SPLIT_WORD = re.compile(
    "(?<=[^\\W\\d_])(?:[-\u00ad\u2010]\n|[\x02\ufffe]\n?)(?=([^\\W\\d_]))"
)  # PDFium gives U+0002 or U+FFFE for some hyphens
SELF_CLOSED = re.compile(r"<(a|b|i|p|div|em|script|section|span|strong|style|td|th|title)\b([^<>]*)/>", re.IGNORECASE)
FONTS_ONLY = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")  # hides the fonts, not the text
PACKAGED = "EncryptedPackage".encode("utf-16-le")  # the stream's name in an encrypted DOCX
WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
FALLBACK = "*[local-name()='Fallback']"  # a text box once more, for old programs
LEAVES = "self::w:t or self::w:tab[not(parent::w:tabs)] or self::w:br or self::w:cr or self::w:noBreakHyphen"
WORD_LEAVES = f".//*[{LEAVES}][not(ancestor::{FALLBACK})]"
PIECES = {f"{WORD}tab": "\t", f"{WORD}br": "\n", f"{WORD}cr": "\n", f"{WORD}noBreakHyphen": "-"}


class Refused(Exception):
    """A record has no text to give. reason: one of reasons.toml."""

    def __init__(self, reason: str, excerpt: str = "") -> None:
        super().__init__(reason)
        self.reason, self.excerpt = reason, excerpt


def read_paper(content: bytes, kind: str, settings: CorpusSettings) -> tuple[str, dict[str, Any]]:
    """The text of a PDF, DOCX, EPUB, e-mail or XML file, and its metadata: `fields` (title, author, subject), what was left out.

    Raises Refused where it is broken, encrypted, larger than `max_document_bytes` or a bomb.
    """
    reader = {"pdf": _pdf, "docx": _docx, "epub": _epub, "email": _email, "xml": _xml}[kind]
    try:
        text, metadata = reader(content, settings)
    except (ForetellError, Refused):
        raise
    except Exception as error:  # on broken input these libraries raise KeyError, AttributeError, RecursionError, … and their own
        missing = isinstance(error, LookupError | AttributeError | TypeError)  # whose words are the library's own
        told = f"a part is missing or damaged that every {kind} file has" if missing else str(error)
        raise Refused("broken_document", told) from error
    if len(text) > settings.max_document_bytes:
        raise Refused("too_large")
    if "fields" in metadata:
        metadata["fields"] = {name: value.strip() for name, value in metadata["fields"].items() if value and value.strip()}
    return text, {name: value for name, value in metadata.items() if value and value != "utf-8"}


def declared_encoding(content: bytes) -> str | None:
    """What the head of a page or XML file says that its encoding is."""
    found = CHARSET.search(content[:HEAD_BYTES])
    return (found[1] or found[2]).decode() if found else None


def _pdf(content: bytes, settings: CorpusSettings) -> tuple[str, dict[str, Any]]:
    """The text layer, page by page; a scan has none. Words that were split at the end of a line are put together."""
    pdfium = importlib.import_module("pypdfium2")
    try:
        paper = pdfium.PdfDocument(content)
    except pdfium.PdfiumError as error:
        raise Refused("encrypted" if error.err_code == pdfium.raw.FPDF_ERR_PASSWORD else "broken_document", str(error)) from error
    pages, length, left_out = [], 0, max(0, len(paper) - MAX_PAGES)
    try:
        for number in range(len(paper) - left_out):
            try:
                page = paper[number]
                text = page.get_textpage().get_text_bounded().replace("\r\n", "\n")
                page.close()  # and its text with it
            except pdfium.PdfiumError:
                left_out += 1
                continue
            pages.append(SPLIT_WORD.sub(lambda found: "" if found[1].islower() else "-\n", text).strip())
            length += len(text)
            if length > 2 * settings.max_document_bytes:
                raise Refused("too_large")
        said = paper.get_metadata_dict(skip_empty=True)
    finally:
        paper.close()
    fields = {name.lower(): said.get(name) for name in ("Title", "Author", "Subject")}
    return "\n\n".join(filter(None, pages)), {"fields": fields, "pages_left_out": left_out}


def _docx(content: bytes, settings: CorpusSettings) -> tuple[str, dict[str, Any]]:
    """Paragraphs with a blank line between them and tables as rows of cells with tabs between them, in the file's order."""
    if content.startswith(b"\xd0\xcf\x11\xe0"):
        raise Refused("encrypted" if PACKAGED in content else "wrong_format")
    _unzip(content, settings).close()
    paper = importlib.import_module("docx").Document(io.BytesIO(content))
    about = paper.core_properties
    return "\n\n".join(_word_blocks(paper.element.body)), {"fields": {"title": about.title, "author": about.author}}


def _word_blocks(parent: Any) -> Iterator[str]:
    """The blocks below an element. What tracked changes put in is text, what they took out is not."""
    for child in parent.iterchildren():
        if child.tag == f"{WORD}p":
            leaves = child.xpath(WORD_LEAVES)
            if text := "".join(PIECES.get(leaf.tag, leaf.text or "") for leaf in leaves).strip():
                yield text
        elif child.tag == f"{WORD}tbl":
            rows = child.xpath("./w:tr|./w:sdt/w:sdtContent/w:tr")
            yield "\n".join("\t".join(" ".join(_word_blocks(cell)) for cell in row.iterchildren(f"{WORD}tc")) for row in rows)
        else:  # content controls, insertions
            yield from _word_blocks(child)


def _unzip(content: bytes, settings: CorpusSettings) -> zipfile.ZipFile:
    """The archive, unless it is encrypted or says that it expands to too much (it cannot expand to more than it says)."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    if any(member.flag_bits & 1 for member in archive.infolist()):
        raise Refused("encrypted")
    if sum(member.file_size for member in archive.infolist()) > max(BOMB_BYTES, settings.max_expansion * len(content)):
        raise Refused("gzip_bomb")
    return archive


def _epub(content: bytes, settings: CorpusSettings) -> tuple[str, dict[str, Any]]:
    """The chapters in the order of the spine, without the table of contents. Names are looked up in the archive alone."""
    with _unzip(content, settings) as archive:
        names = set(archive.namelist())
        hidden = _tree(archive.read("META-INF/encryption.xml")) if "META-INF/encryption.xml" in names else ()
        methods = [item.get("Algorithm") for part in hidden for item in part.iterfind("{*}EncryptionMethod")]
        if "META-INF/rights.xml" in names or any(method not in FONTS_ONLY for method in methods):
            raise Refused("encrypted")
        root = _tree(archive.read("META-INF/container.xml")).find("{*}rootfiles/{*}rootfile").get("full-path")
        package = _tree(archive.read(root))
        items = {item.get("id"): item for item in package.iterfind("{*}manifest/{*}item")}
        spine = [items[item.get("idref")] for item in package.iterfind("{*}spine/{*}itemref") if item.get("idref") in items]
        hrefs = [item.get("href") for item in spine if "html" in item.get("media-type", "") and item.get("properties") != "nav"]
        chapters: list[str] = []
        encodings: dict[str, None] = {}
        for name in dict.fromkeys(posixpath.normpath(posixpath.join(posixpath.dirname(root), unquote(href))) for href in hrefs):
            if archive.getinfo(name).file_size + sum(map(len, chapters)) > 4 * settings.max_document_bytes:
                raise Refused("too_large")
            page = archive.read(name)
            told, encoding = decode(page, declared_encoding(page), settings)
            encodings |= {encoding: None} if encoding != "utf-8" else {}
            chapters.append(_page_text(told))
        about = {name: package.findtext(f"{{*}}metadata/{{*}}{tag}") for name, tag in (("title", "title"), ("author", "creator"))}
    return "\n\n".join(filter(None, chapters)), {"fields": about, "encoding": ", ".join(encodings)}


def _page_text(page: str) -> str:
    """All text of a chapter, with breaks between its blocks. Tags that XHTML closes in themselves are left open by HTML."""
    from resiliparse.extract.html2text import extract_plain_text

    page = SELF_CLOSED.sub(r"<\1\2></\1>", page)
    return str(extract_plain_text(page, main_content=False, list_bullets=False, alt_texts=False, form_fields=False)).strip()


def _email(content: bytes, settings: CorpusSettings) -> tuple[str, dict[str, Any]]:
    """The body: its plain part, else the main text of its page. The headers stay out of the text; attachments are counted."""
    import email
    from email import policy
    from email.message import EmailMessage

    work = 0

    class Bounded(policy.EmailPolicy):
        def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
            nonlocal work
            if sourcelines[0][:8].lower() in ("content-", "subject:"):
                work += sum(map(len, sourcelines)) ** 2
            if work > MAX_FIELD**2:
                raise Refused("broken_document", f"a header field of more than {MAX_FIELD} characters, or many long ones")
            return super().header_source_parse(sourcelines)

    message = email.message_from_bytes(content, policy=Bounded())
    assert isinstance(message, EmailMessage)  # noqa: S101 - the policy makes it so
    if message.get_content_type() in ("multipart/encrypted", "application/pkcs7-mime"):
        raise Refused("encrypted")
    attachments = sum(part.is_attachment() for part in message.walk())
    metadata: dict[str, Any] = {"fields": {"subject": str(message["subject"] or "")}, "attachments": attachments}
    body = message.get_body(("plain", "html"))
    if body is None:
        return "", metadata
    lying = body.get_payload(decode=True)
    text, metadata["encoding"] = decode(lying if isinstance(lying, bytes) else b"", body.get_content_charset(), settings)
    text = text.replace("\r\n", "\n")
    if body.get_content_subtype() == "html":
        from foretell.corpus.extract import main_text

        text = main_text(text, settings) or ""
    return text, metadata


def _xml(content: bytes, settings: CorpusSettings) -> tuple[str, dict[str, Any]]:
    """Each element that says something itself is a block, with what is inside it; the ones around them say nothing."""
    told, encoding = decode(content, declared_encoding(content), settings)
    elements, blocks = [_tree(told.encode("utf-8", "replace"))], []
    while elements:
        element = elements.pop()
        said = [element.text, *(child.tail for child in element)]
        if any(words and words.strip() for words in said):
            blocks.append(" ".join(element.xpath("string()").split()))
        else:
            elements += reversed(element)
    return "\n\n".join(filter(None, blocks)), {"encoding": encoding}


def _tree(content: bytes) -> Any:
    """The root of an XML file: no entities, no network, no trees of more than libxml2's limits."""
    from lxml import etree

    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    return etree.fromstring(content, parser)
