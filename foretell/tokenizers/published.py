"""The vocabularies that OpenAI and Google published, as tokenizers with the ids of the originals."""

from pathlib import Path

from foretell.base.errors import ModelError
from foretell.base.files import read_text
from foretell.base.records import read_json
from foretell.tokenizers.library import library_errors
from foretell.tokenizers.tokenizer import END_OF_TEXT, Tokenizer
from foretell.tokenizers.wordpiece import wordpiece


def gpt2_from_openai(folder: Path) -> Tokenizer:
    """GPT-2's: encoder.json and vocab.bpe. Raises ModelError, DataError."""
    return _gpt2(folder / "encoder.json", folder / "vocab.bpe")


def bpe_from_files(vocabulary: Path, merges: Path) -> Tokenizer:
    """vocab.json and merges.txt, as transformers wrote them: GPT-2's kind, or GPT-1's where `</w>` ends words."""
    if any(text.endswith("</w>") for text in read_json(vocabulary)):
        return _gpt1(vocabulary, merges, faithful=False)
    return _gpt2(vocabulary, merges)


def _gpt2(vocabulary: Path, merges: Path) -> Tokenizer:
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers

    folder = vocabulary.parent
    with library_errors(_damaged(folder)):
        inner = Inner(models.BPE(read_json(vocabulary), _merges(merges)))
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        inner.add_special_tokens([END_OF_TEXT])
        roles = ("bos_token", "eos_token", "unk_token", "pad_token")
        return Tokenizer(inner, dict.fromkeys(roles, END_OF_TEXT), where=str(folder))


def gpt1_from_openai(folder: Path, faithful: bool) -> Tokenizer:
    """GPT-1's: encoder_bpe_40000.json and vocab_40000.bpe, 40,478 ids. Raises ModelError, DataError.

    faithful: prepare a text with ftfy and spaCy as OpenAI did (and as the model was trained); it keeps newlines. Otherwise as
    transformers does: other ids for contractions, accents and newlines. transformers opens both as its own variant.
    """
    return _gpt1(folder / "encoder_bpe_40000.json", folder / "vocab_40000.bpe", faithful)


def _gpt1(vocabulary: Path, merges: Path, faithful: bool) -> Tokenizer:
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    unknown, folder = "<unk>", vocabulary.parent
    with library_errors(_damaged(folder)):
        inner = Inner(models.BPE(read_json(vocabulary), _merges(merges), unk_token=unknown, end_of_word_suffix="</w>"))
        inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
        inner.decoder = decoders.BPEDecoder(suffix="</w>")
        inner.add_special_tokens([unknown])
        config = {"unk_token": unknown} | ({"foretell_text": "gpt1"} if faithful else {})
        return Tokenizer(inner, config, where=str(folder))


def wordpiece_from_vocab(
    vocab_txt: Path, lowercase: bool = True, *, strip_accents: bool | None = None, chinese: bool = True
) -> Tokenizer:
    """BERT's: vocab.txt, a token a line. lowercase: of an uncased model. Raises ModelError, DataError.

    strip_accents: absent: as lowercase. chinese: Chinese characters are words of their own.
    """
    lines = read_text(vocab_txt).removesuffix("\n").split("\n")
    with library_errors(_damaged(vocab_txt)):
        return wordpiece(
            {text: token for token, text in enumerate(lines)},
            lowercase,
            str(vocab_txt),
            strip_accents=strip_accents,
            chinese=chinese,
        )


def _merges(path: Path) -> list[tuple[str, str]]:
    """The pairs, most frequent first, behind a line with the version."""
    lines = read_text(path).removesuffix("\n").split("\n")[1:]
    return [(first, second) for line in lines for first, second in [line.split(" ")]]


def _damaged(path: Path) -> ModelError:
    return ModelError("these vocabulary files are damaged, or do not belong together", where=str(path), cure="download them again")
