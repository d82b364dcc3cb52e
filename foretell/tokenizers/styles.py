"""How tokens are written in a vocabulary: the kind of tokenizer, the bytes of each token, and where a text may be cut."""

import json
import re
from typing import TYPE_CHECKING, Any

from foretell.tokenizers.pieces import ANYWHERE, SEAM

if TYPE_CHECKING:
    import tokenizers

SPACE = "▁"  # SentencePiece's sign for it
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
ENDS_OF_TEXT = ("<|endoftext|>", "</s>", "<|im_end|>", "<|end_of_text|>", "<eos>", "[SEP]", "\n</w>")
JOINED = {".", ",", "?", "!"}  # written without a space before them, as the library's WordPiece decoder does
# What looks at single characters, or ends a token at every seam: no other normalizers and pre-tokenizers allow a cut.
LOCAL = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"} | {
    *("BertPreTokenizer", "ByteLevel", "Digits", "Punctuation", "Split", "Whitespace", "WhitespaceSplit")
}
PROBE = "One two\n\u201cthree 4 fi-ve?\nsix's\n\n7 eight"  # split here, it shows whether words end at its seams


def kind_of(inner: "tokenizers.Tokenizer") -> str:
    """bpe (byte-level), byte, wordpiece, char, word, gpt1 (BPE of characters, `</w>` ends a word) or sentencepiece."""
    model, vocabulary = inner.model, inner.get_vocab(with_added_tokens=False)
    special = {token.content for token in inner.get_added_tokens_decoder().values()}
    layout = {part["type"] for part in parts(inner.normalizer, inner.pre_tokenizer)}
    match type(model).__name__:
        case "WordPiece":
            return "wordpiece"
        case "WordLevel":
            return "char" if all(len(text) == 1 for text in vocabulary.keys() - special) else "word"
        case "Unigram":
            return "sentencepiece"
    if model.byte_fallback or "Metaspace" in layout:
        return "sentencepiece"
    if model.end_of_word_suffix and "ByteLevel" not in layout:
        return "gpt1"
    return "byte" if len(vocabulary.keys() - special) == 256 else "bpe"


def written(inner: "tokenizers.Tokenizer", kind: str, special: set[int], unknown: int | None) -> dict[int, bytes]:
    """Token id → the bytes it stands for; of special tokens none. Raises KeyError for a BPE that is not byte-level."""
    model, alphabet, added = inner.model, byte_alphabet(), inner.get_added_tokens_decoder()

    def content(text: str) -> bytes:
        match kind:
            case "bpe" | "byte":
                return bytes(alphabet[letter] for letter in text)
            case "sentencepiece" if code := re.fullmatch(r"<0x([0-9A-F]{2})>", text):
                return bytes.fromhex(code[1])
            case "sentencepiece":
                text = text.replace(SPACE, " ")
            case "wordpiece":
                prefix = model.continuing_subword_prefix
                text = text.removeprefix(prefix) if text.startswith(prefix) or text in JOINED else f" {text}"
            case "gpt1" if text.endswith(model.end_of_word_suffix):
                text = text.removesuffix(model.end_of_word_suffix)
                text += "" if text.isspace() else " "
        return text.encode()

    contents = {token: b"" if token in special else one.content.encode() for token, one in added.items()} | dict.fromkeys(
        special, b""
    )
    if unknown is not None:
        contents[unknown] = (" " * (kind in ("wordpiece", "word")) + UNKNOWN).encode()
    plain = inner.get_vocab(with_added_tokens=False).items()
    return contents | {token: content(text) for text, token in plain if token not in contents}


def adds_space(inner: "tokenizers.Tokenizer", kind: str) -> bool:
    """Whether the first word of a decoded text has a space before it that was not in the text."""
    decoder = parts(inner.decoder)
    strips = any(part["type"] == "Strip" and part["start"] for part in decoder)
    return kind == "wordpiece" or strips or any(part.get("prepend_scheme", "never") != "never" for part in decoder)


def seam_of(inner: "tokenizers.Tokenizer", kind: str) -> re.Pattern[str] | None:
    """Where a text may be cut without changing its tokens; None: nowhere."""
    layout = parts(inner.normalizer, inner.pre_tokenizer)
    if any(part["type"] not in LOCAL or part.get("add_prefix_space") for part in layout) or kind == "sentencepiece":
        return None
    if kind in ("byte", "char") and inner.normalizer is None:
        return ANYWHERE
    words = inner.pre_tokenizer.pre_tokenize_str(PROBE) if inner.pre_tokenizer is not None else []
    return SEAM if {seam.start() for seam in SEAM.finditer(PROBE)} <= {place for _, span in words for place in span} else None


def parts(*components: Any) -> list[dict[str, Any]]:
    """The settings of normalizers, pre-tokenizers and decoders, with sequences taken apart."""
    found = []
    states = [json.loads(component.__getstate__()) for component in components if component is not None]
    while states:
        state = states.pop(0)
        inside = [part for name in ("normalizers", "pretokenizers", "decoders") for part in state.get(name, [])]
        states = inside + states
        found += [] if state["type"] == "Sequence" else [state]
    return found


def byte_alphabet() -> dict[str, int]:
    """The printable letter that stands for each byte in a vocabulary → the byte. Source: OpenAI's GPT-2, encoder.py."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return dict(zip(map(chr, [*visible, *range(256, 256 + len(hidden))]), visible + hidden, strict=True))
