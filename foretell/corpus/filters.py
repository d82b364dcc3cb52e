"""Quality filters: they take out what is not language, not what is unusual. To add one, let `faults` yield it.

Sources: Rae et al. 2021 (Gopher), A1.1 and table A1; Kocetkov et al. 2022 (The Stack); Radford et al. 2022 (Whisper).
"""

import re
import zlib
from collections.abc import Iterator

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped

SYMBOLS = re.compile(r"[\W_]+")
ASCII_WORD = re.compile(r"[A-Za-z0-9+/=_-]+")
JUDGED_FROM_CHARACTERS = 500  # in a shorter text one table or one refrain would decide


def faults(text: str, settings: CorpusSettings) -> Iterator[tuple[str, bool]]:
    """Each reason to drop a text, and whether the text has it; one after the other, as far as they are asked for."""
    lines = [line.strip() for line in text.split("\n")]
    yield "too_short", len(text) < settings.min_characters  # Gopher counts words; characters serve all scripts
    yield "long_line", max(map(len, lines)) > settings.max_line_characters  # data. The Stack: 1,000; a paragraph may be longer
    if len(text) < JUDGED_FROM_CHARACTERS:
        return
    yield "mostly_symbols", len(SYMBOLS.sub("", text)) < settings.min_alphanumeric * sum(map(len, text.split()))  # The Stack
    words = ASCII_WORD.findall(text)  # Gopher, but ASCII only: many scripts put no spaces between words
    yield "long_words", sum(map(len, words)) > settings.max_word_length * len(words)
    repeated_characters = sum(map(len, lines)) - sum(map(len, set(lines)))  # Gopher, whose 0.2 would cost code and verse
    yield "repeated_lines", repeated_characters > settings.max_repeated_lines * len(text)
    content = text.encode()  # Whisper finds loops by the zlib ratio
    yield "repetitive", len(content) > settings.max_compression * len(zlib.compress(content, 1))


def judge(document: Document, settings: CorpusSettings) -> Document | Dropped:
    """Drop the document for the first fault found."""
    reason = next((reason for reason, found in faults(document.text, settings) if found), None)
    return document if reason is None else document.dropped(reason)
