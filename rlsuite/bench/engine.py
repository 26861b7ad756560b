"""Runs the cells of a table as local processes, so that what happens to one costs that one only.

What stands in the cells' folders is the truth: a finished cell is not run again, an unfinished one
continues, and any number of engines may work on one results folder. A cell belongs to the process
that holds its lock. The cell's own process inherits the lock, so it is free again only when neither
engine nor cell is left.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import rlsuite
from rlsuite.bench.progress import Plain, Progress, View
from rlsuite.bench.rows import CELLS_FOLDER
from rlsuite.bench.table import Cell, Table
from rlsuite.data.files import read_json, write_atomic
from rlsuite.errors import UserError

Command = Callable[[Cell, Path], Sequence[str]]
State = Literal["new", "unfinished", "finished", "diverged", "crashed", "timeout"]

POLL = 0.1  # seconds
LOCKS = ".locks"
LOG = "log.txt"
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
EXIT_DIVERGED = 3
_STATES: dict[str, State] = {
    "finished": "finished",
    "diverged": "diverged",
    "crashed": "crashed",
    "failed": "crashed",
    "timeout": "timeout",
}


def train_command(cell: Cell, folder: Path) -> list[str]:
    """The process that runs or continues a cell in its run directory."""
    return [sys.executable, "-m", "rlsuite", "train", *cell.arguments(), "--run-dir", str(folder)]


@dataclass(frozen=True)
class Outcome:
    """What a cell's folder says about it."""

    state: State
    message: str = ""
    update: int = 0
    stamp: int = 0  # changes when somebody writes the status anew


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


def outcome_of(results: Path, cell: Cell) -> Outcome:
    """The state of a cell, from its run directory alone."""
    folder = results / CELLS_FOLDER / cell.folder
    path = folder / "status.json"
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        return Outcome("unfinished" if (folder / "config.json").exists() else "new")
    status = peek(path)
    state = _STATES.get(str(status.get("status", "")), "unfinished")
    update = status.get("update")
    return Outcome(state, str(status.get("message") or ""), update if isinstance(update, int) else 0, stamp)


def is_due(outcome: Outcome, retry_failed: bool = False) -> bool:
    """Whether an engine runs a cell in this state.

    A crash may have been bad luck; a divergence is deterministic, so it is run again only if asked.
    """
    return outcome.state != "finished" and (outcome.state != "diverged" or retry_failed)


def peek(path: Path) -> dict[str, Any]:
    """A JSON object that a process may not have written yet, or not whole: empty then."""
    try:
        return read_json(path)
    except (OSError, UserError):
        return {}


# ---- one process


@dataclass
class _Running:
    cell: Cell
    folder: Path
    process: subprocess.Popen[bytes]
    lock: int  # file descriptor
    started: float
    before: Outcome
    kill_at: float | None = None  # after a polite signal
    timed_out: bool = False
    marks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=60))  # (time, update), for the speed

    def signal(self, number: int) -> None:
        """To the whole process group: a cell may have helpers."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def has_ended(self) -> bool:
        """Whether the cell's process is gone; then so are the helpers that it may have left behind."""
        if hasattr(os, "waitid"):  # while the leader is a zombie, its group's number cannot be anybody else's
            if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            self.signal(signal.SIGKILL)
            self.process.wait()
        return self.process.poll() is not None

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


def try_lock(results: Path, cell: Cell) -> int | None:
    """Take a cell: a file descriptor to close when done, or None if another process has the cell."""
    path = results / CELLS_FOLDER / LOCKS / cell.folder
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); choose another folder with --results."
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def is_locked(results: Path, cell: Cell) -> bool:
    """Whether some engine runs the cell now. Writes nothing."""
    try:
        handle = os.open(results / CELLS_FOLDER / LOCKS / cell.folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _die_with_parent() -> Callable[[], None] | None:
    """What a child calls before it becomes the cell: even SIGKILL of this process ends it too."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, getppid, parent = ctypes.CDLL(None).prctl, os.getppid, os.getpid()

    def child() -> None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if getppid() != parent:  # it died in between
            os._exit(1)

    return child


def child_environment(threads: int) -> dict[str, str]:
    """The environment of a cell: its threads, and this very package importable from any folder."""
    root = str(Path(rlsuite.__file__).resolve().parent.parent)
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    if "site-packages" not in root and root not in paths:
        paths.append(root)
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), "PYTHONUNBUFFERED": "1"}
    if paths:
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(p).resolve()) for p in paths)
    return environment


# ---- the engine


class Engine:
    """Runs cells, `jobs` at a time. All children are started by the thread that calls `run`."""

    def __init__(
        self,
        table: Table,
        results: Path,
        *,
        jobs: int = 1,
        timeout: float | None = None,
        retry_failed: bool = False,
        command: Command = train_command,
        progress: Progress | None = None,
        grace: float = 20.0,
    ) -> None:
        """Seconds: `timeout` for one attempt of one cell, `grace` between SIGTERM and SIGKILL."""
        self.table, self.results, self.jobs = table, Path(results).resolve(), jobs
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
        waiting = deque(cell for cell in cells if is_due(self.before[cell.folder], self.retry_failed))
        elsewhere: deque[Cell] = deque()
        told = False
        with self._signals(), self.progress:
            self.progress.begin(len(cells), [c for c in cells if self.before[c.folder].state == "finished"])
            try:
                while (waiting or elsewhere or self.running) and not self.stops:
                    self._reap()
                    while waiting and len(self.running) < self.jobs:
                        cell = waiting.popleft()
                        if not self._try(cell):
                            elsewhere.append(cell)
                    if not waiting and elsewhere:
                        for _ in range(len(elsewhere)):
                            cell = elsewhere.popleft()
                            if len(self.running) >= self.jobs or not self._try(cell):
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

    def _try(self, cell: Cell) -> bool:
        """Settle or start a cell; False if another engine has it."""
        lock = try_lock(self.results, cell)
        if lock is None:
            return False
        folder = self.results / CELLS_FOLDER / cell.folder
        now, before = outcome_of(self.results, cell), self.before[cell.folder]
        settled_elsewhere = now.state in ("diverged", "crashed", "timeout") and now.stamp != before.stamp
        if now.state == "finished" or settled_elsewhere:
            os.close(lock)
            self.outcomes[cell.folder] = now
            self.progress.settled(cell, now.state, now.message, None, final_result(folder))
            return True
        try:
            self._start(cell, folder, lock, now)
        except OSError as error:
            os.close(lock)
            raise UserError(
                f"the cell {cell.title} cannot be started: {error.strerror or error} ({folder})."
            ) from error
        return True

    def _start(self, cell: Cell, folder: Path, lock: int, before: Outcome) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOG, "ab") as log:
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {cell.title}\n".encode())
            log.flush()
            process = subprocess.Popen(
                self.command(cell, folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.table.base,
                env=child_environment(cell.threads),
                start_new_session=True,  # Ctrl-C of the terminal reaches only us, and we pass it on
                preexec_fn=_die_with_parent(),
                pass_fds=(lock,),
            )
        self.running.append(_Running(cell, folder, process, lock, time.monotonic(), before))
        self.ran += 1
        self.progress.started(cell, before.update)

    def _reap(self) -> None:
        now = time.monotonic()
        for run in list(self.running):
            if run.has_ended():
                self.running.remove(run)
                outcome = self._settle(run)
                self.outcomes[run.cell.folder] = outcome
                os.close(run.lock)  # only now, so that another engine sees the cell as it was settled
                seconds = now - run.started
                self.progress.settled(run.cell, outcome.state, outcome.message, seconds, final_result(run.folder))
            elif run.kill_at is not None:
                if now >= run.kill_at:
                    run.signal(signal.SIGKILL)
            elif self.timeout is not None and now - run.started >= self.timeout:
                run.timed_out = True
                self._terminate(run)

    def _terminate(self, run: _Running) -> None:
        run.signal(signal.SIGTERM)
        run.signal(signal.SIGCONT)
        run.kill_at = time.monotonic() + self.grace

    def _settle(self, run: _Running) -> Outcome:
        """Read how a process ended, and write that into its folder where it could not do so itself."""
        code = run.process.returncode
        outcome = outcome_of(self.results, run.cell)
        said = outcome.message if outcome.stamp != run.before.stamp else ""
        if peek(run.folder / "manifest.json").get("run_id", run.cell.run_id) != run.cell.run_id:
            return self._record(run, "crashed", "the algorithm's file changed meanwhile; run the table again")
        if code == 0 and outcome.state == "finished":
            return outcome
        if run.timed_out:
            return self._record(run, "timeout", f"stopped after {self.timeout:g} s")
        if code == EXIT_DIVERGED:
            return self._record(run, "diverged", said or last_line(run.folder / LOG))
        if self.stops or code in (130, 143, -signal.SIGINT, -signal.SIGTERM):
            return outcome  # it stopped in good order, or its last checkpoint stands
        if code == 0:
            said = "the process ended without finishing its run"
        elif code == -signal.SIGKILL:
            said = "killed by SIGKILL, most often for lack of memory"
        elif code < 0:
            said = f"killed by {signal.Signals(-code).name}"
        return self._record(run, "crashed", said or last_line(run.folder / LOG) or f"exit code {code}")

    def _record(self, run: _Running, status: str, message: str) -> Outcome:
        path = run.folder / "status.json"
        # Rows are published: they need no path of this machine.
        message = " ".join(message.replace(str(run.folder), run.folder.name).split())[:300]
        content = {**peek(path), "status": status, "message": message}
        write_atomic(path, (json.dumps(content) + "\n").encode())
        return outcome_of(self.results, run.cell)

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
            self._terminate(run)
        while self.running:
            if self.stops > max(seen, 1):
                for run in self.running:
                    run.kill_at = 0.0
            self._reap()
            self._tick(0)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, frame: object) -> None:
            self.stops += 1

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
            numbers.append(signal.SIGHUP)
        old = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


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


def last_line(log: Path, size: int = 4096) -> str:
    """The last line with text in a log, which for a traceback is the error itself."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return ""
    lines = [line for line in lines if line and not line.startswith("--- ")]
    return lines[-1].removeprefix("rlsuite: ") if lines else ""
