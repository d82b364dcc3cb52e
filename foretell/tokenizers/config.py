"""Settings of the tokenizer: what kind, how large, learned from how much text."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from foretell.base.errors import SettingError
from foretell.base.settings import Settings

Kind = Literal["bpe", "wordpiece", "char", "byte", "word"]


class TokenizerSettings(Settings):
    """The `[tokenizer]` section of a recipe."""

    kind: Kind = "bpe"
    """bpe: byte-level byte-pair encoding (any bytes can be written, and come back exactly); wordpiece: BERT's pieces of words;
    char, word: a token for each; byte: 256 tokens. What char, word and wordpiece do not know is written as `<unk>` or `[UNK]`."""
    vocab_size: int = Field(default=8192, gt=0)
    """Number of tokens, special ones among them. bpe, wordpiece and word have exactly so many, and text that does not support them
    is refused; of char it is the most (the text's own characters are taken); byte always has 257."""
    sample_bytes: int = Field(default=100_000_000, gt=0)
    """Learn from at most this much text; of a larger corpus every second, third … piece is taken."""
    lowercase: bool = True
    """wordpiece: write in small letters and without accents, as `bert-base-uncased` does."""

    @field_validator("vocab_size")
    @classmethod
    def _holds_the_bytes(cls, vocab_size: int, info: ValidationInfo) -> int:
        if info.data.get("kind", "bpe") == "bpe" and vocab_size < 257:
            raise ValueError(
                f"vocab_size = {vocab_size} is not possible | it should be 257 or more: <|endoftext|> and the 256 bytes"
            )
        return vocab_size

    def require(self, supported: int) -> None:
        """Refuse a vocabulary that training could not fill. Raises SettingError."""
        if supported < self.vocab_size:
            what = f"a vocabulary of {self.vocab_size} tokens is more than this text supports, which is {supported}"
            cure = f"set tokenizer.vocab_size={supported} or less, or give more text"
            raise SettingError(what, where="tokenizer.vocab_size", cure=cure)
