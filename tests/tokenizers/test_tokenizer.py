import json
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from foretell.base.errors import DataError, ModelError
from foretell.tokenizers.styles import byte_alphabet
from foretell.tokenizers.tokenizer import END_OF_TEXT, StreamDecoder, Tokenizer

SAMPLES = ["", "Hello wörld", "  x \n\n\ty", "e\u0301 中文 👩‍👩‍👧 \u2028", "12345 don't", "\x00\x01", "don't\r\n", "ſ ﬁ İ"]


@given(st.binary(max_size=200))
def test_any_bytes_come_back(tokenizer: Tokenizer, data: bytes) -> None:
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


@given(st.text(max_size=200))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids == tokenizer.encode_bytes(text.encode())
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())


def test_invalid_utf8_becomes_single_bytes(tokenizer: Tokenizer) -> None:
    before, after = tokenizer.encode("the "), tokenizer.encode(" the")
    ids = tokenizer.encode_bytes(b"the \xff\xfe the")
    assert ids[: len(before)] == before
    assert ids[-len(after) :] == after
    assert [tokenizer.decode_bytes([token]) for token in ids[len(before) : -len(after)]] == [b"\xff", b"\xfe"]


def test_much_binary_is_quick(tokenizer: Tokenizer) -> None:
    data = np.random.default_rng(0).bytes(200_000)
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


def test_half_a_surrogate_pair_is_no_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="failed on a text"):
        tokenizer.encode("a\ud800b")


def test_a_batch_equals_its_texts(tokenizer: Tokenizer, source_text: str) -> None:
    texts = [source_text, *SAMPLES, source_text * 8]
    batch = tokenizer.encode_batch(texts)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in texts]
    assert batch[-1].tolist() == tokenizer._inner.encode(texts[-1], add_special_tokens=False).ids
    assert tokenizer.encode_batch([]) == []


def test_a_special_token_in_a_text_is_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for one in (tokenizer, Tokenizer.load(tmp_path)):
        ids = one.encode(f"a{END_OF_TEXT}b")
        assert one.end_of_text not in ids
        assert one.decode(ids) == f"a{END_OF_TEXT}b"
        assert one.decode([one.end_of_text, *one.encode("a")]) == "a"


def test_transformers_opens_the_directory(tokenizer: Tokenizer, tmp_path: Path, source_text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path, context_length=128)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.model_max_length == 128
    assert theirs.eos_token_id == theirs.bos_token_id == theirs.pad_token_id == tokenizer.end_of_text
    assert len(theirs) == tokenizer.vocab_size
    for text in [source_text[:5000], *SAMPLES]:
        ids = tokenizer.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs.decode(ids) == text


@pytest.mark.parametrize("model_type", ["gpt2", "qwen3"])
def test_transformers_opens_it_inside_a_model_directory(tokenizer: Tokenizer, tmp_path: Path, model_type: str) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in SAMPLES:
        assert theirs(text)["input_ids"] == tokenizer.encode(text)


def test_saving_and_loading_keeps_the_fingerprint_and_the_settings(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "a", context_length=64)
    loaded = Tokenizer.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    relaid = json.loads((tmp_path / "b" / "tokenizer.json").read_text())
    relaid["model"]["vocab"] = dict(reversed(relaid["model"]["vocab"].items()))
    (tmp_path / "b" / "tokenizer.json").write_text(json.dumps(dict(reversed(relaid.items()))))
    assert tokenizer.fingerprint == loaded.fingerprint == Tokenizer.load(tmp_path / "b").fingerprint
    assert json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())["model_max_length"] == 64
    assert loaded.vocab_size == tokenizer.vocab_size


def test_the_fingerprint_tells_tokenizers_apart(tokenizer: Tokenizer) -> None:
    from foretell.tokenizers.bpe import train_bpe
    from foretell.tokenizers.config import TokenizerSettings

    assert train_bpe(["text"], TokenizerSettings(vocab_size=257)).fingerprint != tokenizer.fingerprint


def test_the_tokenizer_of_gpt2_works(data_folder: Path, tmp_path: Path) -> None:
    folder = data_folder / "tokenizers" / "gpt2"
    inner = tokenizers.Tokenizer(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.enable_truncation(5)
    inner.enable_padding(length=8)
    inner.save(str(tmp_path / "tokenizer.json"))
    gpt2 = Tokenizer.load(tmp_path)
    assert gpt2.vocab_size == 50257
    assert gpt2.end_of_text == 50256
    assert gpt2.encode("The quick brown fox jumps over") == [464, 2068, 7586, 21831, 18045, 625]
    assert gpt2.byte_lengths()[50256] == 0
    assert all(gpt2.decode_bytes(gpt2.encode_bytes(data)) == data for data in (b"\xff\x00 caf\xc3\xa9", bytes(range(256))))


@pytest.mark.parametrize("named", ["<|im_end|>", {"content": "<|im_end|>", "__type": "AddedToken"}])
def test_a_foreign_end_of_text_and_added_tokens_are_used(tokenizer: Tokenizer, tmp_path: Path, named: object) -> None:
    inner = tokenizers.Tokenizer.from_str(tokenizer._inner.to_str())
    inner.add_special_tokens(["<|im_end|>"])
    inner.add_tokens(["<think>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": named, "chat_template": "kept"}))
    foreign = Tokenizer.load(tmp_path)
    assert (foreign.end_of_text, foreign.vocab_size) == (1000, 1002)
    assert foreign.encode("<think>") == [1001]
    assert foreign.decode([1000, 1001]) == "<think>"
    foreign.save(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())["chat_template"] == "kept"


def test_a_directory_without_tokenizer_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no tokenizer") as caught:
        Tokenizer.load(tmp_path)
    assert caught.value.exit_code == 1
    assert "copy tokenizer.json" in caught.value.cure


@pytest.mark.parametrize("content", ["", "{", '{"version": "1.0"}', "[]"])
def test_a_damaged_tokenizer_is_a_model_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="damaged"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_of_another_kind_is_a_model_error(tmp_path: Path) -> None:
    inner = tokenizers.Tokenizer(models.BPE({"a": 0, "中": 1, "ab": 2, "b": 3}, [("a", "b")]))
    inner.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"no token <\|endoftext\|> to end"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "a"}))
    with pytest.raises(ModelError, match="no byte-level BPE"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<nowhere>"}))
    with pytest.raises(ModelError, match="no token <nowhere> to end"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("end", ["</s>", "<|im_end|>", "[SEP]"])
def test_an_end_of_text_without_a_name_is_found(tokenizer: Tokenizer, end: str) -> None:
    state = tokenizer._inner.to_str().replace(END_OF_TEXT, end)
    found = Tokenizer(tokenizers.Tokenizer.from_str(state), {})
    assert (found.end_of_text, found.decode([0]), found.special_ids) == (0, "", {end: 0})


def test_roles_and_special_tokens_are_told(tokenizer: Tokenizer, tmp_path: Path) -> None:
    inner = tokenizers.Tokenizer.from_str(tokenizer._inner.to_str())
    inner.add_special_tokens(["<|im_start|>", "<|pad|>"])
    inner.add_tokens(["<think>"])
    named = {"eos_token": END_OF_TEXT, "bos_token": {"content": "<|im_start|>"}, "pad_token": None, "mask_token": "<none>"}
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<|pad|>", "sep_token": "<|pad|>"}))
    found = Tokenizer.load(tmp_path)
    assert [found.role(name) for name in ("bos", "eos", "pad", "sep", "mask", "cls")] == [1000, 0, None, 1001, None, None]
    assert found.special_ids == {END_OF_TEXT: 0, "<|im_start|>": 1000, "<|pad|>": 1001}
    assert found.config["eos_token"] == END_OF_TEXT
    assert [tokenizer.role(name) for name in ("bos", "eos", "pad", "unk")] == [0, 0, 0, None]


def test_a_chat_template_lies_where_transformers_looks(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    template = "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    changed = tokenizer.with_chat_template(template)
    assert (tokenizer.chat_template, changed.chat_template) == (None, template)
    assert changed.encode("text") == tokenizer.encode("text")
    changed.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"] == template
    assert (tmp_path / "chat_template.jinja").read_text() == template
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "<user>Hi\n"
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert Tokenizer.load(tmp_path).chat_template == template


def test_special_tokens_are_added_at_the_end(tokenizer: Tokenizer) -> None:
    more = tokenizer.with_special_tokens(["<|im_start|>", END_OF_TEXT, "<|im_end|>"])
    assert more.special_ids == {END_OF_TEXT: 0, "<|im_start|>": 1000, "<|im_end|>": 1001}
    assert (more.vocab_size, more.end_of_text, tokenizer.vocab_size) == (1002, 0, 1000)
    assert more.encode("<|im_start|>a") == tokenizer.encode("<|im_start|>a")
    assert more.decode([1000, *more.encode("a"), 1001]) == "a"


def test_of_several_chat_templates_the_default_counts(tokenizer: Tokenizer) -> None:
    several = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    assert Tokenizer(tokenizer._inner, {"chat_template": several}).chat_template == "b"
    assert Tokenizer(tokenizer._inner, {"chat_template": several[:1]}).chat_template is None


def test_an_unknown_id_is_a_model_error(tokenizer: Tokenizer) -> None:
    for token in (tokenizer.vocab_size, -1):
        with pytest.raises(ModelError, match=f"no token {token}"):
            tokenizer.decode([token])


def test_a_panic_while_encoding_becomes_a_data_error(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    panic = type("PanicException", (BaseException,), {})

    class Broken:
        def encode_batch_fast(self, *arguments: object, **options: object) -> NoReturn:
            raise panic("backtracking")

    monkeypatch.setattr(tokenizer, "_inner", Broken())
    monkeypatch.setitem(tokenizer.__dict__, "_quick", None)
    with pytest.raises(DataError, match="failed on a text"):
        tokenizer.encode("text")


def test_tokens_are_shown_readably(tokenizer: Tokenizer) -> None:
    assert "".join(tokenizer.token_text(token) for token in tokenizer.encode(" a é")) == "␣a␣\\xc3\\xa9"
    assert tokenizer.token_text(tokenizer.encode("\n")[0]) == "\\n"
    assert tokenizer.token_text(tokenizer.encode_bytes(b"\xe2")[0]) == "\\xe2"
    assert tokenizer.token_text(tokenizer.end_of_text) == END_OF_TEXT


@given(st.text(max_size=50))
def test_a_stream_gives_whole_characters(tokenizer: Tokenizer, text: str) -> None:
    decoder = StreamDecoder(tokenizer)
    parts = [decoder.push(token) for token in tokenizer.encode(text)]
    assert "".join(parts) == text
    assert decoder.finish() == ""


def test_a_stream_that_ends_within_a_character_says_so(tokenizer: Tokenizer) -> None:
    decoder = StreamDecoder(tokenizer)
    first, second, third = tokenizer.encode_bytes("€".encode())
    assert [decoder.push(first), decoder.push(second)] == ["", ""]
    assert decoder.finish() == "\N{REPLACEMENT CHARACTER}"
    decoder = StreamDecoder(tokenizer)
    assert [decoder.push(token) for token in (first, second, third)] == ["", "", "€"]


def test_the_alphabet_is_that_of_the_library() -> None:
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert byte_alphabet()["Ġ"] == ord(" ")
