"""Updates per second of BC and TD3+BC, side by side with the plain way of writing TD3+BC and with the floor.

One thread, batch 256, hidden layers 256-256, HalfCheetah's shapes (17 observations, 6 actions), random data. "plain" is
the update as it is usually written (nn.Sequential, torch.optim.Adam, batches by NumPy, losses read back every step);
"floor" is the matrix products of a TD3+BC update alone, by the product that this machine uses. The ways take turns in
blocks, so that a busy machine slows all of them; the ratio is the median over blocks. Then the share of each stage.
PRDC is TD3+BC and a search whose cost depends on the data: prdc_search.py times that.

    python benchmarks/speed/offline_updates.py [--rows 200000] [--blocks 15] [--updates 60]
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import copy
import os
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded, so before the imports below

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rlsuite.algorithms import bc, td3_bc
from rlsuite.data.dataset import Dataset
from rlsuite.kernels.linear import backend, onednn

OBSERVATIONS, ACTIONS, HIDDEN, BATCH = 17, 6, 256, 256


def random_dataset(rows: int) -> Dataset:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape, np.float32))

    flags = torch.zeros(rows, dtype=torch.bool)
    bound = np.ones(ACTIONS, np.float32)
    return Dataset(
        normal(rows, OBSERVATIONS),
        normal(rows, ACTIONS).clamp_(-1, 1),
        normal(rows),
        normal(rows, OBSERVATIONS),
        flags,
        flags,
        torch.tensor([0]),
        action_low=-bound,
        action_high=bound,
    )


def ours(module: Any, kind: Any, dataset: Dataset) -> Callable[[], None]:
    streams = [np.random.default_rng(seed) for seed in range(1 if kind is bc.BC else 2)]
    agent = kind(dataset, module.Config("random"), *streams)
    batches = dataset.batches(BATCH, np.random.default_rng(2))

    def step() -> None:
        agent.update(next(batches))

    step.agent, step.batches = agent, batches  # type: ignore[attr-defined]
    return step


def plain(dataset: Dataset) -> Callable[[], None]:
    """TD3+BC as it is usually written."""

    def mlp(inputs: int, outputs: int, *last: nn.Module) -> nn.Sequential:
        layers = [nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(HIDDEN, outputs), *last)

    actor = mlp(OBSERVATIONS, ACTIONS, nn.Tanh())
    critics = [mlp(OBSERVATIONS + ACTIONS, 1) for _ in range(2)]
    target_actor, target_critics = copy.deepcopy((actor, critics))
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=3e-4)
    critic_optimizers = [torch.optim.Adam(critic.parameters(), lr=3e-4) for critic in critics]
    columns = [getattr(dataset, key) for key in ("observations", "actions", "rewards", "next_observations")]
    columns.append(dataset.terminations.float())
    columns = [column if column.ndim == 2 else column[:, None] for column in columns]
    updates = 0
    log: dict[str, float] = {}

    def step() -> None:
        nonlocal updates
        updates += 1
        rows = np.random.randint(0, len(dataset), size=BATCH)
        s, a, r, s2, d = (column[rows] for column in columns)
        with torch.no_grad():
            noise = (torch.randn_like(a) * 0.2).clamp(-0.5, 0.5)
            a2 = (target_actor(s2) + noise).clamp(-1, 1)
            q = torch.min(*(critic(torch.cat([s2, a2], 1)) for critic in target_critics))
            y = r + 0.99 * (1 - d) * q
        loss = torch.stack([functional.mse_loss(critic(torch.cat([s, a], 1)), y) for critic in critics]).sum()
        log["critic_loss"] = loss.item()
        for optimizer in critic_optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in critic_optimizers:
            optimizer.step()
        if updates % 2 == 0:
            pi = actor(s)
            q = critics[0](torch.cat([s, pi], 1))
            loss = -2.5 / q.abs().mean().detach() * q.mean() + functional.mse_loss(pi, a)
            log["actor_loss"] = loss.item()
            actor_optimizer.zero_grad()
            loss.backward()
            actor_optimizer.step()
            with torch.no_grad():
                for net, target in zip([actor, *critics], [target_actor, *target_critics], strict=True):
                    for w, w_target in zip(net.parameters(), target.parameters(), strict=True):
                        w_target.copy_(0.005 * w + 0.995 * w_target)

    return step


def floor() -> Callable[[], None]:
    """The products of two TD3+BC updates (one with the policy), no activations, no losses, no optimiser.

    Large ones of 256 x 256 x 256: targets 3, critics 2 forward and 4 backward; the policy's 5 every second update.
    Small ones of 256 x 23 x 256: targets 3, critics 2 forward and 2 backward; the policy's 4 every second update.
    """
    x, wide, weight, first = (
        torch.randn(n, m) for n, m in ((BATCH, 23), (BATCH, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 23))
    )
    product = onednn if backend() == "onednn" else functional.linear
    second = False

    def step() -> None:
        nonlocal second
        second = not second
        for _ in range(9 + 5 * second):
            product(wide, weight)
        for _ in range(7 + 4 * second):
            product(x, first)

    return step


def rate(step: Callable[[], None], updates: int) -> float:
    begun = time.perf_counter()
    for _ in range(updates):
        step()
    return updates / (time.perf_counter() - begun)


def stages(step: Any, updates: int) -> dict[str, float]:
    """Seconds in each stage of our TD3+BC."""
    agent, spent = step.agent, defaultdict(float)
    inner = {
        "targets": "target_value",
        "critic": "update_critic",
        "policy": "update_actor",
        "move targets": "update_targets",
    }

    def timed(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            begun = time.perf_counter()
            result = function(*arguments)
            spent[label] += time.perf_counter() - begun
            return result

        return call

    for label, name in inner.items():
        setattr(agent, name, timed(label, getattr(agent, name)))
    for _ in range(updates):
        begun = time.perf_counter()
        batch = next(step.batches)
        spent["batch"] += time.perf_counter() - begun
        agent.update(batch)
    for name in inner.values():
        delattr(agent, name)
    spent["critic"] -= spent["targets"]  # the target is computed inside
    return dict(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--updates", type=int, default=60, help="a block")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = random_dataset(arguments.rows)
    ways = {
        "plain TD3+BC": plain(dataset),
        "bc": ours(bc, bc.BC, dataset),
        "td3_bc": ours(td3_bc, td3_bc.TD3BC, dataset),
        "floor of TD3+BC": floor(),
    }
    for step in ways.values():
        rate(step, 20)
    blocks = np.array([[rate(step, arguments.updates) for step in ways.values()] for _ in range(arguments.blocks)])
    print(f"matrix product: {backend()}; {arguments.rows} rows; medians of {arguments.blocks} blocks")
    for i, name in enumerate(ways):
        ratio = np.median(blocks[:, i] / blocks[:, 0])
        print(f"{name:16} {np.median(blocks[:, i]):8.0f} updates/s   {ratio:5.2f} x plain TD3+BC")
    spent = stages(ways["td3_bc"], 10 * arguments.updates)
    total = sum(spent.values())
    print("td3_bc by stage:", ", ".join(f"{label} {100 * seconds / total:.0f} %" for label, seconds in spent.items()))


if __name__ == "__main__":
    main()
