"""Statistics over runs: what a table cell, an aggregate row and a profile mean.

The unit is the run: one algorithm, one task, one seed, one number. Episodes of one run are not independent runs and are
averaged before they come here. Scores are given as `{task: (n,) run scores}`; tasks may differ in n.

Conventions follow Agarwal et al., "Deep RL at the edge of the statistical precipice" (NeurIPS 2021) and its code,
rliable; tests compare them with values worked out by hand. Every random number comes from the generator or seed that is
passed in.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from rlsuite.errors import UserError

Array = NDArray[np.float64]
Scores = Mapping[str, ArrayLike]
Statistic = Callable[[Sequence[Array]], Array]
Seed = np.random.Generator | int | Sequence[int]

CONFIDENCE = 0.95
RESAMPLES = 50_000
MIN_RESAMPLES = 1_000  # the ends of a 95 % percentile interval are the 25th smallest and largest of a thousand
FEW_RUNS = 5  # below this number of runs intervals are too narrow, and a table marks the cell

_CHUNK = 1 << 18  # numbers resampled at a time: small enough for the cache, where sorting is fast


class Interval(NamedTuple):
    """A point estimate with the ends of its interval, in the unit of the scores."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


class Profile(NamedTuple):
    """Share of runs that score above each threshold, with a pointwise band; all four are (P,)."""

    thresholds: Array
    share: Array
    low: Array
    high: Array


# ---- one cell ------------------------------------------------------------------------------------


def student_t(runs: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Mean over runs and its two-sided Student-t interval, mean +- t_{(1 + confidence) / 2, n - 1} s / sqrt(n).

    `runs` is (n,). With one run the ends are nan: one number says nothing about the spread.
    """
    values = _runs(runs, "the cell")
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan)
    half = float(student_t_half_width(values, confidence))
    return Interval(mean, mean - half, mean + half)


def student_t_half_width(runs: Array, confidence: float = CONFIDENCE) -> Array:
    """Half-width of the Student-t interval over the last axis: (..., n) -> (...); nan where n is 1."""
    n = runs.shape[-1]
    if n < 2:
        return np.full(runs.shape[:-1], np.nan, dtype=np.float64)
    critical = stats.t.ppf((1 + confidence) / 2, n - 1)
    return np.asarray(critical * runs.std(axis=-1, ddof=1) / np.sqrt(n))


# ---- many tasks: statistics of [(..., n_task), ...] -> (...), so that one call serves all resamples


def mean(tasks: Sequence[Array]) -> Array:
    """Mean over tasks of the mean over runs."""
    return np.asarray(np.mean(_task_means(tasks), axis=0))


def median(tasks: Sequence[Array]) -> Array:
    """Median over tasks of the mean over runs."""
    return np.asarray(np.median(_task_means(tasks), axis=0))


def iqm(tasks: Sequence[Array]) -> Array:
    """Interquartile mean: the mean of all runs of all tasks, pooled, without the lowest and highest quarter.

    Of N pooled runs floor(N / 4) are cut at either end, as scipy.stats.trim_mean and rliable do.
    """
    pooled = np.sort(np.concatenate(tasks, axis=-1), axis=-1)
    cut = int(0.25 * pooled.shape[-1])
    return np.asarray(pooled[..., cut : pooled.shape[-1] - cut].mean(axis=-1))


def optimality_gap(gamma: float) -> Statistic:
    """The statistic: mean shortfall of all runs, pooled, below the score `gamma`; runs above it count as zero."""

    def gap(tasks: Sequence[Array]) -> Array:
        pooled = np.concatenate(tasks, axis=-1)
        return np.asarray(np.maximum(gamma - pooled, 0.0).mean(axis=-1))

    return gap


def _task_means(tasks: Sequence[Array]) -> Array:
    return np.stack([runs.mean(axis=-1) for runs in tasks])


def estimate(statistic: Statistic, scores: Scores) -> float:
    """The statistic of the scores themselves, as `estimate(iqm, scores)`."""
    return float(statistic(_tasks(scores)))


def bootstrap(
    statistic: Statistic,
    scores: Scores,
    seed: Seed,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The statistic with its stratified percentile bootstrap interval.

    Runs are drawn with replacement within each task; tasks are fixed. With one run in every task the ends are nan, as
    there is nothing to resample. Raises UserError below `MIN_RESAMPLES` resamples.
    """
    _check_resamples(resamples)
    rng, tasks = np.random.default_rng(seed), _tasks(scores)
    if all(len(runs) == 1 for runs in tasks):
        return Interval(float(statistic(tasks)), np.nan, np.nan)
    chunk = max(1, _CHUNK // sum(map(len, tasks)))
    draws = []
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        draws.append(statistic([runs[rng.integers(len(runs), size=(rows, len(runs)))] for runs in tasks]))
    low, high = _percentiles(np.concatenate(draws), confidence)
    return Interval(float(statistic(tasks)), float(low), float(high))


# ---- two algorithms ------------------------------------------------------------------------------


def probability_of_improvement(x: Scores, y: Scores) -> float:
    """Mean over tasks of P(a run of `x` scores above a run of `y`), ties counted half: the Mann-Whitney U share."""
    return float(np.mean([wins.mean() for wins in _wins(x, y)]))


def probability_of_improvement_interval(
    x: Scores,
    y: Scores,
    seed: Seed,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """`probability_of_improvement` with its stratified percentile bootstrap interval; runs of both sides are resampled.

    Both must have the same tasks; with one run in each of them on both sides the ends are nan. Raises UserError if the
    tasks differ, or below `MIN_RESAMPLES` resamples.
    """
    _check_resamples(resamples)
    rng, matrices = np.random.default_rng(seed), _wins(x, y)
    if all(wins.size == 1 for wins in matrices):
        return Interval(probability_of_improvement(x, y), np.nan, np.nan)
    total = np.zeros(resamples)
    for wins in matrices:
        n, m = wins.shape
        times_x, times_y = _multiplicities(rng, n, resamples), _multiplicities(rng, m, resamples)
        total += ((times_x @ wins) * times_y).sum(axis=1) / (n * m)
    low, high = _percentiles(total / len(matrices), confidence)
    return Interval(probability_of_improvement(x, y), float(low), float(high))


def _wins(x: Scores, y: Scores) -> list[Array]:
    """Per task (n, m): 1 where run i of x is above run j of y, 1/2 where they are equal."""
    if set(x) != set(y):
        only = ", ".join(sorted(set(x) ^ set(y)))
        raise UserError(
            f"two algorithms are compared on the tasks they share, but only one of them has runs on {only}."
        )
    pairs = [(_runs(x[task], task)[:, None], _runs(y[task], task)[None, :]) for task in x]
    if not pairs:
        raise UserError("two algorithms cannot be compared without a task.")
    return [(a > b) + 0.5 * (a == b) for a, b in pairs]


# ---- distribution --------------------------------------------------------------------------------


def performance_profile(
    scores: Scores,
    thresholds: ArrayLike,
    seed: Seed,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Profile:
    """Share of all runs, pooled, that score above each of (P,) thresholds, with a pointwise stratified bootstrap band.

    Raises UserError below `MIN_RESAMPLES` resamples.
    """
    _check_resamples(resamples)
    rng, tasks = np.random.default_rng(seed), _tasks(scores)
    points = np.asarray(thresholds, dtype=np.float64)
    above = [(runs[:, None] > points).astype(np.float64) for runs in tasks]
    pooled = sum(map(len, tasks))
    chunk = max(1, _CHUNK // max(1, len(points)))
    draws = []
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        counts = sum(_multiplicities(rng, len(task), rows) @ task for task in above)
        draws.append(counts / pooled)
    low, high = _percentiles(np.concatenate(draws), confidence)
    share = sum(task.sum(axis=0) for task in above) / pooled
    return Profile(points, np.asarray(share), low, high)


def stream(seed: int, *names: str) -> list[int]:
    """Entropy named by what it is for, so that an interval does not move when another algorithm joins the table."""
    return [seed, *(zlib.crc32(name.encode()) for name in names)]


# ---- shared --------------------------------------------------------------------------------------


def _multiplicities(rng: np.random.Generator, n: int, resamples: int) -> Array:
    """(resamples, n): how often each of n runs is drawn in each resample of n."""
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def _percentiles(draws: Array, confidence: float) -> tuple[Array, Array]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return low, high


def _tasks(scores: Scores) -> list[Array]:
    if not scores:
        raise UserError("there are no scores to aggregate: the table has no task with a finished run.")
    return [_runs(runs, task) for task, runs in scores.items()]


def _runs(runs: ArrayLike, task: str) -> Array:
    values = np.asarray(runs, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise UserError(f"the scores of {task} must be one number for each run, but have the shape {values.shape}.")
    if not np.isfinite(values).all():
        raise UserError(
            f"run {int(np.argmin(np.isfinite(values)))} of {task} has no finite score; leave failed runs out."
        )
    return values


def _check_resamples(resamples: int) -> None:
    if resamples < MIN_RESAMPLES:
        raise UserError(
            f"{resamples} bootstrap resamples are too few for an interval; ask for {MIN_RESAMPLES:,} or more."
        )
