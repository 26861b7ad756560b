"""A comparison as text: terminal, Markdown, CSV."""

from __future__ import annotations

import csv
import io
import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlsuite.bench.compare import Comparison, Pair, title
from rlsuite.bench.difference import MOST_RUNS
from rlsuite.bench.statistics import Interval
from rlsuite.bench.text import (
    DASH,
    MINUS,
    aligned,
    cell_marks,
    decimal,
    decimals,
    markdown_table,
    markdown_text,
    plus_minus,
    range_of,
)

HEADER = ("task", "algorithm", "A", "B", f"B {MINUS} A", "p", "p (Holm)", "P(B > A)", "more runs")


def body(comparison: Comparison) -> list[list[str]]:
    """A row for each pair, then one for each algorithm that was compared on several tasks."""
    lines = [
        [
            pair.task if pair.metric == comparison.pairs[0].metric else f"{pair.task} ({pair.metric})",
            title(pair.columns),
            *(_cell(pair, side) for side in (0, 1)),
            change(pair),
            probability(pair.p),
            probability(pair.p_holm),
            range_of(pair.improvement, 2),
            more(pair),
        ]
        for pair in comparison.pairs
    ]
    for columns, interval in comparison.improvements.items():
        tasks = sum(pair.columns == columns for pair in comparison.pairs)
        if tasks > 1:
            lines.append([f"all {tasks} tasks", title(columns), "", "", "", "", "", range_of(interval, 2), ""])
    return lines


def _cell(pair: Pair, side: int) -> str:
    cell = pair.cells[side]
    interval = cell.interval(pair.metric)
    assert interval is not None, "a pair has finished runs on both sides"
    return f"{plus_minus(interval, pair.metric, pair.online)} (n={cell.runs}){cell_marks(cell)}"


def change(pair: Pair) -> str:
    """The difference with its interval, with the digits of the larger mean."""
    level = max(abs(float(values.mean())) for values in pair.values)
    text = range_of(pair.difference, decimals(level, pair.metric, pair.online))
    return f"+{text}" if pair.difference.value > 0 else text


def probability(p: float) -> str:
    """
    >>> probability(0.0421), probability(0.00004)
    ('0.042', '<0.001')
    """
    return DASH if math.isnan(p) else "<0.001" if p < 0.0005 else f"{p:.3f}"


def more(pair: Pair) -> str:
    """Runs to add: one number, or those of A / B where they differ; a dash where there is nothing to settle."""
    if pair.sought is None:
        return DASH
    if pair.more is None:
        return f">{MOST_RUNS:,}"
    first, second = pair.more
    return f"+{first:,}" if first == second else f"+{first:,} / +{second:,}"


# ---- formats -------------------------------------------------------------------------------------


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown."""
    lines = ["# Comparison", "", *(f"- {markdown_text(fact)}" for fact in comparison.facts)]
    lines += [f"\n**Warning:** {markdown_text(line)}" for line in (*comparison.lost, *comparison.warnings)]
    cells = [[markdown_text(value) for value in line] for line in body(comparison)]
    for pair, line in zip(comparison.pairs, cells, strict=False):
        if pair.significant:
            line[4] = f"**{line[4]}**"
    lines += ["", *markdown_table(HEADER, cells), "", "![differences](compare.png)", ""]
    return "\n".join(lines + [f"{markdown_text(note)}\n" for note in comparison.notes])


_CSV_HEADER = [
    *("task", "algorithm_a", "algorithm_b", "metric", "runs_a", "runs_b", "failed_a", "failed_b"),
    *("mean_a", "mean_b", "std_a", "std_b", "difference", "low", "high", "p", "p_holm", "p_worse", "p_worse_holm"),
    *("improvement", "improvement_low", "improvement_high", "more_runs_a", "more_runs_b"),
]


def tidy_csv(comparison: Comparison) -> str:
    """Every number, a pair a row; rows without a task are over all tasks."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _CSV_HEADER, restval="", lineterminator="\n")
    writer.writeheader()
    for pair in comparison.pairs:
        line = dict(zip(_CSV_HEADER[:4], (pair.task, *pair.columns, pair.metric), strict=True))
        for side, cell, values in zip("ab", pair.cells, pair.values, strict=True):
            line |= {f"runs_{side}": str(cell.runs), f"failed_{side}": str(len(cell.failures))}
            line |= {f"mean_{side}": decimal(float(values.mean()))}
            line |= {f"std_{side}": decimal(float(values.std(ddof=1)))} if cell.runs > 1 else {}
        line |= dict(zip(("difference", "low", "high"), map(decimal, pair.difference), strict=True))
        for name, p in (
            ("p", pair.p),
            ("p_holm", pair.p_holm),
            ("p_worse", pair.worse),
            ("p_worse_holm", pair.worse_holm),
        ):
            line[name] = "" if math.isnan(p) else f"{p:.6g}"
        more_runs = pair.more or ("", "")
        writer.writerow(
            line | _improvement(pair.improvement) | {"more_runs_a": more_runs[0], "more_runs_b": more_runs[1]}
        )
    for columns, interval in comparison.improvements.items():
        names = {"algorithm_a": columns[0], "algorithm_b": columns[1]}
        writer.writerow(names | _improvement(interval))
    return buffer.getvalue()


def _improvement(interval: Interval) -> dict[str, str]:
    keys = ("improvement", "improvement_low", "improvement_high")
    return dict(zip(keys, map(decimal, interval), strict=True))


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the table and how to read it: with rich on a terminal, as plain lines otherwise."""
    console = console or Console()
    lines = body(comparison)
    significant = [pair.significant for pair in comparison.pairs]
    if console.is_terminal:
        table = Table(header_style="bold")
        for index, name in enumerate(HEADER):
            table.add_column(name, justify="left" if index < 2 else "right")
        for index, line in enumerate(lines):
            strong = significant[index : index + 1] == [True]
            table.add_row(*(Text(value, style="bold" if strong and i == 4 else "") for i, value in enumerate(line)))
        console.print(table)
    else:
        for cells, strong in zip(lines, significant, strict=False):
            cells[4] += "*" if strong else ""
        console.file.write("\n".join([*aligned(HEADER, lines, left=2), ""]) + "\n")
    for said in (*comparison.facts, *comparison.notes):
        console.print(Text(said, style="dim"), soft_wrap=not console.is_terminal)
    for said in (*comparison.lost, *comparison.warnings):
        console.print(Text(f"warning: {said}", style="yellow"), soft_wrap=not console.is_terminal)
