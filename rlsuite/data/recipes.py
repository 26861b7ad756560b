"""Datasets built here: behaviour policies, an environment, a number of steps and a seed.

A build streams episodes into one Minari dataset until the steps are there, the last episode cut and marked truncated.
Episodes are independent of one another and their order is fixed (`workers`), so the bytes do not depend on the number
of processes, and the first N steps of a larger build are the build of N. (On one CPU class: others may round
differently.)
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import rlsuite_envs  # noqa: F401 (registers the suite's own environments)
from rlsuite.data.hdf5 import sha256
from rlsuite.data.minari_store import folder, locked, read_metadata, scratch, write_episodes
from rlsuite.data.recording import Episode, Header, Space, env_spec
from rlsuite.data.rollout import weights_file
from rlsuite.data.scores import reference
from rlsuite.data.spool import Frame, Spool
from rlsuite.data.workers import Contribution, Crew
from rlsuite.errors import UserError

Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True)
class Recipe:
    """What determines a dataset. Each of `behaviours` (see `rollout.make_policy`) contributes the same share of steps.

    The seed is different in every recipe, so that no two datasets share initial states.
    """

    id: str
    env_id: str
    behaviours: tuple[str, ...]
    seed: int
    description: str
    steps: int = 1_000_000  # default size
    episode_steps: int | None = None  # a shorter time limit than the environment's own
    requirements: tuple[str, ...] = ("gymnasium", "mujoco")

    @property
    def policy(self) -> str:
        return " + ".join(self.behaviours)

    @cached_property
    def policy_sha256(self) -> str | None:
        """Of the weights; of the digests of several files; None for behaviours without any."""
        files = dict.fromkeys(map(weights_file, self.behaviours))
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file is not None]
        if len(digests) > 1:
            return hashlib.sha256("".join(digests).encode()).hexdigest()
        return digests[0] if digests else None

    def identity(self) -> dict[str, Any]:
        """What must be equal for two builds to be the same dataset."""
        return {
            "recipe": self.id,
            "environment": self.env_id,
            "seed": self.seed,
            "policy": self.policy,
            "policy_sha256": self.policy_sha256,
        }


def _locomotion(robot: str, env_id: str, seed: int) -> list[Recipe]:
    medium, expert = f"{robot}-medium", f"{robot}-expert"
    replay = tuple(f"{robot}-replay/{i}" for i in range(10))
    levels = {
        "random": (("uniform",), "Actions drawn uniformly from the action space."),
        "medium": (
            (medium,),
            "The sampled policy of a SAC agent, stopped when it first reached a third of the expert's return, as "
            "D4RL's medium data; its record says what it returns.",
        ),
        "medium-replay": (
            replay,
            "The sampled policies of ten checkpoints, evenly spaced over the training up to medium, with the same "
            "number of steps each. They come in rounds of 10,000 steps, within a round in the order of training. A "
            "stored replay buffer, as D4RL's medium-replay is, runs through the training once, and has the uniform "
            "actions of its beginning and every policy between the checkpoints, a few steps of each.",
        ),
        "medium-expert": (
            (medium, expert),
            "Half of the steps by the medium policy, half by the expert, in turns of 1,000 steps.",
        ),
        "expert": ((expert,), "The sampled policy of the SAC checkpoint whose mean action returned most."),
    }
    return [
        Recipe(f"rlsuite/{robot}/{level}-v0", env_id, behaviours, seed + i, description)
        for i, (level, (behaviours, description)) in enumerate(levels.items())
    ]


def _maze(name: str, seed: int) -> Recipe:
    return Recipe(
        f"rlsuite/pointmaze/{name.lower()}-v0",
        f"rlsuite/PointMaze-{name}-v0",
        ("waypoints",),
        seed,
        "A controller walks between random cells that are near to each other; no episode leads from the start of the "
        "evaluation to its goal, so they must be stitched. Reward 1 at the goal, else 0.",
        requirements=("rlsuite", "gymnasium", "mujoco", "gymnasium-robotics"),
    )


RECIPES = {
    recipe.id: recipe
    for recipe in (
        *_locomotion("hopper", "Hopper-v5", 1000),
        *_locomotion("halfcheetah", "HalfCheetah-v5", 1010),
        *_locomotion("walker2d", "Walker2d-v5", 1020),
        *_locomotion("ant", "Ant-v5", 1030),
        _maze("UMaze", 1100),
        _maze("Medium", 1101),
        _maze("Large", 1102),
        Recipe(
            "rlsuite/pendulum/mixed-v0",
            "Pendulum-v1",
            ("uniform", "pendulum-medium", "pendulum-expert"),
            1200,
            "A third of the steps each by uniform actions, by a half-trained and by a trained SAC agent.",
            steps=30_000,
            requirements=("gymnasium",),
        ),
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
    for. A killed build leaves no dataset, and the next one continues it; an older dataset is replaced only at the end.
    Raises UserError where the disk refuses.
    """
    steps = recipe.steps if steps is None else steps
    if steps < 1:
        raise UserError(f"cannot build {steps} steps of {recipe.id}; ask for at least 1.")
    if not force and stored_steps(recipe) >= steps:
        return False
    with locked(recipe.id):
        if not force and stored_steps(recipe) >= steps:
            return False
        header = _header(recipe)
        with Spool(scratch(recipe.id, "spool"), {**recipe.identity(), "versions": _versions(recipe)}, header) as spool:
            parts = Contribution(len(recipe.behaviours))
            with contextlib.closing(_episodes(recipe, steps, jobs or _cpus(), spool, parts, progress)) as episodes:
                write_episodes(recipe.id, header, episodes, lambda data: _note(recipe, spool, steps, parts, data))
    return True


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _header(recipe: Recipe) -> Header:
    observation_space, action_space = _spaces(recipe.env_id)
    metadata: dict[str, Any] = {
        "algorithm_name": _algorithm(recipe),
        "author": ["rlsuite"],
        "description": f"{recipe.description} Built by rlsuite's recipe {recipe.id} in {recipe.env_id}.",
        "requirements": [f"{name}=={_version(name)}" for name in recipe.requirements],
    }
    found = reference(recipe.env_id)
    if found is not None:  # Minari's names, for minari.get_normalized_score
        metadata |= {
            "ref_min_score": found.random,
            "ref_max_score": found.expert,
            "num_episodes_average_score": found.episodes,
        }
    return Header(observation_space, action_space, env_spec(recipe.env_id), metadata)


def _algorithm(recipe: Recipe) -> str:
    if recipe.behaviours == ("uniform",):
        return "uniform random"
    return "waypoint controller" if recipe.policy_sha256 is None else "SAC (Stable-Baselines3)"


def _note(recipe: Recipe, spool: Spool, steps: int, parts: Contribution, data: Path) -> dict[str, Any]:
    contributed = zip(recipe.behaviours, parts.episodes, parts.steps, strict=True)
    return {
        "rlsuite": {
            **recipe.identity(),
            "versions": _versions(recipe),
            "parts": [{"behaviour": name, "episodes": e, "steps": s} for name, e, s in contributed],
            "content_hash": spool.content_hash(steps),
            "file_sha256": sha256(data / "main_data.hdf5"),
        }
    }


def _versions(recipe: Recipe) -> dict[str, str]:
    return {name: _version(name) for name in dict.fromkeys(("rlsuite", *recipe.requirements, "numpy"))}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        from rlsuite import __version__

        return __version__ if package == "rlsuite" else "unknown"


def _spaces(env_id: str) -> tuple[Space, Space]:
    try:
        env = gym.make(env_id)
    except (gym.error.Error, ImportError) as error:
        raise UserError(f"the environment {env_id} cannot be made ({' '.join(str(error).split())}).") from error
    spaces = []
    for space in (env.observation_space, env.action_space):
        assert isinstance(space, gym.spaces.Box) and len(space.shape) == 1
        spaces.append(Space(space.low.astype(np.float64), space.high.astype(np.float64), str(space.dtype)))
    env.close()
    return spaces[0], spaces[1]


def _episodes(
    recipe: Recipe, steps: int, jobs: int, spool: Spool, parts: Contribution, progress: Progress | None
) -> Generator[Episode]:
    """The episodes of `steps` transitions in all: first those that are spooled, then new ones."""
    with contextlib.ExitStack() as stack:
        stored = spool.frames()
        frames: Iterator[Frame] = stored
        while (done := sum(parts.steps)) < steps:
            frame = next(frames, None)
            if frame is None:
                frames = stack.enter_context(_crew(recipe, steps, jobs, spool)).frames(parts)
                continue
            if frames is not stored:
                spool.append(frame)
            length = min(frame.head.length, steps - done)
            yield frame.episode(*spool.spaces, length)
            parts.add(frame.head.stream, length)
            if progress is not None:
                progress(done + length, steps)


def _crew(recipe: Recipe, steps: int, jobs: int, spool: Spool) -> Crew:
    arguments = {
        "env_id": recipe.env_id,
        "max_episode_steps": recipe.episode_steps,
        "behaviours": recipe.behaviours,
        "seed": recipe.seed,
    }
    return Crew(arguments, spool.spaces, jobs, steps)
