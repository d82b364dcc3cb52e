"""Lines that are sentences, on pages that are text. Source: Raffel et al. 2020, 2.2, and the limits of its released code."""

import re

from foretell.corpus.rules.signs import ends_sentence, is_sign
from foretell.corpus.rules.words import split_words

MIN_SENTENCES, MIN_WORDS, MAX_WORD_CHARACTERS = 5, 3, 1000
ENDS = (".", "?", "!", '"', "'")
CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
UNWANTED = re.compile("javascript|terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
WATCHED = ("javascript", "terms of use", "privacy policy", "cookie")  # what holds none of them holds nothing unwanted


def kept_lines(text: str) -> tuple[list[str], int] | str:
    """The lines that stay and how many were left out; or the reason to drop the text."""
    lowered = text.lower()
    watched = any(sign in lowered for sign in WATCHED)
    cited, barred = "[" in text, "{" in text or "lorem ipsum" in lowered
    lines = [line.strip() for line in text.splitlines()]
    kept = []
    for line in lines:
        whole = line
        if cited:
            line = CITATION.sub("", line)
        if (
            not line.endswith(ENDS)
            or line.endswith("...")
            or len(whole.split(None, MIN_WORDS - 1)) < MIN_WORDS
            or (len(whole) > MAX_WORD_CHARACTERS and _has_long_word(whole))
        ):
            continue
        if barred or watched:
            lowered = line.lower()
            if "lorem ipsum" in lowered:
                return "c4_bad_words"
            if "javascript" in lowered:
                continue
            if "{" in line:
                return "c4_bad_words"
            if UNWANTED.search(lowered):
                continue
        kept.append(line)
    if len(kept) < MIN_SENTENCES and sum(map(sentences, kept)) < MIN_SENTENCES:
        return "c4_few_sentences"
    return kept, len(lines) - len(kept)


def _has_long_word(line: str) -> bool:
    """Whether one has more than a thousand characters; a space among each thousand says no."""
    place = 0
    while len(line) - place > MAX_WORD_CHARACTERS:
        place = line.rfind(" ", place, place + MAX_WORD_CHARACTERS + 1) + 1
        if not place:
            return max(map(len, line.split())) > MAX_WORD_CHARACTERS
    return False


def sentences(line: str) -> int:
    """Sentences of a line: one begins with the first word after a sentence's end. Beyond those that matter they are not counted."""
    number, ended = 1, False
    for word in (word for run in line.split() for word in ([run] if run.isalnum() else split_words(run))):
        if len(word) == 1 and ends_sentence(word):
            ended = True
        elif ended and not is_sign(word):
            number, ended = number + 1, False
            if number == MIN_SENTENCES:
                break
    return number
