"""Settings of the shards: where they are, how they are mixed, and how much is held out."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from foretell.base.settings import Settings


class SourceSettings(Settings):
    """A `[data.sources.NAME]` section of a recipe: one shard folder of several that are mixed."""

    shards: Path
    """The shard folder."""
    weight: float = Field(default=1, gt=0, le=1e9)
    """How often a window is taken from it, beside the weights of the others."""
    epochs: float | None = Field(default=None, gt=0)
    """A run that would read it more often is refused; absent: as often as its weight asks for."""


class DataSettings(Settings):
    """The `[data]` section of a recipe."""

    shards: Path | None = None
    """The shard folder to train on."""
    sources: dict[str, SourceSettings] = Field(default_factory=dict, max_length=100)
    """Several shard folders instead, mixed by weight: sections [data.sources.NAME], or data.sources.NAME.shards=DIR."""
    held_out: float = Field(default=0.05, gt=0, lt=0.5)
    """Share of the text that is kept from training, to measure on."""
    document_mask: bool = False
    """Decoders: tokens see their own document alone, as if no other stood before it in the window."""
    mask_share: float = Field(default=0.15, gt=0, lt=1)
    """BERT: share of the tokens that are hidden; of those 80 % become [MASK], 10 % any token, 10 % stay."""
    whole_word: bool = False
    """BERT: hide all pieces of a word or none."""
    next_sentence: bool = True
    """BERT: pairs of segments, of which half do not belong together, are told apart."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.shards is not None and self.sources:
            raise ValueError("data.shards and data.sources both say which text to train on | leave out one of them")
        return self

    def resolved(self) -> Self:
        """The same with whole paths, whatever the working directory."""
        sources = {name: source.replace(shards=source.shards.resolve()) for name, source in self.sources.items()}
        return self.replace(shards=self.shards.resolve() if self.shards else None, sources=sources)
