"""The three levels on runs that are made up, so that each thing they look at can be broken alone."""

from __future__ import annotations

import numpy as np
import pytest

from rlsuite.check.baseline import Baseline
from rlsuite.check.cell import SCORE
from rlsuite.check.verdict import exact, sanity, statistical

HERE = {"cpu_class": "this", "versions": {"torch": "2.0", "numpy": "2.1"}}
MOVED = ["agent.actor.weight0", "agent.target.weight0"]


def baseline(rng, runs=60, **given):
    measures = {SCORE: rng.normal(100, 5, runs), "loss late": rng.normal(1, 0.1, runs)}
    return Baseline(
        {"algorithm": "x", "given": {}}, HERE, {**measures, **given}, frozenset(MOVED), {s: f"d{s}" for s in range(5)}
    )


def clean(rng, **measures):
    return [
        {
            "seed": seed,
            "update": 10,
            "updates": 10,
            "highest": 120.0,
            "measures": {SCORE: rng.normal(100, 5), "loss late": rng.normal(1, 0.1), **measures},
            "moved": list(MOVED),
            "digest": f"d{seed}",
        }
        for seed in range(5)
    ]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_clean_case_passes_every_level(rng):
    stored, runs = baseline(rng), clean(rng)
    assert sanity(runs, stored, 121.0).state == "ok"
    assert statistical(runs, stored, 0.01, 10).state == "ok"
    assert exact(runs, stored, HERE).state == "ok"


def test_sanity_names_what_each_run_lacks(rng):
    stored, runs = baseline(rng), clean(rng)
    runs[0] = {"seed": 0, "failure": "loss is nan at update 7"}
    runs[1]["update"] = 9
    runs[2]["moved"] = MOVED[:1]
    runs[3]["highest"] = 120.1
    found = sanity(runs, stored, 120.0)
    assert found.state == "failed"
    assert found.notes == (
        "seed 0: loss is nan at update 7",
        "seed 1: 9 of 10 updates were made",
        "seed 2: agent.target.weight0 did not move, as in all stored runs",
        "seed 3: a return of 120.1 is above the best there is, 120",
    )


def test_sanity_needs_no_baseline_to_see_that_nothing_was_learnt(rng):
    runs = clean(rng)
    assert sanity(runs, None, None).state == "ok"
    runs[4]["moved"] = ["agent.updates"]
    assert sanity(runs, None, None).notes == ("seed 4: no weight of the learner moved",)


def test_a_lower_return_is_worse_and_a_higher_one_is_not(rng):
    stored = baseline(rng)
    lower, higher = (clean(rng, **{SCORE: value}) for value in (70.0, 130.0))
    found = statistical(lower, stored, 0.01, 10)
    assert found.state == "failed" and "return is 70" in found.notes[0] and found.notes[0].endswith("worse)")
    assert found.p < 1e-6
    assert statistical(higher, stored, 0.01, 10).state == "ok"


@pytest.mark.parametrize("value", [0.2, 1.8])
def test_another_measure_fails_in_both_directions(rng, value):
    found = statistical(clean(rng, **{"loss late": value}), baseline(rng), 0.01, 10)
    assert found.state == "failed" and found.notes[0].startswith("loss late is ")


def test_a_measure_that_is_gone_fails_and_one_that_some_runs_lack_does_not(rng):
    stored, runs = baseline(rng), clean(rng)
    del runs[0]["measures"]["loss late"]
    assert statistical(runs, stored, 0.01, 10).state == "ok"
    for run in runs:
        run["measures"].pop("loss late", None)
    assert statistical(runs, stored, 0.01, 10).notes == ("loss late is no longer measured",)


def test_rounding_is_no_change_of_behaviour(rng):
    """Another processor may add up in another order: a constant that moves in its sixth digit is the same constant."""
    stored = baseline(rng, constant=np.full(60, 0.125))
    assert statistical(clean(rng, constant=0.125 * (1 + 1e-6)), stored, 0.01, 10).state == "ok"
    assert statistical(clean(rng, constant=0.125 * (1 + 1e-3)), stored, 0.01, 10).state == "failed"


def test_without_a_baseline_nothing_is_guarded(rng):
    assert statistical(clean(rng), None, 0.01, 10).state == "failed"
    assert exact(clean(rng), None, HERE).state == "skipped"


def test_false_alarms_of_a_suite_stay_below_what_is_stated():
    """400 clean suites of 5 cases at a stated rate of 20 %: both kinds of tests together alarm in at most so many."""
    rng, alarms = np.random.default_rng(3), 0
    for _ in range(400):
        alarms += any(statistical(clean(rng), baseline(rng), 0.2, 5).state == "failed" for _ in range(5))
    assert 0.05 * 400 < alarms <= 0.2 * 400 + 3 * np.sqrt(400 * 0.2 * 0.8)  # not so few that it could find nothing


def test_bits_are_compared_only_where_they_can_be_the_same(rng):
    stored, runs = baseline(rng), clean(rng)
    runs[1]["digest"] = "other"
    assert exact(runs, stored, HERE).notes == ("the bits of 1 of 5 runs changed",)
    elsewhere = exact(runs, stored, {**HERE, "cpu_class": "that"})
    assert elsewhere.state == "skipped" and "recorded on this, this is that" in elsewhere.notes[0]
    newer = exact(runs, stored, {**HERE, "versions": {"torch": "2.1", "numpy": "2.1"}})
    assert newer.state == "skipped" and "recorded with torch 2.0, here 2.1" in newer.notes[0]
