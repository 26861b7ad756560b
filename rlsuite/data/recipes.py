"""Datasets built here: a behaviour policy, an environment, a number of steps and a seed.

A build streams episodes 0, 1, 2, ... in order into one Minari dataset until the steps are there, the last episode cut
and marked truncated. Episodes are independent of one another, so the bytes do not depend on the number of processes,
and the first N steps of a larger build are the build of N. (On one CPU class: others may round
differently.)
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from rlsuite.data.minari_store import folder, locked, read_metadata, read_minari, write_episodes
from rlsuite.data.recording import Episode, Header, Space, env_spec
from rlsuite.data.rollout import FRAME
from rlsuite.errors import UserError

BEHAVIOUR = Path(__file__).parent / "behaviour"
Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True)
class Recipe:
    """What determines a dataset. `behaviour` names a weights file in the package; None acts uniformly at random."""

    id: str
    env_id: str
    behaviour: str | None
    seed: int  # different in every recipe, so that no two datasets share initial states
    description: str
    steps: int = 1_000_000  # default size

    @property
    def weights(self) -> Path | None:
        return None if self.behaviour is None else BEHAVIOUR / f"{self.behaviour}.npz"

    @cached_property
    def policy_sha256(self) -> str | None:
        return None if self.weights is None else hashlib.sha256(self.weights.read_bytes()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """What must be equal for two builds to be the same dataset."""
        return {
            "recipe": self.id,
            "environment": self.env_id,
            "seed": self.seed,
            "policy": self.behaviour or "uniform",
            "policy_sha256": self.policy_sha256,
        }


_RANDOM = "Actions drawn uniformly from the action space."
_MEDIUM = (
    "The sampled policy of a SAC agent, stopped when it first reached a third of the expert's return, as D4RL's medium "
    "data; its record says what it returns."
)

RECIPES = {
    recipe.id: recipe
    for recipe in (
        Recipe("rlsuite/hopper/random-v0", "Hopper-v5", None, 1000, _RANDOM),
        Recipe("rlsuite/hopper/medium-v0", "Hopper-v5", "hopper-medium", 1001, _MEDIUM),
    )
}


def stored_steps(recipe: Recipe) -> int:
    """How many transitions of a recipe lie on this machine, 0 for none.

    Raises UserError where the data under its id came from another policy, seed or environment.
    """
    if folder(recipe.id) is None:
        return 0
    metadata = read_metadata(recipe.id)
    note = metadata.get("rlsuite", {})
    if {key: note.get(key) for key in recipe.identity()} != recipe.identity():
        raise UserError(
            f"the stored {recipe.id} was not built by this version's recipe; "
            f"rebuild it with `rlsuite data make {recipe.id} --force` or load it by its folder."
        )
    return int(metadata["total_steps"])


def build(
    recipe: Recipe,
    steps: int | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> bool:
    """Make sure that at least `steps` transitions (default: the recipe's) are stored; True if they were built now.

    `jobs` worker processes (default: all CPUs of this process). Another process that builds the same dataset is waited
    for. A killed build leaves no dataset; an older one is replaced only at the end. Raises UserError where the disk
    refuses.
    """
    steps = recipe.steps if steps is None else steps
    if steps < 1:
        raise UserError(f"cannot build {steps} steps of {recipe.id}; ask for at least 1.")
    if not force and stored_steps(recipe) >= steps:
        return False
    with locked(recipe.id):
        if not force and stored_steps(recipe) >= steps:
            return False
        with contextlib.closing(_episodes(recipe, steps, jobs or _cpus(), progress)) as episodes:
            write_episodes(recipe.id, _header(recipe), episodes, lambda data: _note(recipe, data))
    return True


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _header(recipe: Recipe) -> Header:
    observation_space, action_space = _spaces(recipe.env_id)
    return Header(
        observation_space,
        action_space,
        env_spec(recipe.env_id),
        {
            "algorithm_name": "uniform random" if recipe.behaviour is None else "SAC (Stable-Baselines3)",
            "author": ["rlsuite"],
            "description": f"{recipe.description} Built by rlsuite's recipe {recipe.id} in {recipe.env_id}.",
            "requirements": [f"{name}=={_version(name)}" for name in ("gymnasium", "mujoco")],
        },
    )


def _note(recipe: Recipe, data: Path) -> dict[str, Any]:
    versions = {name: _version(name) for name in ("rlsuite", "gymnasium", "mujoco", "numpy")}
    content_hash = read_minari(data).content_hash
    return {"rlsuite": {**recipe.identity(), "versions": versions, "content_hash": content_hash}}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        from rlsuite import __version__

        return __version__ if package == "rlsuite" else "unknown"


def _spaces(env_id: str) -> tuple[Space, Space]:
    env = gym.make(env_id)
    spaces = []
    for space in (env.observation_space, env.action_space):
        assert isinstance(space, gym.spaces.Box) and len(space.shape) == 1
        spaces.append(Space(space.low.astype(np.float64), space.high.astype(np.float64), str(space.dtype)))
    env.close()
    return spaces[0], spaces[1]


def _episodes(recipe: Recipe, steps: int, jobs: int, progress: Progress | None) -> Generator[Episode]:
    """Episodes 0, 1, ... of `steps` transitions in all; worker j makes j, j + jobs, ..."""
    observation_space, action_space = _spaces(recipe.env_id)
    workers = [_Worker(recipe, j, jobs, observation_space, action_space) for j in range(jobs)]
    try:
        done = k = 0
        while done < steps:
            episode = workers[k % jobs].next()
            length = len(episode.rewards)
            if done + length > steps:
                length = steps - done
                flags = np.zeros(length, bool)
                last = flags.copy()
                last[-1] = True
                episode = Episode(
                    episode.observations[: length + 1],
                    episode.actions[:length],
                    episode.rewards[:length],
                    flags,
                    last,
                    episode.seed,
                )
            yield episode
            done, k = done + length, k + 1
            if progress is not None:
                progress(done, steps)
    finally:
        for worker in workers:
            worker.close()


class _Worker:
    """A child process and the thread that reads ahead from it, so that one long episode does not hold up the others."""

    AHEAD = 64  # episodes

    def __init__(self, recipe: Recipe, first: int, stride: int, observations: Space, actions: Space) -> None:
        arguments = {
            "env_id": recipe.env_id,
            "weights": None if recipe.weights is None else str(recipe.weights),
            "seed": recipe.seed,
            "first": first,
            "stride": stride,
        }
        blas = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
        if platform.machine() in ("x86_64", "AMD64"):
            # OpenBLAS has other kernels, and other last bits, for other processors; this one runs on all with AVX2.
            blas["OPENBLAS_CORETYPE"] = "Haswell"
        self._spaces = observations, actions
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rlsuite.data.rollout", json.dumps(arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **blas, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        self._queue: queue.Queue[Episode | None] = queue.Queue(self.AHEAD)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        observations, actions = self._spaces
        with self._process.stdout as stream:
            while len(frame := stream.read(FRAME.size)) == FRAME.size:
                _, length, seed, terminated, truncated = FRAME.unpack(frame)
                arrays = []
                for rows, dim, dtype in (
                    (length + 1, observations.dim, observations.dtype),
                    (length, actions.dim, actions.dtype),
                    (length, 1, "float64"),
                ):
                    data = stream.read(rows * dim * np.dtype(dtype).itemsize)
                    arrays.append(np.frombuffer(data, dtype).reshape(-1, dim))
                if len(arrays[2]) < length:
                    break
                flags = np.zeros((2, length), bool)
                flags[:, -1] = terminated, truncated
                self._queue.put(Episode(arrays[0], arrays[1], arrays[2][:, 0], flags[0], flags[1], seed))
        self._queue.put(None)

    def next(self) -> Episode:
        episode = self._queue.get()
        if episode is None:
            self._queue.put(None)
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise UserError(f"a process that was making episodes died ({lines[-1]}); build again, with fewer --jobs.")
        return episode

    def close(self) -> None:
        self._process.kill()
        while self._thread.is_alive():  # it may wait for room in the queue
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.01)
        self._process.wait()
        self._errors.close()
