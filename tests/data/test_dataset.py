"""The in-memory dataset and its stream of batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlsuite.data.dataset import ARRAYS, Dataset
from rlsuite.data.recording import Recording
from rlsuite.errors import UserError


@pytest.fixture
def dataset(recording: Recording) -> Dataset:
    return recording.dataset()


def test_batches_are_a_function_of_the_generator(dataset: Dataset) -> None:
    first, second = (dataset.batches(5, np.random.default_rng(3)) for _ in range(2))
    other = dataset.batches(5, np.random.default_rng(4))
    same = [torch.equal(next(first).indices, next(second).indices) for _ in range(600)]
    assert all(same)
    assert not all(torch.equal(next(first).indices, next(other).indices) for _ in range(10))


def test_batches_hold_the_rows_they_name(dataset: Dataset) -> None:
    batches = dataset.batches(64, np.random.default_rng(0))
    seen: set[int] = set()
    for _ in range(20):
        batch = next(batches)
        for name in ("observations", "actions", "rewards", "next_observations"):
            assert torch.equal(getattr(batch, name), getattr(dataset, name)[batch.indices]), name
        assert torch.equal(batch.terminations, dataset.terminations[batch.indices].float())
        seen.update(batch.indices.tolist())
    assert seen == set(range(len(dataset)))


@pytest.mark.parametrize("position", [0, 1, 255, 256, 257, 700])
def test_batches_resume(dataset: Dataset, position: int) -> None:
    batches = dataset.batches(4, np.random.default_rng(1))
    for _ in range(position):
        next(batches)
    state = batches.state_dict()
    expected = [next(batches).indices for _ in range(300)]
    resumed = dataset.batches(4, np.random.default_rng(99))
    resumed.load_state_dict(state)
    assert all(torch.equal(next(resumed).indices, indices) for indices in expected)


def test_batches_of_nothing(dataset: Dataset) -> None:
    with pytest.raises(UserError):
        dataset.batches(0, np.random.default_rng(0))


def test_split_keeps_episodes_whole(dataset: Dataset) -> None:
    train, held_out = dataset.split(0.5, np.random.default_rng(0))
    assert len(train.episode_starts) == len(held_out.episode_starts) == 2
    assert len(train) + len(held_out) == len(dataset)
    originals = {float(dataset.rewards[start]): k for k, start in enumerate(dataset.episode_starts)}
    found = []
    for part in (train, held_out):
        for start, end in zip(part.episode_starts.tolist(), part.episode_ends.tolist(), strict=True):
            k = originals[float(part.rewards[start])]
            found.append(k)
            rows = slice(int(dataset.episode_starts[k]), int(dataset.episode_ends[k]))
            for name in ARRAYS[:6]:
                assert torch.equal(getattr(part, name)[start:end], getattr(dataset, name)[rows]), name
    assert sorted(found) == [0, 1, 2, 3]
    for fraction in (0.0, 0.1, 1.0):
        with pytest.raises(UserError, match="4 episodes"):
            dataset.split(fraction, np.random.default_rng(0))


def test_content_hash_is_pinned(dataset: Dataset) -> None:
    """The same arrays have the same hash for ever: result rows of different versions are compared by it."""
    tiny = Dataset(
        torch.arange(6.0).reshape(3, 2),
        torch.ones(3, 1),
        torch.arange(3.0),
        torch.arange(6.0).reshape(3, 2) + 2,
        torch.tensor([False, True, False]),
        torch.tensor([False, False, True]),
        torch.tensor([0, 2]),
    )
    assert tiny.content_hash == "ed21129e96eff5491a58c4c570eeefa9a0803d9ce966ce40ed3ee75b5abe21d1"
    assert replace(tiny, name="other", env_id="Hopper-v5").content_hash == tiny.content_hash


def test_content_hash_sees_every_array(dataset: Dataset) -> None:
    hashes = {dataset.content_hash}
    for name in ARRAYS:
        changed = getattr(dataset, name).clone()
        changed[-1] = ~changed[-1] if changed.dtype == torch.bool else changed[-1] + 1
        hashes.add(replace(dataset, **{name: changed}).content_hash)
    assert len(hashes) == 1 + len(ARRAYS)


def test_max_action(dataset: Dataset) -> None:
    one = np.ones(3, np.float32)
    assert replace(dataset, action_low=-2 * one, action_high=2 * one).max_action == 2.0
    with pytest.raises(UserError, match="are unknown"):
        _ = replace(dataset, action_low=None, action_high=None).max_action
    with pytest.raises(UserError, match="not one symmetric interval"):
        _ = replace(dataset, action_low=0 * one, action_high=one).max_action
    with pytest.raises(UserError, match="not one symmetric interval"):
        _ = replace(dataset, action_low=np.array([-1, -1, -2]), action_high=np.array([1, 1, 2])).max_action


def test_statistics_and_returns(dataset: Dataset) -> None:
    mean, std = dataset.observation_statistics()
    observations = dataset.observations.double().numpy()
    assert np.allclose(mean, observations.mean(0), atol=1e-6)
    assert np.allclose(std, observations.std(0) + 1e-3, atol=1e-6)
    normalized = dataset.normalized(mean, std)
    assert torch.allclose(normalized.observations * std + mean, dataset.observations, atol=1e-5)
    assert torch.allclose(normalized.next_observations * std + mean, dataset.next_observations, atol=1e-5)
    rewards = dataset.rewards.double().numpy()
    expected = [rewards[:5].sum(), rewards[5], rewards[6:13].sum(), rewards[13:].sum()]
    assert np.allclose(dataset.episode_returns(), expected)
