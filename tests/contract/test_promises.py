"""The promises of the suite, held for every algorithm by one parametrisation, with real processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch

from rlsuite.data.files import read_json
from rlsuite.harness import files
from rlsuite.harness.config import algorithm_names, load_algorithm, resolve
from rlsuite.harness.run import execute, read_status
from rlsuite.harness.runs import first_difference

ALGORITHMS = algorithm_names()
KILLS = 20


def resolved(algorithm: str, line_world: Path, **given):
    quick = {
        "dataset": str(line_world),
        "env": "rlsuite/LineWorld-v0",
        "updates": 600,
        "hidden": "64,64",
        "seed": 3,
        "batch_size": 32,
        "log_every": 50,
        "eval_every": 100,
        "eval_episodes": 2,
        "final_episodes": 4,
        "checkpoint_every": 25,
    }
    return resolve(load_algorithm(algorithm), {**quick, **given})


@pytest.fixture(scope="module", params=ALGORITHMS)
def algorithm(request):
    return request.param


@pytest.fixture(scope="module")
def finished(algorithm, line_world, tmp_path_factory):
    """An uninterrupted run."""
    directory = tmp_path_factory.mktemp("finished") / algorithm
    assert execute(resolved(algorithm, line_world), directory) == 0
    return directory


def test_updates_ran_and_weights_moved(algorithm, finished, line_world):
    assert read_json(finished / "status.json") == {
        "status": "finished",
        "update": 600,
        "updates": 600,
        "message": "",
    }
    metrics = files.read_lines(finished / "metrics.jsonl")
    assert [row["update"] for row in metrics] == list(range(50, 601, 50))
    assert all(np.isfinite(list(row.values())).all() for row in metrics)
    newest, older = sorted((finished / "checkpoints").iterdir(), reverse=True)
    assert (newest.name, older.name) == ("update-0000000600.ckpt", "update-0000000575.ckpt")
    now, before = (files.load_checkpoint(path)["tracked"]["agent"]["actor"] for path in (newest, older))
    weights = [key for key in now if "weight" in key]
    assert weights
    assert all(not torch.equal(now[key], before[key]) for key in weights)


def test_every_row_says_what_it_belongs_to(algorithm, finished, line_world):
    from rlsuite import data

    rows = files.read_lines(finished / "evaluations.jsonl")
    assert [(r["phase"], r["update"]) for r in rows] == [
        ("interim", u) for u in range(100, 600, 100) for _ in range(2)
    ] + [("final", 600)] * 4
    for row in rows:
        assert row["algorithm"] == algorithm
        assert row["env"] == "rlsuite/LineWorld-v0"
        assert row["dataset_hash"] == data.load(str(line_world)).content_hash
        assert row["cpu_class"] and row["code_version"] and row["config_hash"] and row["protocol"]
        assert row["terminated"] != row["truncated"]
    assert (
        len({row["episode_seed"] for row in rows}) == 2 + 4
    )  # interim evaluations share theirs, the final has its own


def test_same_command_same_bits(algorithm, finished, line_world, tmp_path):
    assert execute(resolved(algorithm, line_world), tmp_path / "again") == 0
    assert first_difference(finished, tmp_path / "again") == ""


def test_another_seed_is_another_run(algorithm, finished, line_world, tmp_path):
    assert execute(resolved(algorithm, line_world, seed=4), tmp_path / "other") == 0
    assert first_difference(finished, tmp_path / "other") != ""


def test_evaluation_never_changes_training(algorithm, finished, line_world, tmp_path):
    assert execute(resolved(algorithm, line_world, eval_every=0), tmp_path / "quiet") == 0
    trees = [
        files.load_checkpoint(d / "checkpoints" / "update-0000000600.ckpt")["tracked"]
        for d in (finished, tmp_path / "quiet")
    ]
    for key, weight in trees[0]["agent"]["actor"].items():
        assert torch.equal(weight, trees[1]["agent"]["actor"][key])
    metrics = [files.read_lines(d / "metrics.jsonl") for d in (finished, tmp_path / "quiet")]
    assert metrics[0] == metrics[1]


def test_library_code_leaves_the_global_generators_alone(algorithm, line_world, tmp_path):
    import random

    before = None

    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()

    def train(config, run):
        nonlocal before
        before = states()
        original(config, run)

    setup = resolved(algorithm, line_world, updates=50)
    original = setup.algorithm.module.train
    setup.algorithm.module.train = train
    try:
        assert execute(setup, tmp_path / "run") == 0
    finally:
        setup.algorithm.module.train = original
    assert states() == before


def _child(algorithm: str, line_world: Path, directory: Path) -> None:
    with open(directory.with_suffix(".log"), "a") as log:
        sys.stderr = log
        try:
            code = execute(resolved(algorithm, line_world), directory)
        except BaseException:
            traceback.print_exc(file=log)
            code = 1
        log.flush()
        os._exit(code)


def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(algorithm, finished, line_world, tmp_path):
    """SIGKILL, twenty times, at moments drawn over the whole run: loading, training, evaluating, and writing one of the
    24 checkpoints. Every run that finishes must equal the uninterrupted one."""
    context = multiprocessing.get_context("fork")  # a process of its own, without the seconds of importing torch
    rng = np.random.default_rng(0)
    kills, in_checkpoint, compared = 0, 0, 0
    begun = time.monotonic()
    process = context.Process(target=_child, args=(algorithm, line_world, tmp_path / "calibrate"))
    process.start()
    process.join()
    duration = time.monotonic() - begun
    while kills < KILLS or not compared:
        directory = tmp_path / f"run-{compared}"
        while read_status(directory).get("status") != "finished":
            process = context.Process(target=_child, args=(algorithm, line_world, directory))
            process.start()
            aim_at_checkpoint = kills < KILLS and kills % 4 == 0
            deadline = time.monotonic() + (rng.uniform(0, 0.6) * duration if kills < KILLS else 600)
            while time.monotonic() < deadline and process.is_alive():
                # The temporary name exists exactly while a checkpoint is being written.
                if aim_at_checkpoint and any((directory / "checkpoints").glob(".*.tmp")):
                    break
                time.sleep(0.0005)
            if process.is_alive():
                in_checkpoint += any((directory / "checkpoints").glob(".*.tmp"))
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                kills += 1
            else:
                process.join()
                assert process.exitcode == 0, directory.with_suffix(".log").read_text()
        assert first_difference(finished, directory) == ""
        assert not list(directory.rglob("*.tmp"))
        compared += 1
    assert kills >= KILLS
    assert in_checkpoint > 0


def test_a_stop_signal_leaves_a_checkpoint_at_the_very_update(algorithm, finished, line_world, tmp_path):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_child, args=(algorithm, line_world, tmp_path / "run"))
    process.start()
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() or not metrics.stat().st_size:
        assert process.is_alive()
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    status = read_json(tmp_path / "run" / "status.json")
    assert status["status"] == "stopped"
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    assert files.load_checkpoint(newest)["update"] == status["update"]
    assert execute(resolved(algorithm, line_world), tmp_path / "run") == 0
    assert first_difference(finished, tmp_path / "run") == ""


def test_a_nan_stops_the_run_with_a_status_and_keeps_the_checkpoint(algorithm, line_world, tmp_path):
    """A learning rate of 1e30 gives NaN within a few updates."""
    rates = {f: "1e30" for f in resolved(algorithm, line_world).config.__dataclass_fields__ if "learning_rate" in f}
    setup = resolved(algorithm, line_world, **rates, log_every=10, eval_every=0)
    assert execute(setup, tmp_path / "run") == 3
    status = read_json(tmp_path / "run" / "status.json")
    assert status["status"] == "diverged"
    assert "update" in status["message"]
