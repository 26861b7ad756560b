"""Runs the cells of a table, so that what happens to one costs that one only.

What stands in the cells' folders is the truth: a finished cell is not run again, an unfinished one continues, and any
number of engines may work on one results folder. The engine says which cells run and when; where, says its place: this
machine, or a cluster.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rlsuite.bench import attempt
from rlsuite.bench.attempt import POLL, Job, Outcome, child_environment, outcome_in, peek, usable_cores
from rlsuite.bench.progress import Plain, Progress, View
from rlsuite.bench.rows import CELLS_FOLDER
from rlsuite.bench.table import Cell, Table

Command = Callable[[Cell, Path], Sequence[str]]


def train_command(cell: Cell, folder: Path) -> list[str]:
    """The process that runs or continues a cell in its run directory."""
    return [sys.executable, "-m", "rlsuite", "train", *cell.arguments(), "--run-dir", str(folder)]


@dataclass
class Result:
    """How a table stands when its engine ends."""

    outcomes: dict[str, Outcome]  # folder name -> outcome, for the chosen cells in the order of the table
    ran: int  # cells that this engine started
    stopped: bool  # by Ctrl-C or SIGTERM

    @property
    def failures(self) -> dict[str, Outcome]:
        """Every chosen cell that did not finish, for whatever reason."""
        return {name: outcome for name, outcome in self.outcomes.items() if outcome.state != "finished"}

    @property
    def finished(self) -> int:
        return sum(outcome.state == "finished" for outcome in self.outcomes.values())


def folder_of(results: Path, cell: Cell) -> Path:
    """The run directory of a cell."""
    return results / CELLS_FOLDER / cell.folder


def outcome_of(results: Path, cell: Cell) -> Outcome:
    """The state of a cell, from its run directory alone."""
    return outcome_in(folder_of(results, cell))


def is_due(outcome: Outcome, retry_failed: bool = False) -> bool:
    """Whether an engine runs a cell in this state.

    A crash may have been bad luck; a divergence is deterministic, so it is run again only if asked.
    """
    return outcome.state != "finished" and (outcome.state != "diverged" or retry_failed)


# ---- where cells run


class Attempt(Protocol):
    """A cell that is being run somewhere."""

    def poll(self) -> Outcome | None:
        """How it ended, once it has, as its folder says."""

    def stop(self) -> None:
        """Ask it to write its checkpoint and end."""

    def kill(self) -> None:
        """End it now."""


class Place(Protocol):
    """Where cells run: the same processes everywhere, so the same rows."""

    def jobs(self, threads: int) -> int:
        """How many cells with so many threads it has room for now."""

    def begin(self, job: Job, seen: Outcome) -> Attempt | Outcome | None:
        """Start a cell; or what others made of it since it was `seen`; or None if another engine has it now."""

    def close(self) -> None:
        """Let it go."""


class ThisMachine:
    """Local processes."""

    def jobs(self, threads: int) -> int:
        return max(1, usable_cores() // threads)

    def begin(self, job: Job, seen: Outcome) -> Attempt | Outcome | None:
        return attempt.begin(job, seen)

    def close(self) -> None:
        pass


# ---- the engine


@dataclass
class _Running:
    cell: Cell
    folder: Path
    attempt: Attempt
    started: float
    marks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=60))  # (time, update), for the speed

    def view(self, now: float) -> View:
        status = peek(self.folder / "status.json")
        update, updates = status.get("update"), status.get("updates")
        update = update if isinstance(update, int) else 0
        if status.get("status") == "running" and (not self.marks or self.marks[-1][1] != update):
            self.marks.append((now, update))
        speed = None
        if len(self.marks) > 1 and self.marks[-1][1] > self.marks[0][1]:
            speed = (self.marks[-1][1] - self.marks[0][1]) / (self.marks[-1][0] - self.marks[0][0])
        return View(
            self.cell,
            update,
            updates if isinstance(updates, int) else self.cell.updates,
            speed,
            now - self.started,
        )


class Engine:
    """Runs cells, `jobs` at a time. All are started by the thread that calls `run`."""

    def __init__(
        self,
        table: Table,
        results: Path,
        *,
        place: Place | None = None,
        jobs: int | None = None,
        timeout: float | None = None,
        retry_failed: bool = False,
        command: Command = train_command,
        progress: Progress | None = None,
        grace: float = 20.0,
    ) -> None:
        """`jobs` is as many as the place has room for by default.

        Seconds: `timeout` for one attempt of one cell, `grace` between SIGTERM and SIGKILL.
        """
        self.table, self.results, self.place, self.max_jobs = (
            table,
            Path(results).resolve(),
            place or ThisMachine(),
            jobs,
        )
        self.timeout, self.retry_failed, self.command, self.grace = timeout, retry_failed, command, grace
        self.progress = progress or Plain()
        self.running: list[_Running] = []
        self.outcomes: dict[str, Outcome] = {}
        self.ran = 0
        self.stops = 0  # signals to stop that came in

    def run(self, cells: Sequence[Cell]) -> Result:
        """Run those of `cells` that are due, until all are settled here or elsewhere, or a signal."""
        self.before = {cell.folder: outcome_of(self.results, cell) for cell in cells}
        self.outcomes = dict(self.before)
        self.threads = max((cell.threads for cell in cells), default=1)
        waiting = deque(cell for cell in cells if is_due(self.before[cell.folder], self.retry_failed))
        elsewhere: deque[Cell] = deque()
        told = False
        with attempt.caught_signals(self._on_signal), self.progress:
            self.progress.begin(len(cells), [c for c in cells if self.before[c.folder].state == "finished"])
            try:
                while (waiting or elsewhere or self.running) and not self.stops:
                    self._reap()
                    while waiting and self._has_room():
                        cell = waiting.popleft()
                        if not self._try(cell):
                            elsewhere.append(cell)
                    if not waiting and elsewhere:
                        for _ in range(len(elsewhere)):
                            cell = elsewhere.popleft()
                            if not self._has_room() or not self._try(cell):
                                elsewhere.append(cell)
                        if elsewhere and not self.running and not told:
                            told = True
                            self.progress.note(
                                f"waiting for {len(elsewhere)} cell(s) that another rlsuite bench runs in this folder"
                            )
                    self._tick(len(elsewhere))
            finally:  # no cell outlives its engine, whatever happened above
                self._stop_all()
        return Result({cell.folder: self.outcomes[cell.folder] for cell in cells}, self.ran, bool(self.stops))

    def _on_signal(self, number: int) -> None:
        self.stops += 1

    def _has_room(self) -> bool:
        return len(self.running) < (self.max_jobs or self.place.jobs(self.threads))

    def _try(self, cell: Cell) -> bool:
        """Settle or start a cell; False if another engine has it."""
        job, seen = self._job(cell), self.before[cell.folder]
        update = outcome_in(job.folder).update
        begun = self.place.begin(job, seen)
        if begun is None:
            return False
        if isinstance(begun, Outcome):
            self._settle(cell, begun, None)
            return True
        self.running.append(_Running(cell, job.folder, begun, time.monotonic()))
        self.ran += 1
        self.progress.started(cell, update)
        return True

    def _job(self, cell: Cell) -> Job:
        folder = folder_of(self.results, cell)
        return Job(
            title=cell.title,
            run_id=cell.run_id,
            folder=folder,
            argv=tuple(self.command(cell, folder)),
            base=self.table.base,
            environment=child_environment(cell.threads),
            threads=cell.threads,
            gpus=int(cell.resolved.settings.device.startswith("cuda")),
            timeout=self.timeout,
            grace=self.grace,
        )

    def _settle(self, cell: Cell, outcome: Outcome, seconds: float | None) -> None:
        self.outcomes[cell.folder] = outcome
        result = final_result(folder_of(self.results, cell))
        self.progress.settled(cell, outcome.state, outcome.message, seconds, result)

    def _reap(self) -> None:
        for run in list(self.running):
            outcome = run.attempt.poll()
            if outcome is not None:
                self.running.remove(run)
                self._settle(run.cell, outcome, time.monotonic() - run.started)

    def _tick(self, elsewhere: int) -> None:
        now = time.monotonic()
        self.progress.refresh([run.view(now) for run in self.running], elsewhere)
        time.sleep(POLL)

    def _stop_all(self) -> None:
        """Ask every cell to write its checkpoint and end; a second signal, or the end of the grace, kills."""
        if not self.running:
            return
        seen = self.stops
        self.stops = self.stops or 1
        self.progress.note(f"stopping {len(self.running)} cell(s), which write their checkpoints first")
        for run in self.running:
            run.attempt.stop()
        while self.running:
            if self.stops > max(seen, 1):
                for run in self.running:
                    run.attempt.kill()
            self._reap()
            self._tick(0)


def final_result(folder: Path) -> str:
    """Mean normalised score (x 100) of a run's final episodes in words, or mean return without a score; "" for none."""
    values: list[tuple[float | None, float]] = []
    try:
        with open(folder / "evaluations.jsonl", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if row.get("phase") == "final":
                    values.append((row.get("score"), row["return"]))
    except (OSError, ValueError, KeyError):
        return ""
    scores = [score for score, _ in values if score is not None]
    if values and len(scores) == len(values):
        return f"score {sum(scores) / len(scores):.1f}"
    return f"return {sum(value for _, value in values) / len(values):.1f}" if values else ""
