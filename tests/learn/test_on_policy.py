"""On-policy methods learn: balance a pole, and steer to the middle of a line, in seconds."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.files import read_lines
from rlsuite.harness.run import execute


class Steer(gym.Env):
    """x' = clip(x + a / 4, -1, 1), reward -|x'|, x uniform in [-1, 1] at first; best is a = clip(-4 x, -1, 1)."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1)
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.x = float(np.clip(self.x + action[0] / 4, -1, 1))
        return np.array([self.x], np.float32), -abs(self.x), False, False, {}


@pytest.fixture
def steer():
    gym.register("Steer-v0", entry_point=Steer, max_episode_steps=20)
    yield "Steer-v0"
    del gym.registry["Steer-v0"]


def final_returns(algorithm, directory, **given):
    assert execute(resolve(load_algorithm(algorithm), {"eval_every": 0, "final_episodes": 20, **given}), directory) == 0
    return [row["return"] for row in read_lines(directory / "evaluations.jsonl") if row["phase"] == "final"]


def test_ppo_balances_a_pole(tmp_path):
    """Of 500 steps at most; a policy that chooses at random holds it for about 22."""
    quick = {"total_steps": 30_000, "n_envs": 8, "rollout_steps": 512, "minibatches": 4, "learning_rate": 2e-3}
    returns = final_returns("ppo", tmp_path / "run", env="CartPole-v1", clip_value=False, **quick)
    assert np.mean(returns) >= 400


@pytest.mark.parametrize("mean_tanh", [False, True])
def test_ppo_steers_to_the_middle(tmp_path, steer, mean_tanh):
    """A random start is 1/2 from the middle; the best return is -0.44 on average, that of standing still -10."""
    quick = {"total_steps": 15_000, "rollout_steps": 500, "minibatches": 10, "learning_rate": 2e-3}
    returns = final_returns("ppo", tmp_path / "run", env=steer, gamma=0.9, mean_tanh=mean_tanh, **quick)
    assert np.mean(returns) > -1.0
