"""Tokenizers in GGUF's metadata: byte-level BPE (`gpt2`) and SentencePiece's BPE (`llama`), read and written."""

import json
import re
import tempfile
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from foretell.base.errors import ModelError
from foretell.base.files import read_text
from foretell.interop.gguf_header import WHOLE, Header
from foretell.tokenizers.library import library_errors
from foretell.tokenizers.styles import parts
from foretell.tokenizers.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # GGUF's types of tokens
IDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # a token's role: GGUF's word
ONE_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
NFC, SPACES, PREFIX, BOTH = "NFC", "spaces as ▁", "▁ before the text", "both"  # steps before merging; see `_steps`
LONGEST, MOST_ADDED = 512, 16_384  # characters of a token that merges make; tokens that are none of the model's: more take for ever


@cache
def _splits() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads(read_text(Path(__file__).with_name("gguf.toml")))["split"]
    return found


def _known(name: str) -> Any:
    return next((split for split in _splits() if name in split["names"]), None)


def read_tokenizer(header: Header, rows: int) -> Tokenizer:
    """The tokenizer of a GGUF file. rows: of the embedding, which may be more than the tokens. Raises ModelError."""
    from tokenizers import AddedToken, processors

    def refusal(what: str, cure: str = WHOLE) -> ModelError:
        return ModelError(what, where=header.where, cure=cure)

    tokens = header.required("tokenizer.ggml.tokens", list)
    types = header.optional("tokenizer.ggml.token_type", np.ndarray)
    kinds = [NORMAL] * len(tokens) if types is None else types.tolist()
    if len(tokens) > rows or len(kinds) != len(tokens) or len(set(tokens)) != len(tokens):
        raise refusal(f"{len(set(tokens))} tokens and {len(kinds)} types of tokens do not fit an embedding of {rows} rows")
    ids = {f"{role}_token": header.optional(f"tokenizer.ggml.{name}_token_id", int) for role, name in IDS.items()}
    named = {word: n for word, n in ids.items() if n is not None}
    if not all(0 <= n < len(tokens) for n in named.values()):
        raise refusal(f"the special tokens {named} are not among the {len(tokens)} tokens")
    special = {*named.values(), *(n for n, kind in enumerate(kinds) if kind in (CONTROL, UNKNOWN))}
    vocabulary = {text: n for n, text in enumerate(tokens) if text != f"[PAD{n}]" or kinds[n] != UNUSED}
    added = [n for n, kind in enumerate(kinds) if kind == USER_DEFINED or n in special]
    if len(added) > MOST_ADDED:
        raise refusal(f"{len(added)} of the tokens are special or added, more than {MOST_ADDED}")
    config: dict[str, Any] = {word: tokens[n] for word, n in named.items()}
    begins = header.optional("tokenizer.ggml.add_bos_token", bool)
    model = header.required("tokenizer.ggml.model", str)
    if model not in ("gpt2", "llama"):
        raise refusal(f"the tokenizer is of the kind {model}", "supported: gpt2 (byte-level BPE), llama (SentencePiece's BPE)")
    with library_errors(refusal("the tokenizer cannot be built from these tokens and merges")):
        unknown = config.get("unk_token")
        inner = _sentencepiece(header, vocabulary, kinds, unknown) if model == "llama" else _byte_level(header, vocabulary)
        inner.add_tokens([AddedToken(tokens[n], special=n in special, normalized=False) for n in added])
        config["add_bos_token"] = begins if begins is not None else model == "llama"
        if config["add_bos_token"] and (bos := config.get("bos_token")):
            inner.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos} $B", [(bos, named["bos_token"])])
    if template := header.optional("tokenizer.chat_template", str):
        config["chat_template"] = template
    return Tokenizer(inner, config, where=header.where)


def _byte_level(header: Header, vocabulary: dict[str, int]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    called = header.optional("tokenizer.ggml.pre", str) or "default"
    if (known := _known(called)) is None:
        cure = f"supported: {', '.join(name for split in _splits() for name in split['names'])}"
        raise ModelError(f"the way of splitting text called {called} is not known here", where=header.where, cure=cure)
    merges = [tuple(merge.split(" ")) for merge in header.optional("tokenizer.ggml.merges", list) or []]
    inner = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=known.get("ignore_merges", False)))
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in known["patterns"]]
    inner.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    return inner


def _sentencepiece(header: Header, vocabulary: dict[str, int], kinds: list[int], unknown: str | None) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = header.required("tokenizer.ggml.scores", np.ndarray).tolist()
    merges = merges_of({text: scores[n] for text, n in vocabulary.items() if kinds[n] == NORMAL})
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = header.optional("tokenizer.ggml.add_space_prefix", bool) is not False
    inner.normalizer = normalizers.Sequence([*[normalizers.Prepend("▁")] * prefix, normalizers.Replace(" ", "▁")])
    decoder = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence(decoder + [decoders.Strip(" ", 1, 0)] * prefix)
    return inner


def merges_of(scores: dict[str, float]) -> list[tuple[str, str]]:
    """The merges that SentencePiece's scores mean: any two tokens that make a third, the best third first."""
    best = sorted((text for text in scores if 1 < len(text) <= LONGEST), key=lambda text: -scores[text])
    cuts = ((text[:at], text[at:]) for text in best for at in range(1, len(text)))
    return [(left, right) for left, right in cuts if left in scores and right in scores]


def write_tokenizer(writer: Any, tokenizer: Tokenizer, rows: int, where: str) -> list[str]:
    """Put a tokenizer into a file's metadata; rows without a token get one of type UNUSED. Gives notes. Raises ModelError."""
    import tokenizers

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        inner = tokenizers.Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    raw, added = json.loads(inner.to_str()), inner.get_added_tokens_decoder()
    model, texts = raw["model"], {n: text for text, n in inner.get_vocab().items()}
    types = {n: CONTROL if token.special else USER_DEFINED for n, token in added.items()}
    steps = [_step(part) for part in parts(inner.normalizer, inner.pre_tokenizer)]
    if tokenizer.kind == "sentencepiece" and model["type"] == "BPE":
        types |= {n: BYTE for n, text in texts.items() if ONE_BYTE.fullmatch(text)}
        types |= {n: UNKNOWN for n, text in texts.items() if text == model["unk_token"]}
        scores = _write_sentencepiece(writer, model, steps, {text for n, text in texts.items() if n not in types}, where)
        writer.add_token_scores([scores.get(texts.get(n, ""), -float(len(scores))) for n in range(rows)])
    elif tokenizer.kind == "bpe" and model["merges"]:
        _write_byte_level(writer, model, [step for step in steps if step not in ("", NFC)], where)
    else:
        cure = "it has words for byte-level BPE and SentencePiece's BPE: train with one of them"
        raise ModelError(f"llama.cpp has no word for this tokenizer ({tokenizer.kind})", where=where, cure=cure)
    if max(texts) >= rows:
        what, cure = (
            f"token {max(texts)} has no row in an embedding of {rows} rows",
            "check that the tokenizer belongs to the model",
        )
        raise ModelError(what, where=where, cure=cure)
    writer.add_token_list([texts.get(n, f"[PAD{n}]") for n in range(rows)])
    writer.add_token_types([types.get(n, NORMAL if n in texts else UNUSED) for n in range(rows)])
    for role, name in IDS.items():
        token = tokenizer.role(role)
        if token is not None or role != "unk":
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", tokenizer.end_of_text if token is None else token)
    begins, bos = tokenizer.config.get("add_bos_token"), tokenizer.role("bos")
    templated = bos is not None and json.dumps(texts[bos]) in json.dumps(raw["post_processor"])
    writer.add_add_bos_token(templated if begins is None else bool(begins))
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    return ["llama.cpp does not normalise text (NFC), the tokenizer does"] if NFC in steps else []


def _write_byte_level(writer: Any, model: dict[str, Any], patterns: list[str], where: str) -> None:
    said = (patterns, model["ignore_merges"])
    names = [split["names"][0] for split in _splits() if (split["patterns"], split.get("ignore_merges", False)) == said]
    if not names:
        what = f"llama.cpp has no name known here for the way this tokenizer splits text: {' then '.join(patterns)}"
        raise ModelError(what, where=where, cure="train with Foretell's own tokenizer, or use llama.cpp's converter")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(names[0])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])


def _write_sentencepiece(writer: Any, model: dict[str, Any], steps: list[str], normal: set[str], where: str) -> dict[str, float]:
    """The score of each normal token: the sooner it is merged, the higher. Raises ModelError where scores cannot say the merges."""
    scores = dict.fromkeys(normal, -float(len(model["merges"])))
    scores |= {left + right: -float(rank) for rank, (left, right) in reversed([*enumerate(model["merges"])])}
    steps = [PREFIX, SPACES] if steps == [BOTH] else steps
    if not {SPACES} <= set(steps) <= {PREFIX, SPACES} or set(merges_of(scores)) != set(map(tuple, model["merges"])):
        what = "this tokenizer merges, or writes spaces, in another way than SentencePiece"
        raise ModelError(what, where=where, cure="use llama.cpp's converter, with the model's tokenizer.model")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_add_space_prefix(PREFIX in steps)
    return scores


def _step(part: dict[str, Any]) -> str:
    """A word for what a tokenizer does to a text before it merges: a split by its pattern; what has no word here as JSON."""
    match part:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": regex}:
            return str(_splits()[0]["patterns"][0]) if regex else ""
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
            return str(pattern)
        case {"type": "Digits", "individual_digits": True}:
            return r"\p{N}"
        case {"type": "NFC"}:
            return NFC
        case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
            return SPACES
        case {"type": "Prepend", "prepend": "▁"}:
            return PREFIX
        case {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}:
            return BOTH
    return json.dumps(part)
