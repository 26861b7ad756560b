"""Cells on clusters: the same rows as here, also when a machine is lost in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlsuite.bench.attempt import Job, Outcome, child_environment, outcome_in, tend, try_lock
from rlsuite.bench.cluster import Cluster, Lost, Ray, Slurm
from rlsuite.bench.engine import folder_of, outcome_of
from rlsuite.bench.table import Table, read_table
from rlsuite.cli import main
from rlsuite.errors import UserError
from tests.bench import fake_cells
from tests.bench.fake_cells import pids, starts, write_table
from tests.bench.test_engine import HEAD, alive, rows_of, states, table_of, wait_for

pytestmark = pytest.mark.xdist_group("cluster")  # one worker, so one Ray cluster at a time

FAILING = (
    HEAD.replace('["a/b-v0"]', '["a/b-v0", "c/d-v0", "e/f-v0"]')
    + 'seeds = 2\n[task."c/d-v0"]\nbehaviour = "crash"\n[task."e/f-v0"]\nbehaviour = "nan"\n'
)
SLOW = "seeds = 4\n[config]\nupdates = 100\nseconds = 4"


def bench(table: Table, results: Path, engine: str, **environment: str) -> subprocess.Popen[str]:
    """An engine in its own process, two cells at a time."""
    return subprocess.Popen(
        [sys.executable, fake_cells.__file__, "bench", str(table.path), str(results), "2", "600", engine],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=child_environment(1) | environment,
    )


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def running(table: Table, results: Path) -> list[int]:
    """Processes of cells that are well under way."""
    under_way = [cell for cell in table.cells if 10 < outcome_of(results, cell).update < 90]
    files = [folder_of(results, cell) / "tensorboard" / "starts" for cell in under_way]
    return [pid for pid in (int(file.read_text().split()[-1]) for file in files) if alive(pid)]


# ---- a cluster of words: what is done about lost machines


class Scripted:
    """A scheduler whose machines do what they are told, one after the other."""

    def __init__(self, *script: Any) -> None:
        self.script, self.sent = list(script), 0

    def jobs(self, threads: int) -> int:
        return 4 // threads

    def send(self, job: Job, seen: Outcome) -> Any:
        self.job, self.sent, self.act = job, self.sent + 1, self.script.pop(0)
        self.answer = lambda: tend(job, seen)
        return self

    def poll(self) -> Outcome | str | None:
        if callable(self.act):
            self.act(self.job)
        if isinstance(self.act, str):
            return self.act
        if self.act == "run" or self.act is None:
            return self.answer()
        raise Lost("a power cut")

    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


def gets_to(update: int) -> Any:
    """A machine that is lost there."""

    def act(job: Job) -> None:
        (job.folder / "status.json").write_text(f'{{"status": "running", "update": {update}, "updates": 100}}')

    return act


def test_a_cell_of_a_lost_machine_is_sent_again(tmp_path: Path) -> None:
    machines = Scripted(gets_to(0), gets_to(0), None)
    table, results = table_of(tmp_path, "seeds = 1"), tmp_path / "r"
    result = fake_cells.run(table, results, place=Cluster(machines))
    assert states(result) == ["finished"] and machines.sent == 3 and result.ran == 1
    assert [row["status"] for row in rows_of(results)] == ["ok"] * 3


def test_a_cell_that_gets_no_further_is_given_up(tmp_path: Path) -> None:
    table, results = table_of(tmp_path, "seeds = 1"), tmp_path / "r"
    machines = Scripted(gets_to(5), gets_to(9), gets_to(7), gets_to(8), gets_to(9), None)
    result = fake_cells.run(table, results, place=Cluster(machines))
    assert machines.sent == 5, "two got further, and three did not"
    (row,) = rows_of(results)
    assert (row["status"], row["message"]) == ("crashed", "3 machines were lost, the last one for: a power cut")
    assert states(result) == ["crashed"]
    assert states(fake_cells.run(table, results, place=Cluster(Scripted(None)))) == ["finished"]


def test_what_a_machine_cannot_do_is_a_sentence(tmp_path: Path) -> None:
    table = table_of(tmp_path, "seeds = 1")
    with pytest.raises(UserError, match="no rlsuite there"):
        fake_cells.run(table, tmp_path / "r", place=Cluster(Scripted("no rlsuite there")))

    class Elsewhere(Scripted):
        def send(self, job: Job, seen: Outcome) -> Any:
            return super().send(replace(job, folder=tmp_path / "not" / "mounted"), seen)

    with pytest.raises(UserError, match=r"has no folder .*mounted; put the results on a file system that all machines"):
        fake_cells.run(table, tmp_path / "r2", place=Cluster(Elsewhere(None)))


def test_a_lost_machine_that_goes_on_keeps_its_cell(tmp_path: Path) -> None:
    """Its lock makes the next one wait, so no two processes write into one folder."""
    table, results = table_of(tmp_path, "seeds = 1\n[config]\nupdates = 20\nseconds = 2"), tmp_path / "r"
    (cell,) = table.cells
    folder = folder_of(results, cell)
    first = bench(table, results, "")
    wait_for(lambda: outcome_in(folder).update > 2)
    assert try_lock(folder) is None
    job = Job("t", cell.run_id, folder, ("false",), tmp_path, {}, 1, 0, None, 1.0)
    assert tend(job, outcome_in(folder)).state == "finished"  # type: ignore[union-attr]
    assert first.wait(timeout=20) == 0 and set(starts(results).values()) == {1}


# ---- Ray


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A Ray cluster of a head without processors and two nodes of one each; its address is in RAY_ADDRESS."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster as Nodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", child_environment(1)["PYTHONPATH"])
        nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for _ in range(2):
                nodes.add_node(num_cpus=1)
            patch.setenv("RAY_ADDRESS", nodes.address)
            yield nodes
        finally:
            nodes.shutdown()


@pytest.fixture
def on_ray(nodes: Any) -> Iterator[Cluster]:
    place = Cluster(Ray())
    yield place
    place.close()


@pytest.mark.slow
def test_rows_are_the_same_on_ray(on_ray: Cluster, tmp_path: Path) -> None:
    table = read_table(write_table(tmp_path, FAILING))
    assert on_ray.jobs(1) == 2 and on_ray.jobs(4) == 1
    there = fake_cells.run(table, tmp_path / "there", place=on_ray)
    here = fake_cells.run(table, tmp_path / "here", jobs=2)
    assert states(there) == states(here) == ["finished", "crashed", "diverged"] * 2
    assert (tmp_path / "there" / "rows.csv").read_bytes() == (tmp_path / "here" / "rows.csv").read_bytes()
    assert fake_cells.run(table, tmp_path / "there", place=on_ray).ran == 2, "the crashed ones"


@pytest.mark.slow
def test_a_cell_on_ray_has_its_time_limit(on_ray: Cluster, tmp_path: Path) -> None:
    table = table_of(tmp_path, 'seeds = 1\n[config]\nbehaviour = "deaf"')
    result = fake_cells.run(table, tmp_path / "r", place=on_ray, timeout=1.0, grace=0.5)
    assert states(result) == ["timeout"] and not any(alive(pid) for pid in pids(tmp_path / "r"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_engine_stops_its_cells_on_ray(nodes: Any, tmp_path: Path, number: int) -> None:
    table, results = table_of(tmp_path, SLOW), tmp_path / "r"
    engine = bench(table, results, "ray")
    wait_for(lambda: len(running(table, results)) == 2, seconds=90)
    engine.send_signal(number)
    output = engine.communicate(timeout=60)[0]
    wait_for(lambda: not any(alive(pid) for pid in pids(results)), seconds=60)
    stopped = [int(path.read_text()) for path in results.glob("cells/*/checkpoints")]
    if number != signal.SIGKILL:
        assert engine.returncode == 130, output
        assert len(stopped) == 2 and min(stopped) > 10
        assert [row["status"] for row in rows_of(results)] == ["interrupted"] * 4
    assert states(fake_cells.run(table, results, jobs=4)) == ["finished"] * 4


@pytest.mark.slow
def test_a_node_is_lost_and_nothing_else(nodes: Any, tmp_path: Path) -> None:
    table, results = table_of(tmp_path, SLOW), tmp_path / "r"
    engine = bench(table, results, "ray")
    wait_for(lambda: len(running(table, results)) == 2, seconds=90)
    lost = running(table, results)[0]
    worker = parent(lost)
    raylet = parent(worker)  # a node is its raylet, and what that has started
    victims = [raylet, *(pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if descends(pid, raylet))]
    assert lost in victims and worker in victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    output = engine.communicate(timeout=240)[0]
    assert engine.returncode == 0, output
    assert sorted(starts(results).values()) == [1, 1, 1, 2], "only the lost cell ran twice"
    fake_cells.run(table, tmp_path / "here", jobs=4)
    assert (results / "rows.csv").read_bytes() == (tmp_path / "here" / "rows.csv").read_bytes()
    nodes.add_node(num_cpus=1)


def descends(pid: int, ancestor: int) -> bool:
    try:
        while pid > 1:
            pid = parent(pid)
            if pid == ancestor:
                return True
    except OSError:  # it has just ended
        pass
    return False


# ---- Slurm


@pytest.fixture
def on_slurm(tmp_path: Path) -> Cluster:
    """submitit's local executor, which runs a job as Slurm would, on this machine."""
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    return Cluster(Slurm(tmp_path / "there", {}, cluster="local"))


@pytest.mark.slow
def test_rows_are_the_same_by_submitit(on_slurm: Cluster, tmp_path: Path) -> None:
    table = read_table(write_table(tmp_path, FAILING))
    there = fake_cells.run(table, tmp_path / "there", place=on_slurm, jobs=2)
    here = fake_cells.run(table, tmp_path / "here", jobs=2)
    assert states(there) == states(here) == ["finished", "crashed", "diverged"] * 2
    assert (tmp_path / "there" / "rows.csv").read_bytes() == (tmp_path / "here" / "rows.csv").read_bytes()


@pytest.mark.slow
def test_a_job_that_slurm_ends_goes_on_in_another(on_slurm: Cluster, tmp_path: Path) -> None:
    """One is killed as when a node fails, one gets the signal before the time limit."""
    table, results = table_of(tmp_path, SLOW), tmp_path / "there"
    engine = bench(table, results, "slurm")
    wait_for(lambda: len(running(table, results)) == 2, seconds=60)
    killed, warned = running(table, results)
    os.kill(parent(killed), signal.SIGKILL)
    os.kill(parent(warned), signal.SIGUSR2)
    output = engine.communicate(timeout=120)[0]
    assert engine.returncode == 0, output
    assert sorted(starts(results).values()) == [1, 1, 2, 2]
    assert len(list(results.glob("cells/*/checkpoints"))) == 1, "the warned one wrote a checkpoint first"
    fake_cells.run(table, tmp_path / "here", jobs=4)
    assert (results / "rows.csv").read_bytes() == (tmp_path / "here" / "rows.csv").read_bytes()


@pytest.mark.slow
def test_a_stopped_engine_stops_its_jobs(on_slurm: Cluster, tmp_path: Path) -> None:
    table, results = table_of(tmp_path, SLOW), tmp_path / "there"
    engine = bench(table, results, "slurm")
    wait_for(lambda: len(running(table, results)) == 2, seconds=60)
    engine.send_signal(signal.SIGTERM)
    output = engine.communicate(timeout=60)[0]
    assert engine.returncode == 130, output
    assert not any(alive(pid) for pid in pids(results))
    assert len(list(results.glob("cells/*/checkpoints"))) == 2
    assert states(fake_cells.run(table, results, jobs=4)) == ["finished"] * 4


def test_options_of_sbatch(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(UserError, match="no number of minutes"):
        Slurm(tmp_path, {"time": "1-00"}, cluster="local")
    submitted = Slurm(tmp_path, {"time": "90", "partition": "long"}, cluster="local")
    assert submitted.options == {"partition": "long"} and submitted.minutes == "90"


# ---- the command


@pytest.mark.parametrize(
    ("flags", "missing", "words"),
    [
        (["--engine", "ray"], "ray", "pip install 'rlsuite[ray]'"),
        (["--engine", "slurm"], "submitit", "pip install 'rlsuite[slurm]'"),
        (["--slurm", "partition=long"], "", "add --engine slurm"),
        (["--engine", "slurm", "--slurm", "long"], "", "is no KEY=VALUE"),
        (["--engine", "kubernetes"], "", "kubernetes"),
    ],
)
def test_bad_input_is_one_sentence(
    flags: list[str],
    missing: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    table = table_of(tmp_path, "seeds = 1")
    assert main(["bench", str(table.path), "--results", str(tmp_path / "r"), *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "r").exists()


def test_no_slurm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no Slurm on this machine"):
        Slurm(tmp_path / "r", {})
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1:x"])
def test_no_ray_cluster(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=rf"there is no Ray cluster at {address} .*ray start --head"):
        Ray(address)
