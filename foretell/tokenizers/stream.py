"""Tokens to text as they come."""

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foretell.tokenizers.tokenizer import Tokenizer


class StreamDecoder:
    """Ids to text one at a time, as it goes on after other text: a word keeps the space before it.

    A character whose bytes lie in several tokens is held back until it is whole.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer, self._utf8 = tokenizer, codecs.getincrementaldecoder("utf-8")("replace")
        self._held = " " if tokenizer.kind == "gpt1" else ""  # its tokens end words; the space is owed to the next one

    def push(self, token: int) -> str:
        """The text that has become certain with this token; often one token's, sometimes none."""
        text = self._utf8.decode(self._tokenizer.decode_bytes([token]))
        if self._tokenizer.kind == "gpt1" and text:
            text, self._held = self._held + text.removesuffix(" "), " " if text.endswith(" ") else ""
        return text

    def finish(self) -> str:
        """What was still held back."""
        return self._utf8.decode(b"", final=True)
