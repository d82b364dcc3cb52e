"""The training loop. What happens once in a while is an observer; the loop knows none of them."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from foretell.training.state import Progress, StepReport, TrainState

Observer = Callable[[TrainState, StepReport], None]


def train(state: TrainState, step: Callable[[TrainState], StepReport], observers: Sequence[Observer]) -> None:
    """Run steps until the state is finished; after each, every observer in order."""
    while not state.finished:
        report = step(state)
        for observer in observers:
            observer(state, report)


@contextmanager
def graceful_stop(progress: Progress) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the run to stop after the step it is in; a second Ctrl-C stops at once.

    Not under torchrun, which hands on one signal twice, nor does a second SIGTERM: schedulers send several.
    """
    asked: list[int] = []
    impatient = signal.SIGINT if "TORCHELASTIC_RUN_ID" not in os.environ else None

    def ask(number: int, _: FrameType | None) -> None:
        if asked and number == impatient:
            raise KeyboardInterrupt
        asked.append(number)
        progress.stop_reason = progress.stop_reason or "interrupted"

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
