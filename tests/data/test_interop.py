"""Datasets to and from Minari, D4RL files and Stable-Baselines3, with the real libraries on the other side."""

from __future__ import annotations

import json
import shutil
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Text
from gymnasium.spaces.utils import flatten, flatten_space
from minari.cli import app
from minari.data_collector import EpisodeBuffer
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.logger import configure
from typer.testing import CliRunner

from rlsuite import data
from rlsuite.data import formats, minari_store, recipes, registry, scores
from rlsuite.data.dataset import ARRAYS, Dataset
from rlsuite.data.recording import Recording, Space
from rlsuite.errors import UserError
from rlsuite.harness.environments import make_env
from rlsuite.harness.evaluation import evaluate

MEDIUM, RANDOM = "rlsuite/hopper/medium-v0", "rlsuite/hopper/random-v0"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        for name in (MEDIUM, RANDOM):
            recipes.build(recipes.RECIPES[name], 2000, jobs=1)
    return root


@pytest.fixture
def hopper(built: Path, minari_root: Path) -> minari.MinariDataset:
    """2000 steps of hopper's medium and random recipes; the former as plain Minari loads it."""
    shutil.copytree(built, minari_root, dirs_exist_ok=True)
    return minari.load_dataset(MEDIUM)


def create(dataset_id: str, buffers: list[EpisodeBuffer], **options: Any) -> minari.MinariDataset:
    """A dataset written by plain Minari."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses an author and the like
        return minari.create_dataset_from_buffers(dataset_id, buffers, **options)


def stack(space: gym.Space, values: list[Any]) -> Any:
    """Observations one below the other, as Minari takes them."""
    if isinstance(space, Dict):
        return {key: stack(part, [value[key] for value in values]) for key, part in space.items()}
    return np.stack(values) if isinstance(space, Box) else values


def sampled(space: gym.Space, lengths: tuple[int, ...] = (4, 1, 6)) -> tuple[list[EpisodeBuffer], list[list[Any]]]:
    """Episodes that wander through `space` at random, and their observations one by one."""
    rng, buffers, observations = np.random.default_rng(0), [], []
    space.seed(0)
    for length in lengths:
        observations.append([space.sample() for _ in range(length + 1)])
        buffers.append(
            EpisodeBuffer(
                observations=stack(space, observations[-1]),
                actions=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
                rewards=rng.normal(size=length).tolist(),
                terminations=[False] * (length - 1) + [True],
                truncations=[False] * length,
            )
        )
    return buffers, observations


ACTIONS = Box(-1, 1, (2,), np.float32)
MIXED = Dict(
    zoom=Box(-1, 1, (2, 3), np.float32),
    inner=Dict(b=Box(-np.inf, np.inf, (1,), np.float64), a=Box(-5, 5, (2,), np.int8)),
    scalar=Box(0, 1, (), np.float32),
)
NARROW = Dict(goal=Box(-1, 1, (2,), np.float32), ticks=Box(0, 9, (1,), np.int16))
ORDERED = Dict(OrderedDict(b=Box(-1, 1, (2,), np.float64), a=Box(-1, 1, (1,), np.float64)))
MATRIX = Box(-1, 1, (2, 3), np.float64)
STRUCTURED = {"mixed": MIXED, "narrow": NARROW, "ordered": ORDERED, "matrix": MATRIX}


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    else:
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()


# Dict observations


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("space", STRUCTURED.values(), ids=STRUCTURED)
def test_observations_are_flattened_as_gymnasium_does(space: gym.Space, data_format: str) -> None:
    if data_format != "hdf5":
        pytest.importorskip("pyarrow")
    buffers, observations = sampled(space)
    create("other/dict-v0", buffers, observation_space=space, action_space=ACTIONS, data_format=data_format)
    recording = minari_store.read_recording("other/dict-v0")
    rows = [flatten(space, value) for episode in observations for value in episode[:-1]]
    successors = [flatten(space, value) for episode in observations for value in episode[1:]]
    assert_equal(recording.observations, np.stack(rows))
    assert_equal(recording.next_observations, np.stack(successors))
    flat = flatten_space(space)
    assert isinstance(flat, Box)
    stored = recording.header.observation_space
    assert (stored.dim, stored.dtype) == (flat.shape[0], str(flat.dtype))
    assert np.array_equal(stored.low, flat.low)
    assert np.array_equal(stored.high, flat.high)
    assert data.load("other/dict-v0", steps=5).observation_dim == flat.shape[0]


@pytest.mark.parametrize("space", STRUCTURED.values(), ids=STRUCTURED)
def test_a_layout_survives_every_format(tmp_path: Path, space: gym.Space) -> None:
    """Minari -> D4RL -> npz -> Minari: plain Minari finds the same arrays in the same groups."""
    original = create("other/dict-v0", sampled(space)[0], observation_space=space, action_space=ACTIONS)
    formats.write_d4rl(minari_store.read_recording("other/dict-v0"), tmp_path / "a.hdf5")
    formats.write_npz(formats.d4rl_recording(tmp_path / "a.hdf5"), tmp_path / "a.npz")
    formats.write_minari(formats.npz_recording(tmp_path / "a.npz"), "test/dict-v0")
    copy = minari.load_dataset("test/dict-v0")
    assert copy.observation_space == original.observation_space
    assert copy.total_episodes == original.total_episodes
    for one, other in zip(copy, original, strict=True):
        assert_equal(one.observations, other.observations)
        assert_equal(one.actions, other.actions)
        assert_equal(one.rewards, other.rewards)
        assert_equal(one.terminations, other.terminations)
    formats.write_minari(minari_store.read_recording("test/dict-v0"), "test/dict-v1")
    files = [minari_store.root() / f"test/dict-v{i}/data/main_data.hdf5" for i in (0, 1)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_integers_that_the_common_dtype_rounds_are_refused() -> None:
    space = Dict(count=Box(0, 2**62, (1,), np.int64), goal=Box(-1, 1, (1,), np.float32))
    buffers, _ = sampled(space)
    for value, name in ((2**53, "small"), (2**53 + 1, "large")):
        for buffer in buffers:
            buffer.observations["count"][:] = value
        create(f"other/{name}-v0", buffers, observation_space=space, action_space=ACTIONS)
    recording = minari_store.read_recording("other/small-v0")
    assert (recording.observations[:, 0] == 2**53).all()
    with pytest.raises(UserError, match=r"observations/count of other/large-v0 .* int64 that would change as float64"):
        minari_store.read_recording("other/large-v0")


def test_numbers_that_the_layout_cannot_hold_are_not_written() -> None:
    create("other/dict-v0", sampled(NARROW)[0], observation_space=NARROW, action_space=ACTIONS)
    recording = minari_store.read_recording("other/dict-v0")
    recording.observations[0, 2] = 0.5
    with pytest.raises(UserError, match=r"observations/ticks of test/dict-v0 .* would change as int16"):
        formats.write_minari(recording, "test/dict-v0")
    assert "test/dict-v0" not in minari.list_local_datasets()


@pytest.mark.parametrize(
    ("observations", "actions", "named"),
    [
        (Discrete(3), ACTIONS, "observations of space Discrete"),
        (Dict(a=MATRIX, b=Discrete(3)), ACTIONS, "observations/b of space Discrete"),
        (Dict(a=Dict(b=Text(5))), ACTIONS, "observations/a/b of space Text"),
        (Box(0, 255, (64, 64, 3), np.uint8), ACTIONS, r"observations of space Box\(64, 64, 3\) of uint8"),
        (Dict(a=Box(0, 255, (8, 8, 3), np.uint8)), ACTIONS, r"observations/a of space Box\(8, 8, 3\) of uint8"),
        (gym.spaces.Tuple((ACTIONS,)), ACTIONS, "observations of space Tuple"),
        (Dict(), ACTIONS, "observations of space Dict"),
        (ACTIONS, Dict(a=ACTIONS), r"actions/a of space Box\(2,\)"),
        (ACTIONS, MATRIX, r"actions of space Box\(2, 3\)"),
        (ACTIONS, Discrete(2), "actions of space Discrete"),
    ],
)
def test_other_spaces_are_refused(observations: gym.Space, actions: gym.Space, named: str) -> None:
    serialize = minari.serialization.serialize_space
    create("other/box-v0", sampled(ACTIONS)[0], observation_space=ACTIONS, action_space=ACTIONS)
    file = minari_store.root() / "other/box-v0/data/metadata.json"
    spaces = {"observation_space": serialize(observations), "action_space": serialize(actions)}
    file.write_text(json.dumps({**json.loads(file.read_text()), **spaces}))
    with pytest.raises(UserError, match=f"other/box-v0 has {named}") as error:
        data.load("other/box-v0")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"observation_space": "{"},
        {"observation_space": "[]"},
        {"observation_space": '{"type": "Box", "dtype": "float32", "shape": [2], "low": [0], "high": [1]}'},
        {"observation_space": '{"type": "Box", "dtype": "O", "shape": [1], "low": [0], "high": [1]}'},
        {"action_space": '{"type": "Box", "shape": [1], "low": [0], "high": [1]}'},
        {"action_space": 3},
        {"env_spec": "{}"},
        {"total_steps": -1},
        {"total_steps": 10**15},
        {"total_episodes": "three"},
        {"data_format": "punched cards"},
    ],
)
def test_damaged_metadata_are_refused(change: dict[str, Any]) -> None:
    create("other/box-v0", sampled(ACTIONS)[0], observation_space=ACTIONS, action_space=ACTIONS)
    file = minari_store.root() / "other/box-v0/data/metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=r"fetch or build") as error:
        data.load("other/box-v0")
    assert "\n" not in str(error.value)


def test_a_part_of_another_shape_is_refused() -> None:
    create("other/dict-v0", sampled(MIXED)[0], observation_space=MIXED, action_space=ACTIONS)
    with h5py.File(minari_store.root() / "other/dict-v0/data/main_data.hdf5", "a") as file:
        group = file["episode_1/observations"]
        transposed = group["zoom"][:].transpose(0, 2, 1)
        del group["zoom"]
        group["zoom"] = transposed
    with pytest.raises(UserError, match=r"observations/zoom of episode 1 have shape \(2, 3, 2\)"):
        data.load("other/dict-v0")


# PointMaze


@pytest.fixture
def maze() -> minari.MinariDataset:
    """Two stretches of one continuing task, as Minari's own PointMaze sets: goals move, and no flag is ever set."""
    pytest.importorskip("gymnasium_robotics")
    env = gym.make("gymnasium_robotics:PointMaze_UMaze-v3", max_episode_steps=10_000)
    env.action_space.seed(0)
    buffers = []
    for seed in (3, 4):
        observations, actions, rewards = [env.reset(seed=seed)[0]], [], []
        for step in range(40):
            if step == 20:
                env.unwrapped.goal = observations[-1]["achieved_goal"].copy()
            actions.append(env.action_space.sample())
            observation, reward, terminated, truncated, _ = env.step(actions[-1])
            assert not (terminated or truncated)
            observations.append(observation)
            rewards.append(float(reward))
        flags = [False] * 40
        buffers.append(
            EpisodeBuffer(
                seed=seed,
                observations=stack(env.observation_space, observations),
                actions=np.stack(actions),
                rewards=rewards,
                terminations=flags,
                truncations=flags,
                infos={"success": np.zeros(41, bool)},
            )
        )
    env.close()
    return create("other/pointmaze-v0", buffers, env="PointMaze_UMaze-v3", author="somebody")


def test_a_maze_that_somebody_else_recorded(maze: minari.MinariDataset) -> None:
    dataset = data.load("other/pointmaze-v0")
    assert (len(dataset), dataset.observation_dim, dataset.env_id) == (80, 8, "PointMaze_UMaze-v3")
    assert dataset.episode_starts.tolist() == [0, 40]
    assert not (dataset.terminations | dataset.truncations).any()
    assert 0 < dataset.rewards.sum() < 80
    episode = maze[1]
    for columns, key in ((slice(0, 2), "achieved_goal"), (slice(2, 4), "desired_goal"), (slice(4, 8), "observation")):
        expected = torch.from_numpy(episode.observations[key]).float()
        assert torch.equal(dataset.observations[40:, columns], expected[:-1]), key
        assert torch.equal(dataset.next_observations[40:, columns], expected[1:]), key
    assert len(dataset.observations[:40, 2:4].unique(dim=0)) > 1
    assert [finding.severity for finding in data.examine(dataset)] == ["note"]


def test_a_maze_goes_back_to_minari_in_its_groups(maze: minari.MinariDataset) -> None:
    formats.write_minari(minari_store.read_recording("other/pointmaze-v0"), "test/pointmaze-v0")
    copy = minari.load_dataset("test/pointmaze-v0")
    for one, other in zip(copy, maze, strict=True):
        assert_equal(one.observations, other.observations)
    with copy.recover_environment() as env:
        assert env.observation_space == copy.observation_space
    combined = minari.combine_datasets([maze, copy], "test/both-v0")
    assert combined.total_steps == len(data.load("test/both-v0")) == 160


def test_a_policy_of_flat_data_plays_the_maze(maze: minari.MinariDataset) -> None:
    recording = minari_store.read_recording("other/pointmaze-v0")
    for name in ("PointMaze_UMaze-v3", "gymnasium_robotics:PointMaze_UMaze-v3"):
        env = make_env(name)
        assert env.observation_space.shape == (8,)
        assert_equal(env.reset(seed=4)[0], recording.observations[40])
        env.close()
    seen = []

    def act(observations: np.ndarray) -> np.ndarray:
        seen.append(observations[0].copy())
        return np.zeros((16, 2), np.float32)

    (episode,) = evaluate(act, "PointMaze_UMaze-v3", [3])
    assert (episode.length, episode.truncated) == (300, True)
    assert np.array_equal(seen[0], recording.observations[0].astype(np.float32))


# Minari on our datasets


def test_minari_loads_samples_filters_and_splits(hopper: minari.MinariDataset) -> None:
    own = data.load(MEDIUM, steps=2000)
    assert {MEDIUM, RANDOM} <= minari.list_local_datasets().keys()
    assert (hopper.total_steps, hopper.total_episodes) == (2000, len(own.episode_starts))
    rewards = np.concatenate([episode.rewards for episode in hopper])
    assert np.array_equal(rewards.astype(np.float32), own.rewards.numpy())
    assert all(hopper.observation_space.contains(episode.observations[0]) for episode in hopper)
    hopper.set_seed(0)
    assert len({episode.id for episode in hopper.sample_episodes(3)}) == 3
    fallen = hopper.filter_episodes(lambda episode: bool(episode.terminations[-1]))
    assert fallen.total_episodes == int(own.terminations.sum())
    first, second = minari.split_dataset(hopper, [2, hopper.total_episodes - 2], seed=0)
    assert first.total_steps + second.total_steps == 2000
    assert first.total_episodes == 2


def test_minari_makes_the_environment_again(hopper: minari.MinariDataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an unmet requirement is a warning
        env = hopper.recover_environment()
    assert env.spec is not None
    assert env.spec.id == "Hopper-v5"
    assert env.spec == gym.spec("Hopper-v5")
    assert env.observation_space == hopper.observation_space
    assert env.action_space == hopper.action_space
    episode = hopper[0]
    (seed,) = (note["seed"] for note in hopper.storage.get_episode_metadata([0]))
    assert np.array_equal(env.reset(seed=seed)[0], episode.observations[0])
    env.close()


def test_minari_combines_ours_with_ours_and_with_others(hopper: minari.MinariDataset) -> None:
    other = create(
        "other/hopper-v0",
        [
            EpisodeBuffer(
                observations=episode.observations,
                actions=episode.actions,
                rewards=episode.rewards,
                terminations=episode.terminations,
                truncations=episode.truncations,
            )
            for episode in hopper.sample_episodes(2)
        ],
        env="Hopper-v5",
        author="somebody",
    )
    for parts, name in (
        ([hopper, minari.load_dataset(RANDOM)], "rlsuite/hopper/both-v0"),
        ([hopper, other], "other/mixture-v0"),
        ([other, hopper], "other/mixture-v1"),
    ):
        combined = minari.combine_datasets(parts, name)
        assert combined.env_spec.id == "Hopper-v5"
        assert combined.combined_datasets == [part.id for part in parts]
        dataset = data.load(name)
        expected = [data.load(part.id, steps=part.total_steps) for part in parts]
        for key in ARRAYS[:6]:
            assert torch.equal(getattr(dataset, key), torch.cat([getattr(part, key) for part in expected])), key
        assert len(dataset.episode_starts) == sum(part.total_episodes for part in parts)


def test_metadata_say_what_minari_asks_for(hopper: minari.MinariDataset) -> None:
    metadata = hopper.storage.metadata
    for key in ("algorithm_name", "author", "description", "env_spec", "minari_version", "requirements"):
        assert metadata[key], key
    assert all(isinstance(author, str) for author in metadata["author"])
    assert any(requirement.startswith("mujoco==") for requirement in metadata["requirements"])
    assert metadata["dataset_size"] == pytest.approx(hopper.storage.get_size(), abs=0.11)
    reference = scores.reference("Hopper-v5")
    assert reference is not None
    assert metadata["ref_min_score"] == reference.random
    assert metadata["ref_max_score"] == reference.expert
    assert metadata["num_episodes_average_score"] == 100
    returns = data.load(MEDIUM, steps=2000).episode_returns()
    assert np.allclose(100 * minari.get_normalized_score(hopper, returns), reference.score(returns))


def test_minari_command_line(hopper: minari.MinariDataset) -> None:
    shown = CliRunner().invoke(app, ["show", MEDIUM])
    assert shown.exit_code == 0, shown.output
    for expected in ("2000", "rlsuite", "Hopper-v5", "hopper/medium-v0"):
        assert expected in shown.output
    listed = CliRunner().invoke(app, ["list", "local"], env={"COLUMNS": "200"})
    assert listed.exit_code == 0, listed.output
    assert MEDIUM in listed.output
    combined = CliRunner().invoke(app, ["combine", MEDIUM, RANDOM, "--dataset-id", "rlsuite/hopper/both-v0"])
    assert combined.exit_code == 0, combined.output
    assert len(data.load("rlsuite/hopper/both-v0")) == 4000


# D4RL


def test_a_d4rl_file_that_somebody_else_wrote(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    observations, successors = (rng.normal(size=(30, 11)).astype(np.float32) for _ in range(2))
    columns = {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (30, 3)).astype(np.float32),
        "rewards": rng.normal(size=30).astype(np.float32),
        "next_observations": successors,
        "terminals": np.isin(np.arange(30), [9]),
        "timeouts": np.isin(np.arange(30), [19, 29]),
    }
    successors[:-1][~(columns["terminals"] | columns["timeouts"])[:-1]] = observations[1:][
        ~(columns["terminals"] | columns["timeouts"])[:-1]
    ]
    (tmp_path / "d4rl").mkdir()
    with h5py.File(tmp_path / "d4rl/hopper_medium-v2.hdf5", "w") as file:
        for key, array in columns.items():
            file.create_dataset(key, data=array, compression="gzip")
        for key, width in (("qpos", 6), ("qvel", 6), ("action_log_probs", None)):
            file.create_dataset(f"infos/{key}", data=np.zeros((30, width) if width else 30, np.float32))
        file["metadata/algorithm"] = np.bytes_("SAC")
        file["metadata/iteration"] = np.int32(300)
        file["metadata/policy/fc0/weight"] = np.zeros((256, 11), np.float32)
    dataset = data.load("d4rl/hopper-medium-v2")
    for key, column in (("terminations", "terminals"), ("truncations", "timeouts")):
        assert np.array_equal(getattr(dataset, key).numpy(), columns[column])
    for key in ("observations", "actions", "rewards", "next_observations"):
        assert_equal(getattr(dataset, key).numpy(), columns[key])
    assert dataset.episode_starts.tolist() == [0, 10, 20]
    assert (dataset.env_id, dataset.max_action) == ("Hopper-v4", 1.0)
    assert data.examine(dataset) == []


# Stable-Baselines3


class Walk(gym.Env[np.ndarray, np.ndarray]):
    """The spaces of the `recording` fixture, but for action bounds that are not symmetric."""

    observation_space = Box(-np.inf, np.inf, (11,), np.float32)
    action_space = Box(np.array([-1, -2, -1], np.float32), np.array([1, 1, 3], np.float32))


def assert_same_buffer(one: ReplayBuffer, other: ReplayBuffer) -> None:
    for key in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        assert_equal(getattr(one, key), getattr(other, key))
    assert (one.pos, one.full) == (other.pos, other.full)


@pytest.fixture
def dataset(recording: Recording) -> Dataset:
    """16 rows; episodes end terminated, truncated, with both flags and with neither."""
    low, high = Walk.action_space.low, Walk.action_space.high
    space = Space(low, high, "float32")
    return replace(recording, header=replace(recording.header, action_space=space)).dataset()


@pytest.mark.parametrize("handle_timeouts", [True, False])
@pytest.mark.parametrize("size", [16, 40])
def test_filling_is_adding_one_by_one(dataset: Dataset, size: int, handle_timeouts: bool) -> None:
    agent = SAC("MlpPolicy", Walk(), buffer_size=size, device="cpu")
    spaces = agent.observation_space, agent.action_space
    filled, added = (
        ReplayBuffer(size, *spaces, device="cpu", handle_timeout_termination=handle_timeouts) for _ in range(2)
    )
    dataset.fill(filled)
    for row in range(len(dataset)):
        terminated, truncated = bool(dataset.terminations[row]), bool(dataset.truncations[row])
        added.add(
            dataset.observations[row].numpy()[None],
            dataset.next_observations[row].numpy()[None],
            agent.policy.scale_action(dataset.actions[row].numpy()[None]),
            dataset.rewards[row].numpy()[None],
            np.array([terminated or truncated]),
            [{"TimeLimit.truncated": truncated and not terminated}],
        )
    assert_same_buffer(filled, added)
    assert np.abs(filled.actions).max() <= 1
    batches = []
    for buffer in (filled, added):
        np.random.seed(0)
        batches.append(buffer.sample(64))
    for key in ("observations", "actions", "next_observations", "dones", "rewards"):
        assert torch.equal(getattr(batches[0], key), getattr(batches[1], key)), key
    assert 0 < batches[0].dones.mean() < 1


def test_filling_appends(dataset: Dataset) -> None:
    buffer = ReplayBuffer(40, Walk.observation_space, Walk.action_space, device="cpu")
    for _ in range(2):
        dataset.fill(buffer)
    assert buffer.pos == 32
    assert np.array_equal(buffer.observations[:16], buffer.observations[16:32])
    with pytest.raises(UserError, match="16 transitions, but the replay buffer has room for 8"):
        dataset.fill(buffer)
    assert (buffer.pos, buffer.full) == (32, False)


def test_buffers_that_do_not_fit(dataset: Dataset) -> None:
    observations, actions = Walk.observation_space, Walk.action_space
    unbounded = replace(dataset, action_low=None, action_high=None)
    unbounded.fill(ReplayBuffer(20, observations, actions))
    full = ReplayBuffer(16, observations, actions)
    dataset.fill(full)
    refused: list[tuple[Dataset, ReplayBuffer, str]] = [
        (dataset, full, "room for 0"),
        (dataset, ReplayBuffer(15, observations, actions), "room for 15"),
        (dataset, ReplayBuffer(20, Box(-1, 1, (10,)), actions), "cannot take sample"),
        (dataset, ReplayBuffer(20, observations, Box(-1, 1, (3,))), "cannot take sample"),
        (dataset, ReplayBuffer(20, observations, Discrete(3)), "cannot take sample"),
        (unbounded, ReplayBuffer(20, observations, Box(-np.inf, np.inf, (3,))), "cannot take sample"),
        (dataset, DictReplayBuffer(20, Dict(a=observations), actions), "cannot take sample"),
        (dataset, ReplayBuffer(40, observations, actions, n_envs=2), "n_envs=1"),
        (
            dataset,
            ReplayBuffer(20, observations, actions, optimize_memory_usage=True, handle_timeout_termination=False),
            "optimize_memory_usage=False",
        ),
    ]
    for given, buffer, complaint in refused:
        before = (buffer.pos, buffer.full)
        with pytest.raises(UserError, match=complaint) as error:
            given.fill(buffer)
        assert "\n" not in str(error.value)
        assert (buffer.pos, buffer.full) == before


def test_sac_trains_from_a_dataset(hopper: minari.MinariDataset) -> None:
    agent = SAC("MlpPolicy", "Hopper-v5", buffer_size=2000, device="cpu", seed=0, policy_kwargs={"net_arch": [32, 32]})
    agent.set_logger(configure(None, []))
    assert agent.replay_buffer is not None
    data.load(MEDIUM, steps=2000).fill(agent.replay_buffer)
    before = [parameter.clone() for parameter in agent.policy.parameters()]
    agent.train(gradient_steps=5, batch_size=64)
    after = list(agent.policy.parameters())
    assert all(torch.isfinite(parameter).all() for parameter in after)
    assert sum(not torch.equal(one, other) for one, other in zip(before, after, strict=True)) > len(before) / 2


# the network


def hub(head: Callable[..., None]) -> types.ModuleType:
    """A stand-in for huggingface_hub, as far as a download asks it whether the network is there."""
    module = types.ModuleType("huggingface_hub")
    module.__spec__ = types.SimpleNamespace(name="huggingface_hub")  # type: ignore[assignment]
    module.constants = types.SimpleNamespace(ENDPOINT="https://hub.invalid")  # type: ignore[attr-defined]
    module.get_session = lambda: types.SimpleNamespace(head=head)  # type: ignore[attr-defined]
    return module


def test_offline_it_does_not_try_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def head(url: str, timeout: float) -> None:
        asked.append((url, timeout))
        raise ConnectionError("[Errno -2] Name or service not known")

    def download(name: str, **_: bool) -> None:
        raise AssertionError("Minari was asked, which retries for half a minute")

    monkeypatch.setitem(sys.modules, "huggingface_hub", hub(head))
    monkeypatch.setattr(minari, "download_dataset", download)
    with pytest.raises(UserError, match="Name or service not known") as error:
        data.load("mujoco/hopper/medium-v0")
    assert asked == [("https://hub.invalid", 10)]
    for advice in ("go online", str(minari_store.root()), "use rlsuite/hopper/medium-v0"):
        assert advice in str(error.value)


def test_online_minari_is_asked(monkeypatch: pytest.MonkeyPatch, recording: Recording) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub(lambda url, timeout: None))
    monkeypatch.setattr(minari, "download_dataset", lambda name, **_: formats.write_minari(recording, name))
    assert len(data.load("mujoco/hopper/medium-v0")) == 16


def test_an_unknown_id_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str, **_: bool) -> None:
        raise ValueError(f"Couldn't find any version for dataset {name}")

    def missing(name: str, **_: bool) -> None:
        raise ImportError("huggingface_hub is not installed.")

    monkeypatch.setattr(registry, "_reach_remote", lambda: None)
    monkeypatch.setattr(minari, "download_dataset", unknown)
    with pytest.raises(UserError, match="check the id: did you mean 'rlsuite/hopper/medium-v0'"):
        data.load("mujoco/hoper/medium-v0")
    monkeypatch.setattr(minari, "download_dataset", missing)
    with pytest.raises(UserError, match=r"run `pip install 'minari\[hf\]'`"):
        data.load("mujoco/hopper/medium-v0")
