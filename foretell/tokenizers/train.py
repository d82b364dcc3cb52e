"""Training of a tokenizer of any kind, and the kinds that need little of it: bytes, characters, words."""

from collections.abc import Callable, Iterable, Sequence

from foretell.tokenizers.bpe import train_bpe
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.library import training_errors
from foretell.tokenizers.pieces import pieces
from foretell.tokenizers.styles import byte_alphabet
from foretell.tokenizers.tokenizer import END_OF_TEXT, Tokenizer
from foretell.tokenizers.unigram import train_unigram
from foretell.tokenizers.wordpiece import train_wordpiece

UNKNOWN = "<unk>"
ROLES = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT)
UNITS = {  # a word has the space before it, and keeps its apostrophes; whatever else there is stands alone
    "char": r"[\s\S]",
    "word": r" ?[\p{L}\p{M}\p{N}]+(?:['’][\p{L}\p{M}\p{N}]+)*| ?[^\s\p{L}\p{M}\p{N}]|\s",
}


def train(texts: Callable[[], Iterable[str]], settings: TokenizerSettings) -> Tokenizer:
    """Learn a tokenizer from texts that can be read more than once; the same ones give the same. Raises SettingError."""
    match settings.kind:
        case "bpe":
            return train_bpe(texts(), settings)
        case "unigram":
            return train_unigram(texts, settings)
        case "wordpiece":
            return train_wordpiece(texts, settings)
        case "byte":
            return byte_tokenizer(settings.special_tokens)
    return train_units(texts(), settings)


def train_units(texts: Iterable[str], settings: TokenizerSettings) -> Tokenizer:
    """One token for each of the most frequent characters or words, in the order of their frequency; <unk> for all others."""
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Inner

    inner = Inner(models.WordLevel({UNKNOWN: 1}, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(UNITS[settings.kind]), behavior="isolated")
    inner.decoder = decoders.Fuse()
    special = [END_OF_TEXT, UNKNOWN, *settings.special_tokens]
    trainer = trainers.WordLevelTrainer(vocab_size=settings.vocab_size, special_tokens=special, show_progress=False)
    with training_errors():
        inner.train_from_iterator((piece for text in texts for piece in pieces(text)), trainer)
    if settings.kind == "word":
        settings.require(inner.get_vocab_size())
    return Tokenizer(inner, ROLES | {"unk_token": UNKNOWN})


def byte_tokenizer(special_tokens: Sequence[str] = ()) -> Tokenizer:
    """A token for each byte, whose id is its value, `<|endoftext|>` (256), and what other special tokens there are."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers

    inner = Inner(models.BPE(byte_alphabet(), []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
    inner.add_special_tokens([END_OF_TEXT, *special_tokens])
    return Tokenizer(inner, dict(ROLES))
