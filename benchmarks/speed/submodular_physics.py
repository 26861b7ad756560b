"""Environment steps a second of Ant coverage and car racing: copies of `gymnasium.make` beside the batched twins.

Random actions, a new episode where one ends, no learning; the contestants take turns in each block, and the medians
over the blocks are of CPU seconds, so that other work on the machine counts little.

    python benchmarks/speed/submodular_physics.py [--blocks 7] [--copies 1 8 64]
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded, so before the imports below

import mujoco
import numpy as np

from rlsuite.harness.environments import GymnasiumSlots
from rlsuite_envs.ant_coverage import AntCoverages
from rlsuite_envs.race_car import RaceCars

ANT, CAR = "rlsuite/AntCoverage-v0", "rlsuite/RaceCar-v0"
Play = Callable[[int], Any]


def player(slots: Any, n: int) -> Play:
    """Plays blocks of steps, the same in every contestant."""
    copies = list(range(n))
    rng = np.random.default_rng(0)
    slots.reset(copies, copies)

    def play(steps: int) -> None:
        actions = rng.uniform(-1, 1, (steps, n, slots.action_space.shape[0])).astype(np.float32)
        for action in actions:
            _, _, terminations, truncations, _ = slots.step(copies, action)
            ended = np.flatnonzero(np.asarray(terminations) | np.asarray(truncations)).tolist()
            if ended:
                slots.reset(ended, ended)

    return play


def measure(contestants: dict[str, Any], n: int, steps: int, blocks: int) -> dict[str, float]:
    """Steps a CPU second, of each."""
    plays = {name: player(slots, n) for name, slots in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in plays}
    for _ in range(blocks + 1):
        for name, play in plays.items():
            begun = time.process_time()
            play(steps)
            seconds[name].append(time.process_time() - begun)
    return {name: steps * n / float(np.median(spent[1:])) for name, spent in seconds.items()}  # the first warms up


def physics_share(n: int, steps: int) -> float:
    """The part of the time that is MuJoCo's, when n ants in the twin take `steps` steps."""
    inside, step = 0.0, mujoco.mj_step

    def timed(*arguments: Any, **named: Any) -> None:
        nonlocal inside
        begun = time.perf_counter()
        step(*arguments, **named)
        inside += time.perf_counter() - begun

    play = player(AntCoverages(n, 400), n)
    with patch.object(mujoco, "mj_step", timed):
        begun = time.perf_counter()
        play(steps)
    return inside / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 8, 64])
    args = parser.parse_args()
    print(f"{'task':24} {'copies':>6} {'gymnasium.make':>15} {'twin':>8} {'ratio':>7}")
    for task, twin in ((ANT, partial(AntCoverages, limit=400)), (CAR, partial(RaceCars, limit=700))):
        for n in args.copies:
            rates = measure({"make": GymnasiumSlots(task, n), "twin": twin(n)}, n, max(50, 2000 // n), args.blocks)
            ratio = rates["twin"] / rates["make"]
            print(f"{task:24} {n:6} {rates['make']:15.0f} {rates['twin']:8.0f} {ratio:7.2f}", flush=True)
    print(f"MuJoCo's part of the time of 8 ants in the twin: {physics_share(8, 250):.0%}")


if __name__ == "__main__":
    main()
