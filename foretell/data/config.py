"""Settings of the shards: where they are, and how much is held out."""

from pathlib import Path

from pydantic import Field

from foretell.base.settings import Settings


class DataSettings(Settings):
    """The `[data]` section of a recipe."""

    shards: Path | None = None
    """The shard folder to train on."""
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
