"""How fast the momentum of each policy gradient method closes in on the gradient: the theory's rates, on exact tasks.

(a) `rlsuite/Enumerable-v0` (3 states, 2 actions, 4 steps) and tabular softmax policies from theta = 0, one trajectory a
gradient: the tracking error ||d_t - grad J(theta_t)|| and the gap J* - J(theta_t) against all trajectories that were
sampled. Its slope in a double logarithmic plot should be -1/3, -2/5 and -1/2. Then J* - J at 3,000 trajectories over a
wide grid of step sizes, so that each method is seen at its best.
(b) `rlsuite/LQR-v0` (a double integrator, 20 steps) and linear-Gaussian policies of standard deviation 0.5 from a gain
of 0: the gap to the best such policy after 1,000 iterations, over a grid of step sizes.

All runs of a method go side by side, as rows of one array. J, its gradient and J* are exact; the estimators are written
out in closed form. Writes rates.csv, tuned.csv, tasks.csv, lqr.csv, rates.png, lqr.png and rates.md.

    python benchmarks/npg_igt_rates.py --out results/npg_igt [--iterations 10000] [--seeds 48]
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
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
LQR_GAMMA0 = {True: (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0), False: (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)}
LQR_ITERATIONS, LQR_SEEDS = 1000, 64
LQR_STD = 0.5
FIT_FROM = 100  # iterations
RESAMPLES = 2000
BLOCK = 250  # iterations whose noise is drawn at a time


@dataclass(frozen=True)
class Variant:
    """A method as it is run here. `official`: with the authors' correction, one term of wrong sign and scale."""

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
        joint = (self.mdp.policy(theta)[..., None] * self.mdp.kernel).reshape(len(theta) * self.states, -1)
        edges = joint.cumsum(-1)[:, :-1]  # of action and next state, drawn together
        state = (noise[:, 0] * self.states).astype(np.intp)
        pairs = np.empty((len(theta), self.mdp.horizon), np.intp)
        rows = np.arange(0, len(joint), self.states)
        for step in range(self.mdp.horizon):
            outcome = (edges.take(rows + state, 0) <= noise[:, step + 1, None]).sum(-1)
            pairs[:, step] = state * self.actions + outcome // self.states
            state = outcome % self.states
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
        policy, along = self.mdp.policy(theta), v.reshape(-1, self.states, self.actions)
        weights = self._counts(tau, self.weights(tau))
        at_state = weights.sum(-1, keepdims=True)
        deviation = along - (policy * along).sum(-1, keepdims=True)  # <grad log pi(a|s), v>
        slope = (self._counts(tau, np.ones(tau.shape)) * deviation).sum((-1, -2), keepdims=True)
        scale = -1 / self.mdp.horizon if official else 1.0
        product = scale * slope * (weights - policy * at_state) - at_state * policy * deviation
        return product.reshape(len(tau), -1)

    def weighted_scores(self, theta: Array, tau: Array, weights: Array) -> Array:
        """sum_t weights_t grad log pi(a_t|s_t), (N, d), for weights (N, H) and theta (N, d) or (1, d)."""
        counts = self._counts(tau, weights)
        return (counts - self.mdp.policy(theta) * counts.sum(-1, keepdims=True)).reshape(len(tau), -1)

    def _counts(self, tau: Array, weights: Array) -> Array:
        """(N, states, actions): the weights of the steps in which each pair occurs, summed."""
        return (weights[:, None] @ self.one_hot[tau]).reshape(-1, self.states, self.actions)

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
        x, z = np.empty((*noise.shape[:-1], 2)), noise[..., 2]
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

    def hessian_product(self, theta: Array, tau: tuple[Array, Array, Array], v: Array, official: bool = False) -> Array:
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
    """About 12 iterations a decade, evenly spaced in the logarithm, and those that the tables name."""
    count = round(12 * np.log10(iterations)) + 1
    named = {n for n in (100, 1000, iterations // 2) if n <= iterations}
    return sorted({*np.rint(np.geomspace(1, iterations, count)).astype(int).tolist(), *named})


def slope(at: Sequence[int], errors: Array, rng: np.random.Generator) -> tuple[float, float, float]:
    """Of the logarithm of the mean over runs of errors (len(at), S) on that of the iterations from `FIT_FROM` on.

    By least squares; with its 95 % percentile bootstrap over runs, whole runs being drawn.
    """
    late, runs = np.array(at) >= FIT_FROM, errors.shape[1]
    x = np.log(np.array(at)[late])
    x = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    shares = np.vstack([np.ones(runs), rng.multinomial(runs, np.full(runs, 1 / runs), RESAMPLES)]) / runs
    found = x @ np.log(errors[late] @ shares.T)
    low, high = np.percentile(found[1:], [2.5, 97.5])
    return float(found[0]), float(low), float(high)


def runs_of(task: Task, method: str, grid: Sequence[float], seeds: int, at: Sequence[int], seed: int = 0) -> Array:
    """Errors and gaps (2, len(at), len(grid), seeds) of a method, with noise that follows from its name and `seed`."""
    rng = np.random.default_rng([seed, list(VARIANTS).index(method)])
    found = climb(task, VARIANTS[method], np.repeat(grid, seeds), at, rng)
    return np.stack(found).reshape(2, len(at), len(grid), seeds)


def measure_rates(iterations: int, seeds: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of rates.csv, and the fitted slopes."""
    task, at, rng = Softmax(Enumerable()), moments(iterations), np.random.default_rng(0)
    rows, fits = [], []
    for method, variant in VARIANTS.items():
        found = runs_of(task, method, GAMMA0, seeds, at)
        mean, deviation = found.mean(-1), found.std(-1, ddof=1) / np.sqrt(seeds)
        for column, gamma0 in enumerate(GAMMA0):
            rows += [
                {"method": method, "gamma0": gamma0, "iterations": n, "trajectories": variant.trajectories(n)}
                | {"error": mean[0, i, column], "error_se": deviation[0, i, column]}
                | {"gap": mean[1, i, column], "gap_se": deviation[1, i, column]}
                for i, n in enumerate(at)
            ]
            value, low, high = slope(at, found[0, :, column], rng)
            fits.append({"method": method, "gamma0": gamma0, "slope": value, "low": low, "high": high})
    return pd.DataFrame(rows), pd.DataFrame(fits)


def measure_tasks(tasks: int, iterations: int, seeds: int) -> pd.DataFrame:
    """The slopes on other draws of the task, with the smaller step size."""
    at, rng = moments(iterations), np.random.default_rng(0)
    rows = []
    for seed in range(tasks):
        for method in ("nmpg", "npg_igt", "nharpg"):
            errors, _ = runs_of(Softmax(Enumerable(seed=seed)), method, GAMMA0[:1], seeds, at, seed)
            rows.append({"task": seed, "method": method, "slope": slope(at, errors[:, 0], rng)[0]})
    return pd.DataFrame(rows)


def measure_tuned(seeds: int) -> pd.DataFrame:
    """Rows of tuned.csv: the gap when the trajectories are spent, over a wide grid of step sizes."""
    task, rows = Softmax(Enumerable()), []
    for method, variant in VARIANTS.items():
        iterations = max(n for n in range(TUNED_TRAJECTORIES + 1) if variant.trajectories(n) <= TUNED_TRAJECTORIES)
        _, gaps = runs_of(task, method, TUNED_GAMMA0, seeds, [iterations])
        for gamma0, gap in zip(TUNED_GAMMA0, gaps[0], strict=True):
            error = gap.std(ddof=1) / np.sqrt(seeds)
            rows.append({"method": method, "gamma0": gamma0, "gap": gap.mean(), "gap_se": error})
    return pd.DataFrame(rows)


def measure_lqr(iterations: int, seeds: int) -> pd.DataFrame:
    """Rows of lqr.csv: medians over the runs, with 95 % percentile bootstraps; runs that diverge have infinite gaps."""
    task, at, rng, rows = LinearGaussian(LQR()), moments(iterations), np.random.default_rng(0), []
    drawn = rng.integers(seeds, size=(RESAMPLES // 4, seeds))
    for method, variant in VARIANTS.items():
        grid = LQR_GAMMA0[variant.rule.normalized]
        with np.errstate(all="ignore"):  # of runs that diverge
            _, gaps = runs_of(task, method, grid, seeds, at)
        for (i, n), (column, gamma0) in product(enumerate(at), enumerate(grid)):
            resampled = np.median(gaps[i, column][drawn], axis=1)
            low, high = np.percentile(resampled, [2.5, 97.5], method="nearest")
            rows.append(
                {"method": method, "gamma0": gamma0, "iterations": n, "trajectories": variant.trajectories(n)}
                | {"gap": np.median(gaps[i, column]), "low": low, "high": high}
                | {"diverged": int(np.isinf(gaps[i, column]).sum())}
            )
    return pd.DataFrame(rows)


def cosines_on_lqr(trajectories: int = 200_000) -> tuple[float, float]:
    """Between the gradient at a gain of 0 and the mean of g / ||g||, along which steps from single trajectories go.

    Without a baseline, and with the mean rewards of each time subtracted.
    """
    task = LinearGaussian(LQR())
    theta = np.tile(task.start, (trajectories, 1))
    x, z, rewards = task.sample(theta, task.noise(np.random.default_rng(0), trajectories))
    true, found = task.true_gradient(theta[:1])[0], []
    for credited in (rewards, rewards - rewards.mean(0)):
        g = task.gradient(theta, (x, z, credited))
        mean = (g / np.linalg.norm(g, axis=1, keepdims=True)).mean(0)
        found.append(float(mean @ true / np.linalg.norm(mean) / np.linalg.norm(true)))
    return found[0], found[1]


def best_of(table: pd.DataFrame) -> pd.DataFrame:
    """The row of the step size with the smallest gap, for each method in its order."""
    order = [method for method in VARIANTS if method in set(table.method)]
    return table.loc[table.groupby("method").gap.idxmin()].set_index("method").loc[order]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def rates_table(rates: pd.DataFrame, fits: pd.DataFrame) -> str:
    last = rates.iterations.max()
    named = [n for n in (100, 1000, last) if n <= last]
    rows = []
    for fit in fits.sort_values("gamma0", kind="stable").itertuples():
        variant = VARIANTS[fit.method]
        part = rates[(rates.method == fit.method) & (rates.gamma0 == fit.gamma0)].set_index("iterations")
        equal = part[part.trajectories <= last].iloc[-1]
        rows.append(
            [
                variant.label,
                f"{fit.gamma0:g}",
                str(variant.trajectories(2) - variant.trajectories(1)),
                " / ".join(f"{part.error[n]:.3f}" for n in named),
                f"{fit.slope:.2f} ({fit.low:.2f} to {fit.high:.2f})",
                variant.slope or "none",
                f"{equal.gap:.3f} ± {equal.gap_se:.3f}",
            ]
        )
    header = ["method", "γ₀", "trajectories a step", "error at iteration " + " / ".join(f"{n:,}" for n in named)]
    return markdown([*header, "slope (95 %)", "theory", f"J* - J at {last:,} trajectories"], rows)


def tuned_table(tuned: pd.DataFrame) -> str:
    best = best_of(tuned)
    grid = sorted(set(tuned.gamma0))
    wide = tuned.pivot(index="method", columns="gamma0", values="gap").loc[best.index]
    rows = [
        [VARIANTS[method].label, f"**{row.gap:.3f}** ± {row.gap_se:.3f}", *(f"{wide.loc[method, g]:.3f}" for g in grid)]
        for method, row in best.iterrows()
    ]
    return markdown(["method", "best", *(f"γ₀ = {g:g}" for g in grid)], rows)


def tasks_table(tasks: pd.DataFrame) -> str:
    rows = []
    for method, part in tasks.groupby("method", sort=False):
        variant, found = VARIANTS[method], part.slope
        span = f"{found.min():.2f} to {found.max():.2f}"
        rows.append([variant.label, f"{found.mean():.3f}", span, str(variant.slope)])
    return markdown(["method", "mean slope", "range", "theory"], rows)


def lqr_table(lqr: pd.DataFrame) -> str:
    final = lqr[lqr.iterations == lqr.iterations.max()]
    rows = []
    for method, row in best_of(final).iterrows():
        usable = final[(final.method == method) & (final.gap < LinearGaussian(LQR()).gap(np.zeros((1, 2)))[0])]
        span = f"{usable.gamma0.min():g} to {usable.gamma0.max():g}" if len(usable) else "none"
        rows.append(
            [VARIANTS[method].label, f"{row.gap:.2f} ({row.low:.2f} to {row.high:.2f})", f"{row.gamma0:g}", span]
        )
    return markdown(["method", "median gap (95 %)", "best γ₀", "γ₀ that end better than they began"], rows)


def _line(method: str) -> dict[str, Any]:
    from rlsuite.bench.plots import COLOURS, MARKERS

    index = list(VARIANTS).index(method)
    dashed = VARIANTS[method].official or VARIANTS[method].eta_lag
    return {"color": COLOURS[index], "marker": MARKERS[index], "ls": "--" if dashed else "-", "lw": 1.6, "ms": 4}


def _handles(table: pd.DataFrame) -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], label=VARIANTS[method].label, **_line(method)) for method in table.method.unique()]


def draw_rates(rates: pd.DataFrame) -> bytes:
    """Tracking errors with the theory's slopes, and gaps, against trajectories; a column for each step size."""
    from rlsuite.bench.plots import INK, Panel, png

    def panel(gamma0: float, column: str) -> Panel:
        def draw(axes: Any) -> None:
            for method, part in rates[rates.gamma0 == gamma0].groupby("method", sort=False):
                axes.plot(part.trajectories, part[column], markevery=8, **_line(method))
            axes.set(xscale="log", yscale="log", xlabel="trajectories")
            axes.set_ylabel("||d - grad J||, mean of runs" if column == "error" else "J* - J, mean of runs")
            if column == "error":
                x = np.array([2.0, 100.0])
                for text in ("-1/3", "-2/5", "-1/2"):
                    y = 0.06 * (x / x[0]) ** float(Fraction(text))
                    axes.plot(x, y, color=INK, lw=1.1, ls=(0, (1, 1.5)))
                    where = {"textcoords": "offset points", "va": "center", "fontsize": 9}
                    axes.annotate(text, (x[1], y[1]), (3, 0), **where)

        return Panel(f"{'Tracking error' if column == 'error' else 'Gap'}, step size {gamma0:g}", draw, rows=7)

    panels = [panel(gamma0, column) for column in ("error", "gap") for gamma0 in GAMMA0]
    title = "An enumerable task: momentum behind the gradient (dotted: slopes in theory), and gap"
    return png(panels, title, _handles(rates))


def draw_lqr(lqr: pd.DataFrame) -> bytes:
    """Medians against the step size; over training and at its end, with intervals, at the best one."""
    from rlsuite.bench.plots import INK, Panel, bar, png
    from rlsuite.bench.statistics import Interval

    final = lqr[lqr.iterations == lqr.iterations.max()]
    begin = float(LinearGaussian(LQR()).gap(np.zeros((1, 2)))[0])

    def finish(axes: Any, label: str) -> None:
        axes.axhline(begin, color=INK, lw=0.9, ls=(0, (1, 1.5)))
        axes.set(xscale="log", yscale="log", ylim=(0.3, 30 * begin), xlabel=label, ylabel="J* - J, median of runs")

    def sensitivity(normalized: bool) -> Panel:
        def draw(axes: Any) -> None:
            for method, part in final.groupby("method", sort=False):
                if VARIANTS[method].rule.normalized == normalized:
                    axes.plot(part.gamma0, part.gap.replace(np.inf, np.nan), **_line(method))
            finish(axes, "step size")

        return Panel("Normalised steps" if normalized else "Steps along the estimate itself", draw, rows=7)

    def training(axes: Any) -> None:
        for method, row in best_of(final).iterrows():
            part = lqr[(lqr.method == method) & (lqr.gamma0 == row.gamma0)]
            axes.plot(part.trajectories, part.gap, markevery=6, **_line(method))
        finish(axes, "trajectories")

    def intervals(axes: Any) -> None:
        best = best_of(final)
        for row, (method, found) in enumerate(best.iterrows()):
            line = _line(method)
            bar(axes, row, Interval(found.gap, found.low, found.high), line["color"], line["marker"])
        axes.axvline(begin, color=INK, lw=0.9, ls=(0, (1, 1.5)))
        axes.set_yticks(range(len(best)), [VARIANTS[method].label for method in best.index])
        axes.set_ylim(len(best) - 0.4, -0.6)
        axes.set(xscale="log", xlabel="J* - J, median of runs, 95 % bootstrap interval")

    panels = [
        sensitivity(True),
        sensitivity(False),
        Panel("Each at its best step size", training, rows=7),
        Panel("Each at its best step size, at the end", intervals, rows=7),
    ]
    title = f"LQR, {final.iterations.max():,} iterations: gap to the best policy of the kind (dotted: at first)"
    return png(panels, title, _handles(lqr))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--iterations", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=48)
    parser.add_argument("--tasks", type=int, default=10)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    started = time.perf_counter()

    def took(what: str) -> None:
        nonlocal started
        print(f"{what}: {time.perf_counter() - started:.0f} s", flush=True)
        started = time.perf_counter()

    rates, fits = measure_rates(args.iterations, args.seeds)
    took("(a) rates")
    tuned = measure_tuned(args.seeds)
    took("(a) tuned step sizes")
    tasks = measure_tasks(args.tasks, args.iterations, args.seeds)
    took("(a) other tasks")
    lqr = measure_lqr(LQR_ITERATIONS, LQR_SEEDS)
    took("(b) LQR")
    for table, file in ((rates, "rates"), (tuned, "tuned"), (tasks, "tasks"), (lqr, "lqr")):
        table.to_csv(args.out / f"{file}.csv", index=False, float_format="%.5g")
    (args.out / "rates.png").write_bytes(draw_rates(rates))
    (args.out / "lqr.png").write_bytes(draw_lqr(lqr))
    last = f"{args.iterations:,}"
    text = "\n\n".join(
        [
            "# Rates on exact tasks",
            "Written by `python benchmarks/npg_igt_rates.py`; what it means is in [README.md](README.md).",
            f"Tracking error ||d - grad J|| on `rlsuite/Enumerable-v0`, mean of {args.seeds} runs. Slope: least "
            f"squares of its logarithm on that of the iteration, {FIT_FROM} to {last}; 95 % percentile bootstrap over "
            "runs. Gap: mean ± standard error.",
            rates_table(rates, fits),
            f"The slope with γ₀ = {GAMMA0[0]:g} on {args.tasks} draws of the task (seeds 0 to {args.tasks - 1}):",
            tasks_table(tasks),
            f"J* - J at {TUNED_TRAJECTORIES:,} trajectories, mean of {args.seeds} runs (± standard error):",
            tuned_table(tuned),
            f"`rlsuite/LQR-v0` after {LQR_ITERATIONS:,} iterations (twice as many trajectories with a Hessian-vector "
            f"product), median of {LQR_SEEDS} runs, 95 % percentile bootstrap over runs:",
            lqr_table(lqr),
            "There, cosine between the gradient at a gain of 0 and the mean of g / ||g|| over 200,000 trajectories: "
            "{:.2f}, and {:.2f} with the mean rewards of each time subtracted.".format(*cosines_on_lqr()),
        ]
    )
    (args.out / "rates.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
