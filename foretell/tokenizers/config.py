"""Settings of the tokenizer: how large, learned from how much text."""

from typing import Literal

from pydantic import Field

from foretell.base.settings import Settings


class TokenizerSettings(Settings):
    """The `[tokenizer]` section of a recipe."""

    kind: Literal["bpe"] = "bpe"
    """Byte-level byte-pair encoding: any bytes can be written, and come back exactly."""
    vocab_size: int = Field(default=8192, ge=257)
    """Number of tokens; the 256 bytes and `<|endoftext|>` are the first."""
    sample_bytes: int = Field(default=100_000_000, gt=0)
    """Learn from at most this much text; of a larger corpus every second, third … piece is taken."""
