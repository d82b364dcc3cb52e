"""Items in groups of bounded size."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def grouped(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Lists of neighbouring items, each closed as soon as its sizes add up to `limit`."""
    group: list[T] = []
    filled = 0
    for item in items:
        group.append(item)
        filled += size(item)
        if filled >= limit:
            yield group
            group, filled = [], 0
    if group:
        yield group
