"""The promises of the suite, held for every algorithm by one parametrisation, with real processes.

Offline methods learn from a small dataset of LineWorld, and count updates; online ones learn in LineWorld itself, or in
CartPole where actions must be discrete, and count its steps, many to an update.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from rlsuite.data.files import read_json
from rlsuite.harness import files
from rlsuite.harness.config import algorithm_names, load_algorithm, resolve
from rlsuite.harness.environments import make_slots
from rlsuite.harness.run import execute
from rlsuite.harness.runs import first_difference, load_policy
from tests.contract.kills import cut_and_finish, finish, kill_until_finished, start

ALGORITHMS = algorithm_names()
ONLINE = [name for name in ALGORITHMS if "total_steps" in {f.name for f in fields(load_algorithm(name).module.Config)}]
ENV = "rlsuite/LineWorld-v0"
EVERY = {
    "env": ENV,
    "hidden": "64,64",
    "seed": 3,
    "eval_episodes": 2,
    "final_episodes": 4,
}
OFFLINE_QUICK = {
    "updates": 600,
    "batch_size": 32,
    "log_every": 50,
    "eval_every": 100,
    "checkpoint_every": 25,
}
ONLINE_QUICK = {  # none of the intervals is a multiple of a rollout, nor is the whole
    "total_steps": 1210,
    "n_envs": 2,
    "log_every": 100,
    "eval_every": 250,
    "checkpoint_every": 50,
}
ROLLOUT = {"rollout_steps": 24, "minibatches": 2, "epochs": 2}
OWN = {
    "odice": {"policy_hidden": "64,64", "lambda": 0.4},  # with 0.6 no action of these data has a positive weight
    "odice_il": {"policy_hidden": "64,64"},
    "policy_smoothing": {
        "env": "CartPole-v1#frames=3,sigma=0.1",
        "learning_starts": 48,
        "train_every": 24,
        "gradient_steps": 4,
        "batch_size": 32,
        "best_every": 0,
    },
    "npg_igt": {"env": "Pendulum-v1", "trajectories": 2, "horizon": 12},  # rewards within 12 steps
    "ppo": ROLLOUT,
    "props": {**ROLLOUT, "behavior_steps": 12, "behavior_epochs": 2, "behavior_minibatches": 2},
    "subpo": {"env": "rlsuite/Items0-v0", "paths": 1, "policy": "NM", "baseline": "value", "learning_rate": 1e-3},
}
STRIDES = {"props": 12, "subpo": 39}  # environment steps of an update, where they are not 24


def env_of(algorithm: str) -> str:
    return OWN.get(algorithm, {}).get("env", ENV)


def resolved(algorithm: str, line_world: Path, **given):
    own = {**EVERY, **(ONLINE_QUICK if algorithm in ONLINE else OFFLINE_QUICK), **OWN.get(algorithm, {})}
    if algorithm == "subpo":
        del own["n_envs"]
    if algorithm not in ONLINE:
        return resolve(load_algorithm(algorithm), {"dataset": str(line_world), **own, **given})
    if "updates" in given:
        given["total_steps"] = given.pop("updates")
    return resolve(load_algorithm(algorithm), {**own, **given})


class Positions:
    """Where a run of `resolved` logs, evaluates, ends and leaves its two checkpoints."""

    def __init__(self, algorithm: str) -> None:
        self.first = algorithm in ONLINE  # whether it is evaluated before it begins
        quick = ONLINE_QUICK if self.first else OFFLINE_QUICK
        self.stride = STRIDES.get(algorithm, 24) if self.first else 1
        whole = quick.get("updates") or quick["total_steps"]
        free = (
            algorithm == "npg_igt"
        )  # strides are those of its episodes: 24 here, and the last one is cut in the count
        self.end = whole if free else whole - whole % self.stride
        self.logged = self._reaching(quick["log_every"], max(24, self.stride) if self.first else 1)
        self.evaluated = [0] * self.first + [p for p in self._reaching(quick["eval_every"], free) if p < self.end]
        self.checkpoints = sorted({*self._reaching(quick["checkpoint_every"]), self.end})[-2:]

    def _reaching(self, every: int, stride: int = 0) -> list[int]:
        """The first position at or after each multiple of `every`."""
        stride = stride or self.stride
        reached = [-(-multiple // stride) * stride for multiple in range(every, self.end + 1, every)]
        return [position for position in reached if position <= self.end]


def policy_in(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights of the policy that a checkpoint holds."""
    tracked = files.load_checkpoint(checkpoint)["tracked"]
    (policy,) = [
        tree[name]
        for part in ("agent", "learner")
        for tree in (tracked.get(part, {}),)
        for name in ("actor", "policy")
        if name in tree
    ]
    return policy


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
    at = Positions(algorithm)
    assert read_json(finished / "status.json") == {
        "status": "finished",
        "update": at.end,
        "updates": at.end,
        "message": "",
    }
    metrics = files.read_lines(finished / "metrics.jsonl")
    assert [row["update"] for row in metrics] == at.logged
    assert all(np.isfinite(list(row.values())).all() for row in metrics)
    assert all(row.get("positive_weights", 1) > 0 for row in metrics), "weights decay also where nothing is learnt"
    older, newest = sorted((finished / "checkpoints").iterdir())
    assert [older.name, newest.name] == [f"update-{position:010d}.ckpt" for position in at.checkpoints]
    now, before = policy_in(newest), policy_in(older)
    weights = [key for key in now if "weight" in key]
    assert weights
    assert all(not torch.equal(now[key], before[key]) for key in weights)


def test_every_row_says_what_it_belongs_to(algorithm, finished, line_world):
    from rlsuite import data

    at = Positions(algorithm)
    rows = files.read_lines(finished / "evaluations.jsonl")
    assert [(r["phase"], r["update"]) for r in rows] == [("interim", u) for u in at.evaluated for _ in range(2)] + [
        ("final", at.end)
    ] * 4
    for row in rows:
        assert row["algorithm"] == algorithm
        assert row["env"] == env_of(algorithm)
        assert row["dataset_hash"] == ("" if algorithm in ONLINE else data.load(str(line_world)).content_hash)
        assert row["task"] == (env_of(algorithm) if algorithm in ONLINE else str(line_world))
        assert row["cpu_class"] and row["code_version"] and row["config_hash"] and row["protocol"]
        assert row["terminated"] != row["truncated"]
    assert (
        len({row["episode_seed"] for row in rows}) == 2 + 4
    )  # interim evaluations share theirs, the final has its own


def test_the_policy_of_a_run_can_be_loaded(algorithm, finished, line_world):
    """As `rlsuite eval` does, without the data."""
    policy = load_policy(finished)
    stored = policy_in(max((finished / "checkpoints").iterdir()))
    assert all(torch.equal(policy.state_dict()[key], weight) for key, weight in stored.items())
    envs = make_slots(env_of(algorithm), 1)
    shown = np.zeros((3, *envs.observation_space.shape), np.float32)
    assert policy.act(shown).shape == (3, *envs.action_space.shape)


def test_same_command_same_bits(algorithm, finished, line_world, tmp_path):
    assert execute(resolved(algorithm, line_world), tmp_path / "again") == 0
    assert first_difference(finished, tmp_path / "again") == ""


def test_another_seed_is_another_run(algorithm, finished, line_world, tmp_path):
    assert execute(resolved(algorithm, line_world, seed=4), tmp_path / "other") == 0
    assert first_difference(finished, tmp_path / "other") != ""


def test_evaluation_never_changes_training(algorithm, finished, line_world, tmp_path):
    assert execute(resolved(algorithm, line_world, eval_every=0), tmp_path / "quiet") == 0
    policies = [policy_in(max((d / "checkpoints").iterdir())) for d in (finished, tmp_path / "quiet")]
    for key, weight in policies[0].items():
        assert torch.equal(weight, policies[1][key])
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


def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(algorithm, finished, line_world, tmp_path):
    setup = resolved(algorithm, line_world)
    kill_until_finished(setup, finished, finish(setup, tmp_path / "calibrate"), tmp_path)


@pytest.mark.parametrize("checkpoint", [1, 2, 7])
def test_a_run_continues_from_any_of_its_checkpoints(algorithm, finished, line_world, tmp_path, checkpoint):
    """Of an online run, the first one is from before the first step."""
    cut_and_finish(resolved(algorithm, line_world), tmp_path / "run", checkpoint)
    assert first_difference(finished, tmp_path / "run") == ""


def test_a_stop_signal_leaves_a_checkpoint_at_the_very_update(algorithm, finished, line_world, tmp_path):
    process = start(resolved(algorithm, line_world), tmp_path / "run")
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
    names = resolved(algorithm, line_world).config.__dataclass_fields__
    rates = {f: "1e30" for f in names if "learning_rate" in f or f == "step_size"}
    setup = resolved(algorithm, line_world, **rates, log_every=10, eval_every=0)
    assert execute(setup, tmp_path / "run") == 3
    status = read_json(tmp_path / "run" / "status.json")
    assert status["status"] == "diverged"
    assert (
        " at " in status["message"] or f"of {env_of(algorithm)} " in status["message"]
    )  # a NaN action gives a NaN state
    assert status["update"] < Positions(algorithm).end
