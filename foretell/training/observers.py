"""What happens once in a while during training: evaluate, stop early, log, sample, save. Each is one small observer."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from foretell.base.runs import append_record
from foretell.compute.device import peak_bytes
from foretell.models.network import Network
from foretell.training.state import StepReport, TrainState

Reader = Callable[[dict[str, Any]], None]
WHERE_FOUND = ("held_out_loss", "held_out_bits_per_byte", "grad_norms", "activations", "skipped")
ALWAYS = {"held_out_loss", "skipped"}  # written whatever the step


def due(step: int, every: int, state: TrainState) -> bool:
    """It is time: every so many steps, and after the last one."""
    return step % every == 0 or step >= state.progress.steps


class Evaluate:
    """Held-out loss and bits per byte every so often; with patience, asks to stop when they get no better (Prechelt 1998)."""

    def __init__(self, score: Callable[[Network], tuple[float, float | None]], every: int, patience: int | None) -> None:
        self._score, self._every, self._patience = score, every, patience

    def __call__(self, state: TrainState, report: StepReport) -> None:
        if not due(report.step, self._every, state):
            return
        (loss, bits_per_byte), progress = self._score(state.model), state.progress
        report.held_out_loss, report.held_out_bits_per_byte = loss, bits_per_byte
        better = progress.best_held_out_loss is None or loss < progress.best_held_out_loss
        if better and not progress.strikes:  # amid skipped steps its checkpoint may be of a way that is given up
            progress.best_held_out_loss, progress.best_step, progress.evaluations_without_gain = loss, report.step, 0
        else:
            progress.evaluations_without_gain += 1
        if self._patience is not None and progress.evaluations_without_gain >= self._patience:
            progress.stop_reason = progress.stop_reason or "early_stop"


class WriteMetrics:
    """metrics.jsonl, the truth about the run; its readers (display, trackers) are called with each line.

    share_of_one_token: of the machine's peak, what one token a second takes. Steps that were skipped are always written.
    """

    def __init__(self, path: Path, every: int, readers: Sequence[Reader], share_of_one_token: float | None = None) -> None:
        self._path, self._every, self._readers, self._share = path, every, readers, share_of_one_token
        self._tokens, self._seconds = 0, 0.0  # since the last line: pure training time
        self._clock_seconds = time.perf_counter()

    def __call__(self, state: TrainState, report: StepReport) -> None:
        self._tokens, self._seconds = self._tokens + report.step_tokens, self._seconds + report.seconds
        passed_seconds = time.perf_counter() - self._clock_seconds  # evaluations, samples and checkpoints included
        state.progress.elapsed_seconds, self._clock_seconds = state.progress.elapsed_seconds + passed_seconds, time.perf_counter()
        found = {name: value for name in WHERE_FOUND if (value := getattr(report, name)) not in (None, {})}
        if not (due(report.step, self._every, state) or report.step == 1 or found.keys() & ALWAYS):
            return
        state.progress.peak_bytes = max(state.progress.peak_bytes, peak_bytes())
        record: dict[str, Any] = {name: getattr(report, name) for name in ("step", "tokens", "loss", "learning_rate", "grad_norm")}
        record |= {"tokens_per_second": self._tokens / self._seconds, "elapsed_seconds": state.progress.elapsed_seconds}
        if self._share is not None:
            record["share_of_peak"] = self._share * record["tokens_per_second"]
        record = finite(record | found)
        append_record(self._path, record)
        for reader in self._readers:
            reader(record)
        self._tokens, self._seconds = 0, 0.0


def finite(record: dict[str, Any]) -> dict[str, Any]:
    """None for NaN and infinity, which JSON has no word for, one level down as well."""

    def kept(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: finite(value) if isinstance(value, dict) else kept(value) for name, value in record.items()}


class Now:
    """Does something every so often (a sample, a checkpoint), after the last step, and where `also` says so."""

    def __init__(
        self, action: Callable[[TrainState], object], every: int, also: Callable[[TrainState], bool] = lambda state: False
    ) -> None:
        self._action, self._every, self._also = action, every, also

    def __call__(self, state: TrainState, report: StepReport) -> None:
        if due(report.step, self._every, state) or self._also(state):
            self._action(state)
