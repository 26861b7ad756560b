"""Two samples of runs against published values, brute force and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from rlsuite.bench import difference as d

# Student's sleep data (Biometrika 6, 1908), as R ships them in datasets::sleep.
FIRST = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
SECOND = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])


def test_welch_of_the_sleep_data():
    # R: t.test(extra ~ group, data = sleep): p-value = 0.07939, 95 percent interval -3.3654832 0.2054832
    value, low, high = d.welch(FIRST, SECOND)
    assert value == pytest.approx(1.58) and (low, high) == pytest.approx((-0.2054832, 3.3654832), abs=1e-7)
    assert d.welch_p(FIRST, SECOND) == pytest.approx(0.07939, abs=5e-6)
    assert d.welch_p(SECOND, FIRST, "less") == pytest.approx(0.07939 / 2, abs=5e-6)
    assert d.welch_p(FIRST, SECOND, "less") == pytest.approx(1 - 0.07939 / 2, abs=5e-6)


def test_welch_does_not_pool_variances_or_sizes():
    rng = np.random.default_rng(0)
    few, many = rng.normal(0, 9, 4), rng.normal(1, 1, 30)
    theirs = stats.ttest_ind(many, few, equal_var=False)
    assert d.welch_p(few, many) == pytest.approx(theirs.pvalue, rel=1e-12)
    assert d.welch(few, many)[1:] == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-12)


def test_one_run_is_no_test_and_constants_are_decided():
    one, same, above = np.array([4.0]), np.full(3, 500.0), np.full(4, 501.0)
    assert d.welch(one, same).value == 496 and math.isnan(d.welch(one, same).low)
    for test in (d.welch_p, d.permutation_p):
        assert math.isnan(test(one, same)) and math.isnan(test(same, one))
        assert test(same, same) == 1 and test(same, above, "less") == 1
    assert d.welch(same, above) == (1, 1, 1)
    assert d.welch_p(same, above) == 0 and d.welch_p(above, same, "less") == 0
    # 3 of 7 may be chosen in 35 ways, of which this is the most extreme one, and two-sided its probability is doubled.
    assert d.permutation_p(above, same, "less") == pytest.approx(1 / 35)
    assert d.permutation_p(above, same) == pytest.approx(2 / 35)


def test_permutation_test_by_brute_force():
    a, b = FIRST[:4], SECOND[4:9]
    pooled = np.concatenate([a, b])

    def t(first):
        x, y = pooled[list(first)], np.delete(pooled, list(first))
        return (y.mean() - x.mean()) / math.sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y))

    splits = [t(first) for first in itertools.combinations(range(9), 4)]
    here = t(range(4))
    below = np.mean([s <= here + 1e-12 for s in splits])
    above = np.mean([s >= here - 1e-12 for s in splits])
    assert d.permutation_p(a, b, "less") == pytest.approx(below)
    assert d.permutation_p(a, b) == pytest.approx(2 * min(below, above))
    sampled = d.permutation_p(FIRST, SECOND, seed=1, resamples=20_000)  # of 184,756 splits
    assert sampled == d.permutation_p(FIRST, SECOND, seed=1, resamples=20_000)
    assert sampled == pytest.approx(d.permutation_p(FIRST, SECOND, resamples=200_000), abs=0.006)


def test_holm_as_r_adjusts():
    # R: p.adjust(c(0.01, 0.02, 0.03, 0.04), "holm") is 0.04 0.06 0.06 0.06
    assert d.holm([0.04, 0.02, 0.01, 0.03]) == pytest.approx([0.06, 0.06, 0.04, 0.06])
    assert d.holm([0.9, 0.8]) == [1, 1] and d.holm([]) == []
    adjusted = d.holm([0.02, math.nan, 0.03])
    assert adjusted[0] == adjusted[2] == pytest.approx(0.04) and math.isnan(adjusted[1])


def test_false_alarms_over_many_tasks_keep_the_level():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(1000):
        p = [d.welch_p(rng.normal(0, 1, 5), rng.normal(0, 3, 8), "less") for _ in range(6)]
        alarms += min(d.holm(p)) <= 0.05
    assert 0.03 < alarms / 1000 < 0.07


def test_power_as_r_computes_it():
    # R: power.t.test(n = 20, delta = 1, sd = 1): power = 0.8689528; power.t.test(power = .90, delta = 1): n = 22.02110
    assert d.power(1, (1, 1), 20, 0.05) == pytest.approx(0.8689528, abs=1e-6)
    assert d.runs_to_find(1, (1, 1), 0.05, target=0.9) == 23
    assert d.runs_to_find(-10, (10, 10), 0.05, target=0.9) == 23
    # Cohen (1988), table 2.4.1: d = 0.5 needs 64 a side at 5 % with power 0.8
    assert d.runs_to_find(0.5, (1, 1), 0.05) == 64


def test_power_with_unequal_variances_as_simulated():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (4000, 9)), rng.normal(2, 3, (4000, 9))
    found = (stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue <= 0.05).mean()
    assert d.power(2, (1, 3), 9, 0.05) == pytest.approx(found, abs=0.025)


def test_runs_to_find_is_the_smallest_number():
    for size, spreads, alpha in ((3, (2, 5), 0.05), (1, (4, 0.1), 0.005)):
        runs = d.runs_to_find(size, spreads, alpha)
        assert d.power(size, spreads, runs, alpha) >= 0.8 > d.power(size, spreads, runs - 1, alpha)
    assert d.runs_to_find(0, (1, 1), 0.05) is None
    assert d.runs_to_find(0.001, (1, 1), 0.05) is None
    assert d.runs_to_find(5, (0, 0), 0.05) == d.runs_to_find(1e6, (1, 1), 0.05) == 2
    # With three runs a side the smallest p of a permutation test is 2 / 20, with four 2 / 70.
    assert d.runs_to_find(1e6, (1, 1), 0.05, exact=True) == 4


@pytest.mark.parametrize("alternative", ["less", "two-sided"])
def test_rank_sum_without_ties_is_scipys_exact_test(alternative):
    rng = np.random.default_rng(1)
    for shift in (-2, -0.5, 0, 1):
        first, second = rng.normal(0, 1, 30), rng.normal(shift, 1, 5)
        theirs = stats.mannwhitneyu(second, first, alternative=alternative, method="exact")
        assert d.rank_sum_p(first, second, alternative) == pytest.approx(theirs.pvalue, rel=1e-9)


def test_rank_sum_with_ties_is_the_share_of_all_choices():
    first, second = np.array([3.0, 1, 2, 2, 5, 2]), np.array([2.0, 1, 1])
    pooled = np.concatenate([first, second])
    ranks = stats.rankdata(pooled)
    sums = np.array([ranks[list(chosen)].sum() for chosen in itertools.combinations(range(9), 3)])
    below, above = (sums <= ranks[6:].sum()).mean(), (sums >= ranks[6:].sum()).mean()
    assert d.rank_sum_p(first, second, "less") == pytest.approx(below, rel=1e-12)
    assert d.rank_sum_p(first, second) == pytest.approx(2 * min(below, above), rel=1e-12)
    assert d.rank_sum_p(np.full(20, 7.0), np.full(5, 7.0)) == 1
    assert d.rank_sum_p(np.full(20, 7.0), np.full(5, 6.0), "less") == pytest.approx(1 / math.comb(25, 5))


def test_rank_sum_keeps_its_level_for_runs_that_are_far_from_normal():
    """Returns of which one in three is a total loss; 2000 clean comparisons, 5 % of which may be found different."""
    rng = np.random.default_rng(2)
    draws = np.where(rng.random((2000, 65)) < 1 / 3, 0.0, np.exp(rng.normal(0, 1, (2000, 65))))
    found = sum(d.rank_sum_p(row[:60], row[60:], "less") <= 0.05 for row in draws)
    assert found <= stats.binom.ppf(0.999, 2000, 0.05)
