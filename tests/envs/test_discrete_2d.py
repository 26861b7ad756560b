import math

import gymnasium as gym
import numpy as np
import pytest

import rlsuite_envs  # noqa: F401

SEEDS = range(200)


@pytest.fixture(scope="module", params=[10, 50, 100])
def headings(request):
    return request.param


@pytest.fixture(scope="module")
def env(headings):
    return gym.make(f"rlsuite/Discrete2D{headings}-v0", disable_env_checker=True)


def directions(headings: int) -> np.ndarray:
    """(headings, 2) clockwise from the direction of y; the last is the first again."""
    turns = np.arange(headings) / (headings - 1)
    return np.array([(math.sin(2 * math.pi * turn), math.cos(2 * math.pi * turn)) for turn in turns])


def slowest_approach(distance: float, headings: int) -> list[float]:
    """What the distance is at most after each step of the greedy policy: half an angle between headings off the line.

    A wall only helps, since clipping to a convex set brings nothing farther from a point inside it.
    """
    off = math.cos(math.pi / (headings - 1))
    distances = []
    while distance >= 0.05:
        distance = math.sqrt(distance**2 - 0.1 * distance * off + 0.05**2)
        distances.append(distance)
    return distances


def test_actions_are_steps_of_equal_length_all_around(env, headings):
    assert np.allclose(env.unwrapped.moves, 0.05 * directions(headings), rtol=0, atol=1e-15)
    assert env.action_space.n == headings
    env.reset(seed=0)
    for action in range(headings):
        env.unwrapped.position = np.zeros(2)
        observation = env.step(action)[0]
        assert np.allclose(observation[:2], 0.05 * directions(headings)[action], atol=1e-8)


def test_a_greedy_policy_is_as_fast_as_the_headings_allow_and_its_return_is_the_sum_of_distances(env, headings):
    reached = 0
    for seed in SEEDS:
        observation, _ = env.reset(seed=seed)
        position, goal = observation[:2].astype(float), observation[2:].astype(float)
        start = math.dist(position, goal)
        steps, total, expected, terminated, truncated = 0, 0.0, 0.0, False, False
        while not (terminated or truncated):
            candidates = np.clip(position + 0.05 * directions(headings), -1, 1)
            action = int(np.argmin(np.linalg.norm(candidates - goal, axis=1)))
            observation, reward, terminated, truncated, _ = env.step(action)
            position = candidates[action]
            assert np.allclose(observation, [*position, *goal], atol=1e-6)
            steps, total, expected = steps + 1, total + reward, expected - math.dist(position, goal)
        assert terminated == (math.dist(position, goal) < 0.05)
        assert total == pytest.approx(expected, abs=1e-5)
        fewest, slowest = math.floor(start / 0.05), slowest_approach(start, headings)
        straight = [start - 0.05 * step for step in range(1, min(fewest, 50) + 1)]
        assert -sum(slowest[:50]) - 1e-5 <= total <= -sum(straight) + 1e-5
        assert steps >= min(fewest, 50)
        if len(slowest) <= 50:
            assert terminated and steps <= len(slowest)
            assert headings < 100 or len(slowest) <= fewest + 1
            reached += 1
    assert reached > 0.9 * len(SEEDS)


@pytest.mark.parametrize("distance, reached", [(0.1001, True), (1.2601, True), (2.5499, True), (2.5501, False)])
def test_along_a_heading_a_goal_is_reached_in_the_fewest_steps_or_out_of_reach(distance, reached):
    env = gym.make("rlsuite/Discrete2D10-v0", headings=9)  # 45 degrees apart
    env.reset(seed=0)
    env.unwrapped.position, env.unwrapped.goal = -np.ones(2), np.full(2, distance / math.sqrt(2) - 1)
    rewards, terminated, truncated = [], False, False
    while not (terminated or truncated):
        _, reward, terminated, truncated, _ = env.step(1)
        rewards.append(reward)
    assert len(rewards) == min(math.floor(distance / 0.05), 50)
    assert terminated is reached
    assert sum(rewards) == pytest.approx(-sum(distance - 0.05 * step for step in range(1, len(rewards) + 1)))


def test_the_walls_hold(env, headings):
    env.reset(seed=1)
    upwards = 0
    env.unwrapped.position, env.unwrapped.goal = np.array([0.3, 0.98]), np.array([0.0, -1.0])
    observation, reward, terminated, _, _ = env.step(upwards)
    assert np.allclose(observation, [0.3, 1.0, 0.0, -1.0])
    assert reward == pytest.approx(-math.hypot(0.3, 2.0)) and not terminated


def test_start_and_goal_are_uniform_and_never_already_close(env):
    starts = np.stack([env.reset(seed=seed)[0] for seed in range(3000)])
    assert np.linalg.norm(starts[:, :2] - starts[:, 2:], axis=1).min() >= 0.05 - 1e-6
    assert np.abs(starts.mean(0)).max() < 4 / math.sqrt(3 * 3000)
    assert np.abs((starts**2).mean(0) - 1 / 3).max() < 4 * math.sqrt(4 / 45 / 3000)
    assert np.abs(np.corrcoef(starts.T) - np.eye(4)).max() < 4 / math.sqrt(3000)


def test_a_start_that_is_already_at_the_goal_is_drawn_again(env, monkeypatch):
    class Draws:
        def __init__(self):
            self.left = [[(0.1, 0.1), (0.1, 0.149)], [(0.1, 0.1), (0.1, 0.151)]]

        def uniform(self, low, high, size):
            return np.array(self.left.pop(0))

    unwrapped = env.unwrapped
    unwrapped.reset(seed=0)
    monkeypatch.setattr(unwrapped, "_np_random", Draws())
    assert np.allclose(unwrapped.reset()[0], [0.1, 0.1, 0.1, 0.151])


@pytest.mark.parametrize("distance, terminates", [(0.0999, True), (0.1001, False)])
def test_an_episode_ends_within_the_radius(env, distance, terminates):
    env.reset(seed=0)
    env.unwrapped.position, env.unwrapped.goal = np.zeros(2), np.array([0.0, distance])
    _, reward, terminated, _, _ = env.step(0)
    assert terminated is terminates and reward == pytest.approx(0.05 - distance)
