"""The tokenizer as the rest of the house sees it: text and bytes to ids and back, exactly."""

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from foretell.base.errors import DataError, ForetellError, ModelError
from foretell.base.files import write_text
from foretell.base.records import dump, read_json

if TYPE_CHECKING:
    import tokenizers

T = TypeVar("T")

END_OF_TEXT = "<|endoftext|>"
PIECE_CHARACTERS, LONGEST_PIECE = 64_000, 256_000
GROUP_CHARACTERS = 1_000_000  # per call of the library, which needs up to 600 bytes of memory for each
# Between a letter and a space before a letter, and after a lone newline, the split patterns of GPT-2, Llama 3 and Qwen
# always end a token, whatever stands further left or right: cut there, and the pieces have the tokens of the whole.
SEAM = re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])|(?<=\S\n)(?=\S)")
NOT_UTF8 = re.compile("([\udc80-\udcff]+)")  # how Python's surrogateescape marks such bytes


class Tokenizer:
    """A byte-level BPE tokenizer: ours, or that of a Hugging Face model directory (GPT-2, Qwen, Llama 3, …).

    Special tokens are no text: `<|endoftext|>` written in a text is encoded as any other characters, and decoding skips
    special ids. A foreign tokenizer that normalises gives back the normalised text.
    """

    def __init__(self, inner: "tokenizers.Tokenizer", config: dict[str, Any], where: str = "tokenizer") -> None:
        """config: the content of tokenizer_config.json. where: named in errors. Raises ModelError."""
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        self._inner, self._config, self._where = inner, config, where
        named = config.get("eos_token") or END_OF_TEXT
        self._end_text = str(named["content"] if isinstance(named, dict) else named)
        if (end_of_text := inner.token_to_id(self._end_text)) is None:
            cure = "name one of its tokens as eos_token in tokenizer_config.json"
            raise ModelError(f"the tokenizer has no token {self._end_text} to end a text with", where=where, cure=cure)
        self.end_of_text = end_of_text
        self._bytes, self._byte_ids = self._tables()
        self.vocab_size = max(self._bytes) + 1

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Open a tokenizer or model directory. Raises ModelError."""
        import tokenizers

        path, config = directory / "tokenizer.json", directory / "tokenizer_config.json"
        what = f"this directory has no tokenizer: tokenizer.json is {'damaged' if path.is_file() else 'missing'}"
        cure = "copy tokenizer.json and tokenizer_config.json there from the tokenizer that the model was trained with"
        with library_errors(ModelError(what, where=str(directory), cure=cure)):
            inner = tokenizers.Tokenizer.from_file(str(path))
            return cls(inner, read_json(config) if config.is_file() else {}, where=str(directory))

    def save(self, directory: Path, context_length: int | None = None) -> None:
        """Write the two files that transformers' AutoTokenizer opens."""
        directory.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = dict.fromkeys(["bos_token", "eos_token", "pad_token"], self._end_text)
        config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **self._config}
        if context_length is not None:
            config["model_max_length"] = context_length
        write_text(directory / "tokenizer.json", self._inner.to_str(pretty=True))
        write_text(directory / "tokenizer_config.json", dump(config, indent=2) + "\n")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of tokenizer.json's content, however it was laid out."""
        return hashlib.sha256(json.dumps(json.loads(self._inner.to_str()), sort_keys=True).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return [int(token) for token in self.encode_batch([text])[0]]

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of each text. The library works on all cores, unless TOKENIZERS_PARALLELISM=false is set."""
        parts: list[list[NDArray[np.uint32]]] = [[np.empty(0, np.uint32)] for _ in texts]
        owned = ((index, piece) for index, text in enumerate(texts) for piece in pieces(text))
        failed = DataError("the tokenizer library failed on a text", where=self._where, cure="leave out parts of the text")
        for group in grouped(owned, lambda item: len(item[1]), GROUP_CHARACTERS):
            with library_errors(failed):
                encodings = self._inner.encode_batch_fast([piece for _, piece in group], add_special_tokens=False)
            for (index, _), encoding in zip(group, encodings, strict=True):
                parts[index].append(np.array(encoding.ids, dtype=np.uint32))
        return [np.concatenate(part) for part in parts]

    def encode_bytes(self, data: bytes) -> list[int]:
        """The ids of any bytes; what is not UTF-8 becomes the tokens of its single bytes."""
        parts = NOT_UTF8.split(data.decode("utf-8", "surrogateescape"))  # text, bytes, text, …, text
        ids: list[list[int]] = [encoded.tolist() for encoded in self.encode_batch(parts[::2])]
        broken = ([self._byte_ids[byte] for byte in part.encode("utf-8", "surrogateescape")] for part in parts[1::2])
        return ids[0] + [token for bytes_ids, text_ids in zip(broken, ids[1:], strict=True) for token in bytes_ids + text_ids]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for. Raises ModelError for an id that is no token."""
        try:
            return b"".join([self._bytes[token] for token in ids])
        except KeyError as error:
            cure = f"the ids are those of 0 … {self.vocab_size - 1} that have a token: is it the tokenizer of this model?"
            raise ModelError(f"there is no token {error}", where=self._where, cure=cure) from error

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ids stand for; bytes that are no whole character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def token_text(self, token: int) -> str:
        """A token for display: spaces visible, control characters and parts of characters escaped."""
        content = self.decode_bytes([token]).decode("utf-8", "backslashreplace") or str(self._inner.id_to_token(token))
        shown = (letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in content)
        return "".join(shown).replace(" ", "␣")

    def byte_lengths(self) -> NDArray[np.int64]:
        """(V,) how many bytes of text each id stands for; special tokens 0."""
        return np.array([len(self._bytes.get(token, b"")) for token in range(self.vocab_size)], np.int64)

    def _tables(self) -> tuple[dict[int, bytes], list[int]]:
        """Token id → the bytes it stands for, and byte → the id of its token."""
        alphabet, vocabulary = byte_alphabet(), self._inner.get_vocab(with_added_tokens=False)
        added = self._inner.get_added_tokens_decoder().items()
        contents = {token: b"" if kind.special else kind.content.encode() for token, kind in added} | {self.end_of_text: b""}
        try:
            contents |= {n: bytes(alphabet[letter] for letter in text) for text, n in vocabulary.items() if n not in contents}
            ids = {content: token for token, content in contents.items()}
            return contents, [ids[bytes([byte])] for byte in range(256)]
        except KeyError as error:
            cure = "use a model with a byte-level BPE tokenizer, as those of GPT-2, Llama 3 and Qwen"
            raise ModelError("the tokenizer is no byte-level BPE with all 256 bytes", where=self._where, cure=cure) from error


class StreamDecoder:
    """Ids to text one at a time; a character whose bytes lie in several tokens is held back until it is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._utf8 = tokenizer, codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that has become certain with this token; often one token's, sometimes none."""
        return self._utf8.decode(self._tokenizer.decode_bytes([token]))

    def finish(self) -> str:
        """What was still held back."""
        return self._utf8.decode(b"", final=True)


def pieces(text: str, size: int = PIECE_CHARACTERS, longest: int = LONGEST_PIECE) -> Iterator[str]:
    """A long text, cut at the first seam after `size` characters; where there is none for long, at `longest`."""
    start = 0
    while len(text) - start > size:
        seam = SEAM.search(text, start + size, start + longest)
        end = seam.start() if seam else start + longest
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def grouped(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Lists of neighbouring items, each closed as soon as its sizes add up to `limit`."""
    group: list[T] = []
    filled = 0
    for item in items:
        group.append(item)
        filled += size(item)
        if filled >= limit:
            yield group
            group, filled = [], 0
    if group:
        yield group


def byte_alphabet() -> dict[str, int]:
    """The printable letter that stands for each byte in a vocabulary → the byte. Source: OpenAI's GPT-2, encoder.py."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return dict(zip(map(chr, [*visible, *range(256, 256 + len(hidden))]), visible + hidden, strict=True))


@contextmanager
def library_errors(error: ForetellError) -> Iterator[None]:
    """Turn any failure of the Rust library into an error for the user; its panics are no `Exception`s."""
    try:
        yield
    except BaseException as failure:
        panic = type(failure).__name__ == "PanicException"
        if isinstance(failure, ForetellError) or not (isinstance(failure, Exception) or panic):
            raise
        raise error from failure
