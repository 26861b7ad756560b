"""Microseconds per step of a path in the submodular grids: one at a time through Gymnasium, and many side by side.

One thread, random actions drawn before the clock starts, whole episodes with their resets. The ways take turns in
blocks, so that a busy machine slows all of them; "times" is the median over blocks of the ratio to the single
environment of the same block. Gymnasium's wrappers are those of `gymnasium.make` without its passive checker.

    python benchmarks/speed/submodular.py [--blocks 9] [--tasks Coverage TwoRooms GP0 Items0 DDesign0]
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded, so before the imports below

import gymnasium as gym
import numpy as np

import rlsuite_envs  # noqa: F401
from rlsuite_envs.submodular import SubmodularBatch

PATHS = (1, 50, 500)


def single(env: gym.Env, actions: np.ndarray) -> float:
    """Seconds a step, for actions (paths, H - 1)."""
    begun = time.perf_counter()
    for path in actions:
        env.reset()
        for action in path:
            env.step(action)
    return (time.perf_counter() - begun) / actions.size


def batched(batch: SubmodularBatch, episodes: np.ndarray) -> float:
    """Seconds a step, for actions (episodes, H - 1, paths)."""
    begun = time.perf_counter()
    for episode in episodes:
        batch.reset()
        for actions in episode:
            batch.step(actions)
    return (time.perf_counter() - begun) / episodes.size


def measure(task: str, blocks: int) -> None:
    env = gym.make(f"rlsuite/{task}-v0", disable_env_checker=True)
    grid, rng = env.unwrapped, np.random.default_rng(0)
    batches = [grid.batch(n) for n in PATHS]
    steps = grid.horizon - 1
    seconds = np.array(
        [
            [single(env, rng.integers(5, size=(5, steps)))]
            + [batched(batch, rng.integers(5, size=(5, steps, batch.n))) for batch in batches]
            for _ in range(blocks + 1)
        ]
    )[1:]  # the first is to warm up
    times = np.median(seconds[:, :1] / seconds, axis=0)
    columns = [f"{1e6 * s:9.3f} ({ratio:5.0f})" for s, ratio in zip(np.median(seconds, axis=0), times, strict=True)]
    print(f"{task:10}", *columns, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--tasks", nargs="+", default=["Coverage", "TwoRooms", "GP0", "Items0", "DDesign0"])
    args = parser.parse_args()
    heads = ["single", *(f"batch of {n}" for n in PATHS)]
    print("microseconds a step (times the single environment's rate)")
    print(f"{'task':10}", *(f"{head:>17}" for head in heads))
    for task in args.tasks:
        measure(task, args.blocks)


if __name__ == "__main__":
    main()
