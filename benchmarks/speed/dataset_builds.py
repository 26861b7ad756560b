"""Building datasets: steps a second of `rlsuite data make`, beside plain Gymnasium stepping on the same cores.

"plain" is what a loop over `env.step` reaches with the recipe's behaviours in NumPy and nothing stored: one process a
core, all at once, each behaviour for the same number of steps, resets included, start-up not. The build has as many
processes and does everything: start-up, episodes into one Minari file, hashes. They take turns in one run, plain before
and after; the ratio is that of the build to the mean of both. Also the largest memory that the building process had.

    python benchmarks/speed/dataset_builds.py [--recipes rlsuite/hopper/medium-v0 ...] [--steps 1000000] [--jobs 4]
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded, so before the imports below

import gymnasium as gym
import numpy as np

from rlsuite.data.recipes import RECIPES, Recipe
from rlsuite.data.rollout import make_policy

RECIPE_IDS = [f"rlsuite/hopper/{level}-v0" for level in ("random", "medium", "medium-replay", "expert")]
RECIPE_IDS += ["rlsuite/halfcheetah/medium-v0", "rlsuite/ant/medium-v0", "rlsuite/pointmaze/large-v0"]


def step_plainly(recipe: Recipe, seconds: float, seed: int) -> float:
    """Steps a second of one process."""
    env = gym.make(recipe.env_id, max_episode_steps=recipe.episode_steps)
    policies = [make_policy(behaviour, env) for behaviour in recipe.behaviours]
    rng = np.random.default_rng(seed)
    total, rates = 0, []
    for policy in policies:
        steps, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds / len(policies):
            observation, _ = env.reset(seed=int(rng.integers(2**31)), options=policy.begin(env, rng))
            done = False
            while not done:
                observation, _, terminated, truncated, _ = env.step(policy.act(observation))
                done = terminated or truncated
                steps += 1
        rates.append(steps / spent)
        total += steps
    return len(rates) / sum(1 / rate for rate in rates)


def plain(recipe: Recipe, jobs: int, seconds: float) -> float:
    """Steps a second of `jobs` processes at once."""
    command = [sys.executable, __file__, "--plain", recipe.id, str(seconds)]
    processes = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
        for seed in range(jobs)
    ]
    return sum(float(process.communicate()[0]) for process in processes)


BUILD = """
import resource, sys, time
start = time.perf_counter()
from rlsuite.data import recipes
recipe = recipes.RECIPES[sys.argv[1]]
recipes.build(recipe, int(sys.argv[2]), jobs=int(sys.argv[3]))
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def build(recipe: Recipe, steps: int, jobs: int) -> tuple[float, float]:
    """Seconds from the start of a new process to the end, and the MiB that this process needed at most."""
    with tempfile.TemporaryDirectory() as folder:
        answer = subprocess.run(
            [sys.executable, "-c", BUILD, recipe.id, str(steps), str(jobs)],
            env={**os.environ, "MINARI_DATASETS_PATH": folder},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
    seconds, memory = map(float, answer.split())
    return seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipes", nargs="+", default=RECIPE_IDS, choices=sorted(RECIPES), metavar="NAME")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: all CPUs)")
    parser.add_argument("--seconds", type=float, default=8, help="of each plain measurement")
    parser.add_argument("--plain", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        print(step_plainly(RECIPES[args.plain[0]], float(args.plain[1]), int(args.plain[2])))
        return
    print(f"{args.steps:,} steps, {args.jobs} processes")
    print(f"{'recipe':34} {'plain/s':>9} {'build/s':>9} {'ratio':>6} {'seconds':>8} {'MiB':>6}")
    for name in args.recipes:
        recipe = RECIPES[name]
        before = plain(recipe, args.jobs, args.seconds)
        seconds, memory = build(recipe, args.steps, args.jobs)
        rate = (before + plain(recipe, args.jobs, args.seconds)) / 2
        built = args.steps / seconds
        print(f"{name:34} {rate:9,.0f} {built:9,.0f} {built / rate:6.2f} {seconds:8.1f} {memory:6.0f}", flush=True)


if __name__ == "__main__":
    main()
