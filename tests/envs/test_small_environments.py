"""What the environments with few states or dimensions have in common."""

import hashlib

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

import rlsuite_envs

LIMITS = {
    "rlsuite/Discrete2D10-v0": 50,
    "rlsuite/Discrete2D50-v0": 50,
    "rlsuite/Discrete2D100-v0": 50,
    "rlsuite/Bandit5-v0": None,
    "rlsuite/Bandit20-v0": None,
    "rlsuite/Bandit100-v0": None,
    "rlsuite/Bandit1000-v0": None,
    "rlsuite/GridWorld-v0": 30,
    "rlsuite/GridWorld9-v0": 27,
    "rlsuite/TwoStep-v0": None,
    "rlsuite/Chain-v0": 15,
    "rlsuite/Enumerable-v0": 4,
}
all_environments = pytest.mark.parametrize("name", LIMITS)


def make(name: str) -> gym.Env:
    return gym.make(name, disable_env_checker=True)


def episode(env: gym.Env, seed: int) -> str:
    """Digest of all that an episode of random actions, which follow from the seed too, gives."""
    actions = np.random.default_rng(seed).integers(env.action_space.n, size=100)
    observation, _ = env.reset(seed=seed)
    digest = hashlib.sha256(observation.tobytes())
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        digest.update(observation.tobytes() + np.array([reward, terminated, truncated]).tobytes())
        if terminated or truncated:
            return digest.hexdigest()
    raise AssertionError("the episode does not end")


def test_every_environment_is_in_the_lists_of_these_tests():
    ids = {name for name in gym.registry if name.startswith("rlsuite/")}
    others = {
        "rlsuite/LineWorld-v0",
        "rlsuite/LQR-v0",
        *(f"rlsuite/PointMaze-{maze}-v0" for maze in ("UMaze", "Medium", "Large")),
        *(f"rlsuite/{task}-v0" for task in ("Coverage", "Bimodal", "TwoRooms")),
        *(f"rlsuite/{family}{instance}-v0" for family in ("GP", "Items", "DDesign") for instance in range(10)),
    }
    assert ids == {*LIMITS} | others
    before = dict(gym.registry)
    rlsuite_envs.register_envs()
    assert gym.registry == before


@all_environments
@pytest.mark.filterwarnings("error")
def test_gymnasiums_checker_passes_without_a_warning(name):
    check_env(gym.make(name).unwrapped)


@all_environments
def test_observations_are_float32_and_inside_their_space_to_the_end_of_an_episode(name):
    env = make(name)
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            assert observation.dtype == np.float32 and observation in env.observation_space
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            assert type(reward) is float and type(terminated) is bool
            ended = terminated or truncated
        assert observation in env.observation_space


@all_environments
def test_an_episode_follows_from_its_seed_whatever_was_played_before(name):
    one, other = make(name), make(name)
    forwards = [episode(one, seed) for seed in range(1000)]
    np.random.seed(7)  # the global generator has no part in it
    backwards = [episode(other, seed) for seed in reversed(range(1000))]
    assert forwards == backwards[::-1]


@all_environments
def test_a_reset_within_an_episode_leaves_nothing_of_it(name):
    fresh = episode(make(name), seed=3)
    used = make(name)
    for steps in range(3):
        used.reset(seed=steps)
        for _ in range(steps):
            if used.step(used.action_space.sample())[2]:
                break
        assert episode(used, seed=3) == fresh


@pytest.mark.parametrize("name", ["rlsuite/Discrete2D10-v0", "rlsuite/Bandit5-v0"])
def test_other_seeds_and_a_reset_without_one_give_other_episodes(name):
    env = make(name)

    def outcome(seed: int | None) -> bytes:
        observation, _ = env.reset(seed=seed)
        return observation.tobytes() + np.float64(env.step(0)[1]).tobytes()

    assert len({outcome(seed) for seed in [*range(50), None, None]}) == 52


@pytest.mark.parametrize("name", [name for name, limit in LIMITS.items() if limit])
def test_the_time_limit_truncates_and_does_not_terminate(name):
    env = make(name)
    observation, _ = env.reset(seed=0)
    away = 0  # up into the wall, in GridWorld; on to the far end, in Chain
    if "Discrete2D" in name:
        away = int(np.argmin(env.unwrapped.moves @ (observation[2:] - observation[:2])))
    flags = [env.step(away)[2:4] for _ in range(LIMITS[name])]
    assert flags == [(False, False)] * (LIMITS[name] - 1) + [(False, True)]


@pytest.mark.parametrize("name", [name for name, limit in LIMITS.items() if not limit])
def test_a_task_that_ends_by_itself_terminates_and_is_not_truncated(name):
    env = make(name)
    env.reset(seed=0)
    steps = 2 if "TwoStep" in name else 1
    assert [env.step(0)[2:4] for _ in range(steps)] == [(False, False)] * (steps - 1) + [(True, False)]


@all_environments
def test_the_specification_makes_the_same_environment(name):
    again = gym.make(EnvSpec.from_json(gym.spec(name).to_json()))
    assert again.spec.max_episode_steps == LIMITS[name]
    assert episode(again, seed=5) == episode(make(name), seed=5)
