"""Stored runs of a case: what they measured, who made them and where. One JSON file a case."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlsuite.check.suite import Case
from rlsuite.data.files import read_json, write_atomic
from rlsuite.errors import UserError

FEWEST = 20  # stored runs
DIGITS = 5  # of a stored number


@dataclass(frozen=True)
class Baseline:
    """Attributes: `measures`, (n,) of the stored runs by name; `moved`, the paths that changed in every one of them;
    `digests`, seed -> digest of the runs that a check repeats; `recorded`, who made them and where; `about`, the case.
    """

    about: dict[str, Any]
    recorded: dict[str, Any]
    measures: dict[str, np.ndarray]
    moved: frozenset[str]
    digests: dict[int, str]

    @property
    def runs(self) -> int:
        return len(next(iter(self.measures.values())))


def rounded(value: float) -> float:
    """A number as a baseline stores it."""
    return float(f"{value:.{DIGITS}g}")


def make(
    case: Case, stored: list[dict[str, Any]], repeated: list[dict[str, Any]], recorded: dict[str, Any]
) -> Baseline:
    """A baseline of finished runs: the `stored` ones, and those that a check will repeat.

    Raises UserError where a run failed, or where two runs did not measure the same things.
    """
    for run in stored + repeated:
        if "failure" in run:
            raise UserError(f"{case.name}, seed {run['seed']}, failed, so nothing was stored: {run['failure']}")
    names = [name for name in stored[0]["measures"] if all(name in run["measures"] for run in stored + repeated)]
    moved = frozenset.intersection(*(frozenset(run["moved"]) for run in stored + repeated))
    measures = {name: np.array([rounded(run["measures"][name]) for run in stored]) for name in names}
    return Baseline(case.about(), recorded, measures, moved, {run["seed"]: run["digest"] for run in repeated})


def path_of(folder: Path, case: Case) -> Path:
    return folder / f"{case.name}.json"


def write(path: Path, baseline: Baseline) -> None:
    """One measure a line, so that a difference of two versions can be read."""
    parts = {
        **baseline.about,
        "recorded": baseline.recorded,
        "digests": {str(seed): digest for seed, digest in baseline.digests.items()},
        "moved": sorted(baseline.moved),
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in parts.items()]
    measures = [f"  {json.dumps(key)}: {json.dumps(values.tolist())}" for key, values in baseline.measures.items()]
    write_atomic(path, "\n".join(["{", *lines, ' "measures": {', ",\n".join(measures), " }", "}", ""]))


def read(path: Path) -> Baseline | None:
    """The baseline in a file, None where there is none. Raises UserError for another file."""
    content = read_json(path)
    if not content:
        return None
    try:
        measures = {name: np.array(values, np.float64) for name, values in content["measures"].items()}
        if len({len(values) for values in measures.values()}) != 1:
            raise ValueError("its measures are of different numbers of runs")
        return Baseline(
            {key: content[key] for key in ("algorithm", "given")},
            content["recorded"],
            measures,
            frozenset(content["moved"]),
            {int(seed): digest for seed, digest in content["digests"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no baseline of a check ({error!r}); record it with --update.") from error
