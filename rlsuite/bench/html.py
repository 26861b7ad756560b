"""The report as one self-contained HTML page: no script, no font, no picture that lies anywhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from rlsuite.bench import plots
from rlsuite.bench.cells import Cell
from rlsuite.bench.plots import Panel
from rlsuite.bench.summary import Summary
from rlsuite.bench.text import (
    DASH,
    cell_marks,
    failure_line,
    leaders,
    number,
    plus_minus,
    range_of,
    with_spread,
    words,
)
from rlsuite.bench.units import UPDATES, singular

_CSS = """
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --ink: #1d2329; --soft: #5c6670; --line: #e2e5e8; --faint: #f3f4f5;
  --accent: #2f6fb3; --bad: #b3261e; --bad-back: #fdf0ee; --warn: #8a5a00; --warn-back: #fdf6e3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --card: #1b1f23; --ink: #e4e7ea; --soft: #9aa4ae; --line: #30363c; --faint: #22272c;
    --accent: #7fb2e8; --bad: #ff8f84; --bad-back: #341b19; --warn: #e6bd62; --warn-back: #2e2718;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  -webkit-text-size-adjust: 100%;
}
main { max-width: 68rem; margin: 0 auto; padding: 3rem 1.5rem 4rem; }
header p.kicker { margin: 0; color: var(--soft); font-size: .8rem; letter-spacing: .09em; text-transform: uppercase; }
h1 { margin: .2rem 0 .3rem; font-size: clamp(1.6rem, 1.2rem + 2vw, 2.3rem); line-height: 1.2; letter-spacing: -.015em; }
h2 { margin: 3rem 0 .7rem; font-size: 1.25rem; letter-spacing: -.01em; }
p, ul { max-width: 46rem; }
.lead { margin: 0 0 1.5rem; color: var(--soft); }
.protocol { margin: 0; padding: 0; list-style: none; }
.protocol li { margin: .35rem 0; }
.note, figcaption, .soft { color: var(--soft); font-size: .875rem; }
.note { margin: .45rem 0; }
.box { margin: 1rem 0; padding: .8rem 1rem; border-left: 4px solid; border-radius: 4px; max-width: 46rem; }
.bad { color: var(--bad); }
.box.bad { background: var(--bad-back); border-color: var(--bad); }
.box.warn { background: var(--warn-back); border-color: var(--warn); color: var(--warn); }
.box strong { display: block; }
.box p { margin: .2rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .94rem; }
th, td { padding: .6rem .9rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tr:last-child > th, tr:last-child > td { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 600; font-size: .85rem; white-space: nowrap; background: var(--faint); }
tbody th { font-weight: 500; }
.n { text-align: right; white-space: nowrap; }
.n small { display: block; color: var(--soft); font-size: .8rem; line-height: 1.45; }
.n small.bad { color: var(--bad); font-weight: 600; }
.best { font-weight: 700; }
tr.first > * { border-top: 2px solid var(--line); }
tr.aggregate th small { display: block; color: var(--soft); font-weight: 400; font-size: .8rem; min-width: 9rem; }
.wide th:first-child { position: sticky; left: 0; background: var(--card); }
.wide thead th:first-child { background: var(--faint); }
.wide td { white-space: nowrap; }
th[rowspan] { border-bottom: 0; }
tbody + tbody > tr:first-child > * { border-top: 1px solid var(--line); }
sup { line-height: 0; color: var(--soft); }
td.words { white-space: normal; min-width: 15rem; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .4rem 0 .8rem; padding: 0; }
.legend li { list-style: none; font-size: .9rem; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 50%; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 1rem; }
figure, .scroll { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
figure { margin: 0; padding: .9rem 1rem .6rem; }
.panels figure:only-child { max-width: 44rem; }
figure h3 { margin: 0 0 .3rem; font-size: .95rem; font-weight: 600; overflow-wrap: anywhere; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .45rem 1.5rem; margin: 0; }
dt, dd { font-size: .92rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
code { font: .88em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--accent); }
details .scroll { margin-top: .8rem; }
@media (max-width: 40rem) {
  main { padding: 1.6rem 1rem 3rem; }
  h2 { margin-top: 2.2rem; }
  th, td { padding: .5rem .65rem; }
  figure { padding: .7rem .5rem .4rem; }
  figure h3 { padding-left: .3rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .6rem; }
}
@media print { body { background: none; } .scroll { overflow: visible; } figure, tr { break-inside: avoid; } }
"""
_MANY = 5  # algorithms from which on the table has narrow columns
_MANY_CSS = """
.many th, .many td { padding: .55rem .5rem; }
.legend { max-width: none; }
"""


def page(summary: Summary, title: str) -> str:
    """The whole page. The same summary gives the same text."""
    sections = [
        _header(summary, title),
        _alerts(summary),
        _section("Results", _table(summary), _notes(summary.notes), _runs(summary)),
        _section("Published numbers", _published(summary)) if summary.published else "",
        _panels(
            "Learning curves",
            _curve_caption(summary),
            summary,
            plots.curve_panels(summary),
            "curve",
        ),
        _panels(
            "Intervals",
            _interval_caption(summary),
            summary,
            plots.interval_panels(summary),
            "interval",
        ),
        _section("Runs without a score", _failures(summary)) if summary.failures else "",
        _section("Provenance", _provenance(summary)) if summary.provenance else "",
    ]
    body = "\n".join(section for section in sections if section)
    css = _CSS + (_MANY_CSS if len(summary.algorithms) >= _MANY else "")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{css}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _header(summary: Summary, title: str) -> str:
    counts = [
        _count(len(summary.algorithms), "algorithm"),
        _count(len(summary.tasks), "task"),
        _count(summary.planned, "run"),
    ]
    finished = summary.planned - len(summary.failures)
    counts.append("all finished" if finished == summary.planned else f"{finished} finished")
    lines = "".join(f"<li>{escape(line)}</li>" for line in summary.protocol)
    return (
        f'<header>\n<p class="kicker">rlsuite benchmark</p>\n<h1>{escape(title)}</h1>\n'
        f'<p class="lead">{", ".join(counts)}</p>\n<ul class="protocol">{lines}</ul>\n</header>'
    )


def _alerts(summary: Summary) -> str:
    boxes = []
    if summary.failures:
        cells = dict.fromkeys((f.algorithm, f.task) for f in summary.failures)
        where = ", ".join(f"{algorithm} on {task}" for algorithm, task in cells)
        boxes.append(
            f'<div class="box bad" role="alert"><strong>{escape(failure_line(summary))}</strong>'
            f"<p>{escape(where)}. Details are below; the means are over the runs that finished.</p></div>"
        )
    if summary.warnings:
        lines = "".join(f"<p>{escape(warning)}</p>" for warning in summary.warnings)
        boxes.append(f'<div class="box warn"><strong>Read with care</strong>{lines}</div>')
    return "\n".join(boxes)


def _table(summary: Summary) -> str:
    head = "".join(f'<th scope="col" class="n">{escape(a)}</th>' for a in summary.algorithms)
    lines = []
    for task in summary.tasks:
        best = leaders(summary, task)
        cells = "".join(_cell(summary, summary.cells[task, a], a in best) for a in summary.algorithms)
        lines.append(f'<tr><th scope="row">{_breakable(task)}</th>{cells}</tr>')
    for index, aggregate in enumerate(summary.aggregates):
        cells = ""
        for algorithm in summary.algorithms:
            interval = aggregate.values.get(algorithm)
            text = DASH if interval is None else range_of(interval, aggregate.digits)
            value, _, ends = text.partition(" ")
            cells += f'<td class="n">{value}{f"<small>{ends}</small>" if ends else ""}</td>'
        start = ' class="aggregate first"' if index == 0 else ' class="aggregate"'
        name = f"{escape(aggregate.name)}<small>{escape(aggregate.help)}</small>"
        lines.append(f'<tr{start}><th scope="row">{name}</th>{cells}</tr>')
    table = f'<thead><tr><th scope="col">task</th>{head}</tr></thead>\n<tbody>\n' + "\n".join(lines) + "\n</tbody>"
    if len(summary.algorithms) < _MANY:
        return _scroll(table)
    return _scroll(table.replace(" ± ", "<br>± "), "wide many")


def _cell(summary: Summary, cell: Cell, best: bool) -> str:
    metric, online = summary.task_metrics[cell.task], summary.online(cell.task)
    interval = cell.interval(metric)
    failed = f'<small class="bad">{len(cell.failures)} failed</small>' if cell.failures else ""
    if interval is None:
        text = '<span class="bad">no score</span>' if cell.failures else DASH
        return f'<td class="n">{text}{failed}</td>'
    mark = ' class="best"' if best else ""
    lines = [f"<span{mark}>{plus_minus(interval, metric, online)}</span>{cell_marks(cell)}"]
    raw = cell.interval("return")
    if metric != "return" and raw is not None:
        lines.append(f"<small>{'final ' if metric == 'auc' else ''}return {plus_minus(raw, 'return', online)}</small>")
    elif metric != summary.metric:
        lines.append("<small>raw return</small>")
    lines.append(f"<small>{_count(cell.runs, 'run')}</small>")
    return f'<td class="n">{"".join(lines)}{failed}</td>'


def _runs(summary: Summary) -> str:
    """Every run's own number, behind a fold."""
    cells = summary.cells.values()
    names = {"score": "score", "return": "return", "auc": "average return"}
    metrics = [m for m in names if any(len(cell.values(m)) for cell in cells)]
    if "score" not in metrics and UPDATES in summary.units.values():
        metrics.insert(0, "score")
    body = []
    for cell in cells:
        known = {metric: cell.values(metric) for metric in metrics}
        for index, seed in enumerate(cell.seeds):
            values = [
                number(v[index], metric, summary.online(cell.task)) if len(v) else DASH for metric, v in known.items()
            ]
            values.append(f"{cell.updates or 0:,}")
            numbers = "".join(f'<td class="n">{value}</td>' for value in values)
            where = f"<td>{escape(cell.task)}</td><td>{escape(cell.algorithm)}</td>"
            body.append(f'<tr>{where}<td class="n">{seed}</td>{numbers}</tr>')
    if not body:
        return ""
    head = _head(("task", "algorithm"), ("seed", *(names[metric] for metric in metrics), summary.unit))
    return f"<details><summary>Every finished run</summary>{_scroll(head + _body(body))}</details>"


def _published(summary: Summary) -> str:
    sources = list(dict.fromkeys(p.source for p in summary.published))
    groups = []
    for task in summary.tasks:
        lines = []
        numbers = [p for p in summary.published if p.task == task]
        for index, p in enumerate(numbers):
            ours, fine = summary.cells[p.task, p.algorithm].interval(p.metric), summary.online(task)
            kind = "" if p.metric == "score" else f"<small>{words(p.metric)}</small>"
            name = f'<th scope="rowgroup" rowspan="{len(numbers)}">{_breakable(task)}</th>' if index == 0 else ""
            lines.append(
                f"<tr>{name}<td>{escape(p.algorithm)}</td>"
                f'<td class="n">{plus_minus(ours, p.metric, fine) if ours else DASH}{kind}</td>'
                f'<td class="n">{with_spread(p.mean, p.spread, p.metric, fine)}'
                f"<small>{escape(p.spread_kind)}</small></td>"
                f"<td{' class=words' if kind else ''}>{escape(p.label)} <sup>{sources.index(p.source) + 1}</sup>"
                f'<div class="soft">{escape(p.original)}: {escape(p.differs)}</div></td></tr>'
            )
        groups.append(_body(lines) if lines else "")
    if all(p.metric == "score" for p in summary.published):
        origin = "the published scores come from other data and other versions of the environment"
    else:
        origin = "the published numbers come from other data, versions of the environment or protocols"
    caution = (
        f'<p class="note">Not comparable to within the intervals: {origin}, as named in the last column, and their ± '
        "is another quantity. They are no part of the statistics above.</p>"
    )
    head = _head(("task", "algorithm"), ("here", "published"), ("what was measured there",))
    notes = _notes(f"{index}. {source}." for index, source in enumerate(sources, 1))
    return caution + _scroll(head + "\n".join(groups)) + notes


def _failures(summary: Summary) -> str:
    body = [
        f'<tr><td>{escape(f.task)}</td><td>{escape(f.algorithm)}</td><td class="n">{f.seed}</td>'
        f'<td class="bad">{escape(f.status)}</td><td class="n">{DASH if f.update is None else f"{f.update:,}"}</td>'
        f'<td class="words"><code>{escape(f.message)}</code></td></tr>'
        for f in summary.failures
    ]
    return _scroll(
        _head(("task", "algorithm"), ("seed",), ("status",), (f"at {singular(summary.unit)}",), ("message",))
        + _body(body)
    )


def _provenance(summary: Summary) -> str:
    code = {"Command", "Git commit", "Commit"}
    lines = []
    for name, value in summary.provenance.items():
        text = f"<code>{escape(value)}</code>" if name in code else escape(value)
        lines.append(f"<dt>{escape(name)}</dt><dd>{text}</dd>")
    return f"<dl>{''.join(lines)}</dl>"


def _panels(heading: str, caption: str, summary: Summary, panels: Sequence[Panel], name: str) -> str:
    if not panels:
        return ""
    legend = "".join(
        f'<li><i style="background:{plots.colour(summary, a)}"></i>{escape(a)}</li>' for a in summary.algorithms
    )
    figures = "\n".join(
        f'<figure role="img" aria-label="{escape(f"{heading}: {panel.title}")}"><h3>{_breakable(panel.title)}</h3>'
        f"{plots.svg(panel, f'{name}{index}')}</figure>"
        for index, panel in enumerate(panels)
    )
    return _section(
        heading,
        f'<p class="note">{caption}</p><ul class="legend">{legend}</ul><div class="panels">{figures}</div>',
    )


def _curve_caption(summary: Summary) -> str:
    return (
        f"Mean over runs of the interim evaluations, and of the final one at the last {singular(summary.unit)}; the "
        "band is the pointwise 95 % Student-t interval over runs."
        + (" The dashed line is where the averages end." if summary.until else "")
    )


def _interval_caption(summary: Summary) -> str:
    text = "Average returns" if summary.metric == "auc" else "Final checkpoints"
    text += ". Small dots are single runs, the bar is the interval named below the axis."
    if summary.profiles:
        what = "score" if summary.metric == "score" else words(summary.metric)
        text += (
            f" The profile shows, for each {what} τ, the share of runs above it, with a pointwise 95 % bootstrap band."
        )
    return text


def _section(heading: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def _notes(notes: Iterable[str]) -> str:
    return "\n".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _scroll(table: str, kind: str = "wide") -> str:
    return f'<div class="scroll" tabindex="0"><table class="{kind}">{table}</table></div>'


def _head(*groups: Sequence[str]) -> str:
    """Column names; those of every second group stand above numbers."""
    cells = "".join(
        f'<th scope="col"{" class=n" if index % 2 else ""}>{escape(name)}</th>'
        for index, group in enumerate(groups)
        for name in group
    )
    return f"<thead><tr>{cells}</tr></thead>\n"


def _body(lines: Iterable[str]) -> str:
    return "<tbody>\n" + "\n".join(lines) + "\n</tbody>"


def _breakable(name: str) -> str:
    """A long task name that may wrap after its slashes."""
    return escape(name).replace("/", "/<wbr>")


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
