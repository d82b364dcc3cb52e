"""Long texts in pieces that have the tokens of the whole."""

import re
from collections.abc import Iterator

PIECE_CHARACTERS, LONGEST_PIECE = 64_000, 256_000
# Between a letter and a space before a letter, and after a lone newline, the split patterns of GPT-2, Llama 3 and Qwen
# always end a token, whatever stands further left or right: cut there, and the pieces have the tokens of the whole.
SEAM = re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])|(?<=\S\n)(?=\S)")
ANYWHERE = re.compile("")  # for tokens that are single bytes or characters


def pieces(
    text: str, size: int = PIECE_CHARACTERS, longest: int | None = LONGEST_PIECE, seam: re.Pattern[str] = SEAM
) -> Iterator[str]:
    """A long text, cut at the first seam after `size` characters; where there is none for long, at `longest` (None: never)."""
    start = 0
    while len(text) - start > size:
        limit = len(text) if longest is None else start + longest
        found = seam.search(text, start + size, limit)
        end = found.start() if found else limit
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
