"""From bytes to text: which encoding they are in, and mending of text that was decoded wrongly before it came here."""

import codecs
import re
from collections.abc import Iterator
from contextlib import suppress

from foretell.base.errors import SettingError
from foretell.corpus.config import CorpusSettings

HEAD_BYTES = 2**13  # what is looked at where the encoding has to be told from the bytes
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # after UTF-32, whose mark begins with this one
HIGH = bytes(range(0x80, 0x100))
NO_TEXT = re.compile("[\x00-\x08\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

# What pages declare, and what browsers read it as: the wider set of the same family. Source: WHATWG, Encoding, section 4.2
WIDER = {"ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "tis-620": "cp874", "iso8859-11": "cp874"}
WIDER |= {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs"}
DECLARABLE = re.compile(r"cp\d|iso8859|iso2022|koi8|mac|gb18030|big5|cp9|euc_jp|hz")  # Python knows stranger ones (punycode)
CANDIDATES = (
    "cp1252 cp1250 iso8859_2 cp1251 koi8_r cp866 cp1253 cp1254 cp1255 cp1256 cp874 cp932 euc_jp gb18030 big5 cp949 mac_roman"
)
FEWEST_HIGH_BYTES = 8  # with fewer of them nothing can be told
MESS = 0.05  # charset-normalizer's measure, from 0: a reading this much worse than the best is as likely

# UTF-8 read as Latin 1, cp1252 or cp1250: a first byte's character before that of a second and third one
LATER = "".join(sorted({c for name in ("latin-1", "cp1252", "cp1250") for c in HIGH[:64].decode(name, "ignore")}))
MISREAD = re.compile(rf"[\xc2-\xf4ĂĹ][{re.escape(LATER)}](?:(?<=[\xc2-\xdfĂĹ].)(?<![A-Z].[»’”…–—])|[{re.escape(LATER)}])")
CONTROL = re.compile("[\x80-\x9f]")  # cp1252 read as Latin 1
OTHER_SIGNS = ("вЂ", "Рµ", "Рѕ", "Г©", "‚Ä", "√©", "√º", "√∂")  # read as cp1251 (’ е о é) and as Mac Roman (’ é ü ö)


def decode(content: bytes, declared: str | None, settings: CorpusSettings) -> tuple[str, str]:
    """The text, and the name of its encoding: `utf-8`, or what was found instead; ` (guessed)` behind it where nothing said so.

    In this order: the setting, a byte order mark, UTF-8, UTF-16 by its NULs, what the page or server declares, what two judges
    agree on; else UTF-8, with U+FFFD for what it is not. Raises SettingError for a setting that names no encoding.
    """
    if settings.encoding:
        try:
            return content.decode(settings.encoding, "replace"), codecs.lookup(settings.encoding).name
        except LookupError as error:
            cure = "give a name that Python knows, such as cp1252, shift_jis or utf-16"
            raise SettingError("no such encoding", where=f"corpus.encoding={settings.encoding}", cure=cure) from error
    if content[:1] >= b"\xef" or content[:2] == b"\0\0":
        for mark, name in MARKS.items():
            if content.startswith(mark):
                return content.decode(name, "replace"), name.removesuffix("-sig")
    with suppress(UnicodeDecodeError):
        text = content.decode()
        return (text, "utf-8") if "\0" not in text else _utf16(content) or (text, "utf-8")
    return next(_readings(content, declared, settings.max_undecodable))


def unmarked_utf16(content: bytes) -> str | None:
    """Which UTF-16 the beginning is in, if one byte of many pairs is NUL and the other never, and it makes text."""
    first, second = content[:HEAD_BYTES:2].count(0), content[1:HEAD_BYTES:2].count(0)
    if min(first, second) > 0 or max(first, second) < max(4, min(len(content), HEAD_BYTES) / 20):
        return None
    name = "utf-16-le" if second else "utf-16-be"
    return None if NO_TEXT.search(content[:HEAD_BYTES].decode(name, "replace")) else name


def _utf16(content: bytes) -> tuple[str, str] | None:
    name = unmarked_utf16(content)
    return (content.decode(name, "replace"), f"{name} (guessed)") if name else None


def _readings(content: bytes, declared: str | None, tolerance: float) -> Iterator[tuple[str, str]]:
    """How bytes that are not quite UTF-8 can be read, the likeliest first."""
    if b"\0" in content and (wide := _utf16(content)):
        yield wide
    text = content.decode("utf-8", "replace")
    bad, high_bytes = text.count("\ufffd"), len(content) - len(content.translate(None, HIGH))
    if len(text) - (len(content) - high_bytes) - bad >= bad:  # in other encodings hardly any bytes make characters of UTF-8
        yield text, "utf-8"
    if name := _declarable(declared):
        told = content.decode(name, "replace")
        if told.count("\ufffd") <= tolerance * len(told):
            yield told, name
    if high_bytes >= FEWEST_HIGH_BYTES and b"\0" not in content and (name := _guess(content)):
        yield content.decode(name, "replace"), f"{name} (guessed)"
    yield text, "utf-8"


def _declarable(declared: str | None) -> str | None:
    """Python's name of what a page declares, unless it is unknown, UTF (which the bytes would show) or no encoding of pages."""
    try:
        name = codecs.lookup((declared or "").strip()).name
    except (LookupError, ValueError):  # a NUL in the name
        return None
    name = WIDER.get(name, name)
    return name if DECLARABLE.match(name) else None


def _guess(content: bytes) -> str | None:
    """The encoding that uchardet names, if charset-normalizer finds the text that it gives as likely as any other."""
    from charset_normalizer import from_bytes
    from resiliparse.parse.encoding import detect_encoding

    head = content[: 4 * HEAD_BYTES]
    if len(head) < len(content):  # not in the middle of a character
        head = head[: max(head.rfind(b"\n"), head.rfind(b" ")) + 1] or head
    name = _declarable(detect_encoding(head, html5_compatible=False))
    matches = from_bytes(head, cp_isolation=CANDIDATES.split())
    if name is None or not (best := matches.best()):
        return None
    text = head.decode(name, "replace")
    return name if any(match.chaos <= best.chaos + MESS and str(match) == text for match in matches) else None


def repair(text: str) -> str:
    """The text as it was before somebody decoded it wrongly, line by line; the same text where nothing shows that. Source: ftfy."""
    if text.isascii():
        return text
    other = any(sign[0] in text and sign in text for sign in OTHER_SIGNS)  # one character is found three times as quickly
    if not (other or MISREAD.search(text) or CONTROL.search(text)):
        return text
    from ftfy import fix_encoding  # 200 times as dear as the look for signs

    return "\n".join(line if line.isascii() else fix_encoding(line) for line in text.split("\n"))
