"""`foretell generate` and `foretell evaluate` as a user calls them, on a tiny model."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import foretell as ft
from foretell.cli.main import main
from foretell.data.shards import ShardReader
from foretell.interop.huggingface import save_model
from foretell.models.build import initialise
from foretell.models.gpt import GPT
from foretell.models.settings import ModelSettings, resolve

CONTEXT = 48


@pytest.fixture(scope="module")
def model(shards_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = ShardReader(shards_folder).tokenizer()
    network = GPT(resolve(ModelSettings(n_layer=1, d_model=32, n_head=2, context_length=CONTEXT), tokenizer.vocab_size)[0])
    initialise(network, seed=1)
    with torch.no_grad():  # a new model knows nothing: make it prefer some tokens
        network.head.weight.mul_(20.0)
    folder = tmp_path_factory.mktemp("models") / "a model"
    folder.mkdir()
    save_model(folder, network, tokenizer)
    return folder


Call = Any


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command with --json; its exit code, result and standard error."""

    def run(*words: object) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = main([*map(str, words), "--json"])
        told = capsys.readouterr()
        return code, json.loads(told.out) if told.out else None, told.err

    return run


def generated(call: Call, *words: object) -> dict[str, Any]:
    code, result, told = call("generate", *words)
    assert code == 0, told
    (completion,) = result["completions"]
    return completion


def refused(call: Call, *words: object) -> tuple[int, list[str]]:
    code, result, told = call(*words)
    assert result is None
    lines = told.splitlines()
    assert [line[:7] for line in lines] == ["error: ", "where: ", "  try: "], told
    return code, lines


def test_a_seed_repeats_the_text_and_is_told(model: Path, call: Call) -> None:
    words = (model, "--prompt", "Return the", "--max-tokens", 12, "--temperature", 1.5)
    first = generated(call, *words, "--seed", 3)
    assert first["seed"] == 3 and first["prompt"] == "Return the" and len(first["tokens"]) == 12
    assert generated(call, *words, "--seed", 3) == first
    assert generated(call, *words, "--seed", 4)["tokens"] != first["tokens"]
    code, result, told = call("generate", *words)
    new = result["completions"][0]
    assert code == 0 and f"(--seed {new['seed']} writes this again)" in told
    assert generated(call, *words, "--seed", new["seed"]) == new


def test_greedy_takes_the_likeliest_and_needs_no_seed(model: Path, call: Call) -> None:
    completion = generated(call, model, "--prompt", "Return", "--strategy", "greedy", "--max-tokens", 5, "--explain")
    assert completion["seed"] is None and completion["finish_reason"] == "length"
    for token in completion["tokens"]:
        assert token["token"] == token["alternatives"][0]["token"] and len(token["alternatives"]) == 5
    ours = ft.load(model).generate("Return", strategy="greedy", max_tokens=5)
    assert (ours.text, ours.tokens) == (completion["text"], [token["token"] for token in completion["tokens"]])


def test_text_ends_before_a_stop_string(model: Path, call: Call) -> None:
    words = (model, "--prompt", "The", "--strategy", "greedy", "--max-tokens", 20)
    whole = generated(call, *words)["text"]
    stop = whole[4:7]
    stopped = generated(call, *words, "--stop", "never written", "--stop", stop)
    assert stopped["text"] == whole[: whole.index(stop)] and stopped["finish_reason"] == "stop"


def test_explain_prints_bars_and_the_whole_text(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(model), "--prompt", "Return", "--explain", "--max-tokens", "3", "--strategy", "greedy"]) == 0
    told = capsys.readouterr().out
    assert told.count("→") == 3 and "█" in told
    assert "\nReturn" in told and "3 tokens; ended: enough tokens" in told


def test_plain_output_is_prompt_and_text(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(model), "--prompt", "[b]Return", "--max-tokens", "3", "--strategy", "greedy"]) == 0
    assert capsys.readouterr().out.startswith(
        "[b]Return" + ft.load(model).generate("[b]Return", strategy="greedy", max_tokens=3).text
    )


def test_prompts_from_a_file_or_standard_input(model: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my prompts.txt").write_text("Return the\n\nThe value\n", encoding="utf-8")
    words = ("generate", model, "--max-tokens", 2, "--seed", 1, "--input")
    code, result, _ = call(*words, tmp_path / "my prompts.txt")
    assert code == 0 and [completion["prompt"] for completion in result["completions"]] == ["Return the", "The value"]
    monkeypatch.setattr("sys.stdin", io.StringIO("Return the\nThe value\n"))
    assert call(*words, "-")[1] == result


def test_without_a_prompt_the_model_begins_by_itself(model: Path, call: Call) -> None:
    assert generated(call, model, "--max-tokens", 2)["prompt"] == ""


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--prompt", "value " * 100], 2, rf"the prompt has \d+ tokens, the model's context holds {CONTEXT}"),
        (["--input", "no such file"], 2, "there is no such file"),
        (["--input", "/dev/null", "--prompt", "x"], 2, "not allowed with"),
        (["--stop", ""], 2, "stop"),
        (["--temperature", "0"], 2, "temperature = 0 is not possible"),
        (["--strategy", "beam"], 2, "strategy = 'beam' is not possible"),
        (["--max-tokens", "many"], 2, "max_tokens = 'many' is not possible"),
    ],
)
def test_what_cannot_be_generated_is_refused(model: Path, call: Call, words: list[str], code: int, told: str) -> None:
    import re

    found, lines = refused(call, "generate", model, *words)
    assert found == code and re.search(told, lines[0]), lines


def test_one_prompt_that_is_too_long_stops_before_any_output(model: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text("short\n" + "value " * 100, encoding="utf-8")
    assert refused(call, "generate", model, "--input", tmp_path / "prompts")[0] == 2


@pytest.mark.parametrize("verb", [["generate", "--prompt", "x"], ["evaluate", "--text", "pyproject.toml"]])
def test_a_folder_that_is_no_model_is_named(verb: list[str], model: Path, call: Call, tmp_path: Path) -> None:
    code, lines = refused(call, verb[0], tmp_path / "nowhere", *verb[1:])
    assert code == 1 and "no model directory here" in lines[0] and "nowhere" in lines[1]
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    code, lines = refused(call, verb[0], tmp_path, *verb[1:])
    assert code == 1 and "no tokenizer" in lines[0] and str(tmp_path) in lines[1]
    (tmp_path / "model.safetensors").unlink()
    code, lines = refused(call, verb[0], tmp_path, *verb[1:])
    assert code == 1 and "weights are missing" in lines[0] and "safetensors" in lines[2]


def test_evaluate_gives_what_is_promised(model: Path, call: Call, tmp_path: Path) -> None:
    text = "Return the value of the item.\n" * 40
    (tmp_path / "a text.txt").write_text(text, encoding="utf-8")
    (tmp_path / "other.txt").write_text("x", encoding="utf-8")
    words = ("evaluate", model, "--text", tmp_path / "a text.txt", "--text", tmp_path / "other.txt", "--out", tmp_path / "out")
    code, result, _ = call(*words)
    assert code == 0 and [r["file"] for r in result["texts"]] == [str(tmp_path / "a text.txt"), str(tmp_path / "other.txt")]
    first = result["texts"][0]
    assert first.keys() == {"file", "tokens", "bytes", "loss", "perplexity", "bits_per_byte", "protocol"}
    assert first["bytes"] == len(text) and str(CONTEXT) in first["protocol"]
    logs = ft.load(model).score(text)
    assert first["tokens"] == len(logs) and first["loss"] == pytest.approx(-sum(logs) / len(logs), rel=1e-5)
    assert first["bits_per_byte"] == pytest.approx(-sum(logs) / math.log(2) / len(text), rel=1e-5)
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["texts"] == result["texts"]
    bits = next(metric for name, metric in written["metrics"].items() if name.endswith("bits_per_byte"))
    assert bits["low"] < bits["value"] == first["bits_per_byte"] < bits["high"]
    assert refused(call, *words)[0] == 2  # nothing is overwritten
    assert ft.evaluate(model, tmp_path / "a text.txt")["texts"] == [first]


def test_any_bytes_can_be_scored(model: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 3 + "ein Ölkännchen <|endoftext|>".encode("utf-16")
    (tmp_path / "blob").write_bytes(content)
    code, result, _ = call("evaluate", model, "--text", tmp_path / "blob")
    assert code == 0 and result["texts"][0]["bytes"] == len(content) and math.isfinite(result["texts"][0]["loss"])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    same = call("evaluate", model, "--text", "-")[1]["texts"][0]
    assert same == result["texts"][0] | {"file": "-"}


def test_texts_that_cannot_be_scored_are_refused(model: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").touch()
    code, lines = refused(call, "evaluate", model, "--text", tmp_path / "empty")
    assert code == 1 and "empty" in lines[0] and str(tmp_path / "empty") in lines[1]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert refused(call, "evaluate", model, "--text", "-")[0] == 1
    code, lines = refused(call, "evaluate", model, "--text", tmp_path / "missing")
    assert code == 2 and "no such file" in lines[0]
    code, lines = refused(call, "evaluate", model)
    assert code == 2 and "--text" in lines[2]
