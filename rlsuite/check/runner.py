"""Runs the cases of a check in parallel, one thread each; what happens to one process costs its runs only."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import Any

from rlsuite.bench.attempt import POLL, caught_signals, child_environment, last_line, usable_cores
from rlsuite.check.suite import Case

CHUNK = 4, 20  # runs a process: enough to make little of its start, few enough to share the work well

Runs = list[dict[str, Any]]  # of `cell.run`, in the order of the seeds
Told = Callable[[str, int, int], None]  # name of a case, its runs so far, all its runs


def run_cases(
    seeds: Mapping[str, Sequence[int]],
    cases: Sequence[Case],
    jobs: int | None = None,
    timeout: float | None = None,
    tell: Told | None = None,
) -> dict[str, Runs]:
    """The runs of each case with its `seeds`, `jobs` processes at a time (as many as there are cores by default).

    A process that needs more than `timeout` seconds is killed; a run that failed says why under "failure".
    """
    jobs = jobs or usable_cores()
    share = sum(len(seeds[case.name]) for case in cases) // (4 * jobs)
    chunk = min(max(CHUNK[0], share), CHUNK[1])
    work = [
        (case, seeds[case.name][start : start + chunk])
        for case in cases
        for start in range(0, len(seeds[case.name]), chunk)
    ]
    runs: dict[str, dict[int, dict[str, Any]]] = {case.name: {} for case, _ in work}
    running: set[subprocess.Popen[bytes]] = set()
    stopped, signals = Event(), list[int]()
    with caught_signals(signals.append), ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(_process, case, part, timeout, running, stopped): case.name for case, part in work}
        left = set(waiting)
        try:
            while left:
                done, left = wait(left, POLL, FIRST_COMPLETED)
                for future in done:
                    name = waiting[future]
                    runs[name].update((run["seed"], run) for run in future.result())
                    if tell:
                        tell(name, len(runs[name]), len(seeds[name]))
                if signals:
                    raise KeyboardInterrupt
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stopped.set()  # before the killing: who starts a process after it kills it itself
            for process in list(running):
                process.kill()
            raise
    return {name: [runs[name][seed] for seed in seeds[name]] for name in runs}


def _process(
    case: Case, seeds: Sequence[int], timeout: float | None, running: set[subprocess.Popen[bytes]], stopped: Event
) -> Runs:
    job = json.dumps({"algorithm": case.algorithm.source, "given": case.given, "seeds": list(seeds)})
    with tempfile.TemporaryDirectory(prefix="rlsuite-check-") as scratch:
        out, log = Path(scratch) / "runs.jsonl", Path(scratch) / "log.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "rlsuite.check.cell", job, str(out)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=case.base,
                env={**child_environment(1), "TMPDIR": scratch},
            )
            running.add(process)
            if stopped.is_set():
                process.kill()
            try:
                code = process.wait(timeout)
                killed = f"its process was killed by {signal.Signals(-code).name}" if code < 0 else ""
                reason = killed or last_line(log) or f"its process ended with code {code}"
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                reason = f"its process needed more than {timeout:g} s"
            finally:
                running.discard(process)
        done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return done + [{"seed": seed, "failure": reason} for seed in seeds[len(done) :]]
