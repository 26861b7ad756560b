"""N-PG-IGT and HARPG where the answers are known: on a quadratic, on an enumerable task and on LQR.

Expectations over an enumerable task are sums over all its trajectories, so "unbiased" is an equality here. Both the
estimators of the algorithm and the closed forms of benchmarks/npg_igt_rates.py are held to it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from rlsuite.algorithms.npg_igt import METHODS, Ascent, Baseline, Rule, credit, hessian_product, score
from rlsuite.harness.networks import FlatPolicy
from rlsuite.harness.trajectories import Sampler, Trajectories
from rlsuite_envs.enumerable import Enumerable
from rlsuite_envs.lqr import LQR

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "npg_igt_rates.py"

Array = np.ndarray


@pytest.fixture(scope="module")
def rates():
    spec = importlib.util.spec_from_file_location("npg_igt_rates", SCRIPT)
    sys.modules["npg_igt_rates"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["npg_igt_rates"]


class Enumerated:
    """All trajectories of a task at theta, as the algorithm sees a batch."""

    def __init__(self, mdp: Enumerable, theta: Array) -> None:
        self.mdp, self.theta = mdp, theta
        self.states, self.actions = mdp.trajectories()
        self.probabilities = mdp.probabilities(theta)
        self.batch = self.of(np.arange(len(self.states)))

    def of(self, rows: Array) -> Trajectories:
        """Some of the trajectories, end to end."""
        states, actions = self.states[rows].ravel(), self.actions[rows].ravel()
        observations = np.eye(self.mdp.states, dtype=np.float32)[states]
        return Trajectories(
            observations, actions, self.mdp.rewards[states, actions], np.full(len(rows), self.mdp.horizon)
        )

    def expected(self, weights: Array) -> Array:
        """The weights of a mean over all trajectories, turned into those of their expectation."""
        return weights * self.batch.spread(self.probabilities * len(self.probabilities))

    def pairs(self) -> Array:
        """The trajectories in the form of the benchmark."""
        return self.states * self.mdp.rewards.shape[1] + self.actions


def log_probs_of(mdp: Enumerable, batch: Trajectories) -> Callable[[Tensor], Tensor]:
    """The tabular softmax policy as a function of theta (d,): log pi(a_j|s_j) (N,)."""
    states, actions = torch.from_numpy(batch.observations.argmax(1)), torch.from_numpy(batch.actions)

    def log_probs(theta: Tensor) -> Tensor:
        return theta.reshape(mdp.rewards.shape).log_softmax(-1)[states, actions]

    return log_probs


def tensors(*arrays: Array) -> list[Tensor]:
    return [torch.from_numpy(np.asarray(array, np.float64)) for array in arrays]


@pytest.fixture(scope="module")
def task() -> Enumerated:
    return Enumerated(Enumerable(), np.random.default_rng(0).normal(size=6))


@pytest.fixture(scope="module")
def small() -> Enumerated:
    """16 trajectories, so that pairs of them can be enumerated too."""
    mdp = Enumerable(states=2, actions=2, horizon=2, seed=1)
    return Enumerated(mdp, np.random.default_rng(1).normal(size=4))


def direction(task: Enumerated) -> Array:
    return np.random.default_rng(2).normal(size=task.theta.shape)


# ---- transport -----------------------------------------------------------------------------------


def transport_errors(rule: Rule, **switches: bool) -> Array:
    """||d_t - grad J(theta_t)|| (T, 20) on quadratics J with any Hessians, without noise."""
    rng = np.random.default_rng(0)
    hessians = rng.normal(size=(20, 5, 5))
    hessians = (hessians + np.swapaxes(hessians, 1, 2)) / 2

    def gradient(theta: Array) -> Array:
        return 1.0 + (hessians @ theta[..., None])[..., 0]

    ascent = Ascent(rng.normal(size=(20, 5)), rule, 1.0, **switches)
    errors = []
    for _ in range(300):
        now = ascent.theta
        ascent.advance(gradient(ascent.lookahead()))
        errors.append(np.linalg.norm(ascent.d - gradient(now), axis=1))
    return np.array(errors)


def test_on_a_quadratic_the_look_ahead_carries_old_gradients_along_exactly():
    assert transport_errors(METHODS["npg_igt"]).max() < 1e-12


def test_a_stale_momentum_carries_them_to_the_wrong_place_and_no_look_ahead_is_worse():
    exact = METHODS["npg_igt"]
    stale = transport_errors(exact, eta_lag=True)
    without = transport_errors(Rule(exact.eta, exact.step, exact.normalized))
    assert (stale[:20].max(0) > 0.1).all()
    assert (without.max(0) > stale.max(0)).all()
    assert (without[-1] > 20 * stale[-1]).all()  # in the long run it is harmless, as eta_t / eta_{t-1} goes to 1


# ---- the gradient --------------------------------------------------------------------------------


def fixed_baseline(kind: str, task: Enumerated) -> Array:
    """b(s_t, t) of the batch of all trajectories, fitted to a few of them."""
    baseline = Baseline(kind)
    few = np.random.default_rng(3).choice(len(task.states), 5, replace=False)
    baseline.fit(task.of(few), task.mdp.discount)
    return baseline(task.batch)


@pytest.mark.parametrize("kind", ["none", "average", "linear"])
@pytest.mark.parametrize("estimator", ["gpomdp", "reinforce"])
def test_the_expected_estimate_is_the_gradient(task, estimator, kind):
    b = fixed_baseline(kind, task)
    assert (kind == "none") == (not b.any())
    weights = task.expected(credit(task.batch, b, task.mdp.discount, estimator))
    g = score(log_probs_of(task.mdp, task.batch), *tensors(task.theta, weights)).numpy()
    assert np.abs(g - task.mdp.gradient(task.theta)).max() < 1e-12


@pytest.mark.parametrize("kind", ["none", "average", "linear"])
def test_the_expected_closed_form_is_the_gradient(task, rates, kind):
    softmax, theta, pairs = rates.Softmax(task.mdp), task.theta[None], task.pairs()
    discounts = task.mdp.discount ** np.arange(task.mdp.horizon)
    weights = softmax.weights(pairs) - discounts * fixed_baseline(kind, task).reshape(pairs.shape)
    expected = task.probabilities @ softmax.weighted_scores(theta, pairs, weights)
    assert np.abs(expected - task.mdp.gradient(task.theta)).max() < 1e-12


@pytest.mark.parametrize("estimator", ["gpomdp", "reinforce"])
@pytest.mark.parametrize("kind", ["none", "average", "linear"])
def test_importance_weights_make_it_the_gradient_elsewhere(task, estimator, kind):
    elsewhere = task.theta + direction(task)
    log_probs = log_probs_of(task.mdp, task.batch)
    here, there = (log_probs(theta).numpy() for theta in tensors(task.theta, elsewhere))
    weights = credit(task.batch, fixed_baseline(kind, task), task.mdp.discount, estimator, there - here)
    g = score(log_probs, *tensors(elsewhere, task.expected(weights))).numpy()
    assert np.abs(g - task.mdp.gradient(elsewhere)).max() < 1e-12


def test_importance_weights_make_the_closed_form_the_gradient_elsewhere(task, rates):
    elsewhere, pairs = task.theta + direction(task), task.pairs()
    repeated = (np.tile(theta, (len(pairs), 1)) for theta in (elsewhere, task.theta))
    there, here = repeated
    expected = task.probabilities @ rates.Softmax(task.mdp).reweighted(there, pairs, here)
    assert np.abs(expected - task.mdp.gradient(elsewhere)).max() < 1e-12


# ---- the Hessian-vector product ------------------------------------------------------------------


def expected_product(task: Enumerated, kind: str = "none", official: bool = False) -> Array:
    weights = task.expected(credit(task.batch, fixed_baseline(kind, task), task.mdp.discount, "gpomdp"))
    log_probs, lengths = log_probs_of(task.mdp, task.batch), task.batch.lengths.tolist()
    theta, v, w = tensors(task.theta, direction(task), weights)
    return hessian_product(log_probs, theta, v, w, lengths, official).numpy()


def terms(task: Enumerated) -> tuple[Array, Array]:
    """The expectations of grad Phi <grad log p, v> and of Hessian Phi v; they sum to Hessian J v."""
    mdp, v = task.mdp, direction(task)
    discounts = mdp.discount ** np.arange(mdp.horizon)
    to_go = (discounts * mdp.rewards[task.states, task.actions])[:, ::-1].cumsum(1)[:, ::-1]
    scores = mdp.scores(task.theta)[task.states, task.actions]
    phi = (to_go[..., None] * scores).sum(1)
    curved = np.einsum("nt,ntij,j->ni", to_go, mdp.curvature(task.theta)[task.states], v)
    slope = scores.sum(1) @ v
    return task.probabilities @ (phi * slope[:, None]), task.probabilities @ curved


@pytest.mark.parametrize("kind", ["none", "average", "linear"])
def test_the_expected_product_is_that_of_the_hessian(task, kind):
    known = task.mdp.hessian(task.theta) @ direction(task)
    assert np.abs(expected_product(task, kind) - known).max() < 1e-12


def test_the_expected_product_of_the_closed_form_is_that_of_the_hessian(task, rates):
    known, softmax = task.mdp.hessian(task.theta) @ direction(task), rates.Softmax(task.mdp)
    products = softmax.hessian_product(task.theta[None], task.pairs(), direction(task)[None])
    assert np.abs(task.probabilities @ products - known).max() < 1e-12


def test_both_terms_are_needed_and_their_sign_matters(task):
    """So that the two tests above would see either dropped or turned."""
    first, second = terms(task)
    known = task.mdp.hessian(task.theta) @ direction(task)
    assert np.abs(first + second - known).max() < 1e-12
    for wrong in (second, first, second - first, first - second):
        assert np.linalg.norm(wrong - known) > 0.1 * np.linalg.norm(known)


def mean_product(task: Enumerated, n: int, official: bool) -> Array:
    """The expected estimate from n trajectories, over all of their combinations."""
    v, total = direction(task), np.zeros_like(task.theta)
    for rows in product(range(len(task.states)), repeat=n):
        batch = task.of(np.array(rows))
        weights = credit(batch, np.zeros(len(batch)), task.mdp.discount, "gpomdp")
        theta, along, w = tensors(task.theta, v, weights)
        lengths = batch.lengths.tolist()
        estimate = hessian_product(log_probs_of(task.mdp, batch), theta, along, w, lengths, official).numpy()
        total += task.probabilities[list(rows)].prod() * estimate
    return total


@pytest.mark.parametrize("n", [1, 2])
def test_the_expected_product_does_not_depend_on_how_many_trajectories_there_are(small, n):
    known = small.mdp.hessian(small.theta) @ direction(small)
    assert np.abs(mean_product(small, n, official=False) - known).max() < 1e-12


@pytest.mark.parametrize("n", [1, 2])
def test_the_authors_product_has_a_term_of_the_wrong_sign_that_shrinks_with_their_number(small, n):
    """-1 / (H n) of the right one: a mean over the H n steps, of which only the n products on the diagonal survive."""
    first, second = terms(small)
    known = second - first / (small.mdp.horizon * n)
    assert np.abs(mean_product(small, n, official=True) - known).max() < 1e-12
    assert np.abs(known - small.mdp.hessian(small.theta) @ direction(small)).max() > 0.01


def test_the_authors_product_in_closed_form_is_the_same(task, rates):
    first, second = terms(task)
    products = rates.Softmax(task.mdp).hessian_product(
        task.theta[None], task.pairs(), direction(task)[None], official=True
    )
    assert np.abs(task.probabilities @ products - (second - first / task.mdp.horizon)).max() < 1e-12


# ---- the correction ------------------------------------------------------------------------------


def test_hessian_products_along_a_step_sum_to_the_difference_of_the_gradients(task):
    nodes, shares = np.polynomial.legendre.leggauss(16)
    q, v = (nodes[:, None] + 1) / 2, direction(task)
    products = task.mdp.hessian(task.theta + q * v) @ v
    difference = task.mdp.gradient(task.theta + v) - task.mdp.gradient(task.theta)
    assert np.abs(shares / 2 @ products - difference).max() < 1e-8


@pytest.mark.parametrize("official", [False, True])
def test_the_correction_is_an_unbiased_estimate_of_that_difference(task, rates, official):
    """Within 4 standard errors, 100,000 points and trajectories; the authors' correction is far outside."""
    softmax, rng, n = rates.Softmax(task.mdp), np.random.default_rng(0), 100_000
    v = direction(task)
    between = task.theta + rng.random((n, 1)) * v
    tau = softmax.sample(between, softmax.noise(rng, n))
    corrections = softmax.hessian_product(between, tau, np.tile(v, (n, 1)), official)
    difference = task.mdp.gradient(task.theta + v) - task.mdp.gradient(task.theta)
    z = (corrections.mean(0) - difference) / (corrections.std(0) / np.sqrt(n))
    assert np.abs(z).max() > 20 if official else np.abs(z).max() < 4


def test_sampled_trajectories_have_their_probabilities(task, rates):
    softmax, n = rates.Softmax(task.mdp), 200_000
    pairs = softmax.sample(np.tile(task.theta, (n, 1)), softmax.noise(np.random.default_rng(0), n))
    numbers = pairs @ task.mdp.rewards.size ** np.arange(task.mdp.horizon)[::-1]
    seen = np.bincount(numbers, minlength=len(task.probabilities))
    expected = n * task.probabilities
    common = expected > 5
    chi, degrees = ((seen - expected)[common] ** 2 / expected[common]).sum(), common.sum()
    assert abs(chi - degrees) < 5 * np.sqrt(2 * degrees)
    assert not seen[expected == 0].any()


# ---- LQR -----------------------------------------------------------------------------------------


def test_on_lqr_the_estimators_are_the_closed_forms(rates):
    lqr, rng = rates.LinearGaussian(LQR()), np.random.default_rng(0)
    theta, v = rng.normal(size=(2, 3, 2))
    x, z, rewards = lqr.sample(theta, lqr.noise(rng, 3))
    products = lqr.hessian_product(theta, (x, z, rewards), v)
    gradients = lqr.gradient(theta, (x, z, rewards))
    elsewhere = lqr.reweighted(theta + 0.1 * v, (x, z, rewards), theta)
    for i in range(3):
        actions = x[i] @ theta[i] + lqr.std * z[i]
        batch = Trajectories(x[i], actions[:, None], rewards[i], np.array([20]))
        states, forces, at, along = tensors(x[i], actions, theta[i], v[i])

        def log_probs(theta: Tensor, states: Tensor = states, forces: Tensor = forces) -> Tensor:
            return -0.5 * ((forces - states @ theta) / lqr.std) ** 2

        weights = credit(batch, np.zeros(20), 1.0, "gpomdp")
        (w,) = tensors(weights)
        assert score(log_probs, at, w).numpy() == pytest.approx(gradients[i], rel=1e-10)
        assert hessian_product(log_probs, at, along, w, [20]).numpy() == pytest.approx(products[i], rel=1e-9)
        there = at + 0.1 * along
        (w,) = tensors(credit(batch, np.zeros(20), 1.0, "gpomdp", (log_probs(there) - log_probs(at)).numpy()))
        assert score(log_probs, there, w).numpy() == pytest.approx(elsewhere[i], rel=1e-9)


def test_on_lqr_the_estimators_are_unbiased(rates):
    """Within 4 standard errors of the exact gradient and its central differences, 200,000 trajectories."""
    lqr, rng, n = rates.LinearGaussian(LQR()), np.random.default_rng(0), 200_000
    theta, v, step = np.array([[-0.7, -1.2]]), np.array([[0.3, -0.2]]), 1e-5
    repeated = np.repeat(theta, n, 0)
    tau = lqr.sample(repeated, lqr.noise(rng, n))
    change = (lqr.true_gradient(theta + step * v) - lqr.true_gradient(theta - step * v)) / (2 * step)
    for estimates, known in (
        (tau[2].sum(1, keepdims=True), lqr.best - lqr.gap(theta)[:, None]),
        (lqr.gradient(repeated, tau), lqr.true_gradient(theta)),
        (lqr.hessian_product(repeated, tau, np.repeat(v, n, 0)), change),
        (lqr.reweighted(repeated + 0.2 * v, tau, repeated), lqr.true_gradient(theta + 0.2 * v)),
    ):
        z = (estimates.mean(0) - known[0]) / (estimates.std(0) / np.sqrt(n))
        assert np.abs(z).max() < 4


class Segments:
    """A task that remembers where the corrections of a climb are taken, and from which trajectories."""

    def __init__(self) -> None:
        self.start = np.zeros(2)
        self.shares: list[Array] = []
        self.now = np.zeros((1, 2))

    def noise(self, rng: np.random.Generator, *shape: int) -> Array:
        return rng.random((*shape, 1))

    def sample(self, theta: Array, noise: Array) -> tuple[Array, Array]:
        return theta, noise

    def gradient(self, theta: Array, tau: tuple[Array, Array]) -> Array:
        sampled_at, self.first_noise = tau
        assert sampled_at is theta
        self.now = theta
        return np.ones_like(theta)

    def hessian_product(self, theta: Array, tau: tuple[Array, Array], v: Array, official: bool = False) -> Array:
        sampled_at, noise = tau
        assert np.array_equal(sampled_at, theta) and not np.isin(noise, self.first_noise).any()
        shares = (theta - self.now + v) / v
        assert np.allclose(shares[:, 0], shares[:, 1], rtol=0, atol=1e-6)
        self.shares.append(shares[:, 0])
        return np.zeros_like(theta)

    def true_gradient(self, theta: Array) -> Array:
        return theta

    def gap(self, theta: Array) -> Array:
        return theta[:, 0]


def test_a_correction_has_trajectories_of_its_own_from_a_uniform_point_of_the_last_step(rates):
    task = Segments()
    rates.climb(task, rates.VARIANTS["nharpg"], np.full(2000, 0.1), [20], np.random.default_rng(0))
    shares = np.array(task.shares)
    assert shares.shape == (19, 2000)
    for q in shares:
        assert stats.kstest(q, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(shares[:-1].ravel(), shares[1:].ravel())[0, 1]) < 0.025


# ---- the algorithm's sampler, policy and estimator together --------------------------------------


def estimates(env: str, policy: FlatPolicy, gamma: float, batches: int = 50, episodes: int = 200) -> Array:
    """g (batches, d), each from so many episodes that the algorithm's sampler plays."""
    sampler = Sampler(env, 8, lambda name: np.random.default_rng(len(name)))
    found = []
    for _ in range(batches):
        batch = sampler.play(policy.draw, episodes)
        assert (batch.lengths == batch.lengths[0]).all() and len(batch.lengths) == episodes
        weights = credit(batch, np.zeros(len(batch)), gamma, "gpomdp")
        found.append(policy.score(batch.observations, batch.actions, weights))
    return np.array(found)


def test_episodes_of_the_enumerable_environment_lead_to_its_gradient():
    """theta_sa = weight_as + bias_a, so the gradient by a bias is that by the logits summed over states; 5 SE."""
    mdp, policy = Enumerable(), FlatPolicy(3, 2, hidden=(), rng=np.random.default_rng(0))
    theta = 0.5 * np.random.default_rng(1).normal(size=8)
    policy.assign(theta)
    exact = mdp.gradient((theta[:6].reshape(2, 3).T + theta[6:]).ravel()).reshape(3, 2)
    known = np.concatenate([exact.T.ravel(), exact.sum(0)])
    found = estimates("rlsuite/Enumerable-v0", policy, mdp.discount)
    assert (np.abs(found.mean(0) - known) < 5 * found.std(0, ddof=1) / np.sqrt(len(found))).all()


def test_episodes_of_lqr_lead_to_its_gradient_by_gain_bias_and_deviation():
    """The bias has a gradient of 0, as the system is symmetric about the origin; 5 SE."""
    lqr, gain, log_std = LQR(), np.array([[-0.6, -1.1]]), np.array([-0.3])
    policy = FlatPolicy(2, 1, [-np.inf], [np.inf], hidden=())
    policy.assign(np.concatenate([gain[0], [0.0], log_std]))
    of_gain, of_log_std = lqr.gradient(gain, log_std)
    known = np.concatenate([of_gain[0], [0.0], of_log_std])
    found = estimates("rlsuite/LQR-v0", policy, 1.0, episodes=100)
    assert (np.abs(found.mean(0) - known) < 5 * found.std(0, ddof=1) / np.sqrt(len(found))).all()


# ---- the rates -----------------------------------------------------------------------------------


def check_rates(rates, methods: dict[str, str], iterations: int = 10_000) -> dict[str, bool]:
    """The paper's claim at small scale: which relations hold, where `methods` are run as nmpg, npg_igt and nharpg."""
    at, rng = rates.moments(iterations), np.random.default_rng(0)
    task, slopes, errors = rates.Softmax(Enumerable()), {}, {}
    for name, method in methods.items():
        found = rates.runs_of(task, method, [0.1], 48, at)[0, :, 0]
        slopes[name], _, _ = rates.slope(at, found, rng)
        errors[name] = found[at.index(1000)].mean()
    return {
        "nmpg": abs(slopes["nmpg"] + 1 / 3) < 0.06,
        "npg_igt": abs(slopes["npg_igt"] + 2 / 5) < 0.06,
        "nharpg": abs(slopes["nharpg"] + 1 / 2) < 0.06,
        "nharpg < npg_igt": errors["nharpg"] < 0.8 * errors["npg_igt"],
        "npg_igt < nmpg": errors["npg_igt"] < 0.8 * errors["nmpg"],
    }


@pytest.mark.slow
def test_tracking_errors_fall_at_the_rates_of_the_theory(rates):
    """-1/3, -2/5 and -1/2 in t, and in this order at t = 1000; the seeds' standard errors of the slopes are 0.02."""
    found = check_rates(rates, {"nmpg": "nmpg", "npg_igt": "npg_igt", "nharpg": "nharpg"})
    assert all(found.values()), found


@pytest.mark.slow
def test_with_the_authors_correction_they_do_not(rates):
    found = check_rates(rates, {"nmpg": "nmpg", "npg_igt": "npg_igt", "nharpg": "nharpg_official"})
    assert found == {"nmpg": True, "npg_igt": True, "nharpg": False, "nharpg < npg_igt": False, "npg_igt < nmpg": True}
