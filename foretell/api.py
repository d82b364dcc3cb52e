"""The Python API: `import foretell as ft; ft.load(...)`. Torch is imported when a function is called, not before."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretell.base.console import Terminal

if TYPE_CHECKING:
    from torch import Tensor

    from foretell.generation.engine import Completion
    from foretell.models.gpt import GPT
    from foretell.tokenizers.tokenizer import Tokenizer


class Model:
    """A model directory, opened: logits, generation and scores."""

    def __init__(self, network: "GPT", tokenizer: "Tokenizer") -> None:
        self.network, self.tokenizer = network, tokenizer

    def logits(self, tokens_BT: list[list[int]]) -> "Tensor":
        """Next-token logits (B, T, V) of equally long lists of token ids."""
        import torch

        with torch.no_grad():
            return self.network.logits(torch.tensor(tokens_BT, device=self.network.head.weight.device)).cpu()

    def generate(self, prompt: str = "", **settings: Any) -> "Completion":
        """Continue a prompt. settings: the fields of GenerationSettings (max_tokens, temperature, top_k, top_p, seed, stop, …)."""
        from foretell.generation.config import GenerationSettings
        from foretell.generation.engine import Engine

        return Engine(self.network, self.tokenizer).complete(prompt, GenerationSettings(**settings))

    def score(self, text: str) -> list[float]:
        """The log-probability (nats) of every token of a text, each window of the context on its own."""
        import numpy as np

        from foretell.evaluation.perplexity import text_batches, window_nats

        tokens_N = np.array(self.tokenizer.encode(text), dtype=np.int64)
        batches = text_batches(tokens_N, self.tokenizer.end_of_text, self.network.config.context_length, micro_batch=1)
        return [-nats for batch in batches for nats in window_nats(self.network, batch)[batch.weight_BT > 0].tolist()]


def load(folder: str | Path) -> Model:
    """Open any model directory. Raises ModelError."""
    from foretell.interop.huggingface import open_model

    return Model(*open_model(Path(folder)))


def pretrain(recipe: str | Mapping[str, Any], *, out: str | Path | None = None, resume: bool = False, quiet: bool = True) -> Any:
    """Train from a recipe: a TOML file, a bundled name, or a mapping of sections. Returns where the model is and its score."""
    from foretell.jobs.pretrain import pretrain as job
    from foretell.jobs.recipe import Recipe, load_recipe

    settings = load_recipe(recipe) if isinstance(recipe, str) else Recipe.model_validate(recipe)
    return job(settings, Path(out) if out else None, Terminal(quiet=quiet), resume=resume)


def evaluate(model: str | Path, texts: list[str | Path], *, quiet: bool = True) -> dict[str, Any]:
    """Loss, perplexity and bits per byte of text files."""
    from foretell.jobs.evaluate import evaluate as job

    return job(Path(model), [Path(text) for text in texts], None, Terminal(quiet=quiet))
