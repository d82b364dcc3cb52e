"""The Python API: `import foretell as ft; ft.load(...)`. The package fetches this module, and torch, with the first such name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foretell.base.console import Terminal
from foretell.evaluation.perplexity import text_batches, window_nats
from foretell.generation.config import GenerationSettings
from foretell.generation.engine import Completion, Engine
from foretell.interop.huggingface import open_model
from foretell.jobs import evaluate as evaluation
from foretell.jobs import pretrain as pretraining
from foretell.jobs.recipe import Recipe, load_recipe


class Model:
    """A model directory, opened: logits, generation and scores."""

    def __init__(self, folder: Path) -> None:
        self.network, self.tokenizer = open_model(folder)

    @torch.no_grad()
    def logits(self, tokens_BT: list[list[int]]) -> torch.Tensor:
        """Next-token logits (B, T, V) of equally long lists of token ids."""
        return self.network.logits(torch.tensor(tokens_BT, device=self.network.head.weight.device)).cpu()

    def generate(self, prompt: str = "", **settings: Any) -> Completion:
        """Continue a prompt. settings: the fields of GenerationSettings (max_tokens, temperature, top_k, top_p, seed, stop, …)."""
        return Engine(self.network, self.tokenizer).complete(prompt, GenerationSettings(**settings))

    def score(self, text: str) -> list[float]:
        """The log-probability (nats) of every token of a text, each window of the context on its own."""
        tokens_N = np.array(self.tokenizer.encode(text), dtype=np.int64)
        batches = text_batches(tokens_N, self.tokenizer.start, self.network.config.context_length, micro_batch=1)
        return [-nats for batch in batches for nats in window_nats(self.network, batch)[batch.weight_BT > 0].tolist()]


def load(folder: str | Path) -> Model:
    """Open any model directory. Raises ModelError."""
    return Model(Path(folder))


def pretrain(recipe: str | Mapping[str, Any], *, out: str | Path | None = None, resume: bool = False, quiet: bool = True) -> Any:
    """Train from a recipe: a TOML file, a bundled name, or a mapping of sections. Returns where the model is and its score."""
    settings = load_recipe(recipe) if isinstance(recipe, str) else Recipe.model_validate(recipe)
    return pretraining.pretrain(settings, Path(out) if out else None, Terminal(quiet=quiet), () if resume else None)


def evaluate(model: str | Path, *texts: str | Path) -> dict[str, Any]:
    """Loss, perplexity and bits per byte of text files."""
    return evaluation.evaluate(Path(model), [Path(text) for text in texts], None, Terminal(json=True, quiet=True))
