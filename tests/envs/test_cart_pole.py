"""The batched CartPole is Gymnasium's, bit for bit."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from rlsuite_envs.cart_pole import CartPoleBatch

N = 30
pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date.*:DeprecationWarning")


def balancing(observations, rng):
    """Towards where the pole falls, and at random: the later the copy, the more often."""
    wise = observations @ np.array([0.1, 0.4, 1.9, 2.0]) > 0
    careless = rng.random(N) < np.linspace(0, 1, N)
    return np.where(careless, rng.integers(2, size=N), wise).astype(int)


@pytest.mark.parametrize(("name", "limit"), [("CartPole-v0", 200), ("CartPole-v1", 500)])
def test_every_step_of_many_episodes_is_gymnasiums(name, limit):
    """Observations, rewards and ends; copies begin anew when they end, or in the midst of an episode, and some wait."""
    rng = np.random.default_rng(limit)
    batch = CartPoleBatch(N, limit)
    plain = [gym.make(name, disable_env_checker=True) for _ in range(N)]
    assert batch.observation_space == plain[0].observation_space
    assert batch.action_space == plain[0].action_space
    now = np.zeros((N, 4), np.float32)

    def begin(slots):
        seeds = rng.integers(1 << 32, size=len(slots)).tolist()
        now[slots] = batch.reset(slots, seeds)
        assert np.array_equal(now[slots], [plain[k].reset(seed=seed)[0] for k, seed in zip(slots, seeds, strict=True)])

    begin(list(range(N)))
    terminated = truncated = 0
    for _ in range(900):
        playing = np.flatnonzero(rng.random(N) < 0.9)
        actions = balancing(now, rng)
        found = batch.step(playing, actions)
        theirs = list(zip(*(plain[k].step(actions[k])[:4] for k in playing), strict=True))
        for ours, expected in zip(found[:4], theirs, strict=True):
            assert np.array_equal(ours, expected)
        assert found[0].dtype == np.float32 and not found[4].any()
        now[playing] = found[0]
        over = playing[found[2] | found[3]]
        terminated, truncated = terminated + found[2].sum(), truncated + (found[3] & ~found[2]).sum()
        again = {*over.tolist(), *np.flatnonzero(rng.random(N) < 0.001).tolist()}
        if again:
            begin(sorted(again))
    assert terminated > 100 and truncated > 5


def test_it_ends_far_away_as_well_as_tilted():
    """Both sides of both limits are met, each by a single number that goes too far."""
    batch, plain = CartPoleBatch(8, 500), gym.make("CartPole-v1").unwrapped
    batch.reset(range(8), range(8))
    plain.reset(seed=0)
    batch.state[:] = 0
    tilted = 12 * 2 * np.pi / 360
    batch.state[0, :4] = [2.4, -2.4, np.nextafter(2.4, 3), -np.nextafter(2.4, 3)]
    batch.state[2, 4:] = [tilted, -tilted, np.nextafter(tilted, 1), -np.nextafter(tilted, 1)]
    before = batch.state.copy()
    ends = batch.step(range(8), np.zeros(8, int))[2]
    assert ends.tolist() == [False, False, True, True] * 2
    for k in range(8):
        plain.state = before[:, k]
        plain.steps_beyond_terminated = None
        assert plain.step(0)[2] == ends[k]
