"""Atari games of a chosen difficulty and mode: the same episodes as in ale-py's vector environment, to the pixel."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ale_py import ALEInterface, AtariVectorEnv, roms

from rlsuite.errors import UserError
from rlsuite.harness import ale
from rlsuite.harness.ale import AleSlots, Shrink, overlaps, sticks
from rlsuite.harness.environments import ATARI, Environments, make_slots
from rlsuite.harness.seeding import Streams
from rlsuite.harness.smoothing import View, split_view

ROOT = Path(__file__).parents[2]
N = 3


def copies(game, n=N, preset="ale-smoothing", **given):
    return AleSlots(roms.get_rom_path(game), n, **ATARI[preset], **given)


def played(slots, seeds, actions):
    """The pictures of episodes that begin together, (steps + 1, n, 1, 84, 84), and their rewards (steps, n)."""
    n = len(seeds)
    pictures, rewards = [np.array(slots.reset(range(n), seeds))], []
    for action in actions:
        picture, reward, *_ = slots.step(range(n), np.broadcast_to(action, n))
        pictures.append(picture.copy()), rewards.append(reward)
    return np.array(pictures), np.array(rewards)


# The same as ale-py's vector environment


@pytest.mark.parametrize("preset", ATARI)
@pytest.mark.parametrize(
    ("game", "ends", "wrong"),  # episodes that end at least, and the share of pixels that may be off by one
    [("freeway", 0, 5e-4), ("pong", 0, 0.0), ("breakout", 2, 0.0), ("qbert", 0, 2e-4)],
)
def test_an_episode_is_that_of_ale_pys_vector_environment(game, ends, wrong, preset):
    """Rewards, ends and lives too. A seed is twice theirs, or one more. Copies begin again, each alone."""
    ours = copies(game, N, preset)
    theirs = AtariVectorEnv(game, N, num_threads=1, stack_num=1, reward_clipping=False, **ATARI[preset])
    assert ours.action_space.n == theirs.single_action_space.n
    rng = np.random.default_rng(0)
    seeds = rng.integers(2**31, size=N)
    expected, info = theirs.reset(seed=seeds)
    pictures = np.array(ours.reset(range(N), (2 * seeds).tolist()))
    lives, ended, off = info["lives"], 0, []
    for t in range(300):
        difference = np.abs(expected.astype(int) - pictures)
        assert difference.max() <= 1
        off.append(difference.mean())
        actions = rng.integers(ours.action_space.n, size=N)
        expected, *outcomes, info = theirs.step(actions)
        pictures, *others = ours.step(range(N), actions)
        outcomes.append(info["lives"] < lives)
        lives = info["lives"]
        assert all(np.array_equal(one, other) for one, other in zip(outcomes, others, strict=True))
        ended += outcomes[1].sum()
        over = np.flatnonzero(outcomes[1] | (np.arange(N) == t - 150))
        if len(over):
            seeds, mask = rng.integers(2**31, size=len(over)), np.isin(range(N), over)
            expected, info = theirs.reset(seed=seeds, options={"reset_mask": mask})
            pictures[over] = ours.reset(over.tolist(), (2 * seeds + 1).tolist())
            lives = info["lives"]
    assert ended >= ends
    assert np.mean(off) <= wrong


def test_only_games_whose_states_are_complete_are_put_back():
    """Qbert is loaded anew; its episodes are as exact as the others."""
    assert len(copies("freeway").starts) == N
    assert copies("qbert").starts == []


@pytest.mark.parametrize("frames", [1, 2, 41])
def test_an_episode_that_takes_too_long_is_truncated_as_by_ale_py(monkeypatch, frames):
    """After so many frames, also in the midst of a step, whose picture is what was last seen; no-ops do not count."""
    slots, preset = copies("pong", 1), ATARI["ale-smoothing"]
    played(slots, [2], [2] * 60)  # of which nothing may be left
    monkeypatch.setattr(ale, "LONGEST", frames)
    theirs = AtariVectorEnv("pong", 1, num_threads=1, stack_num=1, max_num_frames_per_episode=frames, **preset)
    for seed in (4, 5):
        slots.reset([0], [2 * seed])
        theirs.reset(seed=np.array([seed]), options={"reset_mask": np.ones(1, bool)})
        for t in range(-(-frames // 4)):
            picture, _, terminations, truncations, _ = slots.step([0], np.array([2]))
            expected, _, _, their_truncations, _ = theirs.step(np.array([2]))
            assert np.array_equal(picture[0], expected[0])
            assert bool(truncations[0]) == bool(their_truncations[0]) == (t == frames // 4)
            assert not terminations[0]


def test_a_game_that_is_over_with_the_last_frame_is_not_truncated(monkeypatch):
    def end(envs, slot, actions):
        for action in actions:
            _, _, terminations, truncations, _ = envs.step(*slot, np.array([action]))
            if terminations[0] or truncations[0]:
                return bool(terminations[0]), bool(truncations[0])

    actions = np.random.default_rng(0).integers(4, size=1000)
    slots = copies("breakout", 1, "ale-dqn")
    slots.reset([0], [8])
    assert end(slots, [[0]], actions) == (True, False)
    frames = slots._played[0]
    for limit, ends in ((frames, (True, False)), (frames - 1, (False, True))):
        monkeypatch.setattr(ale, "LONGEST", limit)
        theirs = AtariVectorEnv("breakout", 1, num_threads=1, max_num_frames_per_episode=limit, **ATARI["ale-dqn"])
        theirs.reset(seed=np.array([4]))
        slots.reset([0], [8])
        assert end(slots, [[0]], actions) == end(theirs, [], actions) == ends


# Replay


def digest(game, n, seed, k=0):
    """Of what an episode shows and gives, in copy k of n."""
    slots = copies(game, n, difficulty=0)
    rng = np.random.default_rng(3)
    actions = rng.integers(slots.action_space.n, size=(120, 1))
    pictures, rewards = played(slots, [seed if i == k else seed + 2 * i + 2 for i in range(n)], actions)
    return hashlib.sha256(pictures[:, k].tobytes() + rewards[:, k].tobytes()).hexdigest()


@pytest.mark.parametrize("game", ["freeway", "qbert"])
def test_an_episode_is_that_of_its_seed_bit_for_bit(game):
    """In another process, in another copy, beside others, and after other episodes."""
    once = digest(game, 1, 2**31 + 12)
    code = f"from tests.harness.test_ale import digest; print(digest({game!r}, 1, 2**31 + 12))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert other.stdout.split()[-1] == once
    assert digest(game, 3, 2**31 + 12, k=2) == once
    assert digest(game, 1, 2**31 + 14) != once
    slots = copies(game, 2)
    actions = np.random.default_rng(3).integers(slots.action_space.n, size=(120, 1))
    first = played(slots, [2**31 + 12, 5], actions)
    again = played(slots, [7, 2**31 + 12], actions)
    assert np.array_equal(first[0][:, 0], again[0][:, 1]) and np.array_equal(first[1][:, 0], again[1][:, 1])


def test_training_goes_on_exactly_from_a_checkpoint():
    name = "ale-smoothing/Freeway#frames=2,sigma=0.05,steps=30,difficulty=1"
    actions = np.random.default_rng(0).integers(3, size=(70, 2))
    streams = Streams(1)
    envs = Environments(name, 2, streams)
    for action in actions[:50]:
        envs.step(action)
    others = Streams(1)
    again = Environments(name, 2, others)
    again.load_state_dict(envs.state_dict())
    others.load_state_dict(streams.state_dict())
    for action in actions[50:]:
        for one, other in zip(envs.step(action), again.step(action), strict=True):
            assert np.array_equal(one, other)


# Difficulty and mode


def test_difficulty_and_mode_change_the_game():
    """At difficulty 1 a car throws the chicken back to the start: going straight on earns less."""
    seeds, up = [0, 2, 4, 6], [1] * 200
    easy, asked, hard, other = (
        played(copies("freeway", 4, **given), seeds, up)
        for given in ({}, {"difficulty": 0, "mode": 0}, {"difficulty": 1}, {"mode": 3})
    )
    assert np.array_equal(easy[0], asked[0])  # what the game has by itself
    assert hard[1].sum() < 0.7 * easy[1].sum()
    assert not np.array_equal(other[0][0], easy[0][0])


def test_a_name_says_difficulty_and_mode():
    name = "ale-smoothing/Freeway#frames=4,sigma=0,difficulty=1,mode=3"
    assert split_view(name)[1] == View(4, difficulty=1, mode=3)
    assert split_view(name)[1].of("ale-smoothing/Freeway") == name
    assert View(mode=0).of("ale-dqn/Pong") == "ale-dqn/Pong#frames=1,sigma=0,mode=0"
    seen = np.array(make_slots(name, 1).reset([0], [6]))
    clean = copies("freeway", 1, difficulty=1, mode=3).reset([0], [6])[0]
    np.testing.assert_allclose(seen[0], np.repeat(clean / 255, 4, axis=0), atol=1e-6)


@pytest.mark.parametrize(("game", "key", "number"), [("freeway", "difficulty", 2), ("pong", "mode", 99)])
def test_what_the_game_does_not_have_is_refused_with_what_it_has(game, key, number):
    emulator = ALEInterface()
    emulator.loadROM(roms.get_rom_path(game))
    known = emulator.getAvailableDifficulties() if key == "difficulty" else emulator.getAvailableModes()
    with pytest.raises(UserError) as caught:
        make_slots(f"ale-dqn/{game.capitalize()}#{key}={number}", 1)
    numbers = ", ".join(map(str, known))
    assert str(caught.value) == f"{game} has no {key} {number}; give one of those that it has: {numbers}."


@pytest.mark.parametrize("name", ["CartPole-v0", "Ant-v5", "module:Thing-v0", ""])
@pytest.mark.parametrize("key", ["difficulty", "mode"])
def test_only_atari_games_have_difficulty_and_mode(name, key):
    with pytest.raises(UserError) as caught:
        split_view(f"{name}#frames=5,{key}=1")
    assert str(caught.value) == f"{name} has no {key}, which only Atari games have; leave '{key}=1' out."


# Parts


@pytest.mark.parametrize(("height", "width"), [(210, 160), (250, 160), (84, 84), (211, 53)])
def test_pictures_shrink_to_the_mean_over_each_area(height, width):
    """By sums over pixels cut into pieces so small that each belongs to one new pixel."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(256, size=(3, height, width), dtype=np.uint8)
    pictures[2] = 255
    shrink = Shrink(4, height, width)
    small = shrink(list(pictures))
    assert small.shape == (3, 84, 84) and small.dtype == np.uint8
    for picture, made in zip(pictures, small, strict=True):
        down = np.repeat(picture.astype(np.float64), 84, axis=0).reshape(84, height, width).mean(1)
        mean = np.repeat(down, 84, axis=1).reshape(84, 84, width).mean(2)
        assert np.abs(made - mean).max() <= 0.5 + 1e-4
    assert (small[2] == 255).all()


def test_overlaps_are_whole_numbers_that_add_up():
    assert overlaps(210).tolist() == [[2, 2, 1, 0, 0], [0, 0, 1, 2, 2]]
    assert overlaps(84).tolist() == [[1]]
    for size in (160, 210, 211, 250):
        assert len(set(overlaps(size).sum(1))) == len(set(overlaps(size).sum(0))) == 1


def test_actions_stick_as_often_as_they_should_and_by_the_seed():
    frames = 40_000
    share, draws = {}, {}
    for seed in (1, 2):
        for quarter in (1, 2):
            stream = sticks(seed, quarter << 30)
            draws[seed, quarter] = np.array([next(stream) for _ in range(frames)])
            share[seed, quarter] = draws[seed, quarter].mean()
    for (_, quarter), found in share.items():
        p = quarter / 4
        assert abs(found - p) < 4 * np.sqrt(p * (1 - p) / frames)
    assert draws[1, 2][draws[1, 1]].all()  # the same numbers beneath
    assert abs(np.corrcoef(draws[1, 1], draws[2, 1])[0, 1]) < 4 / np.sqrt(frames)
    ahead = np.corrcoef(draws[1, 1][1:], draws[1, 1][:-1])[0, 1]
    assert abs(ahead) < 4 / np.sqrt(frames)


class Recorder:
    """An emulator that writes down what it is given."""

    def __init__(self, emulator):
        self.emulator, self.given = emulator, []

    def act(self, action):
        self.given.append(action)
        return self.emulator.act(action)

    def __getattr__(self, name):
        return getattr(self.emulator, name)


@pytest.mark.parametrize("preset", ["ale-smoothing", "ale-machado"])
def test_a_sticky_action_is_the_one_before(preset):
    """Frame by frame, by the decisions of the seed; before an episode, and before its no-ops, nothing was done."""
    slots = copies("pong", 1, preset)
    rng = np.random.default_rng(0)
    stuck = []
    for seed in range(10):
        slots.ales[0] = emulator = Recorder(slots.ales[0])
        slots.reset([0], [2 * seed])
        noops = len(emulator.given)
        assert noops < ATARI[preset]["noop_max"] or noops == 0
        choices = rng.integers(1, slots.action_space.n, size=20)
        for choice in choices:
            slots.step([0], np.array([choice]))
        wanted = [0] * noops + np.take(slots.actions, np.repeat(choices, 4)).tolist()
        previous = 0
        for given, action, sticks_now in zip(emulator.given, wanted, sticks(seed, 1 << 30), strict=False):
            previous = previous if sticks_now else action
            assert given == previous
        assert len(emulator.given) == len(wanted)
        stuck.append(np.not_equal(emulator.given, wanted).mean())
        slots.ales[0] = emulator.emulator
    assert 0.03 < np.mean(stuck) < 0.12


def test_episodes_begin_with_any_number_of_no_ops_below_the_limit():
    slots = copies("freeway", 1)
    firsts = [slots.reset([0], [2 * seed])[0].tobytes() for seed in range(150)]
    assert 20 < len(set(firsts)) <= 30
