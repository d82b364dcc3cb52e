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


def plan(sizes: Iterable[tuple[str, int]], fraction: float) -> HeldOut:
    """Choose from (document id, characters). Ends, where whole documents would be under half or over twice the fraction."""
    total = held = 0
    longest: list[tuple[int, str]] = []
    for identity, size in sizes:
        total += size
        held += size if chosen(identity, fraction) else 0
        (heapq.heappush if len(longest) < LONGEST_DOCUMENTS else heapq.heappushpop)(longest, (size, identity))
    if held and 0.5 <= held / (fraction * total) <= 2:
        return HeldOut(method="whole documents, chosen by a hash of their id", fraction=fraction, characters=total, ends={})
    ends: dict[str, int] = {}
    for size, identity in sorted(longest, reverse=True):
        if take := min(ceil(fraction * total) - sum(ends.values()), size // 2):
            ends[identity] = take
    if not ends:
        cure = "give more text, or see what was left out with `foretell corpus show DIR --dropped`"
        raise DataError(f"{total} characters of text are too few to hold some out", where="corpus", cure=cure)
    method = f"the ends of the longest documents ({len(ends)}), because there are too few to hold out whole ones"
    return HeldOut(method=method, fraction=fraction, characters=total, ends=ends)


def chosen(identity: str, fraction: float) -> bool:
    """Whether a document is held out: a function of its id alone."""
    keyed = hashlib.blake2b(identity.encode(), key=b"foretell held out", digest_size=8)
    return int.from_bytes(keyed.digest(), "big") < fraction * 2**64
