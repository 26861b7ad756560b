"""Noise for pictures is standard normal, to its tails, and the same again from the same stream."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rlsuite.kernels.normal import standard_normal


@pytest.fixture(scope="module")
def numbers():
    """As an episode draws them: frame after frame, (568, 7056)."""
    stream = np.random.default_rng(0)
    return np.array([standard_normal(stream, 7056) for _ in range(568)])


def test_the_numbers_are_standard_normal(numbers):
    """Four moments within 4 standard errors, and the whole distribution by Kolmogorov and Smirnov."""
    x = numbers.astype(np.float64).ravel()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - mean) < 4 * np.sqrt(variance / len(x))
    assert stats.kstest(x, "norm").pvalue > 0.001


@pytest.mark.parametrize("beyond", [2.0, 3.0, 4.0, 4.7])
def test_the_tails_are_as_heavy_as_they_should_be(numbers, beyond):
    for tail in (numbers > beyond, numbers < -beyond):
        expected = numbers.size * stats.norm.sf(beyond)
        assert abs(tail.sum() - expected) < 4 * np.sqrt(expected)


@pytest.mark.parametrize(("words", "largest"), [(0, 9.42), (2**64 - 1, 2**-31)])
def test_the_radius_has_no_bits_missing(words, largest):
    """The smallest uniform number is 2^-64, the largest rounds to 1: neither gives a number that is not finite."""

    class Bits:
        bit_generator = None

        def random_raw(self, count):
            return np.full(count, words, np.uint64)

    stream = Bits()
    stream.bit_generator = stream
    made = standard_normal(stream, 8)
    assert np.isfinite(made).all()
    assert np.abs(made).max() == pytest.approx(largest, rel=0.001, abs=1e-6)


def test_the_numbers_are_independent(numbers):
    """Sine and cosine of one angle, neighbours, and frames; their squares too, which share a radius."""
    flat, half = numbers.reshape(len(numbers), -1), numbers.shape[1] // 2
    for one, other in (
        (flat[:, :half], flat[:, half:]),
        (flat[:, :-1], flat[:, 1:]),
        (flat[:-1], flat[1:]),
    ):
        limit = 4 / np.sqrt(one.size)
        for f in (np.asarray, np.square, np.abs):
            assert abs(np.corrcoef(f(one).ravel(), f(other).ravel())[0, 1]) < limit
    assert abs(np.mean((flat[:, :half] > 0) & (flat[:, half:] > 0)) - 0.25) < 4 * np.sqrt(0.1875 / flat[:, half:].size)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 1000, 7056])
def test_as_many_as_asked_for_and_the_same_again(n):
    first, again = (standard_normal(np.random.default_rng(5), n) for _ in range(2))
    assert first.shape == (n,) and first.dtype == np.float32
    assert np.array_equal(first, again)
    stream = np.random.default_rng(5)
    standard_normal(stream, n)
    assert not np.isin(standard_normal(stream, n), first).any()


def test_the_numbers_are_those_of_box_and_muller():
    """From the stream's words in float64: radii from the first 63 bits each, angles from 32."""
    made = standard_normal(np.random.default_rng(6), 10)
    words = np.random.default_rng(6).bit_generator.random_raw(8)
    radius = np.sqrt(-2 * np.log(((words[:5] >> np.uint64(1)).astype(np.float64) + 0.5) / 2**63))
    angle = words[5:].view(np.int32)[:5] * np.pi / 2**31
    np.testing.assert_allclose(
        made, np.concatenate([radius * np.cos(angle), radius * np.sin(angle)]), rtol=2e-5, atol=2e-6
    )
