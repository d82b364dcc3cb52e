"""A text as GPT-1 was trained to read it: repaired, its signs made plain, split by spaCy's English rules, in small letters."""

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from foretell.base.errors import ModelError

if TYPE_CHECKING:
    import tokenizers

PLAIN = str.maketrans({"—": "-", "–": "-", "―": "-", "…": "...", "´": "'"})
SIGNS = re.compile(r"""([-~!";?+,)(\\/*\[\]}{|_])\1*""")  # a run of one of these stands alone


def words(text: str) -> list[str]:
    """The words that are encoded one by one. Source: OpenAI's finetune-transformer-lm, text_utils.py. Raises ModelError."""
    repaired, split = _libraries()
    plain = SIGNS.sub(r" \g<0> ", repaired(text).translate(PLAIN))
    plain = re.sub(r"[^\S\n]+", " ", plain)
    plain = re.sub(r" ?(?:\n ?)+", " \n ", plain).strip()
    # spaCy leaves a newline with the space after it; the one word with a newline in the vocabulary has none
    return ["\n" if word.text == "\n " else word.text.lower() for word in split(plain)]


def plain_bpe(inner: "tokenizers.Tokenizer") -> "tokenizers.Tokenizer":
    """The same vocabulary and merges, for words that are ready: without the library's own normalizer and pre-tokenizer."""
    import tokenizers

    return tokenizers.Tokenizer(inner.model)


@cache
def _libraries() -> tuple[Callable[[str], str], Callable[[str], Any]]:
    try:
        import ftfy
        import spacy
    except ImportError as error:
        cure = 'pip install "foretell[gpt1]", or convert the model without its faithful tokenizer'
        raise ModelError(f"GPT-1's own way to split a text needs the package {error.name}", where="tokenizer", cure=cure) from error
    return ftfy.fix_text, spacy.blank("en").tokenizer
