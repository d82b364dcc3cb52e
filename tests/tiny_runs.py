"""The run that most tests of training make: seconds long, with everything on that could go wrong."""

from io import StringIO
from pathlib import Path
from typing import Any

from foretell.base.console import Terminal
from foretell.base.files import digest
from foretell.jobs.recipe import Recipe
from foretell.training.state import StepReport, TrainState

TRAINING = {
    "steps": 24, "micro_batch": 24, "batch_tokens": 2048, "checkpoint_every": 4, "evaluate_every": 6, "sample_every": 8,
    "log_every": 2, "threads": 1, "tensorboard": False, "precision": "fp32",
}  # fmt: skip


def recipe_of(shards: Path, **changes: Any) -> Recipe:
    """Tiny, with everything on that a resume could miss: dropout, accumulation in unequal pieces, the end of an epoch."""
    model = {"n_layer": 1, "d_model": 32, "n_head": 2, "context_length": 32, "dropout": 0.1}
    sections = {
        "data": {"shards": shards},
        "model": model,
        "training": TRAINING,
        "schedule": {"warmup_steps": 3},
        "evaluation": {"windows": 4},
    }
    for section, values in changes.items():
        sections[section] = {**sections.get(section, {}), **values}
    return Recipe.model_validate(sections)


def quiet() -> Terminal:
    return Terminal(quiet=True, stream=StringIO())


class StopAt:
    """Ends the run after a step, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, state: TrainState, report: StepReport) -> None:
        if report.step == self.step:
            state.progress.stop_reason = "interrupted"


def weights(run: Path) -> str:
    return digest(run / "model" / "model.safetensors")
