"""The picture of a comparison: differences with their intervals, and how often a run of B is above one of A."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rlsuite.bench.compare import LEVEL, Comparison, Pair, title
from rlsuite.bench.compare_text import change, probability
from rlsuite.bench.plots import INK, bar, style
from rlsuite.bench.statistics import Interval
from rlsuite.bench.text import words

BETTER, WORSE, OPEN = "#2f7fc1", "#d1622b", "#8b949e"


def png(comparison: Comparison) -> bytes:
    """Forest plots on white, a line for each pair. The same comparison gives the same bytes.

    Where the pairs are not all scores, which share a unit, a difference is drawn in standard deviations of a run,
    sqrt((s_A^2 + s_B^2) / 2).
    """
    pairs = comparison.pairs
    rows = _rows(pairs)
    common = all(pair.metric == "score" for pair in pairs) or len(pairs) == 1
    with style(INK):
        longest = max(max(len(pair.task), len(title(pair.columns))) for pair in pairs)
        figure = Figure(figsize=(9.0 + 0.07 * longest, 2.1 + 0.34 * (max(rows) + 1)), dpi=160, facecolor="white")
        layout: Any = figure.get_layout_engine()
        layout.set(w_pad=0.1, h_pad=0.1, wspace=0.0)
        left, middle, right = figure.subplots(1, 3, sharey=True, gridspec_kw={"width_ratios": [5, 3.4, 2.6]})
        for row, pair in zip(rows, pairs, strict=True):
            tint, ink = _tint(pair), _tint(pair) if pair.significant else INK
            bar(left, row, scaled(pair, common), tint, "o")
            weight = "bold" if pair.significant else "normal"
            middle.text(0.62, row, change(pair), ha="right", va="center", fontsize=9, color=ink, fontweight=weight)
            middle.text(0.97, row, probability(pair.p_holm), ha="right", va="center", fontsize=9, color=ink)
            bar(right, row, pair.improvement, tint, "o")
        _lines(left, comparison, rows)
        left.axvline(0, color=INK, lw=0.9, ls=(0, (4, 3)))
        left.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        unit = words(pairs[0].metric) if common else "standard deviations of a run"
        left.set_xlabel(f"{unit},\n95 % Welch interval")
        left.set_title("B \N{MINUS SIGN} A")
        middle.axis("off")
        for x, text in ((0.62, "difference"), (0.97, "p (Holm)")):
            style_of_titles: Any = {"fontsize": 11, "fontweight": "bold", "textcoords": "offset points"}
            middle.annotate(text, (x, 1), (0, 10), ha="right", xycoords="axes fraction", **style_of_titles)
        right.axvline(0.5, color=INK, lw=0.9, ls=(0, (4, 3)))
        right.set_xlim(-0.03, 1.03)
        right.set_xlabel("share of pairs of runs,\n95 % bootstrap interval")
        right.set_title("P(B > A)")
        for axes in (left, right):
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.grid(False, axis="y")
        _legend(figure, pairs)
        figure.suptitle(_heading(comparison), x=0.01, ha="left", fontsize=12, fontweight="bold")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _rows(pairs: Sequence[Pair]) -> list[float]:
    """Where each pair stands: the algorithms of a task together, with room for its name above where there are many."""
    many = len({pair.columns for pair in pairs}) > 1
    rows: list[float] = []
    row, task = -1.0, ""
    for pair in pairs:
        row += 2.0 if many and pair.task != task else 1.0
        task = pair.task
        rows.append(row)
    return rows


def _lines(axes: Axes, comparison: Comparison, rows: Sequence[float]) -> None:
    pairs = comparison.pairs
    if len({pair.columns for pair in pairs}) == 1:
        axes.set_yticks(rows, [pair.task for pair in pairs])
        axes.set_ylim(rows[-1] + 0.6, -0.6)
        return
    heads = {pair.task: row - 1 for pair, row in reversed(list(zip(pairs, rows, strict=True)))}
    labels = {row: title(pair.columns) for pair, row in zip(pairs, rows, strict=True)}
    places = sorted([*labels, *heads.values()])
    names = {row: task for task, row in heads.items()}
    axes.set_yticks(places, [labels.get(place, "") or names[place] for place in places])
    for place, text in zip(places, axes.get_yticklabels(), strict=True):
        text.set_fontweight("bold" if place in names else "normal")
    axes.set_ylim(places[-1] + 0.6, places[0] - 0.6)


def scaled(pair: Pair, common: bool) -> Interval:
    """The difference in the unit of the axis; nan where runs have no spread to measure it by."""
    if common:
        return pair.difference
    spreads = [float(runs.std(ddof=1)) if len(runs) > 1 else math.nan for runs in pair.values]
    unit = math.sqrt((spreads[0] ** 2 + spreads[1] ** 2) / 2)
    if not unit and not pair.difference.value:
        return Interval(0.0, 0.0, 0.0)
    return Interval(*(end / unit if unit else math.nan for end in pair.difference))


def _tint(pair: Pair) -> str:
    if not pair.significant:
        return OPEN
    return BETTER if pair.difference.value > 0 else WORSE


def _heading(comparison: Comparison) -> str:
    """What A and B are: folders, and the algorithm where there is but one."""
    columns = {pair.columns for pair in comparison.pairs}
    names = [", " + name for name in columns.pop()] if len(columns) == 1 else ["", ""]
    sides = zip("AB", comparison.folders, names, strict=True)
    return "\n".join(textwrap.shorten(f"{side}: {folder}{name}", 100) for side, folder, name in sides)


def _legend(figure: Figure, pairs: Sequence[Pair]) -> None:
    tests = sum(not math.isnan(pair.p) for pair in pairs)
    said = {
        BETTER: "B is better",
        WORSE: "B is worse",
        OPEN: f"open: p (Holm, {tests} comparison{'s' * (tests != 1)}) above {LEVEL:g}",
    }
    present = {_tint(pair) for pair in pairs}
    handles = [
        Line2D([], [], color=tint, marker="o", lw=5, ms=6.5, alpha=0.8, label=name)
        for tint, name in said.items()
        if tint in present
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
