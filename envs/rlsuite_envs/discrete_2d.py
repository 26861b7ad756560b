"""Discrete2D: walk to a goal in the plane by steps in one of a few directions."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

STEP = 0.05
RADIUS = 0.05  # of the goal


class Discrete2D(gym.Env[NDArray[np.float32], np.int64]):
    """Walk in the square [-1, 1]^2; reward is minus the distance to the goal, within 0.05 of which an episode ends.

    Observation (4,): x, y, and the goal's x and y. Action k of n: a step of 0.05 (sin t, cos t), t = 2 pi k / (n - 1),
    clipped to the square; so the first heading and the last are one direction, as in the study of PROPS. Start and goal
    are uniform, and drawn again while closer than 0.05. After a step the reward is minus the new distance.

    From a distance d an episode takes floor(d / 0.05) steps at least; with the time limit of 50, goals at 2.55 and
    farther stay out of reach.

    Attribute: `moves` (n, 2) float64, the step of each action.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own annotation)

    def __init__(self, headings: int = 10) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(headings)
        angles = np.linspace(0.0, 2 * np.pi, headings)
        self.moves = STEP * np.stack([np.sin(angles), np.cos(angles)], axis=1)
        self.position, self.goal = np.zeros((2, 2))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        while True:
            self.position, self.goal = self.np_random.uniform(-1.0, 1.0, (2, 2))
            if self._distance() >= RADIUS:
                return self._observation(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self.position = np.clip(self.position + self.moves[action], -1.0, 1.0)
        distance = self._distance()
        return self._observation(), -distance, distance < RADIUS, False, {}

    def _distance(self) -> float:
        return math.dist(self.position, self.goal)

    def _observation(self) -> NDArray[np.float32]:
        return np.concatenate([self.position, self.goal], dtype=np.float32)
