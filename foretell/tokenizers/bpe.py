"""Training of byte-level BPE: from texts to a vocabulary in which every text can be written."""

from collections.abc import Iterable

from foretell.base.errors import DataError, SettingError
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.tokenizer import END_OF_TEXT, Tokenizer, library_errors, pieces

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
    with library_errors(DataError("the tokenizer library failed on this text", where="training", cure="leave out parts of it")):
        inner.train_from_iterator((piece for text in texts for piece in pieces(text)), trainer)
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    if (supported := inner.get_vocab_size()) < wanted:
        what = f"a vocabulary of {wanted} tokens is more than this text supports, which is {supported}"
        cure = f"set tokenizer.vocab_size={supported} or less, or give more text"
        raise SettingError(what, where="tokenizer.vocab_size", cure=cure)
    return Tokenizer(inner, {})
