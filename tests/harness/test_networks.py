"""Policies against torch.distributions, in double precision."""

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from rlsuite.harness import files
from rlsuite.harness.networks import GaussianActor
from rlsuite.harness.runs import load_policy

B = 17
EACH = pytest.mark.parametrize(("tanh", "max_action"), [(True, 1.0), (False, 1.0), (True, 0.4), (False, 2.5)])


def gaussian_actor(tanh: bool, max_action: float) -> GaussianActor:
    """With log standard deviations below, within and above the range that they are clipped to."""
    actor = GaussianActor(5, 4, max_action, (16, 16), tanh, np.random.default_rng(0))
    with torch.no_grad():
        actor.log_std.copy_(torch.tensor([-6.0, -0.7, 1.3, 2.5]))
        for parameter in actor.net.parameters():
            parameter *= 3  # means that leave the bounds, or are squashed to them
    return actor.double()


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    observations, actions = (torch.randn(B, n, generator=generator, dtype=torch.float64) for n in (5, 4))
    return observations, actions


@EACH
def test_density_of_a_gaussian_actor_and_its_gradients(tanh, max_action):
    actor = gaussian_actor(tanh, max_action)
    observations, actions = pairs()
    x = actor.net(observations)
    mean = max_action * (x.tanh() if tanh else x)
    std = max_action * actor.log_std.clamp(-5, 2).exp()
    expected = Independent(Normal(mean, std), 1).log_prob(actions)
    ours = actor.log_prob(observations, actions)
    assert ours.shape == (B,)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    weight = torch.linspace(-1, 2, B, dtype=torch.float64)
    gradients = [torch.autograd.grad((weight * y).sum(), list(actor.parameters())) for y in (ours, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=0)
    torch.testing.assert_close(actor(observations), mean, rtol=0, atol=0)


def test_a_standard_deviation_out_of_range_is_clipped_and_has_no_gradient():
    actor = gaussian_actor(False, 1.0)
    observations, actions = pairs()
    density = actor.log_prob(observations, actions)
    (gradient,) = torch.autograd.grad(density.sum(), actor.log_std)
    assert gradient[[0, 3]].tolist() == [0.0, 0.0]
    assert (gradient[[1, 2]] != 0).all()
    with torch.no_grad():
        actor.log_std.copy_(torch.tensor([-5.0, -0.7, 1.3, 2.0]))
        assert torch.equal(actor.log_prob(observations, actions), density)
        actor.log_std[0] += 0.1
        assert not torch.equal(actor.log_prob(observations, actions), density)


@EACH
def test_a_gaussian_actor_plays_its_mean_within_the_bounds(tanh, max_action):
    actor = gaussian_actor(tanh, max_action).float()
    actor.set_normalizer(torch.arange(5.0), torch.linspace(0.5, 2, 5))
    observations = 3 * np.random.default_rng(2).standard_normal((B, 5)).astype(np.float32)
    played = actor.act(observations)
    with torch.no_grad():
        means = actor(torch.from_numpy((observations - actor.mean.numpy()) / actor.std.numpy())).numpy()
    np.testing.assert_allclose(played, np.clip(means, -max_action, max_action), rtol=1e-6)
    assert np.abs(played).max() <= np.float32(max_action)
    assert (np.abs(means) > max_action).any() != tanh
    assert (np.abs(played) < 0.9 * max_action).any()
    assert played.dtype == np.float32 and played.shape == (B, 4)
    assert np.array_equal(played, actor.act(observations.astype(np.float64)))


def test_the_initial_standard_deviation_is_the_bound():
    actor = GaussianActor(3, 2, 0.4)
    assert actor.log_std.tolist() == [0.0, 0.0]
    observations = torch.zeros(1, 3)
    density = actor.log_prob(observations, actor(observations))
    torch.testing.assert_close(density, torch.full((1,), -2 * (np.log(0.4) + 0.5 * np.log(2 * np.pi))).float())


@EACH
@pytest.mark.parametrize("algorithm", ["odice", "odice_il", "iql"])
def test_a_saved_gaussian_actor_acts_as_before(tmp_path, tanh, max_action, algorithm):
    actor = gaussian_actor(tanh, max_action).float()
    actor.set_normalizer(torch.arange(5.0), torch.linspace(0.5, 2, 5))
    files.save_policy(tmp_path / "policy.npz", actor, algorithm)
    again = load_policy(tmp_path)
    assert type(again) is GaussianActor
    observations = np.random.default_rng(2).standard_normal((B, 5)).astype(np.float32)
    assert np.array_equal(actor.act(observations), again.act(observations))
    x = torch.from_numpy(observations)
    actions = torch.zeros(B, 4)
    assert torch.equal(actor.log_prob(x, actions), again.log_prob(x, actions))
