"""One spelling for the same text: Unicode form, line ends, control characters, blank lines, broken encodings."""

import re
import unicodedata
from dataclasses import replace

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped

LINE_END = re.compile("[\x0b\x85\u2028\u2029]")
CONTROL = re.compile("[\x00-\x08\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufff9-\ufffb]")

# A UTF-8 lead byte read as Latin-1 or Windows-1252, followed by a continuation byte read the same way.
MOJIBAKE = re.compile("[\xc2-\xf4][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œŽžŸ]")


def normalise(document: Document, settings: CorpusSettings) -> Document | Dropped:
    """The text with `\\n` line ends, no control characters, no trailing spaces, and in the chosen Unicode form."""
    text = document.text.replace("\r\n", "\n").replace("\r", "\n")
    if settings.fix_mojibake and not text.isascii() and MOJIBAKE.search(text):
        from ftfy import fix_encoding  # 200 times slower than all else here, hence the test; control characters are half letters

        text = "\n".join(fix_encoding(line) if MOJIBAKE.search(line) else line for line in text.split("\n"))
    text = CONTROL.sub("", LINE_END.sub("\n", text))
    text = unicodedata.normalize(settings.normal_form, text)
    text = "\n".join(map(str.rstrip, text.split("\n")))  # a pattern such as `[ \t]+\n` takes quadratic time on runs of spaces
    longest = "\n" * (settings.max_blank_lines + 1)
    text = re.sub(longest + "\n+", longest, text).strip("\n")
    return replace(document, text=text) if text else document.dropped("empty")
