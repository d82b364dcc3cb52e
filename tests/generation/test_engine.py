"""The engine: cached equals uncached, seeds repeat, stop strings never leak, limits are kept."""

import pytest
import torch

from foretell.base.errors import RequestError
from foretell.generation.config import GenerationSettings
from foretell.generation.engine import Engine, StopGate
from foretell.generation.explain import BAR_WIDTH, bar, explain
from foretell.models.build import initialise
from foretell.models.gpt import GPT
from foretell.models.settings import ModelSettings, resolve
from foretell.tokenizers.bpe import train_bpe
from foretell.tokenizers.config import TokenizerSettings

GREEDY = GenerationSettings(strategy="greedy", max_tokens=20)


def engine_of(preset: str) -> Engine:
    tokenizer = train_bpe(["the cat sat on the mat, and the dog sat on the log. " * 20], TokenizerSettings(vocab_size=270))
    model = GPT(resolve(ModelSettings(preset=preset, n_layer=2, d_model=32, n_head=2, context_length=48), tokenizer.vocab_size)[0])
    initialise(model, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(8)) * 0.2)
    return Engine(model.eval(), tokenizer)


@pytest.fixture(scope="module", params=["gpt2", "modern"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return engine_of(request.param)


def test_cached_generation_equals_uncached_token_for_token(engine: Engine) -> None:
    tokens = engine.encode_prompt("the cat sat")
    expected: list[int] = []
    with torch.no_grad():
        for _ in range(20):
            expected.append(int(engine.model.logits(torch.tensor([tokens + expected]))[0, -1].argmax()))
            if expected[-1] == engine.tokenizer.end_of_text:
                break
    assert engine.complete("the cat sat", GREEDY).tokens == expected


def test_a_seed_repeats_and_another_differs(engine: Engine) -> None:
    settings = GenerationSettings(max_tokens=25, temperature=1.5, top_p=None, seed=4)
    first = engine.complete("the", settings)
    assert engine.complete("the", settings).tokens == first.tokens and first.seed == 4
    assert engine.complete("the", settings.replace(seed=5)).tokens != first.tokens
    unseeded = engine.complete("the", settings.replace(seed=None))
    assert engine.complete("the", settings.replace(seed=unseeded.seed)).tokens == unseeded.tokens


def test_generating_does_not_touch_the_global_random_state_or_the_mode(engine: Engine) -> None:
    before = torch.get_rng_state()
    engine.model.train()
    engine.complete("the", GenerationSettings(max_tokens=3, seed=1))
    assert torch.equal(before, torch.get_rng_state()) and engine.model.training
    engine.model.eval()


def test_the_context_limits_what_is_written(engine: Engine) -> None:
    completion = engine.complete("the cat", GREEDY.replace(max_tokens=1000))
    used = len(engine.tokenizer.encode("the cat")) + len(completion.tokens)
    assert completion.finish_reason in ("context", "end_of_text")
    assert used == 49 or completion.finish_reason == "end_of_text"  # the last token is written, never read


def test_a_prompt_that_is_too_long_names_both_numbers(engine: Engine) -> None:
    prompt = "the cat " * 40
    with pytest.raises(RequestError, match=rf"{len(engine.tokenizer.encode(prompt))} tokens.* 48"):
        engine.complete(prompt, GREEDY)


def test_an_empty_prompt_begins_a_new_text(engine: Engine) -> None:
    assert engine.encode_prompt("") == [engine.tokenizer.end_of_text]
    assert engine.complete("", GREEDY).tokens


def test_text_equals_the_decoded_tokens(engine: Engine) -> None:
    completion = engine.complete("the", GREEDY)
    tokens = [t for t in completion.tokens if t != engine.tokenizer.end_of_text]
    assert completion.text == engine.tokenizer.decode(tokens)


def test_generation_ends_before_a_stop_string(engine: Engine) -> None:
    whole = engine.complete("the", GREEDY).text
    stop = whole[5:8]
    stopped = engine.complete("the", GREEDY.replace(stop=(stop,)))
    assert stopped.text == whole[: whole.index(stop)] and stopped.finish_reason == "stop"


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_stop_string_never_leaks_however_the_text_is_cut(size: int) -> None:
    text, gate = "one two thr three ENDING and more", StopGate(("END", "zzz"))
    out = "".join(gate.push(text[i : i + size]) for i in range(0, len(text), size)) + gate.finish()
    assert out == "one two thr three " and gate.stopped


def test_what_looked_like_a_stop_string_comes_out_in_the_end() -> None:
    gate = StopGate(("stop!",))
    assert gate.push("please sto") == "please " and gate.finish() == "sto" and not gate.stopped


def test_explain_shows_the_five_likeliest_with_their_probabilities(engine: Engine) -> None:
    event = next(engine.stream("the cat", GREEDY, alternatives=5))
    probs = engine.model.logits(torch.tensor([engine.encode_prompt("the cat")]))[0, -1].softmax(-1)
    assert [a.token for a in event.alternatives] == probs.topk(5).indices.tolist()
    assert [a.probability for a in event.alternatives] == pytest.approx(probs.topk(5).values.tolist(), abs=1e-5)
    lines = explain(event, 1, "the cat", "x").splitlines()
    assert len(lines) == 6 and "→" in lines[1] and f"{event.probability:.3f}" in lines[1]


def test_bars_are_as_long_as_their_share() -> None:
    assert bar(1.0) == "█" * BAR_WIDTH and bar(0.0) == "" and bar(0.5) == "█" * (BAR_WIDTH // 2)
