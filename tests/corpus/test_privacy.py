"""Personal data goes; dates, versions, books and code stay."""

import pytest

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document
from foretell.corpus.privacy import KINDS, redact

ALL = CorpusSettings(redact=("email", "phone", "ip", "iban", "card"))


def redacted(text: str, settings: CorpusSettings = ALL) -> str:
    return redact(Document("id", text, "source"), settings).text


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("jane.doe@mail.example.org", "email"),
        ("jürgen+news@bücher.de", "email"),
        ("+49 (0)30 901820", "phone"),
        ("+1 202-628-8500", "phone"),
        ("(202) 628-8500", "phone"),
        ("202.628.8500", "phone"),
        ("93.184.216.34", "ip"),
        ("2606:2800:220:1:248:1893:25c8:1946", "ip"),
        ("GB82 WEST 1234 5698 7654 32", "iban"),
        ("DE89370400440532013000", "iban"),
        ("4111 1111 1111 1111", "card"),
        ("5500-0000-0000-0004", "card"),
        ("378282246310005", "card"),
    ],
)
def test_personal_data_goes(text: str, kind: str) -> None:
    assert redacted(f"Write to {text}, please.") == f"Write to <|{kind}|>, please."


@pytest.mark.parametrize(
    "text",
    [
        "logo@2x.png @mention a @ b",
        "values = a@b.mean() + c@d.T",
        "on 2024-05-17 12:30:45, 17.05.2024 and 05/17/2024",
        "ISBN 978-0-306-40615-7, ISBN 0306406152",
        "version 10.20.30.40, section 1.2.3.4 and 1.2.3.4.5",
        "192.168.1.10, 127.0.0.1, 10.0.0.1, 999.184.216.34",
        "std::vector<face::add> 12:30:45 a::b ::1 fe80::1",
        "4111 1111 1111 1112 and 1234 5678 9012 3456",
        "GB82 WEST 1234 5698 7654 33",
        "0x1234567890abcdef 3.14159265358979323846 1,234,567,890",
        "deadbeef-1234-5678-9012-123456789012",
        "pages 123-456, 555-1234, $202-628-8500, 202-628-85001, 1939-1945",
        "+3 points, 2+2, x = +1000000",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert redacted(text) == text


def test_counts_are_kept_and_clean_documents_are_the_same_object() -> None:
    document = redact(Document("id", "a@b.org, c@d.org and 93.184.216.34", "source", {"format": "text"}), ALL)
    assert document.metadata == {"format": "text", "redacted": {"email": 2, "ip": 1}}
    clean = Document("id", "nothing private in 1984", "source")
    assert redact(clean, ALL) is clean


def test_only_the_chosen_kinds_go() -> None:
    text = "a@b.org 202-628-8500"
    assert redacted(text, CorpusSettings(redact=("phone",))) == "a@b.org <|phone|>"
    assert redacted(text, CorpusSettings()) == text


def test_hostile_text_takes_no_time() -> None:
    for piece in ("a.", "1", "1 ", "1.", "1-", "A1 ", "2222:", "+1", "(202) ", "@a."):
        redacted("a@" + piece * 20_000)


def test_kinds_are_those_of_the_settings() -> None:
    assert set(KINDS) == set(ALL.redact)
