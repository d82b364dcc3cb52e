"""Personal data becomes a word of its kind: `<|email|>`, `<|phone|>`, `<|ip|>`, `<|iban|>`, `<|card|>`.

A pattern finds candidates; a library or a checksum says which are real. What is doubtful stays: dates and code are commoner.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document

FILES = "png jpg jpeg gif svg webp ico pdf css js ts json html htm xml py md txt so zip"  # logo@2x.png is no address
CARDS = re.compile(  # issuer's first digits and lengths (ISO/IEC 7812 ranges as the networks publish them)
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|(?:6011|64[4-9]\d|65\d\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35\d{14}"
)
VERSION = re.compile(r"(?:\bv|\bver\.?|\bversions?|\brelease|\bsection|§)[ :=]{0,2}$", re.IGNORECASE)
NEAR_BYTES = 34  # an IBAN is no longer


@dataclass(frozen=True, slots=True)
class Kind:
    """accepted: whether a match of the pattern is real."""

    pattern: re.Pattern[str]
    accepted: Callable[[re.Match[str]], bool]


def _email(match: re.Match[str]) -> bool:
    return match[1].lower() not in FILES.split() and ".." not in match[0]


def _ip(match: re.Match[str]) -> bool:
    """A public address. Not after the word version, and not of single digits alone: such numbers are versions and sections."""
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    if address.version == 6:
        return address.is_global
    return address.is_global and len(match[0]) > 7 and not VERSION.search(match.string, max(match.start() - 12, 0), match.start())


def _phone(match: re.Match[str]) -> bool:
    from phonenumbers import Leniency, PhoneNumberMatcher  # a large table: loaded when a candidate turns up

    region = None if match[0].startswith("+") else "US"
    return PhoneNumberMatcher(match[0], region, leniency=Leniency.VALID).has_next()


def _iban(match: re.Match[str]) -> bool:
    from stdnum import iban

    return iban.is_valid(match[0])


def _card(match: re.Match[str]) -> bool:
    from stdnum import luhn

    digits = re.sub("[ -]", "", match[0])
    return CARDS.fullmatch(digits) is not None and len(set(digits)) > 1 and luhn.is_valid(digits)


KINDS = {  # in the order in which they are replaced: the longer and surer first
    "email": Kind(
        re.compile(r"(?<![\w.%+-])[\w%+-][\w.%+-]{0,63}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+([^\W\d_]{2,24})(?![\w(@-])"), _email
    ),
    "iban": Kind(re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)", re.ASCII), _iban),
    "card": Kind(
        re.compile(
            r"(?<![\w.,+/-])\d{4}(?:(?P<gap>[ -]?)\d{4}(?P=gap)\d{4}(?P=gap)\d{1,7}"
            r"|(?P<two>[ -])\d{6}(?P=two)\d{4,5}|\d{9,11})(?![\w-]|[.,]\d)",
            re.ASCII,
        ),
        _card,
    ),
    "ip": Kind(
        re.compile(
            r"(?<![\w.:/-])\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w-]|\.\d)|(?<![\w.:])[23][0-9a-fA-F]{3}:[0-9a-fA-F:]{2,34}(?![\w:])",
            re.ASCII,
        ),
        _ip,
    ),
    "phone": Kind(
        re.compile(
            r"(?<![\w+])\+\d{1,3}[ .\-()/]?(?:\(0\))?(?:[ .\-()/]{0,2}\d){6,13}(?![\w-]|\.\d)"
            r"|(?<![\w.$+/=-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[.-]\d{4}(?![\w-]|\.\d)",
            re.ASCII,
        ),
        _phone,
    ),
}
COLONS = re.compile(":[0-9a-fA-F]{0,4}:")


def possible(text: str) -> set[str]:
    """The kinds that the text may hold: an @, seven digits near each other, or digits with three dots or two colons between."""
    found = {"email"} if "@" in text else set()
    if COLONS.search(text):
        found.add("ip")
    bytes_N = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    digits_D = np.flatnonzero(bytes_N - np.uint8(48) < 10)  # smaller bytes wrap around
    if (digits_D[6:] - digits_D[:-6] <= NEAR_BYTES).any():
        found |= {"iban", "card", "phone"}
    dotted_D = digits_D[:-1][bytes_N[digits_D[:-1] + 1] == ord(".")]
    if (dotted_D[2:] - dotted_D[:-2] <= 8).any():
        found.add("ip")
    return found


def redact(document: Document, settings: CorpusSettings) -> Document:
    """The document with the kinds of settings.redact replaced; metadata `redacted`: how many of each."""
    text, counts = document.text, dict[str, int]()
    kinds = possible(text) & set(settings.redact) if settings.redact else ()
    for name in (name for name in KINDS if name in kinds):
        text, number = _replaced(text, KINDS[name], f"<|{name}|>")
        if number:
            counts[name] = number
    return replace(document, text=text, metadata=document.metadata | {"redacted": counts}) if counts else document


def _replaced(text: str, kind: Kind, word: str) -> tuple[str, int]:
    """The text with what is accepted replaced, and how many."""
    number = 0

    def replacement(match: re.Match[str]) -> str:
        nonlocal number
        if not kind.accepted(match):
            return match[0]
        number += 1
        return word

    return kind.pattern.sub(replacement, text), number
