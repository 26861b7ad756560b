"""Ant coverage: what is marked, what is paid, where it ends, and that many ants are as many single ones."""

from __future__ import annotations

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import rlsuite_envs  # noqa: F401
from rlsuite_envs.ant_coverage import AntCoverage, AntCoverages, Ground

IDS = ("rlsuite/AntCoverage-v0", "rlsuite/AntCoverageHistory-v0", "rlsuite/AntCoverageModular-v0")


def walk(env, steps, seed=0):
    """What came of random actions, an episode after the other: (observation, reward, info) of every step."""
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(rng.uniform(-1, 1, 8).astype(np.float32))
        yield observation, reward, info
        if terminated or truncated:
            env.reset()


@pytest.mark.filterwarnings("ignore:.*A Box observation space m:UserWarning")
@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_checker_passes(name):
    check_env(gym.make(name).unwrapped, skip_render_check=True)


def test_a_visit_marks_25_cells_from_its_own_on():
    ground = Ground()
    assert ground.visit(0.1, -0.1) == (25, 25)
    assert np.argwhere(ground.marked).min(0).tolist() == [50, 49]
    assert np.argwhere(ground.marked).max(0).tolist() == [54, 53]
    assert ground.visit(0.3, -0.3) == (0, 25)
    assert ground.visit(0.5, -0.1) == (5, 25)  # a cell further along x
    assert ground.count == ground.marked.sum() == 30
    ground.clear()
    assert ground.count == ground.marked.sum() == 0


@pytest.mark.parametrize(
    ("x", "y", "cells"),
    [
        (-20, -20, 25),
        (19.9, 0, 5),
        (19.9, 19.5, 2),
        (18.1, 0, 25),
        (20, 0, 0),
        (-20.1, 0, 0),
        (0, 21, 0),
        (np.nan, 0, 0),
    ],
)
def test_nothing_is_marked_beyond_the_field(x, y, cells):
    ground = Ground()
    assert ground.visit(x, y) == (cells, cells)
    assert ground.count == ground.marked.sum() == cells


def test_the_view_shows_blocks_of_9_cells_around_the_ant_and_the_world_beyond_the_field_as_marked():
    ground = Ground()
    assert not ground.around(0.1, 0.1).any()
    ground.visit(0.1, 0.1)
    view = ground.around(0.1, 0.1).reshape(11, 11) * 9
    assert view[5, 5] == 4 and view[5, 6] == 6 and view[6, 5] == 6 and view[6, 6] == 9
    assert view.sum() == pytest.approx(25)
    corner = ground.around(-20, 20).reshape(11, 11)
    assert corner[6:, :5].max() == 0 and corner[:5].min() == 1 and corner[:, 6:].min() == 1
    assert not ground.around(20.5, 0).any()


def test_gains_add_up_to_f_and_the_first_gain_is_that_of_25_cells():
    env = gym.make(IDS[0])
    for seed in range(5):
        observation, info = env.reset(seed=seed)
        assert info == {"F": 25, "initial_gain": 2.5}
        ground = Ground()
        ground.visit(*observation[:2])
        total = info["initial_gain"]
        rng = np.random.default_rng(seed)
        for _ in range(100):
            observation, reward, terminated, _, info = env.step(rng.uniform(-1, 1, 8).astype(np.float32))
            total += reward
            ground.visit(*observation[:2])
            assert total == pytest.approx(info["F"] / 10, abs=1e-12)
            assert info["F"] == ground.count == env.unwrapped.ground.count
            if terminated:
                break
        assert info["F"] > 25


def test_the_three_rewards_pay_for_the_same_walk():
    envs = [AntCoverage(reward) for reward in ("gain", "additive", "modular_official")]
    before, paid = 25, 0.0
    for (_, gain, info), (_, additive, _), (_, official, _) in zip(*(walk(env, 60) for env in envs), strict=True):
        before = 25 if info["F"] < before else before  # another episode
        assert gain == pytest.approx((info["F"] - before) / 10)
        assert additive == info["additive"] == 2.5
        assert official == info["F"] / 10
        before, paid = info["F"], paid + gain
    assert paid > 1


def test_an_unknown_reward_is_a_sentence():
    with pytest.raises(ValueError, match="one of gain, additive, modular_official, not 'distance'"):
        AntCoverage("distance")


def test_the_physics_is_ant_v5s():
    ours = gym.make(IDS[0])
    plain = gym.make("Ant-v5", exclude_current_positions_from_observation=False, include_cfrc_ext_in_observation=False)
    assert ours.observation_space == plain.observation_space and ours.action_space == plain.action_space
    rng = np.random.default_rng(1)
    ended = 0
    assert np.array_equal(ours.reset(seed=1)[0], plain.reset(seed=1)[0])
    for _ in range(400):
        action = rng.uniform(-1, 1, 8).astype(np.float32)
        found, expected = ours.step(action), plain.step(action)
        assert np.array_equal(found[0], expected[0]) and found[2] == expected[2]
        if found[2] or found[3]:
            ended += found[2]
            assert np.array_equal(ours.reset()[0], plain.reset()[0])
    assert ended


@pytest.mark.parametrize("place", [(20.05, 0.0), (-20.05, 0.0), (0.0, 20.05), (0.0, -20.05)])
def test_it_ends_outside_the_field_as_well(place):
    env = AntCoverage(history=True)
    env.reset(seed=0)
    still = np.zeros(8, np.float32)
    env.data.qpos[:2] = np.sign(place) * 19.5
    assert not env.step(still)[2]
    before = env.ground.count
    env.data.qpos[:2] = np.multiply(place, 1.05)
    observation, reward, terminated, truncated, info = env.step(still)
    assert (terminated, truncated, reward, info["F"]) == (True, False, 0.0, before)
    assert not observation[29:].any()


def test_the_time_limit_is_400_steps_and_no_termination():
    env = gym.make(IDS[0])
    env.reset(seed=0)
    ends = [env.step(np.zeros(8, np.float32))[2:4] for _ in range(400)]
    assert ends == [(False, False)] * 399 + [(False, True)]


def test_history_is_added_to_what_is_seen():
    plain, seeing = gym.make(IDS[0]), gym.make(IDS[1])
    assert seeing.observation_space.shape == (150,)
    seen = []
    for (short, *first), (long, *second) in zip(walk(plain, 60), walk(seeing, 60), strict=True):
        assert np.array_equal(short, long[:29]) and first == second
        assert np.array_equal(long[29:], seeing.unwrapped.ground.around(*long[:2]))
        seen.append(long[29:].sum() * 9)
    assert max(seen) > 30


def test_a_copy_by_pickle_is_the_same_task():
    copy = pickle.loads(pickle.dumps(AntCoverage("modular_official", history=True)))
    assert (copy.reward, copy.history, copy.observation_space.shape) == ("modular_official", True, (150,))


@pytest.mark.parametrize("name", IDS)
def test_every_step_of_many_ants_is_that_of_single_ones(name):
    """Bit for bit; ants begin anew when they end, or in the midst of an episode, and some wait."""
    n, limit, rng = 5, 25, np.random.default_rng(0)
    spec = gym.spec(name)
    batch = AntCoverages(n, limit, **spec.kwargs)
    single = [gym.make(name, max_episode_steps=limit, disable_env_checker=True) for _ in range(n)]
    assert batch.observation_space == single[0].observation_space and batch.action_space == single[0].action_space

    def begin(slots):
        seeds = rng.integers(1 << 32, size=len(slots)).tolist()
        first = batch.reset(slots, seeds)
        assert np.array_equal(first, [single[k].reset(seed=seed)[0] for k, seed in zip(slots, seeds, strict=True)])

    begin(range(n))
    terminated = truncated = 0
    for _ in range(150):
        playing = np.flatnonzero(rng.random(n) < 0.9)
        if not len(playing):
            continue
        actions = rng.uniform(-1, 1, (n, 8)).astype(np.float32)
        found = batch.step(playing, actions)
        theirs = list(zip(*(single[k].step(actions[k])[:4] for k in playing), strict=True))
        for ours, expected in zip(found[:4], theirs, strict=True):
            assert np.array_equal(ours, expected)
        for k in playing:
            assert batch.grounds[k].count == single[k].unwrapped.ground.count
        over = playing[found[2] | found[3]]
        terminated, truncated = terminated + found[2].sum(), truncated + (found[3] & ~found[2]).sum()
        again = {*over.tolist(), *np.flatnonzero(rng.random(n) < 0.005).tolist()}
        if again:
            begin(sorted(again))
    batch.close()
    assert terminated > 2 and truncated > 2


def test_many_ants_end_outside_the_field_and_on_numbers_that_are_not_finite():
    batch = AntCoverages(3)
    batch.reset(range(3), range(3))
    batch.bodies[1].qpos[0] = 21.0
    batch.grounds[2].clear()
    found = batch.step(range(3), np.zeros((3, 8), np.float32))
    assert found[2].tolist() == [False, True, False] and not found[3].any()
    assert found[1].tolist() == [found[1][0], 0.0, 2.5]
