"""Everything that a training run is at a moment: what is saved and restored. State is passed, never ambient."""

from dataclasses import dataclass

import torch

from foretell.models.cache import LSTMState
from foretell.models.network import Network
from foretell.training.config import OptimizerSettings
from foretell.training.parameters import FlatParameters


@dataclass
class Progress:
    """The counters of a run, as a checkpoint keeps them. steps: where it ends; step: updates done; tokens: learned from."""

    steps: int
    step: int = 0
    tokens: int = 0
    elapsed_seconds: float = 0.0
    peak_bytes: int = 0
    best_held_out_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    stop_reason: str | None = None


@dataclass
class TrainState:
    """Model, optimizer and counters. The data position needs no state: it is a function of `progress.step`."""

    model: Network
    parameters: FlatParameters
    optimizer: torch.optim.Optimizer
    progress: Progress
    memory: LSTMState | None = None
    """An LSTM's state after the last batch, row by row; what the next batch reads on from."""

    @property
    def finished(self) -> bool:
        """All steps are done, or something asked to stop."""
        return self.progress.step >= self.progress.steps or self.progress.stop_reason is not None


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
    held_out_loss: float | None = None
    held_out_bits_per_byte: float | None = None


def make_optimizer(parameters: FlatParameters, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW or Adam over the flat masters, fused; decay on matrices only."""
    matrices, vectors = parameters.masters
    decay = settings.weight_decay if settings.name == "adamw" else 0.0
    groups = [{"params": [matrices], "weight_decay": decay}, {"params": [vectors], "weight_decay": 0.0}]
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True)
