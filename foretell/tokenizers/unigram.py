"""Unigram, as SentencePiece has it: of all ways to cut a word into pieces the likeliest one."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable

from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.library import training_errors
from foretell.tokenizers.pieces import pieces
from foretell.tokenizers.tokenizer import END_OF_TEXT, Tokenizer

UNKNOWN = "<unk>"
COVERAGE = 0.9995  # of a text, by the letters that have tokens of their own, as SentencePiece has it
NEVER = -10_000.0  # the score of what text must not become as long as there is another way to write it
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]  # how SentencePiece writes tokens for single bytes


def train_unigram(texts: Callable[[], Iterable[str]], settings: TokenizerSettings) -> Tokenizer:
    """Learn a vocabulary; what it has no piece for is written in bytes, so that any text comes back (U+2581 as a space).

    Alone of all kinds it is not quite the same each time: the library adds up in random order, and the scores of two trainings on
    the same texts differ in their fourth digit. Raises SettingError if the texts do not support its size. Source: Kudo 2018.
    """
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers, trainers

    special, size = [END_OF_TEXT, *settings.special_tokens], settings.vocab_size - len(BYTES) - 1 - len(settings.special_tokens)
    inner = Inner(models.Unigram())
    # No space is put before a text, for its tokens would stand for bytes that it does not have.
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    # With these letters there always is another way to write "<unk>" and "<0x0A>" than the tokens of these names.
    letters = sorted({letter for content in [UNKNOWN, *BYTES] for letter in content})
    trainer = trainers.UnigramTrainer(
        vocab_size=size, initial_alphabet=letters, special_tokens=[UNKNOWN], unk_token=UNKNOWN, show_progress=False
    )
    with training_errors():
        rare = _rare(texts, letters, (size - len(letters)) // 2)
        inner.train_from_iterator((part for text in texts() for piece in pieces(text) for part in rare.split(piece)), trainer)
        learned = [(content, score) for content, score in json.loads(inner.to_str())["model"]["vocab"] if content != UNKNOWN]
    settings.require(len(special) + len(BYTES) + 1 + len(learned))
    vocabulary = [(content, NEVER) for content in [UNKNOWN, *BYTES]] + learned
    inner.model = models.Unigram(vocabulary, unk_id=0, byte_fallback=True)
    inner.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    inner.add_special_tokens(special)
    roles = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT)
    return Tokenizer(inner, roles | {"unk_token": UNKNOWN})


def _rare(texts: Callable[[], Iterable[str]], letters: Iterable[str], most: int) -> re.Pattern[str]:
    """Runs of letters that are left to bytes: neither among `letters` nor among the `most` frequent, COVERAGE of the text."""
    counts = Counter[str]()
    for text in texts():
        counts.update(text)
    kept, beyond = set(letters), COVERAGE * counts.total()
    for letter, count in counts.most_common(most):
        if beyond <= 0:
            break
        kept.add(letter)
        beyond -= count
    left = re.escape("".join(letter for letter in counts if letter not in kept))
    return re.compile(f"[{left}]+" if left else "(?!)")
