"""The LSTM: its state is its memory, it equals its equations, and the engine generates with it."""

from typing import Any

import torch
from torch import Tensor

from foretell.generation.config import GenerationSettings
from foretell.generation.engine import Engine
from foretell.models.build import build, initialise
from foretell.models.cache import LSTMState
from foretell.models.lstm import LSTM
from foretell.models.settings import ModelSettings, resolve
from foretell.tokenizers.bpe import train_bpe
from foretell.tokenizers.config import TokenizerSettings


@torch.no_grad()
def test_it_equals_its_equations(make_network: Any, tokens: Tensor) -> None:
    """Hochreiter & Schmidhuber 1997 with forget gates (Gers et al. 2000), token by token."""
    model = make_network("lstm", n_layer=1, d_model=16, d_hidden=24)
    weight = {name: getattr(model.lstm, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    hidden, cell, out = torch.zeros(3, 24), torch.zeros(3, 24), list[Tensor]()
    for x_BD in model.token_embedding.weight[tokens].unbind(1):
        gates = x_BD @ weight["weight_ih"].T + weight["bias_ih"] + hidden @ weight["weight_hh"].T + weight["bias_hh"]
        enter, forget, new, leave = gates.chunk(4, dim=1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        out.append(model.out(hidden) @ model.token_embedding.weight.T)
    torch.testing.assert_close(model.logits(tokens), torch.stack(out, dim=1), rtol=0, atol=1e-5)


@torch.no_grad()
def test_it_reads_on_beyond_its_context(make_network: Any, tokens: Tensor) -> None:
    model = make_network("lstm", d_model=16, d_hidden=24)
    longer = tokens.repeat(1, 3)
    state = model.new_cache(3, 0)
    read = [model.logits(piece, state) for piece in torch.split(longer, 24, dim=1)]
    torch.testing.assert_close(torch.cat(read, dim=1), model.logits(longer), rtol=0, atol=1e-5)


@torch.no_grad()
def test_padding_leaves_the_state_as_it_was(make_network: Any, tokens: Tensor) -> None:
    model = make_network("lstm", n_layer=2, d_model=16, d_hidden=24)
    keep = torch.tensor([[True] * 24, [True] * 11 + [False] * 13, [False] * 24])
    state, expected = model.new_cache(3, 0), model.new_cache(3, 0)
    for memory in (state, expected):
        model(tokens, memory)
    model(tokens, state, keep)
    model(tokens[:1], first := expected.rows(0, 1))
    model(tokens[1:2, :11], second := expected.rows(1, 1))
    joined = LSTMState.joined([first, second, expected.rows(2, 1)])
    torch.testing.assert_close(state.hidden_LBU, joined.hidden_LBU, rtol=0, atol=1e-6)
    torch.testing.assert_close(state.cell_LBU, joined.cell_LBU, rtol=0, atol=1e-6)


def test_rows_are_cut_from_the_graph(make_network: Any, tokens: Tensor) -> None:
    model = make_network("lstm", d_model=16, d_hidden=24)
    model(tokens, state := model.new_cache(3, 0))
    part = state.rows(1, 2)
    assert state.hidden_LBU.requires_grad and not part.hidden_LBU.requires_grad and not part.cell_LBU.requires_grad
    assert torch.equal(part.hidden_LBU, state.hidden_LBU[:, 1:3]) and part.hidden_LBU.is_contiguous()


def test_the_engine_generates_with_it() -> None:
    tokenizer = train_bpe(["the cat sat on the mat, and the dog sat on the log. " * 20], TokenizerSettings(vocab_size=270))
    sizes = {"preset": "lstm", "n_layer": 2, "d_model": 16, "d_hidden": 24, "context_length": 48}
    model = build(resolve(ModelSettings.model_validate(sizes), tokenizer.vocab_size)[0])
    assert isinstance(model, LSTM)
    initialise(model, seed=3)
    with torch.no_grad():
        model.token_embedding.weight.mul_(100)
    prompt, expected = tokenizer.encode("the cat sat"), list[int]()
    with torch.no_grad():
        for _ in range(20):
            expected.append(int(model.logits(torch.tensor([prompt + expected]))[0, -1].argmax()))
            if expected[-1] == tokenizer.end_of_text:
                break
    completion = Engine(model, tokenizer).complete("the cat sat", GenerationSettings(strategy="greedy", max_tokens=20))
    assert completion.tokens == expected and len(set(expected)) > 1
