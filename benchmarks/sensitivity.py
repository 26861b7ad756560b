"""How much the outcome of each method depends on one number: a picture of a table whose columns are METHOD-NUMBER.

Reads table.csv of a results folder, and draws mean and 95 % Student-t interval against the number, a panel a task.

    python benchmarks/sensitivity.py results/npg_igt_classic --xlabel "step size" --out results/npg_igt/classic.png
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from rlsuite.bench.plots import COLOURS, MARKERS, Panel, png
from rlsuite.data.files import write_atomic


def read(results: Path) -> pd.DataFrame:
    """task, method, number, value, low, high; exits with a sentence where the folder holds no such table."""
    try:
        cells = pd.read_csv(results / "table.csv").query("kind == 'cell' and metric == 'return'")
    except OSError as error:
        raise SystemExit(f"{error.filename} cannot be read ({error.strerror}); name a folder with a report.") from error
    parts = cells.algorithm.str.rpartition("-")
    numbers = pd.to_numeric(parts[2], errors="coerce")
    if numbers.isna().any() or (parts[0] == "").any():
        other = cells.algorithm[numbers.isna() | (parts[0] == "")].iloc[0]
        raise SystemExit(f"{results / 'table.csv'} has the column '{other}', which is not METHOD-NUMBER.")
    return cells[["task", "value", "low", "high"]].assign(method=parts[0], number=numbers)


def draw(cells: pd.DataFrame, methods: list[str], xlabel: str, axes: Any) -> None:
    for index, method in enumerate(methods):
        part = cells[cells.method == method].sort_values("number")
        spread = [part.value - part.low, part.high - part.value]
        shifted = part.number * 1.06 ** (index - len(methods) / 2)  # so that no interval hides another one
        axes.errorbar(shifted, part.value, spread, **line(index), elinewidth=0.8, capsize=2)
    axes.set(xscale="log", xlabel=xlabel, ylabel="return: mean, 95 % t-interval")


def line(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index], "marker": MARKERS[index], "lw": 1.6, "ms": 5}


def main() -> None:
    from matplotlib.lines import Line2D

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, metavar="RESULTS")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    parser.add_argument("--xlabel", default="value")
    arguments = parser.parse_args()
    cells = read(arguments.results)
    methods = list(cells.method.unique())
    panels = [
        Panel(task, partial(draw, part, methods, arguments.xlabel), rows=7)
        for task, part in cells.groupby("task", sort=False)
    ]
    handles = [Line2D([], [], label=method, **line(index)) for index, method in enumerate(methods)]
    write_atomic(arguments.out, png(panels, f"The outcome against the {arguments.xlabel}", handles))


if __name__ == "__main__":
    main()
