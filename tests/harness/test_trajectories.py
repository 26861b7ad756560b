"""Episodes are accepted in the order of their numbers, the same for any number of copies, and all steps are counted."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from rlsuite.errors import UserError
from rlsuite.harness.environments import TRAINING_SEEDS, Diverged
from rlsuite.harness.networks import FlatPolicy
from rlsuite.harness.seeding import Streams
from rlsuite.harness.trajectories import Sampler, Trajectories, stream

SHORT, LONG = 1, 40


class TwoLengths(gym.Env):
    """Episodes of 1 or 40 steps, with the same probability, whatever is done."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, broken=""):
        self.broken = broken

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = LONG if self.np_random.random() < 0.5 else SHORT
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        broken = self.left == 30
        reward = np.inf if broken and self.broken == "reward" else 1.0
        observation = np.full(1, np.nan if broken and self.broken == "observation" else 0, np.float32)
        return observation, reward, self.left == 0, False, {}


@pytest.fixture(autouse=True)
def environments():
    gym.register("TwoLengths-v0", entry_point=TwoLengths)
    yield
    del gym.registry["TwoLengths-v0"]


def still(observations, noise):
    return np.zeros(len(observations), np.int64)


def make(env_id, n=1, **given):
    """A sampler, and the list of what it counts."""
    counted = []
    return Sampler(env_id, n, Streams(0), advance=counted.append, **given), counted


def policy(env_id):
    env, rng = gym.make(env_id), np.random.default_rng(0)
    width, space = env.observation_space.shape[0], env.action_space
    if isinstance(space, gym.spaces.Discrete):
        return FlatPolicy(width, int(space.n), hidden=(32, 32), rng=rng)
    return FlatPolicy(width, space.shape[0], space.low, space.high, rng=rng)


def assert_same(ours: Trajectories, theirs: Trajectories) -> None:
    for name, array in vars(ours).items():
        assert array.dtype == vars(theirs)[name].dtype
        assert np.array_equal(array, vars(theirs)[name]), name


@pytest.mark.parametrize("wanted", [{"steps": 300}, {"episodes": 7}])
@pytest.mark.parametrize(("env_id", "horizon"), [("CartPole-v1", 0), ("Pendulum-v1", 70), ("Hopper-v5", 0)])
def test_any_number_of_copies_gives_the_same_trajectories(env_id, horizon, wanted):
    act = policy(env_id).draw
    one, counted = make(env_id, 1, horizon=horizon)
    batches = [one.play(act, **wanted) for _ in range(3)]
    statistics = one.statistics()
    assert counted == [len(batch) for batch in batches], "one copy plays nothing for nothing"
    for n in (3, 8, 20):
        many, counted = make(env_id, n, horizon=horizon)
        for k, batch in enumerate(batches):
            assert_same(many.play(act, **wanted), batch)
            if "episodes" in wanted:
                assert counted[k] == len(batch), "what is asked for by number is not played in vain"
        assert many.accepted == one.accepted and many.statistics() == statistics


def test_the_steps_of_episodes_that_are_dropped_are_counted(monkeypatch):
    sampler, counted = make("TwoLengths-v0", 4)
    played = 0
    plain = sampler.slots.step

    def step(slots, actions):
        nonlocal played
        played += len(slots)
        return plain(slots, actions)

    monkeypatch.setattr(sampler.slots, "step", step)
    accepted = sum(len(sampler.play(still, steps=60)) for _ in range(30))
    assert sum(counted) == played > accepted


def test_a_batch_is_the_shortest_row_of_episodes_with_so_many_steps():
    sampler, _ = make("TwoLengths-v0", 5)
    lengths = [sampler.play(still, steps=60).lengths for _ in range(50)]
    assert all(part.sum() >= 60 > part[:-1].sum() for part in lengths)
    assert {SHORT, LONG} == set(np.concatenate(lengths).tolist())


def excess(batches) -> float:
    """How many standard errors the mean of sum L - n E[L] over batches is away from 0, where Wald's identity has it."""
    z = np.array([sum(lengths) - len(lengths) * (SHORT + LONG) / 2 for lengths in batches])
    return z.mean() / (z.std(ddof=1) / np.sqrt(len(z)))


def first_finished(rng, copies, steps):
    """The lengths of the episodes of one batch if those count that are over first."""
    ends = [(length, k, length) for k, length in enumerate(rng.choice([SHORT, LONG], copies).tolist())]
    accepted = []
    while sum(accepted) < steps:
        now, k, length = min(ends)
        accepted.append(length)
        following = int(rng.choice([SHORT, LONG]))
        ends[k] = now + following, k, following
    return accepted


def test_walds_identity_holds_for_ordered_acceptance_and_not_for_the_first_finished():
    """E sum L = E n E L, 20.5 steps an episode, for batches of 60 steps from 8 copies."""
    sampler, _ = make("TwoLengths-v0", 8)
    assert abs(excess([sampler.play(still, steps=60).lengths for _ in range(400)])) < 3
    rng = np.random.default_rng(0)
    assert excess([first_finished(rng, 8, 60) for _ in range(400)]) < -10


def test_episodes_are_cut_at_the_horizon_and_the_next_begins_anew():
    sampler, _ = make("Pendulum-v1", 2, horizon=7)
    batch = sampler.play(policy("Pendulum-v1").draw, steps=30)
    assert batch.lengths.tolist() == [7] * 5 and batch.times.tolist() == list(range(7)) * 5
    assert batch.starts.tolist() == [0, 7, 14, 21, 28] and batch.spread(np.arange(5)).tolist() == sorted(
        [*range(5)] * 7
    )
    for start, seed in zip(batch.starts, seeds_of(sampler, 5), strict=True):
        assert np.array_equal(batch.observations[start], gym.make("Pendulum-v1").reset(seed=seed)[0])


def seeds_of(sampler, episodes):
    return [int(stream(sampler.seeds, number).integers(TRAINING_SEEDS)) for number in range(episodes)]


def test_no_two_episodes_share_noise_or_seed():
    sampler, _ = make("Pendulum-v1", 2, horizon=100)
    noise = []

    def act(observations, given):
        noise.append(given.copy())
        return given

    sampler.play(act, episodes=6)
    drawn = np.concatenate(noise).ravel()
    assert len(np.unique(drawn)) == len(drawn) == 600
    assert len(set(seeds_of(sampler, 1000))) == 1000
    other = Sampler("Pendulum-v1", 1, Streams(0), name="correction ")
    assert not np.array_equal(other.seeds, sampler.seeds) and not np.array_equal(other.noise, sampler.noise)


def test_actions_are_stored_as_drawn_and_clipped_on_their_way(monkeypatch):
    sampler, _ = make("Pendulum-v1", 1, horizon=20)
    sent = []
    plain = sampler.slots.step
    monkeypatch.setattr(sampler.slots, "step", lambda k, actions: (sent.append(actions[0]), plain(k, actions))[1])
    batch = sampler.play(lambda x, noise: 3 * noise, episodes=1)
    assert np.abs(batch.actions).max() > 2
    assert np.array_equal(np.clip(batch.actions, -2, 2), sent)


def test_a_sampler_goes_on_from_its_state():
    act = policy("CartPole-v1").draw
    sampler, _ = make("CartPole-v1", 2)
    sampler.play(act, steps=100)
    state = sampler.state_dict()
    expected, statistics = sampler.play(act, steps=100), sampler.statistics()
    other, _ = make("CartPole-v1", 3)
    other.load_state_dict(state)
    assert_same(other.play(act, steps=100), expected)
    assert other.statistics() == statistics
    assert other.statistics() == {}


@pytest.mark.parametrize("broken", ["reward", "observation"])
def test_a_number_that_is_not_finite_ends_the_run(broken):
    gym.register("Broken-v0", entry_point=TwoLengths, kwargs={"broken": broken})
    try:
        sampler, _ = make("Broken-v0", 3)
        with pytest.raises(Diverged, match=f"{broken} of Broken-v0"):
            sampler.play(still, episodes=20)
    finally:
        del gym.registry["Broken-v0"]


@pytest.mark.parametrize(
    ("env_id", "given", "complaint"),
    [
        ("CartPole-v1", {"n": 0}, "--n-envs is at least 1, not 0"),
        ("CartPole-v1", {"horizon": -1}, "--horizon is at least 0, not -1"),
        ("ale-dqn/Pong", {}, "observations of ale-dqn/Pong are pictures"),
    ],
)
def test_bad_input_is_one_sentence(env_id, given, complaint):
    with pytest.raises(UserError, match=complaint):
        make(env_id, **given)
