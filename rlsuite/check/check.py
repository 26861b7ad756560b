"""A check from cases to verdicts, and the recording of what it compares with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from rlsuite import data
from rlsuite.bench.runner import inside
from rlsuite.check import baseline, output, verdict
from rlsuite.check.baseline import Baseline
from rlsuite.check.runner import Runs, Told, run_cases
from rlsuite.check.suite import Case
from rlsuite.check.verdict import Judged, Verdict
from rlsuite.data.cli import build_progress
from rlsuite.errors import UserError
from rlsuite.harness.config import resolve
from rlsuite.harness.manifest import code_version, machine

FIRST_STORED = 1000  # seed; a check has 0, 1, ... so the runs it compares are never the same ones


def judge(
    cases: Sequence[Case],
    folder: Path,
    seeds: int,
    levels: Sequence[str],
    alpha: float,
    whole: int,
    jobs: int | None,
    timeout: float | None,
    tell: Told | None = None,
) -> list[Judged]:
    """Run the cases and say of each what the `levels` find; `whole` is the number of cases that alpha is shared by.

    Raises UserError where a baseline is of another case, or a file is damaged.
    """
    stored = {case.name: baseline.read(baseline.path_of(folder, case)) for case in cases}
    for case in cases:
        known = stored[case.name]
        if known and known.about != case.about():
            raise UserError(
                f"the baseline of {case.name} in {folder} was recorded with other settings than the suite has; record "
                f"it anew with --update --only {case.name}."
            )
    prepare(cases)
    runs = run_cases({case.name: range(seeds) for case in cases}, cases, jobs, timeout, tell)
    here = _place()
    return [verdicts(case, runs[case.name], stored[case.name], levels, alpha, whole, here) for case in cases]


def verdicts(
    case: Case,
    runs: Runs,
    known: Baseline | None,
    levels: Sequence[str],
    alpha: float,
    whole: int,
    here: dict[str, Any],
) -> Judged:
    """What the `levels` find in the runs of a case; `here` is the processor class and the versions of this place."""
    checks: dict[str, Callable[[], Verdict]] = {
        "sanity": lambda: verdict.sanity(runs, known, case.best),
        "statistical": lambda: verdict.statistical(runs, known, alpha, whole),
        "exact": lambda: verdict.exact(runs, known, here),
    }
    found = {level: checks[level]() for level in verdict.LEVELS if level in levels}
    return Judged(case.name, runs, known, found)


def update(
    cases: Sequence[Case],
    folder: Path,
    seeds: int,
    runs: int,
    level: float,
    jobs: int | None,
    timeout: float | None,
    tell: Told | None = None,
    invocation: str = "",
) -> list[str]:
    """Record baselines of `runs` runs, and the digests of those that a check repeats; sentences on what changed.

    A measure changed where its rank-sum test is at most `level` over the number of measures. Raises UserError where a
    run failed; then nothing is written.
    """
    prepare(cases)
    repeated = range(seeds)
    kept = range(FIRST_STORED, FIRST_STORED + runs)
    made = run_cases({case.name: [*repeated, *kept] for case in cases}, cases, jobs, timeout, tell)
    recorded = {
        "command": invocation,
        "date": time.strftime("%Y-%m-%d"),
        "code_version": code_version(),
        **_place(),
        "seeds": [kept.start, kept.stop - 1],
    }
    new = {case.name: baseline.make(case, made[case.name][seeds:], made[case.name][:seeds], recorded) for case in cases}
    lines = []
    for case in cases:
        path = baseline.path_of(folder, case)
        try:
            old = baseline.read(path)
        except UserError:  # damaged, or of another version: it is replaced
            old = None
        common = [] if old is None else [name for name in new[case.name].measures if name in old.measures]
        p = {name: _p(old.measures[name], new[case.name].measures[name]) for name in common if old is not None}
        baseline.write(path, new[case.name])
        lines += output.changes(case.name, old, new[case.name], p, level / max(1, len(p)))
    return lines


def _p(old: np.ndarray, new: np.ndarray) -> float:
    """The rank-sum test of two baselines; of so many runs the exact one would take seconds for nothing."""
    return float(stats.mannwhitneyu(old, new, method="asymptotic").pvalue)


def _place() -> dict[str, Any]:
    """What the bits of a run depend on beside the code."""
    facts = machine()
    return {key: facts[key] for key in ("cpu_class", "versions")}


def prepare(cases: Sequence[Case]) -> None:
    """Load every dataset once, so that what must be built is built before the processes ask for it."""
    seen: set[tuple[str, int, Path]] = set()
    for case in cases:
        config = resolve(case.algorithm, case.given).config
        name, steps = getattr(config, "dataset", ""), getattr(config, "dataset_steps", 0)
        if name and (name, steps, case.base) not in seen:
            seen.add((name, steps, case.base))
            with inside(case.base), build_progress(name) as progress:
                data.load(name, steps=steps or None, progress=progress)
