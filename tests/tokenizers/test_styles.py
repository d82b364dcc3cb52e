import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from foretell.base.errors import ModelError
from foretell.tokenizers.styles import parts
from foretell.tokenizers.tokenizer import StreamDecoder, Tokenizer

TEXTS = ["", " ", "the parser", "  two  spaces \n\n\ty", "<s>the</s> ▁", "中文 é 👩‍👩‍👧\u2028", "\x00", "x" * 300, "if\nthe"]
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [decoders.ByteFallback(), decoders.Fuse()]


def llama2(inner: tokenizers.Tokenizer) -> None:
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), *BYTES, decoders.Strip(" ", 1, 0)])


def mistral(inner: tokenizers.Tokenizer) -> None:
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), *BYTES, decoders.Strip(" ", 1, 0)])


def gemma(inner: tokenizers.Tokenizer) -> None:
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), *BYTES])


@pytest.fixture(scope="module", params=[llama2, mistral, gemma])
def sentencepiece(request: pytest.FixtureRequest, source_text: str) -> Tokenizer:
    learned = tokenizers.Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    learned.train_from_iterator([source_text], trainers.BpeTrainer(vocab_size=600, show_progress=False))
    state = learned.model.__getstate__()
    merges = [tuple(merge) for merge in json.loads(state)["merges"]]
    contents = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(learned.get_vocab(), key=learned.get_vocab().get)]
    vocabulary = {text: token for token, text in enumerate(contents)}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token=SPECIAL[0], byte_fallback=True, fuse_unk=True))
    request.param(inner)
    inner.add_special_tokens(SPECIAL)
    return Tokenizer(inner, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def test_sentencepiece_has_the_ids_and_texts_of_the_library(sentencepiece: Tokenizer, source_text: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    sentencepiece.save(tmp_path)
    loaded, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.kind, loaded.end_of_text, loaded.role("bos"), loaded.unknown) == ("sentencepiece", 2, 1, 0)
    for text in [*TEXTS, source_text[:3000]]:
        ids = loaded.encode(text)
        assert ids == loaded._inner.encode(text, add_special_tokens=False).ids
        assert ids == theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert loaded.decode([1, *ids, 2]) == loaded._inner.decode(ids)
        assert loaded.decode(ids).strip(" ") == text.replace("▁", " ").strip(" ")  # Metaspace takes a first space for its own


def test_sentencepiece_is_not_cut(sentencepiece: Tokenizer, source_text: str) -> None:
    ids = sentencepiece.encode(source_text * 2)
    assert ids == sentencepiece._inner.encode(source_text * 2, add_special_tokens=False).ids
    assert sentencepiece.decode(ids) == source_text * 2


@example(" x")
@given(st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=50))
def test_sentencepiece_gives_back_any_text(sentencepiece: Tokenizer, text: str) -> None:
    ids = sentencepiece.encode(text)
    assert sentencepiece.decode(ids) == sentencepiece._inner.decode(ids)
    assert sentencepiece.decode(ids) in (text, text.removeprefix(" "))
    decoder = StreamDecoder(sentencepiece)
    streamed = "".join(decoder.push(token) for token in ids) + decoder.finish()
    assert streamed in (text, f" {text}")
    assert sentencepiece.encode_bytes(text.encode()) == ids


def test_bytes_of_sentencepiece_are_bytes(sentencepiece: Tokenizer) -> None:
    assert sentencepiece.decode_bytes([3 + 0xE2, 3 + 0x82, 3 + 0xAC]) == "€".encode()
    assert sentencepiece.token_text(3 + 0xE2) == "\\xe2"
    assert sentencepiece.token_text(0) == "<unk>"
    assert sentencepiece.decode(sentencepiece.encode_bytes(b"a\xffb")) == "a\N{REPLACEMENT CHARACTER}b"


def unigram() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(
        models.Unigram([("<unk>", 0.0), ("</s>", 0.0), ("▁the", -1.0), ("▁", -2.0), ("a", -2.0)], unk_id=0)
    )
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return inner


def test_a_unigram_model_is_read() -> None:
    tokenizer = Tokenizer(unigram(), {"eos_token": "</s>"})
    assert (tokenizer.kind, tokenizer.end_of_text) == ("sentencepiece", 1)
    assert tokenizer.decode(tokenizer.encode("the a")) == "the a"


def prefixed(inner: tokenizers.Tokenizer) -> None:
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def unsplit(inner: tokenizers.Tokenizer) -> None:
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def stripped(inner: tokenizers.Tokenizer) -> None:
    inner.normalizer = normalizers.Strip()


def composed(inner: tokenizers.Tokenizer) -> None:
    inner.normalizer = normalizers.NFC()


@pytest.mark.parametrize(("change", "cut"), [(prefixed, False), (unsplit, False), (stripped, False), (composed, True)])
def test_a_text_is_cut_only_where_that_changes_nothing(
    tokenizer: Tokenizer, source_text: str, change: Callable[[tokenizers.Tokenizer], None], cut: bool
) -> None:
    inner = tokenizers.Tokenizer.from_str(tokenizer._inner.to_str())
    change(inner)
    changed = Tokenizer(inner, {})
    assert (len(list(changed._pieces(source_text * 2))) > 1) == cut
    assert changed.encode(source_text * 2) == inner.encode(source_text * 2, add_special_tokens=False).ids


def test_clips_mixture_of_two_styles_is_refused(tokenizer: Tokenizer) -> None:
    vocabulary = {f"{letter}</w>": token for letter, token in tokenizer._inner.get_vocab().items()}
    inner = tokenizers.Tokenizer(models.BPE({**vocabulary, "</s>": 1000}, [], end_of_word_suffix="</w>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel()
    with pytest.raises(ModelError, match="no byte-level BPE"):
        Tokenizer(inner, {})


def test_nested_sequences_are_taken_apart() -> None:
    inside = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])
    found = parts(normalizers.NFC(), None, pre_tokenizers.Sequence([inside, pre_tokenizers.Whitespace()]))
    assert [part["type"] for part in found] == ["NFC", "Digits", "ByteLevel", "Whitespace"]
