"""Reports from stored rows: Markdown, LaTeX, CSV, pictures, and one self-contained page.

`build` is a pure function of the results folder's `rows.csv` and `manifest.json`: the same files give the same bytes.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlsuite.bench import html, plots, rows, statistics
from rlsuite.bench.cells import Cell
from rlsuite.bench.summary import Aggregate, Summary, summarise
from rlsuite.bench.text import (
    DASH,
    FAILED,
    FEW,
    MINUS,
    aligned,
    cell_marks,
    decimal,
    failure_line,
    leaders,
    markdown_table,
    markdown_text,
    plus_minus,
    range_of,
    with_spread,
    words,
)
from rlsuite.bench.units import singular
from rlsuite.data.files import read_json, write_atomic

FILES = ("table.md", "table.tex", "table.csv", "curves.png", "intervals.png", "report.html")


@dataclass(frozen=True)
class Report:
    """A written report: its numbers, and the files that hold them."""

    title: str
    summary: Summary
    paths: tuple[Path, ...]

    @property
    def page(self) -> Path:
        """The self-contained HTML page."""
        return self.paths[-1]


def build(
    results: Path,
    *,
    baseline: str | None = None,
    metric: str | None = None,
    until: int | None = None,
    resamples: int = statistics.RESAMPLES,
    seed: int = 0,
) -> Report:
    """Write the report of a results folder from its `rows.csv`, which is collected from the cells if it is missing.

    `baseline` is the algorithm that the others are compared with (default: the first), `metric` "score" (normalised
    x 100), "return", or "auc" (time average of the learning curve of returns, up to the position `until`), `resamples`
    and `seed` those of the bootstrap. Raises UserError if there are no rows, if one is incomplete, or if rows that do
    not measure the same thing would be averaged; nothing is written then.
    """
    results = Path(results)
    stored = rows.of_results(results)
    algorithms, tasks = rows.table_order(results)
    summary = summarise(
        stored,
        algorithms=algorithms,
        tasks=tasks,
        baseline=baseline,
        metric=metric,
        until=until,
        resamples=resamples,
        seed=seed,
    )
    manifest = read_json(results / "manifest.json")
    summary = replace(summary, provenance=summary.provenance | _provenance(manifest, summary.provenance))
    title = str(manifest.get("title") or manifest.get("name") or results.resolve().name)

    contents: dict[str, bytes] = {
        "table.md": markdown(summary, title).encode(),
        "table.tex": latex(summary, title).encode(),
        "table.csv": tidy_csv(summary).encode(),
    }
    curves = plots.curve_panels(summary)
    if curves:
        contents["curves.png"] = plots.png(curves, f"{title}: learning curves", plots.handles(summary))
    panels = plots.interval_panels(summary)
    what = "final checkpoints"
    if summary.metric == "auc":
        what = "average returns" + (f" up to {summary.until:,} {summary.unit}" if summary.until else "")
    contents["intervals.png"] = plots.png(
        panels, f"{title}: {what}", plots.handles(summary) if summary.profiles else ()
    )
    contents["report.html"] = html.page(summary, title).encode()
    for name in FILES:
        if name in contents:
            write_atomic(results / name, contents[name])
        else:  # a picture of rows that are no longer there
            (results / name).unlink(missing_ok=True)
    return Report(title, summary, tuple(results / name for name in FILES if name in contents))


def _provenance(manifest: dict[str, Any], known: Mapping[str, str]) -> dict[str, str]:
    """What the manifest says beyond what is `known` from the rows, but for the list of cells, as words."""
    facts = {}
    for key, value in manifest.items():
        if key in ("cells", "title", "name") or value in (None, "", [], {}):
            continue
        if key == "command" and isinstance(value, list):
            text = shlex.join(map(str, value))
        elif isinstance(value, dict):
            text = ", ".join(f"{name} {part}" for name, part in value.items())
        elif isinstance(value, list):
            text = ", ".join(map(str, value))
        else:
            text = str(value)
        facts[key.replace("_", " ").capitalize().replace("Cpu", "CPU")] = text
    return {name: text for name, text in facts.items() if name not in known}


# ---- Markdown ------------------------------------------------------------------------------------


def markdown(summary: Summary, title: str) -> str:
    """The report as Markdown: tables, published numbers, failed runs, provenance."""
    lines = [f"# {title}", ""]
    lines += [f"- {line}" for line in summary.protocol]
    if summary.failures:
        lines += ["", f"**{failure_line(summary)}**"]
    lines += [f"\n**Warning:** {markdown_text(warning)}" for warning in summary.warnings]
    lines += ["", *markdown_table(["task", *summary.algorithms], _main_rows(summary, _md_cell, markdown_text))]
    if summary.metric != "return":
        lines += [
            "",
            "## Raw returns" if summary.metric == "score" else "## Returns of the final checkpoints",
            "",
            *markdown_table(["task", *summary.algorithms], _return_rows(summary, markdown_text)),
        ]
    if summary.published:
        kinds = {"score" if p.metric == "score" else words(p.metric) for p in summary.published}
        lines += [
            "",
            "## Published numbers",
            "",
            "These measured something else, named in the last column.",
            "",
        ]
        header = [
            "task",
            "algorithm",
            "published as",
            kinds.pop() if len(kinds) == 1 else " or ".join(sorted(kinds)),
            "± is",
            "differs from ours",
            "source",
        ]
        body = [
            [
                p.task,
                p.algorithm,
                p.label,
                with_spread(p.mean, p.spread, p.metric, summary.online(p.task)),
                p.spread_kind,
                f"{p.original}: {p.differs}",
                p.source,
            ]
            for p in summary.published
        ]
        lines += markdown_table(header, [[markdown_text(value) for value in row] for row in body])
    if "curves" in _pictures(summary):
        lines += ["", "![learning curves](curves.png)"]
    lines += ["", "![intervals](intervals.png)"]
    if summary.failures:
        lines += ["", "## Runs without a score", ""]
        header = ["algorithm", "task", "seed", "status", f"at {singular(summary.unit)}", "message"]
        body = [
            [
                f.algorithm,
                f.task,
                str(f.seed),
                f.status,
                "" if f.update is None else f"{f.update:,}",
                f.message,
            ]
            for f in summary.failures
        ]
        lines += markdown_table(header, [[markdown_text(value) for value in row] for row in body])
    lines += ["", *(f"{markdown_text(note)}\n" for note in summary.notes)]
    lines += [
        "## Provenance",
        "",
        *(f"- {name}: {markdown_text(value)}" for name, value in summary.provenance.items()),
    ]
    return "\n".join(lines) + "\n"


def _md_cell(summary: Summary, cell: Cell) -> str:
    text = _plain_cell(summary, cell)
    return f"**{text}**" if cell.algorithm in leaders(summary, cell.task) else text


def _pictures(summary: Summary) -> tuple[str, ...]:
    return ("curves", "intervals") if summary.curves else ("intervals",)


# ---- shared by the formats that print the table --------------------------------------------------


def _plain_cell(summary: Summary, cell: Cell, metric: str | None = None) -> str:
    metric = metric or summary.task_metrics[cell.task]
    interval = cell.interval(metric)
    if interval is None:
        return f"failed ({len(cell.failures)})" if cell.failures else DASH
    return f"{plus_minus(interval, metric, summary.online(cell.task))} (n={cell.runs}){cell_marks(cell)}"


def _main_rows(summary: Summary, show: Any, escape: Any) -> list[list[str]]:
    """Tasks, then aggregates, as rows of the table; `show` formats a cell, `escape` a name."""
    body = [
        [
            escape(_task_name(summary, task)),
            *(show(summary, summary.cells[task, a]) for a in summary.algorithms),
        ]
        for task in summary.tasks
    ]
    for aggregate in summary.aggregates:
        body.append(
            [
                escape(aggregate.name),
                *(_aggregate_cell(summary, aggregate, a) for a in summary.algorithms),
            ]
        )
    return body


def _aggregate_cell(summary: Summary, aggregate: Aggregate, algorithm: str) -> str:
    interval = aggregate.values.get(algorithm)
    return DASH if interval is None else range_of(interval, aggregate.digits)


def _return_rows(summary: Summary, escape: Any) -> list[list[str]]:
    return [
        [
            escape(task),
            *(_plain_cell(summary, summary.cells[task, a], "return") for a in summary.algorithms),
        ]
        for task in summary.tasks
    ]


def _task_name(summary: Summary, task: str) -> str:
    return task if summary.task_metrics[task] == summary.metric else f"{task} (return)"


# ---- LaTeX ---------------------------------------------------------------------------------------


def latex(summary: Summary, title: str) -> str:
    """The table as LaTeX (needs the package booktabs), raw returns below, what the numbers mean as comments."""
    lines = [f"% {title}", "% \\usepackage{booktabs}"]
    lines += [f"% {line}" for line in (*summary.protocol, *summary.notes)]
    if summary.failures:
        lines.append(f"% {failure_line(summary)}")
    lines += [f"% Warning: {warning}" for warning in summary.warnings]
    tasks, aggregates = (
        len(summary.tasks),
        _main_rows(summary, _tex_cell, _tex)[len(summary.tasks) :],
    )
    lines += _tabular(
        summary,
        _main_rows(summary, _tex_cell, _tex)[:tasks],
        [list(map(_tex_marks, r)) for r in aggregates],
    )
    if summary.metric != "return":
        body = [[row[0], *map(_tex_marks, row[1:])] for row in _return_rows(summary, _tex)]
        what = "Raw returns" if summary.metric == "score" else "Returns of the final checkpoints"
        lines += ["", f"% {what}", *_tabular(summary, body, [])]
    return "\n".join(lines) + "\n"


def _tabular(summary: Summary, body: list[list[str]], aggregates: list[list[str]]) -> list[str]:
    lines = [f"\\begin{{tabular}}{{l{'r' * len(summary.algorithms)}}}", "\\toprule"]
    lines += [" & ".join(["task", *map(_tex, summary.algorithms)]) + r" \\", "\\midrule"]
    lines += [" & ".join(row) + r" \\" for row in body]
    if aggregates:
        lines += ["\\midrule", *(" & ".join(row) + r" \\" for row in aggregates)]
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def _tex_cell(summary: Summary, cell: Cell) -> str:
    text = _tex_marks(_plain_cell(summary, cell))
    return rf"\textbf{{{text}}}" if cell.algorithm in leaders(summary, cell.task) else text


def _tex_marks(text: str) -> str:
    for mark, command in {
        "±": r"$\pm$",
        FEW: r"$^\dagger$",
        FAILED: r"$^\ddagger$",
        DASH: "--",
        MINUS: "$-$",
    }.items():
        text = text.replace(mark, command)
    return text


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)


# ---- CSV -----------------------------------------------------------------------------------------

_CSV_HEADER = [
    *("kind", "task", "algorithm", "metric", "statistic", "value", "low", "high", "half_width", "interval"),
    *("runs", "failed_runs", "few_runs", "note"),
]


def tidy_csv(summary: Summary) -> str:
    """Every number of the report, one a row, with its interval and the runs behind it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    writer.writerows(_csv_rows(summary))
    return buffer.getvalue()


def _csv_rows(summary: Summary) -> Iterator[list[str]]:
    for task in summary.tasks:
        for algorithm in summary.algorithms:
            cell = summary.cells[task, algorithm]
            counts = [str(cell.runs), str(len(cell.failures)), str(cell.few).lower()]
            for metric in ("score", "return", *(["auc"] if summary.metric == "auc" else [])):
                interval = cell.interval(metric)
                if interval is None and metric != summary.task_metrics[task]:
                    continue
                numbers = _csv_numbers(interval)
                yield [
                    "cell",
                    task,
                    algorithm,
                    metric,
                    "mean over runs",
                    *numbers,
                    "95 % Student t",
                    *counts,
                    f"up to {summary.until}" if metric == "auc" and summary.until else "",
                ]
    for aggregate in summary.aggregates:
        for algorithm, interval in aggregate.values.items():
            numbers = [*_csv_numbers(interval)[:3], ""]  # a percentile interval is not symmetric
            metric = "share of pairs" if aggregate.name.startswith("P(") else summary.metric
            cells = [summary.cells[task, algorithm] for task in summary.tasks]
            counts = [str(sum(c.runs for c in cells)), str(sum(len(c.failures) for c in cells)), ""]
            kind = "95 % stratified percentile bootstrap"
            yield [
                "aggregate",
                "",
                algorithm,
                metric,
                aggregate.name,
                *numbers,
                kind,
                *counts,
                aggregate.help,
            ]
    for p in summary.published:
        numbers = [decimal(p.mean), "", "", decimal(p.spread)]
        note = f"{p.label}; {p.original}; differs: {p.differs}; source: {p.source}"
        yield [
            "published",
            p.task,
            p.algorithm,
            p.metric,
            "mean",
            *numbers,
            p.spread_kind,
            "",
            "",
            "",
            note,
        ]


def _csv_numbers(interval: statistics.Interval | None) -> list[str]:
    if interval is None:
        return [""] * 4
    return [decimal(x) for x in (interval.value, interval.low, interval.high, interval.half_width)]


# ---- terminal ------------------------------------------------------------------------------------


def print_table(report: Report, console: Console | None = None) -> None:
    """Print the table and where the page lies: with rich on a terminal, as plain lines otherwise."""
    console = console or Console()
    summary = report.summary
    body = _main_rows(summary, _plain_cell, str)
    if console.is_terminal:
        _print_rich(console, report, body)
        return
    header = ["task", *summary.algorithms]
    out = [report.title, "", *aligned(header, body)]
    out += ["", *summary.protocol, *summary.notes]
    out += [f"warning: {warning}" for warning in summary.warnings]
    if summary.failures:
        out += ["", failure_line(summary), *(_failure_text(summary))]
    out += ["", f"report: {report.page}"]
    console.file.write("\n".join(out) + "\n")


def _print_rich(console: Console, report: Report, body: list[list[str]]) -> None:
    summary = report.summary
    table = Table(title=Text(report.title), title_justify="left", title_style="bold", header_style="bold")
    table.add_column("task")
    for algorithm in summary.algorithms:
        table.add_column(Text(algorithm), justify="right")
    for index, row in enumerate(body):
        best = leaders(summary, summary.tasks[index]) if index < len(summary.tasks) else set()
        cells = (
            Text(
                value,
                style="bold" if algorithm in best else "red" if value.startswith("failed") else "",
            )
            for algorithm, value in zip(summary.algorithms, row[1:], strict=True)
        )
        table.add_row(Text(row[0]), *cells, end_section=index == len(summary.tasks) - 1)
    console.print(table)
    for line in (*summary.protocol, *summary.notes):
        console.print(Text(line, style="dim"))
    for warning in summary.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    if summary.failures:
        console.print(Text(failure_line(summary), style="bold red"))
        for line in _failure_text(summary):
            console.print(Text(line, style="red"))
    console.print(Text.assemble(("report: ", "bold"), str(report.page)), soft_wrap=True)


def _failure_text(summary: Summary) -> list[str]:
    return [f"  {f.algorithm} on {f.task}, seed {f.seed}: {f.status}: {f.message}" for f in summary.failures]
