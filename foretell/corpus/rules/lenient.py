"""What is not language; what is merely unusual stays. The limits are the user's settings.

Sources: Rae et al. 2021 (Gopher), A1.1 and table A1; Kocetkov et al. 2022 (The Stack); Radford et al. 2022 (Whisper).
"""

import zlib
from collections.abc import Iterator

from foretell.corpus.config import CorpusSettings
from foretell.corpus.scan import Scan

JUDGED_FROM_CHARACTERS = 500  # in a shorter text one table or one refrain would decide


def faults(scan: Scan, settings: CorpusSettings) -> Iterator[tuple[str, bool]]:
    """Each reason to drop a text, and whether the text has it; one after the other, as far as they are asked for."""
    text = scan.text
    lines = [line.strip() for line in scan.lines]
    yield "too_short", len(text) < settings.min_characters  # Gopher counts words; characters serve all scripts
    yield "long_line", max(map(len, lines)) > settings.max_line_characters  # data. The Stack: 1,000; a paragraph may be longer
    if len(text) < JUDGED_FROM_CHARACTERS:
        return
    counts = scan.counts
    yield "mostly_symbols", counts["alphanumeric"] < settings.min_alphanumeric * counts["visible"]  # The Stack
    # Gopher, but ASCII only: many scripts put no spaces between words
    yield "long_words", counts["ascii_characters"] > settings.max_word_length * counts["ascii_words"]
    repeated_characters = sum(map(len, lines)) - sum(map(len, set(lines)))  # Gopher, whose 0.2 would cost code and verse
    yield "repeated_lines", repeated_characters > settings.max_repeated_lines * len(text)
    content = text.encode()  # Whisper finds loops by the zlib ratio
    allowed = len(content) / settings.max_compression
    # where a quarter already takes more, with a margin, the whole needs no compressing
    yield (
        "repetitive",
        len(zlib.compress(content[: len(content) // 4], 1)) < 1.2 * allowed and len(zlib.compress(content, 1)) < allowed,
    )
