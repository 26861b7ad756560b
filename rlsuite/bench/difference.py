"""Statistics of two samples of runs: their difference, whether it can be chance, and how many runs would tell.

Samples are (n,), one number a run; a difference is second minus first. Nothing assumes equal variances or sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats

from rlsuite.bench.statistics import CONFIDENCE, RESAMPLES, Array, Interval, Seed

Alternative = Literal["two-sided", "less"]
TESTS = ("welch", "permutation")

POWER = 0.8
MOST_RUNS = 10_000  # a side; what would need more is not worth the search


def welch(first: Array, second: Array, confidence: float = CONFIDENCE) -> Interval:
    """mean(second) - mean(first) and its Welch t-interval; the ends are nan where a sample has one run.

    The degrees of freedom are Welch and Satterthwaite's (Welch, Biometrika 34, 1947).
    """
    value = float(second.mean() - first.mean())
    if min(len(first), len(second)) < 2:
        return Interval(value, np.nan, np.nan)
    error, freedom = _error(first, second)
    half = float(stats.t.ppf((1 + confidence) / 2, freedom) * error) if error else 0.0
    return Interval(value, value - half, value + half)


def welch_p(first: Array, second: Array, alternative: Alternative = "two-sided") -> float:
    """p-value of Welch's t-test of equal means, against "two-sided" or "less" (second below first).

    nan where a sample has one run. Constants have no spread to test against: 1 where they agree, else 0, or for "less"
    1 where second is above.
    """
    if min(len(first), len(second)) < 2:
        return np.nan
    difference, (error, freedom) = float(second.mean() - first.mean()), _error(first, second)
    if not error:
        return float(difference == 0 or (alternative == "less" and difference > 0))
    t = difference / error
    return float(stats.t.cdf(t, freedom) if alternative == "less" else 2 * stats.t.sf(abs(t), freedom))


def permutation_p(
    first: Array, second: Array, alternative: Alternative = "two-sided", seed: Seed = 0, resamples: int = RESAMPLES
) -> float:
    """p-value of the permutation test of Welch's t: exact where there are at most `resamples` ways to split the runs.

    Permuting t and not the bare difference keeps the level, for many runs, where only the means are equal and not the
    variances (Janssen, Stat. Probab. Lett. 36, 1997; Chung and Romano, Ann. Stat. 41, 2013). nan where a sample has one
    run.
    """
    if min(len(first), len(second)) < 2:
        return np.nan

    def statistic(x: Array, y: Array, axis: int = -1) -> Array:
        difference = y.mean(axis) - x.mean(axis)
        error = np.sqrt(x.var(axis, ddof=1) / x.shape[axis] + y.var(axis, ddof=1) / y.shape[axis])
        size = np.hypot(difference, error)  # difference / size orders as t does, and is finite where t is not
        return np.asarray(np.divide(difference, size, out=np.zeros_like(size), where=size > 0))

    result = stats.permutation_test(
        (first, second),
        statistic,
        vectorized=True,
        n_resamples=resamples,
        batch=4096,
        alternative=alternative,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def rank_sum_p(first: Array, second: Array, alternative: Alternative = "two-sided") -> float:
    """p-value of Wilcoxon's rank-sum test, exact also with ties, which get the mean of their ranks.

    Of all ways to choose which of the runs are `second`, the share whose rank sum is at most as large ("less"), or
    twice the smaller of the two shares. So it keeps its level whatever the distribution (Wilcoxon, Biometrics Bull. 1,
    1945; Lehmann, Nonparametrics, 1975, ch. 1).
    """
    ranks = np.rint(2 * stats.rankdata(np.concatenate([first, second]))).astype(int)  # halves become whole
    n, observed = len(second), int(ranks[len(first) :].sum())
    ways = np.zeros((n + 1, int(np.sort(ranks)[-n:].sum()) + 1))  # of choosing so many runs with such a rank sum
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, :-rank]
    shares = ways[n] / ways[n].sum()
    below, above = float(shares[: observed + 1].sum()), float(shares[observed:].sum())
    return min(1.0, below if alternative == "less" else 2 * min(below, above))


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for their number as Holm does (Scand. J. Stat. 6, 1979), in the order given; nan stays out.

    To call significant what is at most alpha errs anywhere with probability at most alpha, however the tests depend.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = sorted((value, index) for index, value in enumerate(p) if not math.isnan(value))
    adjusted, floor = [math.nan] * len(p), 0.0
    for rank, (value, index) in enumerate(known):
        floor = max(floor, min(1.0, value * (len(known) - rank)))
        adjusted[index] = floor
    return adjusted


def power(difference: float, spreads: tuple[float, float], runs: int, alpha: float) -> float:
    """Probability that Welch's two-sided test at level `alpha` finds a true `difference` with `runs` runs a side.

    For normal runs of standard deviations `spreads`: t is noncentral with the noncentrality
    difference / sqrt((s1^2 + s2^2) / runs) and the degrees of freedom (runs - 1) (s1^2 + s2^2)^2 / (s1^4 + s2^4)
    (Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, ch. 2; for Welch's test in reinforcement
    learning Colas et al., arXiv:1806.08295).
    """
    one, two = (spread**2 for spread in spreads)
    if not one + two:
        return float(difference != 0)
    freedom = (runs - 1) * (one + two) ** 2 / (one**2 + two**2)
    shift = abs(difference) / math.sqrt((one + two) / runs)
    critical = stats.t.ppf(1 - alpha / 2, freedom)
    return float(stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift))


def runs_to_find(
    difference: float, spreads: tuple[float, float], alpha: float, target: float = POWER, exact: bool = False
) -> int | None:
    """The smallest number of runs a side with `power` of at least `target`; None above `MOST_RUNS`.

    `exact` is for the permutation test, which with fewer runs than that cannot reach `alpha` at all.
    """
    variance = spreads[0] ** 2 + spreads[1] ** 2
    if not difference:
        return None
    z = stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(target)
    normal = z**2 * variance / difference**2  # what known variances would need: less than Welch's test
    if normal > MOST_RUNS:
        return None
    runs = max(2, math.ceil(normal))
    while exact and 2 / math.comb(2 * runs, runs) > alpha:
        runs += 1
    while power(difference, spreads, runs, alpha) < target:
        runs += 1
    return runs if runs <= MOST_RUNS else None


def _error(first: Array, second: Array) -> tuple[float, float]:
    """Standard error of the difference of the means, and its degrees of freedom."""
    parts = [float(runs.var(ddof=1)) / len(runs) for runs in (first, second)]
    total = sum(parts)
    if not total:
        return 0.0, math.nan
    freedom = total**2 / sum(part**2 / (len(runs) - 1) for part, runs in zip(parts, (first, second), strict=True))
    return math.sqrt(total), freedom
