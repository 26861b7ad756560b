import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env

import rlsuite_envs  # noqa: F401


def test_gymnasiums_checker_passes():
    check_env(gym.make("rlsuite/LineWorld-v0").unwrapped)


def test_the_best_policy_needs_thirty_steps_for_a_return_of_one():
    env = gym.make("rlsuite_envs:rlsuite/LineWorld-v0")
    env.reset(seed=0)
    for step in range(1, 31):
        observation, reward, terminated, truncated, _ = env.step(np.ones(1, np.float32))
        assert (reward, terminated, truncated) == (float(step == 30), step == 30, False)
    assert observation[0] == 30


def test_the_time_limit_truncates_and_does_not_terminate():
    env = gym.make("rlsuite/LineWorld-v0")
    env.reset(seed=0)
    flags = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(150)]
    assert flags == [(False, False)] * 149 + [(False, True)]
