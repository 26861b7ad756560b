import numpy as np
import pytest

from rlsuite.errors import UserError
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
    import gymnasium as gym

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
