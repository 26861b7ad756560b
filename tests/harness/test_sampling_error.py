"""The meter against exact expectations, brute force and gradient descent."""

from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import optimize, special, stats

from rlsuite.harness import sampling_error as meter


def policy(kind, rng, samples, width, outputs, logit_scale=1.0):
    """The arguments of a meter: features, actions that the policy itself draws, and its head."""
    features = np.tanh(rng.standard_normal((samples, width)))
    weight = logit_scale * rng.standard_normal((outputs, width)) / np.sqrt(width)
    bias = rng.standard_normal(outputs) / 2
    z = features @ weight.T + bias
    if kind == "categorical":
        return features, (z + rng.gumbel(size=z.shape)).argmax(1), weight, bias
    log_std = rng.uniform(-1, 0, outputs)
    mean = np.tanh(z) if kind == "tanh_gaussian" else z
    return features, mean + np.exp(log_std) * rng.standard_normal(z.shape), weight, bias, log_std


def measure(kind, *arguments):
    return getattr(meter, kind)(*arguments)


KINDS = ["gaussian", "tanh_gaussian", "categorical"]


# ---- calibration: 2 N SE of actions that the policy draws is chi-squared


def test_linear_gaussian_has_its_exact_expectation():
    rng = np.random.default_rng(0)
    n, width, draws = 2000, 64, 300
    measured = [meter.gaussian(*policy("gaussian", rng, n, width, 1)) for _ in range(draws)]
    assert {m.parameters for m in measured} == {66}
    scaled = 2 * n * np.array([m.value for m in measured])
    # 2 N SE = -N log(chi2_{N-65} / N) + chi2_N - N, so that its mean is N (log(N / 2) - digamma((N - 65) / 2)) = 67.1.
    exact = n * (np.log(n / 2) - special.digamma((n - width - 1) / 2))
    error = scaled.std(ddof=1) / np.sqrt(draws)
    assert abs(scaled.mean() - exact) < 3 * error
    assert abs(scaled.mean() - 66) < 3 * error
    assert scaled.std(ddof=1) == pytest.approx(np.sqrt(2 * 66), rel=0.15)
    assert measured[0].expected == 66 / (2 * n)


@pytest.mark.parametrize(
    ("kind", "outputs", "parameters"), [("gaussian", 3, 30), ("tanh_gaussian", 3, 30), ("categorical", 4, 27)]
)
def test_own_actions_give_a_chi_squared_sampling_error(kind, outputs, parameters):
    rng = np.random.default_rng(1)
    n = 4000
    measured = [measure(kind, *policy(kind, rng, n, 8, outputs)) for _ in range(150)]
    assert {m.parameters for m in measured} == {parameters}
    scaled = [2 * n * m.value for m in measured]
    assert stats.kstest(scaled, stats.chi2(parameters).cdf).pvalue > 0.01


def test_bandit_has_its_exact_expectation():
    rng = np.random.default_rng(0)
    pi = np.array([0.5, 0.25, 0.15, 0.1])
    for n in (32, 128, 512, 2048):
        draws = [meter.tabular(np.zeros(n, int), rng.choice(4, n, p=pi), np.log(pi)[None]).value for _ in range(400)]
        k = np.arange(n + 1)
        exact = sum(stats.binom.pmf(k, n, p) @ special.xlogy(k / n, k / n) - p * np.log(p) for p in pi)
        assert exact == pytest.approx(3 / (2 * n), rel=2 / n)  # what `expected` says, to first order
        assert abs(np.mean(draws) - exact) < 3 * np.std(draws, ddof=1) / np.sqrt(400)


def test_actions_chosen_to_match_the_policy_have_almost_none():
    pi = np.array([0.5, 0.25, 0.15, 0.1])
    counts = np.zeros(4)
    actions = []
    for t in range(512):
        actions.append(int(np.argmin(counts - pi * (t + 1))))
        counts[actions[-1]] += 1
    result = meter.tabular(np.zeros(512, int), actions, np.log(pi)[None])
    assert result.value < result.expected / 100


# ---- an untrained policy on Hopper-v5


@pytest.fixture(scope="module")
def hopper():
    """Eight buffers of 4096 steps, each from a fresh tanh policy on raw observations clipped to +-10."""
    return [hopper_buffer(seed, 4096) for seed in range(8)]


def hopper_buffer(seed, steps):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for (fan_in, fan_out), gain in zip(pairwise((11, 64, 64, 3)), (2**0.5, 2**0.5, 0.01), strict=True):
        weight = torch.empty(fan_out, fan_in)
        torch.nn.init.orthogonal_(weight, gain, generator=generator)
        layers.append(weight.numpy())
    first, second, head = layers
    noise = np.random.default_rng(seed).standard_normal((steps, 3), np.float32)
    features, actions = np.empty((steps, 64), np.float32), np.empty((steps, 3), np.float32)
    env = gym.make("Hopper-v5")
    observation, _ = env.reset(seed=seed)
    for t in range(steps):
        x = np.clip(observation, -10, 10).astype(np.float32)
        features[t] = np.tanh(second @ np.tanh(first @ x))
        actions[t] = head @ features[t] + noise[t]
        observation, _, terminated, truncated, _ = env.step(np.clip(actions[t], -1, 1))
        if terminated or truncated:
            observation, _ = env.reset()
    env.close()
    return features, actions, head, np.zeros(3), np.zeros(3)


def test_hopper_on_policy_is_calibrated(hopper):
    measured = [meter.gaussian(*buffer) for buffer in hopper]
    assert {(m.parameters, m.samples) for m in measured} == {(198, 4096)}
    assert measured[0].expected == pytest.approx(0.0242, abs=5e-5)
    spread = np.sqrt(2 * 198) / (2 * 4096)
    values = np.array([m.value for m in measured])
    assert (abs(values - measured[0].expected) < 4 * spread).all()
    assert abs(values.mean() - measured[0].expected) < 3 * spread / np.sqrt(len(values))


def test_adam_on_the_head_comes_close_from_below(hopper):
    features, actions, weight, bias, log_std = (torch.tensor(a, dtype=torch.float64) for a in hopper[0])
    head = [p.clone().requires_grad_() for p in (weight, bias, log_std)]
    adam = torch.optim.Adam(head, 1e-3)

    def log_likelihood(w, b, s):
        z = (actions - features @ w.T - b) / s.exp()
        return -(0.5 * z.square() + s).sum(1).mean()

    start = float(log_likelihood(weight, bias, log_std))
    reached = []
    for _ in range(1000):
        adam.zero_grad()
        loss = -log_likelihood(*head)
        loss.backward()
        adam.step()
        reached.append(-loss.item() - start)
    exact = meter.gaussian(*hopper[0]).value
    assert max(reached) <= exact
    assert max(reached) > 0.85 * exact


# ---- the fit is the maximum-likelihood fit


def test_gaussian_is_least_squares():
    features, actions, weight, bias, log_std = policy("gaussian", np.random.default_rng(2), 500, 20, 3)
    actions = actions * 1.5 + 1
    design = np.column_stack([features, np.ones(500)])
    residual = actions - design @ np.linalg.lstsq(design, actions, rcond=None)[0]
    best = stats.norm.logpdf(residual, scale=np.sqrt((residual**2).mean(0)))
    own = stats.norm.logpdf(actions, features @ weight.T + bias, np.exp(log_std))
    expected = (best - own).sum(1).mean()
    assert meter.gaussian(features, actions, weight, bias, log_std).value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("logit_scale", [0.01, 1.0, 4.0])
def test_tanh_gaussian_reaches_the_brute_force_optimum(logit_scale):
    rng = np.random.default_rng(3)
    features, actions, weight, bias, log_std = policy("tanh_gaussian", rng, 1000, 6, 2, logit_scale)
    design = np.column_stack([features, np.ones(1000)])
    expected = 0.0
    for j in range(2):
        mean = np.tanh(features @ weight[j] + bias[j])
        starts = [np.append(weight[j], bias[j]), *rng.standard_normal((10, 7))]
        fits = [
            optimize.least_squares(
                lambda c, j=j: actions[:, j] - np.tanh(design @ c), c, xtol=1e-14, ftol=1e-14, gtol=1e-14
            )
            for c in starts
        ]
        variance = 2 * min(fit.cost for fit in fits) / 1000
        z = (actions[:, j] - mean) / np.exp(log_std[j])
        expected += log_std[j] - 0.5 * np.log(variance) - 0.5 + 0.5 * (z**2).mean()
    value = meter.tanh_gaussian(features, actions, weight, bias, log_std).value
    assert value == pytest.approx(expected, rel=1e-5)


def test_tanh_gaussian_of_small_means_is_gaussian():
    features, actions, weight, bias, log_std = policy("gaussian", np.random.default_rng(4), 1000, 6, 2)
    near_zero = features, 1e-4 * actions, 1e-4 * weight, 1e-4 * bias, log_std + np.log(1e-4)
    linear = meter.gaussian(features, actions, weight, bias, log_std)
    tanh = meter.tanh_gaussian(*near_zero)
    assert tanh.value == pytest.approx(linear.value, rel=1e-4)
    assert tanh.parameters == linear.parameters


@pytest.mark.parametrize("logit_scale", [0.01, 1.0, 4.0])
def test_categorical_reaches_the_optimum_of_newton_steps(logit_scale):
    rng = np.random.default_rng(5)
    features, actions, weight, bias = policy("categorical", rng, 1000, 6, 3, logit_scale)
    design = np.column_stack([features, np.ones(1000)])
    chosen = np.eye(3)[actions]

    def loss(c):
        return -(special.log_softmax(design @ c.reshape(3, -1).T, 1) * chosen).sum(1).mean()

    def gradient(c):
        return ((special.softmax(design @ c.reshape(3, -1).T, 1) - chosen).T @ design).ravel() / 1000

    def hessian(c):
        p = special.softmax(design @ c.reshape(3, -1).T, 1)
        blocks = np.einsum("na,ab->nab", p, np.eye(3)) - np.einsum("na,nb->nab", p, p)
        return np.einsum("nab,ni,nj->aibj", blocks, design, design).reshape(21, 21) / 1000

    start = np.column_stack([weight, bias]).ravel()
    fit = optimize.minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-10})
    value = meter.categorical(features, actions, weight, bias).value
    assert value == pytest.approx(loss(start) - fit.fun, rel=1e-6)


def test_tabular_is_categorical_on_one_hot_features():
    rng = np.random.default_rng(6)
    logits = rng.standard_normal((7, 4))
    states = rng.integers(0, 6, 2000)  # the last state never occurs
    actions = (logits[states] + rng.gumbel(size=(2000, 4))).argmax(1)
    counted = meter.tabular(states, actions, special.log_softmax(logits, 1))
    fitted = meter.categorical(np.eye(7)[states], actions, logits.T, np.zeros(4))
    assert counted.value == pytest.approx(fitted.value, rel=1e-6)
    assert counted.parameters == fitted.parameters == 6 * 3
    assert meter.tabular(states, actions, logits + rng.standard_normal((7, 1))).value == pytest.approx(counted.value)


def test_tabular_by_hand():
    # p_hat = (3/4, 1/4) under a uniform policy: log 2 - H(1/4) = 0.693147 - 0.562335
    assert meter.tabular([0] * 4, [0, 0, 0, 1], [[0.0, 0.0]]).value == pytest.approx(0.130812, abs=1e-6)


# ---- what holds for any buffer


@pytest.mark.parametrize("kind", KINDS)
def test_never_negative_and_larger_for_the_actions_of_another_policy(kind):
    rng = np.random.default_rng(7)
    for _ in range(50):
        samples, width, outputs = rng.integers(30, 200), rng.integers(1, 20), rng.integers(2, 5)
        features, actions, *head = policy(kind, rng, samples, width, outputs)
        _, others, *_ = policy(kind, rng, samples, width, outputs)
        assert measure(kind, features, actions, *head).value > 0
        assert measure(kind, features, others, *head).value > 0
    features, actions, *head = policy(kind, rng, 2000, 10, 3)
    own, other = (measure(kind, features, a, *head) for a in (actions, np.roll(actions, 1, axis=0)))
    assert other.value > 3 * own.value > 0


def test_zero_for_a_policy_that_is_the_fit():
    rng = np.random.default_rng(17)
    features, actions, *_ = policy("gaussian", rng, 200, 5, 2)
    design = np.column_stack([features, np.ones(200)])
    fit = np.linalg.lstsq(design, actions, rcond=None)[0]
    log_std = 0.5 * np.log(((actions - design @ fit) ** 2).mean(0))
    assert 0 <= meter.gaussian(features, actions, fit[:-1].T, fit[-1], log_std).value < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_any_basis_and_order_of_the_features_gives_the_same(kind):
    rng = np.random.default_rng(8)
    features, actions, weight, bias, *rest = policy(kind, rng, 600, 6, 3)
    mix = rng.standard_normal((6, 6)) + 3 * np.eye(6)
    order = rng.permutation(600)
    shifted = features @ mix + 5
    mixed_weight = np.linalg.solve(mix, weight.T).T
    mixed = measure(kind, shifted[order], actions[order], mixed_weight, bias - 5 * mixed_weight.sum(1), *rest)
    plain = measure(kind, features, actions, weight, bias, *rest)
    assert mixed.value == pytest.approx(plain.value, rel=1e-5)
    assert mixed.parameters == plain.parameters


@pytest.mark.parametrize("kind", KINDS)
def test_units_that_say_nothing_new_are_no_parameters(kind):
    rng = np.random.default_rng(9)
    features, actions, weight, *rest = policy(kind, rng, 600, 6, 3)
    features = features.astype(np.float32)
    silent = [
        features[:, 0],  # a duplicate
        np.float32(0.3) * features[:, 1] - np.float32(0.7) * features[:, 2],  # one up to rounding
        np.zeros(600, np.float32),  # dead
        np.ones(600, np.float32),  # saturated
    ]
    wide = np.column_stack([features, *silent])
    with_silent = measure(kind, wide, actions, np.hstack([weight, np.zeros((3, 4))]), *rest)
    without = measure(kind, features, actions, weight, *rest)
    assert with_silent.parameters == without.parameters
    assert with_silent.value == pytest.approx(without.value, rel=1e-6)


def test_features_that_never_vary_leave_a_constant():
    actions = np.random.default_rng(10).standard_normal((100, 2))
    result = meter.gaussian(np.full((100, 3), 0.1), actions, np.zeros((2, 3)), np.zeros(2), np.zeros(2))
    fitted = -np.log(actions.std(0)).sum() - 1 + 0.5 * (actions**2).sum(1).mean()
    assert result.value == pytest.approx(fitted)
    assert result.parameters == 4


@pytest.mark.parametrize("kind", ["gaussian", "tanh_gaussian"])
def test_actions_without_noise_stay_finite(kind):
    features, _, weight, bias, _ = policy(kind, np.random.default_rng(11), 100, 4, 2)
    mean = features @ weight.T + bias
    mean = np.tanh(mean) if kind == "tanh_gaussian" else mean
    scale = np.maximum(1.0, abs(mean).max(0))
    measured = measure(kind, features, mean, weight, bias, np.zeros(2))
    assert measured.value == pytest.approx(-np.log(1e-6 * scale).sum(), rel=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "tanh_gaussian"])
def test_a_policy_narrower_than_rounding_is_still_one_of_the_fits(kind):
    rng = np.random.default_rng(18)
    features, _, weight, bias, _ = policy(kind, rng, 2000, 4, 2)
    mean = features @ weight.T + bias
    mean = np.tanh(mean) if kind == "tanh_gaussian" else mean
    actions = mean + 3 * np.exp(-20) * rng.standard_normal(mean.shape)
    own = measure(kind, features, mean, weight, bias, np.full(2, -20.0))
    assert own.value == pytest.approx(0, abs=1e-9)
    wider = measure(kind, features, actions, weight, bias, np.full(2, -20.0))
    assert wider.value == pytest.approx(2 * (-np.log(3) + (9 - 1) / 2), rel=0.05)


def test_actions_that_the_features_separate_cost_what_the_policy_gave_them():
    features = np.random.default_rng(12).standard_normal((200, 10))
    result = meter.categorical(features, (features[:, 0] > 0).astype(int), np.zeros((2, 10)), np.zeros(2))
    assert result.value == pytest.approx(np.log(2), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_again_and_no_random_numbers(kind):
    arguments = policy(kind, np.random.default_rng(13), 300, 8, 3)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = measure(kind, *arguments)
    assert measure(kind, *arguments) == first
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


# ---- refusals


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_samples_are_refused(kind):
    rng = np.random.default_rng(15)
    measure(kind, *policy(kind, rng, 10, 8, 2))
    with pytest.raises(ValueError, match=r"9 samples .* 8 features .* at least 10"):
        measure(kind, *policy(kind, rng, 9, 8, 2))


@pytest.mark.parametrize(
    ("kind", "position", "value", "message"),
    [
        ("gaussian", 0, np.zeros(50), r"features .*\(any, 4\), not \(50,\)"),
        ("gaussian", 0, np.zeros((50, 3)), r"features .*\(any, 4\)"),
        ("gaussian", 0, np.full((50, 4), np.nan), "features .*finite"),
        ("gaussian", 1, np.zeros((49, 3)), r"actions .*\(50, 3\), not \(49, 3\)"),
        ("gaussian", 1, np.zeros(50), r"actions .*\(50, 3\)"),
        ("gaussian", 1, np.full((50, 3), np.inf), "actions .*finite"),
        ("gaussian", 2, np.zeros(4), "weight .*shape"),
        ("gaussian", 3, np.zeros(1), r"bias .*\(3\)"),
        ("gaussian", 4, np.zeros((1, 3)), r"log_std .*\(3\)"),
        ("tanh_gaussian", 4, 0.0, r"log_std .*\(3\)"),
        ("categorical", 1, np.zeros((50, 3), int), r"actions .*\(50\)"),
        ("categorical", 1, np.zeros(50), "actions .*integers from 0 to 2"),
        ("categorical", 1, np.full(50, 3), "actions .*integers from 0 to 2"),
        ("categorical", 1, np.full(50, -1), "actions .*integers from 0 to 2"),
        ("categorical", 3, np.zeros(4), r"bias .*\(3\)"),
        ("tabular", 0, np.zeros((50, 1), int), "states .*shape"),
        ("tabular", 0, np.full(50, 5), "states .*integers from 0 to 4"),
        ("tabular", 0, np.zeros(0, int), "states .*empty"),
        ("tabular", 1, np.zeros(49, int), r"actions .*\(50\)"),
        ("tabular", 2, np.zeros(3), "logits .*shape"),
        ("tabular", 2, np.full((5, 3), -np.inf), "logits .*finite"),
    ],
)
def test_wrong_arrays_are_refused_by_name(kind, position, value, message):
    if kind == "tabular":
        arguments = [np.zeros(50, int), np.zeros(50, int), np.zeros((5, 3))]
    else:
        arguments = list(policy(kind, np.random.default_rng(16), 50, 4, 3))
    measure(kind, *arguments)
    arguments[position] = value
    with pytest.raises(ValueError, match=message):
        measure(kind, *arguments)
