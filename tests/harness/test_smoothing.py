"""What a smoothed policy sees: noise once a frame, below the stack; checks of the specification in brackets."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlsuite.algorithms.policy_smoothing import DQN, Config
from rlsuite.certify.play import make_view
from rlsuite.errors import UserError
from rlsuite.harness import files
from rlsuite.harness.environments import Environments, make_slots
from rlsuite.harness.evaluation import evaluate
from rlsuite.harness.seeding import Streams
from rlsuite.harness.smoothing import SmoothedSlots, View, split_view


class Numbers(gym.Env):
    """Frames [seed % 1000, step] without end; rewards are those given, step by step, then 0."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, rewards=(), ends_at=0):
        self.rewards, self.ends_at = rewards, ends_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.start = 0, seed % 1000
        return np.array([self.start, self.t], np.float64), {}

    def step(self, action):
        reward = self.rewards[self.t] if self.t < len(self.rewards) else 0.0
        self.t += 1
        return np.array([self.start, self.t], np.float64), reward, self.t == self.ends_at, False, {}


class Dark(gym.Env):
    """A picture of zeros as bytes, for 20 steps."""

    observation_space = gym.spaces.Box(0, 255, (1, 36, 40), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros((1, 36, 40), np.uint8), {}

    def step(self, action):
        self.t += 1
        return np.zeros((1, 36, 40), np.uint8), 1.0, self.t == 20, False, {}


class Grey(Dark):
    """The same with the byte 51 everywhere, a fifth of white."""

    def reset(self, **given):
        return super().reset(**given)[0] + np.uint8(51), {}

    def step(self, action):
        picture, *rest = super().step(action)
        return picture + np.uint8(51), *rest


class Line(Numbers):
    """Some frames more, which are never the same."""

    def __init__(self):
        super().__init__(ends_at=7)


@pytest.fixture(autouse=True)
def registered():
    kinds = {
        "Numbers-v0": (Numbers, {}),
        "Points-v0": (Numbers, {"rewards": (0.0, 0.0, 0.0, -1.0, 0.0, 1.0)}),
        "Line-v0": (Line, {}),
        "Dark-v0": (Dark, {}),
        "Grey-v0": (Grey, {}),
    }
    for name, (kind, given) in kinds.items():
        gym.register(name, entry_point=kind, kwargs=given)
    yield
    for name in kinds:
        del gym.registry[name]


def go(slots, n=None):
    """A step of the first n copies, or all."""
    n = len(slots.stack) if n is None else n
    return slots.step(range(n), np.zeros(len(slots.stack), np.int64))


# Names


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("frames=5,sigma=0.2", View(5, (0.2,))),
        ("sigma=.2,frames=5", View(5, (0.2,))),
        ("sigma=1", View(1, (1.0,))),
        ("sigma=1.5e-3", View(1, (0.0015,))),
        ("sigma=0.1:0.2:0.1:.2", View(1, (0.1, 0.2, 0.1, 0.2))),
        ("frames=4,sigma=0.05,steps=250", View(4, (0.05,), 250)),
        ("ends=reward,sigma=0", View(1, (0.0,), 0, "reward")),
        ("frames=1", View()),
    ],
)
def test_a_view_is_read_from_a_name_and_spelt_alike(text, view):
    assert split_view(f"Some/Thing-v0#{text}") == ("Some/Thing-v0", view)
    assert split_view(view.of("my.module:Thing-v0")) == ("my.module:Thing-v0", view)


def test_a_name_without_a_view_has_none():
    assert split_view("CartPole-v1") == ("CartPole-v1", None)


def test_a_view_keeps_every_digit_of_its_noise():
    """What is certified is what was trained."""
    view = View(sigma=(0.123456789,))
    assert split_view(view.of("CartPole-v0"))[1] == view


def test_noise_of_zeros_is_no_noise():
    assert not View(sigma=(0.0, 0.0)).noisy
    assert View(sigma=(0.0, 0.1)).noisy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "frames",
        "frames=0",
        "frames=-1",
        "frames=2.5",
        "frames=1e3",
        "frames=1000",
        "sigma=-0.1",
        "sigma=nan",
        "sigma=inf",
        "sigma=1e999",
        "sigma=0.1:",
        "sigma=0.1,0.2",
        "sigma=0.1,sigma=0.2",
        "ends=life",
        "steps=0",
        "frames=5;sigma=0.2",
        "noise=0.2",
        "frames=5,",
        "frames=٣",
    ],
)
def test_what_is_no_view_is_refused_with_an_example(text):
    with pytest.raises(UserError) as caught:
        split_view(f"CartPole-v0#{text}")
    message = str(caught.value)
    assert "CartPole-v0#frames=5,sigma=0.2" in message and "\n" not in message


@pytest.mark.parametrize(("sigma", "count"), [("0.1:0.1", "2"), ("0.1:0.1:0.1:0.1:0.1", "5")])
def test_as_many_standard_deviations_as_a_frame_has_numbers(sigma, count):
    with pytest.raises(UserError, match=f"{count} numbers, but a frame has 4"):
        make_slots(f"CartPole-v0#sigma={sigma}", 1)


# Noise


def check_noise_is_drawn_once(slots, clean, sigma, steps=400):
    """(6) A frame keeps its noise while it is in the stack, and all frames have noise of variance sigma^2."""
    n, frames = len(slots.stack), slots.view.frames
    numbers = []
    previous = np.array(slots.reset(range(n), range(n))).reshape(n, frames, -1)
    assert (previous == previous[:, :1]).all()  # the first frame fills the stack
    for t in range(1, steps):
        stack = np.asarray(go(slots)[0]).reshape(n, frames, -1)
        assert np.array_equal(stack[:, :-1], previous[:, 1:])
        previous = stack.copy()
        numbers.append(stack[:, -1] - clean(n, t))
    noise = np.array(numbers).reshape(-1, numbers[0].shape[-1])
    count = len(noise)
    error = np.asarray(sigma) ** 2 * np.sqrt(2 / count)
    assert (np.abs(noise.var(0) - np.asarray(sigma) ** 2) < 3 * error).all()
    assert (np.abs(noise.mean(0)) < 3.5 * np.asarray(sigma) / np.sqrt(count)).all()
    correlation = np.mean(noise[n:] * noise[:-n], 0) / np.asarray(sigma) ** 2
    assert (np.abs(correlation) < 4 / np.sqrt(count)).all()  # of a frame with the next


def counted(n, t):
    """The clean frames of Numbers."""
    return np.stack([np.arange(n), np.full(n, t)], 1)


@pytest.mark.parametrize(("sigma", "text"), [(0.3, "0.3"), ([0.5, 0.01], "0.5:0.01")])
def test_noise_is_drawn_once_a_frame(sigma, text):
    slots = make_slots(f"Numbers-v0#frames=4,sigma={text}", 10)
    check_noise_is_drawn_once(slots, counted, sigma)


class Renoised(SmoothedSlots):
    """The noise above the stack, drawn anew at every look: what must not be."""

    def reset(self, slots, seeds):
        self.rng = np.random.default_rng(0)
        return list(self.again(super().reset(slots, seeds)))

    def step(self, slots, actions):
        observations, *rest = super().step(slots, actions)
        return self.again(observations), *rest

    def again(self, observations):
        return np.asarray(observations) + 0.3 * self.rng.standard_normal(np.shape(observations))


def test_noise_that_is_drawn_again_at_every_look_is_noticed():
    slots = Renoised(make_slots("Numbers-v0", 10), 10, View(4))
    with pytest.raises(AssertionError):
        check_noise_is_drawn_once(slots, counted, 0.3)


def test_without_noise_the_stack_holds_the_last_frames_oldest_first():
    slots = make_slots("Numbers-v0#frames=3", 2)
    assert np.array_equal(slots.reset([0, 1], [7, 8]), [[7, 0, 7, 0, 7, 0], [8, 0, 8, 0, 8, 0]])
    assert np.array_equal(go(slots)[0], [[7, 0, 7, 0, 7, 1], [8, 0, 8, 0, 8, 1]])
    assert np.array_equal(go(slots)[0], [[7, 0, 7, 1, 7, 2], [8, 0, 8, 1, 8, 2]])
    assert np.array_equal(go(slots)[0][0], [7, 1, 7, 2, 7, 3])
    assert np.array_equal(slots.reset([0], [9])[0], [9, 0, 9, 0, 9, 0])
    assert np.array_equal(go(slots)[0], [[9, 0, 9, 0, 9, 1], [8, 2, 8, 3, 8, 4]])


def played(name, order, copies, steps=150):
    """The observations of episodes by their seeds, which take their turns in so many copies."""
    slots = make_slots(name, copies)
    found = {}
    for begin in range(0, len(order), copies):
        seeds = order[begin : begin + copies]
        seen = [np.array(slots.reset(range(len(seeds)), seeds))]
        seen += [np.array(go(slots, len(seeds))[0]) for _ in range(steps)]
        found |= {seed: np.array([frames[k] for frames in seen]) for k, seed in enumerate(seeds)}
    return found


def test_the_noise_of_an_episode_is_that_of_its_seed_whoever_plays_beside_it():
    """Longer than the blocks in which it is drawn, in other copies and in another order."""
    seeds = [5, 11, 2, 7, 90, 3]
    alone = played("Numbers-v0#frames=2,sigma=0.3", seeds, 1)
    for order, copies in ((seeds, 6), (seeds[::-1], 4), (sorted(seeds), 2)):
        together = played("Numbers-v0#frames=2,sigma=0.3", order, copies)
        assert all(np.array_equal(alone[seed], together[seed]) for seed in seeds)
    noise = [alone[seed][:, -1] - np.arange(151) for seed in seeds]
    assert np.abs(np.corrcoef(noise) - np.eye(6)).max() < 4 / np.sqrt(151)


def test_copies_of_different_ages_draw_from_their_own_streams():
    """One of two begins again and again, while the other goes on."""
    slots = make_slots("Numbers-v0#sigma=0.3", 2)
    alone = played("Numbers-v0#sigma=0.3", [4], 1)[4]
    slots.reset([0, 1], [4, 50])
    for t in range(1, 150):
        assert np.array_equal(go(slots)[0][0], alone[t])
        if t % 3 == 0:
            slots.reset([1], [50 + t])


def test_the_noise_is_not_what_the_environment_drew():
    """Its stream is another one than that of the seed itself."""
    slots = make_slots("Numbers-v0#sigma=1", 1)
    noise = np.array(slots.reset([0], [3]) + [go(slots)[0][0] for _ in range(60)]) - [[3, t] for t in range(61)]
    environments = np.random.default_rng(3).standard_normal(noise.size, np.float32)
    assert abs(np.corrcoef(noise.ravel(), environments)[0, 1]) < 4 / np.sqrt(noise.size)


def test_an_attacker_is_asked_once_a_frame_and_what_he_adds_stays_in_the_stack():
    slots = make_slots("Numbers-v0#frames=3,sigma=0.3", 3)
    plain = make_slots("Numbers-v0#frames=3,sigma=0.3", 3)
    asked = []

    def perturb(chosen, frames):
        asked.append((chosen.copy(), frames.copy()))
        return np.full_like(frames, len(asked))

    slots.perturb = perturb
    first = np.array(slots.reset([0, 2], [7, 9])).reshape(2, 3, 2)
    np.testing.assert_allclose(first - np.array(plain.reset([0, 2], [7, 9])).reshape(2, 3, 2), 1, atol=1e-5)
    slots.reset([1], [8]), plain.reset([1], [8])
    for t in range(1, 4):
        added = (go(slots)[0] - go(plain)[0]).reshape(3, 3, 2)
        assert added[0, -1] == pytest.approx(t + 2, abs=1e-5)
    np.testing.assert_allclose(added[:, :, 0], [[3, 4, 5]] * 3, atol=1e-5)
    assert [chosen.tolist() for chosen, _ in asked] == [[0, 2], [1], *[[0, 1, 2]] * 3]
    assert np.array_equal(asked[-1][1], [[7, 3], [8, 3], [9, 3]])  # frames without noise and without what was added
    assert asked[-1][1].dtype == np.float32


# Pictures


def check_pictures_are_floats(numbers):
    """(11) Of a black picture with noise of 0.05: half of the numbers are negative, none is far away."""
    assert abs(numbers.mean()) < 4 * 0.05 / np.sqrt(numbers.size)
    assert abs((numbers < 0).mean() - 0.5) < 2 / np.sqrt(numbers.size)
    assert numbers.max() < 0.5
    assert numbers.std() == pytest.approx(0.05, rel=0.01)


def in_training() -> np.ndarray:
    """What DQN learns from in the dark: through environments, stack and replay buffer."""
    run = SimpleNamespace(device=torch.device("cpu"), rng=Streams(0))
    envs = Environments("Dark-v0#frames=2,sigma=0.05", 2, run.rng)
    assert envs.observation_space == gym.spaces.Box(-np.inf, np.inf, (2, 36, 40), np.float32)
    agent = DQN(envs, Config(envs.env_id, n_envs=2, buffer_size=400), run)
    agent.collect(envs, 120)
    return agent.replay.sample(64, np.random.default_rng(0)).observations


def in_evaluation() -> np.ndarray:
    """What a policy is shown in the dark when it is evaluated."""
    seen = []

    def act(observations):
        seen.append(observations[:4].copy())
        return np.zeros(len(observations), np.int64)

    evaluate(act, "Dark-v0#frames=2,sigma=0.05", [1, 2, 3, 4])
    return np.array(seen)


def in_certification() -> np.ndarray:
    """What it is shown when it is certified."""
    slots = make_view("Dark-v0#frames=2,sigma=0.05", 4)
    return np.array([slots.reset(range(4), range(4)), *[go(slots)[0] for _ in range(15)]])


@pytest.mark.parametrize("shown", [in_training, in_evaluation, in_certification])
def test_pictures_are_floats_through_the_whole_pipeline(shown):
    numbers = shown()
    assert numbers.dtype == np.float32
    check_pictures_are_floats(numbers)


def test_noise_that_wraps_around_as_bytes_is_noticed():
    """As in the authors' training: noisy floats of 0 to 255 copied into an array of bytes."""
    numbers = 255 * in_certification()
    wrapped = numbers.astype(np.int64).astype(np.uint8) / np.float32(255)
    assert 0.4 < (wrapped > 200 / 255).mean() < 0.5  # the specification's 48 % of the pixels
    with pytest.raises(AssertionError):
        check_pictures_are_floats(wrapped)


def test_pictures_are_scaled_to_one_and_stacked_as_channels():
    slots = make_slots("Grey-v0#frames=4", 1)
    (first,) = slots.reset([0], [0])
    assert first.shape == (4, 36, 40) and first.dtype == np.float32
    np.testing.assert_allclose(first, 0.2)
    noisy = make_slots("Grey-v0#frames=4,sigma=0.1", 1)
    (first,) = noisy.reset([0], [0])
    following = go(noisy)[0][0]
    assert np.array_equal(first[0], first[3]) and np.array_equal(following[2], first[3])
    assert not np.array_equal(following[3], following[2])
    assert following.max() > 0.5 and following.min() < 0  # not clipped


# Ends of episodes


def test_steps_cut_an_episode():
    slots = make_slots("Numbers-v0#steps=3,sigma=0.1", 2)
    slots.reset([0, 1], [0, 0])
    flags = []
    for t in range(3):
        _, _, terminations, truncations, _ = go(slots)
        flags.append((list(terminations), list(truncations)))
        if t == 0:
            slots.reset([1], [1])
    assert flags == [([False] * 2, [False] * 2), ([False] * 2, [False] * 2), ([False] * 2, [True, False])]


def test_steps_do_not_make_a_termination_a_truncation_nor_episodes_longer():
    slots = make_slots("Line-v0#steps=7", 1)
    slots.reset([0], [0])
    ends = [(bool(e[2][0]), bool(e[3][0])) for e in (go(slots) for _ in range(7))]
    assert ends == [(False, False)] * 6 + [(True, True)]
    slots = make_slots("CartPole-v0#steps=300", 1)
    slots.reset([0], [0])
    assert evaluate(lambda x: np.arange(len(x)) % 2, "CartPole-v0#steps=300", [0])[0].length < 200


def test_the_first_reward_ends_an_episode():
    """As one point of Pong, won or lost."""
    slots = make_slots("Points-v0#ends=reward,sigma=0.1", 1)
    slots.reset([0], [0])
    steps = [go(slots) for _ in range(4)]
    assert [bool(terminations[0]) for _, _, terminations, _, _ in steps] == [False, False, False, True]
    assert [float(rewards[0]) for _, rewards, _, _, _ in steps] == [0, 0, 0, -1]
    (episode,) = evaluate(lambda x: np.zeros(len(x), np.int64), "Points-v0#ends=reward", [5])
    assert (episode.total, episode.length, episode.terminated, episode.truncated) == (-1.0, 4, True, False)


# In training


@pytest.mark.parametrize("name", ["CartPole-v1#frames=5,sigma=0.2,steps=40", "Line-v0#frames=3,sigma=0.1:0.4"])
def test_training_environments_continue_exactly(name, tmp_path):
    """From a checkpoint in the midst of episodes; what came next is what comes next, its noise too."""
    rng = np.random.default_rng(0)
    actions = rng.integers(2, size=(400, 3))
    streams = Streams(3)
    envs = Environments(name, 3, streams)
    for step in actions[:135]:
        envs.step(step)
    while min(episode.length for episode in envs.episodes) < 2:
        envs.step(actions[0])
    assert max(episode.length for episode in envs.episodes) >= 2
    files.save_checkpoint(tmp_path / "here.ckpt", {"state": envs.state_dict(), "streams": streams.state_dict()})

    def going_on(envs):
        steps = [envs.step(step) for step in actions[200:]]
        return [np.array(part) for step in steps for part in step] + [envs.observations.copy()]

    expected = going_on(envs)
    tree = files.load_checkpoint(tmp_path / "here.ckpt")
    others = Streams(3)
    again = Environments(name, 3, others)
    again.load_state_dict(tree["state"])
    others.load_state_dict(tree["streams"])
    assert all(np.array_equal(a, b) for a, b in zip(expected, going_on(again), strict=True))


def test_noise_goes_on_across_the_transition_and_begins_anew_with_an_episode():
    """The true successor of the last step is as noisy as the others, and shares nothing with the next episode."""
    envs = Environments("Line-v0#frames=2,sigma=0.1", 1, Streams(0))
    envs.begin()
    for _ in range(3):
        for t in range(1, 8):
            before = envs.observations.copy()
            transition = envs.step(np.zeros(1, np.int64))
            assert np.array_equal(transition.next_observations[0, :2], before[0, 2:])
            assert abs(transition.next_observations[0, 3] - t) < 0.6
        assert transition.terminations[0]
        assert np.array_equal(envs.observations[0, :2], envs.observations[0, 2:])
        assert not np.isin(envs.observations[0], transition.next_observations[0]).any()
