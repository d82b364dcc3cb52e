"""Training of byte-level BPE: from texts to a vocabulary in which every text can be written."""

from collections.abc import Iterable

from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.library import training_errors
from foretell.tokenizers.pieces import pieces
from foretell.tokenizers.tokenizer import END_OF_TEXT, Tokenizer

# Source: Qwen2's tokenizer. The very same, so that a GGUF export can truthfully call it by llama.cpp's name for it.
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LONGEST_WORD = 256  # characters. Joining pairs takes time quadratic in the length of a word, and a file may be one word


def train_bpe(texts: Iterable[str], settings: TokenizerSettings) -> Tokenizer:
    """Learn a vocabulary; the same texts give the same one. Raises SettingError if they do not support its size."""
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Inner

    inner = Inner(models.BPE())
    inner.decoder = decoders.ByteLevel()
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.FixedLength(LONGEST_WORD), to_bytes])
    alphabet, special, wanted = to_bytes.alphabet(), [AddedToken(END_OF_TEXT, special=True, normalized=False)], settings.vocab_size
    trainer = trainers.BpeTrainer(
        vocab_size=wanted, min_frequency=2, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    with training_errors():
        inner.train_from_iterator((piece for text in texts for piece in pieces(text)), trainer)
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    settings.require(inner.get_vocab_size())
    return Tokenizer(inner, dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT))
