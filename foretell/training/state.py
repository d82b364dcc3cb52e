"""Everything that a training run is at a moment: what is saved and restored. State is passed, never ambient."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foretell.compute.distributed import Ranks
from foretell.models.cache import LSTMState
from foretell.models.network import Network
from foretell.training.parameters import FlatParameters
from foretell.training.updates import Optimizer

if TYPE_CHECKING:
    from foretell.training.sharded import ShardedParameters  # heavy to import, and seldom needed

    Parameters = FlatParameters | ShardedParameters


@dataclass
class Progress:
    """The counters of a run, as a checkpoint keeps them. steps: its end; step: those done; tokens: read, of skipped steps too."""

    steps: int
    step: int = 0
    tokens: int = 0
    jumped: int = 0
    """Windows that were left out when the run went back to a checkpoint."""
    skipped: int = 0
    """Steps whose batch was read but not learned from (guard.py); strikes: in a row, just now."""
    strikes: int = 0
    good_step: int | None = None
    """Of the last checkpoint that was due, and not amid skipped steps: where the run would go back to."""
    rollbacks: int = 0
    """Times that the run went back (rollback.py); returns: to the checkpoint went_back_to alone."""
    went_back_to: int | None = None
    returns: int = 0
    recent_losses: list[float] = field(default_factory=list)
    recent_norms: list[float] = field(default_factory=list)
    elapsed_seconds: float = 0.0
    peak_bytes: int = 0
    asked_steps: int | None = None
    """The recipe's steps and patience when they were last looked at: a resumed run sees that they were changed."""
    asked_patience: int | None = None
    best_held_out_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    stop_reason: str | None = None


@dataclass
class TrainState:
    """Model, optimizers and counters. The data position needs no state of its own: it is a function of `progress`."""

    model: Network
    parameters: "Parameters"
    optimizers: list[Optimizer]
    progress: Progress
    memory: LSTMState | None = None
    """An LSTM's state after the last batch, row by row of this rank's; what the next batch reads on from."""
    ranks: Ranks = field(default_factory=Ranks)

    @property
    def finished(self) -> bool:
        """All steps are done, or something asked to stop."""
        return self.progress.step >= self.progress.steps or self.progress.stop_reason is not None

    @property
    def next_sample(self) -> int:
        """The first window of the next batch, counted from the run's first."""
        return self.progress.tokens // self.model.config.context_length + self.progress.jumped


@dataclass
class StepReport:
    """What one step did; observers add what they find. seconds: of the step alone."""

    step: int
    tokens: int
    loss: float
    learning_rate: float
    grad_norm: float
    seconds: float
    step_tokens: int
    skipped: str | None = None
    """Why the batch was not learned from."""
    grad_norms: dict[str, float] = field(default_factory=dict)
    """By part of the model; of steps that are logged."""
    activations: dict[str, float] = field(default_factory=dict)
    """Of the residual stream after each block; of steps that are evaluated."""
    held_out_loss: float | None = None
    held_out_bits_per_byte: float | None = None
