"""The processes that make the episodes of a recipe, and the order in which their episodes make a dataset.

A dataset has one or several streams of episodes. They take turns of about a thousand steps, so they contribute equally
to every part of it, and the order depends on the episodes alone: not on the number of processes, nor on where the
dataset ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from rlsuite.data.recording import Space
from rlsuite.data.rollout import REQUEST
from rlsuite.data.spool import Frame, read_frame
from rlsuite.errors import UserError

TURN = 1000  # steps


def _turn(steps: Sequence[float]) -> int:
    """In round r the first stream with fewer than r turns' worth of steps."""
    rounds = [n // TURN for n in steps]
    return rounds.index(min(rounds))


class Contribution:
    """What each stream has contributed, and whose turn it is."""

    def __init__(self, streams: int) -> None:
        self.episodes = [0] * streams
        self.steps = [0] * streams

    def turn(self) -> int:
        """The stream whose episode is next."""
        return _turn(self.steps)

    def add(self, stream: int, steps: int) -> None:
        self.episodes[stream] += 1
        self.steps[stream] += steps


Answers: TypeAlias = "queue.SimpleQueue[tuple[Worker, Frame | None]]"  # None: it is dead


class Worker:
    """A child process that answers requests for episodes, and the thread that reads its answers."""

    def __init__(self, arguments: Mapping[str, Any], spaces: tuple[Space, Space], answers: Answers) -> None:
        environment = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
        if platform.machine() in ("x86_64", "AMD64"):
            # OpenBLAS has other kernels, and other last bits, for other processors; this one runs on all with AVX2.
            environment["OPENBLAS_CORETYPE"] = "Haswell"
        self.asked: list[tuple[int, int]] = []  # stream, episode: not answered yet
        self._spaces, self._answers = spaces, answers
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rlsuite.data.rollout", json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            while (frame := read_frame(stream, *self._spaces)) is not None:
                self._answers.put((self, frame))
        self._answers.put((self, None))

    def ask(self, stream: int, episode: int) -> None:
        assert self._process.stdin is not None
        self.asked.append((stream, episode))
        with contextlib.suppress(BrokenPipeError):  # its end is among the answers
            self._process.stdin.write(REQUEST.pack(stream, episode))
            self._process.stdin.flush()

    def last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no message"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._errors.close()


class Crew:
    """All workers of a build. A context: on leaving it they are gone."""

    AHEAD = 4000  # steps that a worker is asked for, again when half is done, so that it need not wait for this process
    REQUESTS = 256  # and episodes

    def __init__(self, arguments: Mapping[str, Any], spaces: tuple[Space, Space], jobs: int, steps: int) -> None:
        """`arguments` as `rollout.serve` takes them; `steps` in all."""
        self._answers: Answers = queue.SimpleQueue()
        self._workers = [Worker(arguments, spaces, self._answers) for _ in range(jobs)]
        streams = len(arguments["behaviours"])
        self._steps = steps
        self._asked = [0] * streams  # episodes
        self._lengths = [(1000, 1)] * streams  # steps and episodes seen so far, with a long one to begin with

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            worker.close()

    def frames(self, parts: Contribution) -> Iterator[Frame]:
        """The frames after those in `parts`, which the caller keeps up, until nobody asks for more.

        Raises UserError where a worker has died.
        """
        self._asked = list(parts.episodes)
        ready: dict[tuple[int, int], Frame] = {}
        self._plan(parts)
        while True:
            stream = parts.turn()
            wanted = stream, parts.episodes[stream]
            while wanted not in ready:
                if self._asked[stream] == wanted[1]:
                    self._ask(min(self._workers, key=lambda worker: len(worker.asked)), stream)
                worker, frame = self._answers.get()
                if frame is None:
                    raise UserError(
                        f"a process that was making episodes died ({worker.last_words()}); "
                        "build again, with fewer --jobs."
                    )
                key = frame.head.stream, frame.head.episode
                worker.asked.remove(key)
                ready[key] = frame
                steps, episodes = self._lengths[key[0]]
                self._lengths[key[0]] = steps + frame.head.length, episodes + 1
                if len(worker.asked) < 2 or len(worker.asked) * steps <= episodes * self.AHEAD // 2:
                    self._plan(parts)
            yield ready.pop(wanted)

    def _ask(self, worker: Worker, stream: int) -> None:
        worker.ask(stream, self._asked[stream])
        self._asked[stream] += 1

    def _plan(self, parts: Contribution) -> None:
        """Ask ahead, by the lengths seen so far; a wrong guess costs time and changes nothing."""
        mean = [steps / episodes for steps, episodes in self._lengths]
        planned = [
            steps + (asked - episodes) * length
            for steps, episodes, asked, length in zip(parts.steps, parts.episodes, self._asked, mean, strict=True)
        ]
        for worker in self._workers:
            ahead = sum(mean[stream] for stream, _ in worker.asked)
            while (ahead < self.AHEAD or len(worker.asked) < 2) and len(worker.asked) < self.REQUESTS:
                if sum(planned) >= self._steps:
                    return
                stream = _turn(planned)
                self._ask(worker, stream)
                ahead += mean[stream]
                planned[stream] += mean[stream]
