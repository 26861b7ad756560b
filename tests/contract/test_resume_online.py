"""Runs that interact, killed at random moments, end as if they had not been: weights, rows, and the environment."""

from __future__ import annotations

import pytest

from rlsuite.harness import environments, files
from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.run import execute
from rlsuite.harness.runs import first_difference
from tests.contract.kills import cut_and_finish, finish, kill_until_finished
from tests.contract.test_promises import ONLINE

QUICK = {
    "n_envs": 2,
    "hidden": "16,16",
    "seed": 3,
    "final_episodes": 2,
    "eval_episodes": 1,
}
ROLLOUT = {"minibatches": 2, "epochs": 2}
OWN = {
    "policy_smoothing": {
        "learning_starts": 200,
        "train_every": 64,
        "gradient_steps": 2,
        "batch_size": 32,
        "best_every": 256,
        "best_episodes": 2,
    },
    "npg_igt": {},
    "ppo": ROLLOUT,
    "props": {**ROLLOUT, "behavior_epochs": 2, "behavior_minibatches": 2},
    "subpo": {"paths": 10, "policy": "NM", "baseline": "value"},
}
GRID = "rlsuite/Items0-v0"
TASKS = {
    "Hopper-v5": {"total_steps": 8000, "rollout_steps": 200, "eval_every": 2000, "checkpoint_every": 400},
    "CartPole-v1": {"total_steps": 8000, "rollout_steps": 200, "eval_every": 2000, "checkpoint_every": 400},
    "CartPole-v1#frames=3,sigma=0.1": {"total_steps": 8000, "eval_every": 2000, "checkpoint_every": 400},
    "ale-dqn/Pong": {"total_steps": 512, "rollout_steps": 128, "eval_every": 300, "checkpoint_every": 128},
    "ale-dqn/Pong#frames=2,sigma=0.1,steps=50": {"total_steps": 512, "eval_every": 300, "checkpoint_every": 128},
    GRID: {"total_steps": 15_600, "eval_every": 4000, "checkpoint_every": 400},
}


def cases():
    for name in ONLINE:
        for task in TASKS:
            if ("#" in task) != (name == "policy_smoothing") or (name == "npg_igt" and task.startswith("ale-")):
                continue
            if (task == GRID) != (name == "subpo"):
                continue
            marks = [pytest.mark.slow] if task.startswith("ale-") else []
            yield pytest.param(name, task, marks=marks, id=f"{name}-{task}")


@pytest.mark.parametrize(("name", "task"), list(cases()))
def test_killed_at_random_moments_an_online_run_ends_as_if_it_had_not_been(name, task, tmp_path, monkeypatch):
    """Games of Pong are cut, so that an evaluation ends soon."""
    if "#" not in task:
        monkeypatch.setitem(environments.ATARI["ale-dqn"], "max_num_frames_per_episode", 200)
    given = {"env": task, **QUICK, **OWN[name], **TASKS[task], "log_every": TASKS[task].get("rollout_steps", 64)}
    if name == "props":
        given["behavior_steps"] = given["rollout_steps"] // 2
    if name == "npg_igt":
        given["batch_steps"] = given.pop("rollout_steps")
    if name == "subpo":
        del given["n_envs"]
    setup, directory = resolve(load_algorithm(name), given), tmp_path / "finished"
    duration = finish(setup, directory)

    metrics = files.read_lines(directory / "metrics.jsonl")
    assert name == "subpo" or sum(row.get("episodes", 0) for row in metrics) > 5
    assert len({row["update"] for row in files.read_lines(directory / "evaluations.jsonl")}) >= 3
    newest = max((directory / "checkpoints").iterdir())
    tracked = files.load_checkpoint(newest)["tracked"]
    if name == "npg_igt":
        assert tracked["sampler"]["accepted"] > 5
    elif name == "subpo":
        assert tracked["agent"]["epoch"] == len(metrics) == 40
    else:
        state = tracked["environments"]
        assert state["steps"] * 2 == setup.config.total_steps
        assert max(length for _, _, length in state["episodes"]) > 0

    kill_until_finished(setup, directory, duration, tmp_path, often=10 if task.startswith("ale-") else 20)


VARIANTS = {  # what a method keeps between updates depends on its settings
    "npg_igt": [
        {"env": "CartPole-v1", "method": "nharpg", "baseline": "average", "correction_steps": 30},
        {"env": "rlsuite/GridWorld-v0", "method": "harpg", "trajectories": 3, "stochastic": True},
        {"env": "rlsuite/LineWorld-v0", "method": "storm_pg", "step_size": 0.01, "estimator": "mean"},
        {"env": "Hopper-v5", "method": "sharp", "trajectories": 2, "baseline": "none", "n_envs": 1},
    ],
    "ppo": [
        {"env": "ale-machado/Freeway", "total_steps": 128, "rollout_steps": 32, "eval_every": 0, "final_episodes": 1},
        {"env": "rlsuite/GridWorld-v0", "stochastic": True, "kl_stop": 1e-3},
        {"env": "CartPole-v1", "normalize_observations": True, "n_envs": 1, "anneal": False},
    ],
    "props": [
        {"env": "rlsuite/GridWorld-v0", "sampler": "greedy", "buffer_batches": 2},
        {"env": "rlsuite/GridWorld-v0", "sampler": "ros", "behavior_learning_rate": 10.0, "sampling_error": True},
        {"env": "rlsuite/LineWorld-v0", "sampler": "aw_props", "stale_reference": True, "buffer_batches": 3},
        {"env": "rlsuite/LineWorld-v0", "sampler": "noise"},
        {"env": "rlsuite/LineWorld-v0", "sampler": "on_policy", "mean_tanh": True},
        {"env": "Acrobot-v1", "evict": "batch", "buffer_batches": 2},
    ],
    "subpo": [
        {"env": GRID, "policy": "M", "baseline": "none", "credit": "prefix", "features": "raw", "reward": "mod"},
        {"env": GRID, "policy": "GRU", "entropy_weight": 0.1, "step": "npg", "baseline": "batch"},
        {"env": "rlsuite/DDesign0-v0", "policy": "NM", "features": "raw", "credit": "gae"},
    ],
    "policy_smoothing": [
        {"env": "rlsuite/GridWorld-v0", "best_every": 0, "target_every": 100},
        {"env": "CartPole-v1#frames=2,sigma=0.1:0.2:0:1,steps=50", "n_envs": 1, "buffer_size": 300},
        {
            "env": "ale-smoothing/Freeway#frames=2,sigma=0.05,steps=15,difficulty=1",
            "total_steps": 256,
            "final_episodes": 1,
        },
    ],
}


@pytest.mark.parametrize(("name", "variant"), [(name, variant) for name in ONLINE for variant in VARIANTS[name]])
def test_every_variant_continues_exactly(name, variant, tmp_path, monkeypatch):
    monkeypatch.setitem(environments.ATARI["ale-machado"], "max_num_frames_per_episode", 60)
    rollout = {"policy_smoothing": {}, "npg_igt": {"batch_steps": 96}, "subpo": {"paths": 3}}
    rollout = rollout.get(name, {"rollout_steps": 96})
    given = {**QUICK, **OWN[name], **rollout, "total_steps": 960, "eval_every": 480, "checkpoint_every": 1, **variant}
    if name == "props":
        given["behavior_steps"] = 24
    if name == "subpo":
        del given["n_envs"]
    setup = resolve(load_algorithm(name), {**given, "log_every": given.get("rollout_steps", 64)})
    assert execute(setup, tmp_path / "whole") == 0
    cut_and_finish(setup, tmp_path / "cut", 23 if name == "props" else 3)  # in the midst of a rollout of PROPS
    assert first_difference(tmp_path / "whole", tmp_path / "cut") == ""
