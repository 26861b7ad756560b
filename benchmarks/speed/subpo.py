"""Seconds of whole runs of SubPO, learning included, and what is gained by runs side by side.

A run on rlsuite/GP0-v0 is 140 epochs of 500 paths with 39 decisions, 2.73 million environment steps. One thread; no
evaluation, no files. Timed are blocks of epochs, in which the variants take turns, so that a busy machine slows all
alike; a run is the median block times the number of blocks. "acting" is the share spent in the policy while paths are
sampled, "environment" that in the batched environment, "learning" that after the paths are there. "side by side" trains
several seeds in one process; its ratio is the time of as many runs, one after another, to its own.

    python benchmarks/speed/subpo.py [--blocks 7] [--epochs 10]
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded, so before the imports below

import numpy as np
import torch

from rlsuite.algorithms.subpo import SubPO
from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.environments import make_env
from rlsuite.harness.seeding import Streams

VARIANTS: dict[str, dict[str, Any]] = {
    "M": {},
    "M official": {"profile": "official"},
    "NM": {"policy": "NM"},
    "NM official": {"policy": "NM", "profile": "official"},
    "ModPO official": {"reward": "mod", "profile": "official"},
    "GRU": {"policy": "GRU"},
    "M npg": {"step": "npg"},
}


class Variant:
    """A learner whose epochs are timed, and the calls in it."""

    def __init__(self, env_id: str, settings: dict[str, Any], runs: int) -> None:
        config = resolve(load_algorithm("subpo"), {"env": env_id, **settings}).config
        grid: Any = make_env(env_id).unwrapped
        self.agent = SubPO([grid] * runs, config, [Streams(seed) for seed in range(runs)])
        self.steps = config.paths * (grid.horizon - 1)
        self.epochs = config.total_steps // self.steps
        self.inside = self.playing = 0.0
        self.blocks: list[float] = []
        for twin in self.agent.twins:
            twin.step = self.watch(twin.step, "inside")
        self.agent.play = self.watch(self.agent.play, "playing")  # type: ignore[method-assign]
        self.agent.update()

    def watch(self, function: Callable[..., Any], clock: str) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            begun = time.perf_counter()
            result = function(*arguments)
            setattr(self, clock, getattr(self, clock) + time.perf_counter() - begun)
            return result

        return timed

    def block(self, epochs: int) -> None:
        begun = time.perf_counter()
        for _ in range(epochs):
            self.agent.update()
        self.blocks.append((time.perf_counter() - begun) / epochs)

    @property
    def seconds(self) -> float:
        """Of a whole run, or of all that are side by side."""
        return float(np.median(self.blocks)) * self.epochs

    def shares(self, epochs: int) -> tuple[float, float, float]:
        total = sum(self.blocks) * epochs
        return self.inside / total, (self.playing - self.inside) / total, 1 - self.playing / total


def measure(env_id: str, blocks: int, epochs: int) -> None:
    variants = {name: Variant(env_id, settings, 1) for name, settings in VARIANTS.items()}
    for variant in variants.values():
        variant.inside = variant.playing = 0.0
    for _ in range(blocks):
        for name, variant in variants.items():
            variant.block(2 if name in ("GRU", "M npg") else epochs)
    for name, variant in variants.items():
        parts = variant.shares(2 if name in ("GRU", "M npg") else epochs)
        told = ", ".join(f"{k} {v:.0%}" for k, v in zip(("environment", "acting", "learning"), parts, strict=True))
        rate = variant.steps * variant.epochs / variant.seconds
        print(f"{env_id:20} {name:15} {variant.seconds:7.1f} {rate / 1e3:9.0f}  {told}", flush=True)


def side_by_side(env_id: str, settings: dict[str, Any], blocks: int, epochs: int) -> None:
    variants = {runs: Variant(env_id, settings, runs) for runs in (1, 3, 5, 10)}
    for _ in range(blocks):
        for variant in variants.values():
            variant.block(epochs)
    one = variants[1].seconds
    told = ", ".join(f"{runs}: {runs * one / v.seconds:.2f}" for runs, v in variants.items() if runs > 1)
    print(f"{env_id:20} {settings}  {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'task':20} {'variant':15} {'run, s':>7} {'ksteps/s':>9}")
    for env_id in ("rlsuite/GP0-v0", "rlsuite/Items0-v0", "rlsuite/TwoRooms-v0"):
        measure(env_id, args.blocks, args.epochs if "Two" not in env_id else 3)
    print("\nside by side, ratio to as many runs one after another")
    for paths in (500, 50, 10):
        for policy in ("M", "NM"):
            side_by_side("rlsuite/GP0-v0", {"policy": policy, "paths": paths}, args.blocks, 3)


if __name__ == "__main__":
    main()
