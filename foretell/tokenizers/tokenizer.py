"""The tokenizer as the rest of the house sees it: text and bytes to ids and back, exactly where its kind can."""

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foretell.base.errors import DataError, ModelError
from foretell.base.files import write_text
from foretell.base.groups import grouped
from foretell.tokenizers import gpt1
from foretell.tokenizers.engines import REFERENCE, Engine, fastest
from foretell.tokenizers.files import ROLES as ROLES
from foretell.tokenizers.files import named, read_config, template_of, write_config
from foretell.tokenizers.library import library_errors
from foretell.tokenizers.pieces import LONGEST_PIECE, pieces
from foretell.tokenizers.stream import StreamDecoder as StreamDecoder
from foretell.tokenizers.styles import ENDS_OF_TEXT, adds_space, kind_of, seam_of, written

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = ENDS_OF_TEXT[0]
GROUP_CHARACTERS = 1_000_000  # per call of the library, which needs up to 600 bytes of memory for each
MUCH_TEXT = 500_000  # characters in one call; from here on finding the fastest library takes less time than it saves
NOT_UTF8 = re.compile("([\udc80-\udcff]+)")  # how Python's surrogateescape marks such bytes


class Tokenizer:
    """A tokenizer of any kind: ours, a published one, or that of a Hugging Face model directory (GPT-2, Llama, Qwen, BERT, …).

    kind: see `styles.kind_of`. bpe and byte give back any bytes exactly; char and word what they know; the others what their
    normalisation leaves of a text. What a tokenizer has no token for becomes its `unknown` id and is decoded to U+FFFD.
    Special tokens are no text: `<|endoftext|>` written in a text is encoded as any other characters, and decoding skips
    special ids. (A byte-level vocabulary that lacks rare bytes, as SmolLM2's does, leaves them out, in every library.)
    end_of_text: the token named as eos_token, else as sep_token, else the first of ENDS_OF_TEXT. GPT-1 had no such token:
    the one of its newline ends a text. beginning: the ids that a model expects before every text. ends: those that end an answer.
    """

    def __init__(self, inner: "tokenizers.Tokenizer", config: dict[str, Any], where: str = "tokenizer") -> None:
        """config: the content of tokenizer_config.json. where: named in errors. Raises ModelError."""
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        self._inner, self._config, self._where = inner, config, where
        self.kind = kind_of(inner)
        known = (text for text in ENDS_OF_TEXT if inner.token_to_id(text) is not None)
        self._end_text = named(config, "eos") or named(config, "sep") or next(known, END_OF_TEXT)
        if (end_of_text := inner.token_to_id(self._end_text)) is None:
            cure = "name one of its tokens as eos_token in tokenizer_config.json"
            raise ModelError(f"the tokenizer has no token {self._end_text} to end a text with", where=where, cure=cure)
        self.end_of_text = end_of_text
        self.ends = frozenset({end_of_text})
        unknown = getattr(inner.model, "unk_token", None)
        self.unknown: int | None = None if unknown is None else inner.token_to_id(unknown)
        self._seam, self._adds_space = seam_of(inner, self.kind), adds_space(inner, self.kind)
        self._faithful = gpt1.plain_bpe(inner) if config.get("foretell_text") == "gpt1" else None
        self._bytes, self._byte_ids = self._tables()
        self.beginning = self._first_ids()
        self.vocab_size = max(self._bytes) + 1

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Open a tokenizer or model directory. Raises ModelError."""
        import tokenizers

        path = directory / "tokenizer.json"
        what = f"this directory has no tokenizer: tokenizer.json is {'damaged' if path.is_file() else 'missing'}"
        cure = "copy tokenizer.json and tokenizer_config.json there from the tokenizer that the model was trained with"
        with library_errors(ModelError(what, where=str(directory), cure=cure)):
            return cls(tokenizers.Tokenizer.from_file(str(path)), read_config(directory), where=str(directory))

    def save(self, directory: Path, context_length: int | None = None) -> None:
        """Write the files that transformers' AutoTokenizer opens (and vLLM: a chat template lies in both places)."""
        directory.mkdir(parents=True, exist_ok=True)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **self._with_roles()}
        if context_length is not None:
            config["model_max_length"] = context_length
        write_text(directory / "tokenizer.json", self._inner.to_str(pretty=True))
        write_config(directory, config)

    @property
    def config(self) -> dict[str, Any]:
        """The content of tokenizer_config.json."""
        return dict(self._config)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that renders a conversation."""
        return template_of(self._config)

    def with_chat_template(self, template: str) -> "Tokenizer":
        """The same tokenizer with another chat template."""
        changed = copy.copy(self)
        changed._config = {**self._config, "chat_template": template}
        return changed

    def with_ends(self, tokens: Iterable[int]) -> "Tokenizer":
        """The same tokenizer for a model that ends its answers with any of these tokens too."""
        changed = copy.copy(self)
        changed.ends = self.ends | frozenset(tokens)
        return changed

    def with_special_tokens(self, contents: Sequence[str]) -> "Tokenizer":
        """The same tokenizer with special tokens more: new ids at the end, for those that it does not have."""
        inner = copy.deepcopy(self._inner)
        inner.add_special_tokens(list(contents))
        return Tokenizer(inner, self._config, self._where)

    def role(self, name: str) -> int | None:
        """The id of the token that tokenizer_config.json gives a role: bos, eos, pad, unk, cls, sep or mask."""
        content = named(self._with_roles(), name)
        return None if content is None else self._inner.token_to_id(content)

    def _with_roles(self) -> dict[str, Any]:
        """The config, with what begins, ends and fills a text where it says nothing: the end-of-text token."""
        ours = self.kind not in ("wordpiece", "gpt1")  # those have roles of their own, and no end of text that others know
        return dict.fromkeys(["bos_token", "eos_token", "pad_token"] if ours else [], self._end_text) | self._config

    @property
    def special_ids(self) -> dict[str, int]:
        """Content → id of every special token, whether marked as one, named for a role or ending a text."""
        contents = [token.content for token in self._inner.get_added_tokens_decoder().values() if token.special]
        contents += [content for name in ROLES if (content := named(self._config, name))]
        contents += [self._end_text] if self.kind != "gpt1" else []  # there it is a newline, which is text
        ids = {content: self._inner.token_to_id(content) for content in contents}
        return {content: token for content, token in ids.items() if token is not None}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of tokenizer.json's content, however it was laid out (and of how a text is prepared, where that is our part)."""
        content = json.dumps(json.loads(self._inner.to_str()), sort_keys=True)
        return hashlib.sha256((content + ("" if self._faithful is None else "gpt1")).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return [int(token) for token in self.encode_batch([text])[0]]

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of each text. The library works on all cores, unless TOKENIZERS_PARALLELISM=false is set."""
        parts: list[list[NDArray[np.uint32]]] = [[np.empty(0, np.uint32)] for _ in texts]
        owned = ((index, piece) for index, text in enumerate(texts) for piece in self._pieces(text))
        quick = self._quick if "_quick" in self.__dict__ or sum(map(len, texts)) >= MUCH_TEXT else None
        for group in grouped(owned, lambda item: len(item[1]), GROUP_CHARACTERS):
            batch = [piece for _, piece in group]
            encoded = quick.ids(batch) if quick else None
            for (index, _), ids in zip(group, self._by_reference(batch) if encoded is None else encoded, strict=True):
                parts[index].append(ids)
        return [np.concatenate(part) for part in parts]

    def _by_reference(self, texts: list[str]) -> list[NDArray[np.uint32]]:
        """The ids of each text, by the library that says what is right. Raises DataError."""
        with library_errors(
            DataError("the tokenizer library failed on a text", where=self._where, cure="leave out parts of the text")
        ):
            if self._faithful is None:
                encodings = self._inner.encode_batch_fast(texts, add_special_tokens=False)
            else:
                words: list[Any] = [gpt1.words(text) for text in texts]
                encodings = self._faithful.encode_batch_fast(words, is_pretokenized=True, add_special_tokens=False)
            return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    @property
    def engine(self) -> str:
        """The library that encodes much text: `tokenizers`, or a faster one that was seen to give the same ids."""
        return self._quick.name if self._quick else REFERENCE

    @cached_property
    def _quick(self) -> Engine | None:
        return fastest(self._inner, self.special_ids) if self._faithful is None else None

    def encode_bytes(self, data: bytes) -> list[int]:
        """The ids of any bytes; what is not UTF-8 becomes tokens of single bytes, or U+FFFD where not all have one."""
        if not self._byte_ids:
            return self.encode(data.decode("utf-8", "replace"))
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
        text = self.decode_bytes(ids).decode("utf-8", "replace")
        return text.removesuffix(" ") if self.kind == "gpt1" else text.removeprefix(" " if self._adds_space else "")

    def token_text(self, token: int) -> str:
        """A token for display: spaces visible, control characters and parts of characters escaped."""
        content = self.decode_bytes([token] if token != self.unknown else []).decode("utf-8", "backslashreplace")
        content = content or str(self._inner.id_to_token(token))
        shown = (letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in content)
        return "".join(shown).replace(" ", "␣")

    def byte_lengths(self) -> NDArray[np.int64]:
        """(V,) how many bytes of text each id stands for; special tokens 0."""
        return np.array([len(self._bytes.get(token, b"")) for token in range(self.vocab_size)], np.int64)

    @property
    def start(self) -> int:
        """The token that the first token of a text is predicted from: the one that begins texts, else the one that ends them."""
        return self.beginning[-1] if self.beginning else self.end_of_text

    def _first_ids(self) -> list[int]:
        """What every text begins with for the model: `<s>` for Llama's and Mistral's, nothing for most."""
        whole = self._inner.encode("a", add_special_tokens=True).ids
        special = set(self.special_ids.values())
        count = next((place for place, token in enumerate(whole) if token not in special), 0)
        begins = self.role("bos") if self._config.get("add_bos_token") is True else None
        return whole[:count] or ([] if begins is None else [begins])

    def _pieces(self, text: str) -> Iterable[str]:
        """A text in pieces that have its tokens; in one piece where that cannot be known."""
        if self._seam is None or self._faithful is not None:
            return [text] if text else []
        return pieces(text, longest=LONGEST_PIECE if self.kind == "bpe" else None, seam=self._seam)

    def _tables(self) -> tuple[dict[int, bytes], list[int]]:
        """Token id → the bytes it stands for, and byte → the id of its token (empty where not every byte has one)."""
        try:
            if self.kind == "bpe" and getattr(self._inner.model, "end_of_word_suffix", None):
                raise KeyError("CLIP's mixture of both styles")
            contents = written(self._inner, self.kind, set(self.special_ids.values()), self.unknown)
            ids = {content: token for token, content in contents.items()}
            whole = self.kind in ("bpe", "byte") and all(bytes([byte]) in ids for byte in range(256))
            byte_ids = [ids[bytes([byte])] for byte in range(256)] if whole else []
        except KeyError as error:
            cure = "use a model with a tokenizer as those of GPT-1, GPT-2, Llama, Qwen or BERT"
            raise ModelError("the tokenizer is no byte-level BPE, though it says so", where=self._where, cure=cure) from error
        return contents, byte_ids
