"""How fast the momentum of each policy gradient method closes in on the gradient: the theory's rates, on exact tasks.

(a) `rlsuite/Enumerable-v0` (3 states, 2 actions, 4 steps) and tabular softmax policies from theta = 0, one trajectory a
gradient: the tracking error ||d_t - grad J(theta_t)|| and the gap J* - J(theta_t) against all trajectories that were
sampled. Its slope in a double logarithmic plot should be -1/3, -2/5 and -1/2. Then J* - J at 3,000 trajectories over a
wide grid of step sizes, so that each method is seen at its best.
(b) `rlsuite/LQR-v0` (a double integrator, 20 steps) and linear-Gaussian policies of standard deviation 0.5 from a gain
of 0: the gap to the best such policy after 1,000 iterations, over a grid of step sizes.

All runs of a method go side by side, as rows of one array. J, its gradient and J* are exact; the estimators are written
out in closed form. Writes rates.csv, tuned.csv, lqr.csv, rates.png, lqr.png and rates.md.

    python benchmarks/npg_igt_rates.py --out results/npg_igt [--iterations 10000] [--seeds 48]
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded, so before the imports below

import numpy as np
import pandas as pd

from rlsuite.algorithms.npg_igt import METHODS, Ascent, Rule
from rlsuite_envs.enumerable import Enumerable
from rlsuite_envs.lqr import LQR

Array = np.ndarray

GAMMA0 = (0.1, 0.3)
TUNED_GAMMA0 = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
TUNED_TRAJECTORIES = 3000
LQR_GAMMA0 = {True: (0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 3.0), False: (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)}
LQR_ITERATIONS, LQR_SEEDS = 1000, 64
LQR_STD = 0.5
FIT_FROM = 100  # iterations
RESAMPLES = 2000
BLOCK = 250  # iterations whose noise is drawn at a time


@dataclass(frozen=True)
class Variant:
    """A method as it is run here. `official`: with the second term of the authors' correction, wrong in sign and scale."""

    label: str
    rule: Rule
    slope: str | None = None  # of the tracking error, in theory
    eta_lag: bool = False
    official: bool = False

    def trajectories(self, iterations: Any) -> Any:
        """Sampled in so many iterations; the first of HARPG needs no correction."""
        return 2 * iterations - 1 if self.rule.correction == "hessian" else iterations


VARIANTS = {
    "pg": Variant("PG", METHODS["pg"]),
    "npg": Variant("N-PG", METHODS["npg"]),
    "nmpg": Variant("N-MPG", METHODS["nmpg"], "-1/3"),
    "npg_igt": Variant("N-PG-IGT", METHODS["npg_igt"], "-2/5"),
    "npg_igt_lag": Variant("N-PG-IGT, stale momentum", METHODS["npg_igt"], "-2/5", eta_lag=True),
    "harpg": Variant("HARPG", METHODS["harpg"], "-1/2"),
    "nharpg": Variant("N-HARPG", METHODS["nharpg"], "-1/2"),
    "nharpg_official": Variant("N-HARPG, authors' correction", METHODS["nharpg"], "-1/2", official=True),
    "storm_pg": Variant("STORM-PG", METHODS["storm_pg"], "-1/3"),
    "sharp": Variant("SHARP", METHODS["sharp"], "-1/3"),
}


class Task(Protocol):
    """Policies theta (N, d) of N runs, the trajectories they sample, and what is estimated from these.

    `tau` is one trajectory for each run, in the form in which the task's own `sample` gives it. The two estimators are
    for gpomdp, whose weight on grad log pi(a_t|s_t) is the discounted reward from t on.
    """

    start: Array  # (d,)

    def noise(self, rng: np.random.Generator, *shape: int) -> Array: ...
    def sample(self, theta: Array, noise: Array) -> Any: ...
    def gradient(self, theta: Array, tau: Any) -> Array:
        """g(tau, theta) (N, d), of trajectories from theta."""

    def reweighted(self, theta: Array, tau: Any, sampled_at: Array) -> Array:
        """The same for trajectories from `sampled_at` (N, d): each reward times the probability ratio of its prefix."""

    def hessian_product(self, theta: Array, tau: Any, v: Array, official: bool = False) -> Array:
        """B(tau, theta) v (N, d) = grad Phi <grad log p, v> + Hessian Phi v."""

    def true_gradient(self, theta: Array) -> Array: ...
    def gap(self, theta: Array) -> Array: ...


def to_go(rewards: Array) -> Array:
    """(..., H) -> (..., H): the sum from each step on."""
    return rewards[..., ::-1].cumsum(-1)[..., ::-1]


class Softmax:
    """Tabular softmax policies. A trajectory is an array (N, H) of state-action pairs, state * actions + action."""

    def __init__(self, mdp: Enumerable) -> None:
        self.mdp = mdp
        self.states, self.actions = mdp.rewards.shape
        self.start = np.zeros(mdp.rewards.size)
        self.best, _ = mdp.best()
        self.discounts = mdp.discount ** np.arange(mdp.horizon)
        self.pair_rewards, self.one_hot = mdp.rewards.ravel(), np.eye(mdp.rewards.size)

    def noise(self, rng: np.random.Generator, *shape: int) -> Array:
        return rng.random((*shape, self.mdp.horizon + 1))

    def sample(self, theta: Array, noise: Array) -> Array:
        joint = (self.mdp.policy(theta)[..., None] * self.mdp.kernel).reshape(len(theta), self.states, -1)
        edges = joint.cumsum(-1)[..., :-1]  # of action and next state, drawn together
        state = (noise[:, 0] * self.states).astype(np.intp)
        pairs = np.empty((len(theta), self.mdp.horizon), np.intp)
        rows = np.arange(len(theta))
        for step in range(self.mdp.horizon):
            outcome = (edges[rows, state] <= noise[:, step + 1, None]).sum(-1)
            action, following = np.divmod(outcome, self.states)
            pairs[:, step] = state * self.actions + action
            state = following
        return pairs

    def weights(self, tau: Array) -> Array:
        return to_go(self.discounts * self.pair_rewards[tau])

    def gradient(self, theta: Array, tau: Array) -> Array:
        return self.weighted_scores(theta, tau, self.weights(tau))

    def reweighted(self, theta: Array, tau: Array, sampled_at: Array) -> Array:
        ratios = self.mdp.policy(theta) / self.mdp.policy(sampled_at)
        prefixes = np.take_along_axis(ratios.reshape(len(theta), -1), tau, 1).cumprod(-1)
        return self.weighted_scores(theta, tau, to_go(prefixes * self.discounts * self.pair_rewards[tau]))

    def hessian_product(self, theta: Array, tau: Array, v: Array, official: bool = False) -> Array:
        weights, shape = self.weights(tau), (-1, self.states, self.actions)
        slope = (self.weighted_scores(theta, tau, np.ones_like(weights)) * v).sum(-1, keepdims=True)
        policy, along = self.mdp.policy(theta), v.reshape(shape)
        at_state = self._counts(tau, weights).reshape(shape).sum(-1, keepdims=True)
        curved = -at_state * policy * (along - (policy * along).sum(-1, keepdims=True))
        scale = -1 / self.mdp.horizon if official else 1.0
        return scale * slope * self.weighted_scores(theta, tau, weights) + curved.reshape(len(curved), -1)

    def weighted_scores(self, theta: Array, tau: Array, weights: Array) -> Array:
        """sum_t weights_t grad log pi(a_t|s_t), (N, d), for weights (N, H) and theta (N, d) or (1, d)."""
        counts = self._counts(tau, weights).reshape(-1, self.states, self.actions)
        return (counts - self.mdp.policy(theta) * counts.sum(-1, keepdims=True)).reshape(len(tau), -1)

    def _counts(self, tau: Array, weights: Array) -> Array:
        """(N, d): the weights of the steps in which each pair occurs, summed."""
        return (weights[:, None] @ self.one_hot[tau])[:, 0]

    def true_gradient(self, theta: Array) -> Array:
        return self.mdp.gradient(theta)

    def gap(self, theta: Array) -> Array:
        return self.best - self.mdp.objective(theta)


class LinearGaussian:
    """Policies u = K x + std z of the LQR, theta = K. A trajectory is x (N, H, 2), z (N, H) and rewards (N, H)."""

    def __init__(self, lqr: LQR, std: float = LQR_STD) -> None:
        self.lqr, self.std = lqr, std
        self.log_std = np.log([std])
        self.start = np.zeros(2)
        self.best, _ = lqr.best_stationary(self.log_std)

    def noise(self, rng: np.random.Generator, *shape: int) -> Array:
        return rng.standard_normal((*shape, self.lqr.horizon, 3))  # of the state, and of the action

    def sample(self, theta: Array, noise: Array) -> tuple[Array, Array, Array]:
        x, z = np.empty(noise.shape[:-1] + (2,)), noise[..., 2]
        forces, now = np.empty(z.shape), noise[:, 0, :2]
        for step in range(self.lqr.horizon):
            x[:, step] = now
            forces[:, step] = (theta * now).sum(-1) + self.std * z[:, step]
            if step + 1 < self.lqr.horizon:
                now = now @ self.lqr.A.T + forces[:, step, None] * self.lqr.B.T
                now = now + self.lqr.noise * noise[:, step + 1, :2]
        return x, z, -((x * x).sum(-1) + forces * forces)

    def gradient(self, theta: Array, tau: tuple[Array, Array, Array]) -> Array:
        x, z, rewards = tau
        return ((to_go(rewards) * z / self.std)[..., None] * x).sum(1)

    def reweighted(self, theta: Array, tau: tuple[Array, Array, Array], sampled_at: Array) -> Array:
        x, z, rewards = tau
        shifted = z + (x @ (sampled_at - theta)[..., None])[..., 0] / self.std
        prefixes = np.exp(((z * z - shifted * shifted) / 2).cumsum(-1))
        return self.gradient(theta, (x, shifted, prefixes * rewards))

    def hessian_product(
        self, theta: Array, tau: tuple[Array, Array, Array], v: Array, official: bool = False
    ) -> Array:
        x, z, rewards = tau
        along = (x @ v[..., None])[..., 0] / self.std
        slope = (z * along).sum(-1, keepdims=True)
        curved = -((to_go(rewards) * along / self.std)[..., None] * x).sum(1)
        scale = -1 / self.lqr.horizon if official else 1.0
        return scale * slope * self.gradient(theta, tau) + curved

    def true_gradient(self, theta: Array) -> Array:
        return self.lqr.gradient(theta[:, None], self.log_std)[0][:, 0]

    def gap(self, theta: Array) -> Array:
        """Infinite where the run diverged."""
        gap = self.best - self.lqr.objective(theta[:, None], self.log_std)
        return np.where(np.isfinite(gap), gap, np.inf)


def climb(
    task: Task, variant: Variant, gamma0: Array, at: Sequence[int], rng: np.random.Generator
) -> tuple[Array, Array]:
    """Tracking errors and gaps, (len(at), N), of N runs with step sizes gamma0 (N,) after the iterations in `at`.

    After n iterations: ||d_{n-1} - grad J(theta_{n-1})||, and J* - J(theta_n).
    """
    runs, correction = len(gamma0), variant.rule.correction
    theta = np.tile(task.start, (runs, 1))
    ascent = Ascent(theta, variant.rule, gamma0[:, None], eta_lag=variant.eta_lag)
    errors, gaps = np.empty((len(at), runs)), np.empty((len(at), runs))
    row = {iteration: index for index, iteration in enumerate(at)}
    for t in range(max(at)):
        if t % BLOCK == 0:
            noise = task.noise(rng, BLOCK, 2 if correction == "hessian" else 1, runs)
            q = rng.random((BLOCK, runs, 1))
        now, before = ascent.theta, ascent.previous
        point = ascent.lookahead()
        tau = task.sample(point, noise[t % BLOCK, 0])
        g, c = task.gradient(point, tau), 0.0
        if t > 0 and correction == "hessian":
            between = q[t % BLOCK] * now + (1 - q[t % BLOCK]) * before
            second = task.sample(between, noise[t % BLOCK, 1])
            c = task.hessian_product(between, second, now - before, variant.official)
        elif t > 0 and correction == "weights":
            c = g - task.reweighted(before, tau, now)
        ascent.advance(g, c)
        if t + 1 in row:
            errors[row[t + 1]] = np.linalg.norm(ascent.d - task.true_gradient(now), axis=1)
            gaps[row[t + 1]] = task.gap(ascent.theta)
    return errors, gaps


def moments(iterations: int) -> list[int]:
    """About 12 iterations a decade, evenly spaced in the logarithm."""
    count = round(12 * np.log10(iterations)) + 1
    return sorted({*np.rint(np.geomspace(1, iterations, count)).astype(int).tolist(), min(1000, iterations)})


def slope(at: Sequence[int], errors: Array, rng: np.random.Generator) -> tuple[float, float, float]:
    """Of the logarithm of the mean over runs of errors (len(at), S) on that of the iterations from `FIT_FROM` on.

    With a 95 % percentile bootstrap over runs.
    """
    late = np.array(at) >= FIT_FROM
    x = np.log(np.array(at)[late])
    x = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    share = rng.multinomial(errors.shape[1], np.full(errors.shape[1], 1 / errors.shape[1]), RESAMPLES)
    share = np.vstack([np.ones(errors.shape[1]), share]) / errors.shape[1]
    found = x @ np.log(errors[late] @ share.T)
    low, high = np.percentile(found[1:], [2.5, 97.5])
    return float(found[0]), float(low), float(high)
