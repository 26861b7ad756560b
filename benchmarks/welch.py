"""Welch's t-test between two columns of a results folder, task by task: what the READMEs of results/ quote.

Of the final return, and of the time average of the learning curve (the report's metric auc); one number a run.

    python benchmarks/welch.py results/props_halfcheetah props ppo_buffer [--until 100000]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from rlsuite.bench import rows
from rlsuite.bench.cells import evaluation_curve


def per_run(runs: pd.DataFrame, until: int | None) -> tuple[list[float], list[float]]:
    """Final returns, and averages of the learning curve."""
    finals, averages = [], []
    for _, run in runs.groupby("run_id"):
        finals.append(float(run.loc[run["phase"] == "final", "return"].mean()))
        positions, returns = evaluation_curve(run, until)
        averages.append(float(np.trapezoid(returns, positions) / (positions[-1] - positions[0])))
    return finals, averages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--until", type=int, metavar="N", help="cut the curves at this position")
    args = parser.parse_args()
    table = rows.read(args.results / rows.ROWS_FILE)
    table = table[table["status"] == "ok"]
    for task, part in table.groupby("task"):
        both = [per_run(part[part["algorithm"] == name], args.until) for name in (args.first, args.second)]
        for what, a, b in zip(("final return", "curve average"), *both, strict=True):
            test = stats.ttest_ind(a, b, equal_var=False)
            low, high = test.confidence_interval()
            print(
                f"{task:26} {what:14} {args.first} {np.mean(a):.1f} (sd {np.std(a, ddof=1):.0f}), {args.second} "
                f"{np.mean(b):.1f} (sd {np.std(b, ddof=1):.0f}), difference {np.mean(a) - np.mean(b):+.1f} "
                f"[{low:.1f}, {high:.1f}], p = {test.pvalue:.3f}"
            )


if __name__ == "__main__":
    main()
