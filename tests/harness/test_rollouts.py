"""The buffer keeps time order, and running moments are those of everything seen."""

import numpy as np
import pytest
import torch

from rlsuite.harness import files
from rlsuite.harness.rollouts import Buffer, ObservationNormalizer, RewardScaler, Rollout


def rollout(steps, copies=2, begin=0):
    """Observation = the number of the step; every fifth step is truncated in copy 0, every seventh in copy 1."""
    numbers = np.arange(begin, begin + steps)
    observations = np.repeat(numbers[:, None, None], copies, 1).astype(np.float32)
    truncations = np.stack([numbers % (5 + 2 * k) == 0 for k in range(copies)], 1)
    rows = np.flatnonzero(truncations)
    return Rollout(
        observations,
        observations + 0.5,
        observations[..., 0],
        np.zeros((steps, copies), bool),
        truncations,
        final_observations=np.array([[begin + row // copies + 0.25] for row in rows], np.float32).reshape(-1, 1),
        final_rows=rows,
        next_observations=np.full((copies, 1), begin + steps, np.float32),
    )


def check(part, first, last):
    """`part` holds the steps first ... last, and its final observations stand at their rows."""
    numbers = np.repeat(np.arange(first, last + 1), part.copies)
    assert np.array_equal(part.flat("observations")[:, 0], numbers)
    assert np.array_equal(part.flat("actions")[:, 0], numbers + 0.5)
    assert np.array_equal(part.flat("rewards"), numbers)
    assert np.array_equal(part.final_rows, np.flatnonzero(part.truncations))
    assert np.array_equal(part.final_observations[:, 0], numbers[part.final_rows] + 0.25)
    assert (part.next_observations == last + 1).all()
    assert len(part) == len(numbers)


def test_the_newest_steps_of_joined_rollouts():
    joined = rollout(10, begin=0).then(rollout(13, begin=10)).then(rollout(1, begin=23))
    check(joined, 0, 23)
    for kept in (1, 3, 10, 23, 24):
        check(joined.newest(kept), 24 - kept, 23)
    check(joined.newest(99), 0, 23)


@pytest.mark.parametrize("capacity", [1, 4, 12, 16, 100])
def test_a_buffer_forgets_the_oldest(capacity):
    buffer = Buffer(capacity)
    assert buffer.rollout is None
    begin = 0
    for steps in (4, 4, 4, 4, 1, 7, 30):
        everything = buffer.add(rollout(steps, begin=begin))
        begin += steps
        check(everything, max(0, begin - capacity), begin - 1)
        assert len(buffer.rollout) == len(everything)


def test_a_buffer_survives_a_checkpoint(tmp_path):
    for filled in (False, True):
        buffer, again = Buffer(12), Buffer(12)
        if filled:
            buffer.add(rollout(7))
        files.save_checkpoint(tmp_path / "b.ckpt", buffer.state_dict())
        again.load_state_dict(files.load_checkpoint(tmp_path / "b.ckpt"))
        assert filled or again.rollout is None
        check(again.add(rollout(10, begin=7)), 5 if filled else 7, 16)


@pytest.mark.parametrize("sizes", [[1] * 50, [3] * 20, [1, 5, 1, 40, 2]])
def test_observation_moments_are_those_of_everything_seen(sizes):
    normalizer = ObservationNormalizer((4,))
    seen = 100 + 7 * np.random.default_rng(0).standard_normal((sum(sizes), 4))
    for part in np.split(seen, np.cumsum(sizes)[:-1]):
        normalizer.update(part.astype(np.float32))
    mean, variance = normalizer.mean.numpy(), normalizer.variance.numpy()
    count = 1e-4 + len(seen)  # it begins as if 1e-4 observations had been seen, with mean 0 and variance 1
    expected = seen.sum(0) / count
    squares = (1e-4 + (seen**2).sum(0)) / count
    assert normalizer.count.item() == pytest.approx(count)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    np.testing.assert_allclose(variance, squares - expected**2, rtol=1e-4)
    x = normalizer.normalize(np.array([[100, 107, 1e9, -1e9]], np.float32))
    assert x.dtype == np.float32
    assert np.array_equal(x[0, 2:], [10, -10])
    np.testing.assert_allclose(x[0, :2], ((np.array([100, 107]) - mean[:2]) / np.sqrt(variance[:2])), rtol=1e-5)


def test_normalising_does_not_count():
    normalizer = ObservationNormalizer((2,))
    normalizer.update(np.ones((3, 2), np.float32))
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    normalizer.normalize(np.full((5, 2), 9, np.float32))
    assert all(torch.equal(value, before[name]) for name, value in normalizer.state_dict().items())
    assert set(before) == {"mean", "variance", "count"}


def test_rewards_are_scaled_by_the_deviation_of_the_discounted_return():
    """The return begins anew at a termination and nowhere else, least of all where a rollout begins."""
    gamma, steps, copies, rng = 0.9, 60, 3, np.random.default_rng(0)
    rewards = (5 + rng.standard_normal((steps, copies))).astype(np.float32)
    terminations = rng.random((steps, copies)) < 0.1
    returns, current = [], np.zeros(copies)
    for reward, over in zip(rewards, terminations, strict=True):
        current = gamma * current * (1 - over) + reward
        returns.append(current)
    scaler = RewardScaler(copies, gamma)
    for begin, end in ((0, 1), (1, 20), (20, 60)):
        scaler.update(rewards[begin:end], terminations[begin:end])
    seen = np.array(returns)
    count = seen.size + 1e-4
    variance = (1e-4 + (seen**2).sum()) / count - (seen.sum() / count) ** 2
    np.testing.assert_allclose(scaler.variance, variance, rtol=1e-6)
    scaled = scaler.scale(rewards)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, rewards / np.sqrt(variance), rtol=1e-5)  # the mean stays
    assert scaler.scale(np.array([1e9, -1e9], np.float32)).tolist() == [10, -10]


def test_a_reward_scale_survives_a_checkpoint(tmp_path):
    def part(number):
        rng = np.random.default_rng(number)
        return rng.standard_normal((5, 2)).astype(np.float32), rng.random((5, 2)) < 0.2

    scaler, again = RewardScaler(2, 0.99), RewardScaler(2, 0.99)
    scaler.update(*part(0))
    files.save_checkpoint(tmp_path / "s.ckpt", scaler.state_dict())
    again.load_state_dict(files.load_checkpoint(tmp_path / "s.ckpt"))
    for each in (scaler, again):
        each.update(*part(1))
    assert np.array_equal(scaler.variance, again.variance)
    assert np.array_equal(scaler.returns, again.returns)
