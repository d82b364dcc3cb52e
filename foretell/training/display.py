"""What a person sees of a run: one live line on a terminal, a plain line every so often elsewhere."""

import time
from typing import Any

from foretell.base.console import QUIET_INTERVAL_SECONDS, Terminal
from foretell.base.units import count, duration, size
from foretell.compute.device import used_bytes
from foretell.training.state import Progress


class Display:
    """Turns metrics records into lines."""

    def __init__(self, terminal: Terminal, progress: Progress) -> None:
        self._terminal, self._progress = terminal, progress
        self._first_step, self._started_at_seconds = progress.step, time.monotonic()
        self._said_at_seconds, self._held_out = float("-inf"), ""
        self._live: Any = None
        if terminal.interactive:
            from rich.live import Live

            self._live = Live(console=terminal.console, auto_refresh=False, transient=False)
            self._live.start()

    def __call__(self, record: dict[str, Any]) -> None:
        if record.get("held_out_loss") is not None:
            bits = f", {record['held_out_bits_per_byte']:.3f} bits/byte" if "held_out_bits_per_byte" in record else ""
            self._held_out = f" (held-out {record['held_out_loss']:.3f}{bits})"
        if "skipped" in record:
            self._terminal.warn(f"step {record['step']:,} was not learned from: {record['skipped']}")
        line = self._line(record)
        if self._live is not None:
            self._live.update(line, refresh=True)
            return
        now = time.monotonic()
        if now - self._said_at_seconds >= QUIET_INTERVAL_SECONDS or "held_out_loss" in record:
            self._said_at_seconds = now
            self._terminal.say(line)

    def sample(self, step: int, text: str) -> None:
        """A generated sentence, above the live line."""
        self._terminal.say(f"  ┆ at step {count(step)} it writes: {' '.join(text.split())}", style="dim italic")

    def close(self) -> None:
        """Leave the last line as it stands."""
        if self._live is not None:
            self._live.stop()

    def _line(self, record: dict[str, Any]) -> str:
        step, steps, rate = record["step"], self._progress.steps, record["tokens_per_second"]
        seconds_left = (steps - step) * (time.monotonic() - self._started_at_seconds) / max(1, step - self._first_step)
        loss = "not a number" if record["loss"] is None else f"{record['loss']:.3f}"
        done = f"step {step:,}/{steps:,}  {100 * step / steps:.0f} %  loss {loss}{self._held_out}"
        share = f"  {100 * record['share_of_peak']:.0f} % of peak" if "share_of_peak" in record else ""
        speed = f"{count(rate)} tok/s{share}"
        return f"{done}  {speed}  {size(used_bytes())}  left {duration(seconds_left)}"
