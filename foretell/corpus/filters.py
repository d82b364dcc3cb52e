"""Quality filters: each a question about a text; a yes drops the document, and the function's name is the reason.

They take out what is not language, not what is unusual. To add one, write the function and name it in `ALWAYS` or `SHARES`.
"""

import re
import zlib

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped

SYMBOLS = re.compile(r"[\W_]+")
ASCII_WORD = re.compile(r"[A-Za-z0-9+/=_-]+")


def too_short(text: str, settings: CorpusSettings) -> bool:
    """Source: Rae et al. 2021 (Gopher), A1.1, who count words; characters serve all scripts."""
    return len(text) < settings.min_characters


def too_long(text: str, settings: CorpusSettings) -> bool:
    """Source: Gopher, A1.1."""
    return settings.max_characters is not None and len(text) > settings.max_characters


def long_line(text: str, settings: CorpusSettings) -> bool:
    """Data on one line. Source: Kocetkov et al. 2022 (The Stack) allow 1,000 for code; a paragraph of prose may be longer."""
    return max(map(len, text.split("\n"))) > settings.max_line_characters


def mostly_symbols(text: str, settings: CorpusSettings) -> bool:
    """Source: The Stack, share of alphanumeric characters below 0.25."""
    return len(SYMBOLS.sub("", text)) < settings.min_alphanumeric * sum(map(len, text.split()))


def long_words(text: str, settings: CorpusSettings) -> bool:
    """Encoded data. Source: Gopher, mean word length; of ASCII words, for many scripts put no spaces between words."""
    words = ASCII_WORD.findall(text)
    return sum(map(len, words)) > settings.max_word_length * len(words)


def repeated_lines(text: str, settings: CorpusSettings) -> bool:
    """Characters in lines that stood before. Source: Gopher, table A1, whose 0.2 would cost code and verse."""
    lines = [line.strip() for line in text.split("\n")]
    return sum(map(len, lines)) - sum(map(len, set(lines))) > settings.max_repeated_lines * len(text)


def repetitive(text: str, settings: CorpusSettings) -> bool:
    """Repetition of any kind. Source: Radford et al. 2022 (Whisper), who find loops by the zlib ratio."""
    content = text.encode()
    return len(content) > settings.max_compression * len(zlib.compress(content, 1))


ALWAYS = (too_short, too_long, long_line)
SHARES = (mostly_symbols, long_words, repeated_lines, repetitive)


def judge(document: Document, settings: CorpusSettings) -> Document | Dropped:
    """Ask the filters in order; the first yes drops the document."""
    filters = ALWAYS + SHARES if len(document.text) >= settings.judged_from_characters else ALWAYS
    reason = next((asked.__name__ for asked in filters if asked(document.text, settings)), None)
    return document if reason is None else document.dropped(reason)
