"""Settings of the tokenizer: what kind, how large, learned from how much text."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from foretell.base.errors import SettingError
from foretell.base.settings import Settings

Kind = Literal["bpe", "unigram", "wordpiece", "char", "byte", "word"]
Split = Literal["qwen2", "gpt2", "gpt4"]
LEAST = {"bpe": 257, "unigram": 300}  # <|endoftext|> and the 256 bytes; <unk>, too, and some letters


class TokenizerSettings(Settings):
    """The `[tokenizer]` section of a recipe."""

    kind: Kind = "bpe"
    """bpe: byte-level byte-pair encoding (any bytes can be written, and come back exactly); unigram: SentencePiece's, the
    likeliest pieces of each word, with the 256 bytes for what it does not know; wordpiece: BERT's pieces of words; char, word: a
    token for each; byte: 256 tokens. What char, word and wordpiece do not know is written as `<unk>` or `[UNK]`."""
    vocab_size: int = Field(default=8192, gt=0)
    """Number of tokens, special ones among them. bpe, unigram, wordpiece and word have exactly so many, and text that does not
    support them is refused; of char it is the most (the text's own characters are taken); byte always has 257."""
    sample_bytes: int = Field(default=100_000_000, gt=0)
    """Learn from at most this much text; of a larger corpus every second, third … piece is taken."""
    split: Split = "qwen2"
    """bpe: whose way to split text into words before pairs are joined. qwen2 and gpt4 (Llama 3's too) keep newlines with the signs
    before them, and take a sign or a tab into the word behind it; gpt2 keeps runs of spaces and newlines, and signs, apart."""
    digits: Literal["single", "up_to_three"] | None = None
    """bpe: how many digits a token may hold; absent: as the split has it, which is qwen2: one, gpt4: three, gpt2: any number.
    gpt4 with single digits is qwen2; gpt2 with single digits is SmolLM2's, with up to three it cannot be written as GGUF."""
    special_tokens: tuple[str, ...] = ()
    """Tokens with a meaning of their own, beside `<|endoftext|>`, such as `<|im_start|>`. Text never becomes one of them."""
    lowercase: bool = True
    """wordpiece: write in small letters and without accents, as `bert-base-uncased` does."""

    @field_validator("vocab_size")
    @classmethod
    def _holds_the_bytes(cls, vocab_size: int, info: ValidationInfo) -> int:
        if vocab_size < (least := LEAST.get(info.data.get("kind", "bpe"), 1)):
            what = "<|endoftext|> and the 256 bytes" if least == LEAST["bpe"] else "<unk>, too, and the letters of the text"
            raise ValueError(f"vocab_size = {vocab_size} is not possible | it should be {least} or more: {what}")
        return vocab_size

    @field_validator("special_tokens")
    @classmethod
    def _are_told_apart(cls, contents: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        said = f"special_tokens = {list(contents)} is not possible"
        if len({*contents, "<|endoftext|>"}) <= len(contents) or any(len(content) < 2 for content in contents):
            raise ValueError(f"{said} | each should be there once, besides <|endoftext|>, and have two characters or more")
        if info.data.get("vocab_size", 8192) < (least := LEAST.get(info.data.get("kind", "bpe"), 1) + len(contents)):
            raise ValueError(f"{said} | set vocab_size={least} or more, for them and what else must have a place")
        return contents

    def require(self, supported: int) -> None:
        """Refuse a vocabulary that training could not fill. Raises SettingError."""
        if supported < self.vocab_size:
            what = f"a vocabulary of {self.vocab_size} tokens is more than this text supports, which is {supported}"
            cure = f"set tokenizer.vocab_size={supported} or less, or give more text"
            raise SettingError(what, where="tokenizer.vocab_size", cure=cure)
