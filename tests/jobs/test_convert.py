"""`foretell import` and `foretell export`: every format in and out, proven by outputs; nothing is left of what fails."""

import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from foretell.base.console import Terminal
from foretell.cli.main import main
from foretell.interop.huggingface import find_tokenizer, load_any, load_model, save_model
from foretell.interop.verify import outputs, require_same
from foretell.jobs.convert import export_model, import_model
from foretell.models.build import build, initialise
from foretell.models.heads import HeadConfig, TaskModel, initialise_head
from foretell.models.network import Network
from foretell.models.settings import ModelSettings, resolve
from foretell.tokenizers.bpe import train_bpe
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.conversation import DEFAULT_TEMPLATE
from foretell.tokenizers.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")
TOKENS = torch.arange(2, 26)[None]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["the cat sat on the mat, and the dog sat on the log. " * 20], TokenizerSettings(vocab_size=270))


def quiet() -> Terminal:
    return Terminal(quiet=True)


def random_network(preset: str, tokenizer: Tokenizer, **settings: Any) -> Network:
    sizes = {"n_layer": 2, "d_model": 64, "context_length": 32} | ({} if preset == "lstm" else {"n_head": 4})
    network = build(resolve(ModelSettings(preset=preset, **{**sizes, **settings}), tokenizer.vocab_size)[0])
    initialise(network, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return network.eval()


def saved(folder: Path, preset: str, tokenizer: Tokenizer, **settings: Any) -> Path:
    folder.mkdir(parents=True)
    save_model(folder, random_network(preset, tokenizer, **settings), tokenizer)
    return folder


def said(model: Network | TaskModel | Path) -> torch.Tensor:
    """All outputs of a model, in one row."""
    values = outputs(load_any(model) if isinstance(model, Path) else model, TOKENS)
    return torch.cat([values[name].reshape(-1) for name in sorted(values)])


def same(first: Path, second: Path, limit: float = 0.0) -> bool:
    return float((said(first) - said(second)).abs().max()) <= limit


@pytest.mark.parametrize("preset", ["gpt1", "gpt2", "llama", "modern", "bert"])
def test_a_hugging_face_directory_comes_in_as_it_is(preset: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = saved(tmp_path / "source", preset, tokenizer)
    result = import_model(str(source), tmp_path / "model", quiet())
    assert result["format"] == "Hugging Face directory" and "difference 0 " in result["difference"]
    assert (tmp_path / "model/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert same(source, tmp_path / "model")
    assert json.loads((tmp_path / "model/foretell.json").read_text())["imported"]["source"] == "source"


def test_old_names_and_pickles_come_in_clean(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = saved(tmp_path / "source", "gpt2", tokenizer)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(source / "model.safetensors").items()}
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 32, 32), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / "pytorch_model.bin")
    import_model(str(source), tmp_path / "model", quiet())
    assert not list((tmp_path / "model").glob("*.bin"))
    assert said(tmp_path / "model").equal(said(random_network("gpt2", tokenizer)))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert (theirs(TOKENS).logits.view(-1) - said(tmp_path / "model")).abs().max() < 1e-5


def test_berts_old_names(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source, changed = saved(tmp_path / "source", "bert", tokenizer), {}
    for name, tensor in load_file(source / "model.safetensors").items():
        changed[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    changed["bert.embeddings.position_ids"] = torch.arange(32)[None]
    (tmp_path / "old").mkdir()
    save_file(changed, tmp_path / "old" / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(source / "config.json", tmp_path / "old" / "config.json")
    assert same(source, tmp_path / "old")


def test_double_heads_with_only_the_heads_matrix(tmp_path: Path) -> None:
    config = transformers.OpenAIGPTConfig(vocab_size=60, n_positions=32, n_embd=32, n_layer=1, n_head=2)
    theirs = transformers.OpenAIGPTDoubleHeadsModel(config).eval()
    theirs.save_pretrained(tmp_path)
    assert "transformer.tokens_embed.weight" not in load_file(tmp_path / "model.safetensors")
    model = load_any(tmp_path)
    assert isinstance(model, TaskModel) and model.head_config.kind == "choice"


@pytest.mark.parametrize("kind", ["classes", "regression", "reward", "choice", "tokens", "spans"])
@pytest.mark.parametrize("preset", ["gpt2", "modern", "bert"])
def test_task_heads_go_through(preset: str, kind: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    bias = preset == "bert" or kind in ("tokens", "spans", "choice")
    model = TaskModel(random_network(preset, tokenizer, tied=True), HeadConfig(kind=kind, n_labels=3, bias=bias)).eval()
    initialise_head(model, seed=3)
    if preset == "modern" and kind == "choice":
        tmp_path.joinpath("m").mkdir()
        save_model(tmp_path / "m", model, tokenizer)  # transformers has no class for it: Foretell's own words
        assert json.loads((tmp_path / "m/config.json").read_text())["model_type"] == "foretell"
    else:
        tmp_path.joinpath("m").mkdir()
        save_model(tmp_path / "m", model, tokenizer)
    again = load_any(tmp_path / "m")
    assert isinstance(again, TaskModel) and again.head_config.kind == kind
    assert (said(again) - said(model)).abs().max() < 1e-6


def test_gpt1s_release(tokenizer: Tokenizer, tmp_path: Path) -> None:
    width, context, rows = 64, 16, 90
    layer = [[1, width, 3 * width], [3 * width], [1, width, width], [width], [width], [width]]
    layer += [[1, width, 4 * width], [4 * width], [1, 4 * width, width], [width], [width], [width]]
    shapes = [[context, width], [rows, width], *layer, *layer]
    flat = np.random.default_rng(0).normal(size=sum(int(np.prod(shape)) for shape in shapes)).astype(np.float32) * 0.05
    source = tmp_path / "release"
    source.mkdir()
    (source / "params_shapes.json").write_text(json.dumps(shapes))
    for number, piece in enumerate(np.array_split(flat, 10)):
        np.save(source / f"params_{number}.npy", piece)
    result = import_model(str(source), tmp_path / "model", quiet())
    assert result["format"] == "OpenAI's GPT-1 release" and result["parameters"] == len(flat)
    theirs = transformers.OpenAIGPTLMHeadModel.from_pretrained(tmp_path / "model").eval()
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert (theirs(tokens).logits - outputs(load_any(tmp_path / "model"), tokens)["logits"]).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("preset", ["modern", "llama", "qwen2", "gpt2"])
def test_gguf_there_and_back(preset: str, dtype: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = saved(tmp_path / "source", preset, tokenizer.with_chat_template(DEFAULT_TEMPLATE))
    result = export_model(source, "gguf", tmp_path / "model.gguf", quiet(), dtype=dtype)
    assert result["bytes"] == (tmp_path / "model.gguf").stat().st_size
    import_model(str(tmp_path / "model.gguf"), tmp_path / "model", quiet())
    assert same(source, tmp_path / "model", {"f32": 1e-6, "f16": 0.02, "bf16": 0.15, "q8_0": 0.1}[dtype])
    back = Tokenizer.load(tmp_path / "model")
    assert back.encode("the cat sat on a log") == tokenizer.encode("the cat sat on a log")
    assert back.chat_template == DEFAULT_TEMPLATE and back.end_of_text == tokenizer.end_of_text


def test_export_to_hugging_face_in_shards(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = saved(tmp_path / "source", "modern", tokenizer)
    result = export_model(source, "hf", tmp_path / "bf16", quiet(), dtype="bf16", shard_bytes=60_000)
    assert "in transformers" in result["difference"]
    assert len(list((tmp_path / "bf16").glob("model-*-of-*.safetensors"))) > 1
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "bf16")
    assert theirs.dtype == torch.bfloat16
    export_model(tmp_path / "bf16", "hf", tmp_path / "again", quiet())  # as stored: bf16
    assert json.loads((tmp_path / "again/config.json").read_text())["dtype"] == "bfloat16"
    assert same(tmp_path / "bf16", tmp_path / "again")


def test_what_transformers_cannot_compute_is_not_exported(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for preset, settings in (("lstm", {"d_hidden": 24}), ("gpt3", {"window": 4})):
        source = saved(tmp_path / preset, preset, tokenizer, **settings)
        assert same(source, source) and load_model(source).config.n_layer == 2
        refused(lambda source=source: export_model(source, "hf", tmp_path / "out", quiet()), "no class")
        refused(lambda source=source: export_model(source, "gguf", tmp_path / "out.gguf", quiet()), "foretell")
        with pytest.raises(ValueError, match="foretell"):
            transformers.AutoConfig.from_pretrained(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpt3", "lstm"]


def refused(action: Callable[[], object], *words: str) -> None:
    from foretell.base.errors import ForetellError

    with pytest.raises(ForetellError) as caught:
        action()
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


def edit(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def without(folder: Path, *names: str, more: dict[str, torch.Tensor] | None = None) -> Path:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor.clone() for name, tensor in tensors.items() if name not in names} | (more or {})
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


BAD: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "tensor missing": (lambda f: without(f, "transformer.h.1.ln_2.weight"), ("transformer.h.1.ln_2.weight is missing", "nearest")),
    "tensor too many": (
        lambda f: without(f, more={"transformer.h.2.ln_1.weight": torch.ones(64)}),
        ("h.2.ln_1.weight", "no place", "nearest"),
    ),
    "wrong shape": (
        lambda f: without(f, more={"transformer.wpe.weight": torch.ones(5, 64)}),
        ("wpe.weight", "[5, 64]", "[32, 64]"),
    ),
    "unknown architecture": (lambda f: edit(f, model_type="mamba"), ("'mamba'", "gpt2", "qwen3", "bert")),
    "heads": (lambda f: edit(f, n_head=5), ("n_head = 5 does not divide d_model = 64",)),
    "activation": (lambda f: edit(f, activation_function="mish"), ("mish", "gelu_new")),
    "scaling": (lambda f: edit(f, scale_attn_by_inverse_layer_idx=True), ("scale_attn_by_inverse_layer_idx",)),
    "a word lost": (lambda f: edit(f, n_embd=None), ("n_embd" if False else "d_model",)),
    "nonsense": (lambda f: edit(f, n_layer="many"), ("config.json",)),
    "truncated": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]),
        ("cannot be read",),
    ),
    "twice": (lambda f: without(f, more={"wpe.weight": torch.ones(32, 64)}), ("wpe.weight", "one and the same")),
    "layers": (lambda f: edit(f, n_layer=20_000), ("n_layer", "10000")),
    "more layers": (lambda f: edit(f, n_layer=3), ("3 layers", "hold 2")),
    "absurd": (lambda f: edit(f, n_embd=10**400), ("config.json",)),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ("weights are missing",)),
    "not finite": (lambda f: without(f, more={"transformer.ln_f.bias": torch.full((64,), float("nan"))}), ("not finite",)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_directories_are_refused_by_name(
    name: str, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, words = BAD[name]
    source = saved(tmp_path / "source", "gpt2", tokenizer)
    spoil(source)
    assert main(["import", str(source), "--out", str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().err.strip().splitlines()[-3:]
    assert [line.split(":")[0].strip() for line in lines] == ["error", "where", "try"]
    assert all(word in "\n".join(lines) for word in words), lines
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_tied_head_that_differs_is_kept(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = saved(tmp_path / "source", "gpt2", tokenizer)
    without(source, more={"lm_head.weight": torch.randn(270, 64)})
    with pytest.warns(UserWarning, match="differ"):
        ours = said(source)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source, tie_word_embeddings=False)
    with torch.no_grad():
        assert (theirs(TOKENS).logits.view(-1) - ours).abs().max() < 1e-4  # of values up to 30


def test_a_claimed_context_costs_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = edit(saved(tmp_path / "source", "modern", tokenizer), max_position_embeddings=2**31 - 1)
    model = load_model(source)
    assert said(model).isfinite().all() and model.get_buffer("rotation_2TK").shape[1] < 100


@pytest.mark.parametrize("change", ["nan", "pooler", "regression"])
def test_what_is_not_the_same_is_not_passed(change: str, tokenizer: Tokenizer) -> None:
    network = random_network("bert", tokenizer)
    model = TaskModel(network, HeadConfig(kind="regression")) if change == "regression" else network
    before = outputs(model, TOKENS)
    after = {name: values.clone() for name, values in before.items()}
    name = {"nan": "prediction_logits", "pooler": "seq_relationship_logits", "regression": "logits"}[change]
    after[name] = after[name] * float("nan") if change == "nan" else after[name] + 900
    for exact in (True, False):
        refused(lambda exact=exact: require_same(before, after, exact=exact, where="here"), "does not say the same")


def test_files_of_older_tokenizers(data_folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name, files in (("gpt2", ("encoder.json", "vocab.bpe")), ("gpt1", ("encoder_bpe_40000.json", "vocab_40000.bpe"))):
        (tmp_path / name).mkdir()
        for ours, theirs in zip(files, ("vocab.json", "merges.txt"), strict=True):
            shutil.copyfile(data_folder / "tokenizers" / name / ours, tmp_path / name / theirs)
        found = find_tokenizer(tmp_path / name)
        assert found is not None and found.kind == ("bpe" if name == "gpt2" else "gpt1")
        kind = transformers.GPT2Tokenizer if name == "gpt2" else transformers.OpenAIGPTTokenizer
        assert found.encode("Hello, it's a new café.") == kind.from_pretrained(tmp_path / name)("Hello, it's a new café.").input_ids


def test_missing_shard_and_foreign_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = saved(tmp_path / "source", "gpt2", tokenizer)
    export_model(source, "hf", tmp_path / "sharded", quiet(), shard_bytes=60_000)
    sorted((tmp_path / "sharded").glob("model-*.safetensors"))[1].unlink()
    refused(lambda: import_model(str(tmp_path / "sharded"), tmp_path / "out", quiet()), "missing", "model-00002")
    larger = train_bpe(["other words in here, quite other ones, and more of them " * 20], TokenizerSettings(vocab_size=280))
    larger.save(source)
    refused(lambda: import_model(str(source), tmp_path / "out", quiet()), "280 tokens", "270 rows")
    assert not (tmp_path / "out").exists()


def test_code_from_data_never_runs(tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = edit(saved(tmp_path / "source", "gpt2", tokenizer), auto_map={"AutoModel": "evil.Model"})
    (source / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["import", str(source), "--out", str(tmp_path / "model")]) == 0
    assert "warning: " in (told := capsys.readouterr().err) and "auto_map" in told
    assert not (tmp_path / "model" / "evil.py").exists() and "auto_map" not in (tmp_path / "model/config.json").read_text()

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "ran"), "w"))

    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(pickle.dumps({"transformer.wte.weight": Evil()}))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["import", str(source), "--out", str(tmp_path / "other")]) == 1
    assert "error" in capsys.readouterr().err and not (tmp_path / "ran").exists() and not (tmp_path / "other").exists()


def test_sources_that_are_no_models(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.bin").write_bytes(b"nothing of the kind")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\x7f")
    for name, word in (
        ("empty", "no model"),
        ("file.bin", "no model"),
        ("cut.gguf", "damaged or was cut off"),
        ("nowhere at all", "hub"),
    ):
        path = tmp_path / name if name != "nowhere at all" else Path(name)
        refused(lambda path=path: import_model(str(path), tmp_path / "out", quiet()), word)
    source = saved(tmp_path / "source", "modern", tokenizer)
    refused(lambda: export_model(source, "hf", tmp_path / "out", quiet(), dtype="q8_0"), "q8_0")
    refused(lambda: export_model(tmp_path / "nowhere", "hf", tmp_path / "out", quiet()), "nowhere")
    refused(lambda: export_model(source, "hf", source, quiet()), "exists")
    assert not (tmp_path / "out").exists()


def test_an_export_carries_what_our_words_do_not_hold(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = TaskModel(random_network("gpt2", tokenizer), HeadConfig(kind="classes", bias=False, labels=("bad", "good"))).eval()
    initialise_head(model, seed=3)
    (tmp_path / "m").mkdir()
    save_model(tmp_path / "m", model, tokenizer)
    edit(tmp_path / "m", pad_token_id=7, problem_type="multi_label_classification", torch_dtype="bfloat16")  # though stored in fp32
    (tmp_path / "m" / "generation_config.json").write_text('{"eos_token_id": [3, 5], "do_sample": true}')
    export_model(tmp_path / "m", "hf", tmp_path / "out", quiet())
    raw = json.loads((tmp_path / "out/config.json").read_text())
    assert (raw["pad_token_id"], raw["problem_type"], raw["dtype"]) == (7, "multi_label_classification", "float32")
    assert raw["id2label"] == {"0": "bad", "1": "good"}
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"] == [3, 5]


def test_texts_begin_and_end_as_the_model_expects(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from foretell.generation.config import GenerationSettings
    from foretell.generation.engine import Engine
    from foretell.interop.huggingface import open_model

    source = saved(tmp_path / "source", "modern", tokenizer)
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": True}))
    engine = Engine(*open_model(source))
    assert engine.encode_prompt("the cat") == [tokenizer.end_of_text, *tokenizer.encode("the cat")]
    greedy = GenerationSettings(strategy="greedy", max_tokens=8)
    second = engine.complete("the cat", greedy).tokens[1]
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [tokenizer.end_of_text, second]}))
    ended = Engine(*open_model(source)).complete("the cat", greedy)
    assert ended.tokens[-1] == second and ended.finish_reason == "end_of_text" and len(ended.tokens) == 2


def test_gguf_refuses_what_llama_cpp_would_compute_otherwise(tokenizer: Tokenizer, tmp_path: Path) -> None:
    windowed = edit(saved(tmp_path / "a", "llama", tokenizer), model_type="mistral", sliding_window=8)
    biased = saved(tmp_path / "b", "modern", tokenizer, qkv_bias=True, out_bias=True)
    refused(lambda: export_model(windowed, "gguf", tmp_path / "a.gguf", quiet()), "last 8", "hf")
    refused(lambda: export_model(biased, "gguf", tmp_path / "b.gguf", quiet()), "biases")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("preset", "architecture", "task", "targets"),
    [
        ("llama", "LlamaForCausalLM", "CAUSAL_LM", ["q_proj", "v_proj"]),
        ("llama", "LlamaForSequenceClassification", "SEQ_CLS", ["q_proj", "down_proj"]),
        ("gpt2", "GPT2ForTokenClassification", "TOKEN_CLS", ["c_attn"]),
        ("bert", "BertForSequenceClassification", "SEQ_CLS", ["query", "value"]),
    ],
)
def test_an_adapter_is_merged_into_its_base(
    preset: str, architecture: str, task: str, targets: list[str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    base = saved(tmp_path / "base", preset, tokenizer)
    words = {} if task == "CAUSAL_LM" else {"num_labels": 3}
    theirs = getattr(transformers, architecture).from_pretrained(base, attn_implementation="eager", **words)
    torch.manual_seed(8)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type=task, init_lora_weights=False)
    theirs = peft.get_peft_model(theirs, config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    result = import_model(str(tmp_path / "adapter"), tmp_path / "model", quiet(), base=str(base))
    assert result["format"] == "PEFT adapter"
    with torch.no_grad():
        expected = theirs(input_ids=TOKENS).logits
    assert (outputs(load_any(tmp_path / "model"), TOKENS)["logits"] - expected).abs().max() <= 1e-5
