"""Which characters are no word by themselves, and which end a sentence."""

import unicodedata
from functools import cache

import regex

SENTENCE_END = regex.compile(r"[\p{STerm}.]")
SIGNS_BEYOND_ASCII = frozenset(
    "“”’„«»—–━…、。，：；！？．（）「」《》〈〉【】％～∶´►"
)  # as in the cleaning of CCNet, which the rules were tuned with


@cache
def ends_sentence(character: str) -> bool:
    """Whether Unicode says so (Sentence_Terminal: . ? ! 。 । …)."""
    return SENTENCE_END.match(character) is not None


@cache
def _is_sign(character: str) -> bool:
    if character.isascii():
        return not character.isalnum()
    return character in SIGNS_BEYOND_ASCII or ends_sentence(character) or unicodedata.category(character) == "Cc"


def is_sign(word: str) -> bool:
    """Whether a word is of signs alone."""
    return not word.isalnum() and all(map(_is_sign, word))
