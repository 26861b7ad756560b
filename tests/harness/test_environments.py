"""The contract of training environments: true successors, no transition across a reset, exact resume."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from rlsuite.cli import main
from rlsuite.data.files import read_json
from rlsuite.errors import UserError
from rlsuite.harness import environments, files
from rlsuite.harness.environments import Diverged, Environments
from rlsuite.harness.evaluation import BATCH, evaluate
from rlsuite.harness.rollouts import Buffer, collect
from rlsuite.harness.seeding import Streams, evaluation_seeds

ENDS = {  # name of a counting environment -> after how many steps an episode ends, and how
    "Truncating-v0": [(3, False, True)],
    "Terminating-v0": [(3, True, False)],
    "Mixed-v0": [(3, False, True), (1, True, False), (4, True, True), (2, True, False), (1, False, True)],
}


class Counting(gym.Env):
    """Observes [count, seed % 1000, step of the episode]; the count never repeats: a reset takes it on by a hundred.

    `poison` = (t, what, value): the observation ("observation", "reset") or the "reward" of step t of all steps is bad.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, ends, poison=(-1, "", 0.0), seeded=True):
        self.ends, self.poison, self.seeded = ends, poison, seeded
        self.count, self.steps, self.episode = 0, 0, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.t, self.count, self.start = 0, self.count + 100, seed % 1000 if self.seeded else 0
        bad = self.poison[1] == "reset" and self.steps >= self.poison[0]
        return np.array([self.poison[2] if bad else self.count, self.start, self.t], np.float64), {}

    def step(self, action):
        self.t, self.count, self.steps = self.t + 1, self.count + 1, self.steps + 1
        length, terminated, truncated = self.ends[self.episode % len(self.ends)]
        ended = self.t >= length
        observation, reward = np.array([self.count, self.start, self.t], np.float64), float(self.count)
        at, what, value = self.poison
        if self.steps == at:
            observation = np.full(3, value) if what == "observation" else observation
            reward = value if what == "reward" else reward
        return observation, reward, ended and terminated, ended and truncated, {}


@pytest.fixture(autouse=True)
def counting():
    for name, ends in ENDS.items():
        gym.register(name, entry_point=Counting, kwargs={"ends": ends})
    yield
    for name in ENDS:
        del gym.registry[name]


@pytest.fixture
def register():
    """Register environments for the time of a test."""
    names = []

    def add(name, entry_point, **kwargs):
        gym.register(name, entry_point=entry_point, kwargs=kwargs, disable_env_checker=True)
        names.append(name)
        return name

    yield add
    for name in names:
        del gym.registry[name]


def still(n):
    return np.zeros((n, 1), np.float32)


# No transition crosses a reset


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("name", ENDS)
def test_every_step_gives_the_true_successor_and_what_to_act_on(name, n):
    envs = Environments(name, n, Streams(0))
    envs.begin()
    ended = np.zeros(n, int)
    for _ in range(100):
        before = envs.observations.copy()
        transition = envs.step(still(n))
        assert np.array_equal(transition.next_observations[:, 0], before[:, 0] + 1)
        assert np.array_equal(transition.next_observations[:, 1], before[:, 1])
        assert np.array_equal(transition.next_observations[:, 2], before[:, 2] + 1)
        assert np.array_equal(transition.rewards, transition.next_observations[:, 0])
        for k in range(n):
            length, terminated, truncated = ENDS[name][ended[k] % len(ENDS[name])]
            over = before[k, 2] + 1 == length
            assert (transition.terminations[k], transition.truncations[k]) == (over and terminated, over and truncated)
            assert np.array_equal(envs.observations[k], transition.next_observations[k]) == (not over)
            assert envs.observations[k, 2] == (0 if over else before[k, 2] + 1)
            ended[k] += over
    assert (ended > 20).all()
    envs.close()


@pytest.mark.parametrize("lengths", [[100], [1] * 60, [7, 3, 11, 2, 64]])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", ENDS)
def test_no_collected_transition_crosses_a_reset(name, n, lengths):
    """Neither inside a rollout, nor at its border, nor where rollouts are joined or cut."""
    envs = Environments(name, n, Streams(1))
    buffer = Buffer(23)
    for steps in lengths:
        rollout = collect(envs, steps, lambda observations: still(n))
        for part in (rollout, buffer.add(rollout)):
            following = np.concatenate([part.observations[1:], part.next_observations[None]])
            following = following.reshape(-1, 3).copy()
            following[part.final_rows] = part.final_observations
            known = ~part.flat("terminations") | part.flat("truncations")  # a terminal state is never looked at
            assert np.array_equal(following[known, 0], part.flat("observations")[known, 0] + 1)
            assert np.array_equal(part.final_rows, np.flatnonzero(part.flat("truncations")))
            assert np.array_equal(part.flat("rewards"), part.flat("observations")[:, 0] + 1)
        assert buffer.rollout.steps <= 23
    assert len(buffer.rollout) == n * min(23, sum(lengths))
    assert np.array_equal(buffer.rollout.observations[-1], rollout.observations[-1])
    envs.close()


def test_actions_are_stored_as_drawn_and_sent_within_the_bounds(register):
    sent = []

    class Listening(Counting):
        def step(self, action):
            sent.append(action.copy())
            return super().step(action)

    envs = Environments(register("Listening-v0", Listening, ends=[(3, True, False)]), 2, Streams(0))
    drawn = np.array([[[-3.0], [0.25]], [[7.0], [-0.5]], [[1.0], [-1.5]]], np.float32)
    waiting = iter(drawn)
    rollout = collect(envs, 3, lambda observations: next(waiting))
    assert np.array_equal(rollout.actions, drawn)
    assert np.array_equal(np.array(sent).reshape(3, 2, 1), np.clip(drawn, -1, 1))
    assert sent[0].dtype == np.float32


def test_a_copy_is_a_plain_environment_with_the_same_seeds():
    """Bit for bit, over several episodes, and whatever the other copies do."""
    n, rng = 3, np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (150, n, 3)).astype(np.float32)
    envs = Environments("Hopper-v5", n, Streams(5))
    envs.begin()
    seeds = [Streams(5)(f"env {k}") for k in range(n)]
    plain = [gym.make("Hopper-v5") for _ in range(n)]
    now = [env.reset(seed=int(stream.integers(1 << 31)))[0] for env, stream in zip(plain, seeds, strict=True)]
    ends = 0
    for step in actions:
        assert np.array_equal(envs.observations, np.float32(now))
        transition = envs.step(step)
        for k, env in enumerate(plain):
            now[k], reward, terminated, truncated, _ = env.step(step[k])
            assert np.array_equal(transition.next_observations[k], np.float32(now[k]))
            assert transition.rewards[k] == np.float32(reward)
            assert (transition.terminations[k], transition.truncations[k]) == (terminated, truncated)
            if terminated or truncated:
                now[k] = env.reset(seed=int(seeds[k].integers(1 << 31)))[0]
                ends += 1
    assert ends > 6
    envs.close()


def test_episodes_are_counted_once_with_their_returns_and_lengths():
    envs = Environments("Mixed-v0", 2, Streams(0))
    for _ in range(4):  # episodes of 3 steps at counts 101 ..., then of 1, 4, ...
        envs.step(still(2))
    assert envs.statistics() == {
        "episode_return": (101 + 102 + 103 + 204) / 2,
        "episode_length": 2.0,
        "episodes": 4.0,
    }
    assert envs.statistics() == {}
    for _ in range(4):
        envs.step(still(2))
    (first, second) = envs.finished
    assert (first.length, first.total, first.terminated, first.truncated) == (4, 305 + 306 + 307 + 308, True, True)
    assert first.seed != second.seed
    envs.close()


# Resume

CASES = {  # environment -> (copies, steps before the checkpoint): within episodes, most with a reset still to come
    "Hopper-v5": [(1, 75), (3, 75)],
    "HalfCheetah-v5": [(1, 1900), (3, 900)],
    "Walker2d-v5": [(1, 75), (3, 75)],
    "Ant-v5": [(1, 400), (3, 150)],
    "Humanoid-v5": [(1, 75), (3, 75)],
    "CartPole-v1": [(1, 75), (3, 75)],
    "Acrobot-v1": [(1, 900), (3, 400)],
    "ale-machado/Pong": [(1, 1300), (3, 700)],
    "ale-dqn/Breakout": [(1, 500), (4, 700)],
}
AFTER = 200
CONTINUE = """
import sys, numpy as np
from pathlib import Path
from tests.harness.test_environments import fresh, play
folder = Path(sys.argv[1])
for path in sorted(folder.glob("*.ckpt")):
    np.savez(folder / f"{path.stem}.new.npz", **play(fresh(path), np.load(folder / f"{path.stem}.npz")["actions"]))
"""


def random_actions(space, rng, steps, n):
    if isinstance(space, gym.spaces.Discrete):
        return rng.integers(space.n, size=(steps, n))
    return rng.uniform(space.low, space.high, (steps, n, *space.shape)).astype(np.float32)


def play(envs, actions):
    """What 200 steps give."""
    steps = []
    for action in actions:
        transition = envs.step(action)
        steps.append((envs.observations.copy(), *(np.array(part) for part in transition)))
    names = ("observations", "next_observations", "rewards", "terminations", "truncations")
    return dict(zip(names, map(np.array, zip(*steps, strict=True)), strict=True)) | {
        "episodes": np.array([[e.seed, e.total, e.length] for e in envs.episodes + envs.finished])
    }


def fresh(path):
    """An environment that continues from a checkpoint."""
    tree = files.load_checkpoint(path)
    streams = Streams(3)
    envs = Environments(tree["env"], tree["n"], streams)
    envs.load_state_dict(tree["state"])
    streams.load_state_dict(tree["streams"])
    assert len(envs.episodes) == tree["n"]
    return envs


def test_environments_continue_exactly_in_the_same_and_in_a_new_process(tmp_path):
    """Checkpoints in the midst of episodes; what came next is what comes next. One process continues all of them."""
    expected = {}
    for name, n, before in [(name, n, before) for name, rest in CASES.items() for n, before in rest]:
        streams, rng = Streams(3), np.random.default_rng(n)
        envs = Environments(name, n, streams)
        for step in random_actions(envs.action_space, rng, before, n):
            envs.step(step)
        while min(episode.length for episode in envs.episodes) < 2:
            envs.step(random_actions(envs.action_space, rng, 1, n)[0])
        key = f"{name.replace('/', '-')}-{n}"
        tree = {"env": name, "n": n, "state": envs.state_dict(), "streams": streams.state_dict()}
        files.save_checkpoint(tmp_path / f"{key}.ckpt", tree)
        actions = random_actions(envs.action_space, rng, AFTER, n)
        np.savez(tmp_path / f"{key}.npz", actions=actions)
        expected[key] = played = play(envs, actions)
        for part, values in play(fresh(tmp_path / f"{key}.ckpt"), actions).items():
            assert np.array_equal(values, played[part]), (key, part)
        lengths = {episode.length for episode in envs.episodes}
        assert len(lengths) == n or name in ("HalfCheetah-v5", "ale-machado/Pong", "Acrobot-v1"), key
        assert (played["terminations"] | played["truncations"]).any() or name in ("Ant-v5", "ale-machado/Pong"), key
        envs.close()
    command = [sys.executable, "-c", CONTINUE, str(tmp_path)]
    subprocess.run(command, check=True, timeout=300, cwd=Path(__file__).parents[2])
    for key, played in expected.items():
        again = np.load(tmp_path / f"{key}.new.npz")
        for part, values in played.items():
            assert again[part].dtype == values.dtype, (key, part)
            assert np.array_equal(again[part], values), (key, part)


def test_a_state_taken_before_the_first_step_is_that_of_the_begun_episodes(tmp_path):
    streams = Streams(0)
    envs = Environments("Hopper-v5", 2, streams)
    state = envs.state_dict()
    again = Environments("Hopper-v5", 2, Streams(0))
    again.load_state_dict(state)
    again._seeds = envs._seeds
    assert np.array_equal(again.observations, envs.observations)
    assert again.observations.any()
    again.begin()  # does not begin anew
    assert [e.seed for e in again.episodes] == [e.seed for e in envs.episodes]


def test_a_long_run_keeps_only_the_actions_of_running_episodes():
    envs = Environments("Truncating-v0", 2, Streams(0))
    for _ in range(5000):
        envs.step(still(2))
    assert len(envs._actions) <= 2001
    assert len(envs.state_dict()["actions"]) <= 3


def test_an_environment_that_does_not_repeat_itself_is_refused():
    """The count runs on over episodes, so an episode played again is another one."""
    envs = Environments("Truncating-v0", 2, Streams(0))
    for _ in range(4):
        envs.step(still(2))
    state = envs.state_dict()
    again = Environments("Truncating-v0", 2, Streams(0))
    with pytest.raises(UserError, match="Truncating-v0 does not repeat an episode"):
        again.load_state_dict(state)


# Atari


def atari_play(name, n, steps, seed=0):
    envs = Environments(name, n, Streams(seed))
    envs.begin()
    first = envs.observations.copy()
    actions = np.random.default_rng(9).integers(envs.action_space.n, size=steps)
    pictures = np.array([envs.step(np.full(n, action)).next_observations for action in actions])
    envs.close()
    return first, pictures


def kinds(pictures):
    return len({picture.tobytes() for picture in pictures})


def test_machado_actions_stick_and_dqn_starts_with_no_ops():
    """Without stickiness an episode is the number of its no-ops; with it, one start becomes many games."""
    first, pictures = atari_play("ale-machado/Freeway", 6, 40)
    assert kinds(first) == 1
    assert kinds(pictures.swapaxes(0, 1)) == 6
    first, pictures = atari_play("ale-dqn/Freeway", 12, 40)
    assert 5 < kinds(first) < 12  # some have the same number
    assert kinds(pictures.swapaxes(0, 1)) == kinds(first)


@pytest.mark.parametrize(
    ("name", "actions"),
    [("ale-machado/Pong", 18), ("ale-dqn/Pong", 6), ("ale-machado/Breakout", 18), ("ale-dqn/Breakout", 4)],
)
def test_the_preset_decides_how_many_actions_there_are(name, actions):
    envs = Environments(name, 1, Streams(0))
    assert envs.action_space.n == actions
    assert envs.observations.dtype == np.uint8
    assert envs.observations.shape == (1, 4, 84, 84)
    envs.close()


@pytest.mark.parametrize("preset", ["ale-dqn", "ale-machado"])
def test_a_lost_life_is_a_termination_only_for_dqn_and_never_a_reset(preset):
    envs = Environments(f"{preset}/Breakout", 2, Streams(0))
    envs.begin()
    rng = np.random.default_rng(0)
    games, lost, lives = 0, [0, 0], [[5], [5]]
    while games < 4:
        transition = envs.step(rng.integers(envs.action_space.n, size=2))
        assert not transition.truncations.any()
        left = envs.slots.lives
        for k in range(2):
            lost[k] += transition.terminations[k]
            if envs.episodes[k].length:  # the game goes on
                assert np.array_equal(envs.observations[k], transition.next_observations[k])
                assert transition.terminations[k] == (preset == "ale-dqn" and left[k] < lives[k][-1])
                if left[k] != lives[k][-1]:
                    lives[k].append(int(left[k]))
                assert left[k] > 0
            else:
                assert lives[k] == [5, 4, 3, 2, 1]
                assert left[k] == 5
                assert transition.terminations[k]
                assert lost[k] == (5 if preset == "ale-dqn" else 1)
                games, lost[k], lives[k] = games + 1, 0, [5]
    assert len(envs.finished) == 4
    assert all(episode.terminated and episode.length > 30 for episode in envs.finished)
    envs.close()


def test_a_game_that_takes_too_long_is_truncated_and_its_last_pictures_are_its_own(monkeypatch):
    monkeypatch.setitem(environments.ATARI["ale-dqn"], "max_num_frames_per_episode", 400)
    envs = Environments("ale-dqn/Pong", 1, Streams(0))
    rollout = collect(envs, 210, lambda observations: np.full(1, 2))
    ends = np.flatnonzero(rollout.truncations[:, 0])
    assert len(ends) == len(envs.finished) == 2
    assert not rollout.terminations.any()
    for end, final in zip(ends, rollout.final_observations, strict=True):
        assert np.array_equal(final[:3], rollout.observations[end, 0, 1:])  # the newest picture joins the stack
        first = rollout.observations[end + 1, 0]
        assert not np.array_equal(final, first)
        assert not np.array_equal(final[1:], first[:3])
    envs.close()


def test_training_sees_signs_and_evaluation_raw_scores_until_the_game_is_over():
    from ale_py import AtariVectorEnv

    rng = np.random.default_rng(0)
    envs = Environments("ale-dqn/SpaceInvaders", 1, Streams(0))
    rewards, lost = [], 0
    while not envs.finished:
        transition = envs.step(rng.integers(envs.action_space.n, size=1))
        rewards.append(float(transition.rewards[0]))
        lost += transition.terminations[0]
    envs.close()
    assert set(rewards) == {0.0, 1.0}
    assert envs.finished[0].total >= 5 * sum(rewards) > 0  # the least that an invader gives
    assert lost == 3

    seeds = evaluation_seeds("ale-dqn/SpaceInvaders", "interim", 3)
    turn = iter(range(10**6))

    def act(observations):
        assert observations.shape == (BATCH, 4, 84, 84)
        return np.full(BATCH, next(turn) % 6)

    (episode,) = evaluate(act, "ale-dqn/SpaceInvaders", seeds[:1])
    plain = AtariVectorEnv("space_invaders", 1, reward_clipping=False, num_threads=1)
    plain.reset(seed=np.array([seeds[0] >> 1]))
    total, lives = 0.0, []
    for t in range(episode.length):
        _, reward, terminated, _, info = plain.step(np.array([t % 6]))
        total += float(reward[0])
        lives.append(int(info["lives"][0]))
        assert bool(terminated[0]) == (t == episode.length - 1)
    assert (episode.total, episode.terminated) == (total, True)
    assert {3, 2, 1} <= set(lives)
    assert total % 5 == 0 < total
    plain.close()


def test_evaluation_seeds_of_a_game_are_those_of_no_training_episode_and_slots_do_not_matter():
    """Training seeds are below 2^31, those of evaluation are not; a game gets half of either."""
    seeds = evaluation_seeds("ale-machado/Breakout", "interim", 5)
    assert min(seeds) >= environments.TRAINING_SEEDS

    def act(observations):
        return observations.reshape(BATCH, -1).sum(1, dtype=np.int64) % 18

    outcomes = [evaluate(act, "ale-machado/Breakout", seeds, slots) for slots in (1, 3)]
    assert outcomes[0] == outcomes[1]
    assert len({episode.length for episode in outcomes[0]}) > 1


# Bad input


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ale-machdo/Pong", ["unknown preset", "did you mean 'ale-machado'?"]),
        ("ale-dqn/Breakot", ["no game 'Breakot'", "did you mean 'Breakout'?"]),
        ("ale-dqn/space_invader", ["no game 'space_invader'", "did you mean"]),
        ("ale-dqn/", ["no game ''"]),
        ("ALE/Pong-v5", ["does not say how it is played", "ale-machado/Pong", "ale-dqn/Pong"]),
        ("CartPol-v1", ["CartPol-v1", "cannot be made"]),
    ],
)
def test_an_unknown_environment_is_one_sentence(name, words):
    with pytest.raises(UserError) as error:
        Environments(name, 1, Streams(0))
    message = str(error.value)
    assert name in message and "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("how", ["no folder", "no file", "another file"])
def test_a_missing_rom_is_one_sentence(how, monkeypatch, tmp_path):
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path / "nowhere" if how == "no folder" else tmp_path))
    if how == "another file":
        (tmp_path / "pong.bin").write_bytes(b"not a game")
    with pytest.raises(UserError, match=r"'ale-dqn/Pong' cannot be made: .*; reinstall ale-py, which brings the ROMs"):
        Environments("ale-dqn/Pong", 1, Streams(0))


def test_no_copies_are_refused():
    with pytest.raises(UserError, match="--n-envs is at least 1, not 0"):
        Environments("CartPole-v1", 0, Streams(0))


class Spaces(gym.Env):
    def __init__(self, observations, actions):
        self.observation_space, self.action_space = observations, actions

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}


BOX = gym.spaces.Box(-1, 1, (3,))


@pytest.mark.parametrize(
    ("observations", "actions", "words"),
    [
        (gym.spaces.Tuple([BOX, BOX]), BOX, "the observations of Spaces-v0 are a Tuple"),
        (gym.spaces.MultiDiscrete([2, 3]), BOX, "the observations of Spaces-v0 are a MultiDiscrete"),
        (gym.spaces.Text(5), BOX, "the observations of Spaces-v0 are a Text"),
        (BOX, gym.spaces.MultiDiscrete([2, 3]), "the actions of Spaces-v0 are MultiDiscrete"),
        (BOX, gym.spaces.Tuple([BOX]), "the actions of Spaces-v0 are Tuple"),
        (BOX, gym.spaces.Discrete(3, start=1), "the actions of Spaces-v0 are Discrete"),
        (BOX, gym.spaces.Box(-1, 1, (2, 2)), "the actions of Spaces-v0 are Box"),
        (gym.spaces.Box(0, 255, (84, 84), np.uint8), BOX, "pictures"),
        (gym.spaces.Box(0, 255, (96, 96, 3), np.uint8), BOX, "pictures"),
        (gym.spaces.Box(0, 255, (3, 20, 20), np.uint8), BOX, "pictures"),
    ],
)
def test_spaces_that_no_method_can_learn_in_are_named(register, observations, actions, words):
    name = register("Spaces-v0", Spaces, observations=observations, actions=actions)
    with pytest.raises(UserError, match=words) as error:
        Environments(name, 1, Streams(0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("observation", "an observation of Poisoned-v0 has a number that is not finite at its step 7 "),
        ("reward", "the reward of Poisoned-v0 is -?(nan|inf) at its step 7 "),
        ("reset", "an observation of Poisoned-v0 has a number that is not finite at its step 9 "),
    ],
)
def test_numbers_that_are_not_finite_stop_with_step_and_environment(register, what, message, value):
    register("Poisoned-v0", Counting, ends=[(3, False, True)], poison=(7, what, value))
    envs = Environments("Poisoned-v0", 2, Streams(0))
    with pytest.raises(Diverged, match=message + r"\(copy 0\)"):
        for _ in range(20):
            envs.step(still(2))


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_a_run_whose_environment_gives_nan_ends_as_diverged_and_keeps_its_checkpoint(register, what, tmp_path, capsys):
    register("Poisoned-v0", Counting, ends=[(10, False, True)], poison=(70, what, np.nan))
    directory = tmp_path / "run"
    flags = "--total-steps 128 --rollout-steps 32 --minibatches 4 --hidden 8 --checkpoint-every 32 --eval-every 0"
    assert main(["train", "ppo", "--env", "Poisoned-v0", "--run-dir", str(directory), *flags.split()]) == 3
    status = read_json(directory / "status.json")
    assert status["status"] == "diverged"
    assert "Poisoned-v0" in status["message"] and "step 70" in status["message"]
    newest = max((directory / "checkpoints").iterdir())
    assert files.load_checkpoint(newest)["update"] == 64
    assert "diverged" in capsys.readouterr().err
