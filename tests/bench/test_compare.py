"""Comparisons of made-up results: what they say, what they refuse, and what they exit with."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from rlsuite.bench import compare_plot, compare_text, difference
from rlsuite.bench.compare import Comparison, compare
from rlsuite.bench.rows import Row
from rlsuite.cli import main
from rlsuite.errors import UserError
from tests.bench.test_report import TASKS, make_failure, make_results, make_run

Change = Callable[[Row], Row]
SEEDS = 6


def made(columns: tuple[str, ...] = ("bc", "prdc"), seeds: int = SEEDS, first: int = 0) -> list[Row]:
    runs = [make_run(a, task, seed, 4) for a in columns for task in TASKS for seed in range(first, first + seeds)]
    return [row for run in runs for row in run]


def shifted(rows: list[Row], by: float, algorithm: str, task: str) -> list[Row]:
    """The same rows with other scores of one cell."""
    hit = [(row["algorithm"], row["task"]) == (algorithm, task) for row in rows]
    return [row | {"score": row["score"] + by} if here else row for row, here in zip(rows, hit, strict=True)]


def folders(tmp_path: Path, a: list[Row], b: list[Row]) -> tuple[Path, Path]:
    return make_results(tmp_path / "a", a), make_results(tmp_path / "b", b)


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """B has other seeds of the same two methods, but PRDC on Hopper is 30 below."""
    return folders(tmp_path_factory.mktemp("worse"), made(), shifted(made(first=50), -30, "prdc", TASKS[0]))


@pytest.fixture(scope="module")
def found(worse: tuple[Path, Path]) -> Comparison:
    return compare(*worse, resamples=2000)


def test_a_pair_is_the_difference_of_its_runs(found: Comparison) -> None:
    assert [(pair.task, pair.columns[0]) for pair in found.pairs] == [(t, a) for t in TASKS for a in ("bc", "prdc")]
    tests = [difference.welch_p(*pair.values) for pair in found.pairs]
    for pair, p, adjusted in zip(found.pairs, tests, difference.holm(tests), strict=True):
        a, b = pair.values
        assert len(a) == len(b) == SEEDS
        assert pair.difference == difference.welch(a, b)
        assert pair.difference.value == pytest.approx(b.mean() - a.mean())
        assert (pair.p, pair.p_holm) == (p, adjusted)
        assert pair.improvement.value == pytest.approx((b[:, None] > a[None, :]).mean())
    bad = found.pairs[1]
    assert bad.significant and bad.difference.value < -20 and bad.improvement.value == 0
    assert [pair.significant for pair in found.pairs] == [False, True, False, False]
    assert found.worse(0.01) == [bad]
    assert found.worse(3 * bad.worse) == [], "the smallest of four p-values counts four times"
    overall = found.improvements["prdc", "prdc"].value
    assert overall == pytest.approx((found.pairs[1].improvement.value + found.pairs[3].improvement.value) / 2)


def test_runs_to_add_settle_an_open_pair(found: Comparison) -> None:
    settled, still_open = found.pairs[1], found.pairs[0]
    assert settled.more is None and compare_text.more(settled) == "\N{EN DASH}"
    a, b = still_open.values
    spreads = (a.std(ddof=1), b.std(ddof=1))
    assert still_open.needed == difference.runs_to_find(abs(still_open.difference.value), spreads, 0.05 / 4)


def test_a_difference_worth_finding_can_be_named(worse: tuple[Path, Path]) -> None:
    pair = compare(*worse, detect=5.0, columns=[("bc", "bc")], tasks=TASKS[:1]).pairs[0]
    a, b = pair.values
    needed = difference.runs_to_find(5, (a.std(ddof=1), b.std(ddof=1)), 0.05)
    assert needed is not None and pair.more == (needed - SEEDS, needed - SEEDS)
    assert compare_text.more(pair) == f"+{needed - SEEDS}"


def test_columns_pair_other_names_within_one_folder_too(worse: tuple[Path, Path]) -> None:
    result = compare(worse[0], worse[0], columns=[("bc", "prdc")], test="permutation", resamples=1000)
    assert [pair.columns for pair in result.pairs] == [("bc", "prdc")] * 2
    hopper = result.pairs[0]
    assert hopper.p == pytest.approx(2 / 924), "all six of PRDC are above all six of BC: 12 choose 6 are 924"
    with pytest.raises(UserError, match="A and B are both"):
        compare(worse[0], worse[0])


def test_auc_and_return_are_other_numbers(worse: tuple[Path, Path]) -> None:
    cut = compare(*worse, metric="auc", until=30_000, columns=[("bc", "bc")])
    whole = compare(*worse, metric="auc", columns=[("bc", "bc")])
    returns = compare(*worse, metric="return", columns=[("bc", "bc")])
    levels = [c.pairs[0].values[0].mean() for c in (cut, whole, returns)]
    assert levels[0] < levels[1] < levels[2] and cut.pairs[0].metric == "auc"
    with pytest.raises(UserError, match="--metric auc"):
        compare(*worse, until=30_000)


# ---- what is refused, and what is said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": "final-99ep-deterministic"}, "different final protocols"),
        ({"dataset_hash": "e" * 64}, "different data sets with different content"),
        ({"env": "Hopper-v4"}, "different environments (env Hopper-v5 and Hopper-v4)"),
        ({"score_reference": "D4RL"}, "different score references"),
        ({"policy_mode": "stochastic"}, "different policy modes"),
    ],
)
def test_other_measurements_are_refused_and_other_tasks_go_on(tmp_path: Path, change: Row, words: str) -> None:
    where = ("final",) if "protocol" in change else ("interim", "final")
    hit = [(row["task"], row["phase"] in where) == (TASKS[0], True) for row in made(("bc",), 3)]
    b = [row | change if here else row for row, here in zip(made(("bc",), 3), hit, strict=True)]
    both = folders(tmp_path, made(("bc",), 3), b)
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        compare(*both)
    assert TASKS[0] in str(caught.value) and "--task" in str(caught.value)
    assert len(compare(*both, tasks=TASKS[1:]).pairs) == 1
    if "score_reference" in change:
        assert len(compare(*both, metric="return").pairs) == 2, "a return needs no reference"


def test_interim_protocols_matter_for_the_area_alone(tmp_path: Path) -> None:
    b = [row | ({"protocol": "other"} if row["phase"] == "interim" else {}) for row in made(("bc",), 3)]
    both = folders(tmp_path, made(("bc",), 3), b)
    assert len(compare(*both).pairs) == 2
    with pytest.raises(UserError, match="interim protocols"):
        compare(*both, metric="auc")


def test_rows_that_do_not_belong_together_are_refused_by_folder(tmp_path: Path) -> None:
    mixed = [row | ({"env": "Hopper-v4"} if row["seed"] else {}) for row in made(("bc",), 3)]
    with pytest.raises(UserError, match=r"b: .* mixes environments"):
        compare(*folders(tmp_path, made(("bc",), 3), mixed))


def test_doubts_are_said(tmp_path: Path) -> None:
    a, b = made(("bc", "td3_bc"), 4), made(("bc",), 4)
    b = [row | ({"update": row["update"] * 2} if row["task"] == TASKS[1] else {}) for row in b]
    b += [make_failure("bc", TASKS[0], 9), *make_run("td3_bc", TASKS[0], 0, 4)]
    a = [row for row in a if (row["algorithm"], row["task"]) != ("td3_bc", TASKS[1])] + made(("iql",), 1)
    said = compare(*folders(tmp_path, a, b + make_run("td3_bc", TASKS[1], 0, 4))).warnings
    assert f"Only B has td3_bc on {TASKS[1]}." in said
    assert f"bc on {TASKS[1]}: the runs of A have 50,000 updates and those of B 100,000." in said
    assert f"bc on {TASKS[0]}: 1 of 5 runs of B failed and are left out." in said
    assert f"bc on {TASKS[0]}: A and B have the same numbers, run by run." in said


def test_one_run_has_no_test_and_does_not_count(tmp_path: Path) -> None:
    a = made(("bc",), 4)
    b = made(("bc",), 4, first=9)
    b = [row for row in b if row["task"] == TASKS[1] or row["seed"] == 9]
    result = compare(*folders(tmp_path, a, b))
    single, tested = result.pairs
    assert compare_text.probability(single.p) == compare_text.more(single) == "\N{EN DASH}"
    assert tested.p_holm == tested.p, "the only test needs no adjustment"
    assert "Holm: adjusted for 1 comparison," in " ".join(result.notes)
    assert compare_plot.png(result).startswith(b"\x89PNG")


def test_nothing_in_common(tmp_path: Path) -> None:
    both = folders(tmp_path, made(("bc",), 2), made(("prdc",), 2))
    with pytest.raises(UserError, match=r"no algorithm has the same name .* --column A=B"):
        compare(*both)
    for options, words in (
        ({"columns": [("bcc", "prdc")]}, "did you mean 'bc'"),
        ({"columns": [("bc", "bc")]}, "no rows of the algorithm 'bc'"),
        ({"columns": [("bc", "prdc")], "tasks": ["rlsuite/hopper/medum-v0"]}, f"did you mean '{TASKS[0]}'"),
        ({"test": "welsh"}, "did you mean 'welch'"),
        ({"detect": 0.0}, "--detect 0"),
        ({"resamples": 9}, "1,000"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            compare(*both, **options)  # type: ignore[arg-type]
    other = folders(tmp_path / "x", make_run("bc", TASKS[0], 0), make_run("bc", TASKS[1], 0))
    with pytest.raises(UserError, match="no task and algorithm with a finished run in both"):
        compare(*other)


# ---- the command


def run(*arguments: object) -> int:
    return main(["compare", *map(str, arguments), "--resamples", "1000"])


def test_the_files_say_what_the_terminal_says(
    worse: tuple[Path, Path], found: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*worse, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    text = (tmp_path / "out" / "compare.md").read_text()
    change = compare_text.change(found.pairs[1])
    assert f"{change}*" in printed and f"**{change}**" in text and "all 2 tasks" in printed and "\x1b" not in printed
    for note in found.notes[:2]:
        assert note in printed and note in text.replace("\\", "")
    table = list(csv.DictReader(io.StringIO((tmp_path / "out" / "compare.csv").read_text())))
    assert [line["task"] for line in table] == [TASKS[0]] * 2 + [TASKS[1]] * 2 + [""] * 2
    assert float(table[1]["difference"]) == pytest.approx(found.pairs[1].difference.value, abs=1e-6)
    assert float(table[1]["p_holm"]) == pytest.approx(found.pairs[1].p_holm, rel=1e-4)
    assert int(table[0]["more_runs_a"]) == found.pairs[0].more[0]
    assert len((tmp_path / "out" / "compare.png").read_bytes()) > 20_000
    again = [(tmp_path / "out" / name).read_bytes() for name in ("compare.md", "compare.csv", "compare.png")]
    run(*worse, "--out", tmp_path / "out2")
    assert again == [(tmp_path / "out2" / name).read_bytes() for name in ("compare.md", "compare.csv", "compare.png")]


def test_on_a_terminal(found: Comparison) -> None:
    stream = io.StringIO()
    compare_text.print_comparison(found, Console(file=stream, force_terminal=True, width=200))
    assert "\x1b[1m" in stream.getvalue() and "P(B > A)" in stream.getvalue()


def test_fail_if_worse(worse: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = worse
    assert run(a, b, "--fail-if-worse", 0.01) == 1
    error = capsys.readouterr().err
    assert f"prdc on {TASKS[0]} (" in error and "bc on" not in error and error.count("\n") == 1
    assert run(b, a, "--fail-if-worse", 0.01) == 0, "better is not worse"
    assert run(a, b, "--column", "bc", "--fail-if-worse", 0.01) == 0, "only what was asked for"
    assert run(a, b) == 0

    broken = [row for row in made() if (row["algorithm"], row["task"]) != ("bc", TASKS[1])]
    broken += [make_failure("bc", TASKS[1], seed) for seed in range(3)]
    make_results(tmp_path, broken)
    capsys.readouterr()
    assert run(a, tmp_path, "--fail-if-worse", 0.01) == 1
    assert f"bc has no finished run on {TASKS[1]} in B: critic_loss is nan" in capsys.readouterr().err


def test_bad_flags(worse: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--fail-if-worse", "5"], ["--fail-if-worse", "x"], ["--column", "bc="], ["--test", "t"]):
        assert run(*worse, *flags) == 2
        error = capsys.readouterr().err
        assert error.startswith("rlsuite: ") and error.count("\n") == 1, error


def test_a_picture_of_returns_has_one_axis_for_all(worse: tuple[Path, Path]) -> None:
    returns = compare(*worse, metric="return", resamples=1000)
    a, b = returns.pairs[0].values
    unit = ((a.var(ddof=1) + b.var(ddof=1)) / 2) ** 0.5
    drawn = compare_plot.scaled(returns.pairs[0], common=False)
    assert drawn.value == pytest.approx((b.mean() - a.mean()) / unit)
