"""Training of byte-level BPE: from texts to a vocabulary in which every text can be written."""

from collections import Counter
from collections.abc import Iterable

from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.library import training_errors
from foretell.tokenizers.merges import learn_merges
from foretell.tokenizers.splits import QWEN2, patterns, splitters, word_counts
from foretell.tokenizers.styles import byte_alphabet
from foretell.tokenizers.tokenizer import END_OF_TEXT, Tokenizer

SPLIT = QWEN2  # of the standard settings
LONGEST_WORD = 256  # characters. Joining pairs takes time quadratic in the length of a word, and a file may be one word


def train_bpe(texts: Iterable[str], settings: TokenizerSettings) -> Tokenizer:
    """Learn a vocabulary; the same texts give the same one. Raises SettingError if they do not support its size.

    The merges are those of the library's own BpeTrainer, with two as the least frequency, for words cut at LONGEST_WORD.
    """
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers

    expressions, special = patterns(settings), [END_OF_TEXT, *settings.special_tokens]
    letters = {byte: letter for letter, byte in byte_alphabet().items()}
    ids = {content: token for token, content in enumerate(dict.fromkeys([*special, *sorted(letters.values())]))}
    with training_errors():
        counts: Counter[bytes] = Counter()
        for word, count in word_counts(texts, expressions).items():
            for start in range(0, len(word), LONGEST_WORD):
                counts[word[start : start + LONGEST_WORD].encode()] += count
        merges = learn_merges(counts, ids, [letters[byte] for byte in range(256)], settings.vocab_size)
        settings.require(len(ids))
        inner = Inner(models.BPE(ids, merges))
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.Sequence([*splitters(expressions), to_bytes]), decoders.ByteLevel()
        inner.add_special_tokens(special)
    return Tokenizer(inner, dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT))
