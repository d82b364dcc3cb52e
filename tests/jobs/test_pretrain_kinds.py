"""Every kind of network is pretrained by the same job: finishes, learns, continues bit for bit, opens where it should."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import StopAt, quiet

from foretell.base.errors import Interrupted, ModelError, SettingError
from foretell.base.files import digest
from foretell.base.runs import read_lines
from foretell.corpus.config import CorpusSettings
from foretell.data.config import DataSettings
from foretell.data.corruption import MaskedBatches, held_out_masked
from foretell.data.shards import ShardReader
from foretell.data.streams import StreamBatches
from foretell.interop.huggingface import load_model, open_model
from foretell.jobs.corpus import build_corpus
from foretell.jobs.feed import masking
from foretell.jobs.pretrain import pretrain
from foretell.jobs.recipe import Recipe
from foretell.jobs.shards import build_shards
from foretell.jobs.tokenizer import train_tokenizer
from foretell.models.bert import BERT
from foretell.models.gpt import GPT
from foretell.models.lstm import LSTM
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.tokenizer import Tokenizer
from foretell.training.checkpoint import checkpoints

TRAINING = {
    "steps": 14, "micro_batch": 24, "batch_tokens": 1024, "checkpoint_every": 4, "evaluate_every": 7, "sample_every": 7,
    "log_every": 1, "threads": 1, "tensorboard": False, "precision": "fp32",
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "gpt1": {"preset": "gpt1", "n_layer": 1, "d_model": 32, "n_head": 2},
    "gpt1-faithful": {"preset": "gpt1", "n_layer": 1, "d_model": 32, "n_head": 2, "faithful": True},
    "gpt3": {"preset": "gpt3", "n_layer": 2, "d_model": 32, "n_head": 2, "window": 16},
    "lstm": {"preset": "lstm", "d_model": 32, "d_hidden": 48},
    "bert": {"preset": "bert", "n_layer": 1, "d_model": 32, "n_head": 2},
}
KINDS = {"gpt1": GPT, "gpt1-faithful": GPT, "gpt3": GPT, "lstm": LSTM, "bert": BERT}
ROWS = 94  # the LSTM's streams
Run = Callable[[str], Path]


def recipe_of(name: str, shards: Path, **changes: Any) -> Recipe:
    """Tiny, with what a resume could miss: dropout, accumulation in unequal pieces, the end of an epoch."""
    sections: dict[str, Any] = {
        "data": {"shards": shards},
        "model": {"context_length": 32, "dropout": 0.1, **MODELS[name]},
        "training": {**TRAINING, "batch_tokens": ROWS * 32} if name == "lstm" else TRAINING,
        "optimizer": {"learning_rate": 1e-2},
        "schedule": {"warmup_steps": 2},
        "evaluation": {"windows": 24},
    }
    return Recipe.model_validate({name: {**values, **changes.get(name, {})} for name, values in sections.items()})


@pytest.fixture(scope="module")
def pieces_folder(shards_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the same prose in WordPiece."""
    folder, settings = tmp_path_factory.mktemp("pieces"), TokenizerSettings(kind="wordpiece", vocab_size=400)
    build_corpus([str(shards_folder.parent / "text")], folder / "corpus", CorpusSettings(), quiet())
    train_tokenizer(folder / "corpus", folder / "tokenizer", settings, quiet())
    build_shards(folder / "corpus", folder / "tokenizer", folder / "shards", DataSettings(held_out=0.1), quiet())
    return folder / "shards"


@pytest.fixture(scope="module")
def shards_of(request: pytest.FixtureRequest) -> Run:
    return lambda name: request.getfixturevalue("pieces_folder" if name == "bert" else "shards_folder")


@pytest.fixture(scope="module")
def finished(shards_of: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of each kind, trained once."""
    runs = dict[str, Path]()

    def run(name: str) -> Path:
        if name not in runs:
            runs[name] = tmp_path_factory.mktemp("kinds") / name
            pretrain(recipe_of(name, shards_of(name)), runs[name], quiet())
        return runs[name]

    return run


@pytest.mark.parametrize("name", MODELS)
def test_a_run_finishes_and_learns(finished: Run, name: str) -> None:
    run = finished(name)
    metrics = read_lines(run / "metrics.jsonl")
    assert metrics[-1]["step"] == 14 and metrics[-1]["tokens"] == 14 * (ROWS * 32 if name == "lstm" else 1024)
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.2
    held_out = [record["held_out_loss"] for record in metrics if "held_out_loss" in record]
    assert len(held_out) == 2 and held_out[1] < held_out[0]
    model = load_model(run / "model")
    assert type(model) is KINDS[name] and model.config.context_length == 32
    scores = json.loads((run / "evaluation.json").read_text())["metrics"]
    assert scores["held_out_loss"]["low"] < scores["held_out_loss"]["value"] < scores["held_out_loss"]["high"]
    assert ("held_out_bits_per_byte" in scores) == (name != "bert")
    assert (run / "samples.jsonl").exists() == (name != "bert")
    assert "<svg" in (run / "report.html").read_text() and "loss" in (run / "model" / "README.md").read_text()


@pytest.mark.parametrize(("name", "step"), [("gpt3", 5), ("lstm", 7), ("bert", 5)])
def test_stopped_and_resumed_is_bit_for_bit_the_same(finished: Run, shards_of: Run, tmp_path: Path, name: str, step: int) -> None:
    with pytest.raises(Interrupted, match=f"after step {step}"):
        pretrain(recipe_of(name, shards_of(name)), tmp_path / "run", quiet(), extra=(StopAt(step),))
    assert checkpoints(tmp_path / "run" / "checkpoints")[-1].name == f"step-{step:08d}"
    pretrain(recipe_of(name, shards_of(name)), tmp_path / "run", quiet(), resume=())
    for path in ("model/model.safetensors", "checkpoints/step-00000014/optimizer.safetensors", "evaluation.json"):
        assert digest(tmp_path / "run" / path) == digest(finished(name) / path)
    told = [[(r["step"], r["loss"]) for r in read_lines(run / "metrics.jsonl")] for run in (tmp_path / "run", finished(name))]
    assert told[0] == told[1]


def test_the_lstms_run_passes_the_end_of_an_epoch(shards_folder: Path) -> None:
    """Between the stop at 7 and the end at 14, so that a state is carried, saved and thrown away."""
    streams = StreamBatches(ShardReader(shards_folder).train, 1, 32, ROWS)
    assert 7 < streams.steps < 14


def test_an_lstm_learns_from_what_it_carries(finished: Run, shards_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Were the state thrown away at every step, the losses would be others from the second step on."""
    whole = finished("lstm")  # made before anything is changed, whichever test runs first
    monkeypatch.setattr(StreamBatches, "starts", lambda self, step: True)
    pretrain(recipe_of("lstm", shards_folder, training={"steps": 3}), tmp_path / "run", quiet())
    forgetful, carried = ([record["loss"] for record in read_lines(run / "metrics.jsonl")] for run in (tmp_path / "run", whole))
    assert forgetful[0] == carried[0] and forgetful[1] != carried[1]


@pytest.mark.parametrize("name", ["gpt3", "lstm", "gpt1-faithful"])
def test_what_transformers_cannot_compute_it_refuses_and_we_open(finished: Run, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    folder = finished(name) / "model"
    assert json.loads((folder / "config.json").read_text())["model_type"] == "foretell"
    with pytest.raises(ValueError, match=r"foretell.*does not recognize this architecture|does not recognize.*foretell"):
        transformers.AutoModelForCausalLM.from_pretrained(folder)
    model, tokenizer = open_model(folder)
    assert model.config.vocab_size == tokenizer.vocab_size == 512


def test_transformers_opens_gpt1(finished: Run) -> None:
    transformers = pytest.importorskip("transformers")
    folder = finished("gpt1") / "model"
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["OpenAIGPTLMHeadModel"]
    theirs = transformers.OpenAIGPTLMHeadModel.from_pretrained(folder).eval()
    tokens = torch.randint(0, 512, (2, 32), generator=torch.Generator().manual_seed(1))
    model, tokenizer = open_model(folder)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(tokens), theirs(tokens).logits, rtol=0, atol=1e-4)
    assert transformers.AutoTokenizer.from_pretrained(folder)("Return the")["input_ids"] == tokenizer.encode("Return the")


def test_transformers_opens_bert(finished: Run, pieces_folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder, shards = finished("bert") / "model", ShardReader(pieces_folder)
    theirs, told = transformers.BertForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model, tokenizer = load_model(folder), Tokenizer.load(folder)
    assert isinstance(model, BERT)
    batch = next(held_out_masked(shards.held_out, 32, masking(DataSettings(), tokenizer, True), limit_windows=4))
    keep = torch.ones_like(batch.tokens_BT) if batch.keep_BT is None else batch.keep_BT.long()
    with torch.no_grad():
        hidden = model(batch.tokens_BT, batch.segments_BT, batch.keep_BT)
        found = theirs.eval()(batch.tokens_BT, token_type_ids=batch.segments_BT, attention_mask=keep)
        torch.testing.assert_close(model.masked_logits(hidden), found.prediction_logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(model.next_sentence_logits(hidden), found.seq_relationship_logits, rtol=0, atol=1e-4)
    pair = transformers.AutoTokenizer.from_pretrained(folder)("Return the", "value of")
    ours = [tokenizer.role("cls"), *tokenizer.encode("Return the"), tokenizer.role("sep"), *tokenizer.encode("value of")]
    assert pair["input_ids"] == [*ours, tokenizer.role("sep")]
    with pytest.raises(ModelError, match="this is an encoder"):
        open_model(folder)


def test_berts_evaluation_is_of_all_hidden_tokens_and_pairs(finished: Run, pieces_folder: Path) -> None:
    scores = json.loads((finished("bert") / "evaluation.json").read_text())["metrics"]
    assert set(scores) == {"held_out_loss", "held_out_masked_accuracy", "held_out_next_sentence_accuracy"}
    shards = ShardReader(pieces_folder)
    hidden = masking(DataSettings(), shards.tokenizer(), True)
    weights = [batch.weight_BT for batch in held_out_masked(shards.held_out, 32, hidden)]
    assert scores["held_out_loss"]["n"] == sum(int(weight.sum()) for weight in weights)
    assert scores["held_out_next_sentence_accuracy"]["n"] == sum(len(weight) for weight in weights)
    assert 0 < scores["held_out_masked_accuracy"]["value"] < 1
    assert "15% of the tokens hidden" in scores["held_out_loss"]["protocol"]


def test_bert_without_pairs(pieces_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of("bert", pieces_folder, training={"steps": 2}, data={"next_sentence": False, "whole_word": True})
    result = pretrain(recipe, tmp_path / "run", quiet())
    assert "next_sentence_accuracy" not in result["held_out"] and result["held_out"]["masked_tokens"] > 0
    shards = ShardReader(pieces_folder)
    hidden = masking(recipe.data, shards.tokenizer(), True)
    assert MaskedBatches(shards.train, 1, 32, hidden).batch(0, 1).next_B is None and hidden.continues_V is not None
    vocabulary = json.loads((tmp_path / "run" / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    marked = {token for piece, token in vocabulary.items() if piece.startswith("##")}
    assert {token for token in range(5, 400) if hidden.continues_V[token]} == marked and len(marked) > 50


def test_a_tokenizer_without_masks_is_refused_before_anything_is_written(shards_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the tokenizer has no cls and no sep and no mask token") as caught:
        pretrain(recipe_of("bert", shards_folder), tmp_path / "run", quiet())
    assert "--kind wordpiece" in (caught.value.cure or "") and not (tmp_path / "run").exists()


def test_a_preset_is_fixed_for_a_run(finished: Run, shards_folder: Path) -> None:
    with pytest.raises(SettingError, match=r"model.preset was lstm .* cannot become gpt1"):
        pretrain(recipe_of("lstm", shards_folder), finished("lstm"), quiet(), resume=["model.preset=gpt1"])


def test_a_model_of_characters(shards_folder: Path, tmp_path: Path) -> None:
    corpus, settings = shards_folder.parent / "corpus", TokenizerSettings(kind="char", vocab_size=200)
    train_tokenizer(corpus, tmp_path / "tokenizer", settings, quiet())
    build_shards(corpus, tmp_path / "tokenizer", tmp_path / "shards", DataSettings(held_out=0.1), quiet())
    pretrain(recipe_of("gpt1", tmp_path / "shards"), tmp_path / "run", quiet())
    model, tokenizer = open_model(tmp_path / "run" / "model")
    assert tokenizer.kind == "char" and model.config.vocab_size == tokenizer.vocab_size < 257
    assert 'kind = "char"' in (tmp_path / "run" / "recipe.toml").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about its own insides
@pytest.mark.parametrize("name", ["gpt1-faithful", "lstm", "bert"])
def test_compiled_training_learns_as_eager_does(finished: Run, shards_of: Run, tmp_path: Path, name: str) -> None:
    changes: dict[str, Any] = {"model": {"dropout": 0.0}, "training": {"compile": True, "steps": 4}}
    for compiled in (True, False):
        changes["training"]["compile"] = compiled
        pretrain(recipe_of(name, shards_of(name), **changes), tmp_path / str(compiled), quiet())
    losses = [[line["loss"] for line in read_lines(tmp_path / str(compiled) / "metrics.jsonl")] for compiled in (True, False)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
