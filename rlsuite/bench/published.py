"""Published numbers that ship with the package, to stand beside our own, and how what they measured differs."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlsuite.bench.cells import Cell

_D4RL_ENVIRONMENTS = {
    "hopper": "Hopper-v2",
    "halfcheetah": "HalfCheetah-v2",
    "walker2d": "Walker2d-v2",
}
_VERSION = re.compile(r"-v\d+$")
PUBLISHED = Path(__file__).with_name("published_scores.csv")


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


def published_beside(
    ok: pd.DataFrame,
    cells: dict[tuple[str, str], Cell],
    tasks: Sequence[str],
    algorithms: Sequence[str],
    metric: str,
    until: int | None,
) -> list[Published]:
    """The published numbers for these tasks and algorithms."""
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
