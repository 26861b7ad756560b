"""The checks of O-DICE that catch a wrong implementation; names T1 ... T14 as in the method's specification.

What the agent is compared with is written anew from the losses of the specification: torch's own layers, autograd and
optimisers, in double precision.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from rlsuite.algorithms import odice
from rlsuite.algorithms.odice import (
    BLOCK,
    ODICE,
    Config,
    conjugate,
    conjugate_slope,
    orthogonal_part,
    rows_that_count,
)
from rlsuite.algorithms.odice_il import Config as ILConfig
from rlsuite.cli import main
from rlsuite.data.dataset import Batch, Dataset
from rlsuite.harness import files
from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.run import execute
from rlsuite.kernels import linear
from tests.contract.kills import cut_and_finish
from tests.kernels.test_linear import reference

BACKENDS = ["torch"] + (["onednn"] if torch.backends.mkldnn.is_available() else [])
QUICK = {"dataset": "toy", "hidden": (16, 12), "policy_hidden": (16, 16)}
EXACT = {"rtol": 1e-9, "atol": 1e-12}  # of double precision


def toy(n=400, seed=0, max_action=1.0, terminal=0.3, step=1.0, spread=2.0) -> Dataset:
    """Random transitions; `step` is the size of s' - s, `spread` that of the rewards."""
    rng = np.random.default_rng(seed)
    observations = rng.standard_normal((n, 5))
    columns = (
        observations,
        max_action * rng.uniform(-1, 1, (n, 3)),
        spread * rng.standard_normal(n),
        observations + step * rng.standard_normal((n, 5)),
    )
    return Dataset(
        *(torch.as_tensor(column, dtype=torch.float32) for column in columns),
        torch.as_tensor(rng.random(n) < terminal),
        torch.zeros(n, dtype=torch.bool),
        torch.tensor([0]),
        action_low=-np.full(3, max_action, np.float32),
        action_high=np.full(3, max_action, np.float32),
    )


def agent_of(data, seed=0, config=Config, **given) -> ODICE:
    """An agent whose target is not its value function, and whose layer normalisation is not the initial one."""
    agent = ODICE(data, config(**{**QUICK, **given}), np.random.default_rng(seed))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (*agent.weights, *agent.target_weights, agent.actor.log_std):
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return agent


def double(agent: ODICE) -> ODICE:
    """The agent in double precision."""
    agent.actor.double(), agent.value.double(), agent.target_value.double()
    for optimizer in (agent.value_optimizer, agent.actor_optimizer):
        for moments in (optimizer.means, optimizer.squares):
            moments[:] = [m.double() for m in moments]
    return agent


def batches_of(data, batch_size=40, dtype=torch.float64, seed=2):
    for batch in data.batches(batch_size, np.random.default_rng(seed)):
        yield Batch(*(x.to(dtype) if x.is_floating_point() else x for x in batch))


def batch_of(data, batch_size=40, dtype=torch.float64) -> Batch:
    return next(batches_of(data, batch_size, dtype))


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors])


def everything(agent) -> list[torch.Tensor]:
    """All numbers that an agent has."""
    moments = [m for o in (agent.value_optimizer, agent.actor_optimizer) for m in (*o.means, *o.squares)]
    return [t.clone() for t in (*agent.weights, *agent.target_weights, *agent.actor.parameters(), *moments)]


class Plain:
    """O-DICE's losses once more, one value function and one sum after the other."""

    def __init__(self, agent: ODICE) -> None:
        c = self.config = agent.config
        self.heads = [reference(head) for head in agent.value.heads]
        self.targets = [reference(head) for head in agent.target_value.heads]
        self.mean, self.bound = reference(agent.actor.net), agent.actor.max_action
        self.log_std = agent.actor.log_std.detach().clone().double().requires_grad_()
        self.parameters = [p for head in self.heads for p in head.parameters()]
        self.policy = [self.log_std, *self.mean.parameters()]  # as GaussianActor has them
        self.value_optimizer = torch.optim.Adam(self.parameters, c.value_learning_rate)
        self.actor_optimizer = torch.optim.Adam(self.policy, c.policy_learning_rate, weight_decay=c.weight_decay)

    def conjugate(self, y):
        if self.config.f == "kl":
            return torch.exp(y - 1)
        return torch.where(y >= -2, y**2 / 4 + y, -1.0)

    def forward_residuals(self, b: Batch):
        """One (B,) for each value function."""
        discount = self.config.gamma * (1 - b.terminations)
        if self.config.gradient == "true":
            following = [head(b.next_observations).squeeze(1) for head in self.heads]
        else:
            smallest = torch.stack([target(b.next_observations).squeeze(1) for target in self.targets]).amin(0).detach()
            following = [smallest] * len(self.heads)
        return [
            b.rewards + discount * after - head(b.observations).squeeze(1)
            for after, head in zip(following, self.heads, strict=True)
        ]

    def backward_residuals(self, b: Batch):
        discount = self.config.gamma * (1 - b.terminations)
        smallest = torch.stack([target(b.observations).squeeze(1) for target in self.targets]).amin(0).detach()
        return [b.rewards + discount * head(b.next_observations).squeeze(1) - smallest for head in self.heads]

    def parts(self, b: Batch):
        """g_l, g_f and g_b, each with one tensor a parameter; with `true`, g_f is the gradient through both states."""
        c = self.config
        linear_loss = (1 - c.lambda_) * torch.stack([head(b.observations).mean() for head in self.heads]).mean()
        forward_loss = c.lambda_ * torch.stack([self.conjugate(y).mean() for y in self.forward_residuals(b)]).mean()
        backward_loss = (
            c.lambda_ * c.eta * torch.stack([self.conjugate(y).mean() for y in self.backward_residuals(b)]).mean()
        )
        return [torch.autograd.grad(loss, self.parameters) for loss in (linear_loss, forward_loss, backward_loss)]

    def coefficient(self, b: Batch) -> float:
        """c, added up parameter by parameter."""
        _, forward, backward = self.parts(b)
        product = sum((f * g).sum().item() for f, g in zip(forward, backward, strict=True))
        return product / max(sum((f * f).sum().item() for f in forward), 1e-10)

    def gradient(self, b: Batch) -> list[torch.Tensor]:
        first, forward, backward = self.parts(b)
        if self.config.gradient != "orthogonal":
            return [x + f for x, f in zip(first, forward, strict=True)]
        c = self.coefficient(b)
        return [x + f + (g - c * f) for x, f, g in zip(first, forward, backward, strict=True)]

    def weights(self, b: Batch) -> torch.Tensor:
        """(heads, B)."""
        y = torch.stack(self.forward_residuals(b)).detach()
        c = self.config
        if c.policy_weight == "one":
            return torch.ones_like(y)
        w = torch.exp(y - 1) if c.f == "kl" else torch.relu(y if c.policy_weight == "code" else y / 2 + 1)
        return torch.minimum(w, torch.tensor(100.0, dtype=torch.float64))

    def policy_loss(self, b: Batch, weights: torch.Tensor) -> torch.Tensor:
        """weights (heads, B)."""
        mean = self.mean(b.observations)
        std = self.bound * self.log_std.clamp(-5, 2).exp()
        policy = MultivariateNormal(self.bound * (mean.tanh() if self.config.tanh else mean), scale_tril=std.diag())
        return -(weights * policy.log_prob(b.actions)).mean()

    def update(self, b: Batch) -> None:
        weights = self.weights(b)
        for parameter, gradient in zip(self.parameters, self.gradient(b), strict=True):
            parameter.grad = gradient
        self.value_optimizer.step()
        averages = [p for target in self.targets for p in target.parameters()]
        with torch.no_grad():
            for average, parameter in zip(averages, self.parameters, strict=True):
                average.copy_((1 - self.config.tau) * average + self.config.tau * parameter)
        self.actor_optimizer.zero_grad()
        self.policy_loss(b, weights).backward()
        self.actor_optimizer.step()


EVERY_VALUE = pytest.mark.parametrize(
    ("twin", "layer_norm", "f"), list(itertools.product((False, True), (False, True), ("pearson", "kl")))
)
GRADIENTS = pytest.mark.parametrize("gradient", ["orthogonal", "semi", "true"])


def test_the_networks_are_those_of_the_specification():
    data = toy(max_action=0.4)
    shapes = {"weight0": (256, 5), "bias0": (256,), "weight1": (256, 256), "bias1": (256,)}
    affine = {"scale0": (256,), "shift0": (256,), "scale1": (256,), "shift1": (256,)}
    ends = {"weight2": (1, 256), "bias2": (1,)}
    for config, value in (Config("toy"), {**shapes, **affine, **ends}), (ILConfig("toy"), {**shapes, **ends}):
        agent = ODICE(data, config, np.random.default_rng(0))
        first, second = agent.value.heads
        for head in (first, second, *agent.target_value.heads):
            assert {name: tuple(p.shape) for name, p in head.named_parameters()} == value
        assert not torch.equal(first.weight0, second.weight0)
        assert all(map(torch.equal, agent.weights, agent.target_weights))
        assert not {p.data_ptr() for p in agent.weights} & {p.data_ptr() for p in agent.target_weights}
        widths = [tuple(p.shape) for p in agent.actor.parameters()]
        assert widths == [(3,), (1024, 5), (1024,), (1024, 1024), (1024,), (3, 1024), (3,)]
        assert agent.actor.log_std.tolist() == [0.0] * 3
        assert (agent.actor.max_action, agent.actor.tanh) == (np.float32(0.4), isinstance(config, ILConfig))
    single = ODICE(data, Config("toy", twin=False, hidden=(7,), policy_hidden=(9, 8)), np.random.default_rng(0))
    assert [tuple(p.shape) for p in single.weights] == [(7, 5), (7,), (7,), (7,), (1, 7), (1,)]
    assert [tuple(p.shape) for p in single.actor.net.parameters()] == [(9, 5), (9,), (8, 9), (8,), (3, 8), (3,)]
    assert single.value(data.observations).shape == (1, 400)


# T1: the conjugate


GRIDS = {
    "pearson": (torch.linspace(0, 5, 5001).double(), lambda w: (w - 1) ** 2),
    "kl": (torch.linspace(-8, 2, 10_001).double().exp(), lambda w: w * torch.log(w)),
}


@pytest.mark.parametrize("f", GRIDS)
def test_t1_the_conjugate_is_the_maximum_over_a_grid_and_its_slope_the_place_of_it(f):
    w, divergence = GRIDS[f]
    y = torch.linspace(-6, 6 if f == "pearson" else 1.5, 121, dtype=torch.float64, requires_grad=True)
    maximum, place = (w * y.detach()[:, None] - divergence(w)).max(1)
    torch.testing.assert_close(conjugate(y, f), maximum, rtol=0, atol=1e-5)
    torch.testing.assert_close(conjugate_slope(y, f), w[place], rtol=0, atol=1e-3)
    (slope,) = torch.autograd.grad(conjugate(y, f).sum(), y)
    torch.testing.assert_close(slope, conjugate_slope(y, f), rtol=1e-12, atol=1e-12)


def test_t1_below_minus_two_pearsons_conjugate_is_flat():
    y = torch.linspace(-6, -2, 41, dtype=torch.float64, requires_grad=True)
    values = conjugate(y, "pearson")
    assert torch.equal(values, torch.full_like(values, -1.0))
    assert not torch.autograd.grad(values.sum(), y)[0].any()
    assert not conjugate_slope(y.detach(), "pearson").any()


def test_beyond_max_residual_the_conjugate_goes_on_as_its_tangent():
    data = toy()
    y = torch.tensor([-3.0, 0.0, 1.5, 4.0, 400.0])
    for f in ("pearson", "kl"):
        agent = agent_of(data, f=f, max_residual=1.5)
        expected = conjugate_slope(torch.tensor([-3.0, 0.0, 1.5, 1.5, 1.5]), f)
        assert torch.equal(agent.conjugate_slope(y), expected)
        assert torch.equal(agent_of(data, f=f).conjugate_slope(y), conjugate_slope(y, f))
    batch = batch_of(data)
    for gradient in ("orthogonal", "semi", "true"):
        gradients = []
        for limit in (math.inf, 1e6, 0.1):
            agent = double(agent_of(data, gradient=gradient, max_residual=limit))
            gradients.append(flat(agent.value_gradient(batch)[0]))
        assert torch.equal(gradients[0], gradients[1])
        assert not torch.allclose(gradients[0], gradients[2], rtol=0.01)
    overflowing = batch._replace(rewards=1000 * batch.rewards)
    unlimited, limited = (double(agent_of(data, f="kl", max_residual=limit)) for limit in (math.inf, 10.0))
    assert not flat(unlimited.value_gradient(overflowing)[0]).isfinite().all()
    assert flat(limited.value_gradient(overflowing)[0]).isfinite().all()


# T2, T3: the gradient


@GRADIENTS
@EVERY_VALUE
def test_t2_the_gradient_is_that_of_the_losses_by_autograd(gradient, twin, layer_norm, f):
    data = toy()
    agent = double(agent_of(data, gradient=gradient, twin=twin, layer_norm=layer_norm, f=f, lambda_=0.7, eta=0.8))
    plain, batch = Plain(agent), batch_of(data)
    ours, residual, metrics = agent.value_gradient(batch)
    torch.testing.assert_close(ours, plain.gradient(batch), **EXACT)
    torch.testing.assert_close(residual, torch.stack(plain.forward_residuals(batch)).detach(), **EXACT)
    value = torch.stack([head(batch.observations).mean() for head in plain.heads]).mean()
    torch.testing.assert_close(metrics["value"], value.detach(), **EXACT)
    assert ("projection" in metrics) == (gradient == "orthogonal")
    if gradient == "orthogonal":
        assert metrics["projection"].item() == pytest.approx(plain.coefficient(batch), rel=1e-9)


@EVERY_VALUE
def test_t2_the_usual_mistakes_of_the_projection_give_another_gradient(twin, layer_norm, f):
    """So that the test above can tell them."""
    data = toy()
    agent = double(agent_of(data, twin=twin, layer_norm=layer_norm, f=f))
    batch = batch_of(data)
    ours = flat(agent.value_gradient(batch)[0])
    first, forward, backward = Plain(agent).parts(batch)
    g_l, g_f, g_b = map(flat, (first, forward, backward))

    def without(vector, direction):
        return vector - (vector @ direction) / (direction @ direction) * direction

    mistakes = {
        "one c a parameter": g_l
        + g_f
        + flat(
            map(
                without,
                *zip(*((g.flatten(), f.flatten()) for g, f in zip(backward, forward, strict=True)), strict=True),
            )
        ),
        "none": g_l + g_f + g_b,
        "the linear term in the direction": g_l + g_f + without(g_b, g_l + g_f),
        "the linear term in what is projected": g_f + without(g_l + g_b, g_f),
        "the wrong way round": g_l + g_b + without(g_f, g_b),
        "the component kept": g_l + g_f + (g_b - without(g_b, g_f)),
        "the accumulated gradient": g_l + g_f + without(g_l + g_f + g_b, g_f),
        "not normalised": g_l + g_f + g_b - (g_b @ g_f) * g_f,
        "the wrong sign": g_l + g_f + g_b + (g_b - without(g_b, g_f)),
    }
    torch.testing.assert_close(ours, g_l + g_f + without(g_b, g_f), **EXACT)
    for name, mistake in mistakes.items():
        assert (mistake - ours).norm() > 1e-3 * ours.norm(), name
    plain = Plain(agent)
    plain.heads, plain.targets = plain.targets, plain.heads
    plain.parameters = [p for head in plain.heads for p in head.parameters()]
    assert (flat(plain.gradient(batch)) - ours).norm() > 1e-3 * ours.norm(), "target for value function"
    if twin:
        apart = []
        for head, target in zip(agent.value.heads, agent.target_value.heads, strict=True):
            alone = Plain(agent)
            alone.heads, alone.targets = [reference(head)], [reference(target)]
            alone.parameters = list(alone.heads[0].parameters())
            apart.append(flat(alone.gradient(batch)) / 2)
        assert (torch.cat(apart) - ours).norm() > 1e-3 * ours.norm(), "each value function by itself"


@pytest.mark.parametrize("backend", BACKENDS)
@GRADIENTS
@pytest.mark.parametrize("layer_norm", [False, True])
def test_t2_single_precision_and_the_fast_layers_agree_with_double(monkeypatch, backend, gradient, layer_norm):
    monkeypatch.setattr(linear, "backend", lambda: backend)
    data = toy()
    agent = agent_of(data, gradient=gradient, hidden=(64, 96), layer_norm=layer_norm)
    ours, residual, _ = agent.value_gradient(batch_of(data, 256, torch.float32))
    exact, exact_residual, _ = double(agent).value_gradient(batch_of(data, 256))
    assert (flat(ours) - flat(exact)).norm() < 2e-6 * flat(exact).norm()
    assert (residual - exact_residual).abs().max() < 1e-5


@EVERY_VALUE
def test_t3_what_is_added_to_the_semi_gradient_is_orthogonal_to_the_forward_gradient(twin, layer_norm, f):
    data = toy()
    batch = batch_of(data)
    given = {"twin": twin, "layer_norm": layer_norm, "f": f}
    orthogonal, semi = (double(agent_of(data, gradient=gradient, **given)) for gradient in ("orthogonal", "semi"))
    added = flat(orthogonal.value_gradient(batch)[0]) - flat(semi.value_gradient(batch)[0])
    _, forward, backward = map(flat, Plain(semi).parts(batch))
    assert abs(added @ forward) < 1e-12 * forward.norm() * backward.norm()
    assert added.norm() > 0.1 * backward.norm()


def test_t3_orthogonal_part_of_lists_of_any_shapes():
    generator = torch.Generator().manual_seed(0)
    shapes = ((), (3,), (2, 5), (4, 1, 2))
    gradient, direction = ([torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes] for _ in range(2))
    before = [t.clone() for t in (*gradient, *direction)]
    remainder, c = orthogonal_part(gradient, direction)
    assert all(map(torch.equal, before, (*gradient, *direction)))
    assert [r.shape for r in remainder] == [g.shape for g in gradient]
    assert abs(flat(remainder) @ flat(direction)) < 1e-12
    torch.testing.assert_close(flat(remainder) + c * flat(direction), flat(gradient), **EXACT)
    expected = torch.linalg.lstsq(flat(direction)[:, None], flat(gradient)[:, None]).solution
    assert c.item() == pytest.approx(expected.item())
    along, one = orthogonal_part([-2 * d for d in direction], direction)
    assert one.item() == pytest.approx(-2) and flat(along).norm() < 1e-12
    small, large = orthogonal_part(gradient, [1e-4 * d for d in direction])
    assert large.item() == pytest.approx(1e4 * c.item())
    torch.testing.assert_close(small, remainder, **EXACT)
    kept, none = orthogonal_part(gradient, [torch.zeros_like(g) for g in gradient])
    assert none == 0 and all(map(torch.equal, kept, gradient))


# T4, T5: the modes among themselves


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("config", [Config, ILConfig])
def test_t4_with_eta_zero_a_hundred_updates_are_the_semi_gradients_bit_for_bit(monkeypatch, backend, config):
    """Policy and moments included; offline RL has layer normalisation, imitation neither that nor rewards."""
    monkeypatch.setattr(linear, "backend", lambda: backend)
    data = toy(spread=2.0 if config is Config else 0.0)
    assert config("toy").twin
    outcomes = []
    for given in ({"gradient": "semi"}, {"eta": 0.0}, {"eta": 1.0}):
        agent = agent_of(data, config=config, **{"hidden": (64, 64), "policy_hidden": (64, 64), **given})
        for batch in itertools.islice(batches_of(data, 64, torch.float32), 100):
            agent.update(batch)
        outcomes.append(everything(agent))
    assert all(map(torch.equal, outcomes[0], outcomes[1]))
    assert not any(map(torch.equal, outcomes[0][:4], outcomes[2][:4]))


def test_t4_the_semi_gradient_is_that_of_one_summed_loss_in_every_step():
    data = toy()
    agent = agent_of(data, gradient="semi")
    for batch in itertools.islice(batches_of(data, 64, torch.float32), 20):
        v = agent.value(batch.observations)
        with torch.no_grad():
            target = agent.target_value(batch.next_observations).amin(0)
        y = batch.rewards + 0.99 * (1 - batch.terminations) * target - v
        loss = (0.4 * v + 0.6 * conjugate(y, "pearson")).mean()
        summed = torch.autograd.grad(loss, agent.weights)
        assert (flat(agent.value_gradient(batch)[0]) - flat(summed)).abs().max() < 1e-6
        agent.update(batch)


@pytest.mark.parametrize("f", ["pearson", "kl"])
def test_t5_without_the_projection_both_parts_are_the_true_gradient(f):
    """Where the target is the value function itself, and there is only one."""
    data = toy()
    batch = batch_of(data)
    gradients = {}
    for gradient in ("orthogonal", "semi", "true"):
        agent = double(agent_of(data, gradient=gradient, twin=False, f=f))
        agent.target_value.load_state_dict(agent.value.state_dict())
        gradients[gradient], _, metrics = agent.value_gradient(batch)
        if gradient == "orthogonal":
            c = metrics["projection"]
    linear_part = Plain(agent).parts(batch)[0]
    orthogonal, semi, true = (flat(gradients[k]) for k in ("orthogonal", "semi", "true"))
    torch.testing.assert_close(orthogonal + c * (semi - flat(linear_part)), true, rtol=1e-10, atol=1e-14)
    assert (orthogonal - true).norm() > 0.01 * true.norm()


# T6: the paper's theorem 1


def test_t6_the_orthogonal_step_leaves_the_forward_loss_to_second_order_the_true_one_does_not():
    data = toy(terminal=0.0, step=0.03)
    batch = batch_of(data)
    semi = double(agent_of(data, gradient="semi", twin=False))
    semi.target_value.load_state_dict(semi.value.state_dict())
    start = [w.detach().clone() for w in semi.weights]
    first, forward, _ = map(flat, Plain(semi).parts(batch))
    target = batch.rewards + 0.99 * semi.target_value(batch.next_observations).amin(0).detach()

    def forward_loss(step) -> float:
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(flat(start) - step, semi.weights)
            loss = 0.6 * conjugate(target - semi.value(batch.observations), "pearson").mean()
            torch.nn.utils.vector_to_parameters(flat(start), semi.weights)
        return loss.item()

    sizes = np.array([1e-3, 1e-4, 1e-5])  # small enough that no ReLU turns
    slopes, progress = {}, {}
    for gradient in ("orthogonal", "true"):
        agent = double(agent_of(data, gradient=gradient, twin=False))
        agent.target_value.load_state_dict(agent.value.state_dict())
        whole = flat(agent.value_gradient(batch)[0]) - first
        gaps = [abs(forward_loss(h * whole) - forward_loss(h * forward)) for h in sizes]
        slopes[gradient] = np.polyfit(np.log(sizes), np.log(gaps), 1)[0]
        progress[gradient] = forward_loss(sizes[0] * whole) - forward_loss(0 * whole)
    assert slopes["orthogonal"] == pytest.approx(2, abs=0.1)
    assert slopes["true"] == pytest.approx(1, abs=0.1)
    semis = forward_loss(sizes[0] * forward) - forward_loss(0 * forward)
    assert semis < 0
    assert progress["orthogonal"] == pytest.approx(semis, rel=0.01)
    assert abs(progress["true"]) < 0.1 * abs(semis)  # nearly all of it is cancelled


# T7, T8: fixed points


def descend(agent: ODICE, batch: Batch, rate: float, steps: int) -> None:
    for _ in range(steps):
        gradient, _, _ = agent.value_gradient(batch)
        with torch.no_grad():
            torch._foreach_add_(agent.weights, gradient, alpha=-rate)
        agent.update_target()


def single_rows(states: torch.Tensor, rewards: torch.Tensor, terminal: bool) -> Dataset:
    n = len(rewards)
    return Dataset(
        states,
        torch.zeros(n, 1),
        rewards,
        states,
        torch.full((n,), terminal),
        torch.zeros(n, dtype=torch.bool),
        torch.arange(n),
        action_low=-np.ones(1, np.float32),
        action_high=np.ones(1, np.float32),
    )


BANDITS = [  # lambda, (rewards, V*) for each state; all rewards of a state are equally likely
    (0.5, [([1], 1.0)]),
    (0.6, [([1], 5 / 3), ([0, 1], 7 / 6), ([0, 10], 28 / 3)]),
    (0.4, [([1], 0.0)]),
    (0.8, [([0] * 9 + [10], 7.0)]),
]


@GRADIENTS
@pytest.mark.parametrize("twin", [False, True])
@pytest.mark.parametrize(("lambda_", "states"), BANDITS)
def test_t7_a_table_of_values_reaches_the_fixed_points_of_one_step_bandits(gradient, twin, lambda_, states):
    repeats = math.lcm(*(len(rewards) for rewards, _ in states))
    rewards = torch.tensor([r for rewards, _ in states for r in rewards * (repeats // len(rewards))]).float()
    one_hot = torch.eye(len(states)).repeat_interleave(repeats, 0)
    data = single_rows(one_hot, rewards, terminal=True)
    agent = agent_of(data, gradient=gradient, twin=twin, lambda_=lambda_, hidden=())
    batch = Batch(
        data.observations, data.actions, rewards, one_hot, torch.ones(len(rewards)), torch.arange(len(rewards))
    )
    descend(agent, batch, rate=2.0, steps=500)
    with torch.no_grad():
        values = agent.value(torch.eye(len(states)))
    expected = torch.tensor([value for _, value in states]).expand_as(values)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-3)
    _, residual, _ = agent.value_gradient(batch)
    slopes = conjugate_slope(residual, "pearson").view(-1, len(states), repeats).mean(2)
    torch.testing.assert_close(slopes, torch.full_like(slopes, (1 - lambda_) / lambda_), rtol=0, atol=1e-3)
    if lambda_ == 0.6:  # V* is above the larger reward: no action has a positive weight
        assert not agent.weight(residual)[: 2 * repeats].any()


@pytest.mark.parametrize(
    ("gradient", "rate", "value"), [("orthogonal", 5.0, -100.0), ("semi", 5.0, -100.0), ("true", 5e4, -29_800.0)]
)
def test_t8_a_constant_value_goes_to_minus_100_and_by_the_true_gradient_to_minus_29800(gradient, rate, value):
    """The rate is that of Newton's method; the target follows at once."""
    data = single_rows(torch.zeros(8, 2), torch.zeros(8), terminal=False)
    agent = double(agent_of(data, gradient=gradient, twin=False, lambda_=0.4, hidden=(), tau=1.0))
    descend(agent, batch_of(data, 8), rate, 1500)
    with torch.no_grad():
        assert agent.value(torch.zeros(1, 2, dtype=torch.float64)).item() == pytest.approx(value, rel=1e-5)


# T9: imitation


def demonstration(n: int, width: int) -> Dataset:
    """A smooth curve that a time limit cut."""
    rng = np.random.default_rng(0)
    time = np.arange(n + 1)[:, None] / 40
    curve = np.sin(time * rng.uniform(0.5, 3, width) + rng.uniform(0, 6, width)).astype(np.float32)
    actions = np.cos(time[:-1] * rng.uniform(0.5, 3, 3)).astype(np.float32)
    return Dataset(
        torch.from_numpy(curve[:-1]),
        torch.from_numpy(actions),
        torch.zeros(n),
        torch.from_numpy(curve[1:]),
        torch.zeros(n, dtype=torch.bool),
        torch.arange(n) == n - 1,
        torch.tensor([0]),
        action_low=-np.ones(3, np.float32),
        action_high=np.ones(3, np.float32),
    )


def mean_weight_at_the_end(data: Dataset, config: ILConfig, updates: int, batch_size: int) -> float:
    """Of the last tenth of the updates."""
    data = data.normalized(*data.observation_statistics())
    agent = ODICE(data, config, np.random.default_rng(0))
    weights = []
    for batch in itertools.islice(data.batches(batch_size, np.random.default_rng(1)), updates):
        weights.append(agent.update(batch)["weight"].item())
    return float(np.mean(weights[-updates // 10 :]))


@pytest.mark.parametrize("gradient", ["orthogonal", "semi"])
@pytest.mark.parametrize(("lambda_", "weight"), [(0.4, 1.0), (0.3, 8 / 3)])
def test_t9_imitation_ends_with_the_mean_weight_that_lambda_says(gradient, lambda_, weight):
    config = ILConfig(
        "demo", gradient=gradient, lambda_=lambda_, hidden=(32, 32), policy_hidden=(16,), value_learning_rate=2e-3
    )
    assert mean_weight_at_the_end(demonstration(100, 4), config, 600, 64) == pytest.approx(weight, rel=0.01)


@pytest.mark.full
@pytest.mark.parametrize("gradient", ["orthogonal", "semi"])
def test_t9_at_the_size_of_the_specification(gradient):
    """A demonstration of Hopper's width and length, 8,000 updates of the published networks."""
    config = ILConfig("demo", gradient=gradient)
    assert mean_weight_at_the_end(demonstration(1000, 11), config, 8000, 256) == pytest.approx(1.0, abs=0.03)


# T10: the policy


def policy_gradient(agent: ODICE, batch: Batch, weight: torch.Tensor) -> list[torch.Tensor]:
    """What `update_actor` gives to its optimiser."""
    seen = []
    agent.actor_optimizer.step = seen.append
    agent.update_actor(batch, weight)
    return list(torch.autograd.grad(seen[0], list(agent.actor.parameters())))


@pytest.mark.parametrize("tanh", [False, True])
def test_t10_with_weights_of_one_the_policys_gradient_is_behavioural_clonings(tanh):
    data = toy()
    batch = batch_of(data)
    agent = double(agent_of(data, tanh=tanh, policy_weight="one"))
    weight = agent.weight(agent.value_gradient(batch)[1])
    assert torch.equal(weight, torch.ones(40, dtype=torch.float64))
    with torch.no_grad():
        agent.actor.log_std.fill_(-0.5)
    squares = (agent.actor(batch.observations) - batch.actions).square().sum(1).mean()
    cloning = torch.autograd.grad(squares * math.exp(1) / 2, list(agent.actor.net.parameters()))
    torch.testing.assert_close(policy_gradient(agent, batch, weight)[1:], list(cloning), **EXACT)


@pytest.mark.parametrize("policy_weight", ["code", "theory"])
@pytest.mark.parametrize("f", ["pearson", "kl"])
@pytest.mark.parametrize("gradient", ["orthogonal", "true"])
@pytest.mark.parametrize("twin", [False, True])
def test_t10_the_weight_of_a_sample_is_the_mean_of_its_clipped_weights(policy_weight, f, gradient, twin):
    data = toy(spread=100.0)
    batch = batch_of(data)
    agent = double(agent_of(data, policy_weight=policy_weight, f=f, gradient=gradient, twin=twin))
    with torch.no_grad():
        agent.weights[-1] -= 30  # so that the two value functions disagree about what is clipped
    plain = Plain(agent)
    weight = agent.weight(agent.value_gradient(batch)[1])
    assert weight.shape == (40,)
    separate = plain.weights(batch)
    clipped = separate == 100
    assert clipped.any() and not clipped.all()
    assert (clipped[0] != clipped[-1]).any() == twin
    torch.testing.assert_close(weight, separate.mean(0), **EXACT)
    expected = torch.autograd.grad(plain.policy_loss(batch, separate), plain.policy)
    torch.testing.assert_close(policy_gradient(agent, batch, weight), list(expected), **EXACT)
    metrics = agent.update_actor(batch, weight)
    assert metrics["actor_loss"].item() == pytest.approx(plain.policy_loss(batch, separate).item())
    assert metrics["weight"].item() == pytest.approx(separate.mean().item())
    assert metrics["positive_weights"].item() == pytest.approx((separate.mean(0) > 0).float().mean().item())


POSITIVE = {"none": [], "one": [33], "half": range(0, 40, 2), "33 of 40": range(7, 40), "all": range(40)}


@pytest.mark.parametrize("positive", POSITIVE.values(), ids=POSITIVE)
def test_leaving_out_weights_of_zero_changes_the_policys_gradient_by_rounding_only(monkeypatch, positive):
    data = toy()
    batch = batch_of(data)
    weight = torch.zeros(40, dtype=torch.float64)
    weight[list(positive)] = torch.linspace(1e-3, 3, len(positive), dtype=torch.float64)
    gradients, metrics = [], []
    for rows in (rows_that_count, lambda weight: torch.arange(len(weight))):
        monkeypatch.setattr(odice, "rows_that_count", rows)
        agent = double(agent_of(data))
        gradients.append(policy_gradient(agent, batch, weight))
        metrics.append(agent.update_actor(batch, weight))
    torch.testing.assert_close(*gradients, **EXACT)
    torch.testing.assert_close(*metrics, **EXACT)
    assert metrics[0]["positive_weights"].item() == pytest.approx(len(positive) / 40)
    assert flat(gradients[0]).any() == bool(len(positive))


def test_the_rows_that_count_are_all_positive_ones_and_whole_blocks():
    rng = np.random.default_rng(0)
    for n in (1, 5, 31, 32, 33, 64, 100, 256):
        for positive in {0, 1, min(n, 31), min(n, 32), min(n, 33), n // 2, n - 1, n}:
            weight = torch.zeros(n)
            weight[rng.permutation(n)[:positive]] = torch.rand(positive, dtype=torch.float64).float() + 1e-30
            rows = rows_that_count(weight)
            assert len(rows) == len(set(rows.tolist())) == min(n, max(1, math.ceil(positive / BLOCK)) * BLOCK)
            assert set(weight.nonzero().squeeze(1).tolist()) <= set(rows.tolist())


def test_weight_decay_acts_on_the_whole_policy_when_no_weight_is_positive():
    data = toy()
    batch = batch_of(data, dtype=torch.float32)
    agents = [agent_of(data, weight_decay=decay) for decay in (1e-2, 0.0)]
    before = [p.detach().clone() for p in agents[0].actor.parameters()]
    plain = [p.clone().requires_grad_() for p in before]
    optimizer = torch.optim.Adam(plain, 2e-4, weight_decay=1e-2, fused=True)
    for _ in range(3):
        for agent in agents:
            agent.update_actor(batch, torch.zeros(40))
        for p in plain:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    decayed, kept = (list(agent.actor.parameters()) for agent in agents)
    assert all(map(torch.equal, decayed, plain))
    assert all(map(torch.equal, kept, before))
    assert (agents[0].actor.log_std.abs() < before[0].abs()).all()


# T11, T12: terminations, the target, the order of things


@GRADIENTS
@pytest.mark.parametrize("terminal", [True, False])
def test_t11_after_a_termination_the_next_state_does_not_matter(gradient, terminal):
    data = toy(terminal=1.0 if terminal else 0.0)
    outcomes = []
    for shift in (0.0, 1.0):
        agent = agent_of(data, gradient=gradient)
        for batch in itertools.islice(batches_of(data, 64, torch.float32), 3):
            agent.update(batch._replace(next_observations=batch.next_observations + shift))
        outcomes.append(everything(agent))
    same = list(map(torch.equal, *outcomes))
    assert all(same) if terminal else not any(same[:4])


@GRADIENTS
@pytest.mark.parametrize("tau", [0.005, 0.3])
def test_t12_the_target_moves_towards_the_updated_value_function(gradient, tau):
    data = toy()
    agent = double(agent_of(data, gradient=gradient, tau=tau, value_learning_rate=0.01))
    for batch in itertools.islice(batches_of(data), 3):
        targets, before = ([w.detach().clone() for w in ws] for ws in (agent.target_weights, agent.weights))
        agent.update(batch)
        for old, value, new, target in zip(targets, before, agent.weights, agent.target_weights, strict=True):
            assert not torch.equal(new, value)
            torch.testing.assert_close(target, (1 - tau) * old + tau * new, rtol=1e-12, atol=1e-15)


@GRADIENTS
def test_t12_the_policy_is_weighted_by_the_residuals_from_before_the_update(gradient):
    data = toy()
    batch = batch_of(data)
    agent = double(agent_of(data, gradient=gradient, value_learning_rate=0.1))
    plain = Plain(agent)
    before = plain.weights(batch).mean()
    metrics = agent.update(batch)
    assert metrics["weight"].item() == pytest.approx(before.item(), rel=1e-12)
    assert Plain(agent).weights(batch).mean().item() != pytest.approx(before.item(), rel=0.01)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"gradient": "semi", "twin": False},
        {"gradient": "true", "layer_norm": False},
        {"f": "kl", "tanh": True, "eta": 0.3},
        {"policy_weight": "theory", "twin": False, "gamma": 0.9},
        {"policy_weight": "one", "tau": 0.1, "weight_decay": 0.1, "value_learning_rate": 1e-3},
        {"config": ILConfig, "gradient": "orthogonal", "policy_learning_rate": 3e-3},
        {"max_action": 0.4},
        {"max_action": 2.5, "tanh": True},
    ],
    ids=lambda given: " ".join(f"{k}={v}" for k, v in given.items() if k != "config") or "default",
)
def test_ten_updates_are_those_of_a_plain_implementation(given):
    given = dict(given)
    data = toy(max_action=given.pop("max_action", 1.0))
    agent = double(agent_of(data, **given))
    plain = Plain(agent)
    begun = everything(agent)
    for batch in itertools.islice(batches_of(data), 10):
        agent.update(batch)
        plain.update(batch)
    targets = [p for target in plain.targets for p in target.parameters()]
    ours = [*agent.weights, *agent.target_weights, *agent.actor.parameters()]
    torch.testing.assert_close(ours, [*plain.parameters, *targets, *plain.policy], rtol=1e-7, atol=1e-9)
    assert not any(map(torch.equal, begun, ours))


# T13: rewards and presets


def trained_on(monkeypatch, name: str, data: Dataset, **given) -> tuple[Dataset, ODICE]:
    """The dataset whose batches `train` asks for, and the agent."""
    algorithm = load_algorithm("odice")
    seen = {}

    class Run:
        def dataset(self, *arguments):
            seen["arguments"] = arguments
            return replace(data, name=name)

        def rng(self, name):
            return np.random.default_rng(0)

    def fit(agent, batches, run):
        assert batches.batch_size == agent.config.batch_size
        seen["agent"], seen["dataset"] = agent, batches.dataset

    monkeypatch.setattr(algorithm.module, "fit", fit)
    config = resolve(algorithm, {"dataset": name, "policy_hidden": "8", **given}).config
    algorithm.module.train(config, Run())
    assert seen["arguments"] == (name, config.dataset_steps, config.env)
    return seen["dataset"], seen["agent"]


def episodes(*rows_and_ends: tuple[int, str]) -> Dataset:
    data = toy(sum(rows for rows, _ in rows_and_ends), terminal=0.0)
    starts, start = [], 0
    for rows, end in rows_and_ends:
        starts.append(start)
        start += rows
        (data.terminations if end == "terminal" else data.truncations)[start - 1] = True
    return replace(data, episode_starts=torch.tensor(starts))


@pytest.mark.parametrize("name", ["D4RL/antmaze/medium-play-v1", "antmaze-umaze-v2.hdf5", "rlsuite/pointmaze/umaze-v0"])
def test_t13_rewards_of_mazes_become_minus_three_and_zero(monkeypatch, name):
    data = replace(toy(), rewards=torch.tensor([0.0, 1.0]).repeat(200))
    used, agent = trained_on(monkeypatch, name, data)
    assert torch.equal(used.rewards, torch.tensor([-3.0, 0.0]).repeat(200))
    assert torch.equal(used.observations, data.observations)
    assert not agent.config.layer_norm


@pytest.mark.parametrize("name", ["rlsuite/hopper/medium-v0", "d4rl/halfcheetah-medium-v2", "walker2d-expert-v2.hdf5"])
@pytest.mark.parametrize("rule", ["", "exact", "official"])
def test_t13_rewards_of_locomotion_have_returns_a_thousand_apart(monkeypatch, name, rule):
    from tests.data.test_rewards import exact_loop, official_loop

    data = episodes((30, "terminal"), (1000, "cut"), (1000, "cut"), (7, "terminal"))
    given = {"scale_by_returns": rule} if rule else {}
    used, _ = trained_on(monkeypatch, name, data, **given)
    returns = (official_loop if rule == "official" else exact_loop)(used)
    assert max(returns) - min(returns) == pytest.approx(1000, rel=1e-4)
    torch.testing.assert_close(used.rewards, data.rewards * (used.rewards[0] / data.rewards[0]))
    assert torch.equal(used.observations, data.observations)


def test_t13_other_rewards_stay_and_scale_and_shift_come_after_the_returns(monkeypatch):
    data = episodes((30, "terminal"), (50, "cut"), (20, "terminal"))
    assert torch.equal(trained_on(monkeypatch, "d4rl/ant-medium-v2", data)[0].rewards, data.rewards)
    plain, _ = trained_on(monkeypatch, "hopper", data)
    both, _ = trained_on(monkeypatch, "hopper", data, reward_scale=2, reward_shift=-0.5)
    torch.testing.assert_close(both.rewards, 2 * plain.rewards - 0.5)


def test_observations_are_standardised_on_demand_and_the_policy_knows(monkeypatch):
    data = replace(toy(), observations=3 * toy().observations + 1)
    mean, std = data.observations.mean(0), data.observations.std(0, correction=0) + 1e-3
    used, agent = trained_on(monkeypatch, "mine", data, normalize="true", batch_size=32)
    torch.testing.assert_close(agent.actor.mean, mean)
    torch.testing.assert_close(agent.actor.std, std)
    torch.testing.assert_close(used.observations, (data.observations - mean) / std)
    torch.testing.assert_close(used.next_observations, (data.next_observations - mean) / std)
    plain, agent = trained_on(monkeypatch, "mine", data)
    assert torch.equal(plain.observations, data.observations)
    assert agent.actor.mean.tolist() == [0.0] * 5 and agent.actor.std.tolist() == [1.0] * 5


@pytest.mark.parametrize(
    ("name", "scale_by_returns", "reward", "layer_norm", "twin"),
    [
        ("rlsuite/hopper/expert-v0", "exact", (1, 0), True, True),
        ("mujoco/halfcheetah/medium-v0", "exact", (1, 0), True, True),
        ("d4rl/walker2d-medium-replay-v2", "exact", (1, 0), True, True),
        ("d4rl/ant-medium-v2", "no", (1, 0), True, True),
        ("D4RL/antmaze/umaze-v1", "no", (3, -3), False, True),
        ("D4RL/antmaze/medium-play-v1", "no", (3, -3), False, True),
        ("D4RL/antmaze/medium-diverse-v1", "no", (3, -3), False, True),
        ("D4RL/antmaze/umaze-diverse-v1", "no", (3, -3), False, False),
        ("D4RL/antmaze/large-play-v1", "no", (3, -3), False, False),
        ("antmaze-large-diverse-v2.hdf5", "no", (3, -3), False, False),
        ("rlsuite/pointmaze/large-v0", "no", (3, -3), False, True),
    ],
)
def test_presets_are_the_specifications(name, scale_by_returns, reward, layer_norm, twin):
    config = resolve(load_algorithm("odice"), {"dataset": name}).config
    assert config.scale_by_returns == scale_by_returns
    assert (config.reward_scale, config.reward_shift) == reward
    assert (config.layer_norm, config.twin) == (layer_norm, twin)
    assert (config.lambda_, config.eta, config.f, config.gradient) == (0.6, 1.0, "pearson", "orthogonal")
    assert (config.hidden, config.policy_hidden, config.batch_size) == ((256, 256), (1024, 1024), 256)
    assert (config.gamma, config.tau, config.weight_decay) == (0.99, 0.005, 1e-4)
    assert (config.value_learning_rate, config.policy_learning_rate) == (2e-4, 2e-4)
    assert (config.normalize, config.tanh, config.policy_weight, config.updates) == (False, False, "code", 1_000_000)
    chosen = resolve(load_algorithm("odice"), {"dataset": name, "twin": "true", "reward_shift": 7}).config
    assert chosen.twin and chosen.reward_shift == 7.0


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("rlsuite/hopper/medium-v0", (0.4, 0.6)),
        ("rlsuite/walker2d/medium-replay-v0", (0.6, 1.0)),
        ("rlsuite/pointmaze/umaze-v0", (0.4, 1.0)),
    ],
)
def test_presets_of_our_datasets_are_what_the_sweep_chose(name, chosen):
    """results/odice_sweep; everything else stays as for other data of the robot."""
    config = resolve(load_algorithm("odice"), {"dataset": name}).config
    assert (config.lambda_, config.eta) == chosen
    other = resolve(load_algorithm("odice"), {"dataset": name.replace("rlsuite", "else")}).config
    assert replace(config, dataset=other.dataset, lambda_=0.6, eta=1.0) == other


# T14: seeds


def test_t14_a_seed_fixes_every_number_and_c_is_logged():
    data = toy(step=0.1)

    def trajectory(seed):
        agent = agent_of(data, seed)
        batches = itertools.islice(batches_of(data, 64, torch.float32, seed), 30)
        return [{key: value.item() for key, value in agent.update(batch).items()} for batch in batches]

    first, again, other = map(trajectory, (0, 0, 1))
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True))
    assert set(first[0]) == {"value_loss", "value", "projection", "weight", "positive_weights", "actor_loss"}
    projections = [row["projection"] for row in first]
    assert max(projections) < 0  # the two gradients oppose each other where s' is near s
    assert len(set(projections)) == 30
    plain = [
        agent_of(data, gradient=gradient).update(batch_of(data, 64, torch.float32)) for gradient in ("semi", "true")
    ]
    assert all(set(metrics) == set(first[0]) - {"projection"} for metrics in plain)


def test_the_logged_loss_is_the_dual():
    agent = agent_of(toy(), lambda_=0.7)
    v, y = torch.tensor([[1.0, -2.0]]), torch.tensor([[2.0, -4.0]])  # f* of these is 3 and -1
    logged = agent.dual(v, y)
    assert logged["value_loss"].item() == pytest.approx(0.3 * -0.5 + 0.7 * 1.0)
    assert logged["value"].item() == -0.5


# The warning


def test_an_agent_starves_once_and_only_when_no_weight_was_positive_all_the_while():
    agent = agent_of(toy())
    share = {5_000: 0.01, 24_000: 0.0}
    said = [update for update in range(1000, 60_000, 1000) if agent.starves(update, share.get(update, 9e-4))]
    assert said == [15_000]
    agent = agent_of(toy())
    assert not any(agent.starves(update, 1e-3 if update % 9000 == 0 else 0.0) for update in range(1000, 60_000, 1000))
    assert not agent.starves(63_999, 0.0)
    assert agent.starves(64_000, 0.0)


def starving(line_world, **given):
    """A run whose rewards are all zero and whose lambda pushes every residual below zero."""
    return resolve(
        load_algorithm("odice"),
        {
            "dataset": str(line_world),
            "env": "rlsuite/LineWorld-v0",
            "hidden": "16",
            "policy_hidden": "16",
            "lambda": 0.9,
            "reward_scale": 0,
            "value_learning_rate": 1e-2,
            "updates": 400,
            "batch_size": 32,
            "log_every": 20,
            "checkpoint_every": 50,
            "eval_every": 0,
            "final_episodes": 1,
            **given,
        },
    )


@pytest.mark.parametrize("checkpoint", [None, 2, 6])
def test_a_run_whose_policy_starves_says_so_once_also_when_it_is_continued(
    monkeypatch, capsys, line_world, tmp_path, checkpoint
):
    """The second checkpoint is from before the warning, the sixth from after it."""
    monkeypatch.setattr(odice, "STARVED", 150)
    setup = starving(line_world)
    if checkpoint:
        cut_and_finish(setup, tmp_path / "run", checkpoint)
    else:
        assert execute(setup, tmp_path / "run") == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "no action has had a positive weight for 150 updates" in warnings[0] and "--lambda" in warnings[0]
    rows = files.read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [row["update"] for row in rows] == list(range(20, 401, 20))
    assert all(row["positive_weights"] == 0 for row in rows[-15:])


def test_a_run_whose_policy_learns_says_nothing(monkeypatch, capsys, line_world, tmp_path):
    """However small the weights are."""
    monkeypatch.setattr(odice, "STARVED", 150)
    weight = ODICE.weight
    monkeypatch.setattr(ODICE, "weight", lambda agent, residual: 1e-6 * weight(agent, residual))
    assert execute(starving(line_world, **{"lambda": 0.4}), tmp_path / "run") == 0
    assert "warning" not in capsys.readouterr().err
    rows = files.read_lines(tmp_path / "run" / "metrics.jsonl")
    assert min(row["positive_weights"] for row in rows) > 0
    assert max(row["weight"] for row in rows) < 1e-3


# What a user types


def test_lambda_is_spelt_without_an_underscore_by_flag_by_table_and_in_the_help(rlsuite, tmp_path):
    from rlsuite.bench.table import read_table

    assert resolve(load_algorithm("odice"), {"dataset": "x", "lambda": "0.7"}).config.lambda_ == 0.7
    path = tmp_path / "table.toml"
    path.write_text(
        'algorithms = ["odice"]\ntasks = ["rlsuite/hopper/medium-v0"]\nseeds = 1\n[algorithm.odice]\nlambda = 0.7\n'
    )
    (cell,) = read_table(path).cells
    assert cell.resolved.config.lambda_ == 0.7
    assert "--lambda=0.7" in cell.arguments()
    lines = rlsuite("train", "odice", "--help").stdout
    assert "--lambda X" in lines and "lambda_" not in lines
    assert "--policy-hidden" in lines and "--no-twin" in lines and "--gradient {orthogonal,semi,true}" in lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lambda", "much"], ["lambda is a number, not 'much'"]),
        (["--lambda", "nan"], ["lambda is a number, not nan"]),
        (["--lambda", "0"], ["--lambda lies between 0 and 1, not at 0"]),
        (["--lambda", "1"], ["--lambda lies between 0 and 1, not at 1"]),
        (["--lambda", "-0.5"], ["--lambda lies between 0 and 1, not at -0.5"]),
        (["--eta", "-1"], ["--eta is at least 0, not -1"]),
        (["--max-residual", "0.5", "--lambda", "0.4"], ["--max-residual 0.5", "--lambda 0.4", "1 in the mean"]),
        (["--value-learning-rate", "-1"], ["value_learning_rate is at least 0, not -1"]),
        (["--weight-decay", "-0.1"], ["weight_decay is at least 0, not -0.1"]),
        (["--gamma", "1.5"], ["gamma lies between 0 and 1, not at 1.5"]),
        (["--tau", "-1"], ["tau lies between 0 and 1, not at -1"]),
        (["--hidden", "64,0"], ["hidden holds widths of layers, each at least 1, not 64,0"]),
        (["--policy-hidden", "-3"], ["policy_hidden holds widths"]),
        (["--lamda", "0.5"], ["did you mean '--lambda'"]),
        (["--gradient", ""], ["gradient is one of orthogonal, semi, true"]),
        (["--gradient", "orthogonl"], ["gradient is one of orthogonal, semi, true, not 'orthogonl'"]),
        (["--gradient"], ["--gradient"]),
        (["--f", "js"], ["f is one of pearson, kl"]),
        (["--policy-weight", "two"], ["policy_weight is one of code, theory, one"]),
        (["--scale-by-returns", "yes"], ["scale_by_returns is one of no, exact, official"]),
        (["--scale-by-returns", "official"], ["every complete episode", "returns 1", "--scale-by-returns no"]),
        (["--dataset-steps", "4", "--scale-by-returns", "exact"], ["complete episode"]),
        (["--batch-size", "0"], ["batch_size is at least 1"]),
        (["--hidden", "64,wide"], ["hidden is a whole number, not 'wide'"]),
    ],
)
def test_bad_settings_are_one_sentence_and_write_nothing(capsys, line_world, tmp_path, arguments, words):
    given = ["--dataset", line_world, "--env", "rlsuite/LineWorld-v0", "--run-dir", tmp_path / "run", *arguments]
    assert main(["train", "odice", *map(str, given)]) == 2
    error = capsys.readouterr().err
    message = error.strip().splitlines()[-1]
    assert message.startswith("rlsuite: ") and "Traceback" not in error
    for word in words:
        assert word in message, message
    assert not any(tmp_path.iterdir())
