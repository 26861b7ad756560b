"""LineWorld: walk right along a line. The smallest task on which a poor stretch of data stops behavioural cloning."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

GOAL = 30.0


class LineWorld(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """x' = clip(x + a, 0, 30); reward 1 and termination at x = 30, else 0; every episode starts at x = 0.

    Observation (1,): x. Action (1,): the step, in [-1, 1]. The best return is 1, after 30 steps of a = 1. The toy of
    the PRDC study: in its data, actions point right except in a bad zone, where they point left.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own annotation)

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0.0, GOAL, (1,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.x = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.x = 0.0
        return self._observation(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self.x = float(np.clip(self.x + np.clip(action[0], -1.0, 1.0), 0.0, GOAL))
        reached = self.x >= GOAL
        return self._observation(), float(reached), reached, False, {}

    def _observation(self) -> NDArray[np.float32]:
        return np.array([self.x], np.float32)
