"""Faster libraries than `tokenizers`, used for much text where one of them holds a tokenizer exactly."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from foretell.base.errors import ModelError
from foretell.tokenizers.library import library_errors

if TYPE_CHECKING:
    import tokenizers

Given = TypeVar("Given")
Found = TypeVar("Found")
Encode = Callable[[list[str]], list[NDArray[np.uint32]]]
REFERENCE = "tokenizers"
PROBE = [
    "One two\n\u201cthree 4 fi-ve?\nsix's\n\n7 eight 1234567 I'LL we've it'\u017f  \t\tx\r\n\r\n y\n \n  z",
    "\u2028\u3000a\xa0b\x85c\x1cd \x00\x01\x7f\ufffd\ufeff\u2581 e\u0301 \u00e9 \u1e9e\u0130\u01c5 \u00b2\u00bd\u2163\u0663",
    "\u4e2d\u6587\u3002 \u0440\u0443\u0441 \u0627\u0644\u0639 \u0939\u093f\u0928\u094d\u0926\u0940 \U0001f469\u200d\U0001f467",
    *("", " ", "\n", "a" * 700, " " * 700, "\n" * 700, "0" * 700, "\u4e2d" * 300, "!?" * 300, "<0x0A> <unk> <s> [SEP]"),
]


@dataclass(frozen=True)
class Engine:
    """A library that has shown that it gives the ids of `tokenizers`."""

    name: str
    encode: Encode
    process: int = field(default_factory=os.getpid)

    def ids(self, texts: list[str]) -> list[NDArray[np.uint32]] | None:
        """The ids of texts; None if the library failed (its panics are no `Exception`s), or lost its threads to a fork."""
        return _attempt(self.encode, texts) if os.getpid() == self.process else None


def fastest(inner: "tokenizers.Tokenizer", special: Iterable[str]) -> Engine | None:
    """The first library that is installed, can hold this tokenizer and agrees with `tokenizers` on PROBE and on every token's text.

    special: texts of special tokens. They are no text: the library is not told of them.
    """
    if type(inner.model).__name__ != "BPE" or inner.model.dropout or _sequential():
        return None
    state = json.loads(inner.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["special"]]
    state["post_processor"] = state["truncation"] = state["padding"] = None
    vocabulary = [inner.decode([token]) for token in sorted(inner.get_vocab().values())]
    texts = [*PROBE, " ".join(["", *special, ""]), "".join(vocabulary), " ".join(vocabulary)]
    expected = [encoding.ids for encoding in inner.encode_batch_fast(texts, add_special_tokens=False)]
    for name, build in (("fastokens", _fastokens), ("gigatoken", _gigatoken)):
        encode = _attempt(build, json.dumps(state))
        if encode and [ids.tolist() for ids in _attempt(encode, texts) or []] == expected:
            return Engine(name, encode)
    return None


def _fastokens(state: str) -> Encode:
    library = import_module("fastokens").Tokenizer.from_json_str(state)

    def encode(texts: list[str]) -> list[NDArray[np.uint32]]:
        ids, bounds = library.encode_batch_flat(texts)
        return np.split(np.frombuffer(ids, np.uint32), np.frombuffer(bounds, np.uint64)[1:-1].astype(np.int64))

    return encode


def _gigatoken(state: str) -> Encode:
    library = import_module("gigatoken.gigatoken_rs").load_hf_json(state)
    return lambda texts: [np.array(ids, np.uint32) for ids in library.encode_batch_list(texts)]


def _sequential() -> bool:
    """Whether the user asked for one thread, which these libraries do not know how to keep to."""
    return os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("false", "off", "no", "n", "f", "0")


def _attempt(action: Callable[[Given], Found], given: Given) -> Found | None:
    try:
        with library_errors(ModelError("a tokenizer library failed", where="tokenizer", cure="the reference is used")):
            return action(given)
    except ModelError:
        return None
