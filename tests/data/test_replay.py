"""The replay buffer against a literal list of all transitions that happened."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from rlsuite.data.replay import Replay
from rlsuite.harness import files

N, FEATURES = 3, 2
LENGTHS = [1, 4, 2, 7, 3, 1, 5]  # of the episodes of each copy, from another one on


class World:
    """n copies whose frames never repeat: [copy, count]. Feeds a buffer, and keeps what happened literally."""

    def __init__(self, replay: Replay, frames: int, seed: int = 0) -> None:
        self.replay, self.frames, self.rng = replay, frames, np.random.default_rng(seed)
        self.count = 0
        self.episodes = list(range(replay.n))
        self.left = [0] * replay.n
        self.stacks = [deque(maxlen=frames) for _ in range(replay.n)]
        self.transitions: list[list[tuple]] = [[] for _ in range(replay.n)]  # of each copy, oldest first
        self.stored = [[] for _ in range(replay.n)]  # frames as they came, the first of episodes too
        for k in range(replay.n):
            self.first(k)
        replay.begin(np.stack([self.seen(k) for k in range(replay.n)]))

    def frame(self, k: int) -> np.ndarray:
        self.count += 1
        return np.array([k, self.count], np.float32)

    def first(self, k: int) -> None:
        frame = self.frame(k)
        self.stacks[k].extend([frame] * self.frames)
        self.stored[k].append(frame)
        self.left[k] = LENGTHS[self.episodes[k] % len(LENGTHS)]
        self.episodes[k] += 1

    def seen(self, k: int) -> np.ndarray:
        return np.concatenate(self.stacks[k])

    def step(self) -> tuple:
        """Gives what the buffer was given."""
        n = self.replay.n
        actions = self.rng.integers(5, size=n)
        rewards = self.rng.standard_normal(n).astype(np.float32)
        terminations, ends = np.zeros(n, bool), np.zeros(n, bool)
        successors, following = [], []
        for k in range(n):
            before = self.seen(k)
            frame = self.frame(k)
            self.stacks[k].append(frame)
            self.stored[k].append(frame)
            self.left[k] -= 1
            ends[k] = self.left[k] == 0
            terminations[k] = ends[k] and self.episodes[k] % 2
            successors.append(self.seen(k))
            self.transitions[k].append((before, actions[k], rewards[k], self.seen(k), terminations[k]))
            if ends[k]:
                self.first(k)
            following.append(self.seen(k))
        given = (actions, rewards, terminations, ends, np.stack(successors), np.stack(following))
        self.replay.add(*given)
        return given

    def usable(self, size: int) -> dict[float, tuple]:
        """The transitions that only need the newest `size` frames of their copy, by the count of their last frame."""
        found = {}
        for k in range(self.replay.n):
            held = {tuple(frame) for frame in self.stored[k][-size:]}
            for transition in self.transitions[k]:
                needed = np.concatenate([transition[0], transition[3]]).reshape(-1, FEATURES)
                if {tuple(frame) for frame in needed} <= held:
                    found[transition[3][-1]] = transition
        return found


def make(capacity: int, frames: int, n: int = N, dtype=np.float32) -> World:
    return World(Replay(capacity, n, (frames * FEATURES,), frames, dtype), frames)


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("steps", [1, 10, 200])
def test_what_is_drawn_is_what_happened_and_all_of_it_is_drawn(frames, steps):
    """Stacks whose first frame stands for what came before, true last frames, nothing across a reset, and nothing whose
    frames have been overwritten."""
    world = make(60, frames)
    for _ in range(steps):
        world.step()
    literal = world.usable(20)
    drawn = world.replay.sample(3000, np.random.default_rng(1))
    assert [part.dtype for part in drawn] == [np.float32, np.int64, np.float32, np.float32, np.float32]
    assert drawn.observations.shape == drawn.next_observations.shape == (3000, frames * FEATURES)
    for z, action, reward, after, termination in zip(*drawn, strict=True):
        expected = literal[after[-1]]
        assert np.array_equal(z, expected[0])
        assert np.array_equal(after, expected[3])
        assert (action, reward, termination) == (expected[1], expected[2], expected[4])
    assert set(drawn.next_observations[:, -1]) == set(literal)
    assert len(world.replay) == sum(min(20, len(stored)) for stored in world.stored)


def test_the_world_of_these_tests_resets_terminates_and_truncates():
    world = make(600, 3)
    for _ in range(60):
        world.step()
    happened = [t for copy in world.transitions for t in copy]
    repeated = [t for t in happened if np.array_equal(t[0][:2], t[0][2:4])]
    assert len(repeated) > 10
    assert {bool(t[4]) for t in happened} == {True, False}
    assert len(world.usable(200)) == len(happened) == 180
    assert len({t[0][-1] for t in happened}) == 180  # no state is the last of one episode and the first of another
    ends = {t[3][-1] for t in happened} - {t[0][-1] for t in happened}
    assert sum(bool(t[4]) for t in happened if t[3][-1] in ends) < len(ends) - 3  # some of them are truncations


def test_every_transition_is_as_likely():
    world = make(60, 2)
    for _ in range(100):
        world.step()
    literal = world.usable(20)
    drawn = world.replay.sample(40_000, np.random.default_rng(0)).next_observations[:, -1]
    counts = np.array([(drawn == key).sum() for key in literal])
    expected = 40_000 / len(literal)
    assert ((counts - expected) ** 2 / expected).sum() < len(literal) + 4 * np.sqrt(2 * len(literal))  # chi squared


def test_pictures_are_stacked_by_channels_and_kept_as_halves():
    replay = Replay(10, 1, (3, 4, 5), 3, np.float16)
    frames = np.random.default_rng(0).standard_normal((4, 4, 5), np.float32)
    replay.begin(np.stack([frames[[0, 0, 0]]]))
    for i in range(1, 4):
        stack = frames[[max(i - 2, 0), max(i - 1, 0), i]][None]
        replay.add(np.array([i]), np.ones(1), np.zeros(1), np.zeros(1, bool), stack, stack)
    assert replay.images.dtype == np.float16 and replay.images.shape == (1, 10, 1, 4, 5)
    drawn = replay.sample(50, np.random.default_rng(0))
    assert set(drawn.actions) == {1, 2, 3}
    half = frames.astype(np.float16).astype(np.float32)
    for action, z, after in zip(drawn.actions, drawn.observations, drawn.next_observations, strict=True):
        assert np.array_equal(z, half[[max(action - 3, 0), max(action - 2, 0), action - 1]])
        assert np.array_equal(after, half[[max(action - 2, 0), action - 1, action]])
    assert drawn.observations.dtype == np.float32


@pytest.mark.parametrize("steps", [4, 90])
def test_it_continues_from_a_checkpoint(steps, tmp_path):
    """The same draws, at once and after more steps; before the ring is full, and after."""
    world = make(60, 3)
    for _ in range(steps):
        world.step()
    files.save_checkpoint(tmp_path / "replay.ckpt", world.replay.state_dict())
    other = Replay(60, N, (3 * FEATURES,), 3)
    other.load_state_dict(files.load_checkpoint(tmp_path / "replay.ckpt"))

    def draws(replay):
        return [part.copy() for part in replay.sample(500, np.random.default_rng(7))]

    assert all(np.array_equal(a, b) for a, b in zip(draws(world.replay), draws(other), strict=True))
    assert len(other) == len(world.replay)
    for _ in range(30):
        other.add(*world.step())
    assert all(np.array_equal(a, b) for a, b in zip(draws(world.replay), draws(other), strict=True))


def test_a_buffer_is_never_too_small_to_draw_from():
    """Also right after the end of an episode, when its last frame and the first of the next are the newest."""
    for frames in (1, 3):
        world = make(1, frames, n=1)
        for _ in range(40):
            world.step()
            literal = world.usable(world.replay.size)
            assert literal
            drawn = world.replay.sample(20, np.random.default_rng(0))
            assert set(drawn.next_observations[:, -1]) <= set(literal)
