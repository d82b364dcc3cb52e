"""PEFT's adapters: ours give the same logits there, theirs here; what is not supported is refused by name."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foretell.base.errors import ModelError, SettingError
from foretell.base.files import seal
from foretell.interop.huggingface import load_any
from foretell.interop.peft import CONFIG, PICKLED, WEIGHTS, adapter_base, adapter_parts, load_adapter, save_adapter
from foretell.models.adapter_settings import LoRASettings
from foretell.models.adapters import adapter_state, adapters, add_adapters, merge, pairs_of
from foretell.models.bert import BERT
from foretell.models.build import build, initialise
from foretell.models.config import TransformerConfig
from foretell.models.heads import TaskModel
from foretell.models.network import LanguageModel, Network

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

VOCAB = 53
SMALL: dict[str, Any] = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CLASSIC = SMALL | {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
LLAMA = SMALL | {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA |= {"head_dim": 4, "intermediate_size": 24, "max_position_embeddings": 16}
BERT_ = SMALL | {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
BERT_ |= {"max_position_embeddings": 16}
NEO = SMALL | {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
NEO |= {"max_position_embeddings": 16, "window_size": 4}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {  # name → config's class, model's class, config
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", CLASSIC),
    "gpt1": ("OpenAIGPTConfig", "OpenAIGPTLMHeadModel", CLASSIC),
    "gpt_neo": ("GPTNeoConfig", "GPTNeoForCausalLM", NEO),
    "llama": ("LlamaConfig", "LlamaForCausalLM", LLAMA),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", LLAMA),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", LLAMA | {"tie_word_embeddings": True}),
    "bert-classes": ("BertConfig", "BertForSequenceClassification", BERT_ | {"num_labels": 3}),
    "bert-choice": ("BertConfig", "BertForMultipleChoice", BERT_),
    "bert-masked": ("BertConfig", "BertForMaskedLM", BERT_),
    "gpt2-classes": ("GPT2Config", "GPT2ForSequenceClassification", CLASSIC | {"num_labels": 3}),
    "llama-spans": ("LlamaConfig", "LlamaForQuestionAnswering", LLAMA),
    "qwen3-tokens": ("Qwen3Config", "Qwen3ForTokenClassification", LLAMA | {"num_labels": 4}),
}
TASKS = {"classes": "SEQ_CLS", "spans": "QUESTION_ANS", "tokens": "TOKEN_CLS", "masked": None, "choice": None}
TOKENS_BT = torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Directories of transformers' models, random, made when they are asked for."""
    folder = tmp_path_factory.mktemp("bases")

    def make(name: str) -> Path:
        if not (folder / name).exists():
            config_class, model_class, values = MODELS[name]
            torch.manual_seed(2)
            model = getattr(transformers, model_class)(getattr(transformers, config_class)(**values))
            disturb(model, 0.1)
            model.save_pretrained(folder / name)
        return folder / name

    return make


def disturb(model: nn.Module, size: float, only: str = "") -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if only in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * size)


def theirs_of(base: Path) -> Any:
    return getattr(transformers, MODELS[base.name][1]).from_pretrained(base, attn_implementation="eager").eval()


@torch.no_grad()
def our_logits(model: Network | TaskModel) -> Tensor:
    if isinstance(model, LanguageModel):
        return model.logits(TOKENS_BT)
    out = model(TOKENS_BT)
    return model.masked_logits(out) if isinstance(model, BERT) else out


@torch.no_grad()
def their_logits(model: Any) -> Tensor:
    is_choice = "MultipleChoice" in model.config.architectures[0]
    out = model(input_ids=TOKENS_BT[:, None] if is_choice else TOKENS_BT)
    return torch.stack((out.start_logits, out.end_logits), -1) if "start_logits" in out else out.logits


def put_on(base: Path, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)
        return peft.PeftModel.from_pretrained(theirs_of(base), folder).eval()


def trained(base: Path, settings: LoRASettings) -> Network | TaskModel:
    model = load_any(base)
    add_adapters(model, adapter_parts(model), settings, seed=1)
    disturb(model, 0.2, "b_OR")
    disturb(model, 0.2, "task_head")
    return model


def their_adapter(base: Path, folder: Path, **options: Any) -> Any:
    """An adapter of PEFT's on a base, random, saved; the model it is on."""
    conv = base.name.startswith(("gpt2", "gpt1"))
    task = TASKS.get(base.name.partition("-")[2], "CAUSAL_LM")
    values = {"r": 3, "lora_alpha": 5, "init_lora_weights": False, "fan_in_fan_out": conv, "task_type": task, **options}
    torch.manual_seed(3)
    model = peft.get_peft_model(theirs_of(base), peft.LoraConfig(**values)).eval()
    disturb(model, 0.2, "lora_B")
    disturb(model, 0.2, "modules_to_save")
    model.save_pretrained(folder)
    return model


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize("name", MODELS)
def test_peft_opens_ours(name: str, bases: Callable[[str], Path], tmp_path: Path) -> None:
    model, settings = trained(bases(name), LoRASettings(rank=3, alpha=5.0)), LoRASettings(rank=3, alpha=5.0)
    save_adapter(tmp_path, model, settings, str(bases(name)))
    assert bool(json.loads((tmp_path / CONFIG).read_text())["modules_to_save"]) == isinstance(model, TaskModel)
    theirs, again = their_logits(put_on(bases(name), tmp_path)), load_any(bases(name))
    assert (theirs - our_logits(again)).abs().max() > 0.01
    torch.testing.assert_close(our_logits(model), theirs, atol=1e-5, rtol=0)
    assert load_adapter(tmp_path, again) == settings and adapter_base(tmp_path) == str(bases(name))
    assert torch.equal(our_logits(again), our_logits(model))
    merge(model)
    torch.testing.assert_close(our_logits(model), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_we_open_pefts(name: str, bases: Callable[[str], Path], tmp_path: Path) -> None:
    every = r".*(proj|c_\w+|dense|query|key|value)" if "-" in name else "all-linear"  # which would include some heads
    theirs = their_adapter(bases(name), tmp_path, target_modules=every)
    model = load_any(bases(name))
    before = our_logits(model)
    load_adapter(tmp_path, model)
    assert (our_logits(model) - before).abs().max() > 0.01 and not model.training
    torch.testing.assert_close(our_logits(model), their_logits(theirs), atol=1e-5, rtol=0)
    grown = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert grown == adapter_state(model).keys()
    merge(model)
    torch.testing.assert_close(our_logits(model), their_logits(theirs.merge_and_unload()), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.3},
        {"target_modules": ["q_proj", "up_proj"], "use_rslora": True, "r": 2},
        {"target_modules": r".*\.1\.self_attn\.(k|o)_proj"},
        {"target_modules": ["v_proj", "down_proj"], "layers_to_transform": [1]},
        {
            "target_modules": ["q_proj", "k_proj", "gate_proj"],
            "rank_pattern": {"q_proj": 2, "^model.layers.1.self_attn.k_proj": 5},
            "alpha_pattern": {r"0\.self_attn\.q_proj": 9, "gate_proj": 2},
        },
    ],
)
def test_any_choice_of_pefts(options: dict[str, Any], bases: Callable[[str], Path], tmp_path: Path) -> None:
    theirs = their_adapter(bases("qwen3"), tmp_path / "a", **options)
    model = load_any(bases("qwen3"))
    settings = load_adapter(tmp_path / "a", model)
    torch.testing.assert_close(our_logits(model), their_logits(theirs), atol=1e-5, rtol=0)
    assert settings.dropout == options.get("lora_dropout", 0.0) and settings.rslora == options.get("use_rslora", False)
    assert settings.rank == options.get("r", 3) and settings.alpha == 5
    count = sum(len(pairs_of(adapter)) for adapter in adapters(model).values())
    assert count == len(load_file(tmp_path / "a" / WEIGHTS)) / 2
    (tmp_path / "b").mkdir()
    save_adapter(tmp_path / "b", model, settings, "base")  # patterns and all
    torch.testing.assert_close(their_logits(put_on(bases("qwen3"), tmp_path / "b")), their_logits(theirs), atol=1e-6, rtol=0)


def test_an_adapter_of_a_body_fits_the_whole_model(bases: Callable[[str], Path], tmp_path: Path) -> None:
    body = transformers.LlamaModel.from_pretrained(bases("llama"))
    adapter = peft.get_peft_model(body, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapter.save_pretrained(tmp_path)
    assert "base_model.model.layers.0.self_attn.q_proj.lora_A.weight" in load_file(tmp_path / WEIGHTS)
    model = load_any(bases("llama"))
    load_adapter(tmp_path, model)
    expected = adapter(input_ids=TOKENS_BT).last_hidden_state
    torch.testing.assert_close(model(TOKENS_BT), expected, atol=1e-5, rtol=0)


def test_masters_are_saved_instead_and_nothing_is_overwritten(bases: Callable[[str], Path], tmp_path: Path) -> None:
    model = trained(bases("gpt2"), LoRASettings(targets=("out",)))
    save_adapter(tmp_path, model, LoRASettings(), "base", {name: value + 1 for name, value in adapter_state(model).items()})
    name = "base_model.model.transformer.h.1.attn.c_proj.lora_B.weight"
    assert torch.equal(load_file(tmp_path / WEIGHTS)[name], adapter_state(model)["blocks.1.attention.out.pairs.0.b_OR"] + 1)
    assert all(value.endswith("attn.c_proj") for value in json.loads((tmp_path / CONFIG).read_text())["target_modules"])
    with pytest.raises(SettingError, match="already exists"):
        save_adapter(tmp_path, model, LoRASettings(), "base")
    with pytest.raises(ModelError, match="has no adapters"):
        save_adapter(tmp_path / "new", load_any(bases("gpt2")), LoRASettings(), "base")
    assert not (tmp_path / "new").exists()


def test_a_layout_of_our_own_comes_back(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        **{"vocab_size": VOCAB, "context_length": 16, "n_layer": 2, "d_model": 16, "tied": True, "n_head": 2, "n_kv_head": 2},
        **{"d_head": 8, "d_ff": 32, "norm": "layernorm", "norm_eps": 1e-5, "position": "learned", "activation": "gelu_tanh"},
        **{"qkv_bias": True, "out_bias": True, "mlp_bias": True, "window": 4, "windowed_layers": (1,)},
    }
    first, second = (build(TransformerConfig(**values)) for _ in range(2))
    for model in (first, second):
        initialise(model, seed=1)
        model.eval()
    add_adapters(first, adapter_parts(first), LoRASettings(), seed=1)
    disturb(first, 0.2, "b_OR")
    save_adapter(tmp_path, first, LoRASettings(), "base")
    load_adapter(tmp_path, second)
    assert torch.equal(our_logits(first), our_logits(second))


def test_old_files_are_read_as_plain_tensors_only(bases: Callable[[str], Path], tmp_path: Path) -> None:
    theirs = their_adapter(bases("llama"), tmp_path, target_modules=["q_proj"])
    torch.save(load_file(tmp_path / WEIGHTS), tmp_path / PICKLED)
    (tmp_path / WEIGHTS).unlink()
    model = load_any(bases("llama"))
    load_adapter(tmp_path, model)
    torch.testing.assert_close(our_logits(model), their_logits(theirs), atol=1e-5, rtol=0)
    torch.save({"x": Path}, tmp_path / PICKLED)
    with pytest.raises(ModelError, match="code from data is never run"):
        load_adapter(tmp_path, load_any(bases("llama")))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("peft_type", "IA3"), ("peft_type", None), ("use_dora", True), ("lora_bias", True), ("bias", "lora_only")),
        *(("trainable_token_indices", [1]), ("init_lora_weights", "pissa"), ("layer_replication", [[0, 1]]), ("r", 0)),
        *(("target_parameters", ["w"]), ("a_new_idea", 1), ("lora_alpha", "x"), ("alpha_pattern", {"(a+)+b": 1})),
        *(("rank_pattern", {"q_proj": -1}), ("lora_dropout", 2), ("lora_alpha", float("inf"))),
    ],
)
def test_options_that_change_the_result_are_refused(option: str, value: Any, bases: Callable[[str], Path], tmp_path: Path) -> None:
    save_adapter(tmp_path, trained(bases("llama"), LoRASettings()), LoRASettings(), "base")
    rewrite(tmp_path, lambda config: config.update({option: value}))
    with pytest.raises(ModelError, match=option) as caught:
        load_adapter(tmp_path, load_any(bases("llama")))
    assert "merge" in caught.value.cure and caught.value.what.isprintable()


def drop(name: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: tensors.pop(name)


def add(name: str, shape: tuple[int, ...]) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


LAYER = "base_model.model.model.layers.1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(f"{LAYER}.self_attn.q_proj.lora_B.weight"), "layers.1.self_attn.q_proj.lora_B.weight is missing"),
        (
            lambda tensors: [drop(f"{LAYER}.mlp.up_proj.lora_{side}.weight")(tensors) for side in "AB"],
            "up_proj.lora_A.weight is missing",
        ),
        (add(f"{LAYER}.self_attn.q_proj.lora_B.weight", (16, 9)), r"q_proj.lora_B.weight has shape \[16, 9\]"),
        (add("base_model.model.model.layers.2.mlp.up_proj.lora_A.weight", (8, 16)), "1 tensors have no place.*layers.2"),
        (
            add("base_model.model.model.embed_tokens.lora_embedding_A", (8, 53)),
            "no place in this model, model.embed_tokens.lora_emb",
        ),
        (add("base_model.model.lm_head.weight", (53, 16)), "no place in this model, lm_head.weight"),
        (add("base_model.model.lm_head.lora_A.weight", (8, 16)), "no place in this model, lm_head.lora_A"),
        (add(f"{LAYER}.self_attn.q_proj.lora_B.bias", (16,)), "no place in this model, .*lora_B.bias"),
        (add("base_model.model.score.weight", (2, 16)), "no place in this model, score.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: Any, message: str, bases: Callable[[str], Path], tmp_path: Path) -> None:
    save_adapter(tmp_path, trained(bases("llama"), LoRASettings()), LoRASettings(), "base")
    tensors = load_file(tmp_path / WEIGHTS)
    change(tensors)
    save_file(tensors, tmp_path / WEIGHTS)
    model = load_any(bases("llama"))
    before = model.state_dict().keys()
    with pytest.raises(ModelError, match=message):
        load_adapter(tmp_path, model)
    assert model.state_dict().keys() == before and all(parameter.requires_grad for parameter in model.parameters())


def test_folders_without_a_whole_adapter_are_told(bases: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no adapter here"):
        adapter_base(tmp_path)
    model = trained(bases("llama"), LoRASettings(targets=("out",)))
    save_adapter(tmp_path, model, LoRASettings(), "base")
    with pytest.raises(ModelError, match="adapters already"):
        load_adapter(tmp_path, model)
    seal(tmp_path)
    rewrite(tmp_path, lambda config: config.update(base_model_name_or_path=None, target_modules=None))
    with pytest.raises(ModelError, match="does not say which model"):
        adapter_base(tmp_path)
    with pytest.raises(ModelError, match=r"not what was saved: adapter_config\.json is damaged"):
        load_adapter(tmp_path, load_any(bases("llama")))
    seal(tmp_path)
    save_file({}, tmp_path / WEIGHTS)
    (tmp_path / "digests.json").unlink()
    with pytest.raises(ModelError, match="no low-rank pairs"):
        load_adapter(tmp_path, load_any(bases("llama")))
    (tmp_path / WEIGHTS).write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="the weights cannot be read"):
        load_adapter(tmp_path, load_any(bases("llama")))
