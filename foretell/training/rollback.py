"""Going back: after three steps in a row that could not be learned from, to the last good checkpoint, past the batches since."""

from collections.abc import Callable
from pathlib import Path

from foretell.base.errors import CheckpointError, ForetellError
from foretell.base.files import damaged_files, remove
from foretell.training.checkpoint import checkpoint_path, checkpoints, restore
from foretell.training.guard import STRIKES
from foretell.training.state import StepReport, TrainState

RETURNS = 3  # to one checkpoint; then the fault is not in the batches
KEPT = ("steps", "asked_steps", "asked_patience", "stop_reason", "skipped", "rollbacks", "elapsed_seconds", "peak_bytes")
"""Of the counters, what going back does not undo."""


class Diverged(ForetellError):
    """The run cannot be trained on as it is set. Its checkpoints are untouched."""


class GoBack:
    """An observer. What follows is a function of the checkpoint and the jump, so that the run stays repeatable."""

    def __init__(self, folder: Path, tell: Callable[[str, int], None], learning_rate: float) -> None:
        """folder: of the checkpoints. tell: is given a sentence and the step that the run stands at now."""
        self._folder, self._tell, self._learning_rate = folder, tell, learning_rate

    def __call__(self, state: TrainState, report: StepReport) -> None:
        progress = state.progress
        if progress.strikes < STRIKES:
            return
        good_step = progress.good_step
        path = None if good_step is None else checkpoint_path(self._folder, good_step)
        returns = progress.returns + 1 if progress.went_back_to == good_step else 1
        if path is None or returns > RETURNS:
            where_to = (
                "there is no earlier checkpoint to go back to" if path is None else f"going back {RETURNS} times did not help"
            )
            what = f"{STRIKES} steps in a row could not be learned from, and {where_to}: {report.skipped}"
            cure = f"a lower rate, e.g. optimizer.learning_rate={self._learning_rate / 4:g}, or a longer schedule.warmup_steps"
            raise Diverged(what, where=f"step {report.step}", cure=cure)
        if damage := damaged_files(path):
            cure = "restore it from a copy, or move it away: --resume then continues from the newest"
            raise CheckpointError(f"the checkpoint to go back to is damaged: {damage[0]}", where=str(path), cure=cure)
        reached, kept = state.next_sample, {name: getattr(progress, name) for name in KEPT}
        restore(path, state)
        jumped = reached - state.next_sample
        vars(progress).update(kept)
        progress.jumped, progress.rollbacks = progress.jumped + jumped, progress.rollbacks + 1
        progress.went_back_to, progress.returns = good_step, returns
        if jumped:
            state.memory = None  # what an LSTM read before the jump belongs elsewhere
        for later in checkpoints(self._folder):
            if later.name > path.name:  # of the way that was given up
                remove(later)
        self._tell(
            f"step {report.step}: {report.skipped}; back to step {progress.step}, {jumped} windows are jumped over", progress.step
        )
