import sys

import gymnasium as gym
import numpy as np
import pytest

from rlsuite.errors import UserError
from rlsuite.harness.environments import make_env
from rlsuite.harness.evaluation import BATCH, evaluate
from rlsuite.harness.networks import DeterministicActor
from rlsuite.harness.seeding import evaluation_seeds

SEEDS = evaluation_seeds("Hopper-v5", "interim", 20)


@pytest.fixture(scope="module")
def actor():
    return DeterministicActor(11, 3, 1.0, (256, 256), np.random.default_rng(3))


def test_the_number_of_environments_never_changes_a_score(actor):
    """Chaotic dynamics would blow up a difference in the last bit within the hundred steps of an episode."""
    outcomes = [evaluate(actor.act, "Hopper-v5", SEEDS, slots) for slots in (1, 3, 16)]
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert len({episode.total for episode in outcomes[0]}) == len(SEEDS)


def test_an_episode_does_not_depend_on_the_others(actor):
    assert evaluate(actor.act, "Hopper-v5", SEEDS)[5:7] == evaluate(actor.act, "Hopper-v5", SEEDS[5:7])


def test_episodes_equal_those_of_a_plain_loop_and_end_flags_are_told_apart():
    def act(observations):
        assert observations.shape == (BATCH, 1)
        return np.full((BATCH, 1), 0.25, np.float32)

    short = evaluate(act, "rlsuite/LineWorld-v0", [1, 2])
    assert [(e.total, e.length, e.terminated, e.truncated) for e in short] == [(1.0, 120, True, False)] * 2
    slow = evaluate(lambda o: np.full((BATCH, 1), 0.1, np.float32), "rlsuite/LineWorld-v0", [1])
    assert [(e.total, e.length, e.terminated, e.truncated) for e in slow] == [(0.0, 150, False, True)]

    env = gym.make("Hopper-v5")
    env.reset(seed=5)
    total, length, done = 0.0, 0, False
    while not done:
        _, reward, terminated, truncated, _ = env.step(np.full(3, 0.25, np.float32))
        total, length, done = total + float(reward), length + 1, terminated or truncated
    (episode,) = evaluate(lambda o: np.full((BATCH, 3), 0.25, np.float32), "Hopper-v5", [5])
    assert (episode.total, episode.length) == (total, length)


def test_unknown_environment_is_one_sentence():
    with pytest.raises(UserError, match="Hoper-v5") as error:
        evaluate(lambda o: o, "Hoper-v5", [1])
    assert "\n" not in str(error.value)


class Shapes(gym.Env):
    """Observations of a given space; every episode ends at once."""

    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, space):
        self.observation_space = space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, True, False, {}


@pytest.fixture
def shapes():
    gym.register("Shapes-v0", entry_point=Shapes)
    yield
    del gym.registry["Shapes-v0"]


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (gym.spaces.Dict(b=gym.spaces.Box(-1, 1, (2, 2)), a=gym.spaces.Box(-1, 1, (3,))), (7,)),
        (gym.spaces.Box(-1, 1, (2, 3)), (6,)),
        (gym.spaces.Box(-1, 1, ()), (1,)),
        (gym.spaces.Box(-1, 1, (4,)), (4,)),
        (gym.spaces.Box(0, 255, (64, 64, 3), np.uint8), (64, 64, 3)),
    ],
)
def test_policies_see_flat_observations_unless_they_are_pictures(shapes, space, shape):
    env = make_env("Shapes-v0", space=space)
    assert env.observation_space.shape == shape
    observation, _ = env.reset(seed=1)
    space.seed(1)
    expected = gym.spaces.flatten(space, space.sample()) if len(shape) == 1 else space.sample()
    assert np.array_equal(observation, expected)
    env.close()


def test_ids_may_name_their_module():
    env = make_env("rlsuite_envs:rlsuite/LineWorld-v0")
    assert env.spec.id == "rlsuite/LineWorld-v0"
    with pytest.raises(UserError, match="'nowhere:Hopper-v5' cannot be made: No module named 'nowhere'"):
        make_env("nowhere:Hopper-v5")


def test_a_missing_gymnasium_robotics_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    monkeypatch.delitem(gym.registry, "PointMaze_UMaze-v3", raising=False)
    for name in ("PointMaze_UMaze-v3", "gymnasium_robotics:PointMaze_UMaze-v3"):
        with pytest.raises(UserError, match="cannot be made: run `pip install gymnasium-robotics`"):
            make_env(name)
