"""A replay buffer that holds every frame once, however many of them an observation stacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray


class Replayed(NamedTuple):
    """B transitions: observations (B, ...) float32, actions (B,), rewards and terminations (B,) float32."""

    observations: Array
    actions: Array
    rewards: Array
    next_observations: Array
    terminations: Array


class Replay:
    """The newest frames of n copies of an environment with discrete actions, and the transitions between them.

    An observation is a stack of `frames`, oldest first, along the first axis; where an episode is younger than that,
    its first frame stands for what came before. No transition crosses a reset: the true last frame of an episode is
    stored as well as the first of the next.

    Args:
        capacity: frames, over all copies
        n: copies
        shape: of an observation, (frames * f, ...)
        frames: that an observation stacks
        dtype: that frames are kept in
    """

    def __init__(self, capacity: int, n: int, shape: Sequence[int], frames: int, dtype: Any = np.float32) -> None:
        self.size, self.n, self.frames = max(frames + 2, capacity // n), n, frames
        self.shape = tuple(shape)
        of_frame = (self.shape[0] // frames, *self.shape[1:])
        self.images = np.zeros((n, self.size, *of_frame), dtype)
        self.begins = np.zeros((n, self.size), np.int64)  # when the frame's episode began, counted as `stored` is
        self.actions = np.full((n, self.size), -1, np.int64)  # that led to the frame; -1 for the first of an episode
        self.rewards = np.zeros((n, self.size), np.float32)
        self.terminations = np.zeros((n, self.size), np.float32)
        self.stored = np.zeros(n, np.int64)  # frames ever

    def __len__(self) -> int:
        """Frames"""
        return int(np.minimum(self.stored, self.size).sum())

    def begin(self, observations: Array) -> None:
        """The first observations (n, ...) of all copies."""
        for k in range(self.n):
            self._first(k, observations[k])

    def add(
        self, actions: Array, rewards: Array, terminations: Array, ends: Array, successors: Array, following: Array
    ) -> None:
        """A step of all copies: actions, rewards, terminations and ends of episodes (n,), the true successors (n, ...),
        and the observations that are acted on next, of a new episode where one has ended."""
        for k in range(self.n):
            at = int(self.stored[k]) % self.size
            self.begins[k, at] = self.begins[k, at - 1]
            self._put(k, successors[k], int(actions[k]), float(rewards[k]), float(terminations[k]))
            if ends[k]:
                self._first(k, following[k])

    def sample(self, batch_size: int, rng: np.random.Generator) -> Replayed:
        """Transitions drawn uniformly, with replacement."""
        held = np.minimum(self.stored, self.size)
        ends = np.cumsum(held)
        copies, times = np.zeros(batch_size, np.int64), np.zeros(batch_size, np.int64)
        missing = np.arange(batch_size)
        while len(missing):
            drawn = rng.integers(ends[-1], size=len(missing))
            k = np.searchsorted(ends, drawn, side="right")
            t = self.stored[k] - 1 - (drawn - (ends[k] - held[k]))
            copies[missing], times[missing] = k, t
            # The stack before the step must still be there, and there must have been a step.
            oldest = np.maximum(t - self.frames, self.begins[k, t % self.size])
            usable = (self.actions[k, t % self.size] >= 0) & (oldest >= self.stored[k] - held[k])
            missing = missing[~usable]
        at = times % self.size
        return Replayed(
            self._stacks(copies, times - 1),
            self.actions[copies, at],
            self.rewards[copies, at],
            self._stacks(copies, times),
            self.terminations[copies, at],
        )

    def _stacks(self, copies: Array, times: Array) -> Array:
        begins = self.begins[copies, times % self.size]
        wanted = np.maximum(times[:, None] - np.arange(self.frames)[::-1], begins[:, None])
        stacks: Array = self.images[copies[:, None], wanted % self.size].astype(np.float32, copy=False)
        return stacks.reshape(len(times), *self.shape)

    def _first(self, k: int, observation: Array) -> None:
        self.begins[k, self.stored[k] % self.size] = self.stored[k]
        self._put(k, observation, -1, 0.0, 0.0)

    def _put(self, k: int, observation: Array, action: int, reward: float, termination: float) -> None:
        at = int(self.stored[k]) % self.size
        self.images[k, at] = observation[-self.images.shape[2] :]
        self.actions[k, at], self.rewards[k, at], self.terminations[k, at] = action, reward, termination
        self.stored[k] += 1

    def state_dict(self) -> dict[str, Any]:
        used = int(min(self.size, self.stored.max(initial=0)))
        return {name: getattr(self, name)[:, :used] for name in KEPT} | {"stored": self.stored}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in KEPT:
            getattr(self, name)[:, : state[name].shape[1]] = state[name]
        self.stored[:] = state["stored"]


KEPT = ("images", "begins", "actions", "rewards", "terminations")
