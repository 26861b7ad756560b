"""Evaluation episodes: fixed seeds, one padded batch, no autoreset, nothing shared with training."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

import rlsuite_envs  # noqa: F401 (registers the suite's own environments)
from rlsuite.errors import UserError

BATCH = 16  # rows of every forward pass; a fixed number, because the last bits of a product depend on its shape
ROBOTICS = re.compile("Adroit|AntMaze|Fetch|FrankaKitchen|Hand|PointMaze")  # ids of gymnasium-robotics begin so


class Policy(Protocol):
    """What acts: a torch module whose `arguments` rebuild it and whose weights include its normaliser."""

    arguments: dict[str, Any]

    def act(self, observations: np.ndarray) -> np.ndarray:
        """(B, observation_dim) float32 -> B actions, without exploration."""

    def state_dict(self) -> dict[str, Any]: ...


@dataclass
class Episode:
    """One finished episode."""

    seed: int
    total: float = 0.0  # undiscounted return
    length: int = 0  # environment steps
    terminated: bool = False
    truncated: bool = False


def make_env(env_id: str, **kwargs: Any) -> gym.Env:
    """`gymnasium.make` with flat observations, and a sentence instead of a traceback where that cannot be had.

    Ids may name the module that registers them (`module:Id-v0`); those of gymnasium-robotics need not.
    """
    module, _, name = env_id.rpartition(":")
    if not module and ROBOTICS.match(name) and name not in gym.registry:
        module = "gymnasium_robotics"
    try:
        if module:
            importlib.import_module(module)
        if re.search("mujoco|robotics", str(gym.spec(name).entry_point)):
            silence_mujoco()
        env = gym.make(name, **kwargs)
    except (gym.error.Error, ImportError, TypeError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, ImportError) and error.name == "gymnasium_robotics":
            reason = "run `pip install gymnasium-robotics`"
        raise UserError(f"the environment '{env_id}' cannot be made: {reason}") from error
    space = env.observation_space
    is_picture = space.dtype == np.uint8
    is_block = isinstance(space, gym.spaces.Box) and len(space.shape) != 1 and not is_picture
    return gym.wrappers.FlattenObservation(env) if is_block or isinstance(space, gym.spaces.Dict) else env


@cache
def silence_mujoco() -> None:
    """Keep MuJoCo from leaving a MUJOCO_LOG.TXT with notes on Gymnasium's models in the working directory."""
    import mujoco

    mujoco.set_mju_user_warning(lambda message: None)


def evaluate(
    act: Callable[[np.ndarray], np.ndarray],
    env_id: str,
    seeds: Sequence[int],
    slots: int = BATCH,
    tick: Callable[[], None] = lambda: None,
) -> list[Episode]:
    """Play one episode for each of `seeds`, up to `slots` of them at a time.

    Each episode begins with `reset(seed=...)` and its actions come from a batch of always `BATCH` rows, so neither the
    number of slots nor the other episodes change it. `tick` is called at every step and may raise to stop.
    """
    envs = [make_env(env_id) for _ in range(min(slots, BATCH, len(seeds)))]
    episodes = [Episode(seed) for seed in seeds]
    space = envs[0].observation_space
    assert space.shape is not None
    observations = np.zeros((BATCH, *space.shape), np.float32)
    waiting = iter(episodes)
    running: list[Episode | None] = [None] * len(envs)

    def start(slot: int) -> None:
        running[slot] = episode = next(waiting, None)
        if episode is not None:
            observations[slot], _ = envs[slot].reset(seed=episode.seed)

    try:
        for slot in range(len(envs)):
            start(slot)
        while any(running):
            tick()
            actions = act(observations)
            for slot, episode in enumerate(running):
                if episode is None:
                    continue
                observation, reward, terminated, truncated, _ = envs[slot].step(actions[slot])
                observations[slot] = observation
                episode.total += float(reward)
                episode.length += 1
                if terminated or truncated:
                    episode.terminated, episode.truncated = bool(terminated), bool(truncated)
                    start(slot)
    finally:
        for env in envs:
            env.close()
    return episodes
