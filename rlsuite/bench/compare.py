"""Two results folders side by side: what differs, whether that can be chance, and how many more runs would tell.

`compare` is a pure function of the rows of both folders. A is the one to start from and B the one in question: a
positive difference means that B is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from rlsuite.bench import difference, rows, statistics
from rlsuite.bench.cells import (
    ONE_VALUE,
    Cell,
    check_comparable,
    check_metric,
    curve_areas,
    find_failures,
    in_order,
    make_cell,
)
from rlsuite.bench.statistics import Interval
from rlsuite.bench.units import STEPS, unit_of
from rlsuite.errors import UserError, nearest

LEVEL = 0.05  # of what is called significant, over all comparisons together
Columns = tuple[str, str]  # the name of an algorithm in A, and in B


@dataclass(frozen=True)
class Pair:
    """One task and algorithm with finished runs in both folders; numbers are in units of `metric`."""

    task: str
    columns: Columns
    metric: str
    online: bool
    cells: tuple[Cell, Cell]
    difference: Interval  # mean of B - mean of A
    improvement: Interval  # P(a run of B is above a run of A)
    p: float  # two-sided; nan where a side has a single run
    worse: float  # the same against "B is below A" alone
    p_holm: float = math.nan  # both, adjusted for the number of comparisons
    worse_holm: float = math.nan
    sought: float | None = None  # true difference that more runs should find; None where nothing is left to settle
    needed: int | None = None  # runs a side that would find it; None for too many

    @property
    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """The runs of A, (n,), and of B, (m,)."""
        first, second = (cell.values(self.metric) for cell in self.cells)
        return first, second

    @property
    def significant(self) -> bool:
        return self.p_holm <= LEVEL

    @property
    def more(self) -> tuple[int, int] | None:
        """Runs to add to A and to B until both have what is `needed`."""
        if self.needed is None:
            return None
        first, second = (max(0, self.needed - cell.runs) for cell in self.cells)
        return first, second


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison says, ready to be written in any format."""

    folders: tuple[str, str]
    pairs: tuple[Pair, ...]
    improvements: dict[Columns, Interval]  # mean over tasks
    lost: tuple[str, ...]  # where A has finished runs and those of B all failed: sentences
    facts: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def worse(self, level: float) -> list[Pair]:
        """Where B is below A; wrong anywhere with probability at most `level`."""
        return [pair for pair in self.pairs if pair.worse_holm <= level]


@dataclass(frozen=True)
class _Side:
    name: str
    folder: Path
    ok: pd.DataFrame
    cells: dict[tuple[str, str], Cell]  # by (task, column)

    def rows(self, task: str, column: str) -> pd.DataFrame:
        return self.ok[(self.ok["task"] == task) & (self.ok["algorithm"] == column)]


def title(columns: Columns) -> str:
    """
    >>> title(("prdc", "prdc")), title(("prdc", "mine"))
    ('prdc', 'prdc / mine')
    """
    return columns[0] if columns[0] == columns[1] else " / ".join(columns)


def compare(
    first: Path,
    second: Path,
    *,
    columns: Sequence[Columns] = (),
    tasks: Sequence[str] = (),
    metric: str | None = None,
    until: int | None = None,
    test: str = "welch",
    detect: float | None = None,
    resamples: int = statistics.RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare what two results folders have in common: A is `first`, B `second`.

    `columns` pairs algorithms of A with those of B (default: the names that both have), `tasks` are some of the common
    ones (default: all). `metric` is as in a report: by default the score, or the return of a task without a reference.
    `test` is one of `difference.TESTS`, and `detect` the difference, in units of the metric, that is worth finding
    (default: the measured one). Raises UserError where nothing is in common, and where the two sides did not measure
    the same thing.
    """
    check_metric(metric, until)
    if test not in difference.TESTS:
        raise UserError(f"there is no test {test!r}; {nearest(test, difference.TESTS)}")
    if detect is not None and not 0 < detect < math.inf:
        raise UserError(f"--detect {detect:g} is no difference that could be found; give a number above 0.")
    if resamples < statistics.MIN_RESAMPLES:
        least = statistics.MIN_RESAMPLES
        raise UserError(f"--resamples {resamples} is too few for the ends of an interval; ask for at least {least:,}.")
    folders = Path(first), Path(second)
    tables = rows.of_results(folders[0]), rows.of_results(folders[1])
    chosen = _columns(tables, folders, columns)
    shared = _tasks(tables, folders, chosen, tasks)
    a, b = (
        _side("AB"[i], folders[i], tables[i], shared, list(dict.fromkeys(pair[i] for pair in chosen))) for i in (0, 1)
    )

    pairs, lost, warnings = [], [], _left_out(tables, chosen, tasks)
    for task in shared:
        for names in chosen:
            cells = a.cells[task, names[0]], b.cells[task, names[1]]
            if not (cells[0].runs and cells[1].runs):
                if cells[0].runs and cells[1].failures:
                    lost.append(f"{names[1]} has no finished run on {task} in B: {cells[1].failures[0].message}.")
                continue
            parts = a.rows(task, names[0]), b.rows(task, names[1])
            used = metric or "score"
            if used == "score" and (cells[0].scores is None or cells[1].scores is None):
                used = "return"
            _check_same(task, parts, used)
            if used == "auc":
                cells = _with_areas(parts[0], cells[0], until), _with_areas(parts[1], cells[1], until)
            pairs.append(_pair(task, names, used, parts, cells, test, resamples, seed))
            warnings += _doubts(pairs[-1], parts)
    if not pairs:
        raise UserError(
            f"{folders[0]} and {folders[1]} have no task and algorithm with a finished run in both; "
            "pair differing names with --column A=B."
        )
    judged = _judge(pairs, test, detect)
    return Comparison(
        folders=(str(first), str(second)),
        pairs=judged,
        improvements=_improvements(judged, chosen, resamples, seed),
        lost=tuple(lost),
        facts=tuple(_facts(side) for side in (a, b)),
        notes=tuple(_notes(judged, test, detect, until, resamples, seed)),
        warnings=tuple(warnings),
    )


# ---- what is compared ----------------------------------------------------------------------------


def _columns(
    tables: tuple[pd.DataFrame, pd.DataFrame], folders: tuple[Path, Path], wanted: Sequence[Columns]
) -> tuple[Columns, ...]:
    known = [sorted(table["algorithm"].unique()) for table in tables]
    same = folders[0].resolve() == folders[1].resolve()
    if same and (not wanted or any(one == other for one, other in wanted)):
        raise UserError(f"A and B are both {folders[0]}; pair two of its algorithms with --column A=B.")
    for pair in wanted:
        for name, names, folder in zip(pair, known, folders, strict=True):
            if name not in names:
                raise UserError(f"{folder} has no rows of the algorithm {name!r}; {nearest(name, names)}")
    if wanted:
        return tuple(dict.fromkeys(wanted))
    first = rows.table_order(folders[0])[0]
    both = [(name, name) for name in in_order(known[0], first) if name in known[1]]
    if not both:
        raise UserError(
            f"no algorithm has the same name in {folders[0]} ({', '.join(known[0])}) and {folders[1]} "
            f"({', '.join(known[1])}); pair two with --column A=B."
        )
    return tuple(both)


def _tasks(
    tables: tuple[pd.DataFrame, pd.DataFrame],
    folders: tuple[Path, Path],
    columns: Sequence[Columns],
    wanted: Sequence[str],
) -> tuple[str, ...]:
    known = [
        set(table.loc[table["algorithm"].isin([pair[i] for pair in columns]), "task"]) for i, table in enumerate(tables)
    ]
    both = known[0] & known[1]
    for task in wanted:
        if task not in both:
            raise UserError(f"{task!r} is no task of both {folders[0]} and {folders[1]}; {nearest(task, both)}")
    return in_order(wanted or both, rows.table_order(folders[0])[1])


def _side(name: str, folder: Path, table: pd.DataFrame, tasks: Sequence[str], columns: Sequence[str]) -> _Side:
    part = table[table["task"].isin(tasks) & table["algorithm"].isin(columns)]
    ok, failures = part[part["status"] == "ok"], find_failures(part[part["status"] != "ok"])
    try:
        check_comparable(ok)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    cells = {(task, column): make_cell(ok, failures, task, column) for task in tasks for column in columns}
    return _Side(name, folder, ok, cells)


def _with_areas(part: pd.DataFrame, cell: Cell, until: int | None) -> Cell:
    return replace(cell, areas=curve_areas(part, cell, until))


def _check_same(task: str, parts: tuple[pd.DataFrame, pd.DataFrame], metric: str) -> None:
    """Refuse a difference that would be one of the measurement: of data, environment, protocol or reference."""
    what = {column: name for column, name in ONE_VALUE.items() if column != "score_reference" or metric == "score"}
    for phase in ("final",) if metric != "auc" else ("interim", "final"):
        _same(task, parts, "protocol", f"{phase} protocols", phase)
    for column, name in what.items():
        _same(task, parts, column, name, "final")


def _same(task: str, parts: tuple[pd.DataFrame, pd.DataFrame], column: str, what: str, phase: str) -> None:
    found = [part.loc[part["phase"] == phase, column].unique() for part in parts]
    first, second = (str(values[0])[:30] if len(values) else "none" for values in found)
    if first != second:
        raise UserError(
            f"{task}: A and B have different {what} ({column} {first} and {second}), so their difference would not be "
            "the algorithm's; make both alike, or name the tasks to compare with --task."
        )


# ---- numbers -------------------------------------------------------------------------------------


def _pair(
    task: str,
    columns: Columns,
    metric: str,
    parts: tuple[pd.DataFrame, pd.DataFrame],
    cells: tuple[Cell, Cell],
    test: str,
    resamples: int,
    seed: int,
) -> Pair:
    a, b = cells[0].values(metric), cells[1].values(metric)
    stream = statistics.stream(seed, "comparison", task, *columns)
    if test == "welch":
        p, worse = difference.welch_p(a, b), difference.welch_p(a, b, "less")
    else:
        p = difference.permutation_p(a, b, "two-sided", stream, resamples)
        worse = difference.permutation_p(a, b, "less", stream, resamples)
    improvement = statistics.probability_of_improvement_interval({task: b}, {task: a}, stream, resamples)
    online = unit_of(str(parts[0]["dataset"].iloc[0])) == STEPS
    return Pair(task, columns, metric, online, cells, difference.welch(a, b), improvement, p, worse)


def _judge(pairs: Sequence[Pair], test: str, detect: float | None) -> tuple[Pair, ...]:
    """The pairs with what depends on their number."""
    tests = max(1, sum(not math.isnan(pair.p) for pair in pairs))
    judged = []
    adjusted = zip(difference.holm([p.p for p in pairs]), difference.holm([p.worse for p in pairs]), strict=True)
    for pair, (p, worse) in zip(pairs, adjusted, strict=True):
        sought = (detect or abs(pair.difference.value) or None) if p > LEVEL else None
        needed = None
        if sought is not None:
            spreads = [float(runs.std(ddof=1)) for runs in pair.values]
            exact = test == "permutation"
            needed = difference.runs_to_find(sought, (spreads[0], spreads[1]), LEVEL / tests, exact=exact)
        judged.append(replace(pair, p_holm=p, worse_holm=worse, sought=sought, needed=needed))
    return tuple(judged)


def _improvements(
    pairs: Sequence[Pair], columns: Sequence[Columns], resamples: int, seed: int
) -> dict[Columns, Interval]:
    found = {}
    for names in columns:
        own = [pair for pair in pairs if pair.columns == names]
        a, b = ({pair.task: pair.values[i] for pair in own} for i in (0, 1))
        if own:
            stream = statistics.stream(seed, "comparison", *names)
            found[names] = statistics.probability_of_improvement_interval(b, a, stream, resamples)
    return found


# ---- words ---------------------------------------------------------------------------------------


def _facts(side: _Side) -> str:
    """What a side is."""
    parts = [f"{sum(cell.runs for cell in side.cells.values())} finished runs"]
    for column, what in (("code_version", "code"), ("cpu_class", "CPU class")):
        parts += [f"{what} {', '.join(sorted(set(side.ok[column])))}"]
    return f"{side.name}: {side.folder} ({'; '.join(parts)})."


def _left_out(tables: tuple[pd.DataFrame, pd.DataFrame], columns: Sequence[Columns], tasks: Sequence[str]) -> list[str]:
    """Cells of the compared columns that only one side has."""
    if tasks:
        return []
    lines = []
    for names in columns:
        a, b = (set(table.loc[table["algorithm"] == name, "task"]) for table, name in zip(tables, names, strict=True))
        for only, which in ((a - b, "A"), (b - a, "B")):
            if only:
                lines.append(f"Only {which} has {title(names)} on {', '.join(sorted(only))}.")
    return lines


def _doubts(pair: Pair, parts: tuple[pd.DataFrame, pd.DataFrame]) -> list[str]:
    """What a reader must know before trusting a pair."""
    lines, what = [], f"{title(pair.columns)} on {pair.task}"
    updates = [cell.updates for cell in pair.cells]
    if updates[0] != updates[1]:
        unit = unit_of(str(parts[0]["dataset"].iloc[0]))
        lines.append(f"{what}: the runs of A have {updates[0]:,} {unit} and those of B {updates[1]:,}.")
    for side, cell in zip("AB", pair.cells, strict=True):
        if cell.failures:
            total = cell.runs + len(cell.failures)
            lines.append(f"{what}: {len(cell.failures)} of {total} runs of {side} failed and are left out.")
    a, b = pair.values
    if np.array_equal(a, b):
        lines.append(f"{what}: A and B have the same numbers, run by run.")
    return lines


def _notes(
    pairs: Sequence[Pair], test: str, detect: float | None, until: int | None, resamples: int, seed: int
) -> list[str]:
    """How to read the table."""
    tests = sum(not math.isnan(pair.p) for pair in pairs)
    name = {"welch": "Welch's t-test", "permutation": "permutation test of Welch's t"}[test]
    cut = f" up to position {until:,}" if until else ""
    lines = [
        "A, B: mean ± half-width of the 95 % Student-t interval over finished runs"
        + (f"; auc is the time average of a run's learning curve of returns{cut}." if _has(pairs, "auc") else "."),
        "B \N{MINUS SIGN} A: difference of the means with its 95 % Welch t-interval, not adjusted for the number of "
        "comparisons.",
        f"p: two-sided {name}; Holm: adjusted for {tests} comparison{'s' * (tests != 1)}, and bold or * where at most "
        f"{LEVEL:g}.",
        "P(B > A): share of pairs of runs in which B is above A, ties half; 95 % percentile interval of "
        f"{resamples:,} bootstrap resamples (seed {seed}).",
    ]
    if any(pair.sought is not None for pair in pairs):
        size = "the true difference is the measured one, which is a rough guess itself"
        if detect is not None:
            size = f"the true difference is {detect:g}"
        lines.append(
            f"More runs: to add to A / B, so that Welch's two-sided test at level {LEVEL:g} / {max(1, tests)} finds it "
            f"with power {100 * difference.POWER:.0f} %, if {size}: noncentral t with the measured spreads "
            "(Cohen 1988; Colas et al., arXiv:1806.08295)."
        )
    if any(cell.few for pair in pairs for cell in pair.cells):
        lines.append(f"† under {statistics.FEW_RUNS} runs: read intervals and tests as a rough guide only.")
    return lines


def _has(pairs: Sequence[Pair], metric: str) -> bool:
    return any(pair.metric == metric for pair in pairs)
