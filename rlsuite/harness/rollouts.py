"""What on-policy methods learn from: experience in time order, and the running moments that scale it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from rlsuite.harness.environments import Environments

Array = np.ndarray
LIMIT = 10.0  # of normalised observations and scaled rewards
EPSILON = 1e-8
STEPWISE = ("observations", "actions", "rewards", "terminations", "truncations")


@dataclass
class Rollout:
    """T steps of n copies: arrays (T, n, ...), raw as the environment gave them."""

    observations: Array
    actions: Array  # as the policy drew them, before they were clipped to the bounds
    rewards: Array
    terminations: Array
    truncations: Array
    final_observations: Array  # (F, ...) the true successors where a time limit ended an episode
    final_rows: Array  # (F,) and where that is: t * n + copy
    next_observations: Array  # (n, ...) what follows the last step; of a new episode where that step ended one

    def __len__(self) -> int:
        """Transitions"""
        return self.rewards.size

    @property
    def steps(self) -> int:
        """T"""
        return len(self.rewards)

    @property
    def copies(self) -> int:
        """n"""
        return int(self.rewards.shape[1])

    def flat(self, name: str) -> Array:
        """The array `name` as (T * n, ...), step by step."""
        array: Array = getattr(self, name)
        return array.reshape(-1, *array.shape[2:])

    def newest(self, steps: int) -> Rollout:
        """The last `steps` of the T steps; all where there are fewer."""
        dropped = max(0, self.steps - steps)
        kept = self.final_rows >= dropped * self.copies
        parts = {name: getattr(self, name)[dropped:] for name in STEPWISE}
        rows = self.final_rows[kept] - dropped * self.copies
        return replace(self, **parts, final_observations=self.final_observations[kept], final_rows=rows)

    def then(self, later: Rollout) -> Rollout:
        """This experience and, in the same copies, what came after it."""
        parts = {name: np.concatenate([getattr(self, name), getattr(later, name)]) for name in STEPWISE}
        finals = np.concatenate([self.final_observations, later.final_observations])
        rows = np.concatenate([self.final_rows, later.final_rows + len(self)])
        return replace(later, **parts, final_observations=finals, final_rows=rows)

    def state_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


class Buffer:
    """The newest steps of n copies, at most `capacity` of each."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rollout: Rollout | None = None

    def add(self, rollout: Rollout) -> Rollout:
        """Append what was collected, drop what is too old, and give all that is left."""
        room = self.capacity - rollout.steps
        if room < 0:
            rollout = rollout.newest(self.capacity)
        elif self.rollout is not None and room > 0:
            rollout = self.rollout.newest(room).then(rollout)
        self.rollout = rollout
        return rollout

    def state_dict(self) -> dict[str, Any]:
        return self.rollout.state_dict() if self.rollout else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rollout = Rollout(**state) if state else None


def collect(envs: Environments, steps: int, explore: Callable[[Array], Array]) -> Rollout:
    """Let every copy take `steps` steps with the actions that `explore` draws: (n, ...) observations -> n actions.

    Actions are clipped to the bounds of the environment on their way to it, and stored as they were drawn.
    """
    envs.begin()
    n, space = envs.n, envs.action_space
    bounds = (space.low, space.high) if isinstance(space, gym.spaces.Box) else None
    observations = np.empty((steps, *envs.observations.shape), envs.observations.dtype)
    actions = np.empty((steps, n, *(space.shape or ())), np.float32 if bounds else np.int64)
    rewards = np.empty((steps, n), np.float32)
    terminations, truncations = np.zeros((2, steps, n), bool)
    finals: list[Array] = []
    rows: list[int] = []
    for t in range(steps):
        observations[t] = envs.observations
        drawn = explore(envs.observations)
        actions[t] = drawn
        if bounds:
            drawn = np.minimum(np.maximum(drawn, bounds[0]), bounds[1])
        transition = envs.step(drawn)
        rewards[t] = transition.rewards
        terminations[t], truncations[t] = transition.terminations, transition.truncations
        for k in np.flatnonzero(transition.truncations):
            finals.append(transition.next_observations[k].copy())
            rows.append(t * n + int(k))
    stepwise = observations, actions, rewards, terminations, truncations
    ends = np.array(finals, observations.dtype).reshape(len(rows), *envs.observations.shape[1:])
    return Rollout(*stepwise, ends, np.array(rows, np.int64), envs.observations.copy())


class ObservationNormalizer(nn.Module):
    """clip((s - mean) / sqrt(variance + 1e-8), +-10) with the moments of all observations seen so far.

    A part of the policy: saved with its weights, and moved only by `update`, which evaluation never calls. The moments
    begin as those of 1e-4 observations with mean 0 and variance 1.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.mean: Tensor
        self.variance: Tensor
        self.count: Tensor
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.full((1,), 1e-4, dtype=torch.float64))

    def _apply(self, fn: Any, recurse: bool = True) -> ObservationNormalizer:
        """Stay on the CPU, where the environments are, when the policy goes to another device."""
        return self

    def update(self, observations: Array) -> None:
        """Count (B, ...) observations."""
        merge(self.mean.numpy(), self.variance.numpy(), self.count.numpy(), observations)

    def normalize(self, observations: Array) -> Array:
        """(B, ...) -> (B, ...) float32"""
        x = (observations - self.mean.numpy()) / np.sqrt(self.variance.numpy() + EPSILON)
        clipped: Array = np.minimum(np.maximum(x, -LIMIT), LIMIT).astype(np.float32)
        return clipped


class RewardScaler:
    """clip(r / sqrt(variance + 1e-8), +-10), with the variance of the discounted return R <- gamma R (1 - d) + r.

    d is termination only: R runs on through a time limit.
    """

    def __init__(self, copies: int, gamma: float) -> None:
        self.gamma = gamma
        self.returns = np.zeros(copies)
        self.mean, self.variance, self.count = np.zeros(1), np.ones(1), np.full(1, 1e-4)

    def update(self, rewards: Array, terminations: Array) -> None:
        """Count T steps of n copies, both (T, n)."""
        seen = np.empty(rewards.shape)
        for t, (reward, terminated) in enumerate(zip(rewards.astype(np.float64), terminations, strict=True)):
            self.returns = self.returns * (self.gamma * ~terminated) + reward
            seen[t] = self.returns
        merge(self.mean, self.variance, self.count, seen.reshape(-1, 1))

    def scale(self, rewards: Array) -> Array:
        """float32, of the same shape"""
        scaled: Array = np.clip(rewards / np.sqrt(self.variance + EPSILON), -LIMIT, LIMIT).astype(np.float32)
        return scaled

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("returns", "mean", "variance", "count")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def merge(mean: Array, variance: Array, count: Array, batch: Array) -> None:
    """Move the moments, in place, to those of all they stand for and of the rows of `batch`; Chan et al., 1979."""
    rows = len(batch)
    total = count[0] + rows
    if rows == 1:
        delta = batch[0] - mean
        spread = 0.0
    else:
        delta = batch.mean(0) - mean
        spread = batch.var(0) * rows
    variance *= count[0]
    variance += spread + delta * delta * (count[0] * rows / total)
    variance /= total
    mean += delta * (rows / total)
    count[0] = total
