"""Reports of a made-up benchmark: what they say, what they refuse, and that the same rows give the same bytes."""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from rlsuite.bench import report, report_cli, rows
from rlsuite.bench.plots import in_lines
from rlsuite.bench.published import d4rl_name, published_scores
from rlsuite.bench.summary import Summary, summarise
from rlsuite.errors import UserError

TASKS = ("rlsuite/hopper/medium-v0", "rlsuite/walker2d/medium-v0")
LEVELS = {"bc": 50.0, "td3_bc": 60.0, "prdc": 72.0}
UPDATES, INTERIM = 50_000, 10_000


def make_row(**changes: Any) -> rows.Row:
    """A valid row of a final episode."""
    row: rows.Row = {
        "run_id": "0123456789ab",
        "config_hash": "c" * 64,
        "algorithm": "bc",
        "task": TASKS[0],
        "env": "Hopper-v5",
        "dataset": TASKS[0],
        "dataset_hash": "d" * 64,
        "dataset_rows": 200_000,
        "seed": 0,
        "phase": "final",
        "protocol": "final-20ep-deterministic",
        "update": UPDATES,
        "episode": 0,
        "episode_seed": 77,
        "return": 1500.0,
        "length": 500,
        "terminated": True,
        "truncated": False,
        "score": 46.5,
        "score_reference": "rlsuite Hopper-v5",
        "policy_mode": "deterministic",
        "code_version": "0.1.0",
        "cpu_class": "x86-64-avx2",
        "status": "ok",
        "message": "",
    }
    assert set(changes) <= set(row)
    return row | changes


def make_run(algorithm: str, task: str, seed: int, episodes: int = 20, **changes: Any) -> list[rows.Row]:
    """Interim and final rows of one finished run, a function of its arguments only."""
    rng = np.random.default_rng([seed, TASKS.index(task), *algorithm.encode()])
    hopper = "hopper" in task
    env = "Hopper-v5" if hopper else "Walker2d-v5"
    identity = {
        "run_id": f"{algorithm}-{TASKS.index(task)}-{seed}",
        "config_hash": (algorithm.encode().hex() + "0" * 64)[:64],
        "algorithm": algorithm,
        "task": task,
        "env": env,
        "dataset": task,
        "dataset_hash": ("ab" if hopper else "cd") * 32,
        "seed": seed,
        "score_reference": f"rlsuite {env}",
    } | changes
    level = LEVELS.get(algorithm, 55.0) + (0 if hopper else 12) + rng.normal(scale=4)
    made = []

    def episodes_at(update: int, phase: str, n: int) -> None:
        progress = 1 - np.exp(-3 * update / UPDATES)
        for episode in range(n):
            score = float(level * progress + rng.normal(scale=8))
            made.append(
                make_row(**identity)
                | {
                    "phase": phase,
                    "protocol": f"{phase}-{n}ep-deterministic",
                    "update": update,
                    "episode": episode,
                    "episode_seed": 1000 + episode,
                    "return": 31.0 * score - 20.0,
                    "length": int(400 + 5 * score),
                    "score": score,
                }
            )

    for update in range(INTERIM, UPDATES + 1, INTERIM):
        episodes_at(update, "interim", 5)
    episodes_at(UPDATES, "final", episodes)
    return made


def make_rows() -> list[rows.Row]:
    """All of the benchmark: five seeds, but three for BC on Walker2d, and PRDC diverges there on seed 4."""
    made = []
    for task in TASKS:
        for algorithm in LEVELS:
            for seed in range(3 if algorithm == "bc" and "walker" in task else 5):
                if (algorithm, seed) == ("prdc", 4) and "walker" in task:
                    made.append(make_failure(algorithm, task, seed))
                else:
                    made += make_run(algorithm, task, seed)
    return made


def make_failure(algorithm: str, task: str, seed: int, status: str = "diverged") -> rows.Row:
    row: rows.Row = dict.fromkeys(rows.COLUMNS)
    return row | {
        "run_id": f"{algorithm}-failed-{seed}",
        "algorithm": algorithm,
        "task": task,
        "seed": seed,
        "update": 31_000,
        "status": status,
        "message": "critic_loss is nan | at update 31,000 <b>",
    }


def make_results(folder: Path, made: list[rows.Row] | None = None) -> Path:
    """A results folder with rows and a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rows.write(folder / rows.ROWS_FILE, make_rows() if made is None else made)
    manifest = {
        "name": "synthetic",
        "title": "Three methods on made-up data",
        "command": ["rlsuite", "bench", "benchmarks/quick.toml"],
        "git_commit": "0f" * 20,
        "cpu": "Some Processor",
        "versions": {"python": "3.12.1", "torch": "2.13.0"},
        "cells": [{"algorithm": a, "task": t, "folder": f"{a}-x-s0-00000000"} for t in TASKS for a in LEVELS],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> report.Report:
    return report.build(make_results(tmp_path_factory.mktemp("results") / "one"), resamples=2000)


def summary_of(made: list[rows.Row], tmp_path: Path, **options: Any) -> Summary:
    rows.write(tmp_path / "rows.csv", made)
    return summarise(rows.read(tmp_path / "rows.csv"), resamples=1000, **options)


def table_of(written: report.Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((written.page.parent / "table.csv").read_text())))


# ---- numbers


def test_a_cell_is_the_t_interval_over_run_means(written: report.Report) -> None:
    means = []
    for seed in range(5):
        final = [row["score"] for row in make_run("td3_bc", TASKS[0], seed) if row["phase"] == "final"]
        means.append(np.mean(final))
    half = stats.t.ppf(0.975, 4) * np.std(means, ddof=1) / np.sqrt(5)
    line = next(
        row
        for row in table_of(written)
        if (row["task"], row["algorithm"], row["metric"]) == (TASKS[0], "td3_bc", "score")
    )
    assert float(line["value"]) == pytest.approx(np.mean(means), abs=1e-5)
    assert float(line["half_width"]) == pytest.approx(half, abs=1e-5)
    assert (line["runs"], line["failed_runs"], line["few_runs"]) == ("5", "0", "false")
    assert f"{np.mean(means):.1f} ± {half:.1f} (n=5)" in (written.page.parent / "table.md").read_text()


def test_returns_stand_beside_scores(written: report.Report) -> None:
    score, raw = (
        next(row for row in table_of(written) if row["algorithm"] == "prdc" and row["metric"] == metric)
        for metric in ("score", "return")
    )
    assert float(raw["value"]) == pytest.approx(31 * float(score["value"]) - 20, abs=1e-3)
    assert float(raw["half_width"]) == pytest.approx(31 * float(score["half_width"]), abs=1e-3)


def test_interim_rows_do_not_change_the_table(tmp_path: Path) -> None:
    made = make_rows()
    full = summary_of(made, tmp_path)
    final = summary_of([row for row in made if row["phase"] != "interim"], tmp_path)
    assert full.aggregates == final.aggregates
    assert not final.curves and full.curves


def test_curve_ends_at_the_final_score(written: report.Report) -> None:
    summary = written.summary
    curve = summary.curves[TASKS[0], "prdc"]
    assert curve.updates.tolist() == [10_000, 20_000, 30_000, 40_000, 50_000] and curve.runs == 5
    interval = summary.cells[TASKS[0], "prdc"].interval("score")
    assert interval is not None
    assert (curve.mean[-1], curve.low[-1], curve.high[-1]) == pytest.approx(tuple(interval))
    at_20k = [r["score"] for seed in range(5) for r in make_run("prdc", TASKS[0], seed) if r["update"] == 20_000]
    assert curve.mean[1] == pytest.approx(np.mean(at_20k))


def test_aggregates_and_comparison(written: report.Report) -> None:
    summary = written.summary
    by_name = {aggregate.name: aggregate.values for aggregate in summary.aggregates}
    assert list(by_name) == ["IQM", "Median", "Mean", "Optimality gap", "P(better than bc)"]
    pooled = np.concatenate([summary.cells[task, "bc"].scores for task in TASKS])  # type: ignore[arg-type,list-item]
    iqm = by_name["IQM"]["bc"]
    assert iqm is not None and iqm.value == pytest.approx(stats.trim_mean(pooled, 0.25))
    assert iqm.low < iqm.value < iqm.high
    assert by_name["P(better than bc)"]["bc"] is None
    assert by_name["P(better than bc)"]["prdc"] == (1, 1, 1)


def test_baseline_can_be_named(tmp_path: Path) -> None:
    summary = summary_of(make_rows(), tmp_path, baseline="td3_bc")
    values = summary.aggregates[-1].values
    assert values["td3_bc"] is None and values["bc"] is not None and values["bc"].value < 0.1


def test_an_interval_does_not_move_when_an_algorithm_joins(tmp_path: Path) -> None:
    made = make_rows()
    alone = summary_of([row for row in made if row["algorithm"] == "bc"], tmp_path)
    assert alone.aggregates[0].values["bc"] == summary_of(made, tmp_path).aggregates[0].values["bc"]
    assert [aggregate.name for aggregate in alone.aggregates] == [
        "IQM",
        "Median",
        "Mean",
        "Optimality gap",
    ]


def test_a_task_without_reference_shows_returns_and_stays_out_of_aggregates(tmp_path: Path) -> None:
    made = [row | {"score": None, "score_reference": ""} if row["task"] == TASKS[1] else row for row in make_rows()]
    summary = summary_of(made, tmp_path)
    assert summary.task_metrics == {TASKS[0]: "score", TASKS[1]: "return"}
    only = summary_of([row for row in made if row["task"] == TASKS[0]], tmp_path)
    assert summary.aggregates[0].values["prdc"] == only.aggregates[0].values["prdc"]
    assert any("no score reference" in warning for warning in summary.warnings)
    assert "rlsuite/walker2d/medium-v0 (return)" in report.markdown(summary, "x")


def test_returns_of_different_tasks_are_not_pooled(tmp_path: Path) -> None:
    summary = summary_of(make_rows(), tmp_path, metric="return")
    assert [aggregate.name for aggregate in summary.aggregates] == ["P(better than bc)"]
    assert not summary.profiles


# ---- what must be seen


def test_failures_are_loud(written: report.Report) -> None:
    folder = written.page.parent
    for name in ("table.md", "table.tex", "report.html"):
        assert "1 of 28 runs has no score: 1 diverged." in (folder / name).read_text()
    page = (folder / "report.html").read_text()
    assert "critic_loss is nan | at update 31,000 &lt;b&gt;" in page and "1 failed" in page
    assert "critic_loss is nan \\| at update 31,000 \\<b\\>" in (folder / "table.md").read_text()
    cell = written.summary.cells[TASKS[1], "prdc"]
    assert (cell.runs, len(cell.failures), cell.failures[0].update) == (4, 1, 31_000)


def test_few_runs_are_marked(written: report.Report) -> None:
    markdown = (written.page.parent / "table.md").read_text()
    assert re.search(r"\(n=3\)†", markdown) and re.search(r"\(n=4\)†‡", markdown) and "(n=5)†" not in markdown
    assert "under 5 runs" in markdown
    assert r"(n=3)$^\dagger$" in (written.page.parent / "table.tex").read_text()
    assert "†" in written.page.read_text()


def test_a_cell_where_every_run_failed(tmp_path: Path) -> None:
    made = [row for row in make_rows() if (row["algorithm"], row["task"]) != ("prdc", TASKS[1])]
    made += [make_failure("prdc", TASKS[1], seed, "crashed") for seed in range(5)]
    written = report.build(make_results(tmp_path, made), resamples=1000)
    assert "| failed (5) |" in (tmp_path / "table.md").read_text()
    assert written.summary.aggregates[0].values["prdc"] is None
    assert any("without a finished run" in note for note in written.summary.notes)


def test_all_runs_failed(tmp_path: Path) -> None:
    made = [make_failure("bc", TASKS[0], seed, "timeout") for seed in range(3)]
    written = report.build(make_results(tmp_path, made), resamples=1000)
    assert "3 of 3 runs have no score: 3 timeout." in (tmp_path / "table.md").read_text()
    assert not (tmp_path / "curves.png").exists() and written.page.exists()


def test_one_run_has_no_half_width(tmp_path: Path) -> None:
    report.build(make_results(tmp_path, make_run("bc", TASKS[0], 0)), resamples=1000)
    text = (tmp_path / "table.md").read_text()
    assert re.search(r"\d\.\d ± \N{EN DASH} \(n=1\)†", text) and " nan" not in text
    assert re.search(r"\| IQM \| \d+\.\d \|", text)


def test_mixed_code_and_processors_are_a_warning(tmp_path: Path) -> None:
    made = make_run("bc", TASKS[0], 0) + make_run("bc", TASKS[0], 1, code_version="0.2.0", cpu_class="x86-64-avx512")
    report.build(make_results(tmp_path, made), resamples=1000)
    for name in ("table.md", "table.tex", "report.html"):
        text = (tmp_path / name).read_text()
        assert "2 different code versions are mixed: 0.1.0, 0.2.0" in text
        assert "2 different CPU classes are mixed: x86-64-avx2, x86-64-avx512" in text


def test_protocol_line_says_what_a_number_means(written: report.Report) -> None:
    text = " ".join(written.summary.protocol)
    for part in (
        "final checkpoint",
        "50,000 updates",
        "20 fresh episodes",
        "deterministic policy",
        "Student-t",
        "Hopper-v5",
    ):
        assert part in text


def test_provenance(written: report.Report) -> None:
    page = written.page.read_text()
    for part in (
        "rlsuite bench benchmarks/quick.toml",
        "0f" * 20,
        "torch 2.13.0",
        "SHA-256 " + "ab" * 8,
        "x86-64-avx2",
    ):
        assert part in page


# ---- refusals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset_hash": "e" * 64}, "data sets with different content (dataset_hash "),
        ({"env": "Hopper-v4"}, "environments (env Hopper-v4 and Hopper-v5)"),
        ({"score_reference": "D4RL"}, "score references"),
        ({"policy_mode": "stochastic"}, "policy modes"),
        (
            {"config_hash": "e" * 64},
            "bc on rlsuite/hopper/medium-v0 mixes runs of different settings",
        ),
        ({"seed": 0}, "has more than one run of seed 0"),
    ],
)
def test_rows_that_measure_different_things_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    made = make_run("bc", TASKS[0], 0) + [row | change for row in make_run("bc", TASKS[0], 1)]
    make_results(tmp_path, made)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match=re.escape(words)):
        report.build(tmp_path, resamples=1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_other_protocols_updates_and_episodes_are_refused(tmp_path: Path) -> None:
    first, second = make_run("bc", TASKS[0], 0), make_run("bc", TASKS[0], 1)
    with pytest.raises(UserError, match="mixes final protocols"):
        summary_of(first + make_run("bc", TASKS[0], 1, episodes=10), tmp_path)
    with pytest.raises(UserError, match="final checkpoints of different updates"):
        summary_of(first + [row | {"update": row["update"] * 2} for row in second], tmp_path)
    with pytest.raises(UserError, match="has 19 final episodes"):
        summary_of(first + second[:-1], tmp_path)


def test_algorithms_on_one_task_need_the_same_data(tmp_path: Path) -> None:
    made = make_run("bc", TASKS[0], 0) + make_run("prdc", TASKS[0], 0, dataset_hash="e" * 64)
    with pytest.raises(UserError, match="report them separately"):
        summary_of(made, tmp_path)


def test_bad_options(tmp_path: Path) -> None:
    results = make_results(tmp_path / "r")
    for options, words in (
        ({"baseline": "prcd"}, "did you mean 'prdc'"),
        ({"metric": "scor"}, "did you mean 'score'"),
        ({"resamples": 10}, "1,000"),
    ):
        with pytest.raises(UserError, match=words):
            report.build(results, **options)  # type: ignore[arg-type]
    assert sorted(path.name for path in results.iterdir()) == ["manifest.json", "rows.csv"]


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no results folder"):
        report.build(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"neither rows[.]csv nor cells"):
        report.build(tmp_path)
    make_results(tmp_path, [])
    with pytest.raises(UserError, match="no rows"):
        report.build(tmp_path)


# ---- files


def test_the_same_rows_give_the_same_bytes(written: report.Report, tmp_path: Path) -> None:
    folder = written.page.parent
    other = tmp_path / "elsewhere"
    other.mkdir()
    rows.write(other / "rows.csv", list(reversed(make_rows())))
    assert (other / "rows.csv").read_bytes() == (folder / "rows.csv").read_bytes()
    shutil.copy(folder / "manifest.json", other)
    report.build(other, resamples=2000)
    for name in report.FILES:
        assert (other / name).read_bytes() == (folder / name).read_bytes(), name
    assert sorted(path.name for path in other.iterdir()) == sorted([*report.FILES, "manifest.json", "rows.csv"])


class Page(HTMLParser):
    """Collects what a page refers to, its ids, and whether its tags close."""

    VOID = ("meta", "wbr", "br", "img", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_self_contained(written: report.Report) -> None:
    text = written.page.read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert all(name in page.ids for name in re.findall(r"url\(#([^)]*)\)", text))
    assert len(page.ids) == len(set(page.ids))
    assert not page.tags & {"script", "link", "img", "iframe"} and "@import" not in text
    assert {"svg", "table", "title"} <= page.tags
    assert text.count("<figure") == 2 + 2 + 3  # curves; tasks; IQM, comparison, profile


def test_names_are_escaped(tmp_path: Path) -> None:
    made = [row | {"algorithm": "<b>&_x"} for row in make_run("bc", TASKS[0], 0)]
    report.build(make_results(tmp_path, made), resamples=1000)
    assert "<b>&_x" not in (tmp_path / "report.html").read_text()
    assert r"<b>\&\_x" in (tmp_path / "table.tex").read_text()


def test_pictures_are_pictures(written: report.Report) -> None:
    for name in ("curves.png", "intervals.png"):
        data = (written.page.parent / name).read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) > 20_000


def test_latex_is_balanced(written: report.Report) -> None:
    text = (written.page.parent / "table.tex").read_text()
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 2
    assert all(line.count("&") == 3 for line in body if line.endswith(r"\\"))
    assert all(line.count("{") == line.count("}") and line.count("$") % 2 == 0 for line in body)
    assert r"td3\_bc" in text


# ---- published numbers


def test_dataset_names_are_matched() -> None:
    assert d4rl_name("rlsuite/hopper/medium-v0") == "hopper-medium-v2"
    assert d4rl_name("mujoco/halfcheetah/medium-replay-v0") == "halfcheetah-medium-replay-v2"
    assert d4rl_name("data/walker2d_medium-expert-v2.hdf5") == "walker2d-medium-expert-v2"
    assert d4rl_name("rlsuite/hopper/simple-v0") is None
    assert d4rl_name("mine.npz") is None


def test_published_scores_are_beside_and_labelled(written: report.Report) -> None:
    page = written.page.read_text()
    assert "100.3 ± 0.2" in page and "hopper-medium-v2: D4RL v2 data, Hopper-v2 env, 1M updates, 5 seeds" in page
    entry = next(p for p in written.summary.published if (p.task, p.algorithm) == (TASKS[0], "prdc"))
    assert (entry.mean, entry.spread, entry.spread_kind) == (
        100.3,
        0.2,
        "std over seeds",
    ) and "2306.06569" in entry.source


def test_published_table_is_complete() -> None:
    table = published_scores()
    assert not table.isna().any().any()
    counts = table[table["metric"] == "score"].groupby("label").size().to_dict()
    assert counts == {
        "PRDC": 12,
        "TD3+BC (original)": 12,
        "TD3+BC (CORL, last score)": 9,
        "BC (CORL, last score)": 9,
        "IQL (CORL, last score)": 9,
        "O-DICE": 9,
    }
    assert not table.duplicated(["label", "task", "metric", "until"]).any()


# ---- command line and terminal


def test_command_line(written: report.Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = make_results(tmp_path / "r")
    parser = argparse.ArgumentParser()
    report_cli.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(
        ["report", str(results), "--baseline", "td3_bc", "--resamples", "1000", "--seed", "3"]
    )
    assert arguments.handler(arguments) == 0
    out = capsys.readouterr().out
    assert "P(better than td3_bc)" in out and f"report: {results / 'report.html'}" in out
    assert "\x1b" not in out and "┃" not in out
    assert "1 of 28 runs has no score" in out


def test_table_on_a_terminal(written: report.Report) -> None:
    stream = io.StringIO()
    report.print_table(written, Console(file=stream, force_terminal=True, width=120))
    assert "td3_bc" in stream.getvalue() and "\x1b[" in stream.getvalue() and "report.html" in stream.getvalue()


def test_a_long_name_of_a_task_is_broken_behind_commas():
    assert in_lines("CartPole-v0#frames=5,sigma=0.2", 25) == "CartPole-v0#frames=5,\nsigma=0.2"
    assert in_lines("CartPole-v0#frames=5,sigma=0.2", 30) == "CartPole-v0#frames=5,sigma=0.2"
    assert in_lines("rlsuite/hopper/medium-v0", 5) == "rlsuite/hopper/medium-v0"
