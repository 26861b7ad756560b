"""Rows grouped into the cells of a table: what may be averaged, the runs of each cell, and their learning curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rlsuite.bench import statistics
from rlsuite.bench.statistics import Interval
from rlsuite.bench.units import unit_of
from rlsuite.errors import UserError, nearest

METRICS = ("score", "return", "auc")
# What must be one value, or numbers that do not measure the same thing would be averaged or compared.
ONE_VALUE = {
    "dataset_hash": "data sets with different content",
    "env": "environments",
    "score_reference": "score references",
    "policy_mode": "policy modes",
}


@dataclass(frozen=True)
class Failure:
    """A run without a score."""

    algorithm: str
    task: str
    seed: int
    status: str
    message: str
    update: int | None
    run_id: str


@dataclass(frozen=True)
class Curve:
    """Mean over runs at each evaluated position (updates or environment steps), with its Student-t band; all (P,).

    `runs` counts the runs behind it.
    """

    updates: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int


@dataclass(frozen=True)
class Cell:
    """One algorithm on one task: per-run means over the final episodes, and what became of the other runs."""

    algorithm: str
    task: str
    seeds: tuple[int, ...]
    returns: np.ndarray  # (n,) raw return of each finished run
    scores: np.ndarray | None  # (n,) normalised x100, None where the environment has no reference
    updates: int | None  # position of the final checkpoint: updates, or environment steps
    failures: tuple[Failure, ...] = ()
    areas: np.ndarray | None = None  # (n,) time average of each run's learning curve, where the metric is "auc"

    @property
    def runs(self) -> int:
        return len(self.returns)

    @property
    def few(self) -> bool:
        """Too few runs for the interval to be taken at its word."""
        return 0 < self.runs < statistics.FEW_RUNS

    def values(self, metric: str) -> np.ndarray:
        """(n,) of the finished runs, empty for scores where the environment has no reference."""
        values = {"score": self.scores, "return": self.returns, "auc": self.areas}[metric]
        return np.empty(0) if values is None else values

    def interval(self, metric: str) -> Interval | None:
        """Mean over runs with its 95 % Student-t interval, or None without a finished run or without a reference."""
        values = self.values(metric)
        return statistics.student_t(values) if len(values) else None


def check_metric(metric: str | None, until: int | None) -> None:
    """Raises UserError for an unknown metric, and for a cut that is none of learning curves."""
    if metric is not None and metric not in METRICS:
        raise UserError(f"there is no metric {metric!r}; {nearest(metric, METRICS)}")
    if until is not None and (metric != "auc" or until < 1):
        raise UserError(f"--until {until} cuts learning curves at a position from 1 on, for --metric auc; add that.")


def in_order(names: Iterable[str], first: Sequence[str]) -> tuple[str, ...]:
    """The distinct `names`: those in `first` in its order, then the others, sorted."""
    present = sorted(set(names))
    leading = [name for name in dict.fromkeys(first) if name in present]
    return *leading, *(name for name in present if name not in leading)


def check_comparable(ok: pd.DataFrame) -> None:
    """Refuse rows that must not be averaged or put side by side.

    All runs of a task must have one data content, environment, score reference, policy mode and protocol of each phase;
    each seed of a cell one run; all runs of a cell one final update and one number of final episodes.
    """
    for task, rows in ok.groupby("task", sort=True):
        for column, what in ONE_VALUE.items():
            _one(rows, column, f"{task} mixes {what}")
        for phase, part in rows.groupby("phase", sort=True):
            _one(part, "protocol", f"{task} mixes {phase} protocols")
    for (task, algorithm), rows in ok.groupby(["task", "algorithm"], sort=True):
        cell = f"{algorithm} on {task}"
        for seed, part in rows.groupby("seed", sort=True):
            _one(part, "run_id", f"{cell} has more than one run of seed {seed}")
        _one(rows, "config_hash", f"{cell} mixes runs of different settings")
        final = rows[rows["phase"] == "final"]
        unit = unit_of(str(rows["dataset"].iloc[0]))
        _one(final, "update", f"{cell} mixes final checkpoints of different {unit}")
        episodes = final.groupby("run_id", sort=True).size()
        if episodes.nunique() > 1:
            raise UserError(
                f"{cell}: run {episodes.idxmin()} has {episodes.min()} final episodes and run {episodes.idxmax()} has "
                f"{episodes.max()}; evaluate them alike, or remove the incomplete one from the results."
            )


def _one(rows: pd.DataFrame, column: str, sentence: str) -> None:
    values = sorted(rows[column].dropna().unique(), key=str)
    if len(values) > 1:
        shown = " and ".join(_short(column, value) for value in values[:2])
        raise UserError(f"{sentence} ({column} {shown}), which must not stand in one table; report them separately.")


def _short(column: str, value: object) -> str:
    return str(value)[:12] if column.endswith("hash") else f"{value}"


def find_failures(rows: pd.DataFrame) -> list[Failure]:
    """Rows of runs without a score, in a fixed order."""
    rows = rows.sort_values(["task", "algorithm", "seed"], kind="stable")
    return [
        Failure(
            str(row["algorithm"]),
            str(row["task"]),
            int(row["seed"]),
            str(row["status"]),
            str(row["message"]) or "no message",
            None if pd.isna(row["update"]) else int(row["update"]),
            str(row["run_id"]),
        )
        for row in rows.to_dict("records")
    ]


def make_cell(ok: pd.DataFrame, failures: Sequence[Failure], task: str, algorithm: str) -> Cell:
    """One cell from the rows of finished runs and all failures."""
    final = ok[(ok["task"] == task) & (ok["algorithm"] == algorithm) & (ok["phase"] == "final")]
    per_run = final.groupby("seed", sort=True)[["return", "score"]].mean()
    scores = per_run["score"].to_numpy(np.float64)
    return Cell(
        algorithm,
        task,
        tuple(int(seed) for seed in per_run.index),
        per_run["return"].to_numpy(np.float64),
        None if len(scores) and np.isnan(scores).any() else scores,
        int(final["update"].iloc[0]) if len(final) else None,
        tuple(f for f in failures if (f.task, f.algorithm) == (task, algorithm)),
    )


def curve_areas(ok: pd.DataFrame, cell: Cell, until: int | None) -> np.ndarray:
    """Time average of the learning curve of raw returns of each run of a cell, (n,); see `evaluation_curve`."""
    rows = ok[(ok["task"] == cell.task) & (ok["algorithm"] == cell.algorithm)]
    areas = []
    for seed in cell.seeds:
        updates, returns = evaluation_curve(rows[rows["seed"] == seed], until)
        if len(updates) < 2:
            where, advice = ("", "") if until is None else (f" up to {until:,}", " or a later --until")
            raise UserError(
                f"{cell.algorithm} on {cell.task}, seed {seed}, was evaluated at fewer than two positions{where}, so "
                f"its learning curve has no time average; ask for another metric{advice}."
            )
        areas.append(np.trapezoid(returns, updates) / (updates[-1] - updates[0]))
    return np.array(areas)


def evaluation_curve(run: pd.DataFrame, until: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Evaluated positions of one run and the mean raw return at each, both (P,).

    The final evaluation is a point where it lies later than every interim one. `until` cuts the curve there, at the
    value on the line between its neighbours.
    """
    means = run.groupby(["phase", "update"], sort=True)["return"].mean()
    parts = [means.loc[phase] for phase in ("interim", "final") if phase in means.index.get_level_values(0)]
    curve = pd.concat(parts)
    curve = curve[~curve.index.duplicated()].sort_index()
    updates, returns = curve.index.to_numpy(np.float64), curve.to_numpy(np.float64)
    if until is not None and until < updates[-1]:
        before = updates < until
        end = np.interp(until, updates, returns)
        return np.append(updates[before], until), np.append(returns[before], end)
    return updates, returns


def mean_curve(ok: pd.DataFrame, task: str, algorithm: str, metric: str) -> Curve | None:
    """The learning curve over the positions at which every run was evaluated; None with fewer than two such points."""
    rows = ok[(ok["task"] == task) & (ok["algorithm"] == algorithm)]
    column = "score" if metric == "score" else "return"
    per_run = rows.groupby(["phase", "update", "seed"], sort=True)[column].mean().unstack("seed")
    if per_run.empty:
        return None
    parts = [per_run.loc[phase] for phase in ("final", "interim") if phase in per_run.index.get_level_values(0)]
    # Where a final and an interim evaluation fall on one update, the final one has more episodes.
    points = pd.concat(parts)
    points = points[~points.index.duplicated()].dropna().sort_index()
    if len(points) < 2:
        return None
    values = points.to_numpy(np.float64)
    mean, half = values.mean(axis=1), statistics.student_t_half_width(values)
    return Curve(points.index.to_numpy(np.int64), mean, mean - half, mean + half, values.shape[1])
