"""GGUF both ways: what is written is read back, damaged files are refused, and llama.cpp computes what transformers does."""

import dataclasses
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from foretell.base.errors import CapacityError, ModelError, SettingError
from foretell.base.files import atomic_path
from foretell.interop.foreign import Foreign
from foretell.interop.gguf import read_gguf, write_gguf
from foretell.interop.gguf_tokenizer import _splits, merges_of
from foretell.tokenizers.bpe import train_bpe
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.published import gpt2_from_openai
from foretell.tokenizers.tokenizer import Tokenizer

WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**WIDE, "tie_word_embeddings": False, "attention_bias": True},
    "llama3": {**WIDE, "head_dim": 32, "rope_parameters": LLAMA3 | {"original_max_position_embeddings": 8192}},
    "linear": {**WIDE, "rope_parameters": LINEAR},
    "mistral": {**WIDE, "sliding_window": 128},
    "qwen2": {**WIDE, "tie_word_embeddings": True},
    "qwen3": {**WIDE, "head_dim": 32, "tie_word_embeddings": True},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = " ".join(str(member.__doc__) for member in vars(random.Random).values())
    return train_bpe([text], TokenizerSettings(vocab_size=400))


def tiny(family: str, tokenizer: Tokenizer) -> tuple[Any, Foreign]:
    """A random model of transformers, its embedding a little longer than the vocabulary, with logits of some size."""
    kind = "llama" if family in ("llama3", "linear") else family
    given = FAMILIES[family] if kind == "gpt2" else {"max_position_embeddings": 128, "rms_norm_eps": 1e-5, **FAMILIES[family]}
    config = transformers.AutoConfig.for_model(kind, vocab_size=416, initializer_range=0.15, **given)
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:  # biases and norms that do something
            torch.nn.init.normal_(parameter, float(name.endswith("weight")), 0.2)
    return model, Foreign(config.to_dict(), dict(model.state_dict()), tokenizer, "models/tiny")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_read(family: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model, foreign = tiny(family, tokenizer)
    written = write_gguf(foreign, tmp_path / "m.gguf", "f32")
    assert written.size_bytes == (tmp_path / "m.gguf").stat().st_size
    assert [note for note in written.notes if "64" in note] == (list(written.notes) if family == "mistral" else [])
    back = read_gguf(tmp_path / "m.gguf")
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    assert set(back.tensors) == set(foreign.tensors) - tied
    for name, tensor in back.tensors.items():
        assert torch.equal(tensor, foreign.tensors[name]), name
    said = {word: value for word, value in back.config.items() if word in foreign.config and value != foreign.config[word]}
    assert said.keys() <= {"architectures", "bos_token_id", "eos_token_id", "attention_bias", "head_dim", "n_inner"}, said
    assert back.config["eos_token_id"] == tokenizer.end_of_text
    again = type(model)(type(model.config)(**back.config)).eval()
    again.load_state_dict(dict(back.tensors), strict=False)
    ids = torch.tensor([[1, 5, 300, 7, 9]])
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits)
    assert back.tokenizer is not None
    assert back.tokenizer.encode("a random word  12\n\n'tis") == tokenizer.encode("a random word  12\n\n'tis")


def test_how_matrices_lie_in_the_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Rotary pairs side by side for Llama only, and GPT-2's matrices as [out, in]: else llama.cpp would compute nonsense."""
    for family, second in (("llama", 8), ("mistral", 8), ("qwen2", 1)):
        _, foreign = tiny(family, tokenizer)
        write_gguf(foreign, tmp_path / "m.gguf", "f32")
        stored = {tensor.name: torch.tensor(tensor.data) for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
        for own, theirs in (("q", "self_attn.q_proj"), ("k", "self_attn.k_proj")):
            whole = foreign.tensors[f"model.layers.1.{theirs}.weight"]
            assert torch.equal(stored[f"blk.1.attn_{own}.weight"][16:18], whole[[16, 16 + second]])
    _, foreign = tiny("gpt2", tokenizer)
    write_gguf(foreign, tmp_path / "m.gguf", "f32")
    stored = {tensor.name: torch.tensor(tensor.data) for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert torch.equal(stored["blk.0.ffn_up.weight"], foreign.tensors["transformer.h.0.mlp.c_fc.weight"].t())


def test_llama_3s_frequencies(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model, foreign = tiny("llama3", tokenizer)
    write_gguf(foreign, tmp_path / "m.gguf")
    found = next(tensor.data for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors if tensor.name == "rope_freqs.weight")
    plain = 1 / 5e5 ** (torch.arange(0, 32, 2) / 32)
    torch.testing.assert_close(torch.tensor(found), plain / model.model.rotary_emb.inv_freq)
    assert found.min() == 1 and found.max() == 8


@pytest.mark.parametrize(("dtype", "kind", "close"), [("f16", "F16", 2e-3), ("bf16", "BF16", 1e-2), ("q8_0", "Q8_0", 2e-2)])
def test_what_a_dtype_means(dtype: str, kind: str, close: float, tokenizer: Tokenizer, tmp_path: Path) -> None:
    _, foreign = tiny("qwen3", tokenizer)
    write_gguf(foreign, tmp_path / "m.gguf", dtype)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert {kinds["token_embd.weight"], kinds["blk.1.ffn_down.weight"]} == {kind} and kinds["blk.0.attn_q_norm.weight"] == "F32"
    for name, tensor in read_gguf(tmp_path / "m.gguf").tensors.items():
        torch.testing.assert_close(tensor, foreign.tensors[name], atol=close, rtol=close)


def test_rows_that_are_no_blocks_stay_f16(tokenizer: Tokenizer, tmp_path: Path) -> None:
    _, foreign = tiny("qwen2", tokenizer)
    narrow = {
        name: tensor[:, :80] if "down_proj" in name else tensor[:80] if ".mlp." in name else tensor
        for name, tensor in foreign.tensors.items()
    }
    config = foreign.config | {"intermediate_size": 80}
    written = write_gguf(dataclasses.replace(foreign, config=config, tensors=narrow), tmp_path / "m.gguf", "q8_0")
    assert written.notes == ("2 tensors are F16: their rows are no multiples of 32",)
    assert read_gguf(tmp_path / "m.gguf").tensors["model.layers.0.mlp.down_proj.weight"].shape == (64, 80)


def test_padded_rows_and_roles(tokenizer: Tokenizer, tmp_path: Path) -> None:
    _, foreign = tiny("gpt2", tokenizer.with_chat_template("{{ messages }}"))
    write_gguf(foreign, tmp_path / "m.gguf")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "m.gguf").fields.items()}
    assert fields["tokenizer.ggml.pre"] == "qwen2" and fields["tokenizer.chat_template"] == "{{ messages }}"
    assert fields["tokenizer.ggml.tokens"][399:] == [
        *fields["tokenizer.ggml.tokens"][399:400],
        *(f"[PAD{n}]" for n in range(400, 416)),
    ]
    assert fields["tokenizer.ggml.token_type"][399:] == [1] + [5] * 16 and fields["tokenizer.ggml.token_type"].count(3) == 1
    assert fields["tokenizer.ggml.add_bos_token"] is False and fields["general.file_type"] == 1
    back = read_gguf(tmp_path / "m.gguf").tokenizer
    assert back is not None and back.chat_template == "{{ messages }}" and back.vocab_size == 400


def sentencepiece(prefix: bool = True) -> Tokenizer:
    """SentencePiece's BPE as transformers keeps Llama 2's: scores have become merges, bytes are tokens."""
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [
        "▁t",
        "he",
        "▁the",
        "in",
        "re",
        "er",
        "▁a",
        "on",
        "▁w",
        "▁s",
        "ou",
        "▁in",
        "at",
        "ing",
        "nd",
        "or",
        "▁wor",
        "▁worl",
        "▁world",
    ]
    letters = sorted(set("".join(words)) | set("bcdfgjklmpquvxyz.,"))
    scores = {text: -float(rank) for rank, text in enumerate([*words, *letters])}
    vocabulary = {text: n for n, text in enumerate([*special, *scores])}
    inner = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges_of(scores), unk_token="<unk>", fuse_unk=True, byte_fallback=True)  # noqa: S106
    )
    inner.normalizer = normalizers.Sequence([*[normalizers.Prepend("▁")] * prefix, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] * prefix
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    inner.add_tokens([AddedToken(text, special=True, normalized=False) for text in special[:3]])
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return Tokenizer(inner, roles | {"add_bos_token": True})


TEXTS = ["the world is in order", " wor  worl", "", "über\n\tthe 東京 🦜", "<s>the</s>", "a" * 300, "\x00\x7f the ▁ world"]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_both_ways(prefix: bool, tmp_path: Path) -> None:
    own = sentencepiece(prefix)
    _, foreign = tiny("llama", own)
    write_gguf(foreign, tmp_path / "m.gguf")
    back = read_gguf(tmp_path / "m.gguf").tokenizer
    assert back is not None and back.config["add_bos_token"] is True and back.kind == "sentencepiece"
    assert (back.role("bos"), back.role("eos"), back.role("unk"), back.role("pad")) == (1, 2, 0, 2)
    for text in TEXTS:
        assert back.encode(text) == own.encode(text)
        assert back.decode(back.encode(text)) == own.decode(own.encode(text))


def test_merges_that_scores_cannot_say(tmp_path: Path) -> None:
    own = sentencepiece()
    raw = json.loads(own._inner.to_str())
    raw["model"]["merges"].pop(5)
    _, foreign = tiny("llama", Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(raw)), own.config))
    with pytest.raises(ModelError, match="in another way than SentencePiece"):
        write_gguf(foreign, tmp_path / "m.gguf")


def test_llama_3_takes_whole_words(tokenizer: Tokenizer, tmp_path: Path) -> None:
    _, foreign = tiny("llama", tokenizer)
    write_gguf(foreign, tmp_path / "m.gguf")
    for name, ignores in (("llama-bpe", True), ("smaug-bpe", False)):
        back = read_gguf(changed(tmp_path / "m.gguf", {"tokenizer.ggml.pre": name})).tokenizer
        assert back is not None and back._inner.model.ignore_merges is ignores  # type: ignore[attr-defined]


def unspeakable(kind: str, tokenizer: Tokenizer) -> Tokenizer:
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 2}
    match kind:
        case "word":
            return Tokenizer(tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="a")), {})  # noqa: S106
        case "wordpiece":
            return Tokenizer(tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="a")), {})  # noqa: S106
        case "gpt1":
            return Tokenizer(tokenizers.Tokenizer(models.BPE(vocabulary, [], end_of_word_suffix="</w>")), {})
    inner = tokenizers.Tokenizer.from_str(tokenizer._inner.to_str())
    pattern = tokenizers.Regex(r"\p{L}+|\s")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), byte_level])
    return Tokenizer(inner, {})


@pytest.mark.parametrize(
    ("kind", "told"),
    [(kind, f"no word for this tokenizer .{kind}") for kind in ("word", "wordpiece", "gpt1")] + [("other", r"\\p\{L\}\+\|")],
)
def test_tokenizers_without_a_word(kind: str, told: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    _, foreign = tiny("gpt2", unspeakable(kind, tokenizer))
    with pytest.raises(ModelError, match=told):
        write_gguf(foreign, tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "bert"}, "model type bert"),
        ({"hidden_act": "gelu"}, "hidden_act = gelu"),
        ({"use_sliding_window": True}, "use_sliding_window = True"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type yarn"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type llama3 is not supported with"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        ({"intermediate_size": None}, "lacks intermediate_size"),
        ({"head_dim": 48}, "no whole heads of 48"),
    ],
)
def test_configs_without_a_word(change: dict[str, Any], told: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    _, foreign = tiny("qwen3", tokenizer)
    with pytest.raises(ModelError, match=told):
        write_gguf(dataclasses.replace(foreign, config=foreign.config | change), tmp_path / "m.gguf")


def test_other_refusals_to_write(tokenizer: Tokenizer, tmp_path: Path) -> None:
    _, foreign = tiny("qwen2", tokenizer)
    path = tmp_path / "m.gguf"
    with pytest.raises(SettingError, match="not written as q4_0"):
        write_gguf(foreign, path, "q4_0")
    with pytest.raises(ModelError, match="has no tokenizer"):
        write_gguf(dataclasses.replace(foreign, tokenizer=None), path)
    with pytest.raises(ModelError, match=r"score\.bias has no place"):
        write_gguf(dataclasses.replace(foreign, tensors={**foreign.tensors, "score.bias": torch.ones(3)}), path)
    large = foreign.tensors | {"model.layers.0.mlp.up_proj.weight": torch.full((96, 64), 7e4)}
    with pytest.raises(ModelError, match="beyond F16"):
        write_gguf(dataclasses.replace(foreign, tensors=large), path, "f16")
    short = foreign.tensors | {"model.embed_tokens.weight": torch.ones(399, 64)}
    with pytest.raises(ModelError, match="token 399 has no row"):
        write_gguf(dataclasses.replace(foreign, tensors=short), path)


def test_a_full_disk(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, foreign = tiny("gpt2", tokenizer)

    def fail(*_: object) -> None:
        raise OSError("1000 requested and 512 written")  # all that numpy says

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", fail)
    with pytest.raises(CapacityError, match="disk is full"), atomic_path(tmp_path / "m.gguf") as partial:
        write_gguf(foreign, partial)
    assert not any(tmp_path.iterdir())


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="not installed") as refusal:
        read_gguf(tmp_path / "m.gguf")
    assert refusal.value.cure == "pip install gguf"


@pytest.mark.parametrize(
    "name", ["blk.9.attn_norm.weight", "blk.1x.attn_norm.weigh", "blk.1.attn_norm.scales", "rope_freqs.weight"]
)
def test_tensors_without_a_place(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    _, foreign = tiny("llama", tokenizer)
    write_gguf(foreign, tmp_path / "m.gguf", "f32")
    with pytest.raises(ModelError, match=r"has no place|layers|rotary"):
        read_gguf(changed(tmp_path / "m.gguf", {"llama.block_count": 3} if ".9." in name else {}, name))


def changed(path: Path, values: dict[str, Any], tensor_name: str = "") -> Path:
    """A GGUF file again, with other metadata, or a tensor more."""
    reader = gguf.GGUFReader(path)
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    contents = {name: (field.contents(), field.types) for name, field in fields.items()}
    writer = gguf.GGUFWriter(
        out := path.with_name("changed.gguf"), values.get("general.architecture", contents["general.architecture"][0])
    )
    for name, (value, types) in contents.items():
        if name not in ("general.architecture", *values):
            writer.add_key_value(name, value, *types[:2])
    for name, value in values.items():
        if name != "general.architecture":
            writer.add_key_value(name, value, contents[name][1][0] if name in contents else gguf.GGUFValueType.get_type(value))
    if tensor_name:
        writer.add_tensor(tensor_name, np.ones(7, np.float32))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"general.architecture": "mamba"}, "architecture mamba is not known"),
        ({"llama.block_count": 3}, "tensors of 2 layers, the metadata say 3"),
        ({"llama.block_count": 2**31 - 1}, "tensors of 2 layers, the metadata say 2147483647"),
        ({"llama.feed_forward_length": 2**30}, "ffn_up.weight has 96 rows, the metadata say 1073741824"),
        ({"llama.attention.head_count": 0}, "head_count is 0"),
        ({"llama.attention.head_count": 8}, "attn_q.weight has 64 rows, the metadata say 128"),
        ({"llama.embedding_length": 128}, "has 64 rows, the metadata say 128"),
        ({"llama.rope.dimension_count": 8}, "rotary positions"),
        ({"llama.rope.scaling.type": "yarn"}, "rotary positions"),
        ({"llama.attention.scale": 0.5}, "llama.attention.scale = 0.5 is not supported"),
        ({"split.count": 3}, "one of 3 parts"),
        ({"tokenizer.ggml.pre": "falcon"}, "called falcon is not known"),
        ({"tokenizer.ggml.model": "t5"}, "of the kind t5"),
        ({"tokenizer.ggml.eos_token_id": 999}, "not among the 416 tokens"),
        ({"tokenizer.ggml.merges": ["a b"]}, "cannot be built"),
        ({"tokenizer.ggml.tokens": ["a"] * 416}, "1 tokens and 416 types"),
        ({"tokenizer.ggml.tokens": [str(n) for n in range(417)]}, "417 tokens and 416 types .* embedding of 416 rows"),
    ],
)
def test_files_that_are_refused(values: dict[str, Any], told: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    _, foreign = tiny("llama", tokenizer)
    write_gguf(foreign, tmp_path / "m.gguf")
    with pytest.raises(ModelError, match=told):
        read_gguf(changed(tmp_path / "m.gguf", values))


def test_a_whole_file_mutated(tokenizer: Tokenizer, tmp_path: Path) -> None:
    _, foreign = tiny("llama3", tokenizer)
    write_gguf(foreign, tmp_path / "m.gguf", "q8_0")
    whole, chance, path, opened = (tmp_path / "m.gguf").read_bytes(), random.Random(3), tmp_path / "mutated.gguf", 0
    interesting = [
        at + len(word)
        for word in (b"llama.", b"_id", b".weight", b"ggml.")
        for at in range(len(whole))
        if whole.startswith(word, at)
    ]
    for _ in range(160):
        data = bytearray(whole)
        start = chance.choice(interesting) + chance.randrange(40)
        data[start] = chance.choice([0, 1, 127, 128, 255, data[start] ^ 1])
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        try:
            found = read_gguf(path)
            assert all(tensor.dtype == torch.float32 for tensor in found.tensors.values())
            opened += 1
        except ModelError:
            pass
    assert 10 < opened < 150


def ugly_texts(count: int = 200) -> list[str]:
    """Prose, code, numbers, spaces, scripts, emoji and control characters, mixed with a fixed seed."""
    chance = random.Random(11)
    bits = [
        "the",
        " world",
        "don't",
        "I'LL",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "12345",
        "3.14",
        "東京",
        "naïve",
        "Привет",
        "שלום",
        "🦜",
        "👩‍👩‍👧",
        "->",
    ]
    bits += [
        "e\u0301",
        "١٢٣",
        "½",
        "a_b",
        "<|endoftext|>",
        "[PAD400]",
        " \u00a0",
        "\u200b",
        "\r\n",
        "...",
        " (x)",
        "#!",
        "ﬁ",
        "𝔘",
        "हिन्दी",
        "\x07",
    ]
    source = Path(__file__).read_text(encoding="utf-8").splitlines(keepends=True)
    prose = [str(chance.choice(source)) for _ in range(count // 2)]
    return prose + ["".join(chance.choices(bits, k=chance.randrange(1, 25))) for _ in range(count - len(prose))]


def opened(path: Path, context: int = 128) -> Any:
    llama_cpp = pytest.importorskip("llama_cpp")
    return llama_cpp.Llama(
        str(path), n_ctx=context, n_threads=1, n_gpu_layers=0, logits_all=True, verbose=False, type_k=0, type_v=0
    )


def same_tokens(model: Any, tokenizer: Tokenizer) -> list[str]:
    """The texts whose tokens llama.cpp sees otherwise."""
    texts = ugly_texts()
    return [text for text in texts if model.tokenize(text.encode(), add_bos=False, special=False) != tokenizer.encode(text)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_computes_the_same(family: str, dtype: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model, foreign = tiny(family, tokenizer)
    write_gguf(foreign, tmp_path / "m.gguf", dtype)
    theirs = opened(tmp_path / "m.gguf")
    model.load_state_dict(dict(read_gguf(tmp_path / "m.gguf").tensors), strict=False)  # what the file holds, dequantised
    ids = [int(n) for n in torch.randint(400, (40,), generator=torch.Generator().manual_seed(1))]
    theirs.eval(ids)
    with torch.no_grad():
        own = model(torch.tensor([ids])).logits[0]
    found = torch.tensor(theirs.scores[:40])
    assert own.std() > 0.3  # or the next lines say little
    if dtype == "q8_0":  # there llama.cpp rounds the activations to 8 bits too
        assert (found - own).square().mean().sqrt() < 0.04 * own.std()
    else:
        torch.testing.assert_close(found, own, atol=1e-2, rtol=0)
    print(f"{family} {dtype}: greatest difference {(found - own).abs().max():.1e} of logits of deviation {own.std():.1f}")
    assert same_tokens(theirs, tokenizer) == []


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [True, False])
def test_llama_cpp_sees_sentencepiece_the_same(prefix: bool, tmp_path: Path) -> None:
    _, foreign = tiny("llama", own := sentencepiece(prefix))
    write_gguf(foreign, tmp_path / "m.gguf")
    assert same_tokens(opened(tmp_path / "m.gguf"), own) == []


@pytest.mark.slow
@pytest.mark.parametrize("split", _splits(), ids=lambda split: str(split["names"][0]))
def test_llama_cpp_splits_the_same(split: dict[str, Any], tmp_path: Path) -> None:
    inner = tokenizers.Tokenizer(models.BPE(ignore_merges=split.get("ignore_merges", False)))
    parts = [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in split["patterns"]]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Sequence([*parts, byte_level]), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=416, initial_alphabet=byte_level.alphabet(), special_tokens=["<|endoftext|>"], show_progress=False
    )
    inner.train_from_iterator([text * 3 for text in ugly_texts()], trainer)
    _, foreign = tiny("qwen2", own := Tokenizer(inner, {}))
    write_gguf(foreign, tmp_path / "m.gguf")
    assert same_tokens(opened(tmp_path / "m.gguf"), own) == []


@pytest.mark.slow
def test_llama_cpp_sees_gpt2s_own_tokens(data_folder: Path, tmp_path: Path) -> None:
    own = gpt2_from_openai(data_folder / "tokenizers" / "gpt2")
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=128)
    tensors = dict(transformers.GPT2LMHeadModel(config).state_dict())
    write_gguf(Foreign(config.to_dict(), tensors, own, "gpt2"), tmp_path / "m.gguf", "q8_0")
    assert same_tokens(opened(tmp_path / "m.gguf"), own) == []
    back = read_gguf(tmp_path / "m.gguf").tokenizer
    assert back is not None and [back.encode(text) for text in ugly_texts()] == [own.encode(text) for text in ugly_texts()]


PROMPTS = [
    "The capital of France is", "Water boils at", "Once upon a time", "def fibonacci(n):", "The largest planet is",
    "To make bread, you need", "In 1969, humans", "Dear Sir or Madam,", "1, 2, 3, 4,", "My favourite colour",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("dtype", "tie"), [("f16", 0.02), ("bf16", 0.02), ("q8_0", 0.3)])
def test_a_published_file(dtype: str, tie: float, tmp_path: Path) -> None:
    """FORETELL_GGUF names a file of a small chat model of Llama's kind, such as SmolLM2-135M-Instruct."""
    if not (name := os.environ.get("FORETELL_GGUF")):
        pytest.skip("FORETELL_GGUF names no file")
    foreign = read_gguf(Path(name))
    assert foreign.tokenizer is not None and foreign.tokenizer.chat_template
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**foreign.config)).eval()
    model.load_state_dict(dict(foreign.tensors), strict=False)
    theirs = transformers.LlamaForCausalLM.from_pretrained(Path(name).parent, gguf_file=Path(name).name).eval()
    prompts = [foreign.tokenizer.encode(prompt) for prompt in PROMPTS]
    with torch.no_grad():
        torch.testing.assert_close(
            model(torch.tensor(prompts[:1])).logits, theirs(torch.tensor(prompts[:1])).logits, atol=1e-4, rtol=0
        )
    path = tmp_path / "m.gguf"
    write_gguf(foreign, path, dtype)
    model.load_state_dict(dict(read_gguf(path).tensors), strict=False)
    llama = opened(path)
    assert same_tokens(llama, foreign.tokenizer) == []
    agree = 0
    for ids in prompts:
        sequence = model.generate(torch.tensor([ids]), max_new_tokens=32, do_sample=False, eos_token_id=None)
        assert ids != prompts[0] or "Paris" in foreign.tokenizer.decode(sequence[0].tolist())
        with torch.no_grad():
            own = model(sequence).logits[0, len(ids) - 1 : -1]
        llama.reset()
        llama.eval(sequence[0].tolist())
        same = torch.tensor(llama.scores[len(ids) - 1 : len(ids) + 31]).argmax(-1) == own.argmax(-1)
        first, second = own.topk(2).values.unbind(-1)
        assert ((first - second)[~same] < tie).all()  # q8_0: llama.cpp rounds the activations to 8 bits too
        agree += int(same.sum())
    print(f"{dtype}: {agree} of {32 * len(prompts)} tokens agree")
    assert agree > 32 * len(prompts) * (0.95 if dtype == "q8_0" else 0.99)
