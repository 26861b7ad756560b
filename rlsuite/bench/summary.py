"""From rows to the numbers of a report: cells, aggregates, comparisons, curves, published scores, warnings.

`summarise` is a pure function of the rows and the options; it writes nothing and draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from rlsuite.bench import statistics, words
from rlsuite.bench.cells import (
    Cell,
    Curve,
    Failure,
    check_comparable,
    check_metric,
    curve_areas,
    find_failures,
    in_order,
    make_cell,
    mean_curve,
)
from rlsuite.bench.published import Published, published_beside
from rlsuite.bench.statistics import Interval, Profile
from rlsuite.bench.units import STEPS, UPDATES, unit_of
from rlsuite.errors import UserError, nearest

EXPERT_SCORE = 100.0  # the optimality gap counts what is missing to the reference's expert
PROFILE_POINTS = 101


@dataclass(frozen=True)
class Aggregate:
    """One statistic over all tasks, for each algorithm; None where an algorithm has no finished run on some task."""

    name: str
    help: str
    values: dict[str, Interval | None]
    digits: int = 1


@dataclass(frozen=True)
class Summary:
    """Everything that a report says, ready to be written in any format."""

    metric: str
    algorithms: tuple[str, ...]
    tasks: tuple[str, ...]
    task_metrics: dict[str, str]  # "return" for a task without reference, even where scores are asked for
    units: dict[str, str]  # what the positions of a task's runs count
    until: int | None  # position at which the curves are cut for "auc"
    baseline: str
    cells: dict[tuple[str, str], Cell]  # by (task, algorithm)
    aggregates: tuple[Aggregate, ...]
    profiles: dict[str, Profile]
    curves: dict[tuple[str, str], Curve]
    published: tuple[Published, ...]
    failures: tuple[Failure, ...]
    protocol: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    provenance: dict[str, str] = field(default_factory=dict)

    @property
    def planned(self) -> int:
        """Runs in the table, finished or not."""
        return sum(cell.runs + len(cell.failures) for cell in self.cells.values())

    @property
    def unit(self) -> str:
        """What positions count in this table, "updates or environment steps" where it has both kinds of task."""
        return " or ".join(dict.fromkeys(self.units.values()))

    def online(self, task: str) -> bool:
        """Whether a task is an environment to learn in, and no dataset."""
        return self.units[task] == STEPS


def summarise(
    rows: pd.DataFrame,
    *,
    algorithms: Sequence[str] = (),
    tasks: Sequence[str] = (),
    baseline: str | None = None,
    metric: str | None = None,
    until: int | None = None,
    resamples: int = statistics.RESAMPLES,
    seed: int = 0,
) -> Summary:
    """All numbers of a report from the rows of `rows.read`.

    `algorithms` and `tasks` give the order (others follow, sorted); `baseline` is the first algorithm by default,
    `metric` "score", or "return" in a table of environments without a reference. "auc" is the time average of each
    run's learning curve of raw returns (`curve_areas`), `until` the position at which that ends. Raises UserError where
    rows of one cell or one task do not measure the same thing, where a run has no such curve, and on bad options.
    """
    check_metric(metric, until)
    if rows.empty:
        raise UserError("there are no rows to report; run `rlsuite bench` first.")
    if resamples < statistics.MIN_RESAMPLES:
        least = statistics.MIN_RESAMPLES
        raise UserError(f"--resamples {resamples} is too few for the ends of an interval; ask for at least {least:,}.")
    units = {str(task): _unit(part) for task, part in rows.groupby("task", sort=True)}
    if metric is None:
        metric = "score" if UPDATES in units.values() or rows["score"].notna().any() else "return"
    algorithms = in_order(rows["algorithm"], algorithms)
    tasks = in_order(rows["task"], tasks)
    if baseline is not None and baseline not in algorithms:
        raise UserError(f"the baseline {baseline!r} has no rows here; {nearest(baseline, algorithms)}")
    baseline = baseline or algorithms[0]

    ok = rows[rows["status"] == "ok"]
    failures = tuple(find_failures(rows[rows["status"] != "ok"]))
    check_comparable(ok)
    cells = {(task, algorithm): make_cell(ok, failures, task, algorithm) for task in tasks for algorithm in algorithms}
    if metric == "auc":
        cells = {key: replace(cell, areas=curve_areas(ok, cell, until)) for key, cell in cells.items()}
    task_metrics = {task: _task_metric(task, algorithms, cells, metric) for task in tasks}
    curves = {key: curve for key in cells if (curve := mean_curve(ok, *key, task_metrics[key[0]])) is not None}

    values = {  # what is aggregated: runs by algorithm and task, only of tasks measured in the table's metric
        algorithm: {
            task: cells[task, algorithm].values(metric)
            for task in tasks
            if task_metrics[task] == metric and cells[task, algorithm].runs
        }
        for algorithm in algorithms
    }
    shared = [task for task in tasks if task_metrics[task] == metric]
    # Raw returns of different tasks have different units, and only scores may be pooled over tasks.
    poolable = bool(shared) and (metric == "score" or len(shared) == 1)
    complete = {a: v for a, v in values.items() if poolable and len(v) == len(shared)}
    online = all(units[task] == STEPS for task in shared)
    aggregates = _aggregates(algorithms, complete, metric, len(shared), online, resamples, seed) if complete else []
    if len(algorithms) > 1:
        aggregates.append(_improvement(algorithms, cells, tasks, task_metrics, baseline, resamples, seed))
    return Summary(
        metric=metric,
        algorithms=algorithms,
        tasks=tasks,
        task_metrics=task_metrics,
        units={task: units[task] for task in tasks},
        until=until,
        baseline=baseline,
        cells=cells,
        aggregates=tuple(aggregates),
        profiles=_profiles(complete, resamples, seed),
        curves=curves,
        published=tuple(published_beside(ok, cells, tasks, algorithms, metric, until)),
        failures=failures,
        protocol=tuple(words.protocol(ok, task_metrics, units, until)),
        notes=tuple(words.notes(cells, [a.name for a in aggregates], len(shared) or len(tasks), resamples, seed)),
        warnings=tuple(words.warnings(ok, cells, algorithms, tasks, task_metrics, units, metric)),
        provenance=words.provenance(ok),
    )


def _aggregates(
    algorithms: Sequence[str],
    complete: dict[str, dict[str, np.ndarray]],
    metric: str,
    tasks: int,
    online: bool,
    resamples: int,
    seed: int,
) -> list[Aggregate]:
    small = max(np.abs(runs).max() for of_tasks in complete.values() for runs in of_tasks.values()) < 10
    digits = 2 if metric != "score" and online and small else 1
    wanted: list[tuple[str, str, statistics.Statistic]]
    wanted = [("IQM", "interquartile mean of all runs and tasks", statistics.iqm)]
    if tasks > 1:
        wanted.append(("Median", "median over tasks of the mean over runs", statistics.median))
        wanted.append(("Mean", "mean over tasks of the mean over runs", statistics.mean))
    if metric == "score":
        gap = statistics.optimality_gap(EXPERT_SCORE)
        wanted.append(("Optimality gap", f"mean shortfall below {EXPERT_SCORE:.0f}, lower is better", gap))
    return [
        Aggregate(
            name,
            help,
            {
                a: statistics.bootstrap(statistic, complete[a], statistics.stream(seed, name, a), resamples)
                if a in complete
                else None
                for a in algorithms
            },
            digits,
        )
        for name, help, statistic in wanted
    ]


def _improvement(
    algorithms: Sequence[str],
    cells: dict[tuple[str, str], Cell],
    tasks: Sequence[str],
    task_metrics: dict[str, str],
    baseline: str,
    resamples: int,
    seed: int,
) -> Aggregate:
    """P(a run of the algorithm beats one of the baseline). It compares within tasks, so the unit does not matter."""
    runs = {a: {t: cells[t, a].values(task_metrics[t]) for t in tasks if cells[t, a].runs} for a in algorithms}
    values = {
        a: statistics.probability_of_improvement_interval(
            runs[a], runs[baseline], statistics.stream(seed, "improvement", a, baseline), resamples
        )
        if a != baseline and len(runs[a]) == len(runs[baseline]) == len(tasks)
        else None
        for a in algorithms
    }
    help = f"share of pairs of runs in which the algorithm is above {baseline}, mean over tasks"
    return Aggregate(f"P(better than {baseline})", help, values, digits=2)


def _profiles(complete: dict[str, dict[str, np.ndarray]], resamples: int, seed: int) -> dict[str, Profile]:
    if len(complete) < 2:
        return {}
    pooled = np.concatenate([np.concatenate(list(scores.values())) for scores in complete.values()])
    margin = 0.05 * (np.ptp(pooled) or 1.0)
    thresholds = np.linspace(pooled.min() - margin, pooled.max() + margin, PROFILE_POINTS)
    return {
        a: statistics.performance_profile(scores, thresholds, statistics.stream(seed, "profile", a), resamples)
        for a, scores in complete.items()
    }


def _task_metric(task: str, algorithms: Sequence[str], cells: dict[tuple[str, str], Cell], metric: str) -> str:
    has_reference = metric != "score" or all(cells[task, algorithm].scores is not None for algorithm in algorithms)
    return metric if has_reference else "return"


def _unit(rows: pd.DataFrame) -> str:
    known = rows[rows["env"] != ""]  # not runs that ended before they opened anything
    return unit_of(str(known["dataset"].max())) if len(known) else UPDATES
