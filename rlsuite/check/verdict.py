"""What a check says of the runs of a case, level by level, given the stored ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rlsuite.bench.difference import rank_sum_p
from rlsuite.check.baseline import Baseline, rounded
from rlsuite.check.cell import SCORE

LEVELS = ("sanity", "statistical", "exact")
ALPHA = 0.01  # probability of a false alarm anywhere in a suite
RESOLUTION = 1e-4  # of a measure's largest stored size; smaller differences are rounding, not behaviour
SLACK = 1e-6  # a return may be above the best by this much, for it was summed in another order

State = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Verdict:
    """One level of one case. `notes` are sentences: why it failed or was skipped."""

    state: State
    notes: tuple[str, ...] = ()
    p: float = math.nan  # of the score, at the statistical level


@dataclass(frozen=True)
class Judged:
    """A case and what is said of it."""

    name: str
    runs: list[dict[str, Any]]
    baseline: Baseline | None
    levels: dict[str, Verdict] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return any(verdict.state == "failed" for verdict in self.levels.values())

    @property
    def scores(self) -> list[float]:
        return [run["measures"][SCORE] for run in self.runs if "measures" in run]


def sanity(runs: list[dict[str, Any]], baseline: Baseline | None, best: float | None) -> Verdict:
    """Every run was finished (so its metrics were finite), made all its updates, and moved its weights.

    Where there is a baseline, every number that moved in all stored runs must have moved: a target network that stands
    still or a frozen normaliser shows here. No return is above the `best` that the task has.
    """
    notes = []
    for run in runs:
        if "failure" in run:
            notes.append(f"seed {run['seed']}: {run['failure']}")
        elif run["update"] != run["updates"]:
            notes.append(f"seed {run['seed']}: {run['update']} of {run['updates']} updates were made")
        else:
            weights = [path for path in run["moved"] if "weight" in path or "bias" in path]
            still = sorted((baseline.moved if baseline else frozenset()) - set(run["moved"]))
            if not weights and not baseline:
                notes.append(f"seed {run['seed']}: no weight of the learner moved")
            if still:
                more = f" and {len(still) - 1} more" if len(still) > 1 else ""
                notes.append(f"seed {run['seed']}: {still[0]}{more} did not move, as in all stored runs")
            if best is not None and run["highest"] > best + SLACK:
                notes.append(f"seed {run['seed']}: a return of {run['highest']:g} is above the best there is, {best:g}")
    return Verdict("failed" if notes else "ok", tuple(notes))


def statistical(runs: list[dict[str, Any]], baseline: Baseline | None, alpha: float, cases: int) -> Verdict:
    """Wilcoxon's exact rank-sum test of the runs against the stored ones, of every measure.

    Of the score only less is worse, so its test is one-sided, at alpha / 2 / `cases`; the other measures of a case
    share as much, two-sided. By Bonferroni's inequality a suite of `cases` then errs anywhere with probability at most
    alpha, however its measures depend on each other and whatever their distributions.
    """
    if baseline is None:
        return Verdict("failed", ("there is no baseline; record one with --update",))
    finished = [run for run in runs if "measures" in run]
    if not finished:
        return Verdict("skipped", ("no run has finished",))
    notes, score_p = [], math.nan
    level = alpha / 2 / cases
    others = max(1, len(baseline.measures) - 1)
    for name, stored in baseline.measures.items():
        new = np.array([rounded(run["measures"][name]) for run in finished if name in run["measures"]])
        if not len(new):
            notes.append(f"{name} is no longer measured")
            continue
        grain = RESOLUTION * max(float(np.abs(stored).max()), 1e-12)
        is_score = name == SCORE
        p = rank_sum_p(np.round(stored / grain), np.round(new / grain), "less" if is_score else "two-sided")
        if is_score:
            score_p = p
        if p <= (level if is_score else level / others):
            notes.append(
                f"{name} is {_range(new)}, in {len(stored)} stored runs {_range(stored)} "
                f"(p = {p:.1g}{', worse' if is_score else ''})"
            )
    return Verdict("failed" if notes else "ok", tuple(notes), score_p)


def exact(runs: list[dict[str, Any]], baseline: Baseline | None, here: dict[str, Any]) -> Verdict:
    """The digests of the runs are the stored ones; skipped where processor class or versions are not the recorded."""
    if baseline is None:
        return Verdict("skipped", ("there is no baseline",))
    there = baseline.recorded
    if here["cpu_class"] != there["cpu_class"]:
        return Verdict("skipped", (f"recorded on {there['cpu_class']}, this is {here['cpu_class']}",))
    other = [
        f"{package} {version}, here {here['versions'].get(package)}"
        for package, version in there["versions"].items()
        if here["versions"].get(package) != version
    ]
    if other:
        return Verdict("skipped", (f"recorded with {other[0]}",))
    repeated = [run for run in runs if "digest" in run and run["seed"] in baseline.digests]
    if not repeated:
        return Verdict("skipped", ("no finished run has the seed of a stored digest",))
    changed = [run["seed"] for run in repeated if run["digest"] != baseline.digests[run["seed"]]]
    if changed:
        return Verdict("failed", (f"the bits of {len(changed)} of {len(repeated)} runs changed",))
    return Verdict("ok")


def _range(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    return f"{middle:.4g} ({low:.4g} to {high:.4g})"
