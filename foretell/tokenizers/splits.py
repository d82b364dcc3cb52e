"""How text is split into the words of a byte-level BPE, and how often each word occurs in texts."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.pieces import pieces

if TYPE_CHECKING:
    from tokenizers import pre_tokenizers

# Sources: the tokenizers of Qwen2, GPT-4 (cl100k, as Llama 3 writes it) and GPT-2. Those very ones, so that a GGUF export can
# truthfully call them by llama.cpp's names for them.
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = GPT4.replace("{1,3}", "")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGITS = {"single": r"\p{N}", "up_to_three": r"\p{N}{1,3}"}

# Chunks are cut before a space behind something visible, and after a lone newline between visible things: there every pattern
# above begins a new word, whatever stands further left or right. Python sees white space wherever the patterns do.
CHUNK = re.compile(r"\s*\S+(?:(?!\n\S)[^\S ]\s*\S*)*(?:\n(?=\S))?|\s+")
OTHER_SPACES = [letter for letter in map(chr, range(0x3001)) if letter.isspace() and letter not in " \n"]


def patterns(settings: TokenizerSettings) -> list[str]:
    """The regular expressions that split text, one applied after the other."""
    if settings.split == "gpt2":
        return [*([DIGITS[settings.digits]] if settings.digits else []), GPT2]
    return [{"single": QWEN2, "up_to_three": GPT4}[settings.digits or ("single" if settings.split == "qwen2" else "up_to_three")]]


def splitters(patterns: list[str]) -> "list[pre_tokenizers.PreTokenizer]":
    """The library's components for them."""
    from tokenizers import Regex, pre_tokenizers

    return [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]


def word_counts(texts: Iterable[str], patterns: list[str]) -> Counter[str]:
    """How often each word occurs, by the library's rules but many times faster.

    Texts are cut into chunks and these counted, which costs little; only the distinct ones are split into words.
    """
    chunks: Counter[str] = Counter()
    for text in texts:
        for piece in pieces(text):
            chunks.update(_chunks(piece))
    words: Counter[str] = Counter()
    *first, last = [re.compile(pattern) for pattern in _translated(patterns, set().union(*filter(_beyond_ascii, chunks)))]
    for chunk, count in chunks.items():
        parts = [chunk]
        for pattern in first:
            parts = [part for whole in parts for part in pattern.split(whole)]
        for part in parts:
            for word in last.findall(part):
                words[word] += count
    return words


def _chunks(text: str) -> list[str]:
    if "\0" in text or any(space in text for space in OTHER_SPACES):
        return CHUNK.findall(text)
    marked = text.replace(" ", "\0 ").replace("\n", "\n\0").replace("\0\n", "\n").replace("\n\0\0 ", "\n ")
    marked = marked.replace("\n\n\0", "\n\n").replace(" \n\0", " \n")
    while " \0 " in marked:  # of a run of spaces every second mark goes at a time
        marked = marked.replace(" \0 ", "  ")
    return marked.split("\0")


def _beyond_ascii(text: str) -> bool:
    return not text.isascii()


def _translated(patterns: list[str], letters: set[str]) -> Iterator[str]:
    """Patterns for Python's own `re`, which knows no properties: what the library takes for a letter, a number or a space is asked
    of the library itself, for the characters that occur. The first ones keep what they split at, as groups do."""
    classes = {"L": "a-zA-Z", "N": "0-9", "s": " \\t-\\r"}
    for name, expression in (("L", r"\p{L}"), ("N", r"\p{N}"), ("s", r"\s")):
        (splitter,) = splitters([expression + "+"])
        text = "".join(f"{letter}\0" for letter in sorted(letters - {"\0"}))
        found = {part[0] for part, _ in splitter.pre_tokenize_str(text) if "\0" not in part}
        classes[name] += "".join(sorted(found))
    for place, pattern in enumerate(patterns):
        pattern = pattern.replace(r"\p{L}\p{N}]", f"{classes['L']}{classes['N']}]").replace(r"[^\s", f"[^{classes['s']}")
        pattern = pattern.replace(r"\p{L}", f"[{classes['L']}]").replace(r"\p{N}", f"[{classes['N']}]")
        pattern = pattern.replace(r"\S", f"[^{classes['s']}]").replace(r"\s", f"[{classes['s']}]")
        yield pattern if place == len(patterns) - 1 else f"({pattern})"
