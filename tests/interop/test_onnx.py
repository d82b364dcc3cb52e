"""What onnxruntime makes of an exported graph is what the model gives, at any batch, length and cache, padded or not."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from foretell.base.errors import ModelError, SettingError
from foretell.interop.huggingface import load_config
from foretell.interop.onnx import FILE, verify_onnx, write_onnx
from foretell.models.build import build, initialise
from foretell.models.heads import HeadConfig, TaskModel, initialise_head
from foretell.models.network import Network
from foretell.models.settings import ModelSettings, resolve
from foretell.tokenizers.bpe import train_bpe
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.tokenizer import Tokenizer

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

VOCABULARY, CONTEXT = 270, 24
SMALL = {"d_model": 32, "n_head": 4, "context_length": CONTEXT}
LINEAR = {"kind": "linear", "factor": 4.0}
YARN = {"kind": "yarn", "factor": 4.0, "original_context_length": 16}
DECODERS: dict[str, dict[str, Any]] = {"gpt3": {"preset": "gpt3", "n_layer": 2, "window": 3}}
MODERN: dict[str, Any] = {"preset": "modern", "n_layer": 1, "n_kv_head": 2}
SLOW_DECODERS: dict[str, dict[str, Any]] = {
    "gpt1": {"preset": "gpt1", "n_layer": 2, "faithful": True, "dropout": 0.1},
    "gpt2": {"preset": "gpt2", "n_layer": 2, "tied": False},
    "llama": {"preset": "llama", "n_layer": 2, "n_kv_head": 1, "tied": True, "rope_scaling": LINEAR},
    "qwen2": {"preset": "qwen2", "n_layer": 1, "n_kv_head": 2, "d_head": 16, "rope_scaling": YARN},
    "relu2": {"preset": "modern", "n_layer": 1, "activation": "relu2"},
    "relu": {"preset": "gpt2", "n_layer": 1, "activation": "relu"},
    "silu": {"preset": "gpt1", "n_layer": 1, "activation": "silu"},
    "gelu": {"preset": "llama", "n_layer": 1, "activation": "gelu", "norm": "layernorm", "norm_position": "post"},
}


def random_model(**words: Any) -> Network:
    config, _ = resolve(ModelSettings(**{**SMALL, **words}), VOCABULARY)
    model = build(config)
    initialise(model, seed=1)
    shake(model)
    return model.eval()


def shake(model: torch.nn.Module) -> None:
    """Zeros and ones would hide a wrong place."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def task_model(preset: str, kind: Any, **words: Any) -> TaskModel:
    model = TaskModel(random_model(preset=preset, n_layer=1, **words), HeadConfig(kind=kind, n_labels=3))
    initialise_head(model, seed=3)
    return model.eval()


def tokens(batch: int, time: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (batch, time), generator=torch.Generator().manual_seed(batch + time))


def written(model: Network | TaskModel, folder: Path, tokenizer: Tokenizer | None = None) -> Any:
    """The graph, after it was held against the model at batches and lengths that it was not traced with."""
    write_onnx(model, folder, tokenizer)
    for batch, time in ((1, 1), (1, CONTEXT), (3, 11), (5, 2)):
        assert verify_onnx(model, folder, tokens(batch, time)) <= 1e-4
    graph = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(graph)
    return graph


def names(values: Any) -> list[str]:
    return [value.name for value in values]


def slow(names: Any) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", [*DECODERS, *slow(SLOW_DECODERS)])
def test_decoders(name: str, tmp_path: Path) -> None:
    model = random_model(**{**DECODERS, **SLOW_DECODERS}[name])
    graph = written(model, tmp_path).graph
    layers = [f"{layer}.{kind}" for layer in range(model.config.n_layer) for kind in ("key", "value")]
    assert names(graph.input) == ["input_ids", "attention_mask", *(f"past_key_values.{layer}" for layer in layers)]
    assert names(graph.output) == ["logits", *(f"present.{layer}" for layer in layers)]
    axes = [[dim.dim_param for dim in value.type.tensor_type.shape.dim if dim.dim_param] for value in graph.input[:3]]
    assert axes == [["batch", "sequence"], ["batch", "total"], ["batch", "past"]]


def test_the_folder_is_whole_and_holds_the_weights_once(tmp_path: Path) -> None:
    text = ["the cat sat on the mat, and the dog sat on the log. " * 20]
    tokenizer = train_bpe(text, TokenizerSettings(vocab_size=VOCABULARY))
    model = random_model(**MODERN, d_model=64)
    model.train()
    graph = written(model, tmp_path, tokenizer)
    assert model.training  # the caller's model is left as it was
    assert load_config(tmp_path) == model.config
    assert Tokenizer.load(tmp_path).encode("the dog") == tokenizer.encode("the dog")
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob(".partial-*"))
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    held = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    table = 2 * CONTEXT * model.config.d_head * 4
    assert weights <= held <= weights + table + 1_000  # the tied head's matrix is not there a second time
    content = (tmp_path / FILE).read_bytes()
    assert b"site-packages" not in content and str(Path(__file__).parents[2]).encode() not in content
    with pytest.raises(SettingError, match="already exists"):
        write_onnx(model, tmp_path, None)
    with torch.no_grad():
        model.final_norm.weight *= 1.01
    with pytest.raises(ModelError, match="differ from the model's by"):
        verify_onnx(model, tmp_path, tokens(2, 9))
    (tmp_path / FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot open"):
        verify_onnx(model, tmp_path, tokens(2, 9))


def test_a_bert_body_with_large_weights_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foretell.interop.onnx.INLINE_UP_TO", 10_000)
    graph = written(bert(["pooler"]), tmp_path).graph
    assert names(graph.input) == ["input_ids", "attention_mask", "token_type_ids"]
    assert names(graph.output) == ["last_hidden_state", "pooler_output"]
    assert (tmp_path / FILE).stat().st_size < 50_000 < (tmp_path / "model.onnx_data").stat().st_size


def bert(parts: list[str]) -> Network:
    config, _ = resolve(ModelSettings(**SMALL, preset="bert", n_layer=1), VOCABULARY)
    model = build(config.replace(parts=parts))
    shake(model)
    return model.eval()


@pytest.mark.slow
def test_a_masked_language_model(tmp_path: Path) -> None:
    model = bert(["pooler", "masked", "next_sentence"])
    assert names(written(model, tmp_path).graph.output) == ["logits"]
    (tmp_path / "again").mkdir()
    assert "next-sentence head is left out" in write_onnx(model, tmp_path / "again", None)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "kind"), [("bert", "classes"), ("bert", "spans"), ("gpt1", "tokens"), ("gpt2", "classes"), ("modern", "reward")]
)
def test_task_models(preset: str, kind: str, tmp_path: Path) -> None:
    graph = written(task_model(preset, kind), tmp_path).graph
    assert names(graph.input)[2:] == (["token_type_ids"] if preset == "bert" else [])
    assert names(graph.output) == (["start_logits", "end_logits"] if kind == "spans" else ["logits"])


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="LSTM"):
        write_onnx(build(resolve(ModelSettings(preset="lstm", d_model=16, d_hidden=16), VOCABULARY)[0]), tmp_path, None)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModelError, match="the package onnxscript, which is not installed") as caught:
        write_onnx(random_model(**MODERN), tmp_path, None)
    assert caught.value.cure == 'pip install "foretell[onnx]"'
    assert not list(tmp_path.iterdir())
