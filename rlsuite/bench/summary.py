"""From rows to the numbers of a report: cells, aggregates, comparisons, curves, published scores, warnings.

`summarise` is a pure function of the rows and the options; it writes nothing and draws nothing.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlsuite.bench import statistics
from rlsuite.bench.statistics import Interval, Profile
from rlsuite.bench.units import STEPS, UPDATES, unit_of
from rlsuite.errors import UserError, nearest
from rlsuite.harness.environments import ATARI

METRICS = ("score", "return", "auc")
EXPERT_SCORE = 100.0  # the optimality gap counts what is missing to the reference's expert
PROFILE_POINTS = 101
_D4RL_ENVIRONMENTS = {
    "hopper": "Hopper-v2",
    "halfcheetah": "HalfCheetah-v2",
    "walker2d": "Walker2d-v2",
}
_VERSION = re.compile(r"-v\d+$")
PUBLISHED = Path(__file__).with_name("published_scores.csv")

# What must be one value, or numbers that do not measure the same thing would be averaged or compared.
_ONE_VALUE = {
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


@dataclass(frozen=True)
class Aggregate:
    """One statistic over all tasks, for each algorithm; None where an algorithm has no finished run on some task."""

    name: str
    help: str
    values: dict[str, Interval | None]
    digits: int = 1


@dataclass(frozen=True)
class Published:
    """A published number for a task and algorithm of the table, and how what it measured differs."""

    algorithm: str
    task: str
    label: str
    original: str  # the dataset or environment that it was measured on
    metric: str  # which of ours it stands beside
    mean: float
    spread: float
    spread_kind: str
    differs: str
    source: str


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
    run's learning curve of raw returns (`area`), `until` the position at which that ends. Raises UserError where rows
    of one cell or one task do not measure the same thing, where a run has no such curve, and on bad options.
    """
    if metric is not None and metric not in METRICS:
        raise UserError(f"there is no metric {metric!r}; {nearest(metric, METRICS)}")
    if until is not None and (metric != "auc" or until < 1):
        raise UserError(f"--until {until} cuts learning curves at a position from 1 on, for --metric auc; add that.")
    if rows.empty:
        raise UserError("there are no rows to report; run `rlsuite bench` first.")
    if resamples < statistics.MIN_RESAMPLES:
        least = statistics.MIN_RESAMPLES
        raise UserError(f"--resamples {resamples} is too few for the ends of an interval; ask for at least {least:,}.")
    units = {str(task): _unit(part) for task, part in rows.groupby("task", sort=True)}
    if metric is None:
        metric = "score" if UPDATES in units.values() or rows["score"].notna().any() else "return"
    algorithms = _ordered(rows["algorithm"], algorithms)
    tasks = _ordered(rows["task"], tasks)
    if baseline is not None and baseline not in algorithms:
        raise UserError(f"the baseline {baseline!r} has no rows here; {nearest(baseline, algorithms)}")
    baseline = baseline or algorithms[0]

    ok = rows[rows["status"] == "ok"]
    failures = tuple(_failures(rows[rows["status"] != "ok"]))
    check_comparable(ok)
    cells = {(task, algorithm): _cell(ok, failures, task, algorithm) for task in tasks for algorithm in algorithms}
    if metric == "auc":
        cells = {key: replace(cell, areas=_areas(ok, cell, until)) for key, cell in cells.items()}
    task_metrics = {task: _task_metric(task, algorithms, cells, metric) for task in tasks}
    curves = {key: curve for key in cells if (curve := _curve(ok, *key, task_metrics[key[0]])) is not None}

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
        published=tuple(_published(ok, cells, tasks, algorithms, metric, until)),
        failures=failures,
        protocol=tuple(_protocol(ok, task_metrics, units, until)),
        notes=tuple(_notes(cells, aggregates, len(shared) or len(tasks), resamples, seed)),
        warnings=tuple(_warnings(ok, cells, algorithms, tasks, task_metrics, units, metric)),
        provenance=_provenance(ok),
    )


# ---- cells ---------------------------------------------------------------------------------------


def check_comparable(ok: pd.DataFrame) -> None:
    """Refuse rows that must not be averaged or put side by side.

    All runs of a task must have one data content, environment, score reference, policy mode and protocol of each phase;
    each seed of a cell one run; all runs of a cell one final update and one number of final episodes.
    """
    for task, rows in ok.groupby("task", sort=True):
        for column, what in _ONE_VALUE.items():
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


def _failures(rows: pd.DataFrame) -> list[Failure]:
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


def _cell(ok: pd.DataFrame, failures: Sequence[Failure], task: str, algorithm: str) -> Cell:
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


def _unit(rows: pd.DataFrame) -> str:
    known = rows[rows["env"] != ""]  # not runs that ended before they opened anything
    return unit_of(str(known["dataset"].max())) if len(known) else UPDATES


def _areas(ok: pd.DataFrame, cell: Cell, until: int | None) -> np.ndarray:
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


def _task_metric(task: str, algorithms: Sequence[str], cells: dict[tuple[str, str], Cell], metric: str) -> str:
    has_reference = metric != "score" or all(cells[task, algorithm].scores is not None for algorithm in algorithms)
    return metric if has_reference else "return"


def _curve(ok: pd.DataFrame, task: str, algorithm: str, metric: str) -> Curve | None:
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


# ---- aggregates ----------------------------------------------------------------------------------


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
                a: statistics.bootstrap(statistic, complete[a], _stream(seed, name, a), resamples)
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
            runs[a], runs[baseline], _stream(seed, "improvement", a, baseline), resamples
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
        a: statistics.performance_profile(scores, thresholds, _stream(seed, "profile", a), resamples)
        for a, scores in complete.items()
    }


def _stream(seed: int, *names: str) -> list[int]:
    """Entropy named by what it is for, so that an interval does not move when another algorithm joins the table."""
    return [seed, *(zlib.crc32(name.encode()) for name in names)]


# ---- published numbers ---------------------------------------------------------------------------


@cache
def published_scores() -> pd.DataFrame:
    """The published numbers that ship with the package, one row a number, each with its source.

    `algorithm` is the label that it stands beside, `task` the dataset or environment that it was measured on, `budget`
    the length of those runs in updates or environment steps. `metric` is "score" (normalised x 100), "auc" (time
    average of the learning curve of returns up to `until`) or "final5" (mean return of the last five evaluations).
    """
    return pd.read_csv(PUBLISHED)


def d4rl_name(dataset: str) -> str | None:
    """The D4RL v2 locomotion dataset that a dataset's name corresponds to, or None.

    >>> d4rl_name("rlsuite/hopper/medium-v0")
    'hopper-medium-v2'
    """
    stem = re.sub(r"\.(hdf5|h5)$", "", dataset)
    pattern = (
        r"(?:^|/)(hopper|halfcheetah|walker2d)[-_/](random|medium|expert|medium-replay|medium-expert|full-replay)-v\d+$"
    )
    found = re.search(pattern, stem.lower())
    return f"{found[1]}-{found[2]}-v2" if found else None


def _published(
    ok: pd.DataFrame,
    cells: dict[tuple[str, str], Cell],
    tasks: Sequence[str],
    algorithms: Sequence[str],
    metric: str,
    until: int | None,
) -> list[Published]:
    found, table = [], published_scores()
    for task in tasks:
        rows = ok[ok["task"] == task]
        datasets = [name for name in rows["dataset"].unique() if name]
        reference = d4rl_name(datasets[0]) if datasets else None
        for algorithm in algorithms if len(rows) else ():
            known = table[table["algorithm"] == algorithm]
            if datasets:
                known, ours = known[known["task"] == reference], "score"
            else:
                ours = "auc" if metric == "auc" else "return"
                end = min(until or math.inf, cells[task, algorithm].updates or math.inf)
                known = _of_environment(known, str(rows["env"].iloc[0]), ours, end)
            for row in known.to_dict("records"):
                original, spread_kind, source = str(row["task"]), str(row["spread_kind"]), str(row["source"])
                differs = _differs_offline(row) if datasets else _differs_online(row, str(rows["env"].iloc[0]))
                numbers = float(row["mean"]), float(row["spread"])
                found.append(
                    Published(
                        *(algorithm, task, str(row["label"]), original, ours, *numbers, spread_kind),
                        ", ".join([*differs, f"{row['seeds']} seeds"]),
                        source,
                    )
                )
    return found


def _of_environment(table: pd.DataFrame, env: str, ours: str, end: float) -> pd.DataFrame:
    """Numbers of `env` in any version; of averages over learning curves those whose end is nearest to `end`."""
    named = table["task"].str.replace(_VERSION, "", regex=True) == _VERSION.sub("", env)
    table = table[named & (table["metric"] == ("auc" if ours == "auc" else "final5"))]
    distance = np.abs(np.log(table["until"] / end))
    return table[distance == distance.min()] if ours == "auc" else table


def _differs_offline(row: dict[Hashable, Any]) -> list[str]:
    environment = _D4RL_ENVIRONMENTS[str(row["task"]).split("-")[0]]
    return ["D4RL v2 data", f"{environment} env", f"{_round(row['budget'])} updates"]


def _differs_online(row: dict[Hashable, Any], env: str) -> list[str]:
    budget = f"{_round(row['budget'])} environment steps"
    if row["metric"] == "final5":
        what = f"mean return of the last five evaluations of {budget}, not of the final checkpoint"
    elif row["until"] < row["budget"]:
        what = f"average return over the first {_round(row['until'])} of {budget}"
    else:
        what = f"average return over {budget}"
    return [what] if row["task"] == env else [f"another version than {env}", what]


def _round(n: int) -> str:
    return f"{n // 1_000_000}M" if n % 1_000_000 == 0 else f"{n:,}"


# ---- words ---------------------------------------------------------------------------------------


def _protocol(ok: pd.DataFrame, task_metrics: dict[str, str], units: dict[str, str], until: int | None) -> list[str]:
    """What a number means, in sentences."""
    final = ok[ok["phase"] == "final"]
    if final.empty:
        return ["No run of this table has finished."]
    lines = []
    if "score" in task_metrics.values():
        scored = final[final["score_reference"] != ""]
        tasks = {label: sorted(set(rows["task"])) for label, rows in scored.groupby("score_reference")}
        named = [label if len(tasks) == 1 else f"{label} for {', '.join(of)}" for label, of in tasks.items()]
        lines.append(
            "Score: normalised return \N{MULTIPLICATION SIGN} 100 (0 is the random policy, 100 the expert; "
            f"reference: {'; '.join(named)})."
        )
    average = "auc" in task_metrics.values()
    if "return" in task_metrics.values() or average:
        lines.append("Return: undiscounted sum of the rewards of an episode.")
    if average:
        lines.append(_average_line(ok, units, until))
    presets = sorted({env.partition("/")[0] for env in ok["env"]} & set(ATARI))
    if presets:
        lines.append(
            f"Atari, preset {' and '.join(presets)}: an environment step is one action of the agent, held for 4 frames "
            "(frames = 4 \N{MULTIPLICATION SIGN} steps); returns are raw scores at game over."
        )
    episodes = _listed(final.groupby("run_id").size())
    modes = " or ".join(sorted(final["policy_mode"].unique()))
    updates = _positions(final.groupby("run_id")[["task", "update"]].first(), units)
    seeds = _listed(final.groupby(["task", "algorithm"])["seed"].nunique())
    protocols = ", ".join(sorted(final["protocol"].unique()))
    lines.append(
        f"{'Final return' if average else 'Each run'}: its final checkpoint, after {updates}, on {episodes} fresh "
        f"episodes with the {modes} policy (protocol {protocols})"
        + ("." if average else "; the mean over episodes is the run's one number.")
    )
    lines.append(
        f"Each cell: mean ± half-width of the 95 % Student-t interval over its finished runs, one a seed ({seeds})."
    )
    return lines


def _average_line(ok: pd.DataFrame, units: dict[str, str], until: int | None) -> str:
    """What "auc" is."""
    ends = ok.groupby("run_id").agg(task=("task", "first"), first=("update", "min"), last=("update", "max"))
    first = _positions(ends.rename(columns={"first": "update"}), units)
    last = _positions(ends.assign(update=ends["last"].clip(upper=until)), units)
    protocols = ", ".join(sorted(ok.loc[ok["phase"] == "interim", "protocol"].unique()))
    cut = [until is not None and until < end for end in ends["last"]]
    where = "the cut" if all(cut) else "the cut or its last" if any(cut) else "its last"
    return (
        "Each run: the average return (auc), that is the time average (trapezoid rule) of its learning curve of raw "
        f"returns, from its first evaluation, at {first}, to {where}, at {last}; "
        f"the curve has the interim evaluations (protocol {protocols}), and the final one where it lies later."
    )


def _positions(rows: pd.DataFrame, units: dict[str, str]) -> str:
    """The positions of `rows`, each kind with its unit."""
    kinds = rows["task"].map(units)
    present = [unit for unit in dict.fromkeys(units.values()) if (kinds == unit).any()]
    return " or ".join(f"{_listed(rows.loc[kinds == unit, 'update'])} {unit}" for unit in present)


def _listed(values: pd.Series) -> str:
    return " / ".join(f"{int(value):,}" for value in sorted(values.unique()))


def _notes(
    cells: dict[tuple[str, str], Cell],
    aggregates: Sequence[Aggregate],
    tasks: int,
    resamples: int,
    seed: int,
) -> list[str]:
    notes = []
    if len({algorithm for _, algorithm in cells}) > 1:
        notes.append(
            "Bold: the highest mean of a task, and every mean whose interval overlaps with that one's; nothing where "
            "all do."
        )
    if any(cell.few for cell in cells.values()):
        notes.append(f"† under {statistics.FEW_RUNS} runs: read the interval as a rough guide only.")
    if any(cell.failures for cell in cells.values()):
        notes.append("‡ runs of this cell failed; the mean is over those that finished, so it may be too high.")
    if aggregates:
        over = f"{tasks} tasks" if tasks != 1 else "one task"
        notes.append(
            f"Aggregates over {over}: 95 % percentile interval of {resamples:,} bootstrap resamples of the runs within "
            f"each task (seed {seed}). With few runs such intervals are too narrow: three runs on nine tasks cover "
            "about 88 % instead of 95 %, three runs on one task about 73 %."
        )
    if len({cell.runs for cell in cells.values()}) > 1 and tasks > 1 and aggregates and aggregates[0].name == "IQM":
        notes.append("IQM and optimality gap pool all runs, so a task with fewer finished runs weighs less in them.")
    if aggregates and not all(cell.runs for cell in cells.values()):
        notes.append("No aggregate is given for an algorithm without a finished run on some task.")
    return notes


def _warnings(
    ok: pd.DataFrame,
    cells: dict[tuple[str, str], Cell],
    algorithms: Sequence[str],
    tasks: Sequence[str],
    task_metrics: dict[str, str],
    units: dict[str, str],
    metric: str,
) -> list[str]:
    warnings = []
    for column, what in {"code_version": "code versions", "cpu_class": "CPU classes"}.items():
        values = sorted(value for value in ok[column].unique() if value)
        if len(values) > 1:
            warnings.append(f"Runs of {len(values)} different {what} are mixed: {', '.join(values)}.")
    for task in tasks:
        updates = {a: cells[task, a].updates for a in algorithms if cells[task, a].updates is not None}
        if len(set(updates.values())) > 1:
            listed = ", ".join(f"{a} {n:,}" for a, n in updates.items())
            warnings.append(f"On {task} the algorithms were trained for different numbers of {units[task]}: {listed}.")
        missing = [a for a in algorithms if not cells[task, a].runs and not cells[task, a].failures]
        if missing:
            warnings.append(f"On {task} there are no runs of {', '.join(missing)}.")
        if task_metrics[task] != metric:
            warnings.append(
                f"{task} has no score reference: its raw return is shown, and it is left out of the aggregates."
            )
    return warnings


def _provenance(ok: pd.DataFrame) -> dict[str, str]:
    """What the rows were made of: data, environment, code, processor."""
    facts: dict[str, str] = {}
    data = ok[["dataset", "dataset_hash", "dataset_rows", "env"]].drop_duplicates().sort_values(["dataset", "env"])
    lines = []
    for row in data.to_dict("records"):
        if row["dataset"]:
            size = "" if pd.isna(row["dataset_rows"]) else f", {int(row['dataset_rows']):,} transitions"
            lines.append(f"{row['dataset']} (SHA-256 {str(row['dataset_hash'])[:16]}…{size})")
    if lines:
        facts["Data"] = "; ".join(dict.fromkeys(lines))
    for name, column in (
        ("Environment", "env"),
        ("Code version", "code_version"),
        ("CPU class", "cpu_class"),
    ):
        values = sorted(value for value in ok[column].unique() if value)
        if values:
            facts[name] = ", ".join(values)
    return facts


def _ordered(values: pd.Series, first: Sequence[str]) -> tuple[str, ...]:
    present = sorted(values.unique())
    leading = [value for value in dict.fromkeys(first) if value in present]
    return *leading, *(value for value in present if value not in leading)
