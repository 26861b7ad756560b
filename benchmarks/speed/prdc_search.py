"""Times PRDC's nearest-neighbour search against the authors' way, side by side, in the four regimes of the policy.

Data: rollouts of the simulator, standardised. Without --actor the behaviour is a set of noisy random gaits (a sine wave
a joint, parameters redrawn every 250 steps), so the script needs nothing but the package; --actor and --other take
actors written by rlsuite/data/behaviour/train.py. Queries are the states of random rows with the actions

    near       the row's own action + 0.1 noise
    mid        the row's own action + 0.4 noise
    other      what another policy would do there
    saturated  random corners of the action box

The authors' way is scipy.spatial.KDTree as it comes, on float32 keys, queried with k=[1]. Times are CPU milliseconds a
batch on one thread, medians over --repeats batches. "first" is the first visit of a row and "later" the fourth and
fifth, when the own-sample certificate knows it; "run" is their mean over the 128 visits that a row gets in 1,000,000
updates on 1,000,000 rows, with the third visit, which learns. "updates" estimates the ratio of whole updates per second
from --network, the milliseconds that everything but the search takes for two updates in the authors' code and in ours.

    python benchmarks/speed/prdc_search.py                               # 1,000,000 x (17 + 6): about four minutes
    python benchmarks/speed/prdc_search.py --shape hopper --rows 200000
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded, so before the imports below

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from rlsuite.harness.environments import make_env
from rlsuite.kernels.neighbours import NearestNeighbours

ENVIRONMENTS = {"halfcheetah": "HalfCheetah-v5", "hopper": "Hopper-v5"}
REGIMES = ("near", "mid", "other", "saturated")
BETA = 2.0
VISITS = 128
Policy = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]  # observations (B, o), steps (B,) -> actions (B, a)


def actor_policy(path: Path) -> Policy:
    """The mean action of a stored actor: ReLU layers w0, b0, ..., the last one giving [mean | log_std]."""
    with np.load(path, allow_pickle=False) as arrays:
        layers = [(arrays[f"w{i}"].astype(float), arrays[f"b{i}"].astype(float)) for i in range(len(arrays.files) // 2)]

    def policy(observations: NDArray[Any], steps: NDArray[Any]) -> NDArray[Any]:
        x = observations
        for weight, bias in layers[:-1]:
            x = np.maximum(x @ weight.T + bias, 0)
        weight, bias = layers[-1]
        return np.asarray(np.tanh((x @ weight.T + bias)[..., : len(bias) // 2]))

    return policy


def gait_policy(action_dim: int, seed: int) -> Policy:
    """Sine waves whose frequencies, phases and gains are redrawn every 250 steps."""
    rng = np.random.default_rng(seed)
    gaits = 8192
    frequency = rng.uniform(0.15, 0.6, (gaits, 1))
    phase = rng.uniform(0, 2 * np.pi, (gaits, action_dim))
    gain = rng.uniform(0.5, 2.5, (gaits, action_dim))

    def policy(observations: NDArray[Any], steps: NDArray[Any]) -> NDArray[Any]:
        which = steps // 250 % gaits
        return np.asarray(np.tanh(gain[which] * np.sin(frequency[which] * steps[..., None] + phase[which])))

    return policy


def rollout(environment: str, policy: Policy, rows: int, noise: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Observations (rows, o) and noisy actions (rows, a), from fixed seeds."""
    env = make_env(environment)
    rng = np.random.default_rng(0)
    assert isinstance(env.action_space, gym.spaces.Box) and env.observation_space.shape
    observations = np.empty((rows, *env.observation_space.shape), np.float32)
    actions = np.empty((rows, *env.action_space.shape), np.float32)
    observation, _ = env.reset(seed=0)
    for t in range(rows):
        clean = policy(observation, np.asarray(t))
        observations[t] = observation
        actions[t] = np.clip(clean + noise * rng.standard_normal(clean.shape), -1, 1)
        observation, _, terminated, truncated, _ = env.step(actions[t])
        if terminated or truncated:
            observation, _ = env.reset()
    env.close()
    return observations, actions


def cpu_ms(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return 1e3 * (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=ENVIRONMENTS, default="halfcheetah")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9, help="batches a regime (authors' way: a third of them)")
    parser.add_argument("--noise", type=float, default=0.1, help="behaviour noise added to every action")
    parser.add_argument("--probes", type=int, default=32, help="cells a query in approximate mode")
    parser.add_argument("--actor", type=Path, help="actor file of the behaviour policy")
    parser.add_argument("--other", type=Path, help='actor file of the "other" policy')
    parser.add_argument("--network", type=float, nargs=2, default=(13.0, 7.0), metavar=("AUTHORS", "OURS"))
    parser.add_argument("--out", type=Path, help="write the table as CSV")
    args = parser.parse_args()
    torch.set_num_threads(1)

    environment = ENVIRONMENTS[args.shape]
    action_dim = {"halfcheetah": 6, "hopper": 3}[args.shape]
    behaviour = actor_policy(args.actor) if args.actor else gait_policy(action_dim, seed=0)
    other = actor_policy(args.other) if args.other else gait_policy(action_dim, seed=1)
    print(f"rolling out {args.rows:,} steps of {environment} ...", flush=True)
    raw, taken = rollout(environment, behaviour, args.rows, args.noise)
    observations = torch.from_numpy((raw - raw.mean(0)) / (raw.std(0) + 1e-3))
    actions = torch.from_numpy(taken)
    keys = torch.cat([BETA * observations, actions], 1).numpy()
    rng = np.random.default_rng(1)

    def ask(regime: str, rows: NDArray[Any]) -> Tensor:
        noise = rng.standard_normal((len(rows), action_dim))
        if regime == "saturated":
            return torch.from_numpy(np.where(noise < 0, -1, 1).astype(np.float32))
        if regime == "other":
            return torch.from_numpy(other(raw[rows], rows).astype(np.float32))
        return torch.from_numpy(np.clip(taken[rows] + {"near": 0.1, "mid": 0.4}[regime] * noise, -1, 1)).float()

    start = time.process_time()
    tree = KDTree(keys)
    print(f"building: authors' tree {time.process_time() - start:.1f} s", end="")
    search = {}
    for backend in ("cells", "brute", "approximate"):
        start = time.process_time()
        search[backend] = NearestNeighbours(observations, actions, BETA, backend=backend, probes=args.probes)
        print(f", {backend} {time.process_time() - start:.1f} s", end="")
    print(flush=True)

    table = []
    for regime in REGIMES:
        batches = [rng.integers(0, args.rows, args.batch) for _ in range(args.repeats)]
        cells: list[list[float]] = []
        for _ in range(5):
            asked = [(torch.from_numpy(rows), ask(regime, rows)) for rows in batches]
            cells.append([cpu_ms(lambda pair=pair: search["cells"].query(*pair)) for pair in asked])  # type: ignore[misc]
        scanned, certified = search["cells"].scanned, search["cells"].certified
        few = asked[: max(1, args.repeats // 3)]
        points = [np.concatenate([keys[rows.numpy(), :-action_dim], wanted], 1) for rows, wanted in few]
        authors = float(np.median([cpu_ms(lambda x=x: tree.query(x, k=[1])) for x in points]))  # type: ignore[misc]
        brute = float(np.median([cpu_ms(lambda pair=pair: search["brute"].query(*pair)) for pair in few]))  # type: ignore[misc]
        approximate = [cpu_ms(lambda pair=pair: search["approximate"].query(*pair)) for pair in asked]  # type: ignore[misc]
        for (rows, wanted), x in zip(few, points, strict=True):
            found, distance = search["cells"].query(rows, wanted)
            np.testing.assert_allclose(distance, tree.query(x, k=[1])[0], rtol=1e-5, atol=1e-6)
            assert all(
                torch.equal(a, b) for a, b in zip(search["brute"].query(rows, wanted), (found, distance), strict=True)
            )
        first, learning, later = (float(np.median(cells[i:j])) for i, j in ((0, 1), (2, 3), (3, 5)))
        run = (2 * first + learning + (VISITS - 3) * later) / VISITS
        table.append(
            {
                "regime": regime,
                "|pi-a|": float(np.mean([(p - actions[rows]).norm(dim=1).mean() for rows, p in asked])),
                "own": float((found[:, 0] == rows).float().mean()),
                "certified": certified,
                "scanned": scanned,
                "authors": authors,
                "brute": brute,
                "first": first,
                "later": later,
                "run": run,
                "ratio": authors / run,
                "approximate": float(np.median(approximate)),
                "recall": float(np.mean([search["approximate"].recall(*pair) for pair in few])),
                "updates": (args.network[0] + authors) / (args.network[1] + run),
                "updates/s": 2e3 / (args.network[1] + run),
            }
        )
        if regime == REGIMES[0]:
            print(" | ".join(f"{column:>9}" for column in table[0]))
        values = table[-1].values()
        print(
            " | ".join(f"{v:>9}" if isinstance(v, str) else f"{v:9.{3 if v < 1 else 1}f}" for v in values), flush=True
        )
    if args.out:
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, table[0])
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
