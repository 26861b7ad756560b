"""The fast network and optimiser compute what torch's own compute."""

import numpy as np
import pytest
import torch
from torch import nn

from rlsuite.kernels import linear
from rlsuite.kernels.adam import Adam
from rlsuite.kernels.linear import MLP

BACKENDS = ["torch"] + (["onednn"] if torch.backends.mkldnn.is_available() else [])
SIZES = (23, 256, 128, 32, 3)


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    monkeypatch.setattr(linear, "backend", lambda: request.param)
    return request.param


def reference(mlp: MLP) -> nn.Sequential:
    """The same network of torch's own layers, in double precision."""
    parameters = list(mlp.parameters())
    layers: list[nn.Module] = []
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        layer.weight.data, layer.bias.data = weight.detach().double(), bias.detach().double()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_forward_and_gradients_equal_torchs_own(backend):
    mlp = MLP(SIZES, np.random.default_rng(0))
    plain = reference(mlp)
    x = torch.randn(256, 23, generator=torch.Generator().manual_seed(0), requires_grad=True)
    x64 = x.detach().double().requires_grad_()
    mlp(x).square().mean().backward()
    plain(x64).square().mean().backward()
    torch.testing.assert_close(mlp(x).double(), plain(x64), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=1e-4, atol=1e-9)
    for mine, theirs in zip(mlp.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-8)


def test_frozen_gives_the_input_gradient_and_none_of_the_weights(backend):
    mlp = MLP(SIZES, np.random.default_rng(0))
    x = torch.randn(64, 23, requires_grad=True)
    (open_grad,) = torch.autograd.grad(mlp(x).sum(), x)
    (frozen_grad,) = torch.autograd.grad(mlp(x, frozen=True).sum(), x)
    assert torch.equal(open_grad, frozen_grad)
    mlp(x, frozen=True).sum().backward()
    assert all(p.grad is None for p in mlp.parameters())


def test_initial_weights_fill_the_documented_range():
    mlp = MLP((64, 256, 1), np.random.default_rng(0))
    first = next(mlp.parameters())
    assert 0.99 / 8 < first.abs().max() <= 1 / 8
    assert abs(first.mean()) < 2e-3
    again = MLP((64, 256, 1), np.random.default_rng(0))
    assert all(torch.equal(a, b) for a, b in zip(mlp.parameters(), again.parameters(), strict=True))


def test_adam_has_the_bits_of_torchs_fused_adam():
    ours, theirs = (MLP(SIZES, np.random.default_rng(0)) for _ in range(2))
    adam, torch_adam = Adam(ours.parameters(), 3e-4), torch.optim.Adam(theirs.parameters(), 3e-4, fused=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        x = torch.randn(32, 23, generator=generator)
        adam.step(ours(x).square().mean())
        torch_adam.zero_grad()
        theirs(x).square().mean().backward()
        torch_adam.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_adam_state_continues_exactly():
    def steps(mlp, adam, count, generator):
        for _ in range(count):
            adam.step(mlp(torch.randn(32, 23, generator=generator)).square().mean())

    one = MLP(SIZES, np.random.default_rng(0))
    adam = Adam(one.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    steps(one, adam, 5, generator)
    two = MLP(SIZES, np.random.default_rng(1))
    two.load_state_dict(one.state_dict())
    other = Adam(two.parameters(), 1e-3)
    other.load_state_dict({k: [t.clone() for t in v] for k, v in adam.state_dict().items()})
    state = generator.get_state()
    steps(one, adam, 5, generator)
    generator.set_state(state)
    steps(two, other, 5, generator)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
