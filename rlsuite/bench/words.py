"""What a report says in sentences: what its numbers mean, what to beware of, what they were made of."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from rlsuite.bench import statistics
from rlsuite.bench.cells import Cell
from rlsuite.harness.environments import ATARI

RUN = ["task", "algorithm", "seed"]  # what tells runs apart; two columns may hold the same one


def protocol(ok: pd.DataFrame, task_metrics: dict[str, str], units: dict[str, str], until: int | None) -> list[str]:
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
    if ok["env"].str.contains("#", regex=False).any():
        lines.append(
            "Behind the # of a task stands what a policy sees of it: the last frames, each with Gaussian noise of this "
            "standard deviation, and where an episode ends earlier than it would."
        )
    episodes = _listed(final.groupby(RUN).size())
    modes = " or ".join(sorted(final["policy_mode"].unique()))
    updates = _positions(final.groupby(RUN)[["update"]].first().reset_index(), units)
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
    ends = ok.groupby(RUN).agg(first=("update", "min"), last=("update", "max")).reset_index()
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


def notes(
    cells: dict[tuple[str, str], Cell],
    aggregates: Sequence[str],
    tasks: int,
    resamples: int,
    seed: int,
) -> list[str]:
    """How to read the marks and the intervals of a table that has these aggregates."""
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
    if len({cell.runs for cell in cells.values()}) > 1 and tasks > 1 and aggregates and aggregates[0] == "IQM":
        notes.append("IQM and optimality gap pool all runs, so a task with fewer finished runs weighs less in them.")
    if aggregates and not all(cell.runs for cell in cells.values()):
        notes.append("No aggregate is given for an algorithm without a finished run on some task.")
    return notes


def warnings(
    ok: pd.DataFrame,
    cells: dict[tuple[str, str], Cell],
    algorithms: Sequence[str],
    tasks: Sequence[str],
    task_metrics: dict[str, str],
    units: dict[str, str],
    metric: str,
) -> list[str]:
    """What a reader must know before comparing the numbers."""
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


def provenance(ok: pd.DataFrame) -> dict[str, str]:
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
