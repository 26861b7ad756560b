"""Pictures of a summary: learning curves, intervals, profiles, as PNG files and as panels of inline SVG.

Both are drawn by the same functions. The same summary gives the same bytes: no dates, no random ids.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from rlsuite.bench.statistics import Interval
from rlsuite.bench.summary import Aggregate, Summary
from rlsuite.bench.text import words

# Told apart on white and on black, and with the common kinds of colour blindness together with the marker.
COLOURS = ("#3b7dc4", "#e0752d", "#2f9e6e", "#b5569f", "#8a8f1f", "#17a3b8", "#c94f4f", "#7a6fd0", "#7d8590", "#9a6a44")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h", "*", "p")
INK = "#24292f"
_CURRENT = "#010203"  # stands for the page's text colour in an SVG, and is replaced by it

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rlsuite",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.8,
    "axes.linewidth": 0.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Panel:
    """One set of axes: what it shows, in words, and the function that draws it. `rows` sets its height."""

    title: str
    draw: Callable[[Axes], None]
    rows: int = 0


def colour(summary: Summary, algorithm: str) -> str:
    return COLOURS[summary.algorithms.index(algorithm) % len(COLOURS)]


def _marker(summary: Summary, algorithm: str) -> str:
    """With more algorithms than colours, the markers move on by one, so that no pair of the two comes twice."""
    index = summary.algorithms.index(algorithm)
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


# ---- what there is to see ------------------------------------------------------------------------


def curve_panels(summary: Summary) -> list[Panel]:
    """One panel for each task that has a learning curve."""
    return [
        Panel(task, partial(_curves, summary, task))
        for task in summary.tasks
        if any((task, algorithm) in summary.curves for algorithm in summary.algorithms)
    ]


def interval_panels(summary: Summary) -> list[Panel]:
    """Runs and intervals for each task, then the aggregates, then the performance profile."""
    rows = len(summary.algorithms)
    panels = [Panel(task, partial(_cells, summary, task), rows) for task in summary.tasks]
    for aggregate in summary.aggregates:
        if aggregate.name == "IQM" or aggregate.name.startswith("P("):
            panels.append(Panel(aggregate.name, partial(_aggregate, summary, aggregate), rows))
    if summary.profiles:
        panels.append(Panel("Performance profile", partial(_profiles, summary), rows))
    return panels


# ---- drawing -------------------------------------------------------------------------------------


def _curves(summary: Summary, task: str, axes: Axes) -> None:
    for algorithm in summary.algorithms:
        curve = summary.curves.get((task, algorithm))
        if curve is None:
            continue
        tint = colour(summary, algorithm)
        axes.fill_between(curve.updates, curve.low, curve.high, color=tint, alpha=_veil(summary), linewidth=0)
        every = max(1, len(curve.updates) // 8)
        marker = _marker(summary, algorithm)
        axes.plot(curve.updates, curve.mean, color=tint, lw=1.8, marker=marker, ms=4, markevery=every)
    axes.set_xlabel(summary.units[task])
    axes.set_ylabel("normalised score" if summary.task_metrics[task] == "score" else "return")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.margins(x=0.02)
    axes.set_xlim(left=0)
    if summary.until is not None:
        axes.axvline(summary.until, color=axes.xaxis.label.get_color(), lw=0.9, ls=(0, (4, 3)))


def _veil(summary: Summary) -> float:
    """Opacity of a band, so that many of them do not hide each other's lines."""
    return 0.16 * min(1.0, 4 / len(summary.algorithms))


def _cells(summary: Summary, task: str, axes: Axes) -> None:
    for row, algorithm in enumerate(summary.algorithms):
        cell = summary.cells[task, algorithm]
        metric = summary.task_metrics[task]
        interval, values = cell.interval(metric), cell.values(metric)
        if interval is None or values is None:
            why = f"no finished run ({len(cell.failures)} failed)" if cell.failures else "no run"
            axes.text(0.02, row, why, va="center", style="italic", transform=axes.get_yaxis_transform())
            continue
        tint = colour(summary, algorithm)
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(
            values,
            row - 0.27 + spread / 2,
            ls="",
            marker="o",
            ms=3.5,
            mew=0,
            alpha=0.55,
            color=tint,
        )
        bar(axes, row, interval, tint, _marker(summary, algorithm))
    _algorithm_rows(axes, summary)
    axes.set_xlabel(f"{_unit(summary, task)}: mean, 95 % t-interval, single runs")


def _aggregate(summary: Summary, aggregate: Aggregate, axes: Axes) -> None:
    improvement = aggregate.name.startswith("P(")
    for row, algorithm in enumerate(summary.algorithms):
        interval = aggregate.values.get(algorithm)
        if interval is not None:
            bar(axes, row, interval, colour(summary, algorithm), _marker(summary, algorithm))
        else:
            why = "baseline" if improvement and algorithm == summary.baseline else "not every task has a finished run"
            axes.text(0.02, row, why, va="center", style="italic", transform=axes.get_yaxis_transform())
    _algorithm_rows(axes, summary)
    if improvement:
        axes.axvline(0.5, color=axes.xaxis.label.get_color(), lw=0.9, ls=(0, (4, 3)))
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel("share of pairs of runs, 95 % bootstrap interval")
    else:
        axes.set_xlabel(f"{words(summary.metric)}, 95 % stratified bootstrap interval")


def bar(axes: Axes, row: float, interval: Interval, tint: str, marker: str) -> None:
    """An interval and its value on a line of their own."""
    if np.isfinite(interval.low):
        axes.plot(
            [interval.low, interval.high],
            [row, row],
            color=tint,
            lw=5,
            alpha=0.38,
            solid_capstyle="butt",
        )
    axes.plot([interval.value], [row], color=tint, marker=marker, ms=6.5, mew=0, ls="")


def _algorithm_rows(axes: Axes, summary: Summary) -> None:
    axes.set_yticks(range(len(summary.algorithms)), summary.algorithms)
    axes.set_ylim(len(summary.algorithms) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.margins(x=0.06)


def _profiles(summary: Summary, axes: Axes) -> None:
    for algorithm, profile in summary.profiles.items():
        tint = colour(summary, algorithm)
        axes.fill_between(profile.thresholds, profile.low, profile.high, color=tint, alpha=0.14, lw=0, step="post")
        axes.step(profile.thresholds, profile.share, where="post", color=tint, lw=1.8)
    axes.set_ylim(-0.02, 1.04)
    axes.set_xlabel(f"{words(summary.metric)} τ")
    axes.set_ylabel("share of runs above τ")
    axes.margins(x=0)


def _unit(summary: Summary, task: str) -> str:
    return words(summary.task_metrics[task])


# ---- output --------------------------------------------------------------------------------------


@contextmanager
def style(ink: str) -> Iterator[None]:
    """Draw as all pictures are drawn, with lines and letters of this colour."""
    inked = (
        "text.color",
        "axes.labelcolor",
        "axes.edgecolor",
        "axes.titlecolor",
        "xtick.color",
        "ytick.color",
        "grid.color",
    )
    settings: Any = _STYLE | dict.fromkeys(inked, ink)
    with mpl.rc_context(settings):
        yield


def png(panels: Sequence[Panel], title: str, legend: Sequence[Line2D] = ()) -> bytes:
    """All panels in one picture on white, above a legend of these handles."""
    columns = min(len(panels), 1 if len(panels) == 1 else 2 if len(panels) <= 4 else 3)
    lines = -(-len(panels) // columns)
    height = max((_height(panel) for panel in panels), default=3.0)
    with style(INK):
        width = max(4.9 * columns, 6.4)
        figure = Figure(figsize=(width, height * lines + 0.8), dpi=160, facecolor="white")
        layout: Any = figure.get_layout_engine()
        layout.set(w_pad=0.12, h_pad=0.1, wspace=0.03, hspace=0.05)
        title = textwrap.fill(title, int(8.8 * width))  # about as many letters of that size are an inch wide
        figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
        for place, panel in enumerate(panels, 1):
            axes = figure.add_subplot(lines, columns, place)
            panel.draw(axes)
            axes.set_title(in_lines(panel.title, int(10 * (width / columns - 0.8))))  # about ten letters an inch
        if legend:
            columns = math.ceil(len(legend) / math.ceil(len(legend) / 6))  # rows of like length
            figure.legend(handles=list(legend), loc="outside lower left", ncols=columns, frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def in_lines(name: str, letters: int) -> str:
    """The name of a task with lines of at most so many letters, broken behind commas.

    >>> in_lines("CartPole-v0#frames=5,sigma=0.2", 25)
    'CartPole-v0#frames=5,\\nsigma=0.2'
    """
    lines = [""]
    for part in re.findall("[^,]+,?", name):
        if lines[-1] and len(lines[-1] + part) > letters:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def svg(panel: Panel, name: str) -> str:
    """One panel as an `<svg>` element that takes text colour and font from the page. `name` keeps its ids unique."""
    with style(_CURRENT):
        figure = Figure(figsize=(4.4, _height(panel)))
        panel.draw(figure.add_subplot())
        buffer = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_CURRENT, "currentColor")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)


def _height(panel: Panel) -> float:
    return max(2.6, 1.25 + 0.42 * panel.rows) if panel.rows else 2.9


def handles(summary: Summary) -> list[Line2D]:
    """A legend of the algorithms."""
    return [
        Line2D([], [], color=colour(summary, a), marker=_marker(summary, a), lw=1.8, ms=5, label=a)
        for a in summary.algorithms
    ]
