"""Duplicates: the first stays, and the answer is always the same."""

import random
from collections.abc import Iterable

from foretell.corpus.dedup import exact_duplicates, minhash, near_duplicates
from foretell.corpus.document import Document, Dropped, Items

WORDS = [f"word{number}" for number in range(3000)]


def text(seed: int, size: int = 400) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=size))


def edited(original: str, share: float, seed: int) -> str:
    choice = random.Random(seed)
    return " ".join("changed" if choice.random() < share else word for word in original.split())


def documents(texts: Iterable[str]) -> list[Document]:
    return [Document(f"{number:03d}", content, "source") for number, content in enumerate(texts)]


def kept_instead(items: Items) -> dict[str, str | None]:
    return {item.id: item.duplicate_of for item in items if isinstance(item, Dropped)}


def test_equal_texts_keep_the_first() -> None:
    same_ids = [Document("a", "x", "s"), Document("a", "x", "s"), Document("b", "x", "s"), Document("c", "y", "s")]
    items = list(exact_duplicates(iter(same_ids)))
    assert [isinstance(item, Dropped) for item in items] == [False, True, True, False]
    assert kept_instead(iter(items)) == {"a": "a", "b": "a"}


def test_near_duplicates_are_found_and_different_texts_are_not() -> None:
    originals = [text(seed) for seed in range(100)]
    copies = [edited(original, 0.01, seed) for seed, original in enumerate(originals)]
    upper = [original.upper().replace(" ", "\n, ") for original in originals[:10]]
    far = [edited(original, 0.3, seed) for seed, original in enumerate(originals)]
    dropped = kept_instead(near_duplicates(iter(documents([*originals, *copies, *upper, *far])), 0.8))
    assert all(int(copy) % 100 == int(first) for copy, first in dropped.items() if first is not None)
    assert None not in dropped.values()
    assert sum(100 <= int(copy) < 200 for copy in dropped) > 95
    assert {f"{number}" for number in range(200, 210)} <= set(dropped)
    assert not any(int(copy) >= 210 or int(copy) < 100 for copy in dropped)


def test_the_threshold_is_obeyed() -> None:
    pair = documents([text(1), edited(text(1), 0.05, 1)])  # similarity about 0.63
    assert not kept_instead(near_duplicates(iter(pair), 0.8))
    assert not kept_instead(near_duplicates(iter(documents([text(1), text(1) + " more words at the end"])), 1.0))


def test_texts_without_words_are_compared_as_they_are() -> None:
    assert list(kept_instead(near_duplicates(iter(documents(["?!?", "***", "", "***"])), 0.8))) == ["003"]


def test_signatures_are_the_same_in_every_process() -> None:
    assert minhash(text(7)).digest()[:3] == [141231707, 329873375, 438961228]
    assert minhash(text(7, 50_000)).jaccard(minhash(text(7, 50_000) + " end")) > 0.97
