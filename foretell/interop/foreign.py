"""Somebody else's model in Hugging Face's words: what every importer gives and every exporter takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from foretell.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Foreign:
    """A model as read from a source. Whoever can say a model in these words needs no mapping of its own.

    config: the content of config.json. tensors: under transformers' names and shapes (GPT-2's Conv1D matrices as [in, out]);
    may be read from disk as they are asked for. where: the source, for errors. notes: what the user should know.
    """

    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    tokenizer: Tokenizer | None
    where: str
    notes: tuple[str, ...] = ()
