"""Which text is kept from training: whole documents by a hash of their id, or the ends of the longest documents."""

import hashlib
import heapq
from collections.abc import Iterable
from math import ceil

from foretell.base.errors import DataError
from foretell.base.settings import Settings

LONGEST_DOCUMENTS = 1000  # candidates for a held-out end: bounds the memory
LINE_CHARACTERS = 4096  # how far before the wanted place a line may end


class HeldOut(Settings):
    """method: in words. fraction: as asked for. characters: of all text. ends: document id → characters of its end, if any."""

    method: str
    fraction: float
    characters: int
    ends: dict[str, int]

    def split(self, identity: str, text: str) -> dict[str, str]:
        """The part of a document that is trained on and the part that is held out, under the names of the splits."""
        if not self.ends:
            return {"held_out" if chosen(identity, self.fraction) else "train": text}
        if identity not in self.ends:
            return {"train": text}
        wanted = len(text) - self.ends[identity]
        cut = text.rfind("\n", max(0, wanted - LINE_CHARACTERS), wanted) + 1 or wanted
        return {"train": text[:cut], "held_out": text[cut:]}


class Survey:
    """Sizes of documents, met one after the other; what is to be held out of them is known when all were seen."""

    def __init__(self, fraction: float) -> None:
        self.fraction, self.characters, self._held = fraction, 0, 0
        self._longest: list[tuple[int, str]] = []

    def add(self, identity: str, size: int) -> None:
        """One document more, of so many characters."""
        self.characters += size
        self._held += size if chosen(identity, self.fraction) else 0
        (heapq.heappush if len(self._longest) < LONGEST_DOCUMENTS else heapq.heappushpop)(self._longest, (size, identity))

    def guess(self) -> HeldOut:
        """Whole documents, by a hash of their id."""
        method, total = "whole documents, chosen by a hash of their id", self.characters
        return HeldOut(method=method, fraction=self.fraction, characters=total, ends={})

    def plan(self) -> HeldOut:
        """The guess; or ends, where whole documents would be under half or over twice the fraction. Raises DataError."""
        total, fraction = self.characters, self.fraction
        if self._held and 0.5 <= self._held / (fraction * total) <= 2:
            return self.guess()
        ends: dict[str, int] = {}
        for size, identity in sorted(self._longest, reverse=True):
            if take := min(ceil(fraction * total) - sum(ends.values()), size // 2):
                ends[identity] = take
        if not ends:
            cure = "give more text, or see what was left out with `foretell corpus show DIR --dropped`"
            raise DataError(f"{total} characters of text are too few to hold some out", where="corpus", cure=cure)
        method = f"the ends of the longest documents ({len(ends)}), because there are too few to hold out whole ones"
        return HeldOut(method=method, fraction=fraction, characters=total, ends=ends)


def plan(sizes: Iterable[tuple[str, int]], fraction: float) -> HeldOut:
    """Choose from (document id, characters)."""
    survey = Survey(fraction)
    for identity, size in sizes:
        survey.add(identity, size)
    return survey.plan()


def chosen(identity: str, fraction: float) -> bool:
    """Whether a document is held out: a function of its id alone."""
    keyed = hashlib.blake2b(identity.encode(), key=b"foretell held out", digest_size=8)
    return int.from_bytes(keyed.digest(), "big") < fraction * 2**64
