"""WordPiece, as BERT has it: words in pieces, the longest that the vocabulary knows first."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from foretell.base.errors import ModelError
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.library import training_errors
from foretell.tokenizers.tokenizer import Tokenizer

SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}  # by role, in the order of ids
LARGEST_ALPHABET = 1000  # characters; each takes two places in the vocabulary, at the beginning of a word and within one


def train_wordpiece(texts: Callable[[], Iterable[str]], settings: TokenizerSettings) -> Tokenizer:
    """Learn a vocabulary from texts that are read twice. Raises SettingError if they do not support its size."""
    from tokenizers import trainers

    inner, size = (
        wordpiece({text: token for token, text in enumerate(SPECIAL.values())}, settings.lowercase)._inner,
        settings.vocab_size - len(settings.special_tokens),
    )
    with training_errors():
        letters = Counter(letter for text in texts() for letter in inner.normalizer.normalize_str(text) if not letter.isspace())
        places = min(LARGEST_ALPHABET, (size - len(SPECIAL)) // 2)
        alphabet = sorted(sorted(letters, key=lambda letter: (-letters[letter], letter))[:places])
        # The library numbers ##letters in random order, and by these numbers decides between pairs that are equally frequent;
        # given as special tokens they have an order.
        ordered = [*SPECIAL.values(), *alphabet, *(f"##{letter}" for letter in alphabet)]
        letters_only: dict[str, Any] = {"initial_alphabet": alphabet, "limit_alphabet": len(alphabet), "special_tokens": ordered}
        trainer = trainers.WordPieceTrainer(vocab_size=size, min_frequency=2, show_progress=False, **letters_only)
        inner.train_from_iterator(texts(), trainer)
    settings.require(inner.get_vocab_size() + len(settings.special_tokens))
    return wordpiece(inner.get_vocab(with_added_tokens=False), settings.lowercase).with_special_tokens(settings.special_tokens)


def wordpiece(
    vocabulary: dict[str, int],
    lowercase: bool,
    where: str = "tokenizer",
    *,
    strip_accents: bool | None = None,
    chinese: bool = True,
) -> Tokenizer:
    """BERT's tokenizer with a vocabulary; words of more than 100 letters are unknown, as in transformers. Raises ModelError."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    if missing := SPECIAL.values() - vocabulary.keys():
        raise ModelError(
            f"the vocabulary lacks {', '.join(sorted(missing))}", where=where, cure="use the vocab.txt of a BERT model"
        )
    inner = Inner(models.WordPiece(vocabulary, unk_token=SPECIAL["unk"]))
    inner.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese)
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    ends = [(SPECIAL[role], vocabulary[SPECIAL[role]]) for role in ("cls", "sep")]
    inner.post_processor = processors.TemplateProcessing("[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", ends)
    inner.add_special_tokens(list(SPECIAL.values()))
    config: dict[str, Any] = {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase}
    config |= {"strip_accents": strip_accents, "tokenize_chinese_chars": chinese}
    return Tokenizer(inner, config | {f"{role}_token": text for role, text in SPECIAL.items()}, where)
