"""Cells on the machines of a cluster: by Ray, and by Slurm through submitit.

A machine tends a cell as this one would (`attempt.tend`): it takes the cell's lock, starts the same process, and writes
how that ended. What is added here is that machines get lost. The cell is then sent to another one, which continues from
the last checkpoint; should the lost machine still run it, its lock makes the other one wait.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rlsuite.bench.attempt import Job, Outcome, is_locked, outcome_in, record, tend
from rlsuite.bench.engine import Attempt
from rlsuite.errors import UserError, printable

LIVES = 3  # machines that a cell may lose, one after the other, without getting any further
SLURM_JOBS = 100
SLURM_MINUTES = 24 * 60  # a cell that needs longer goes on where it was in another job


class Lost(Exception):
    """A machine ended without saying what became of its cell; the message says why."""


class Sent(Protocol):
    """A cell on its way to a machine, or there."""

    def poll(self) -> Outcome | str | None:
        """What `tend` returned, once it has. Raises Lost where it never will."""

    def stop(self) -> None:
        """Interrupt it; forget it where it has not begun."""

    def kill(self) -> None:
        """End it now."""


class Scheduler(Protocol):
    """Finds machines for cells."""

    def jobs(self, threads: int) -> int:
        """How many cells with so many threads may be sent at a time."""

    def send(self, job: Job, seen: Outcome) -> Sent:
        """Have `tend(job, seen)` called on some machine."""

    def close(self) -> None:
        """Let the cluster go."""


class Cluster:
    """The `Place` of cells that a scheduler sends to machines."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def jobs(self, threads: int) -> int:
        return max(1, self.scheduler.jobs(threads))

    def begin(self, job: Job, seen: Outcome) -> Attempt | Outcome | None:
        if is_locked(job.folder):
            return None
        now = outcome_in(job.folder)
        return now if now.settled_since(seen) else _Away(self.scheduler, job, seen)

    def close(self) -> None:
        self.scheduler.close()


class _Away:
    """A cell on the cluster, sent again when its machine is lost."""

    def __init__(self, scheduler: Scheduler, job: Job, seen: Outcome) -> None:
        self.scheduler, self.job, self.seen = scheduler, job, seen
        self.stopped = False
        self.furthest, self.lives = outcome_in(job.folder).update, LIVES
        self.sent = scheduler.send(job, seen)

    def poll(self) -> Outcome | None:
        if self.stopped and not is_locked(self.job.folder):  # a cluster may be slow to say so
            return outcome_in(self.job.folder)
        why = "it stopped the cell"
        try:
            answer = self.sent.poll()
        except Lost as lost:
            answer, why = outcome_in(self.job.folder), str(lost)
        if answer is None or self.stopped:
            return None
        if isinstance(answer, str):
            raise UserError(answer)
        if answer.settled_since(self.seen):
            return answer
        self.lives = LIVES if answer.update > self.furthest else self.lives - 1
        self.furthest = max(self.furthest, answer.update)
        if not self.lives:
            return record(self.job.folder, "crashed", f"{LIVES} machines were lost, the last one for: {why}")
        self.sent = self.scheduler.send(self.job, self.seen)
        return None

    def stop(self) -> None:
        self.stopped = True
        self.sent.stop()

    def kill(self) -> None:
        self.stopped = True
        self.sent.kill()


# ---- Ray


class Ray:
    """Tasks on a Ray cluster, a CPU for each thread of a cell."""

    def __init__(self, address: str = "") -> None:
        """Join the cluster at `address`, or RAY_ADDRESS, or the one that runs on this machine.

        Raises UserError where there is none.
        """
        try:
            import ray
        except ImportError as error:
            raise UserError("--engine ray needs Ray: pip install 'rlsuite[ray]'.") from error
        address = address or os.environ.get("RAY_ADDRESS") or "auto"
        host, colon, port = address.rpartition(":")
        try:
            if colon and "://" not in address:  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=5).close()
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            where = "on this machine" if address == "auto" else f"at {address}"
            raise UserError(
                f"there is no Ray cluster {where} ({printable(error)}); start one with `ray start --head`, or name it "
                "in RAY_ADDRESS."
            ) from error
        self.ray: Any = ray
        self.tend = ray.remote(max_retries=0)(tend)

    def jobs(self, threads: int) -> int:
        return int(self.ray.cluster_resources().get("CPU", 0)) // threads

    def send(self, job: Job, seen: Outcome) -> Sent:
        task = self.tend.options(name=job.title, num_cpus=job.threads, num_gpus=job.gpus)
        return _RayTask(self.ray, task.remote(job, seen))

    def close(self) -> None:
        self.ray.shutdown()


class _RayTask:
    def __init__(self, ray: Any, reference: Any) -> None:
        self.ray, self.reference = ray, reference

    def poll(self) -> Outcome | str | None:
        ready, _ = self.ray.wait([self.reference], timeout=0)
        if not ready:
            return None
        try:
            answer: Outcome | str = self.ray.get(self.reference)
        except self.ray.exceptions.RayTaskError as error:  # tend raises nothing, but may not have been found
            return f"a machine of the cluster cannot run cells: {printable(error.cause)}; is rlsuite installed there?"
        except self.ray.exceptions.RayError as error:
            raise Lost(type(error).__name__) from error
        return answer

    def stop(self) -> None:
        self.ray.cancel(self.reference)

    def kill(self) -> None:
        self.ray.cancel(self.reference, force=True)


# ---- Slurm


class Slurm:
    """Jobs of Slurm, by submitit. Their files are in `cells/.slurm` of the results folder.

    That a job ended without a word is learnt from sacct, so without Slurm's accounting such a cell is waited for.
    """

    def __init__(self, results: Path, options: dict[str, str], cluster: str = "slurm") -> None:
        """`options` are sbatch's, such as partition; `cluster` is one of submitit's: slurm, or local for tests.

        Raises UserError where there is no Slurm, or no submitit.
        """
        try:
            import submitit
        except ImportError as error:
            raise UserError("--engine slurm needs submitit: pip install 'rlsuite[slurm]'.") from error
        if cluster == "slurm" and not shutil.which("sbatch"):
            raise UserError("there is no Slurm on this machine (no sbatch); submit from one that has it.")
        self.options = dict(options)
        self.minutes = self.options.pop("time", str(SLURM_MINUTES))
        if not self.minutes.isdecimal():
            raise UserError(f"--slurm time={self.minutes} is no number of minutes.")
        logging.getLogger("submitit").setLevel(logging.ERROR)
        folder = results.resolve() / "cells" / ".slurm"
        self.executor = partial(submitit.AutoExecutor, folder, cluster=cluster)  # making one makes the folder

    def jobs(self, threads: int) -> int:
        return SLURM_JOBS

    def send(self, job: Job, seen: Outcome) -> Sent:
        executor, gpus = self.executor(), {"gpus_per_node": job.gpus} if job.gpus else {}
        executor.update_parameters(
            name=job.folder.name,
            timeout_min=int(self.minutes),
            cpus_per_task=job.threads,
            slurm_additional_parameters=self.options,
            **gpus,
        )
        return _SlurmJob(executor.submit(tend, job, seen))

    def close(self) -> None:
        pass


class _SlurmJob:
    def __init__(self, job: Any) -> None:
        self.job = job

    def poll(self) -> Outcome | str | None:
        if not self.job.done():
            return None
        if not self.job.paths.result_pickle.exists():
            raise Lost(f"Slurm's job {self.job.job_id} is {self.job.state}")
        error = self.job.exception()
        if error is not None:
            return f"a machine of the cluster cannot run cells: {printable(str(error).strip().splitlines()[-1])}."
        answer: Outcome | str = self.job.result()
        return answer

    def stop(self) -> None:
        self.job.cancel(check=False)

    def kill(self) -> None:
        self.job.cancel(check=False)
