"""The job of generating: prompts in, text out, streamed; with --explain every step's distribution."""

import secrets
import sys
from pathlib import Path
from typing import Any

from foretell.base.console import Terminal
from foretell.base.errors import SettingError
from foretell.base.files import read_text
from foretell.compute.device import default_device, set_threads
from foretell.generation.config import GenerationSettings
from foretell.generation.engine import Engine
from foretell.generation.explain import explain
from foretell.interop.huggingface import load_model
from foretell.tokenizers.tokenizer import Tokenizer

ALTERNATIVES = 5
ENDINGS = {
    "length": "as many tokens as asked for (--max-tokens)",
    "context": "the model's context is full",
    "end_of_text": "the model ended its text",
    "stop": "a stop string",
}


def generate(
    model_folder: Path, prompts: list[str], settings: GenerationSettings, terminal: Terminal, *, explained: bool = False
) -> dict[str, Any]:
    """Continue each prompt; text is shown as it comes. Raises ForetellError before any output for a prompt that does not fit."""
    set_threads(None)
    tokenizer = Tokenizer.load(model_folder)
    engine = Engine(load_model(model_folder).to(default_device()), tokenizer)
    for prompt in prompts:
        engine.encode_prompt(prompt)
    seed = settings.seed if settings.seed is not None else secrets.randbits(31)
    results = [_one(engine, prompt, settings.replace(seed=seed), terminal, explained) for prompt in prompts]
    if settings.strategy == "sample" and settings.seed is None:
        terminal.say(f"(--seed {seed} writes this again)", style="dim")
    return {"completions": results}


def read_prompts(source: str) -> list[str]:
    """One prompt a line, from a file or '-'. Raises SettingError when there is none."""
    if source != "-" and not Path(source).is_file():
        raise SettingError("there is no such file", where=f"--input {source}", cure="give a file with one prompt a line")
    text = sys.stdin.read() if source == "-" else read_text(Path(source))
    prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise SettingError("there are no prompts", where=f"--input {source}", cure="write one prompt a line")
    return prompts


def _one(engine: Engine, prompt: str, settings: GenerationSettings, terminal: Terminal, explained: bool) -> dict[str, Any]:
    text, tokens, reason = "", [], "length"
    if not explained:
        terminal.write(prompt, style="bold")
    for step, event in enumerate(engine.stream(prompt, settings, alternatives=ALTERNATIVES if explained else 0), start=1):
        if explained:
            terminal.say(explain(event, step, prompt + text, engine.tokenizer.token_text(event.token)))
        else:
            terminal.write(event.text)
        text += event.text
        tokens.append({"token": event.token, "probability": event.probability} | _alternatives(event.alternatives))
        reason = event.finish_reason or reason
    terminal.say("" if not explained else f"\n{prompt}{text}")
    terminal.say(f"({len(tokens)} tokens; ended: {ENDINGS[reason]})", style="dim")
    seed = settings.seed if settings.strategy == "sample" else None
    return {"prompt": prompt, "text": text, "finish_reason": reason, "seed": seed, "tokens": tokens}


def _alternatives(alternatives: Any) -> dict[str, Any]:
    return (
        {"alternatives": [{"token": a.token, "text": a.text, "probability": a.probability} for a in alternatives]}
        if alternatives
        else {}
    )
