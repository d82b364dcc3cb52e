"""One spelling for the same text: Unicode form, line ends, control characters, blank lines."""

import re
import unicodedata
from dataclasses import replace

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped

LINE_END = re.compile("\r\n|[\r\x0b\x85\u2028\u2029]")
LINE_ENDS = "\r\x0b\x85\u2028\u2029"
CONTROL = re.compile("[\x00-\x08\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufff9-\ufffb]")
CONTROLS = bytes(code for code in range(128) if CONTROL.match(chr(code)))
DOUBLE_MARKS = re.compile("[\u0f73\u0f75\u0f81]")  # their own class is 0; what they decompose to are marks
TOO_MANY = re.compile(rb"(?<=[^\0]{30})[^\0]+")
BLANK_LINES = re.compile("\n{4,}")


def normalise(document: Document, _: CorpusSettings) -> Document | Dropped:
    """The text in NFC, with `\\n` line ends, no control characters, no trailing spaces, at most two blank lines in a row."""
    text = document.text
    if any(map(text.__contains__, LINE_ENDS)):  # a look for each is forty times as fast as the pattern
        text = LINE_END.sub("\n", text)
    if not text.isascii() or len(text.encode().translate(None, CONTROLS)) < len(text):
        text = CONTROL.sub("", text)
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", _stream_safe(text))
    text = "\n".join(map(str.rstrip, text.split("\n")))  # a pattern such as `[ \t]+\n` takes quadratic time on runs of spaces
    text = (BLANK_LINES.sub("\n\n\n", text) if "\n\n\n\n" in text else text).strip("\n")
    return replace(document, text=text) if text else document.dropped("empty")


def _stream_safe(text: str) -> str:
    """Without the marks that follow thirty others: NFC takes the square of their number. Source: UAX 15, Stream-Safe Format."""
    classes = bytes(map(unicodedata.combining, DOUBLE_MARKS.sub("\u0f71", text)))
    kept, start = list[str](), 0
    for run in TOO_MANY.finditer(classes):
        kept.append(text[start : run.start()])
        start = run.end()
    return "".join([*kept, text[start:]])
