"""What a person sees while a table runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from rlsuite.bench.table import Cell
from rlsuite.bench.units import singular

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class View:
    """A running cell at one moment."""

    cell: Cell
    update: int
    updates: int  # 0 if unknown
    speed: float | None  # updates or environment steps per second, None before there are two marks
    seconds: float  # since the cell was started

    @property
    def fraction(self) -> float:
        return min(self.update / self.updates, 1.0) if self.updates else 0.0

    @property
    def left(self) -> float | None:
        """Seconds to the last position; the final evaluation comes after that."""
        return max(self.updates - self.update, 0) / self.speed if self.speed and self.updates else None


class Progress(Protocol):
    """What the engine tells, in the order begin, then any of the others."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *error: Any) -> None: ...
    def begin(self, total: int, finished: Sequence[Cell]) -> None: ...
    def started(self, cell: Cell, update: int) -> None: ...
    def settled(self, cell: Cell, state: str, message: str, seconds: float | None, result: str) -> None: ...
    def note(self, text: str) -> None: ...
    def refresh(self, running: Sequence[View], elsewhere: int) -> None: ...


class Plain:
    """One line for each event, and a summary every `every` seconds."""

    def __init__(self, every: float = 15.0) -> None:
        self.every = every
        self.total = self.done = self.failed = 0
        self.start = self.last = time.monotonic()

    def __enter__(self) -> Plain:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def line(self, text: str) -> None:
        print(text, flush=True)

    def begin(self, total: int, finished: Sequence[Cell]) -> None:
        self.total, self.done = total, len(finished)
        self.initially_done = self.done
        self.start = self.last = time.monotonic()
        if finished:
            self.line(f"{len(finished)} of {total} cells were finished before")

    def started(self, cell: Cell, update: int) -> None:
        self.line(f"[{self.clock}] start     {cell.title}{f' from {singular(cell.unit)} {update}' if update else ''}")

    def settled(self, cell: Cell, state: str, message: str, seconds: float | None, result: str) -> None:
        finished = state == "finished"
        self.done += finished
        self.failed += state in ("diverged", "crashed", "timeout")
        facts = [result] if result and finished else []
        facts += [clock(seconds)] if seconds is not None else ["by another rlsuite bench"]
        text = f"{cell.title} ({', '.join(facts)})"
        state = "stopped" if state in ("unfinished", "new") else state
        self.line(f"[{self.clock}] {state:9} {text}{f': {message}' if message else ''}")

    def note(self, text: str) -> None:
        self.line(f"[{self.clock}] {text}")

    def refresh(self, running: Sequence[View], elsewhere: int) -> None:
        if time.monotonic() - self.last < self.every:
            return
        self.last = time.monotonic()
        parts = []
        for view in running:
            speed = f", {rate(view.speed)}, {clock(view.left)} left" if view.left is not None else ""
            parts.append(f"{view.cell.label} seed {view.cell.seed} {view.update}/{view.updates}{speed}")
        self.line(f"[{self.clock}] {self.summary(elsewhere)}{'; running: ' if parts else ''}{'; '.join(parts)}")

    @property
    def clock(self) -> str:
        return clock(time.monotonic() - self.start)

    def summary(self, elsewhere: int) -> str:
        text = f"{self.done}/{self.total} cells"
        text += f", {self.failed} failed" if self.failed else ""
        return text + (f", {elsewhere} run by another rlsuite bench" if elsewhere else "")


class Live(Plain):
    """The same lines above a block that stays: a row for each running cell and one for all."""

    def __init__(self, console: Console, every: float = 0.25) -> None:
        from rich.live import Live as RichLive

        super().__init__(every)
        self.console = console
        # Drawn by the engine's own loop: a thread of rich would run while the engine forks.
        self.live = RichLive(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Live:
        self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()

    def line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def refresh(self, running: Sequence[View], elsewhere: int) -> None:
        now = time.monotonic()
        if now - self.last >= self.every:
            self.last = now
            self.live.update(self.block(running, elsewhere), refresh=True)

    def block(self, running: Sequence[View], elsewhere: int) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        cells = Table.grid(padding=(0, 1), expand=True)
        wide = self.console.width >= 90
        cells.add_column(no_wrap=True)
        cells.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
        cells.add_column(justify="right", no_wrap=True)
        if wide:
            cells.add_column(ratio=2)
        for _ in range(3):
            cells.add_column(justify="right", no_wrap=True)

        shown = running[: max(self.console.height - 4, 1)]
        for view in shown:
            bar = ProgressBar(total=1.0, completed=view.fraction)
            left = "evaluates" if view.updates and view.update >= view.updates else clock(view.left)
            cells.add_row(
                Text(view.cell.label),
                Text(view.cell.task),
                f"seed {view.cell.seed}",
                *([bar] if wide else []),
                f"{view.update}/{view.updates}" if view.updates else f"{view.update}",
                rate(view.speed),
                left,
            )
        fraction = (self.done + self.failed + sum(v.fraction for v in running)) / max(self.total, 1)
        worked = fraction - self.initially_done / max(self.total, 1)
        elapsed = time.monotonic() - self.start
        slowest = max((view.left or 0.0 for view in running), default=0.0)
        left_of_all = max(elapsed * (1 - fraction) / worked, slowest) if worked > 0.01 else None
        overall = Table.grid(padding=(0, 1), expand=True)
        overall.add_column(no_wrap=True)
        overall.add_column(ratio=1)
        overall.add_column(no_wrap=True, justify="right")
        hidden = f", {len(running) - len(shown)} running cells not shown" if len(running) > len(shown) else ""
        overall.add_row(
            Text(self.summary(elsewhere) + hidden, style="bold"),
            ProgressBar(total=1.0, completed=fraction),
            f"{clock(elapsed)}, {clock(left_of_all)} left",
        )
        return Group(cells, overall)


def make_progress() -> Progress:
    """The live view if standard output is a terminal."""
    if not sys.stdout.isatty():
        return Plain()
    from rich.console import Console

    console = Console()
    return Live(console) if console.is_terminal and not console.is_dumb_terminal else Plain()


def clock(seconds: float | None) -> str:
    """Seconds as m:ss or h:mm:ss.

    >>> clock(75), clock(3700), clock(None)
    ('1:15', '1:01:40', '-:--')
    """
    if seconds is None:
        return "-:--"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def rate(speed: float | None) -> str:
    return "" if speed is None else f"{speed:.0f}/s" if speed >= 10 else f"{speed:.1f}/s"
