"""From rows to the numbers of a report: cells, aggregates, comparisons, curves, published scores, warnings.

`summarise` is a pure function of the rows and the options; it writes nothing and draws nothing.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from rlsuite.bench import statistics
from rlsuite.bench.statistics import Interval, Profile
from rlsuite.errors import UserError, nearest

METRICS = ("score", "return")
EXPERT_SCORE = 100.0  # the optimality gap counts what is missing to the reference's expert
PROFILE_POINTS = 101
_D4RL_ENVIRONMENTS = {
    "hopper": "Hopper-v2",
    "halfcheetah": "HalfCheetah-v2",
    "walker2d": "Walker2d-v2",
}
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
    """Mean over runs at each evaluated update, with its Student-t band; all (P,). `runs` counts the runs behind it."""

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
    updates: int | None  # of the final checkpoint
    failures: tuple[Failure, ...] = ()

    @property
    def runs(self) -> int:
        return len(self.returns)

    @property
    def few(self) -> bool:
        """Too few runs for the interval to be taken at its word."""
        return 0 < self.runs < statistics.FEW_RUNS

    def values(self, metric: str) -> np.ndarray:
        """(n,) of the finished runs, empty for scores where the environment has no reference."""
        scores = np.empty(0) if self.scores is None else self.scores
        return scores if metric == "score" else self.returns

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
    dataset: str
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


def summarise(
    rows: pd.DataFrame,
    *,
    algorithms: Sequence[str] = (),
    tasks: Sequence[str] = (),
    baseline: str | None = None,
    metric: str = "score",
    resamples: int = statistics.RESAMPLES,
    seed: int = 0,
) -> Summary:
    """All numbers of a report from the rows of `rows.read`.

    `algorithms` and `tasks` give the order (others follow, sorted); `baseline` is the first algorithm by default.
    Raises UserError where rows of one cell or one task do not measure the same thing, and on bad options.
    """
    if metric not in METRICS:
        raise UserError(f"there is no metric {metric!r}; {nearest(metric, METRICS)}")
    if rows.empty:
        raise UserError("there are no rows to report; run `rlsuite bench` first.")
    if resamples < statistics.MIN_RESAMPLES:
        least = statistics.MIN_RESAMPLES
        raise UserError(f"--resamples {resamples} is too few for the ends of an interval; ask for at least {least:,}.")
    algorithms = _ordered(rows["algorithm"], algorithms)
    tasks = _ordered(rows["task"], tasks)
    if baseline is not None and baseline not in algorithms:
        raise UserError(f"the baseline {baseline!r} has no rows here; {nearest(baseline, algorithms)}")
    baseline = baseline or algorithms[0]

    ok = rows[rows["status"] == "ok"]
    failures = tuple(_failures(rows[rows["status"] != "ok"]))
    check_comparable(ok)
    cells = {(task, algorithm): _cell(ok, failures, task, algorithm) for task in tasks for algorithm in algorithms}
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
    aggregates = _aggregates(algorithms, complete, metric, len(shared), resamples, seed) if complete else []
    if len(algorithms) > 1:
        aggregates.append(_improvement(algorithms, cells, tasks, task_metrics, baseline, resamples, seed))
    return Summary(
        metric=metric,
        algorithms=algorithms,
        tasks=tasks,
        task_metrics=task_metrics,
        baseline=baseline,
        cells=cells,
        aggregates=tuple(aggregates),
        profiles=_profiles(complete, resamples, seed),
        curves=curves,
        published=tuple(_published(ok, cells, tasks, algorithms)),
        failures=failures,
        protocol=tuple(_protocol(ok, task_metrics)),
        notes=tuple(_notes(cells, aggregates, len(shared), resamples, seed)),
        warnings=tuple(_warnings(ok, cells, algorithms, tasks, task_metrics, metric)),
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
        _one(final, "update", f"{cell} mixes final checkpoints of different updates")
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


def _task_metric(task: str, algorithms: Sequence[str], cells: dict[tuple[str, str], Cell], metric: str) -> str:
    has_reference = all(cells[task, algorithm].scores is not None for algorithm in algorithms)
    return metric if has_reference else "return"


def _curve(ok: pd.DataFrame, task: str, algorithm: str, metric: str) -> Curve | None:
    """The learning curve over the updates at which every run was evaluated; None with fewer than two such points."""
    rows = ok[(ok["task"] == task) & (ok["algorithm"] == algorithm)]
    per_run = rows.groupby(["phase", "update", "seed"], sort=True)[metric].mean().unstack("seed")
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
    resamples: int,
    seed: int,
) -> list[Aggregate]:
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
    """The published scores that ship with the package, one row a number, each with its source."""
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
) -> list[Published]:
    found, table = [], published_scores()
    for task in tasks:
        rows = ok[ok["task"] == task]
        datasets = [name for name in rows["dataset"].unique() if name]
        reference = d4rl_name(datasets[0]) if datasets else None
        for algorithm in algorithms if reference else ():
            for row in table[(table["dataset"] == reference) & (table["algorithm"] == algorithm)].to_dict("records"):
                differs = [
                    "D4RL v2 data",
                    f"{_D4RL_ENVIRONMENTS[str(reference).split('-')[0]]} env",
                    f"{_updates(int(row['updates']))} updates",
                    f"{row['seeds']} seeds",
                ]
                found.append(
                    Published(
                        algorithm,
                        task,
                        str(row["label"]),
                        str(row["dataset"]),
                        float(row["mean"]),
                        float(row["spread"]),
                        str(row["spread_kind"]),
                        ", ".join(differs),
                        str(row["source"]),
                    )
                )
    return found


def _updates(n: int) -> str:
    return f"{n // 1_000_000}M" if n % 1_000_000 == 0 else f"{n:,}"


# ---- words ---------------------------------------------------------------------------------------


def _protocol(ok: pd.DataFrame, task_metrics: dict[str, str]) -> list[str]:
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
    if "return" in task_metrics.values():
        lines.append("Return: undiscounted sum of the rewards of an episode.")
    episodes = _listed(final.groupby("run_id").size())
    modes = " or ".join(sorted(final["policy_mode"].unique()))
    updates = _listed(final.groupby("run_id")["update"].first())
    seeds = _listed(final.groupby(["task", "algorithm"])["seed"].nunique())
    protocols = ", ".join(sorted(final["protocol"].unique()))
    lines.append(
        f"Each run: its final checkpoint, after {updates} updates, on {episodes} fresh episodes with the {modes} "
        f"policy (protocol {protocols}); the mean over episodes is the run's one number."
    )
    lines.append(
        f"Each cell: mean ± half-width of the 95 % Student-t interval over its finished runs, one a seed ({seeds})."
    )
    return lines


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
    if len({cell.runs for cell in cells.values()}) > 1 and tasks > 1:
        notes.append("IQM and optimality gap pool all runs, so a task with fewer finished runs weighs less in them.")
    if any(value is None for aggregate in aggregates[:1] for value in aggregate.values.values()):
        notes.append("No aggregate is given for an algorithm without a finished run on some task.")
    return notes


def _warnings(
    ok: pd.DataFrame,
    cells: dict[tuple[str, str], Cell],
    algorithms: Sequence[str],
    tasks: Sequence[str],
    task_metrics: dict[str, str],
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
            warnings.append(f"On {task} the algorithms were trained for different numbers of updates: {listed}.")
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
