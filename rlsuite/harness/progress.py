"""How a run tells what it is doing: a live line on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

import numpy as np

QUIET = 15.0  # seconds between plain lines


class Progress:
    """Progress of one run on standard error."""

    def __init__(self, algorithm: str, task: str, seed: int, updates: int, unit: str = "update") -> None:
        self.title = f"{algorithm} on {task}, seed {seed}"
        self.updates, self.unit = updates, unit
        self._terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None
        self._begun, self._first, self._spoken = time.monotonic(), -1, 0.0

    def __enter__(self) -> Progress:
        if self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self.title, total=self.updates, rate="")
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def at(self, update: int) -> None:
        """The loop is at `update`; called about once a second."""
        now = time.monotonic()
        if self._first < 0:
            self._begun, self._first = now, update
        rate = (update - self._first) / max(now - self._begun, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=update, rate=f"{rate:.0f} {self.unit}s/s")
        elif not self._terminal and now - self._spoken > QUIET:
            self._spoken = now
            self.say(f"{self.unit} {update} of {self.updates}" + (f", {rate:.0f} {self.unit}s/s" if rate else ""))

    def metrics(self, update: int, values: dict[str, float]) -> None:
        """The metrics of a logged update."""
        if self._bar is not None:
            self.say(f"{update:>9}  " + "  ".join(f"{key} {value:.4g}" for key, value in values.items()))

    def returns(self, update: int, phase: str, returns: list[float], scores: list[float | None]) -> None:
        """The outcome of an evaluation."""
        text = f"{phase} evaluation at {self.unit} {update}: return {np.mean(returns):.1f} over {len(returns)} episodes"
        known = [score for score in scores if score is not None]
        self.say(text + (f", score {np.mean(known):.1f}" if known else ""))
