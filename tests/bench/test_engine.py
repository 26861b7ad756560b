"""The engine, with real processes: nothing is lost, nothing runs twice, nothing survives its parent."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlsuite.bench import runner
from rlsuite.bench.attempt import child_environment, try_lock
from rlsuite.bench.engine import Result, folder_of
from rlsuite.bench.table import Table, read_table
from rlsuite.errors import UserError
from tests.bench import fake_cells
from tests.bench.fake_cells import ALGORITHM, pids, starts, write_table

HEAD = 'algorithms = ["toy.py"]\ntasks = ["a/b-v0"]\n'


def table_of(folder: Path, rest: str) -> Table:
    return read_table(write_table(folder, HEAD + rest))


def rows_of(results: Path) -> list[dict[str, str]]:
    with open(results / "rows.csv", newline="") as file:
        return list(csv.DictReader(file))


def states(result: Result) -> list[str]:
    return [outcome.state for outcome in result.outcomes.values()]


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def bench(table: Table, results: Path, jobs: int = 2, timeout: float = 600) -> subprocess.Popen[str]:
    """An engine in its own process."""
    return subprocess.Popen(
        [sys.executable, fake_cells.__file__, "bench", str(table.path), str(results), str(jobs), str(timeout)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=child_environment(1),
    )


# ---- what becomes of a cell


def test_cells_run_once_and_a_finished_table_is_left_as_it_is(tmp_path: Path) -> None:
    table, results = table_of(tmp_path, "seeds = 3"), tmp_path / "r"
    result = fake_cells.run(table, results, jobs=2, invocation="rlsuite bench t.toml")
    assert states(result) == ["finished"] * 3 and result.ran == 3 and not result.failures
    assert [(row["seed"], row["return"]) for row in rows_of(results)] == [
        (str(seed), str(100.0 * seed + episode)) for seed in range(3) for episode in range(3)
    ]
    manifest = json.loads((results / "manifest.json").read_text())
    assert manifest["command"] == "rlsuite bench t.toml" and manifest["finished"] and manifest["versions"]["numpy"]
    assert (results / "table.toml").read_text() == table.text

    before = {
        path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file() and path.name != "rows.csv"
    }
    assert fake_cells.run(table, results, jobs=2).ran == 0
    assert before == {p: p.stat().st_mtime_ns for p in results.rglob("*") if p.is_file() and p.name != "rows.csv"}
    assert set(starts(results).values()) == {1}


@pytest.mark.parametrize(
    ("behaviour", "state", "message", "again"),
    [
        ("crash", "crashed", "ValueError: the sky fell", 1),
        ("early", "crashed", "no such thing", 1),
        ("lie", "crashed", "the process ended without finishing its run", 1),
        ("kill", "crashed", "killed by SIGKILL, most often for lack of memory", 1),
        ("edited", "crashed", "the algorithm's file changed meanwhile; run the table again", 1),
        ("nan", "diverged", "critic_loss is nan at update 2", 0),
    ],
)
def test_a_failure_is_a_row_and_the_others_go_on(
    tmp_path: Path, behaviour: str, state: str, message: str, again: int
) -> None:
    text = f'seeds = 2\n[task."c/d-v0"]\nbehaviour = "{behaviour}"\n'
    table = read_table(write_table(tmp_path, HEAD.replace('["a/b-v0"]', '["c/d-v0", "a/b-v0"]') + text))
    results = tmp_path / "r"
    result = fake_cells.run(table, results, jobs=1)
    assert states(result) == [state, "finished"] * 2
    assert {outcome.message for outcome in result.failures.values()} == {message}
    failed = [row for row in rows_of(results) if row["status"] != "ok"]
    assert [(row["task"], row["seed"], row["algorithm"]) for row in failed] == [
        ("c/d-v0", "0", "toy"),
        ("c/d-v0", "1", "toy"),
    ]
    for row in failed:
        assert (row["status"], row["message"], row["return"], row["score"]) == (state, message, "", "")
        assert row["run_id"] and row["config_hash"]
    assert len(rows_of(results)) == 2 + 2 * 3
    assert json.loads((results / "manifest.json").read_text())["finished"] is None

    assert fake_cells.run(table, results).ran == 2 * again, "a crash may be bad luck, a divergence is not"
    assert fake_cells.run(table, results, retry_failed=True).ran == 2


def test_a_crashed_cell_that_recovers_is_finished(tmp_path: Path) -> None:
    table, results = table_of(tmp_path, 'seeds = 1\n[config]\nbehaviour = "crash_once"'), tmp_path / "r"
    assert states(fake_cells.run(table, results)) == ["crashed"]
    assert states(fake_cells.run(table, results)) == ["finished"]
    assert {row["status"] for row in rows_of(results)} == {"ok"}


@pytest.mark.parametrize("behaviour", ["hang", "deaf"])
def test_a_cell_that_hangs_is_stopped(tmp_path: Path, behaviour: str) -> None:
    table = read_table(
        write_table(
            tmp_path,
            HEAD.replace('["a/b-v0"]', '["c/d-v0", "a/b-v0"]')
            + f'seeds = 1\n[task."c/d-v0"]\nbehaviour = "{behaviour}"',
        )
    )
    results = tmp_path / "r"
    began = time.monotonic()
    result = fake_cells.run(table, results, jobs=2, timeout=1.0, grace=0.5)
    assert time.monotonic() - began < 15
    assert states(result) == ["timeout", "finished"]
    assert [(row["status"], row["message"]) for row in rows_of(results) if row["status"] != "ok"] == [
        ("timeout", "stopped after 1 s")
    ]
    assert not any(alive(pid) for pid in pids(results))


def test_a_command_that_cannot_be_started_is_a_sentence(tmp_path: Path) -> None:
    table = table_of(tmp_path, "seeds = 1")
    with pytest.raises(UserError, match="cannot be started"):
        runner.run_table(
            table, tmp_path / "r", command=lambda cell, folder: ["/no/such/program"], prepare=lambda cells, base: None
        )


def test_a_cell_gets_its_threads_and_works_in_the_folder_of_the_table(tmp_path: Path) -> None:
    table = table_of(tmp_path / "home", "seeds = 1\n[config]\nthreads = 3")
    code = "import os; print(os.getcwd(), os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])"
    runner.run_table(
        table,
        tmp_path / "r",
        command=lambda cell, folder: [sys.executable, "-c", code],
        prepare=lambda cells, base: None,
    )
    assert f"{tmp_path / 'home'} 3 3" in (tmp_path / "r" / "cells" / table.cells[0].folder / "log.txt").read_text()


# ---- which cells belong


def test_a_changed_setting_is_another_cell_and_the_old_rows_are_gone(tmp_path: Path) -> None:
    results = tmp_path / "r"
    fake_cells.run(table_of(tmp_path, "seeds = 2"), results, jobs=2)
    old = {row["run_id"] for row in rows_of(results)}
    result = fake_cells.run(table_of(tmp_path, "seeds = 2\n[config]\nalpha = 3"), results, jobs=2)
    assert result.ran == 2
    new = {row["run_id"] for row in rows_of(results)}
    assert len(new) == len(old) == 2 and old.isdisjoint(new)

    assert fake_cells.run(table_of(tmp_path, "seeds = 3"), results, jobs=2).ran == 1, "two of the three were there"
    assert old < {row["run_id"] for row in rows_of(results)}


def test_only_runs_what_matches_and_the_rest_are_rows_too(tmp_path: Path) -> None:
    text = 'algorithms = ["toy.py", "other.py"]\ntasks = ["a/b-v0"]\nseeds = 2\n'
    table, results = read_table(write_table(tmp_path, text, toy=ALGORITHM, other=ALGORITHM)), tmp_path / "r"
    result = fake_cells.run(table, results, only=["oth*"])
    assert result.ran == 2 and states(result) == ["finished", "finished"]
    assert {(row["algorithm"], row["status"]) for row in rows_of(results)} == {("other", "ok"), ("toy", "interrupted")}
    assert fake_cells.run(table, results, only=["*-s1-*"]).ran == 1
    assert fake_cells.run(table, results).ran == 1
    with pytest.raises(UserError, match=r"--only othr matches no cell of t\.toml; did you mean 'other'"):
        fake_cells.run(table, results, only=["othr"])


def test_rows_are_the_same_whatever_the_jobs(tmp_path: Path) -> None:
    table = table_of(tmp_path, "seeds = 5\n[config]\nseconds = 0.1")
    for jobs in (1, 3, 8):
        fake_cells.run(table, tmp_path / f"r{jobs}", jobs=jobs)
    first = (tmp_path / "r1" / "rows.csv").read_bytes()
    assert first.count(b"\n") == 1 + 5 * 3
    assert first == (tmp_path / "r3" / "rows.csv").read_bytes() == (tmp_path / "r8" / "rows.csv").read_bytes()


def test_bad_input_found_in_preparing_writes_nothing(tmp_path: Path) -> None:
    def refuse(cells: object, base: Path) -> None:
        assert base == tmp_path
        raise UserError("there is no dataset a/b-v0.")

    table = table_of(tmp_path, "seeds = 1")
    with pytest.raises(UserError, match="no dataset"):
        runner.run_table(table, tmp_path / "r", command=fake_cells.command, prepare=refuse)
    assert not (tmp_path / "r").exists()


def test_a_results_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        fake_cells.run(table_of(tmp_path, "seeds = 1"), tmp_path / "file" / "r")


# ---- several engines, and the end of one


def test_two_engines_run_every_cell_exactly_once(tmp_path: Path) -> None:
    table, results = table_of(tmp_path, "seeds = 10\n[config]\nseconds = 1"), tmp_path / "r"
    engines = [bench(table, results) for _ in range(2)]
    outputs = [engine.communicate(timeout=60)[0] for engine in engines]
    assert [engine.returncode for engine in engines] == [0, 0], outputs
    assert len(starts(results)) == 10 and set(starts(results).values()) == {1}
    ran = [int(output.split()[-1]) for output in outputs]
    assert sum(ran) == 10 and min(ran) > 0, "they shared the work"
    assert len(rows_of(results)) == 30


def test_a_second_engine_waits_for_the_first_and_takes_its_word(tmp_path: Path) -> None:
    table, results = table_of(tmp_path, 'seeds = 1\n[config]\nbehaviour = "crash_on_word"'), tmp_path / "r"
    first = bench(table, results)
    wait_for(lambda: starts(results))
    second = bench(table, results)
    assert second.stdout is not None
    second_output = ""
    while "waiting" not in second_output:
        line = second.stdout.readline()
        assert line, second_output
        second_output += line
    (results / "cells" / table.cells[0].folder / "tensorboard" / "word").touch()
    first_output, rest = first.communicate(timeout=60)[0], second.communicate(timeout=60)[0]
    second_output += rest
    assert (first.returncode, second.returncode) == (1, 1)
    assert "ran 1" in first_output and "ran 0" in second_output
    assert "waiting for 1 cell(s) that another rlsuite bench runs" in second_output
    assert set(starts(results).values()) == {1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_table_continues_where_it_was(tmp_path: Path, number: int) -> None:
    table, results = table_of(tmp_path, "seeds = 3\n[config]\nupdates = 100\nseconds = 4"), tmp_path / "r"
    engine = bench(table, results)
    wait_for(lambda: sum(runner.outcome_of(results, cell).update > 10 for cell in table.cells) == 2)
    engine.send_signal(number)
    output = engine.communicate(timeout=20)[0]
    assert engine.returncode == 130, output
    assert not any(alive(pid) for pid in pids(results))
    assert [row["status"] for row in rows_of(results)] == ["interrupted"] * 3
    stopped = [int(path.read_text()) for path in results.glob("cells/*/checkpoints")]
    assert len(stopped) == 2 and min(stopped) > 10

    result = fake_cells.run(table, results, jobs=3)
    assert states(result) == ["finished"] * 3
    logs = [path.read_text().count("---") for path in sorted(results.glob("cells/*/log.txt"))]
    assert sorted(logs) == [1, 2, 2]
    assert [row["status"] for row in rows_of(results)] == ["ok"] * 9


def test_a_cell_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    table, results = table_of(tmp_path, 'seeds = 1\n[config]\nbehaviour = "deaf"'), tmp_path / "r"
    engine = bench(table, results)
    wait_for(lambda: runner.outcome_of(results, table.cells[0]).update >= 2)
    engine.send_signal(signal.SIGINT)
    time.sleep(0.5)
    engine.send_signal(signal.SIGINT)  # impatient
    engine.communicate(timeout=15)  # the patient way waits 20 seconds
    assert engine.returncode == 130
    assert not any(alive(pid) for pid in pids(results))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a signal on the death of the parent is Linux's")
def test_sigkill_of_the_engine_leaves_no_orphan_and_no_lock(tmp_path: Path) -> None:
    table, results = table_of(tmp_path, 'seeds = 2\n[config]\nbehaviour = "deaf"'), tmp_path / "r"
    engine = bench(table, results)
    wait_for(lambda: sum(runner.outcome_of(results, cell).update >= 2 for cell in table.cells) == 2)
    running = pids(results)
    assert len(running) == 2 and all(alive(pid) for pid in running)
    assert try_lock(folder_of(results, table.cells[0])) is None
    engine.kill()
    engine.communicate(timeout=20)
    wait_for(lambda: not any(alive(pid) for pid in running), seconds=5)
    lock = try_lock(folder_of(results, table.cells[0]))
    assert lock is not None
    os.close(lock)


def test_a_cell_keeps_its_lock_when_only_its_engine_is_gone(tmp_path: Path) -> None:
    table, results = table_of(tmp_path, "seeds = 1"), tmp_path / "r"
    lock = try_lock(folder_of(results, table.cells[0]))
    assert lock is not None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    os.close(lock)
    assert try_lock(folder_of(results, table.cells[0])) is None
    child.communicate(b"\n", timeout=20)
    lock = try_lock(folder_of(results, table.cells[0]))
    assert lock is not None
    os.close(lock)


# ---- the command


def rlsuite(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rlsuite", "bench", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env=child_environment(1) | (env or {}),
    )


def test_dry_run_shows_the_cells_and_writes_nothing(tmp_path: Path) -> None:
    table = table_of(tmp_path, "seeds = 2")
    before = sorted(p for p in tmp_path.rglob("*") if "__pycache__" not in str(p))
    done = rlsuite("t.toml", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("to run  toy  a/b-v0  seed") == 2
    assert "2 cells, 2 to run, in results/t" in done.stdout
    assert sorted(p for p in tmp_path.rglob("*") if "__pycache__" not in str(p)) == before

    fake_cells.run(table, tmp_path / "results" / "t", only=["*-s0-*"])
    done = rlsuite("t.toml", "--dry-run", cwd=tmp_path)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["finished", "to", "2"]


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("seeds = 2\n[config]\nupdatse = 1", [], "did you mean 'updates'?"),
        ("seeds = 2", ["--only", "tyo"], "did you mean 'toy'?"),
        ("seeds = 2", ["--jobs", "0"], "--jobs"),
        ("seeds = 2", ["--results", "t.toml"], "t.toml is a file"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path: Path, text: str, arguments: list[str], words: str) -> None:
    write_table(tmp_path, HEAD + text)
    done = rlsuite("t.toml", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


# ---- with real training


@pytest.mark.slow
def test_the_real_thing_from_table_to_report(tmp_path: Path) -> None:
    """Two methods on data built on the way; stopped in the middle, continued, and then left alone."""
    (tmp_path / "t.toml").write_text(
        """
        algorithms = { bc = "bc", careful = "td3_bc" }
        tasks = ["rlsuite/hopper/random-v0"]
        seeds = 1
        [config]
        dataset_steps = 2_000
        updates = 60
        eval_every = 20
        eval_episodes = 2
        final_episodes = 3
        [algorithm.careful]
        updates = 1_000_000
        """
    )
    environment = {"MINARI_DATASETS_PATH": str(tmp_path / "minari")}
    results = tmp_path / "results" / "t"
    table = read_table(tmp_path / "t.toml")
    command = [sys.executable, "-m", "rlsuite", "bench", "t.toml", "--jobs", "2"]
    engine = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=child_environment(1) | environment
    )
    short, long = table.cells
    wait_for(lambda: runner.outcome_of(results, short).state == "finished", seconds=120)
    wait_for(lambda: runner.outcome_of(results, long).update > 20, seconds=60)
    engine.send_signal(signal.SIGINT)
    error = engine.communicate(timeout=60)[1]
    assert (
        engine.returncode == 130 and "Stopped with 1 of 2 cells finished. Continue with: rlsuite bench t.toml" in error
    )
    assert {(row["algorithm"], row["status"]) for row in rows_of(results)} == {("bc", "ok"), ("careful", "interrupted")}
    assert any((results / "cells" / long.folder / "checkpoints").glob("update-*.ckpt"))

    done = rlsuite("t.toml", "--timeout", "8", cwd=tmp_path, env=environment)
    assert done.returncode == 1, done.stderr
    assert "from update" in done.stdout and "careful rlsuite/hopper/random-v0 seed 0 (timeout)" in done.stderr
    assert [row["status"] for row in rows_of(results) if row["algorithm"] == "careful"] == ["timeout"]

    done = rlsuite("t.toml", "--only", "bc", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "start" not in done.stdout and "report.html" in done.stdout
    finals = [row for row in rows_of(results) if row["algorithm"] == "bc" and row["phase"] == "final"]
    assert len(finals) == 3 and all(row["dataset_hash"] and row["run_id"] == short.run_id for row in finals)
    assert (results / "report.html").exists() and (results / "table.md").exists()


def test_an_unknown_dataset_is_found_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('algorithms = ["bc"]\ntasks = ["rlsuite/hoper/medium-v0"]\nseeds = 1\n')
    done = rlsuite("t.toml", cwd=tmp_path, env={"MINARI_DATASETS_PATH": str(tmp_path / "minari")})
    assert done.returncode == 2 and "rlsuite/hopper/medium-v0" in done.stderr
    assert not (tmp_path / "results").exists()
