"""Languages are told offline, and unsure ones are left open."""

import socket

import pytest

from foretell.base.errors import SettingError
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped
from foretell.corpus.language import identify, language

SENTENCES = {
    "en": "All human beings are born free and equal, and they should treat each other in a spirit of brotherhood.",
    "de": "Alle Menschen werden frei und gleich geboren und sollen einander im Geist der Brüderlichkeit begegnen.",
    "fr": "Tous les êtres humains naissent libres et égaux, et ils doivent agir dans un esprit de fraternité.",
    "es": "Todos los seres humanos nacen libres e iguales y deben comportarse fraternalmente los unos con los otros.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi i powinni postępować wobec innych w duchu braterstwa.",
    "ru": "Все люди рождаются свободными и равными и должны поступать в отношении друг друга в духе братства.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι και οφείλουν να συμπεριφέρονται με πνεύμα αδελφοσύνης.",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतंत्रता और समानता प्राप्त है।",
    "he": "כל בני אדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
}


def identified(text: str, kind: str = "text", **settings: object) -> Document | Dropped:
    return identify(Document("id", text, "source", {"format": kind}), CorpusSettings.model_validate(settings))


def code_of(text: str, kind: str = "text") -> object:
    item = identified(text, kind)
    assert isinstance(item, Document)
    return item.metadata["language"]


@pytest.mark.parametrize("code", SENTENCES)
def test_sentences_of_many_languages_and_scripts(code: str) -> None:
    item = identified(SENTENCES[code])
    assert isinstance(item, Document) and item.metadata["language"] == code
    assert 0.65 <= item.metadata["language_probability"] <= 1 and item.text == SENTENCES[code]


@pytest.mark.parametrize("text", ["", "Oh!", "12345 67890 " * 50, "*** --- ***\n" * 20, "\x00\x01\ufffe\ufffd\ud800 \x85" * 30])
def test_what_shows_no_language_is_undetermined(text: str) -> None:
    assert code_of(text) == "und"


def test_code_has_no_language_and_capitals_are_read() -> None:
    assert code_of(SENTENCES["en"], "code") == "und"
    assert code_of(SENTENCES["en"].upper()) == "en"


@pytest.mark.parametrize("code", [code for code in SENTENCES if code != "en"])
def test_a_licence_in_english_does_not_make_a_document_english(code: str) -> None:
    licence = (SENTENCES["en"] + "\n") * 20  # 2,000 characters
    assert code_of(licence + SENTENCES[code] * 100) == code
    assert code_of(SENTENCES[code] * 100 + licence) == code


def test_a_place_without_letters_has_no_vote() -> None:
    assert code_of(SENTENCES["de"] * 10 + "1234 " * 1000 + SENTENCES["de"] * 30) == "de"


def test_a_mixture_is_left_open_where_nobody_is_sure() -> None:
    words = " ".join(
        word for words in zip(*(text.split() for text in list(SENTENCES.values())[:5]), strict=False) for word in words
    )
    assert language(words, 0.95)[0] == "und"


def test_the_second_opinion_counts_only_among_the_candidates_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foretell.corpus.language._second_opinion", lambda sample: ("de", 1.0))
    assert language(SENTENCES["de"], 1.0)[0] == "de"
    monkeypatch.setattr("foretell.corpus.language._second_opinion", lambda sample: ("zzp", 1.0))
    assert language(SENTENCES["de"], 1.0)[0] == "und"


def test_other_languages_are_dropped_and_und_keeps_what_has_none() -> None:
    dropped = identified(SENTENCES["de"], languages=["en", "fr"])
    assert isinstance(dropped, Dropped) and dropped.reason == "other_language"
    assert isinstance(identified(SENTENCES["fr"], languages=["en", "fr"]), Document)
    assert isinstance(identified("def f(): ...", "code", languages=["en"]), Dropped)
    assert isinstance(identified("def f(): ...", "code", languages=["en", "und"]), Document)


def test_an_unknown_language_is_told() -> None:
    with pytest.raises(SettingError, match="no such language: english"):
        identified(SENTENCES["en"], languages=["en", "english"])


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    from foretell.corpus import language as module

    module._detector.cache_clear()
    assert code_of(SENTENCES["en"]) == "en"
