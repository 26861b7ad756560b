"""How numbers and marks are written, the same in every format of a report."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from rlsuite.bench.cells import Cell
from rlsuite.bench.statistics import Interval
from rlsuite.bench.summary import Summary

FEW = "†"
FAILED = "‡"
DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def number(value: float, metric: str = "score", fine: bool = False) -> str:
    """One decimal; returns and their averages are whole from 1,000 on, with thousands separated.

    `fine`, for the small tasks among the online ones, gives returns below 10 two decimals.
    """
    return f"{value:,.{decimals(value, metric, fine)}f}".replace("-", MINUS)


def plus_minus(interval: Interval, metric: str = "score", fine: bool = False) -> str:
    """Mean ± half-width; a dash where one run leaves the half-width unknown."""
    return with_spread(interval.value, interval.half_width, metric, fine)


def with_spread(value: float, spread: float, metric: str = "score", fine: bool = False) -> str:
    """Value ± spread, a dash where that is nan; both with the digits of the value."""
    text = DASH if math.isnan(spread) else f"{spread:,.{decimals(value, metric, fine)}f}"
    return f"{number(value, metric, fine)} ± {text}"


def words(metric: str) -> str:
    """What a metric is called on an axis or in a column's head."""
    return {"score": "normalised score", "return": "return", "auc": "average return"}[metric]


def decimals(value: float, metric: str, fine: bool) -> int:
    """Digits after the point that `number` writes."""
    if metric == "score":
        return 1
    return 0 if abs(value) >= 1000 else 2 if fine and abs(value) < 10 else 1


def decimal(value: float) -> str:
    """Six decimals: the digits after them may depend on the processor, and a stored number must not."""
    return "" if math.isnan(value) else f"{value:.6f}"


def range_of(interval: Interval, digits: int = 1) -> str:
    """Value [low, high]; the value alone where the ends are unknown."""
    if math.isnan(interval.low):
        return f"{interval.value:,.{digits}f}".replace("-", MINUS)
    value, low, high = (f"{x:,.{digits}f}".replace("-", MINUS) for x in interval)
    return f"{value} [{low}, {high}]"


def cell_marks(cell: Cell) -> str:
    """Footnote signs of a cell: few runs, failed runs."""
    return (FEW if cell.few else "") + (FAILED if cell.failures else "")


def leaders(summary: Summary, task: str) -> set[str]:
    """The algorithm with the highest mean on a task, and all whose interval overlaps with that one's.

    Empty where that would be all of them: then there is nobody to tell apart.
    """
    intervals = {a: summary.cells[task, a].interval(summary.task_metrics[task]) for a in summary.algorithms}
    known = {a: interval for a, interval in intervals.items() if interval is not None}
    if len(known) < 2:
        return set()
    best = max(known.values(), key=lambda interval: interval.value)
    floor = best.value if math.isnan(best.low) else best.low
    leading = {a for a, i in known.items() if (i.value if math.isnan(i.high) else i.high) >= floor}
    return leading if len(leading) < len(known) else set()


def failure_line(summary: Summary) -> str:
    """How many runs have no score, and why, in one sentence."""
    kinds = Counter(failure.status for failure in summary.failures)
    listed = ", ".join(f"{count} {status}" for status, count in sorted(kinds.items()))
    are = "has" if len(summary.failures) == 1 else "have"
    return f"{len(summary.failures)} of {summary.planned} runs {are} no score: {listed}."


def aligned(header: Sequence[str], body: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """A table as plain lines; all columns but the first `left` are aligned to the right."""
    widths = [max(len(row[i]) for row in (header, *body)) for i in range(len(header))]
    rows = [header, ["-" * width for width in widths], *body]
    padded = [
        [v.ljust(w) if i < left else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    return ["  ".join(row).rstrip() for row in padded]


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of Markdown."""
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *body)]


def markdown_text(text: str) -> str:
    """Text with what Markdown would read as markup escaped."""
    return re.sub(r"([|\\`*<>])", r"\\\1", text)
