"""Long texts in pieces, so that no single call of a library grows with the text."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

PIECE_CHARACTERS = 64_000
LONGEST_PIECE = 256_000
# Between a letter and a space before a letter, and after a lone newline, the split patterns of GPT-2, Llama 3 and Qwen
# always end a token, whatever stands further left or right: cut there, and the pieces have the tokens of the whole.
SEAM = re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])|(?<=\S\n)(?=\S)")


def pieces(text: str, size: int = PIECE_CHARACTERS, longest: int = LONGEST_PIECE) -> Iterator[str]:
    """Cut at the first seam after `size` characters; where there is none for long, at `longest`."""
    start = 0
    while len(text) - start > size:
        seam = SEAM.search(text, start + size, start + longest)
        end = seam.start() if seam else start + longest
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


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
