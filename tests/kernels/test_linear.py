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
    """The same network of torch's own layers, in double precision; its parameters come in the same order."""
    layers: list[nn.Module] = []
    parameters = dict(mlp.named_parameters())
    for i in range(sum(name.startswith("weight") for name in parameters)):
        fan_out, fan_in = parameters[f"weight{i}"].shape
        layers.append(nn.Linear(fan_in, fan_out))
        if f"scale{i}" in parameters:
            layers.append(nn.LayerNorm(fan_out))
        layers.append(nn.ReLU())
    plain = nn.Sequential(*layers[:-1]).double()
    with torch.no_grad():
        for theirs, ours in zip(plain.parameters(), parameters.values(), strict=True):
            theirs.copy_(ours)
    return plain


def normalized(sizes=SIZES, seed=0) -> MLP:
    """A network with layer normalisation whose scales and shifts are not the initial ones and zeros."""
    mlp = MLP(sizes, np.random.default_rng(seed), layer_norm=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in mlp.named_parameters():
            if name.startswith(("scale", "shift")):
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return mlp


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


@pytest.mark.parametrize("sizes", [(23, 128, 1), (23, 256, 128, 64, 3), SIZES, (23, 8, 8, 1), (23, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layer_norm_and_its_gradients_equal_torchs_own(backend, sizes, dtype):
    mlp = normalized(sizes).to(dtype)
    plain = reference(mlp)
    x = torch.randn(256, 23, generator=torch.Generator().manual_seed(0), dtype=dtype, requires_grad=True)
    x64 = x.detach().double().requires_grad_()
    output, expected = mlp(x), plain(x64)
    assert output.dtype == dtype
    close = {"rtol": 2e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-13}
    torch.testing.assert_close(output.double(), expected, **close)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), output)
    ours = torch.autograd.grad(output.square().mean(), [x, *mlp.parameters()])
    theirs = torch.autograd.grad(expected.square().mean(), [x64, *plain.parameters()])
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, **close)


def test_layer_norm_without_gradient_of_the_input_or_under_no_grad_is_the_same(backend):
    mlp = normalized((23, 128, 128, 1))
    x = torch.randn(64, 23, generator=torch.Generator().manual_seed(0))
    closed = torch.autograd.grad(mlp(x).sum(), list(mlp.parameters()))
    opened = torch.autograd.grad(mlp(x.clone().requires_grad_()).sum(), list(mlp.parameters()))
    assert all(map(torch.equal, closed, opened))
    with torch.no_grad():
        silent = mlp(x)
    assert not silent.requires_grad
    assert torch.equal(silent, mlp(x))


def test_frozen_layer_norm_gives_the_input_gradient_and_none_of_the_weights(backend):
    mlp = normalized((23, 128, 128, 1))
    x = torch.randn(64, 23, requires_grad=True)
    (open_grad,) = torch.autograd.grad(mlp(x).sum(), x)
    mlp(x, frozen=True).sum().backward()
    assert torch.equal(open_grad, x.grad)
    assert all(p.grad is None for p in mlp.parameters())


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_retained_graph_gives_the_same_gradient_again(backend, layer_norm):
    """With other slopes of the output in between, as O-DICE takes them."""
    mlp = MLP((23, 128, 128, 2), np.random.default_rng(0), layer_norm)
    parameters = list(mlp.parameters())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 23, generator=generator)
    slopes = torch.randn(2, 64, generator=generator).t()  # not contiguous
    output = mlp(x)
    first, other, again = (
        torch.autograd.grad(output, parameters, slope, retain_graph=True) for slope in (slopes, -2 * slopes, slopes)
    )
    assert all(map(torch.equal, first, again))
    for one, two in zip(first, other, strict=True):
        torch.testing.assert_close(-2 * one, two)
    expected = torch.autograd.grad(mlp(x), parameters, slopes.contiguous())
    for one, two in zip(first, expected, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("sizes", [(23, 128, 128, 1), (23, 256, 12, 96, 1), (70, 64, 1), (23, 8, 1), (23, 1)])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vector_jacobian_products_are_autograds_one_by_one(backend, sizes, layer_norm, dtype):
    mlp = (normalized(sizes) if layer_norm else MLP(sizes, np.random.default_rng(0))).to(dtype)
    plain = reference(mlp)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, sizes[0], generator=generator, dtype=dtype)
    slopes = torch.randn(3, 100, generator=generator, dtype=dtype)
    slopes[1, ::2] = 0
    before = [t.clone() for t in (x, slopes, *mlp.parameters())]
    output, products = mlp.vjp(x)
    found, again, single = products(slopes), products(slopes), products(slopes[1:2])
    expected = plain(x.double()).squeeze(1)
    close = {"rtol": 2e-4, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    assert output.shape == (100,) and output.dtype == dtype and not output.requires_grad
    torch.testing.assert_close(output.double(), expected, **close)
    for i, slope in enumerate(slopes):
        theirs = torch.autograd.grad(expected, list(plain.parameters()), slope.double(), retain_graph=True)
        for ours, other in zip(found, theirs, strict=True):
            assert ours.dtype == dtype and not ours.requires_grad
            torch.testing.assert_close(ours[i].double(), other, **close)
    assert all(map(torch.equal, found, again))
    for one, three in zip(single, found, strict=True):
        torch.testing.assert_close(one[0], three[1], **close)
    assert all(map(torch.equal, before, (x, slopes, *mlp.parameters())))


def test_names_of_the_parameters_belong_to_the_layers():
    plain, normal = (MLP((3, 5, 4, 2), np.random.default_rng(0), layer_norm) for layer_norm in (False, True))
    assert list(plain.state_dict()) == ["weight0", "bias0", "weight1", "bias1", "weight2", "bias2"]
    assert {name: tuple(value.shape) for name, value in normal.state_dict().items()} == {
        "weight0": (5, 3),
        "bias0": (5,),
        "scale0": (5,),
        "shift0": (5,),
        "weight1": (4, 5),
        "bias1": (4,),
        "scale1": (4,),
        "shift1": (4,),
        "weight2": (2, 4),
        "bias2": (2,),
    }
    assert list(normal.state_dict())[:5] == ["weight0", "bias0", "scale0", "shift0", "weight1"]
    for name, value in normal.state_dict().items():  # the same draws, scales of one and shifts of zero
        expected = plain.state_dict().get(name, torch.full_like(value, float(name.startswith("scale"))))
        assert torch.equal(value, expected)
    other = MLP((3, 5, 4, 2), np.random.default_rng(1), True)
    other.load_state_dict(normal.state_dict())
    x = torch.randn(7, 3)
    assert torch.equal(other(x), normal(x))


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


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4, 0.5])
def test_adam_has_the_bits_of_torchs_fused_adam(weight_decay):
    ours, theirs = (MLP(SIZES, np.random.default_rng(0)) for _ in range(2))
    adam = Adam(ours.parameters(), 3e-4, weight_decay=weight_decay)
    torch_adam = torch.optim.Adam(theirs.parameters(), 3e-4, weight_decay=weight_decay, fused=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        x = torch.randn(32, 23, generator=generator)
        adam.step(ours(x).square().mean())
        torch_adam.zero_grad()
        theirs(x).square().mean().backward()
        torch_adam.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_weight_decay_is_a_penalty_in_the_gradient_and_not_adamw():
    """A penalty alone moves every weight by the learning rate in the first step, large or small; AdamW's does not."""
    parameter = torch.tensor([3.0, -0.5, 0.0])
    Adam([parameter], 0.01, weight_decay=1e-4).apply([torch.zeros(3)])
    torch.testing.assert_close(parameter, torch.tensor([2.99, -0.49, 0.0]), rtol=0, atol=1e-5)
    without = torch.tensor([3.0, -0.5, 0.0])
    Adam([without], 0.01).apply([torch.zeros(3)])
    assert torch.equal(without, torch.tensor([3.0, -0.5, 0.0]))


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
