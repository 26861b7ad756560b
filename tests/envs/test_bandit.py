import gymnasium as gym
import numpy as np
import pytest

import rlsuite_envs  # noqa: F401


@pytest.mark.parametrize("arms", [5, 20, 100, 1000])
def test_the_last_arm_is_the_best_by_a_half(arms):
    env = gym.make(f"rlsuite/Bandit{arms}-v0").unwrapped
    assert env.action_space.n == arms == len(env.means) == len(env.deviations)
    assert env.means[-1] == env.means.max() == 1 and env.deviations[-1] == 0.1
    assert np.allclose(env.means[:-1], 0.5 * np.arange(arms - 1) / (arms - 2))
    assert (env.deviations[:-1] == 0.5).all()


def test_rewards_are_gaussian_around_the_means():
    env = gym.make("rlsuite/Bandit5-v0", disable_env_checker=True)
    env.reset(seed=0)
    pulls = 4000
    rewards = np.array([[env.step(arm)[1] for _ in range(pulls)] for arm in range(5)])
    means, deviations = np.array([0, 1 / 6, 1 / 3, 1 / 2, 1]), np.array([0.5, 0.5, 0.5, 0.5, 0.1])
    assert (np.abs(rewards.mean(1) - means) < 4 * deviations / np.sqrt(pulls)).all()
    assert (np.abs(rewards.std(1) / deviations - 1) < 4 / np.sqrt(2 * pulls)).all()
    outside = (np.abs(rewards - means[:, None]) > 2 * deviations[:, None]).mean()
    assert outside == pytest.approx(0.0455, abs=4 * np.sqrt(0.0455 * 0.9545 / rewards.size))
