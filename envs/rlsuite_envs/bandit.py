"""Bandit: choose one of n arms, once."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray


class Bandit(gym.Env[NDArray[np.float32], np.int64]):
    """One step an episode; arm k pays a Gaussian reward of mean `means[k]` and standard deviation `deviations[k]`.

    Observation (1,): the constant 1. The last arm is the best and the most certain, with mean 1 and deviation 0.1; the
    means of the others are evenly spaced from 0 to 0.5, and their deviation is 0.5. (The study of PROPS draws means
    from [0, 0.5] and deviations from [0, 1] anew for every environment that is made, so no two tasks there are alike.)
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own annotation)

    def __init__(self, arms: int = 5) -> None:
        self.observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(arms)
        self.means: NDArray[np.float64] = np.append(np.linspace(0.0, 0.5, arms - 1), 1.0)
        self.deviations: NDArray[np.float64] = np.append(np.full(arms - 1, 0.5), 0.1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        reward = self.np_random.normal(self.means[action], self.deviations[action])
        return np.ones(1, np.float32), float(reward), True, False, {}
