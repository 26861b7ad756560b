"""The two action distributions against torch.distributions and autograd, in double precision."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal, kl_divergence

from rlsuite.kernels.distributions import Categorical, Gaussian

B, K = 17, 5


def close(ours, theirs, **tolerance):
    theirs = theirs.detach().numpy() if isinstance(theirs, Tensor) else theirs
    np.testing.assert_allclose(ours, theirs, **{"rtol": 1e-10, "atol": 1e-12, **tolerance})


def gaussian(seed):
    rng = np.random.default_rng(seed)
    mean, log_std = rng.standard_normal((B, K)), rng.uniform(-2, 1, K)
    tensors = torch.from_numpy(mean).requires_grad_(), torch.from_numpy(log_std).requires_grad_()
    return Gaussian(mean, log_std), Normal(tensors[0], tensors[1].exp()), tensors


def categorical(seed):
    logits = 3 * np.random.default_rng(seed).standard_normal((B, K))
    tensor = torch.from_numpy(logits).requires_grad_()
    return Categorical.of(logits), TorchCategorical(logits=tensor), tensor


def weights_and_actions(kind):
    rng = np.random.default_rng(9)
    actions = rng.integers(K, size=B) if kind is categorical else 2 * rng.standard_normal((B, K))
    return rng.standard_normal(B), actions


def test_gaussian_log_prob_and_entropy():
    ours, theirs, _ = gaussian(0)
    _, actions = weights_and_actions(gaussian)
    close(ours.log_prob(actions), theirs.log_prob(torch.from_numpy(actions)).sum(1))
    close(np.full(B, ours.entropy()), theirs.entropy().sum(1))
    assert np.array_equal(ours.mode(), ours.mean)


def test_categorical_log_prob_and_entropy():
    ours, theirs, _ = categorical(0)
    _, actions = weights_and_actions(categorical)
    close(ours.log_prob(actions), theirs.log_prob(torch.from_numpy(actions)))
    close(ours.entropies(), theirs.entropy())
    close(ours.entropy(), theirs.entropy().mean())
    close(np.exp(ours.log_probs).sum(1), np.ones(B))
    assert np.array_equal(ours.mode(), theirs.probs.argmax(1).numpy())


def test_categorical_of_huge_logits_is_finite():
    logits = np.array([[1000.0, 0.0, -1000.0], [-1e4, -1e4, -1e4]])
    ours = Categorical.of(logits)
    close(ours.log_probs, torch.log_softmax(torch.from_numpy(logits), 1))
    assert np.isfinite(ours.entropies()).all()
    assert np.isfinite(ours.gradient(np.zeros(2, int), np.ones(2), 1.0)).all()


@pytest.mark.parametrize("entropy", [0.0, 0.7, -0.3])
def test_gradients_of_log_prob_and_entropy(entropy):
    weights, actions = weights_and_actions(gaussian)
    ours, theirs, tensors = gaussian(0)
    # The entropy of a Gaussian does not depend on the state, and counts once.
    target = (torch.from_numpy(weights) * theirs.log_prob(torch.from_numpy(actions)).sum(1)).sum()
    target = target + entropy * theirs.entropy().sum(1).mean()
    for mine, expected in zip(
        ours.gradient(actions, weights, entropy), torch.autograd.grad(target, tensors), strict=True
    ):
        close(mine, expected)

    weights, actions = weights_and_actions(categorical)
    ours, theirs, logits = categorical(0)
    target = (torch.from_numpy(weights) * theirs.log_prob(torch.from_numpy(actions))).sum()
    (expected,) = torch.autograd.grad(target + entropy * theirs.entropy().mean(), logits)
    close(ours.gradient(actions, weights, entropy), expected)


def test_kl_divergences_and_their_gradients_in_both_directions():
    ours, theirs, tensors = gaussian(0)
    other, fixed, _ = gaussian(1)
    for direction, value in (
        (kl_divergence(theirs, fixed), ours.kl(other)),
        (kl_divergence(fixed, theirs), other.kl(ours)),
    ):
        close(value, direction)
        assert (value >= 0).all()
    mean, log_std = ours.kl_gradient(other)
    expected = torch.autograd.grad(kl_divergence(theirs, fixed).sum(), tensors, retain_graph=True)
    close(mean, expected[0])
    close(log_std.sum(0), expected[1])
    mean, log_std = ours.reverse_kl_gradient(other)
    expected = torch.autograd.grad(kl_divergence(fixed, theirs).sum(), tensors)
    close(mean, expected[0])
    close(log_std.sum(0), expected[1])

    ours, theirs, logits = categorical(0)
    other, fixed, _ = categorical(1)
    close(ours.kl(other), kl_divergence(theirs, fixed))
    close(other.kl(ours), kl_divergence(fixed, theirs))
    close(
        ours.kl_gradient(other), torch.autograd.grad(kl_divergence(theirs, fixed).sum(), logits, retain_graph=True)[0]
    )
    close(ours.reverse_kl_gradient(other), torch.autograd.grad(kl_divergence(fixed, theirs).sum(), logits)[0])


def test_a_distribution_has_no_divergence_from_itself():
    for ours, _, _ in (gaussian(0), categorical(0)):
        close(ours.kl(ours), np.zeros_like(ours.kl(ours)), atol=1e-14)
        gradients = (*np.atleast_1d(ours.kl_gradient(ours)), *np.atleast_1d(ours.reverse_kl_gradient(ours)))
        assert all(np.abs(g).max() < 1e-14 for g in gradients)


def test_gaussian_samples_have_their_moments_and_single_precision():
    mean, log_std = np.array([[1.0, -2.0]], np.float32), np.array([0.5, -1.0], np.float32)
    drawn = Gaussian(np.repeat(mean, 200_000, 0), log_std).sample(np.random.default_rng(0))
    assert drawn.dtype == np.float32
    close(drawn.mean(0), mean[0], rtol=0, atol=0.02)
    close(drawn.std(0), np.exp(log_std), rtol=0.01)
    again = Gaussian(np.repeat(mean, 200_000, 0), log_std).sample(np.random.default_rng(0))
    assert np.array_equal(drawn, again)


def test_categorical_samples_have_their_frequencies():
    ours = Categorical.of(np.repeat(np.array([[0.0, 2.0, -1.0, 1.0]], np.float32), 200_000, 0))
    drawn = ours.sample(np.random.default_rng(0))
    assert drawn.dtype == np.int64
    close(np.bincount(drawn, minlength=4) / len(drawn), np.exp(ours.log_probs[0]), rtol=0, atol=0.004)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_uniform_number_chooses_by_the_cumulative_distribution(dtype):
    ours = Categorical.of(np.log(np.array([[0.25, 0.5, 0.25]] * 6, dtype)))
    assert ours.at(np.array([0.0, 0.2, 0.3, 0.7, 0.8, 1 - 1e-16])).tolist() == [0, 0, 1, 1, 2, 2]


def test_no_uniform_number_is_beyond_the_last_action_or_meets_one_without_probability():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((5000, 18)).astype(np.float32)
    logits[:, [0, 7, 17]] = -np.inf
    lowest, highest = np.full(5000, 2.0**-53), np.full(5000, np.nextafter(1.0, 0.0))
    ours = Categorical.of(logits)
    for uniforms in (lowest, highest, rng.random(5000)):
        chosen = ours.at(uniforms)
        assert (chosen >= 0).all()
        assert not np.isin(chosen, [0, 7, 17]).any()
