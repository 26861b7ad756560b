"""The statistics against values worked out by hand, published ones, and what must hold for any scores."""

import math

import numpy as np
import pytest
from scipy import stats

from rlsuite.bench import statistics as s
from rlsuite.errors import UserError


def random_scores(seed=0, tasks=9, runs=10):
    rng = np.random.default_rng(seed)
    return {f"t{i}": rng.normal(60, 10, runs) for i in range(tasks)}


# ---- one cell


def test_student_t_by_hand():
    # s = sqrt(2.5), s / sqrt(5) = 0.707107, t(0.975; 4) = 2.776445
    interval = s.student_t([1, 2, 3, 4, 5])
    assert interval.value == 3
    assert interval.half_width == pytest.approx(2.776445 * math.sqrt(0.5), abs=1e-6)
    assert interval.low == pytest.approx(3 - 1.963243, abs=1e-6)


def test_student_t_of_the_nist_handbook():
    # NIST/SEMATECH e-Handbook 1.3.5.2, ZARR13.DAT: N 195, mean 9.261460, s 0.022789 -> [9.258242, 9.264679]
    noise = np.random.default_rng(0).normal(size=195)
    runs = 9.261460 + 0.022789 * (noise - noise.mean()) / noise.std(ddof=1)
    interval = s.student_t(runs)
    assert interval.low == pytest.approx(9.258242, abs=2e-6)
    assert interval.high == pytest.approx(9.264679, abs=2e-6)


def test_one_run_has_no_interval():
    value, low, high = s.student_t([4.0])
    assert value == 4 and math.isnan(low) and math.isnan(high)


def test_student_t_covers():
    rng = np.random.default_rng(1)
    for runs in (3, 5):
        values = rng.normal(size=(20_000, runs))
        covered = np.abs(values.mean(axis=1)) <= s.student_t_half_width(values)
        assert covered.mean() == pytest.approx(0.95, abs=0.006)


# ---- aggregates


def test_aggregates_by_hand():
    scores = {"a": [0, 10, 20, 30], "b": [40, 50, 60, 190]}
    # pooled 0 10 | 20 30 40 50 | 60 190; means of the tasks 15 and 85
    assert s.estimate(s.iqm, scores) == 35
    assert s.estimate(s.mean, scores) == 50
    assert s.estimate(s.median, scores) == 50
    assert s.estimate(s.median, scores | {"c": [20.0]}) == 20
    # shortfalls below 50: 50 40 30 20 10 0 0 0
    assert s.estimate(s.optimality_gap(50), scores) == 150 / 8


@pytest.mark.parametrize("runs", range(1, 14))
def test_iqm_is_scipys_trimmed_mean(runs):
    scores = random_scores(runs, tasks=1, runs=runs)
    assert s.estimate(s.iqm, scores) == pytest.approx(stats.trim_mean(scores["t0"], 0.25), rel=1e-12)


def test_iqm_pools_tasks_of_different_size():
    scores = {"a": [1.0], "b": [2.0, 3.0, 100.0], "c": [-50.0]}
    assert s.estimate(s.iqm, scores) == 2  # five runs, one cut at either end


def test_iqm_ignores_outliers_and_follows_affine_maps():
    scores = random_scores()
    spoiled = {task: runs.copy() for task, runs in scores.items()}
    top = max(spoiled, key=lambda task: spoiled[task].max())
    spoiled[top][spoiled[top].argmax()] = 1e9
    value = s.estimate(s.iqm, scores)
    assert s.estimate(s.iqm, spoiled) == pytest.approx(value, rel=1e-12)
    moved = {task: 3 * runs - 7 for task, runs in scores.items()}
    assert s.estimate(s.iqm, moved) == pytest.approx(3 * value - 7, rel=1e-12)


# ---- bootstrap


def test_bootstrap_of_two_runs_by_hand():
    # The mean of a resample of {0, 1} is 0, 1/2, 1 with probability 1/4, 1/2, 1/4.
    assert s.bootstrap(s.mean, {"a": [0, 1]}, seed=0) == (0.5, 0.0, 1.0)
    assert s.bootstrap(s.mean, {"a": [0, 1]}, seed=0, confidence=0.4) == (0.5, 0.5, 0.5)


def test_bootstrap_is_stratified():
    # Runs never leave their task: with no spread within tasks there is none in the interval.
    value, low, high = s.bootstrap(s.mean, {"a": [0, 0, 0], "b": [100, 100, 100]}, seed=0)
    assert (value, low, high) == (50, 50, 50)


def test_one_run_a_task_has_no_bootstrap_interval():
    one, other = {"a": [3.0], "b": [5.0]}, {"a": [4.0], "b": [5.0]}
    for interval in (s.bootstrap(s.mean, one, seed=0), s.probability_of_improvement_interval(one, other, seed=0)):
        assert math.isnan(interval.low) and math.isnan(interval.high)
    assert s.bootstrap(s.mean, one, seed=0).value == 4
    assert s.probability_of_improvement_interval(one, other, seed=0).value == 0.25


def test_bootstrap_of_the_mean_has_the_known_spread():
    # The standard deviation of the bootstrap mean of n runs is the population one over sqrt(n).
    scores = random_scores(tasks=1, runs=200)
    interval = s.bootstrap(s.mean, scores, seed=3)
    expected = 1.959964 * scores["t0"].std() / math.sqrt(200)
    assert interval.half_width == pytest.approx(expected, rel=0.03)


def test_same_seed_same_interval():
    scores = random_scores()
    first = s.bootstrap(s.iqm, scores, seed=7, resamples=5000)
    assert s.bootstrap(s.iqm, scores, seed=7, resamples=5000) == first
    assert s.bootstrap(s.iqm, scores, seed=np.random.default_rng(7), resamples=5000) == first
    other = s.bootstrap(s.iqm, scores, seed=8, resamples=5000)
    assert other != first and other.value == first.value
    np.random.seed(0)
    assert s.bootstrap(s.iqm, scores, seed=7, resamples=5000) == first


def test_seeds_agree_to_within_simulation_error():
    scores = random_scores()
    ends = np.array([s.bootstrap(s.iqm, scores, seed=seed)[1:] for seed in range(4)])
    assert np.ptp(ends, axis=0).max() < 0.1


def test_bootstrap_of_the_iqm_covers_as_measured():
    # Nine tasks: 0.88 at 3 runs, about 0.94 at 10; narrower than nominal, never as bad as a single task's percentile.
    rng = np.random.default_rng(0)
    for runs, low, high in ((3, 0.82, 0.93), (10, 0.90, 0.98)):
        hits = 0
        for repeat in range(300):
            interval = s.bootstrap(
                s.iqm,
                {str(t): rng.normal(size=runs) for t in range(9)},
                seed=repeat,
                resamples=1000,
            )
            hits += interval.low <= 0 <= interval.high
        assert low < hits / 300 < high


def test_too_few_resamples_are_refused():
    scores = random_scores()
    for call in (
        lambda: s.bootstrap(s.iqm, scores, seed=0, resamples=999),
        lambda: s.probability_of_improvement_interval(scores, scores, seed=0, resamples=10),
        lambda: s.performance_profile(scores, [0.0], seed=0, resamples=10),
    ):
        with pytest.raises(UserError, match="1,000 or more"):
            call()


# ---- two algorithms


def test_probability_of_improvement_of_the_tortoises_and_hares():
    # The textbook example of the U test (finishing order T H H H H H T T T T T H): U is 11 and 25 of 36.
    order = "THHHHHTTTTTH"
    tortoises = [-place for place, animal in enumerate(order) if animal == "T"]
    hares = [-place for place, animal in enumerate(order) if animal == "H"]
    assert s.probability_of_improvement({"race": hares}, {"race": tortoises}) == pytest.approx(25 / 36)
    assert s.probability_of_improvement({"race": tortoises}, {"race": hares}) == pytest.approx(11 / 36)


def test_probability_of_improvement_counts_ties_half_and_averages_tasks():
    x, y = {"a": [1, 2], "b": [5.0]}, {"b": [5.0, 6.0, 4.0, 4.0], "a": [2, 2, 0]}
    # a: 1 beats 0; 2 ties twice and beats 0 -> (1 + 2) / 6; b: a tie, a loss, two wins -> 2.5 / 4
    assert s.probability_of_improvement(x, y) == pytest.approx((3 / 6 + 2.5 / 4) / 2)


def test_probability_of_improvement_is_the_u_statistic():
    x, y = random_scores(1, tasks=3, runs=6), random_scores(2, tasks=3, runs=8)
    shares = [stats.mannwhitneyu(x[task], y[task]).statistic / 48 for task in x]
    assert s.probability_of_improvement(x, y) == pytest.approx(np.mean(shares))
    assert s.probability_of_improvement(y, x) == pytest.approx(1 - np.mean(shares))
    assert s.probability_of_improvement(x, x) == 0.5


def test_probability_of_improvement_interval():
    x, y = random_scores(1, tasks=3), random_scores(2, tasks=3)
    interval = s.probability_of_improvement_interval(x, y, seed=0, resamples=4000)
    assert interval == s.probability_of_improvement_interval(x, y, seed=0, resamples=4000)
    assert 0 <= interval.low < interval.value < interval.high <= 1
    better = {task: runs + 1000 for task, runs in y.items()}
    assert s.probability_of_improvement_interval(better, y, seed=0) == (1, 1, 1)


def test_probability_of_improvement_interval_equals_a_plain_loop():
    x, y = {"a": np.array([1.0, 4.0, 6.0])}, {"a": np.array([2.0, 3.0, 5.0, 4.0])}
    rng, shares = np.random.default_rng(0), []
    for _ in range(20_000):
        a, b = rng.choice(x["a"], 3), rng.choice(y["a"], 4)
        shares.append(np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b)))
    interval = s.probability_of_improvement_interval(x, y, seed=1, resamples=20_000)
    assert interval.low == pytest.approx(np.quantile(shares, 0.025), abs=0.03)
    assert interval.high == pytest.approx(np.quantile(shares, 0.975), abs=0.03)


def test_comparison_needs_the_same_tasks():
    with pytest.raises(UserError, match="only one of them has runs on b"):
        s.probability_of_improvement({"a": [1.0], "b": [2.0]}, {"a": [1.0]})


# ---- profile


def test_performance_profile_by_hand():
    profile = s.performance_profile({"a": [1, 2], "b": [3, 4]}, [0, 1, 2.5, 4], seed=0)
    assert profile.share.tolist() == [1, 0.75, 0.5, 0]
    assert (profile.low <= profile.share).all() and (profile.share <= profile.high).all()
    # At 2.5 the tasks decide, and they are fixed; at 1 the share of task a is 0, 1/2 or 1.
    assert (profile.low[2], profile.high[2]) == (0.5, 0.5)
    assert (profile.low[1], profile.high[1]) == (0.5, 1.0)


def test_performance_profile_falls_and_repeats():
    thresholds = np.linspace(20, 100, 41)
    profile = s.performance_profile(random_scores(), thresholds, seed=5, resamples=2000)
    for line in (profile.share, profile.low, profile.high):
        assert (np.diff(line) <= 0).all()
    again = s.performance_profile(random_scores(), thresholds, seed=5, resamples=2000)
    assert np.array_equal(profile.low, again.low) and np.array_equal(profile.high, again.high)
    # The area under the profile is the mean score above the first threshold.
    fine = s.performance_profile(random_scores(), np.linspace(0, 120, 2401), seed=5, resamples=1000)
    assert fine.share.sum() * 0.05 == pytest.approx(s.estimate(s.mean, random_scores()), abs=0.06)


# ---- bad input


def test_bad_scores_are_named():
    with pytest.raises(UserError, match="run 1 of hop has no finite score"):
        s.estimate(s.iqm, {"hop": [1.0, math.nan]})
    with pytest.raises(UserError, match="shape"):
        s.estimate(s.iqm, {"hop": []})
    with pytest.raises(UserError, match="no scores"):
        s.bootstrap(s.iqm, {}, seed=0)
