"""Words and phrases that the user wants in no document."""

import re
from functools import lru_cache
from pathlib import Path

from foretell.base.errors import SettingError

WORD = re.compile(r"\w+")
SPACES = str.maketrans(dict.fromkeys((chr(code) for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")), " "))
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
)  # Thai, Lao, Burmese, Khmer, kana, Han


class BadWords:
    """A list, ready to be looked for: whole words and sequences of words, whatever their case and the signs between them.

    In scripts without spaces between words any place counts.
    """

    def __init__(self, entries: list[str]) -> None:
        entries = [entry.casefold() for entry in entries]
        unspaced = [entry.strip() for entry in entries if UNSPACED.search(entry)]
        self.anywhere = re.compile("|".join(map(re.escape, sorted(unspaced)))) if unspaced else None
        phrases = [WORD.findall(entry) for entry in entries if not UNSPACED.search(entry)]
        self.words = {phrase[0] for phrase in phrases if len(phrase) == 1}
        self.firsts: dict[str, list[str]] = {}
        for phrase in phrases:
            if len(phrase) > 1:
                self.firsts.setdefault(phrase[0], []).append(f" {' '.join(phrase)} ")

    def in_text(self, text: str) -> bool:
        """Whether the text holds one."""
        folded = text.casefold()
        if self.anywhere and self.anywhere.search(folded):
            return True
        words = folded.translate(SPACES).split() if folded.isascii() else WORD.findall(folded)
        if not self.words.isdisjoint(words):
            return True
        firsts = self.firsts.keys() & set(words) if self.firsts else ()
        running = f" {' '.join(words)} " if firsts else ""
        return any(phrase in running for first in firsts for phrase in self.firsts[first])


@lru_cache(maxsize=4)
def bad_words(path: Path) -> BadWords:
    """The list in a file, one word or phrase a line; blank lines and those that begin with # are none. Raises SettingError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        cure = "name a readable UTF-8 file, one word or phrase a line"
        raise SettingError(f"the list of bad words cannot be read: {error}", where=f"corpus.bad_words={path}", cure=cure) from error
    entries = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not any(map(WORD.search, entries)):
        raise SettingError("the list of bad words is empty", where=f"corpus.bad_words={path}", cure="name words in it, one a line")
    return BadWords([entry for entry in entries if WORD.search(entry)])
