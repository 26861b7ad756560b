"""Environment steps a second of training a behaviour policy: Stable-Baselines3's SAC, and the same on our kernels.

One thread, one gradient step an environment step, batch 256, hidden layers 256-256: SAC's defaults in both. They take
turns in blocks, so that a busy machine slows both; the ratio is the median over blocks.

    python benchmarks/speed/sac_training.py [--envs HalfCheetah-v5 Ant-v5] [--blocks 8] [--steps 400]
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded, so before the imports below

import numpy as np
import torch
from stable_baselines3 import SAC

from rlsuite.data.behaviour.sac import FastSAC


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--envs", nargs="+", default=["HalfCheetah-v5", "Ant-v5"], metavar="ID")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400, help="environment steps a block")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'environment':16} {'SB3 SAC/s':>10} {'ours/s':>8} {'ratio':>6}")
    for env_id in args.envs:
        plain = SAC("MlpPolicy", env_id, seed=0, learning_starts=1000, device="cpu")
        fused = {"optimizer_kwargs": {"fused": True}}
        ours = FastSAC("MlpPolicy", env_id, seed=0, learning_starts=1000, policy_kwargs=fused, device="cpu")
        rates: list[list[float]] = [[], []]
        for block in range(args.blocks + 1):
            for model, found in zip((plain, ours), rates, strict=True):
                start = time.perf_counter()
                steps = args.steps if block else 1300  # the first block fills the buffer and warms up
                model.learn(steps, reset_num_timesteps=False)
                if block:
                    found.append(steps / (time.perf_counter() - start))
        ratio = np.median(np.divide(rates[1], rates[0]))
        print(f"{env_id:16} {np.median(rates[0]):10.0f} {np.median(rates[1]):8.0f} {ratio:6.2f}", flush=True)


if __name__ == "__main__":
    main()
