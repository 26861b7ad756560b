"""Whole episodes, for methods whose estimates are sums over trajectories.

Copies of an environment play side by side, but episodes are numbered as they begin and accepted in the order of their
numbers. Whoever takes the episodes that finish first takes too many short ones: with a budget of steps, the mean length
of an episode is then not E[L], and an estimate of a gradient leans towards what short episodes do.

The seed of an episode and the noise of its actions follow from its number alone. So the accepted trajectories are the
same, bit for bit, for any number of copies, if the policy treats each row by itself; how many steps are played for
nothing is not. Exactly n episodes waste none, and neither does one copy. No episode runs on from one call to the next,
so that the number of the next episode is all that a resumed run needs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from rlsuite.errors import UserError
from rlsuite.harness.environments import TRAINING_SEEDS, Diverged, check_spaces, make_slots

Array = np.ndarray
BLOCK = 64  # steps whose noise is drawn at once


@dataclass(frozen=True)
class Trajectories:
    """n episodes of N steps together, end to end in the order of their numbers."""

    observations: Array  # (N, ...) float32
    actions: Array  # (N, ...) as the policy drew them, before they were clipped to the bounds
    rewards: Array  # (N,) float64
    lengths: Array  # (n,) steps of each episode

    def __len__(self) -> int:
        """N"""
        return len(self.rewards)

    @property
    def starts(self) -> Array:
        """(n,) the first row of each episode"""
        starts: Array = np.cumsum(self.lengths) - self.lengths
        return starts

    @property
    def times(self) -> Array:
        """(N,) 0, 1, ... within each episode"""
        times: Array = np.arange(len(self)) - self.spread(self.starts)
        return times

    def spread(self, values: Array) -> Array:
        """A number of each episode (n,), at each of its steps (N,)."""
        return np.repeat(values, self.lengths)


class Sampler:
    """Plays episodes in n copies of one environment.

    Args:
        horizon: cut episodes after so many steps; 0 leaves that to the environment
        name: of the random streams, `{name}environment` and `{name}actions`
        advance: is told how many steps were played, those of no use included
    """

    def __init__(
        self,
        env_id: str,
        n: int,
        rng: Callable[[str], np.random.Generator],
        horizon: int = 0,
        name: str = "",
        advance: Callable[[int], None] = lambda steps: None,
    ) -> None:
        for flag, value, least in (("n-envs", n, 1), ("horizon", horizon, 0)):
            if value < least:
                raise UserError(f"--{flag} is at least {least}, not {value}.")
        self.env_id, self.n, self.horizon, self.advance = env_id, n, horizon or sys.maxsize, advance
        self.slots = make_slots(env_id, n)
        self.observation_space, self.action_space = check_spaces(env_id, self.slots)
        if len(self.observation_space.shape) != 1:
            raise UserError(f"the observations of {env_id} are pictures, which this method does not see; try ppo.")
        actions = self.action_space
        self.bounds = (actions.low, actions.high) if isinstance(actions, gym.spaces.Box) else None
        self.noise_shape = actions.shape if isinstance(actions, gym.spaces.Box) else ()  # of one step
        self.seeds, self.noise = (
            rng(name + what).integers(1 << 64, size=2, dtype=np.uint64) for what in ("environment", "actions")
        )
        self.accepted = 0  # episodes so far, and the number of the next one
        self.finished: list[tuple[float, int]] = []  # return and length of those since `statistics` was called

    def play(self, act: Callable[[Array, Array], Array], episodes: int = 0, steps: int = 0) -> Trajectories:
        """The next `episodes` episodes; if that is 0, the next ones until they have `steps` steps together.

        `act` draws actions for the observations (copies, ...) at noise (copies, action_dim) from a normal distribution,
        or (copies,) from the uniform distribution on [0, 1) where actions are numbered. Raises Diverged if an
        observation or a reward is not finite.
        """
        observations = np.zeros((self.n, *self.observation_space.shape), np.float32)
        noise = np.zeros((self.n, *self.noise_shape), np.float32 if self.bounds else np.float64)
        running: dict[int, int] = {}  # copy -> episode, counted from 0 in this call
        streams: dict[int, np.random.Generator] = {}  # copy -> where the noise of its episode comes from
        blocks: dict[int, Array] = {}  # copy -> the noise of some steps
        rewards: list[list[float]] = []  # of the episodes that have begun
        places: list[tuple[int, int]] = []  # the step and the copy that each began at
        seen: list[Array] = []  # the observations of all copies at each step
        drawn: list[Array] = []  # and their actions
        total = 0
        while True:
            needed = episodes or (sys.maxsize if total < steps else prefix(rewards, steps))
            if len(rewards) > needed:  # the last ones will not be accepted, however those before them go on
                running = {k: e for k, e in running.items() if e < needed}
            while len(running) < self.n and len(rewards) < needed:
                k = next(k for k in range(self.n) if k not in running)
                number = self.accepted + len(rewards)
                seed = int(stream(self.seeds, number).integers(TRAINING_SEEDS))
                observations[k] = self.slots.reset([k], [seed])[0]
                streams[k] = stream(self.noise, number)
                running[k] = len(rewards)
                places.append((len(seen), k))
                rewards.append([])
            if not running:
                break
            for k, e in running.items():
                t = len(rewards[e]) % BLOCK
                if t == 0:
                    blocks[k] = self._draw(streams[k])
                noise[k] = blocks[k][t]
            flat = observations.ravel()
            if not math.isfinite(flat.dot(flat)):
                raise Diverged(f"an observation of {self.env_id} has a number that is not finite")
            actions = act(observations, noise)
            seen.append(observations.copy())
            drawn.append(actions)
            if self.bounds:
                actions = np.minimum(np.maximum(actions, self.bounds[0]), self.bounds[1])
            copies = sorted(running)
            total += len(copies)
            played = self.slots.step(copies, actions)
            for k, observation, reward, terminated, truncated, _ in zip(copies, *played, strict=False):
                history = rewards[running[k]]
                history.append(float(reward))
                if not math.isfinite(history[-1]):
                    raise Diverged(f"a reward of {self.env_id} is {history[-1]}")
                if terminated or truncated or len(history) == self.horizon:
                    del running[k]
                else:
                    observations[k] = observation
        self.advance(total)
        return self._accept(rewards[:needed], places[:needed], np.array(seen), np.array(drawn))

    def _accept(
        self, rewards: list[list[float]], places: list[tuple[int, int]], seen: Array, drawn: Array
    ) -> Trajectories:
        lengths = [len(history) for history in rewards]
        self.accepted += len(rewards)
        self.finished += [(sum(history), len(history)) for history in rewards]
        spans = [(slice(t, t + length), k) for (t, k), length in zip(places, lengths, strict=True)]
        return Trajectories(
            np.concatenate([seen[span] for span in spans]),
            np.concatenate([drawn[span] for span in spans]),
            np.concatenate([np.array(history) for history in rewards]),
            np.array(lengths),
        )

    def _draw(self, stream: np.random.Generator) -> Array:
        if self.bounds:
            return stream.standard_normal((BLOCK, *self.noise_shape), np.float32)
        return stream.random(BLOCK)

    def statistics(self) -> dict[str, float]:
        """Mean return and length of the episodes accepted since the last call."""
        done, self.finished = self.finished, []
        if not done:
            return {}
        total, length = (sum(part) / len(done) for part in zip(*done, strict=True))
        return {"episode_return": total, "episode_length": length, "episodes": float(len(done))}

    def state_dict(self) -> dict[str, Any]:
        return {"accepted": self.accepted, "finished": [list(pair) for pair in self.finished]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.accepted = state["accepted"]
        self.finished = [(total, length) for total, length in state["finished"]]


def prefix(rewards: list[list[float]], steps: int) -> int:
    """How many of the first episodes have `steps` steps together."""
    total = 0
    for number, history in enumerate(rewards):
        total += len(history)
        if total >= steps:
            return number + 1
    raise AssertionError


def stream(key: Array, number: int) -> np.random.Generator:
    """The random stream of one episode: a counter-based generator can begin anywhere."""
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, number, 0], np.uint64)))
