"""The gradient written out is autograd's, on the same memory."""

import math

import numpy as np
import pytest
import torch

from rlsuite.kernels.adam import Adam
from rlsuite.kernels.tanh_mlp import Flat, TanhMLP, backward, forward, orthogonal


def network(sizes, seed=0):
    net = TanhMLP(sizes, 0.5, np.random.default_rng(seed))
    with torch.no_grad():  # biases of zero would hide mistakes
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return net


@pytest.mark.parametrize("sizes", [(4, 3), (7, 64, 2), (17, 64, 64, 6), (3, 8, 16, 8, 1)])
@pytest.mark.parametrize("rows", [1, 33])
def test_forward_and_backward_are_those_of_autograd(sizes, rows):
    net = network(sizes).double()
    rng = np.random.default_rng(1)
    x, grad = rng.standard_normal((rows, sizes[0])), rng.standard_normal((rows, sizes[-1]))
    kept = x.copy()
    output = net(torch.from_numpy(x))
    expected = torch.autograd.grad(output, list(net.parameters()), torch.from_numpy(grad))
    weights = [p.detach().numpy() for p in net.parameters()]
    layers = forward(x, weights)
    np.testing.assert_allclose(layers[-1], output.detach().numpy(), rtol=1e-12, atol=1e-13)
    assert len(layers) == len(sizes)
    written = [np.full_like(w, np.nan) for w in weights]
    given = grad.copy()
    backward(given, layers, weights, written)
    for ours, theirs in zip(written, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-10, atol=1e-12)
    assert np.array_equal(x, kept)
    assert np.array_equal(given, grad)


def test_initial_weights_are_orthogonal_with_their_gains():
    net = TanhMLP((11, 64, 64, 3), 0.01, np.random.default_rng(0))
    weights = [p.detach().double() for name, p in net.named_parameters() if "weight" in name]
    for weight, gain in zip(weights, (math.sqrt(2), math.sqrt(2), 0.01), strict=True):
        few = weight if weight.shape[0] <= weight.shape[1] else weight.T
        torch.testing.assert_close(few @ few.T, gain**2 * torch.eye(len(few), dtype=torch.float64), rtol=0, atol=1e-6)
    assert all(not p.any() for name, p in net.named_parameters() if "bias" in name)
    wide, tall = (orthogonal(*shape, 1.0, np.random.default_rng(0)) for shape in ((3, 9), (9, 3)))
    assert (wide.shape, tall.shape) == ((3, 9), (9, 3))


def test_orthogonal_matrices_are_drawn_uniformly():
    """Without the signs of R the first entry would always be negative."""
    rng = np.random.default_rng(0)
    first = [float(orthogonal(4, 4, 1.0, rng)[0, 0]) for _ in range(400)]
    assert abs(np.mean(first)) < 0.1
    assert abs(np.var(first) - 1 / 4) < 0.05


def test_flat_and_the_modules_share_their_memory():
    net = network((5, 8, 2))
    before = [p.detach().clone() for p in net.parameters()]
    flat = Flat(net.parameters())
    assert len(flat.values) == sum(p.numel() for p in net.parameters())
    for parameter, view, old in zip(net.parameters(), flat.views, before, strict=True):
        assert torch.equal(parameter, old)
        assert np.array_equal(view, old.numpy())
    flat.values += 1
    for parameter, view, old in zip(net.parameters(), flat.views, before, strict=True):
        assert torch.equal(parameter, old + 1)
        assert np.array_equal(view, (old + 1).numpy())
    net.load_state_dict(network((5, 8, 2), seed=5).state_dict())
    assert torch.equal(
        flat.values, torch.cat([p.detach().reshape(-1) for p in network((5, 8, 2), seed=5).parameters()])
    )
    flat.gradient_views[1][:] = 7
    assert (flat.gradient == 7).sum() == 8


def test_the_norm_of_the_whole_gradient_is_clipped():
    flat = Flat(network((5, 8, 2)).parameters())
    for view in flat.gradient_views:
        view[...] = np.random.default_rng(0).standard_normal(view.shape)
    before = flat.gradient.clone()
    flat.clip_gradient(1e3)
    assert torch.equal(flat.gradient, before)
    flat.clip_gradient(0.5)
    assert float(flat.gradient.norm()) == pytest.approx(0.5, rel=1e-5)
    torch.testing.assert_close(flat.gradient / 0.5, before / before.norm())
    flat.gradient.zero_()
    flat.clip_gradient(0.5)
    assert not flat.gradient.any()


def test_adam_on_one_vector_is_adam_on_its_parts():
    """And on either, torch's own with the same epsilon."""
    nets = [network((5, 8, 2)) for _ in range(3)]
    flat = Flat(nets[0].parameters())
    whole, parts = Adam([flat.values], 1e-2, 1e-5), Adam(nets[1].parameters(), 1e-2, 1e-5)
    theirs = torch.optim.Adam(nets[2].parameters(), 1e-2, eps=1e-5, fused=True)
    generator = torch.Generator().manual_seed(0)
    for number in range(20):
        gradients = [torch.randn(p.shape, generator=generator) for p in nets[1].parameters()]
        flat.gradient.copy_(torch.cat([g.reshape(-1) for g in gradients]))
        whole.learning_rate = parts.learning_rate = theirs.param_groups[0]["lr"] = 1e-2 / (1 + number)
        whole.apply([flat.gradient])
        parts.apply([g.clone() for g in gradients])
        for parameter, gradient in zip(nets[2].parameters(), gradients, strict=True):
            parameter.grad = gradient
        theirs.step()
    for one, two, three in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(two, three)
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
