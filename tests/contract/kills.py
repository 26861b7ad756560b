"""A run in a process of its own, killed at random moments and continued until it finishes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

from rlsuite.harness import files
from rlsuite.harness.config import Resolved
from rlsuite.harness.run import execute, read_status
from rlsuite.harness.runs import first_difference

CONTEXT = multiprocessing.get_context("fork")  # a process of its own, without the seconds of importing torch


def _child(setup: Resolved, directory: Path) -> None:
    with open(directory.with_suffix(".log"), "a") as log:
        sys.stderr = log
        try:
            code = execute(setup, directory)
        except BaseException:
            traceback.print_exc(file=log)
            code = 1
        log.flush()
        os._exit(code)


def start(setup: Resolved, directory: Path):
    """Begin or continue a run in a process of its own."""
    process = CONTEXT.Process(target=_child, args=(setup, directory))
    process.start()
    return process


def finish(setup: Resolved, directory: Path) -> float:
    """Run to the end in a process of its own; gives the seconds it took."""
    begun = time.monotonic()
    process = start(setup, directory)
    process.join()
    assert process.exitcode == 0, directory.with_suffix(".log").read_text()
    return time.monotonic() - begun


class Cut(BaseException):
    """The end of a process, as far as a run can tell."""


def cut_and_finish(setup: Resolved, directory: Path, checkpoint: int) -> None:
    """Run, end without a word once so many checkpoints are written, and continue to the end."""
    save, written = files.save_checkpoint, 0

    def save_and_die(*arguments):
        nonlocal written
        save(*arguments)
        written += 1
        if written == checkpoint:
            raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "save_checkpoint", save_and_die)
        with pytest.raises(Cut):
            execute(setup, directory)
    assert execute(setup, directory) == 0


def kill_until_finished(setup: Resolved, finished: Path, duration: float, scratch: Path, often: int = 20) -> None:
    """SIGKILL, so `often`, at moments drawn over the whole run: loading, training, evaluating, and writing one of the
    checkpoints. Every run that finishes must equal the uninterrupted one in `finished`, which took `duration` seconds.
    """
    rng = np.random.default_rng(0)
    kills, in_checkpoint, compared = 0, 0, 0
    while kills < often or not compared:
        directory = scratch / f"run-{compared}"
        while read_status(directory).get("status") != "finished":
            process = start(setup, directory)
            aim_at_checkpoint = kills < often and kills % 2 == 0
            deadline = time.monotonic() + (rng.uniform(0, 0.6) * duration if kills < often else 600)
            while time.monotonic() < deadline and process.is_alive():
                # The temporary name exists exactly while a checkpoint is being written.
                if aim_at_checkpoint and any((directory / "checkpoints").glob(".*.tmp")):
                    break
                time.sleep(0.0005)
            if process.is_alive():
                in_checkpoint += any((directory / "checkpoints").glob(".*.tmp"))
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                kills += 1
            else:
                process.join()
                assert process.exitcode == 0, directory.with_suffix(".log").read_text()
        assert first_difference(finished, directory) == ""
        assert not list(directory.rglob("*.tmp"))
        compared += 1
    assert kills >= often
    assert in_checkpoint > 0
