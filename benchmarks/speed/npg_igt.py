"""Environment steps a second of N-PG-IGT and its relatives, learning included, beside the environment alone.

One thread, one copy of the environment, 1000 steps a batch. After each block of training the same episodes are played
again, seed by seed and action by action, in a plain loop over `gymnasium.make`, so that a busy machine slows both; "of
env" is our rate as a share of that one, the median over blocks. The second batch of a Hessian-vector product is as
large as the first, and counted. No evaluation, no files. "environment" is the share of our time that is spent inside
the environment, "acting" that of the rest of sampling, "learning" what is left.

    python benchmarks/speed/npg_igt.py [--blocks 7] [--tasks CartPole-v1 Hopper-v5]
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded, so before the imports below

import gymnasium as gym
import numpy as np
import torch

from rlsuite.algorithms.npg_igt import METHODS, Agent
from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.environments import TRAINING_SEEDS
from rlsuite.harness.run import Run
from rlsuite.harness.trajectories import Sampler, Trajectories, stream


class Clock:
    """Seconds spent in calls of functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            result = function(*arguments, **named)
            self.seconds += time.perf_counter() - begun
            return result

        return timed


class Recorded:
    """A sampler whose episodes are kept, with the number of the first of each batch."""

    def __init__(self, sampler: Sampler, inside: Clock, sampling: Clock) -> None:
        self.batches: list[tuple[int, Trajectories]] = []
        self.sampler, self.plain = sampler, sampling.watch(sampler.play)
        sampler.play = self.play  # type: ignore[method-assign]
        for name in ("step", "reset"):
            setattr(sampler.slots, name, inside.watch(getattr(sampler.slots, name)))

    def play(self, *arguments: Any) -> Trajectories:
        first = self.sampler.accepted
        batch: Trajectories = self.plain(*arguments)
        self.batches.append((first, batch))
        return batch

    def replay(self, env: gym.Env) -> int:
        """Play what was recorded again; gives the number of steps."""
        steps = 0
        for first, batch in self.batches:
            actions = iter(
                batch.actions if self.sampler.bounds is None else np.clip(batch.actions, *self.sampler.bounds)
            )
            for k, length in enumerate(batch.lengths.tolist()):
                env.reset(seed=int(stream(self.sampler.seeds, first + k).integers(TRAINING_SEEDS)))
                for _ in range(length):
                    env.step(next(actions))
            steps += len(batch)
        self.batches = []
        return steps


def measure(task: str, method: str, blocks: int) -> None:
    resolved = resolve(load_algorithm("npg_igt"), {"env": task, "method": method})
    run = Run(resolved, Path(tempfile.gettempdir()) / "npg-igt-writes-nothing")
    run.updates = resolved.config.total_steps
    config, env = resolved.config, gym.make(task, disable_env_checker=True)
    names = ("", "correction ") if METHODS[method].correction == "hessian" else ("",)
    inside, sampling = Clock(), Clock()
    samplers = [run.sampler(task, 1, config.horizon, name) for name in names]
    recorded = [Recorded(sampler, inside, sampling) for sampler in samplers]
    agent = Agent(config, samplers[0], samplers[1] if len(samplers) > 1 else None, run)
    for _ in range(2):  # warm
        agent.update()
    for part in recorded:
        part.replay(env)
    inside.seconds = sampling.seconds = total = 0.0
    rates, ratios = [], []
    for _ in range(blocks):
        begun = time.perf_counter()
        for _ in range(5):
            agent.update()
        ours = time.perf_counter() - begun
        total += ours
        begun = time.perf_counter()
        steps = sum(part.replay(env) for part in recorded)
        ratios.append((time.perf_counter() - begun) / ours)
        rates.append(steps / ours)
    shares = inside.seconds / total, (sampling.seconds - inside.seconds) / total, 1 - sampling.seconds / total
    told = ", ".join(
        f"{name} {share:.0%}" for name, share in zip(("environment", "acting", "learning"), shares, strict=True)
    )
    rate = float(np.median(rates))
    print(f"{task:14} {method:10} {rate:8.0f} {np.median(ratios):7.2f} {100_000 / rate:9.1f} s  {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--tasks", nargs="+", default=["CartPole-v1", "Hopper-v5"])
    parser.add_argument("--methods", nargs="+", default=["npg_igt", "nharpg"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'task':14} {'method':10} {'steps/s':>8} {'of env':>7} {'100k in':>11}")
    for task in args.tasks:
        for method in args.methods:
            measure(task, method, args.blocks)


if __name__ == "__main__":
    main()
