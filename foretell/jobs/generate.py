"""The job of generating: prompts in, text out, streamed; with --explain every step's distribution."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foretell.base.console import Terminal
from foretell.base.errors import SettingError
from foretell.base.files import read_text
from foretell.compute.device import set_threads
from foretell.generation.config import GenerationSettings
from foretell.generation.engine import Engine
from foretell.generation.explain import explain
from foretell.interop.huggingface import open_model
from foretell.tokenizers.conversation import render

ALTERNATIVES = 5
ENDINGS = {
    "length": "enough tokens",
    "context": "the context is full",
    "end_of_text": "the text is complete",
    "stop": "a stop string",
}


def generate(
    model: Path,
    prompts: list[str],
    settings: GenerationSettings,
    terminal: Terminal,
    *,
    explained: bool = False,
    chat: bool = False,
) -> dict[str, Any]:
    """Continue each prompt; text is shown as it comes. Raises ForetellError before any output for a prompt that does not fit.

    chat: each prompt is a user's message, rendered by the model's chat template, and the assistant's turn is written.
    """
    set_threads(None)
    engine = Engine(*open_model(model))
    ids = [_message(engine, prompt) if chat else engine.encode_prompt(prompt) for prompt in prompts]
    seeded = settings.replace(seed=settings.chosen_seed())
    pairs = zip(prompts, ids, strict=True)
    results = [_one(engine, f"{prompt}\n" if chat else prompt, tokens, seeded, terminal, explained) for prompt, tokens in pairs]
    if settings.strategy == "sample" and settings.seed is None:
        terminal.say(f"(--seed {seeded.seed} writes this again)", style="dim")
    return {"completions": results}


def read_prompts(source: str) -> list[str]:
    """One prompt a line, from a file or '-'. Raises SettingError when there is none."""
    if source != "-" and not Path(source).exists():
        raise SettingError("there is no such file", where=f"--input {source}", cure="give a file with one prompt a line")
    text = sys.stdin.read() if source == "-" else read_text(Path(source))
    prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise SettingError("there are no prompts", where=f"--input {source}", cure="write one prompt a line")
    return prompts


def _message(engine: Engine, prompt: str) -> list[int]:
    messages = [{"role": "user", "content": prompt}]
    return engine.encode_prompt(render(messages, engine.tokenizer, add_generation_prompt=True).ids)


def _one(
    engine: Engine, prompt: str, ids: list[int], settings: GenerationSettings, terminal: Terminal, explained: bool
) -> dict[str, Any]:
    text, tokens = "", list[dict[str, Any]]()
    terminal.say("" if explained else prompt, style="bold", end="", result=True)
    for event in engine.stream(ids, settings, alternatives=ALTERNATIVES if explained else 0):
        tokens.append(asdict(event))
        if explained:
            terminal.say(explain(event, len(tokens), prompt + text, engine.tokenizer.token_text(event.token)), result=True)
        else:
            terminal.say(event.text, end="", result=True)
        text += event.text
    reason, seed = tokens[-1]["finish_reason"], None if settings.strategy == "greedy" else settings.seed
    terminal.say(f"\n{prompt}{text}" if explained else "", result=True)
    terminal.say(f"({len(tokens)} tokens; ended: {ENDINGS[reason]})", style="dim")
    return {"prompt": prompt, "text": text, "finish_reason": reason, "seed": seed, "tokens": tokens}
