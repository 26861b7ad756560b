"""The outcome of a check as a table for people, as JUnit XML, and as annotations of GitHub."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from rlsuite.check.baseline import Baseline
from rlsuite.check.cell import SCORE
from rlsuite.check.verdict import Judged, Verdict
from rlsuite.data.files import write_atomic

HEAD = ("case", "runs", "return", "stored", "p", "sanity", "statistical", "exact")


def rows(judged: Sequence[Judged]) -> list[tuple[str, ...]]:
    """One row a case under HEAD: medians of the returns, and the state of each level."""
    table = []
    for case in judged:
        states = {name: verdict.state for name, verdict in case.levels.items()}
        p = case.levels["statistical"].p if "statistical" in case.levels else np.nan
        table.append(
            (
                case.name,
                f"{len(case.scores)}/{len(case.runs)}",
                _median(case.scores),
                _median(case.baseline.measures[SCORE].tolist()) if case.baseline else "",
                "" if np.isnan(p) else f"{p:.2g}",
                *(states.get(level, "") for level in ("sanity", "statistical", "exact")),
            )
        )
    return table


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.4g}" if values else ""


def text(judged: Sequence[Judged]) -> str:
    """The table in aligned columns, then what failed, then why levels were skipped, each reason once."""
    table = [HEAD, *rows(judged)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    for case in judged:
        for level, verdict in case.levels.items():
            if verdict.state == "failed":
                lines += [f"{case.name}, {level}: {note}." for note in verdict.notes]
    return "\n".join([*lines, *skips(judged)])


def skips(judged: Sequence[Judged]) -> list[str]:
    """Sentences: which level was skipped, in how many cases, and why."""
    reasons: dict[str, int] = {}
    for case in judged:
        for level, verdict in case.levels.items():
            if verdict.state == "skipped":
                reason = f"{level} was skipped: {verdict.notes[0]}"
                reasons[reason] = reasons.get(reason, 0) + 1
    return [f"{reason} ({count} case{'s' * (count > 1)})." for reason, count in reasons.items()]


def write_junit(path: Path, judged: Sequence[Judged], seconds: float) -> None:
    """One test suite a case, one test a level."""
    root = ElementTree.Element("testsuites", name="rlsuite check", time=f"{seconds:.1f}")
    for case in judged:
        counts = {
            name: str(sum(verdict.state == state for verdict in case.levels.values()))
            for name, state in (("failures", "failed"), ("skipped", "skipped"))
        }
        attributes = {"name": case.name, "tests": str(len(case.levels)), "errors": "0", **counts}
        suite = ElementTree.SubElement(root, "testsuite", attributes)
        for level, verdict in case.levels.items():
            test = ElementTree.SubElement(suite, "testcase", classname=f"rlsuite.check.{case.name}", name=level)
            if verdict.state != "ok":
                tag = "failure" if verdict.state == "failed" else "skipped"
                note = ElementTree.SubElement(test, tag, message=verdict.notes[0])
                note.text = "\n".join(verdict.notes)
    ElementTree.indent(root)
    content = ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
    write_atomic(path, content + "\n")


def github(judged: Sequence[Judged]) -> list[str]:
    """Workflow commands that GitHub shows beside a commit: an error for each failed level of a case."""
    return [
        f"::error title={_property(f'rlsuite check: {case.name}, {level}')}::{_data(_joined(verdict))}"
        for case in judged
        for level, verdict in case.levels.items()
        if verdict.state == "failed"
    ]


def _joined(verdict: Verdict, most: int = 5) -> str:
    more = [f"and {len(verdict.notes) - most} more"] if len(verdict.notes) > most else []
    return "\n".join([*verdict.notes[:most], *more])


def _data(message: str) -> str:
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")


def markdown(judged: Sequence[Judged]) -> str:
    """The table for the summary page of a workflow, with the notes below."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows(judged)]
    notes = [
        f"- {case.name}, {level}: {note}"
        for case in judged
        for level, verdict in case.levels.items()
        if verdict.state == "failed"
        for note in verdict.notes
    ]
    return "\n".join([*lines, "", *notes, "", *skips(judged), ""])


def changes(name: str, old: Baseline | None, new: Baseline, p: dict[str, float], level: float) -> list[str]:
    """What an update makes different: `p` has the rank-sum test of each measure that both baselines have."""
    if old is None:
        return [f"{name}: new, {new.runs} runs, return {np.median(new.measures[SCORE]):.4g}"]
    lines = []
    if old.about != new.about:
        given = {k: (old.about["given"].get(k), v) for k, v in new.about["given"].items()}
        given |= {k: (v, None) for k, v in old.about["given"].items() if k not in given}
        lines += [f"{key} {before} -> {after}" for key, (before, after) in given.items() if before != after]
    for key in sorted(set(old.measures) ^ set(new.measures)):
        lines.append(f"{key} {'is new' if key in new.measures else 'is gone'}")
    for key, value in p.items():
        if value <= level:
            before, after = (float(np.median(b.measures[key])) for b in (old, new))
            lines.append(f"{key} {before:.4g} -> {after:.4g} (medians, p = {value:.1g})")
    for path in sorted(old.moved ^ new.moved):
        lines.append(f"{path} {'moves now' if path in new.moved else 'no longer moves in every run'}")
    same = [old.digests[seed] == digest for seed, digest in new.digests.items() if seed in old.digests]
    if not all(same):
        lines.append(f"the bits of {same.count(False)} of {len(same)} runs")
    return [f"{name}: {line}" for line in lines] or [f"{name}: nothing but its date"]
