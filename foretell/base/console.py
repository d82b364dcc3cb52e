"""What a person sees: one Terminal, made by the command line and handed down; jobs never print by themselves."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, TextIO

from foretell.base.units import count

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

QUIET_INTERVAL_SECONDS = 10.0  # without a terminal: one line per interval, so that log files are not flooded


class Terminal:
    """Human output; quiet: only warnings and results. json: on standard error, so that standard output holds only results."""

    def __init__(self, *, quiet: bool = False, json: bool = False, stream: TextIO | None = None) -> None:
        self.quiet, self._silent, self._stream = quiet, quiet and json, stream or (sys.stderr if json else sys.stdout)

    @cached_property
    def console(self) -> "Console":
        """The rich console, made on first use (importing rich costs more than most commands)."""
        from rich.console import Console

        return Console(file=self._stream, highlight=False, soft_wrap=True)

    @property
    def interactive(self) -> bool:
        """A person watches: a live display makes sense."""
        return self.console.is_terminal and not self.quiet

    def say(self, text: str = "", style: str | None = None, end: str = "\n", result: bool = False) -> None:
        """Plain text, at once (never read as markup: it may hold anybody's data). result: it is what was asked for."""
        if not self.quiet or (result and not self._silent):
            self.console.print(text, style=style, end=end, markup=False, emoji=False)

    def warn(self, text: str) -> None:
        """One line that is said even when quiet."""
        self.console.print(f"note: {text}", style="yellow", markup=False, emoji=False)

    def table(self, columns: list[str], rows: list[list[str]], result: bool = False) -> None:
        """A plain table; numbers are right-aligned by their look."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, column in enumerate(columns):
            numeric = all(row[index][:1].isdigit() or row[index][:1] in "-–" for row in rows if row[index])
            table.add_column(column, justify="right" if rows and numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        if not self.quiet or (result and not self._silent):
            self.console.print(table)

    @contextmanager
    def progress(self, description: str, total: float | None = None, unit: str = "") -> Iterator["Progress"]:
        """How far a long step is: a bar on a terminal, a line every few seconds elsewhere."""
        progress = Progress(self, description, total, unit)
        with progress.bar or nullcontext():
            yield progress


class Progress:
    """What `Terminal.progress` yields."""

    def __init__(self, terminal: Terminal, description: str, total: float | None, unit: str) -> None:
        self._terminal, self._description, self._unit = terminal, description, unit
        self._of_total = f" of {count(total)}" if total else ""
        self._done, self._said_at_seconds = 0.0, time.monotonic()
        self.bar: Bar | None = None
        if terminal.interactive:
            from rich import progress as rich

            columns = rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), rich.TimeRemainingColumn()
            self.bar = rich.Progress(*columns, console=terminal.console, transient=True)
            self.bar.add_task(description, total=total)

    def advance(self, amount: float = 1.0) -> None:
        """Record that `amount` more is done; as often as one likes."""
        self._done += amount
        if self.bar:
            self.bar.advance(self.bar.task_ids[0], amount)
        elif time.monotonic() - self._said_at_seconds >= QUIET_INTERVAL_SECONDS:
            self._said_at_seconds = time.monotonic()
            self._terminal.say(f"{self._description}: {count(self._done)}{self._of_total} {self._unit}".rstrip())
