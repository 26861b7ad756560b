"""Reports of methods that learn in an environment: their unit, their learning curves as one number, published runs."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rlsuite.bench import report, rows
from rlsuite.bench.cells import evaluation_curve
from rlsuite.bench.progress import Plain, View
from rlsuite.bench.published import published_scores
from rlsuite.bench.summary import Summary, summarise
from rlsuite.bench.table import Cell, read_table
from rlsuite.bench.text import number, plus_minus
from rlsuite.bench.units import STEPS, UPDATES
from rlsuite.cli import main
from rlsuite.errors import UserError
from tests.bench.test_report import TASKS, make_failure, make_results, make_row
from tests.bench.test_report import make_run as make_offline_run

Points = dict[int, float]  # position -> mean return there
RISE: Points = {0: 0.0, 1000: 100.0, 3000: 200.0}


def make_run(
    seed: int = 0, algorithm: str = "ppo", task: str = "CartPole-v1", interim: Points = RISE, **changes: Any
) -> list[rows.Row]:
    """Rows of a run without a dataset: two episodes 2 apart at each point of `interim`, the final ones at `end`."""
    identity = {
        "run_id": f"{algorithm}-{task}-{seed}",
        "config_hash": algorithm.encode().hex(),
        "algorithm": algorithm,
        "task": task,
        "env": task,
        "dataset": "",
        "dataset_hash": "",
        "dataset_rows": 0,
        "seed": seed,
        "score": None,
        "score_reference": "",
    }
    final = {"end": 4000, "last": 250.0} | {key: changes.pop(key) for key in ("end", "last") if key in changes}
    points = [("interim", update, value) for update, value in interim.items()] + [("final", *final.values())]
    return [
        make_row(**identity)
        | {"phase": phase, "protocol": f"{phase}-2ep-deterministic", "update": update, "episode": episode}
        | {"return": value + seed + (-1.0, 1.0)[episode]}
        | changes
        for phase, update, value in points
        for episode in range(2)
    ]


def of_seeds(n: int = 5, **options: Any) -> list[rows.Row]:
    return [row for seed in range(n) for row in make_run(seed, **options)]


def summary_of(made: list[rows.Row], tmp_path: Path, **options: Any) -> Summary:
    rows.write(tmp_path / "rows.csv", made)
    return summarise(rows.read(tmp_path / "rows.csv"), resamples=1000, **options)


def written(made: list[rows.Row], folder: Path, **options: Any) -> tuple[report.Report, str, str]:
    """The report, its page and its Markdown."""
    folder.mkdir(exist_ok=True)
    rows.write(folder / "rows.csv", made)
    built = report.build(folder, resamples=1000, **options)
    return built, built.page.read_text(), (folder / "table.md").read_text()


# ---- the unit


def test_an_online_table_counts_environment_steps(tmp_path: Path) -> None:
    made = of_seeds() + of_seeds(algorithm="props", last=300.0, end=5000)
    made.append(make_failure("props", "CartPole-v1", 7) | {"env": "CartPole-v1"})
    built, page, markdown = written(made, tmp_path)
    assert built.summary.metric == "return" and built.summary.unit == STEPS
    assert "after 4,000 / 5,000 environment steps, on 2 fresh episodes" in markdown
    assert "trained for different numbers of environment steps: ppo 4,000, props 5,000" in markdown
    assert "at environment step" in markdown and "at the last environment step" in page
    assert ">environment steps</text>" in page
    words = "".join(re.sub(r"<style>.*?</style>|<text.*?>", "", text, flags=re.DOTALL) for text in (page, markdown))
    assert "update" not in words.replace("critic_loss is nan | at update", "").replace("nan \\| at update", "")
    assert "no score reference" not in markdown and "(return)" not in markdown


def test_a_table_of_both_kinds_names_both_units(tmp_path: Path) -> None:
    made = of_seeds() + make_offline_run("ppo", TASKS[0], 0)
    built, page, markdown = written(made, tmp_path)
    assert built.summary.units == {"CartPole-v1": STEPS, TASKS[0]: UPDATES}
    assert "after 4,000 environment steps or 50,000 updates" in markdown
    assert ">environment steps</text>" in page and ">updates</text>" in page
    assert ">environment steps or updates</th>" in page and "at the last environment step or update;" in page
    assert built.summary.metric == "score" and "CartPole-v1 (return)" in markdown


def test_a_run_that_never_opened_its_environment_does_not_change_the_unit(tmp_path: Path) -> None:
    offline = make_offline_run("bc", TASKS[0], 0)
    summary = summary_of([*offline, make_failure("bc", TASKS[0], 1), make_failure("bc", TASKS[1], 1)], tmp_path)
    assert set(summary.units.values()) == {UPDATES}
    failed = [make_failure("ppo", "CartPole-v1", 1) | {"env": "CartPole-v1"}]
    assert summary_of(failed, tmp_path).units == {"CartPole-v1": STEPS}


@pytest.mark.parametrize(("dataset", "words"), [("", "environment step 30 of 100"), ("d", "update 30 of 100")])
def test_an_unfinished_run_says_how_far_it_is(tmp_path: Path, dataset: str, words: str) -> None:
    cell = tmp_path / "cells" / "ppo-CartPole-v1-s0-01234567"
    cell.mkdir(parents=True)
    (cell / "status.json").write_text(json.dumps({"status": "running", "update": 30, "updates": 100}))
    identity = {"run_id": "x", "algorithm": "ppo", "task": "CartPole-v1", "env": "CartPole-v1", "dataset": dataset}
    (cell / "manifest.json").write_text(json.dumps(identity))
    assert rows.cell_rows(cell)[0]["message"] == f"not finished: {words}"


def test_small_returns_keep_two_decimals() -> None:
    assert [number(v, "return", fine=True) for v in (0.968, -9.994, 10.04, 1234.5)] == [
        "0.97",
        "\N{MINUS SIGN}9.99",
        "10.0",
        "1,234",
    ]
    assert number(0.968, "return") == "1.0" and number(0.968, "score", fine=True) == "1.0"


def test_small_returns_in_a_report(tmp_path: Path) -> None:
    made = [row | {"return": 0.9 + 0.01 * row["seed"]} for row in of_seeds()]
    _, page, markdown = written(made, tmp_path)
    assert "0.92 ± 0.02 (n=5)" in markdown and "| IQM | 0.92 [" in markdown
    assert "0.92 ± 0.02" in page


# ---- the average return


def reference_average(updates: list[float], returns: list[float]) -> float:
    """Area of the polygon below the points, by its segments."""
    area = sum((b - a) * (y + z) / 2 for a, b, y, z in zip(updates, updates[1:], returns, returns[1:], strict=False))
    return area / (updates[-1] - updates[0])


@pytest.mark.parametrize(
    ("until", "updates", "returns"),
    [
        (None, [0, 1000, 3000, 4000], [0, 100, 200, 250]),
        (10_000, [0, 1000, 3000, 4000], [0, 100, 200, 250]),
        (3000, [0, 1000, 3000], [0, 100, 200]),
        (2000, [0, 1000, 2000], [0, 100, 150]),
        (3500, [0, 1000, 3000, 3500], [0, 100, 200, 225]),
        (1, [0, 1], [0, 0.1]),
    ],
)
def test_auc_is_the_time_average_of_the_curve(
    tmp_path: Path, until: int | None, updates: list[float], returns: list[float]
) -> None:
    cell = summary_of(of_seeds(3), tmp_path, metric="auc", until=until).cells["CartPole-v1", "ppo"]
    average = reference_average(updates, returns)
    assert cell.values("auc") == pytest.approx([average, average + 1, average + 2])
    assert cell.values("return") == pytest.approx([250, 251, 252])  # the final checkpoint's


def test_the_final_evaluation_counts_where_it_lies_later(tmp_path: Path) -> None:
    run = pd.DataFrame(make_run(end=3000, last=999.0))
    updates, returns = evaluation_curve(run)
    assert updates.tolist() == [0, 1000, 3000] and returns.tolist() == [0, 100, 200]


def test_auc_is_aggregated_and_compared_like_a_return(tmp_path: Path) -> None:
    made = of_seeds() + of_seeds(algorithm="props", interim={0: 0.0, 1000: 300.0, 3000: 300.0})
    summary = summary_of(made, tmp_path, metric="auc")
    aggregates = {aggregate.name: aggregate.values for aggregate in summary.aggregates}
    assert list(aggregates) == ["IQM", "P(better than ppo)"]
    better = aggregates["P(better than ppo)"]["props"]
    assert better is not None and better.value == 1  # though the final checkpoints are equal
    again = summary_of(made, tmp_path, metric="return").aggregates[-1].values["props"]
    assert again is not None and again.value == 0.5
    ends = summary_of(made + of_seeds(task="Acrobot-v1"), tmp_path, metric="auc").aggregates
    assert [aggregate.name for aggregate in ends] == ["P(better than ppo)"]  # other units: not pooled


def test_what_auc_is_stands_in_the_report(tmp_path: Path) -> None:
    _, page, markdown = written(of_seeds(), tmp_path, metric="auc", until=2000)
    for text in (page, markdown):
        assert "time average (trapezoid rule) of its learning curve of raw returns" in text
        assert "from its first evaluation, at 0 environment steps, to the cut, at 2,000 environment steps" in text
        assert "Final return: its final checkpoint, after 4,000 environment steps" in text
    assert "## Returns of the final checkpoints" in markdown and "final return 252.0 ±" in page
    assert "Average returns. Small dots" in page and "dashed line" in page
    line = next(
        row for row in csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())) if row["metric"] == "auc"
    )
    average = reference_average([0, 1000, 2000], [0, 100, 150]) + 2
    assert float(line["value"]) == pytest.approx(average) and line["note"] == "up to 2000"
    assert f"| CartPole-v1 | {average:.1f} ± " in markdown
    whole = " ".join(summary_of(of_seeds(), tmp_path, metric="auc").protocol)
    assert "to its last, at 4,000 environment steps" in whole


def test_offline_runs_have_an_average_too(tmp_path: Path) -> None:
    summary = summary_of(make_offline_run("bc", TASKS[0], 0), tmp_path, metric="auc")
    assert "from its first evaluation, at 10,000 updates, to its last, at 50,000 updates" in " ".join(summary.protocol)


def test_a_run_without_a_curve_has_no_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = of_seeds() + make_run(3, "props", interim={})
    results = make_results(tmp_path / "r", made)
    before = sorted(path.name for path in results.iterdir())
    assert main(["report", str(results), "--metric", "auc"]) == 2
    error = capsys.readouterr().err
    assert "props on CartPole-v1, seed 3, was evaluated at fewer than two positions" in error
    assert error.count("\n") == 1 and sorted(path.name for path in results.iterdir()) == before
    with pytest.raises(UserError, match=r"fewer than two positions up to 500, .* a later --until[.]"):
        summary_of(of_seeds(interim={500: 1.0, 1000: 2.0}), tmp_path, metric="auc", until=500)


@pytest.mark.parametrize("options", [{"until": 100}, {"until": 100, "metric": "return"}, {"until": 0, "metric": "auc"}])
def test_until_belongs_to_auc(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--metric auc"):
        summary_of(of_seeds(), tmp_path, **options)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = make_results(tmp_path / "r", of_seeds())
    assert main(["report", str(results), "--metric", "auc", "--until", "2000", "--resamples", "1000"]) == 0
    assert "at 2,000 environment steps" in capsys.readouterr().out
    assert main(["report", str(results), "--resamples", "1000"]) == 0
    assert "average return" not in (results / "report.html").read_text()


# ---- many columns


def test_many_algorithms_get_narrow_columns(tmp_path: Path) -> None:
    made = [row for k in range(8) for row in of_seeds(2, algorithm=f"props_{k}")]
    _, page, _ = written(made, tmp_path / "8")
    assert '<table class="wide many">' in page and "250.5<br>± 6.4" in page and "250.5 ± " not in page
    _, page, _ = written([row for row in made if row["algorithm"] < "props_4"], tmp_path / "4")
    assert "many" not in page and "250.5 ± 6.4" in page


def test_a_table_of_returns_has_no_note_on_missing_runs(tmp_path: Path) -> None:
    made = of_seeds() + of_seeds(algorithm="props") + of_seeds(task="Acrobot-v1")
    complete = made + of_seeds(algorithm="props", task="Acrobot-v1")
    assert not any("without a finished run" in note for note in summary_of(complete, tmp_path).notes)
    assert any("Aggregates over 2 tasks" in note for note in summary_of(complete, tmp_path).notes)
    assert any("without a finished run" in note for note in summary_of(made, tmp_path).notes)


# ---- Atari


def test_atari_says_preset_frames_and_raw_scores(tmp_path: Path) -> None:
    text = " ".join(summary_of(of_seeds(task="ale-dqn/Pong") + of_seeds(), tmp_path).protocol)
    for part in ("preset ale-dqn", "4 frames", "frames = 4 \N{MULTIPLICATION SIGN} steps", "raw scores at game over"):
        assert part in text
    assert "ale-machado" not in text
    assert "Atari" not in " ".join(summary_of(of_seeds(), tmp_path).protocol)


def table_of(folder: Path, tasks: list[str], algorithms: str = '["ppo"]', config: str = "") -> tuple[Cell, ...]:
    folder.mkdir(exist_ok=True)
    (folder / "t.toml").write_text(f"algorithms = {algorithms}\ntasks = {json.dumps(tasks)}\nseeds = 1\n{config}")
    return read_table(folder / "t.toml").cells


def test_two_presets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ale-dqn/Pong and ale-machado/Breakout are played under different presets"):
        table_of(tmp_path, ["CartPole-v1", "ale-dqn/Pong", "ale-dqn/Boxing", "ale-machado/Breakout"])
    assert len(table_of(tmp_path, ["CartPole-v1", "ale-dqn/Pong", "ale-dqn/Boxing"])) == 3


# ---- cells


def test_folders_of_environments(tmp_path: Path) -> None:
    tasks = ["ale-dqn/Pong", "rlsuite/GridWorld-v0", "CartPole-v1", "my.module:Env-v0", "my.module:ns/Other-v2"]
    cells = table_of(tmp_path, tasks)
    assert [re.fullmatch(r"(ppo-.*)-s0-[0-9a-f]{8}", cell.folder)[1] for cell in cells] == [  # type: ignore[index]
        "ppo-ale-dqn-Pong",
        "ppo-rlsuite-GridWorld-v0",
        "ppo-CartPole-v1",
        "ppo-my.module-Env-v0",
        "ppo-my.module-ns-Other-v2",
    ]
    assert [cell.task for cell in cells] == tasks


def test_progress_counts_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cell,) = table_of(tmp_path, ["CartPole-v1"], config="[config]\ntotal_steps = 9000")
    assert (cell.updates, cell.unit) == (9000, STEPS)
    with Plain(every=0.0) as progress:
        progress.begin(1, [])
        progress.started(cell, 40)
        progress.refresh([View(cell, 40, 9000, None, 2.0)], 0)
    out = capsys.readouterr().out
    assert "from environment step 40" in out and "40/9000" in out


def test_two_settings_of_ppo_through_the_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = """
        [config]
        total_steps = 600
        rollout_steps = 256
        minibatches = 4
        eval_every = 250
        eval_episodes = 2
        final_episodes = 3
        [algorithm.slow]
        epochs = 1
        """
    table_of(tmp_path, ["CartPole-v1"], '{ ppo = "ppo", slow = "ppo" }', config)
    results = tmp_path / "r"
    assert main(["bench", str(tmp_path / "t.toml"), "--results", str(results), "--jobs", "1"]) == 0
    read = rows.read(results / "rows.csv")
    assert set(read["dataset"]) == {""} and set(read["algorithm"]) == {"ppo", "slow"}
    interim = read[read["phase"] == "interim"].groupby("algorithm")["update"].unique().map(sorted)
    assert interim.tolist() == [[0, 256], [0, 256]] and set(read[read["phase"] == "final"]["update"]) == {512}
    assert "after 512 environment steps" in (results / "table.md").read_text()
    capsys.readouterr()
    assert main(["report", str(results), "--metric", "auc", "--resamples", "1000"]) == 0
    out = capsys.readouterr().out
    run = read[(read["algorithm"] == "ppo")]
    means = run.groupby("update")["return"].mean()
    average = reference_average([0, 256, 512], means.tolist())
    assert re.search(rf"CartPole-v1 +{re.escape(number(average, 'return'))} ± ", out)


# ---- published runs


def published_of(made: list[rows.Row], tmp_path: Path, **options: Any) -> list[tuple[str, str, float, str]]:
    summary = summary_of(made, tmp_path, **options)
    return [(p.algorithm, p.metric, p.mean, f"{p.original}: {p.differs}") for p in summary.published]


def test_returns_stand_beside_the_last_five_evaluations(tmp_path: Path) -> None:
    made = of_seeds(task="HalfCheetah-v5") + of_seeds(algorithm="props", task="HalfCheetah-v5")
    assert published_of(made, tmp_path, algorithms=["ppo", "props"]) == [
        (
            "ppo",
            "return",
            2266.3,
            "HalfCheetah-v4: another version than HalfCheetah-v5, mean return of the last five evaluations of 2M "
            "environment steps, not of the final checkpoint, 50 seeds",
        ),
        (
            "props",
            "return",
            2716.4,
            "HalfCheetah-v4: another version than HalfCheetah-v5, mean return of the last five evaluations of 2M "
            "environment steps, not of the final checkpoint, 49 seeds",
        ),
    ]


def test_averages_stand_beside_the_published_part_of_like_length(tmp_path: Path) -> None:
    made = of_seeds(task="HalfCheetah-v4", end=102_400)
    early = "HalfCheetah-v4: average return over the first 100,000 of 2M environment steps, 50 seeds"
    for until in (None, 100_000):
        assert published_of(made, tmp_path, metric="auc", until=until) == [("ppo", "auc", 195.5, early)]
    whole = of_seeds(task="HalfCheetah-v4", end=2_000_000)
    words = "HalfCheetah-v4: average return over 2M environment steps, 50 seeds"
    assert published_of(whole, tmp_path, metric="auc") == [("ppo", "auc", 1799.4, words)]
    assert published_of(whole, tmp_path, metric="auc", until=100_000) == [("ppo", "auc", 195.5, early)]


def test_published_runs_in_the_report(tmp_path: Path) -> None:
    made = [
        row for name in ("ppo", "ppo_buffer", "props", "mine") for row in of_seeds(algorithm=name, task="Hopper-v4")
    ]
    _, page, markdown = written(made, tmp_path)
    assert "3,151 ± 484" in page and "3,151 ± 484" in markdown and "NicholasCorrado/PPOROS" in markdown
    assert "| published as | return | ± is |" in markdown
    assert '<td class="n">252.0 ± 2.0<small>return</small></td>' in page  # ours, beside it
    assert "versions of the environment or protocols" in page
    lines = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert [(x["algorithm"], x["metric"], float(x["value"])) for x in lines if x["kind"] == "published"] == [
        ("ppo", "return", 3151.0),
        ("ppo_buffer", "return", 2967.7),
        ("props", "return", 3249.1),
    ]


def test_environments_without_published_runs_have_none(tmp_path: Path) -> None:
    assert published_of(of_seeds(), tmp_path) == []
    assert published_of(of_seeds(task="rlsuite/HalfCheetah-v4"), tmp_path) == []


def test_published_runs_are_complete() -> None:
    table = published_scores()
    online, robots = (
        table[table["metric"] != "score"],
        ("Swimmer", "Hopper", "HalfCheetah", "Walker2d", "Ant", "Humanoid"),
    )
    assert set(online["algorithm"]) == {"ppo", "ppo_buffer", "props"} and len(online) == 3 * (6 * 2 + 2)
    assert set(online["task"]) == {f"{robot}-v4" for robot in robots}
    assert (online["until"] <= online["budget"]).all() and np.isfinite(online[["mean", "spread"]]).all().all()
    assert set(online[online["until"] < online["budget"]]["task"]) == {"HalfCheetah-v4", "Walker2d-v4"}
    assert online["source"].str.contains("NicholasCorrado/PPOROS").all()


def test_spreads_have_the_digits_of_their_value() -> None:
    from rlsuite.bench.statistics import Interval

    assert plus_minus(Interval(2266.3, 1172.4, 3360.2), "auc") == "2,266 ± 1,094"
