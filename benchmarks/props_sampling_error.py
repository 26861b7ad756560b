"""Sampling error of a growing buffer under a fixed target policy: on-policy sampling against PROPS and its ablations.

The target never learns; every sampler fills a buffer of 16 x 1024 steps, and the sampling error (exact fit of the
policy's head) is measured every 1024 steps. Two targets: the policy at initialisation, and one trained by PPO here.
Settings of the authors' fixed-target runs: m = 256, 16 epochs of 32 minibatches, delta .05, eps .3, learning rate 1e-3,
lam .1. One row a measurement; nothing is averaged in the file.

    python benchmarks/props_sampling_error.py --out results/props_sampling_error [--seeds 5] [--jobs 2]
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded, so before the imports below

import pandas as pd
import torch

from rlsuite.algorithms.ppo import PPO
from rlsuite.algorithms.props import PROPS
from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.run import Run

ENVS = ("Hopper-v4", "HalfCheetah-v4")
TARGETS = ("initial", "trained")
SAMPLERS: dict[str, dict[str, Any]] = {
    "on-policy": {"sampler": "on_policy"},
    "PROPS": {},
    "PROPS, no clip": {"behavior_clip": float("inf")},
    "PROPS, no KL": {"behavior_kl_weight": 0.0},
    "PROPS, neither": {"behavior_clip": float("inf"), "behavior_kl_weight": 0.0},
}
FIXED = {
    "epochs": 0,
    "rollout_steps": 1024,
    "buffer_batches": 16,
    "behavior_steps": 256,
    "behavior_minibatches": 32,
    "behavior_learning_rate": 1e-3,
    "behavior_kl_stop": 0.05,
    "behavior_kl_weight": 0.1,
    "mean_tanh": False,
    "normalize_rewards": False,
}
TRAINED = {"total_steps": 512_000, "learning_rate": 3e-4, "mean_tanh": False}


def begin(algorithm: str, env: str, seed: int, **given: Any) -> Run:
    resolved = resolve(load_algorithm(algorithm), {"env": env, "seed": seed, **given})
    return Run(resolved, Path(tempfile.gettempdir()) / "sampling-error-writes-nothing")


def train_target(env: str, seed: int) -> dict[str, torch.Tensor]:
    """Weights and normaliser of a policy that PPO trained."""
    torch.set_num_threads(1)
    run = begin("ppo", env, seed, **TRAINED)
    config = run.resolved.config
    envs = run.environments(env)
    agent = PPO(envs, config, run)
    for _ in range(config.total_steps // config.rollout_steps):
        agent.update(agent.collect(envs, config.rollout_steps))
    return dict(agent.policy.state_dict())


def measure(env: str, target: str, seed: int, sampler: str, weights: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    run = begin("props", env, seed, normalize_observations=bool(weights), **(FIXED | SAMPLERS[sampler]))
    config = run.resolved.config
    envs = run.environments(env)
    agent = PROPS(envs, config, run)
    policy = agent.learner.policy
    if weights:
        policy.load_state_dict(weights)
        agent.reset_behavior()
    agent.learner.see = policy.prepare  # type: ignore[method-assign]  # the target, its normaliser included, is fixed
    rows = []
    while agent.steps < config.buffer_batches * config.rollout_steps:
        rollout = agent.collect(envs)
        agent.update(rollout)
        if agent.steps % config.rollout_steps == 0:
            error = policy.sampling_error(rollout.flat("observations"), rollout.flat("actions"))
            rows.append(
                {"env": env, "target": target, "seed": seed, "sampler": sampler, "steps": agent.steps}
                | {"sampling_error": error.value, "expected_on_policy": error.expected}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pairs = list(product(ENVS, range(args.seeds)))
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        trained = dict(zip(pairs, pool.map(train_target, *zip(*pairs, strict=True)), strict=True))
        print(f"trained {len(trained)} targets", flush=True)
        cells = list(product(ENVS, TARGETS, range(args.seeds), SAMPLERS))
        weights = [trained[env, seed] if target == "trained" else {} for env, target, seed, _ in cells]
        found = list(pool.map(measure, *zip(*cells, strict=True), weights))
    table = pd.DataFrame([row for rows in found for row in rows])
    table.to_csv(args.out / "sampling_error.csv", index=False, float_format="%.6g")
    final = table[table.steps == table.steps.max()]
    wide = final.pivot_table(index=["env", "target", "seed"], columns="sampler", values="sampling_error")
    ratios = wide.div(wide["on-policy"], axis=0)[list(SAMPLERS)]
    print(ratios.groupby(["env", "target"]).agg(["mean", "min", "max"]).round(3).T.to_string())
    draw(table, args.out / "sampling_error.png")


def draw(table: pd.DataFrame, path: Path) -> None:
    """Mean and range over seeds against the size of the buffer, a panel for each environment and target."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 4, figsize=(13, 3.4), sharey=True, layout="constrained")
    for panel, (env, target) in zip(panels, product(ENVS, TARGETS), strict=True):
        part = table[(table.env == env) & (table.target == target)]
        for sampler, rows in part.groupby("sampler", sort=False):
            by_step = rows.groupby("steps").sampling_error
            if sampler in ("on-policy", "PROPS"):
                panel.fill_between(by_step.mean().index, by_step.min(), by_step.max(), alpha=0.2, linewidth=0)
            style = "-" if sampler in ("on-policy", "PROPS") else "--"
            panel.plot(by_step.mean().index, by_step.mean(), style, label=sampler, lw=1.6)
        expected = part.groupby("steps").expected_on_policy.mean()
        panel.plot(expected.index, expected, ":", color="0.3", label="d / 2N (theory, on-policy)")
        panel.set(title=f"{env}, {target} target", xlabel="steps in the buffer", xscale="log", yscale="log")
    panels[0].set_ylabel("sampling error (nats)")
    panels[-1].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
