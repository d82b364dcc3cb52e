"""Bytes of many encodings: what they say, what is recorded, and what is not guessed. Text that was decoded wrongly before."""

import codecs
import inspect
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.base.errors import SettingError
from foretell.corpus.config import CorpusSettings
from foretell.corpus.encoding import decode, repair

SETTINGS = CorpusSettings()
PROSE = {
    "de": "Die Größe der Äußerung überraschte alle, die an der Straße standen, und für die Mädchen war es schön.\n",
    "fr": "L’été dernier, nous avons déjà visité la forêt où l’élève a été très étonné par les mœurs françaises.\n",
    "es": "El niño pequeño comió una manzana mañana y después corrió por la montaña; ¿qué pasó allí?\n",
    "pl": "Zażółć gęślą jaźń, powiedział chłopiec, który szedł przez łąkę i się śmiał do swoich przyjaciół.\n",
    "ru": "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n",
    "el": "Η γρήγορη αλεπού πηδάει πάνω από το τεμπέλικο σκυλί και φεύγει μακριά στο δάσος.\n",
    "tr": "Bugün hava çok güzel, çocuklar bahçede oynuyorlar ve güneş ışığı altında şarkı söylüyorlar.\n",
    "ja": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n",
    "zh": "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？人不知而不愠。\n",
    "ko": "나랏말싸미 중국과 달라 서로 통하지 아니하므로 어리석은 백성이 있어도.\n",
}
OTHERS = {"de": "cp1252", "fr": "cp1252", "es": "latin-1", "pl": "iso8859-2", "ru": "koi8-r", "el": "cp1253", "tr": "cp1254"}
OTHERS |= {"ja": "euc_jp", "zh": "gb18030", "ko": "euc_kr"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_understood(encoding: str) -> None:
    content = "grüße 𝔘".encode(encoding)
    assert decode(content, None, SETTINGS) == ("grüße 𝔘", encoding.removesuffix("-sig"))
    if encoding != "utf-8-sig":
        turned = codecs.BOM_UTF16_BE if encoding == "utf-16" else codecs.BOM_UTF32_BE
        assert decode(turned + "grüße 𝔘".encode(encoding + "-be"), None, SETTINGS)[0] == "grüße 𝔘"


@pytest.mark.parametrize("name", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("language", ["de", "ru"])
def test_utf_16_without_a_mark_is_known_by_its_nuls(name: str, language: str) -> None:
    assert decode(PROSE[language].encode(name), None, SETTINGS) == (PROSE[language], f"{name} (guessed)")


@pytest.mark.parametrize("content", [b"a\0b and more", b"\x7fELF\2\1\1\0\0\0", b"\1\0\2\0\3\0\4\0" * 9, bytes(range(256)) * 4])
def test_other_nuls_stay_to_be_seen(content: bytes) -> None:
    assert "\0" in decode(content, None, SETTINGS)[0]


@pytest.mark.parametrize("language", PROSE)
def test_what_two_judges_agree_on_is_read_and_said(language: str) -> None:
    text = PROSE[language] * 4
    told, name = decode(text.encode(OTHERS[language]), None, SETTINGS)
    assert told == text
    assert name.endswith(" (guessed)")


@pytest.mark.parametrize(("language", "encoding"), [("de", "cp850"), ("fr", "mac_roman")])
def test_what_they_do_not_agree_on_is_not_guessed(language: str, encoding: str) -> None:
    told, name = decode(PROSE[language].replace("œ", "oe").encode(encoding) * 4, None, SETTINGS)
    assert name == "utf-8"
    assert "\ufffd" in told


def test_long_texts_are_judged_by_a_head_that_ends_with_a_character() -> None:
    text = PROSE["ja"].rstrip() * 1000 + "\n" + PROSE["ja"] * 1000
    assert decode(text.encode("cp932"), None, SETTINGS) == (text, "cp932 (guessed)")


def test_a_few_bad_bytes_do_not_make_another_encoding_of_utf_8() -> None:
    assert decode(b"caf\xe9 " + b"good text " * 50, None, SETTINGS) == ("caf\ufffd " + "good text " * 50, "utf-8")
    content = PROSE["de"].encode() * 9 + b"\xe9t\xe9"
    assert decode(content, "iso-8859-1", SETTINGS) == (PROSE["de"] * 9 + "\ufffdt\ufffd", "utf-8")
    assert decode(PROSE["ja"].encode()[:-2], None, SETTINGS)[1] == "utf-8"


@pytest.mark.parametrize(
    ("declared", "encoding", "read_as"),
    [
        ("iso-8859-1", "cp1252", "cp1252"),
        ("Shift_JIS", "cp932", "cp932"),
        (" GB2312", "gb18030", "gb18030"),
        ("koi8-r", "koi8-r", "koi8-r"),
    ],
)
def test_what_a_page_declares_is_read_as_browsers_do(declared: str, encoding: str, read_as: str) -> None:
    text = "“é”" if encoding == "cp1252" else {"cp932": "日本語①", "gb18030": "你好镕"}.get(encoding, "привет")
    assert decode(text.encode(encoding), declared, SETTINGS) == (text, read_as)


@pytest.mark.parametrize("declared", ["nonsense", "utf-8", "utf-16", "punycode", "unicode_escape", "hex", "x\0y", ""])
def test_declarations_that_cannot_be_are_passed_over(declared: str) -> None:
    assert decode(b"a \xe9 b\\n", declared, SETTINGS) == ("a \ufffd b\\n", "utf-8")


def test_the_setting_is_obeyed_and_a_wrong_one_named() -> None:
    assert decode("Größe".encode(), None, SETTINGS.replace(encoding="windows-1252")) == ("GrÃ¶ÃŸe", "cp1252")
    with pytest.raises(SettingError, match="no such encoding"):
        decode(b"", None, SETTINGS.replace(encoding="cp99999"))


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.binary(max_size=300), st.sampled_from([None, "latin-1", "iso-2022-jp", "hz", "big5"]))
def test_any_bytes_can_be_decoded(content: bytes, declared: str | None) -> None:
    text, name = decode(content, declared, SETTINGS)
    text.encode()
    assert name


@settings(deadline=None, derandomize=True)
@given(st.text())
def test_utf_8_is_read_as_it_is(text: str) -> None:
    if "\0" not in text and not text.startswith("\ufeff"):
        assert decode(text.encode(), "latin-1", SETTINGS) == (text, "utf-8")


@pytest.mark.parametrize(
    ("language", "wrong"),
    [(language, "latin-1") for language in PROSE]
    + [("de", "cp1252"), ("fr", "cp1252"), ("fr", "cp1250"), ("ru", "cp1251"), ("de", "mac_roman"), ("es", "mac_roman")],
)
def test_text_that_was_decoded_wrongly_is_mended(language: str, wrong: str) -> None:
    assert repair(PROSE[language].encode().decode(wrong)) == PROSE[language]


def test_only_the_spoilt_lines_change() -> None:
    text = "Größe “quoted” &amp; ﬁne ＡＢＣ\r\n"
    assert repair(text + "schÃ¶n\n") == text + "schön\n"
    assert repair("He said \x93no\x94.") == "He said “no”."


@pytest.mark.parametrize(
    "text", [*PROSE.values(), "« Où ? » dit-il à\xa0l’été — « CAFÉ », ÇA VA", "NÃO É «IRMû, AÇÃO”", "Ça coûte 5 £ ± 2 º", "Â"]
)
def test_clean_text_stays_as_it_is(text: str) -> None:
    assert repair(text) is text


def test_code_stays_as_it_is() -> None:
    for module in (inspect, json, codecs):
        source = inspect.getsource(module)
        assert repair(source + "# «é»") == source + "# «é»"


def test_clean_books_stay_as_they_are(data_folder: Path) -> None:
    for name in ("Dante-Purgatorio", "Charles-Dickens-Great-Expectations", "E-M-Forster-A-Room-with-a-View"):
        text = (data_folder / "books" / f"{name}.md").read_text(encoding="utf-8")
        assert repair(text + "é") == text + "é"


def test_a_spoilt_book_is_mended(data_folder: Path) -> None:
    text = (data_folder / "books" / "Edith-Wharton-Xingu.md").read_text(encoding="utf-8")
    assert "maniÃ¨re" in text
    assert repair(text) == text.replace("Ã¨", "è")
