"""One attempt at a cell: its process on this machine, from the lock to the status that says how it ended.

What stands in a cell's folder is the truth about it. A cell belongs to the process that holds its lock. The cell's own
process inherits the lock, so it is free again only when neither the one who tends it nor the cell is left.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import rlsuite
from rlsuite.data.files import read_json, write_atomic
from rlsuite.errors import UserError

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
# What a machine knows better than the one that sends it a cell.
_OF_THE_MACHINE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HOSTNAME", "TMPDIR")
_STATES: dict[str, State] = {
    "finished": "finished",
    "diverged": "diverged",
    "crashed": "crashed",
    "failed": "crashed",
    "timeout": "timeout",
}


@dataclass(frozen=True)
class Job:
    """What a machine must know to run a cell. Paths are absolute and the same on all machines."""

    title: str
    run_id: str
    folder: Path  # the run directory, which exists
    argv: tuple[str, ...]
    base: Path  # working directory
    environment: dict[str, str]
    threads: int
    gpus: int
    timeout: float | None  # seconds for this attempt
    grace: float  # seconds between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Outcome:
    """What a cell's folder says about it."""

    state: State
    message: str = ""
    update: int = 0
    stamp: int = 0  # changes when somebody writes the status anew

    def settled_since(self, seen: Outcome) -> bool:
        """Whether this is a finished cell, or a failure that was not yet there when it was `seen`."""
        failed = self.state in ("diverged", "crashed", "timeout")
        return self.state == "finished" or (failed and self.stamp != seen.stamp)


def outcome_in(folder: Path) -> Outcome:
    """The state of a cell, from its run directory alone."""
    path = folder / "status.json"
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        return Outcome("unfinished" if (folder / "config.json").exists() else "new")
    status = peek(path)
    state = _STATES.get(str(status.get("status", "")), "unfinished")
    update = status.get("update")
    return Outcome(state, str(status.get("message") or ""), update if isinstance(update, int) else 0, stamp)


def record(folder: Path, status: str, message: str) -> Outcome:
    """Write into a cell's folder how it ended, where its process could not do so itself."""
    path = folder / "status.json"
    # Rows are published: they need no path of this machine.
    message = " ".join(message.replace(str(folder), folder.name).split())[:300]
    write_atomic(path, (json.dumps({**peek(path), "status": status, "message": message}) + "\n").encode())
    return outcome_in(folder)


def peek(path: Path) -> dict[str, Any]:
    """A JSON object that a process may not have written yet, or not whole: empty then."""
    try:
        return read_json(path)
    except (OSError, UserError):
        return {}


def usable_cores() -> int:
    """Processors that this process may use, a container's quota included."""
    cores = len(os.sched_getaffinity(0)) if sys.platform.startswith("linux") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return cores


# ---- whose cell it is


def try_lock(folder: Path) -> int | None:
    """Take a cell: a file descriptor to close when done, or None if another process has the cell."""
    path = folder.parent / LOCKS / folder.name
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
    except OSError as error:
        os.close(handle)
        raise UserError(
            f"{path} cannot be locked ({error.strerror}); choose a folder on a file system with locks with --results."
        ) from error
    return handle


def is_locked(folder: Path) -> bool:
    """Whether a process runs the cell now. Writes nothing."""
    try:
        handle = os.open(folder.parent / LOCKS / folder.name, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


# ---- its process


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


class Attempt:
    """A cell's process on this machine. It is started by the thread that makes this, which must live as long."""

    def __init__(self, job: Job, lock: int) -> None:
        """Start it under `lock`, which this closes at the end. Raises OSError where it cannot be started."""
        self.job, self.lock = job, lock
        self.before = outcome_in(job.folder)
        self.stopped = self.timed_out = False
        self.kill_at: float | None = None  # after a polite signal
        of_the_machine = {name: os.environ[name] for name in _OF_THE_MACHINE if name in os.environ}
        with open(job.folder / LOG, "ab") as log:
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {job.title}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                job.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=job.base,
                env=job.environment | of_the_machine,
                start_new_session=True,  # Ctrl-C of the terminal reaches only us, and we pass it on
                preexec_fn=_die_with_parent(),
                pass_fds=(lock,),
            )
        self.started = time.monotonic()

    def poll(self) -> Outcome | None:
        """How the cell ended, once it has; until then, see to its time limit."""
        now = time.monotonic()
        if self._has_ended():
            outcome = self._settle()
            os.close(self.lock)  # only now, so that others see the cell as it was settled
            return outcome
        if self.kill_at is not None:
            if now >= self.kill_at:
                self._signal(signal.SIGKILL)
        elif self.job.timeout is not None and now - self.started >= self.job.timeout:
            self.timed_out = True
            self._terminate()
        return None

    def stop(self) -> None:
        """Ask the cell to write its checkpoint and end; it is killed after the grace."""
        self.stopped = True
        self._terminate()

    def kill(self) -> None:
        """Do not wait for the grace."""
        self.stopped, self.kill_at = True, 0.0

    def _terminate(self) -> None:
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        self.kill_at = time.monotonic() + self.job.grace

    def _signal(self, number: int) -> None:
        """To the whole process group: a cell may have helpers."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def _has_ended(self) -> bool:
        """Whether the cell's process is gone; then so are the helpers that it may have left behind."""
        if hasattr(os, "waitid"):  # while the leader is a zombie, its group's number cannot be anybody else's
            if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            self._signal(signal.SIGKILL)
            self.process.wait()
        return self.process.poll() is not None

    def _settle(self) -> Outcome:
        """Read how the process ended, and write that into its folder where it could not do so itself."""
        folder, code = self.job.folder, self.process.returncode
        outcome = outcome_in(folder)
        said = outcome.message if outcome.stamp != self.before.stamp else ""
        if peek(folder / "manifest.json").get("run_id", self.job.run_id) != self.job.run_id:
            return record(folder, "crashed", "the algorithm's file changed meanwhile; run the table again")
        if code == 0 and outcome.state == "finished":
            return outcome
        if self.timed_out:
            return record(folder, "timeout", f"stopped after {self.job.timeout:g} s")
        if code == EXIT_DIVERGED:
            return record(folder, "diverged", said or last_line(folder / LOG))
        if self.stopped or code in (130, 143, -signal.SIGINT, -signal.SIGTERM):
            return outcome  # it stopped in good order, or its last checkpoint stands
        if code == 0:
            said = "the process ended without finishing its run"
        elif code == -signal.SIGKILL:
            said = "killed by SIGKILL, most often for lack of memory"
        elif code < 0:
            said = f"killed by {signal.Signals(-code).name}"
        return record(folder, "crashed", said or last_line(folder / LOG) or f"exit code {code}")


def begin(job: Job, seen: Outcome) -> Attempt | Outcome | None:
    """Take a cell and start it; or what others made of it since it was `seen`; or None if they have it now."""
    lock = try_lock(job.folder)
    if lock is None:
        return None
    now = outcome_in(job.folder)
    if now.settled_since(seen):
        os.close(lock)
        return now
    try:
        return Attempt(job, lock)
    except OSError as error:
        os.close(lock)
        raise UserError(f"the cell {job.title} cannot be started: {error.strerror or error} ({job.folder}).") from error


def tend(job: Job, seen: Outcome) -> Outcome | str:
    """What a machine of a cluster does with a cell: run it to its end, or until a signal.

    A sentence instead where it cannot be run here at all.
    """
    stops: list[int] = []
    with caught_signals(stops.append, signal.SIGUSR2):  # the last is what submitit sends before a time limit
        try:
            if not job.folder.is_dir():
                return (
                    f"the machine {socket.gethostname()} has no folder {job.folder}; put the results on a file system "
                    "that all machines of the cluster share, under one path."
                )
            begun = None
            while not stops and (begun := begin(job, seen)) is None:  # its last keeper may not know that it is over
                time.sleep(POLL)
        except UserError as error:
            return str(error)
        if not isinstance(begun, Attempt):
            return begun or outcome_in(job.folder)
        while (outcome := begun.poll()) is None:
            if stops and not begun.stopped:
                begun.stop()
            time.sleep(POLL)
        return outcome


@contextmanager
def caught_signals(tell: Callable[[int], object], *more: int) -> Iterator[None]:
    """Signals to stop call `tell` with their number, as long as this lasts; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM, *more]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    old = {number: signal.signal(number, lambda number, frame: tell(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


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
