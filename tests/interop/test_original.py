"""The first releases, read from files made here, give transformers' models that compute what the originals compute.

The forward passes below are written from the papers and the released code, over the release's own names, orders and shapes.
"""

import json
import math
import runpy
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foretell.base.errors import DataError, ModelError
from foretell.interop import original
from foretell.interop.foreign import Foreign
from foretell.interop.original import (
    is_bert_tensorflow,
    is_gpt1,
    is_gpt2_tensorflow,
    read_bert_tensorflow,
    read_gpt1,
    read_gpt2_tensorflow,
)

transformers = pytest.importorskip("transformers")
write_bundle = runpy.run_path(str(Path(__file__).with_name("test_tensor_bundle.py")))["write_bundle"]

Array = Any
Arrays = dict[str, Array]
TOKENS = np.array([5, 1, 30, 7, 7, 2])


def random_arrays(shapes: dict[str, list[int]], seed: int = 0) -> Arrays:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def gpt_layer(prefix: str, width: int) -> dict[str, list[int]]:
    """A layer's variables in the order in which GPT-1's and GPT-2's graphs make them, when the norms come after."""
    attention = {"attn/c_attn/w": [1, width, 3 * width], "attn/c_attn/b": [3 * width]}
    attention |= {"attn/c_proj/w": [1, width, width], "attn/c_proj/b": [width], "ln_1/g": [width], "ln_1/b": [width]}
    inner = {"mlp/c_fc/w": [1, width, 4 * width], "mlp/c_fc/b": [4 * width], "mlp/c_proj/w": [1, 4 * width, width]}
    inner |= {"mlp/c_proj/b": [width], "ln_2/g": [width], "ln_2/b": [width]}
    return {f"{prefix}/{name}": shape for name, shape in (attention | inner).items()}


def norm(x: Array, gain: Array, shift: Array, epsilon: float = 1e-5) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * gain + shift


def tanh_gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def exact_gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attention(queries: Array, keys: Array, values: Array, heads: int, causal: bool) -> Array:
    """Each of (T, D) → (T, D)."""
    parts = []
    for query, key, value in zip(*(np.split(x, heads, axis=-1) for x in (queries, keys, values)), strict=True):
        scores = query @ key.T / math.sqrt(query.shape[-1])
        if causal:
            scores = np.where(np.tri(len(scores)) == 1, scores, -1e10)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        parts.append(weights / weights.sum(-1, keepdims=True) @ value)
    return np.concatenate(parts, axis=-1)


def gpt_parts(w: Arrays, prefix: str, heads: int) -> tuple[Any, Any]:
    def dense(x: Array, name: str) -> Array:
        return x @ w[f"{prefix}/{name}/w"][0] + w[f"{prefix}/{name}/b"]

    def attend(x: Array) -> Array:
        return dense(attention(*np.split(dense(x, "attn/c_attn"), 3, axis=-1), heads, causal=True), "attn/c_proj")

    return attend, lambda x: dense(tanh_gelu(dense(x, "mlp/c_fc")), "mlp/c_proj")


def theirs(kind: str, foreign: Foreign, tied: set[str]) -> Any:
    """transformers' model from a Foreign alone; nothing missing but what is tied, nothing left over."""
    config = getattr(transformers, f"{kind.split('.')[0]}Config")(**foreign.config)
    model = getattr(transformers, foreign.config["architectures"][0])._from_config(config, attn_implementation="eager")
    missing, unexpected = model.load_state_dict(dict(foreign.tensors), strict=False)
    assert set(missing) == tied
    assert not unexpected
    return model.eval()


def close(found: torch.Tensor, expected: Array) -> bool:
    return bool(np.abs(found.detach().numpy() - expected).max() <= 1e-4 * max(1, np.abs(expected).max()))


# GPT-1

GPT1 = {"vocabulary": 41, "positions": 9, "width": 128, "layers": 2}


def gpt1_arrays() -> Arrays:
    width = GPT1["width"]
    shapes = {"positions": [GPT1["positions"], width], "tokens": [GPT1["vocabulary"], width]}
    for layer in range(GPT1["layers"]):
        shapes |= gpt_layer(f"h{layer}", width)
    return random_arrays(shapes)


def write_gpt1(folder: Path, arrays: Arrays) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "params_shapes.json").write_text(json.dumps([list(array.shape) for array in arrays.values()]))
    for number, part in enumerate(np.array_split(np.concatenate([array.ravel() for array in arrays.values()]), 10)):
        np.save(folder / f"params_{number}.npy", part)


def gpt1_forward(w: Arrays, heads: int) -> Array:
    x = w["tokens"][TOKENS] + w["positions"][: len(TOKENS)]
    for layer in range(GPT1["layers"]):
        attend, expand = gpt_parts(w, f"h{layer}", heads)
        x = norm(x + attend(x), w[f"h{layer}/ln_1/g"], w[f"h{layer}/ln_1/b"])
        x = norm(x + expand(x), w[f"h{layer}/ln_2/g"], w[f"h{layer}/ln_2/b"])
    return x @ w["tokens"].T


def test_gpt1_computes_what_the_release_computes(tmp_path: Path) -> None:
    arrays = gpt1_arrays()
    write_gpt1(tmp_path, arrays)
    assert is_gpt1(tmp_path)
    foreign = read_gpt1(tmp_path)
    model = theirs("OpenAIGPT", foreign, {"lm_head.weight"})
    model.tie_weights()
    assert close(model(torch.tensor(TOKENS)[None]).logits[0], gpt1_forward(arrays, heads=2))
    wanted = {"afn": "gelu", "n_positions": 9, "vocab_size": 41, "n_embd": 128, "n_head": 2, "n_layer": 2}
    assert wanted.items() <= foreign.config.items()
    assert foreign.tokenizer is None
    assert any("encoder_bpe_40000.json is missing" in note for note in foreign.notes)
    assert any("heads" in note for note in foreign.notes)
    for (name, tensor), array in zip(foreign.tensors.items(), arrays.values(), strict=True):
        assert np.array_equal(tensor.numpy(), array.reshape(tensor.shape)), name


def test_gpt1_has_its_number_of_parameters(data_folder: Path) -> None:
    released = json.loads((data_folder / "tokenizers/gpt1/params_shapes.json").read_text())
    table = original._tensors("gpt1", {"vocab_size": 40_478, "n_positions": 512, "n_embd": 768}, 12)
    shapes = [shape for _, _, shape in table]
    assert shapes == [tuple(shape[1:] if len(shape) == 3 else shape) for shape in released]
    assert sum(map(math.prod, shapes)) == 116_534_784


@pytest.mark.slow
def test_gpt1_of_the_true_size(data_folder: Path, tmp_path: Path) -> None:
    source = data_folder / "tokenizers/gpt1"
    for name in ("params_shapes.json", "encoder_bpe_40000.json", "vocab_40000.bpe"):
        shutil.copyfile(source / name, tmp_path / name)
    numbers = np.arange(116_534_784, dtype=np.uint32).view(np.float32)  # no two alike
    for number, part in enumerate(np.array_split(numbers, 10)):
        np.save(tmp_path / f"params_{number}.npy", part)
    foreign = read_gpt1(tmp_path)
    assert torch.equal(
        torch.cat([tensor.flatten() for tensor in foreign.tensors.values()]).view(torch.int32), torch.arange(116_534_784)
    )
    assert foreign.config["n_head"] == foreign.config["n_layer"] == 12
    assert foreign.tokenizer is not None
    assert foreign.tokenizer.vocab_size == foreign.config["vocab_size"] == 40_478
    with torch.device("meta"):
        model = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**foreign.config))
    assert {name: tensor.shape for name, tensor in model.named_parameters()} == {
        name: tensor.shape for name, tensor in foreign.tensors.items()
    }


def test_gpt1_with_a_wrong_count_gives_both_numbers(tmp_path: Path) -> None:
    write_gpt1(tmp_path, gpt1_arrays())
    total = sum(array.size for array in gpt1_arrays().values())
    np.save(tmp_path / "params_9.npy", np.load(tmp_path / "params_9.npy")[:-1])
    with pytest.raises(ModelError, match=f"hold {total - 1:,} numbers, params_shapes.json asks for {total:,}"):
        read_gpt1(tmp_path)
    (tmp_path / "params_3.npy").unlink()
    with pytest.raises(ModelError, match=r"params_3\.npy is missing"):
        read_gpt1(tmp_path)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("trapped"),)


def test_gpt1_parts_that_are_no_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_gpt1(tmp_path, gpt1_arrays())
    path, count = tmp_path / "params_4.npy", len(np.load(tmp_path / "params_4.npy"))
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,)}".ljust(117)
    for content in (
        np.array([Trap()] * 3, dtype=object),
        np.zeros((count, 1), np.float32),
        np.zeros(count, np.float64),
        np.zeros(count, np.int32),
        b"",
        b"PK\x03\x04" + bytes(100),
        header % (10**9) + b"\n" + bytes(64),
        header % (10**30) + b"\n" + bytes(64),
        b"\x93NUMPY\x01\x00v\x00" + b"[" * 117 + b"\n",
    ):
        path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content, allow_pickle=True)
        with pytest.raises(ModelError, match="not one whole row of fp32 numbers"):
            read_gpt1(tmp_path)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        [],
        [[9, 128]],
        [[9, 128], [41, 128], 7],
        [["9", 128], [41, 128]],
        [[9, 100], [41, 100]],
        [[0, 128], [41, 128]],
        [[9, 128], [41, 64]],
        [[9, -128], [41, -128]],
        [[9, 128], [41, 128], [1, 128, 384]],
    ],
)
def test_gpt1_shapes_of_another_model_are_refused(shapes: Any, tmp_path: Path) -> None:
    write_gpt1(tmp_path, gpt1_arrays())
    (tmp_path / "params_shapes.json").write_text(json.dumps(shapes))
    with pytest.raises(ModelError, match="shapes of"):
        read_gpt1(tmp_path)


def test_gpt1_layers_in_another_order_are_refused(tmp_path: Path) -> None:
    arrays = gpt1_arrays()
    moved = {"tokens": arrays.pop("tokens"), **arrays}
    write_gpt1(tmp_path, moved)
    read_gpt1(tmp_path)  # nobody can tell positions from tokens
    moved = {"positions": arrays.pop("positions"), "tokens": moved["tokens"], **dict(reversed(arrays.items()))}
    write_gpt1(tmp_path, moved)
    with pytest.raises(ModelError, match="not the shapes of a GPT-1"):
        read_gpt1(tmp_path)


# GPT-2

HPARAMS = {"n_vocab": 41, "n_ctx": 9, "n_embd": 12, "n_head": 3, "n_layer": 2}


def gpt2_arrays(hparams: dict[str, int] = HPARAMS) -> Arrays:
    width = hparams["n_embd"]
    shapes = {"model/wpe": [hparams["n_ctx"], width], "model/wte": [hparams["n_vocab"], width]}
    for layer in range(hparams["n_layer"]):
        shapes |= gpt_layer(f"model/h{layer}", width)
    return random_arrays(shapes | {"model/ln_f/g": [width], "model/ln_f/b": [width]})


def write_gpt2(folder: Path, arrays: Arrays, hparams: Any = HPARAMS, shards: int = 1) -> None:
    (folder / "hparams.json").write_text(json.dumps(hparams))
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n')
    write_bundle(folder / "model.ckpt", arrays, shards, 9)


def gpt2_forward(w: Arrays) -> Array:
    x = w["model/wte"][TOKENS] + w["model/wpe"][: len(TOKENS)]
    for layer in range(HPARAMS["n_layer"]):
        prefix = f"model/h{layer}"
        attend, expand = gpt_parts(w, prefix, HPARAMS["n_head"])
        x = x + attend(norm(x, w[f"{prefix}/ln_1/g"], w[f"{prefix}/ln_1/b"]))
        x = x + expand(norm(x, w[f"{prefix}/ln_2/g"], w[f"{prefix}/ln_2/b"]))
    return norm(x, w["model/ln_f/g"], w["model/ln_f/b"]) @ w["model/wte"].T


def test_gpt2_computes_what_the_release_computes(tmp_path: Path) -> None:
    arrays = gpt2_arrays()
    write_gpt2(tmp_path, arrays, shards=2)
    assert is_gpt2_tensorflow(tmp_path)
    foreign = read_gpt2_tensorflow(tmp_path)
    model = theirs("GPT2", foreign, {"lm_head.weight"})
    model.tie_weights()
    assert close(model(torch.tensor(TOKENS)[None]).logits[0], gpt2_forward(arrays))
    assert foreign.config["eos_token_id"] == 40
    assert sum(tensor.numel() for tensor in foreign.tensors.values()) == sum(array.size for array in arrays.values())
    assert foreign.notes == ("there is no tokenizer: encoder.json is missing",)


def test_gpt2_of_several_steps_is_the_last_that_checkpoint_names(tmp_path: Path) -> None:
    first, last = gpt2_arrays(), {name: -array for name, array in gpt2_arrays().items()}
    write_gpt2(tmp_path, first)
    write_bundle(tmp_path / "model-200", last | {"beta1_power": np.ones((), np.float32), "model/wte/Adam": first["model/wte"]})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model-200"\n')
    foreign = read_gpt2_tensorflow(tmp_path)
    assert np.array_equal(foreign.tensors["transformer.wte.weight"].numpy(), last["model/wte"])
    assert foreign.notes[0] == "2 tensors are left out, which are no weights of this model: Adam, beta1_power"
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model-300"\n')
    with pytest.raises(ModelError, match="no checkpoint here"):
        read_gpt2_tensorflow(tmp_path)
    (tmp_path / "checkpoint").unlink()
    with pytest.raises(DataError, match="checkpoint is missing"):
        read_gpt2_tensorflow(tmp_path)


def test_gpt2_that_contradicts_its_config_is_refused(tmp_path: Path) -> None:
    arrays = gpt2_arrays()
    for change, match in [
        ({"n_embd": 16}, r"model/wte has shape \[41, 12\], the config says \[41, 16\]"),
        ({"n_layer": 10**12}, "model/h2/attn/c_attn/b is missing|model/h2/ln_1/g is missing"),
        ({"n_head": None}, "n_head is not given as a whole number"),
        ({"n_head": 2.5}, "n_head is not given as a whole number"),
        ({"n_ctx": 0}, "n_ctx is not given as a whole number"),
    ]:
        write_gpt2(tmp_path, arrays, HPARAMS | change)
        with pytest.raises(ModelError, match=match):
            read_gpt2_tensorflow(tmp_path)
    write_gpt2(tmp_path, arrays, [1])
    with pytest.raises(ModelError, match="n_vocab is not given"):
        read_gpt2_tensorflow(tmp_path)
    write_gpt2(tmp_path, arrays | {"model/ln_f/g": np.arange(12)})
    with pytest.raises(ModelError, match="model/ln_f/g holds no floating-point numbers"):
        read_gpt2_tensorflow(tmp_path)
    (tmp_path / "model.ckpt.index").unlink()
    with pytest.raises(ModelError, match="no checkpoint here"):
        read_gpt2_tensorflow(tmp_path)


# BERT

BERT = {"vocab_size": 41, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
BERT |= {"max_position_embeddings": 9, "type_vocab_size": 2}
SEGMENTS = np.array([0, 0, 0, 1, 1, 1])


def bert_variables(raw: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    width, inner, vocabulary = raw["hidden_size"], raw["intermediate_size"], raw["vocab_size"]
    for name, rows in [("word", vocabulary), ("position", raw["max_position_embeddings"]), ("token_type", 2)]:
        yield f"bert/embeddings/{name}_embeddings", [rows, width]
    dense = [("bert/pooler/dense", width, width), ("cls/predictions/transform/dense", width, width)]
    norms = ["bert/embeddings/LayerNorm", "cls/predictions/transform/LayerNorm"]
    for layer in range(raw["num_hidden_layers"]):
        prefix = f"bert/encoder/layer_{layer}"
        dense += [(f"{prefix}/attention/self/{part}", width, width) for part in ("query", "key", "value")]
        dense += [(f"{prefix}/attention/output/dense", width, width), (f"{prefix}/output/dense", inner, width)]
        dense += [(f"{prefix}/intermediate/dense", width, inner)]
        norms += [f"{prefix}/attention/output/LayerNorm", f"{prefix}/output/LayerNorm"]
    for name, into, out in dense:
        yield f"{name}/kernel", [into, out]
        yield f"{name}/bias", [out]
    for name, kind in product(norms, ("gamma", "beta")):
        yield f"{name}/{kind}", [width]
    yield "cls/predictions/output_bias", [vocabulary]
    yield "cls/seq_relationship/output_weights", [2, width]
    yield "cls/seq_relationship/output_bias", [2]


def write_bert(folder: Path, arrays: Arrays, raw: dict[str, Any]) -> None:
    (folder / "bert_config.json").write_text(json.dumps(raw))
    write_bundle(folder / "bert_model.ckpt", arrays, 1, 20)


def bert_forward(w: Arrays) -> tuple[Array, Array]:
    """The logits of the masked words and of the next sentence."""

    def dense(x: Array, name: str) -> Array:
        return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    def normed(x: Array, name: str) -> Array:
        return norm(x, w[f"{name}/LayerNorm/gamma"], w[f"{name}/LayerNorm/beta"], 1e-12)

    words, places = w["bert/embeddings/word_embeddings"], w["bert/embeddings/position_embeddings"]
    x = words[TOKENS] + places[: len(TOKENS)] + w["bert/embeddings/token_type_embeddings"][SEGMENTS]
    x = normed(x, "bert/embeddings")
    for layer in range(BERT["num_hidden_layers"]):
        name = f"bert/encoder/layer_{layer}"
        parts = (dense(x, f"{name}/attention/self/{part}") for part in ("query", "key", "value"))
        mixed = attention(*parts, BERT["num_attention_heads"], causal=False)
        x = normed(x + dense(mixed, f"{name}/attention/output/dense"), f"{name}/attention/output")
        x = normed(x + dense(exact_gelu(dense(x, f"{name}/intermediate/dense")), f"{name}/output/dense"), f"{name}/output")
    head = normed(exact_gelu(dense(x, "cls/predictions/transform/dense")), "cls/predictions/transform")
    pooled = np.tanh(dense(x[0], "bert/pooler/dense"))
    relation = pooled @ w["cls/seq_relationship/output_weights"].T + w["cls/seq_relationship/output_bias"]
    return head @ words.T + w["cls/predictions/output_bias"], relation


def test_bert_computes_what_the_release_computes(tmp_path: Path) -> None:
    arrays = random_arrays(dict(bert_variables(BERT)))
    moments = {f"{name}/adam_{kind}": array for name, array in arrays.items() for kind in "mv"}
    write_bert(tmp_path, arrays | moments | {"global_step": np.int64(7)}, BERT | {"directionality": "bidi", "hidden_act": "gelu"})
    assert is_bert_tensorflow(tmp_path)
    foreign = read_bert_tensorflow(tmp_path)
    model = theirs("Bert", foreign, {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"})
    model.tie_weights()
    found = model(torch.tensor(TOKENS)[None], token_type_ids=torch.tensor(SEGMENTS)[None])
    words, relation = bert_forward(arrays)
    assert close(found.prediction_logits[0], words)
    assert close(found.seq_relationship_logits[0], relation)
    assert foreign.config["architectures"] == ["BertForPreTraining"]
    assert (foreign.config["layer_norm_eps"], foreign.config["hidden_act"]) == (1e-12, "gelu")
    left_out, no_tokenizer, gelu = foreign.notes
    assert left_out == f"{len(moments) + 1} tensors are left out, which are no weights of this model: adam_m, adam_v, global_step"
    assert "vocab.txt is missing" in no_tokenizer
    assert "tanh" in gelu


def test_bert_keeps_the_words_of_its_config(tmp_path: Path) -> None:
    write_bert(
        tmp_path,
        random_arrays(dict(bert_variables(BERT))),
        BERT | {"hidden_act": "relu", "hidden_dropout_prob": 0.0, "model_type": "x"},
    )
    foreign = read_bert_tensorflow(tmp_path)
    assert (foreign.config["hidden_act"], foreign.config["hidden_dropout_prob"], foreign.config["model_type"]) == (
        "relu",
        0.0,
        "bert",
    )
    assert not any("tanh" in note for note in foreign.notes)


def test_bert_without_a_head_is_refused(tmp_path: Path) -> None:
    arrays = random_arrays(dict(bert_variables(BERT)))
    del arrays["cls/predictions/output_bias"]
    write_bert(tmp_path, arrays, BERT)
    with pytest.raises(ModelError, match="cls/predictions/output_bias is missing"):
        read_bert_tensorflow(tmp_path)


# Tokenizers


@pytest.mark.parametrize("capitals", [False, True])
def test_bert_lower_cases_as_its_vocabulary_does(capitals: bool, tmp_path: Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##s", "cat", *(["The", "##S"] if capitals else [])]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    write_bert(tmp_path, random_arrays(dict(bert_variables(BERT))), BERT)
    foreign = read_bert_tensorflow(tmp_path)
    assert foreign.tokenizer is not None
    assert foreign.tokenizer.encode("The cats") == [8 if capitals else 5, 7, 6]
    assert sum("lower-cased" in note and ("not lower-cased" in note) == capitals for note in foreign.notes) == 1


def test_gpt2_comes_with_its_tokenizer(data_folder: Path, tmp_path: Path) -> None:
    hparams = HPARAMS | {"n_vocab": 50_257, "n_embd": 2, "n_head": 1, "n_layer": 1}
    write_gpt2(tmp_path, gpt2_arrays(hparams), hparams)
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copyfile(data_folder / "tokenizers/gpt2" / name, tmp_path / name)
    foreign = read_gpt2_tensorflow(tmp_path)
    assert foreign.tokenizer is not None
    assert foreign.tokenizer.encode("Hello world") == [15496, 995]
    assert foreign.tokenizer.end_of_text == foreign.config["eos_token_id"] == 50_256
    assert foreign.notes == ()


def test_an_empty_folder_is_no_release(tmp_path: Path) -> None:
    assert not (is_gpt1(tmp_path) or is_gpt2_tensorflow(tmp_path) or is_bert_tensorflow(tmp_path))
    (tmp_path / "hparams.json").write_text("{}")
    (tmp_path / "bert_config.json").write_text("{}")
    assert not (is_gpt2_tensorflow(tmp_path) or is_bert_tensorflow(tmp_path))
