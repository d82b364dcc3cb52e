"""The [evaluation] section."""

from pydantic import Field

from foretell.base.settings import Settings


class EvaluationSettings(Settings):
    """How held-out text is scored while training and at the end."""

    windows: int | None = Field(default=64, gt=0)
    """Windows per evaluation during training, evenly spread over the held-out text; absent: all of it. The final score uses all."""
    micro_batch: int = Field(default=8, gt=0)
