"""The pair of lambda and eta that the sweep of O-DICE chooses for each dataset, and a picture of the sweep.

The rule, stated in odice_sweep.toml before it was run: the pair whose final score, averaged with those of its
neighbours in the grid (up to eight), is highest. One run of one seed is noise; nine are less.

    rlsuite bench benchmarks/odice_sweep.toml
    python benchmarks/odice_choice.py results/odice_sweep
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from scipy.signal import convolve2d

from rlsuite.bench import rows

INK, CHOSEN = "#24292f", "#e0752d"


def grid(part: pd.DataFrame) -> pd.DataFrame:
    """Final scores of one task: lambda down, eta across."""
    scores = part.groupby("algorithm")["score"].mean()
    scores.index = pd.MultiIndex.from_tuples([tuple(map(float, name.split("-"))) for name in scores.index])
    return scores.unstack()


def neighbourhood(scores: np.ndarray) -> np.ndarray:
    """Mean of each entry and its neighbours, the diagonal ones among them; entries without a run are left out."""
    there = np.isfinite(scores)
    ones = np.ones((3, 3))
    sums = convolve2d(np.where(there, scores, 0.0), ones, mode="same")
    return np.where(there, sums / np.maximum(convolve2d(there, ones, mode="same"), 1), -np.inf)


def choice(table: pd.DataFrame) -> tuple[int, int]:
    """Row and column of the chosen pair; of equal ones the first."""
    row, column = np.unravel_index(np.argmax(neighbourhood(table.to_numpy())), table.shape)
    return int(row), int(column)


def draw(axes: Axes, task: str, table: pd.DataFrame) -> None:
    scores = table.to_numpy()
    axes.imshow(scores, cmap="Blues", vmin=0, vmax=max(float(np.nanmax(scores)), 1.0) * 1.25, aspect="auto")
    for (i, j), score in np.ndenumerate(scores):
        axes.text(j, i, f"{round(score)}", ha="center", va="center", color=INK, fontsize=9)
    i, j = choice(table)
    axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=CHOSEN, linewidth=2.5))
    axes.set_title(task.removeprefix("rlsuite/"), fontsize=10, loc="left")
    axes.set_xticks(range(table.shape[1]), [f"{eta:g}" for eta in table.columns])
    axes.set_yticks(range(table.shape[0]), [f"{lam:g}" for lam in table.index])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="of the sweep; the picture is put there, too")
    args = parser.parse_args()
    table = rows.read(args.results / rows.ROWS_FILE)
    table = table[(table["status"] == "ok") & (table["phase"] == "final")]
    tasks = list(dict.fromkeys(table["task"]))
    columns = min(len(tasks), 5)
    figure, panels = plt.subplots(
        -(-len(tasks) // columns),
        columns,
        figsize=(2.4 * columns + 0.6, 2.5 * -(-len(tasks) // columns) + 0.8),
        layout="constrained",
        squeeze=False,
    )
    for axes in panels.flat[len(tasks) :]:
        axes.remove()
    for axes, task in zip(panels.flat, tasks, strict=False):
        scores = grid(table[table["task"] == task])
        draw(axes, task, scores)
        i, j = choice(scores)
        fixed = scores.loc[0.6, 1.0]
        print(
            f"{task}: lambda {scores.index[i]:g}, eta {scores.columns[j]:g}; score {scores.iloc[i, j]:.1f}, with its "
            f"neighbours {neighbourhood(scores.to_numpy())[i, j]:.1f}; best of all {np.nanmax(scores):.1f}, "
            f"(0.6, 1) {fixed:.1f}"
        )
    figure.supxlabel("eta", fontsize=10)
    figure.supylabel("lambda", fontsize=10)
    figure.suptitle(
        "O-DICE: final score for each pair (one seed, 10,000 updates); the chosen one is framed", fontsize=11
    )
    figure.savefig(args.results / "sweep.png", dpi=120)


if __name__ == "__main__":
    main()
