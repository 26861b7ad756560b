"""PRDC: Policy Regularization with Dataset Constraint for Offline Reinforcement Learning (Ran et al., ICML 2023,
arXiv 2306.06569).

TD3+BC pulls the policy towards the action taken in this very state, even where that action is poor. PRDC pulls the pair
(s, pi(s)) towards its nearest neighbour in the whole dataset, so a good action of a nearby state may be taken over:

    n    = argmin_i || (beta s, pi(s)) - (beta s_i, a_i) ||         (all i of the dataset, no gradient)
    L_pi = -lambda mean Q_1(s, pi(s)) + mean (pi(s) - a_n)^2        (mean over batch and action dimensions)
    lambda = alpha / mean |Q_1(s, pi(s))|                           (no gradient)

beta trades the state against the action: beta -> infinity is TD3+BC, beta = 0 any action of the dataset. Critics,
smoothing noise and targets are TD3's, those of td3_bc.py:

    y = r + gamma (1 - d) min_j Q'_j(s', clip(pi'(s') + eps, -a_max, a_max))
    L_Q = mean (Q_1(s, a) - y)^2 + mean (Q_2(s, a) - y)^2

Where states lie far apart the nearest neighbour is the sample itself and PRDC is TD3+BC; `own_fraction` says how often,
so read no PRDC result without it. The other diagnostics are `own_distance`, mean ||pi(s) - a||, and `d_beta`, the mean
distance to the neighbour, never more than the former.

The loss is the squared action error of the authors' code, not the norm of the paper: its gradient is that of half the
squared point-to-set distance, and the published alpha values belong to it. Departures from the authors' code: time-out
transitions are kept with their true successor; the normaliser is saved with the policy; the denominator of lambda is
clamped at 1e-6 (without effect in practice); `k` may be a mean of k neighbours (`k_mode`), theirs is the k-th.

    rlsuite train prdc --dataset rlsuite/hopper/medium-v0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlsuite.algorithms import td3_bc
from rlsuite.algorithms.td3_bc import TD3BC
from rlsuite.data.dataset import Batch, Dataset
from rlsuite.data.rewards import scaled_rewards
from rlsuite.harness.run import Run
from rlsuite.kernels.neighbours import NearestNeighbours


@dataclass(frozen=True)
class Config(td3_bc.Config):
    alpha: float = 2.5
    """weight of Q against the dataset constraint"""
    beta: float = 2.0
    """weight of the state against the action in the distance"""
    k: int = 1
    """which neighbour, or how many (see k_mode)"""
    k_mode: Literal["rank", "mean"] = "rank"
    """towards the k-th nearest pair's action (the authors' code), or the mean of the k nearest"""
    search: Literal["exact", "approximate"] = "exact"
    """nearest-neighbour search; the approximate one logs its recall"""
    reward_scale: float = 1.0
    """rewards become reward_scale * r + reward_shift"""
    reward_shift: float = 0.0
    """see reward_scale"""


# From the README of the authors' code (LAMDA-RL/PRDC); for AntMaze it gives medium-play only.
PRESETS: dict[str, dict[str, Any]] = {
    "*halfcheetah*": {"alpha": 40.0},
    "*antmaze*": {"alpha": 7.5, "beta": 7.5, "reward_scale": 10_000.0, "reward_shift": -1.0},
}


class PRDC(TD3BC):
    """TD3+BC with another update of the policy, and the index of the dataset's pairs."""

    config: Config

    def __init__(self, dataset: Dataset, config: Config, init: np.random.Generator, noise: np.random.Generator) -> None:
        super().__init__(dataset, config, init, noise)
        self.dataset_actions = dataset.actions
        self.neighbours = NearestNeighbours(
            dataset.observations,
            dataset.actions,
            config.beta,
            k=config.k,
            backend="auto" if config.search == "exact" else "approximate",
        )

    def update_actor(self, batch: Batch) -> dict[str, Tensor]:
        actions = self.actor(batch.observations)
        q = self.critic.q1_frozen(batch.observations, actions)
        scale = self.config.alpha / q.detach().abs().mean().clamp_min(1e-6)
        neighbours, _ = self.neighbours.query(batch.indices, actions.detach())
        constraint_loss = functional.mse_loss(actions, self.neighbour_actions(neighbours))
        loss = -scale * q.mean() + constraint_loss
        self.actor_optimizer.step(loss)
        return {
            "actor_loss": loss.detach(),
            "constraint_loss": constraint_loss.detach(),
            "q": q.detach().mean(),
            "lambda": scale,
        }

    def neighbour_actions(self, neighbours: Tensor) -> Tensor:
        """Rows of the k nearest pairs (B, k) -> the actions to be pulled towards (B, action_dim)."""
        if self.config.k_mode == "rank":
            return self.dataset_actions[neighbours[:, -1]]
        return self.dataset_actions[neighbours].mean(1)

    @torch.no_grad()
    def diagnose(self, batch: Batch) -> dict[str, Tensor | float]:
        """How far the policy is from the data, and whether the constraint says more than behavioural cloning would."""
        actions = self.actor(batch.observations)
        neighbours, distances = self.neighbours.query(batch.indices, actions)
        diagnosis: dict[str, Tensor | float] = {
            "own_fraction": (neighbours[:, 0] == batch.indices).float().mean(),
            "own_distance": (actions - batch.actions).norm(dim=1).mean(),
            "d_beta": distances[:, 0].mean(),
        }
        if self.config.search == "approximate":
            diagnosis["recall"] = self.neighbours.recall(batch.indices, actions)
        return diagnosis


def train(config: Config, run: Run) -> None:
    """Train PRDC on `config.dataset`."""
    dataset = run.dataset(config.dataset, config.dataset_steps, config.env)
    mean, std = dataset.observation_statistics()
    if config.normalize:
        dataset = dataset.normalized(mean, std)
    dataset = scaled_rewards(dataset, scale=config.reward_scale, shift=config.reward_shift)
    agent = PRDC(dataset, config, run.rng("init"), run.rng("target_noise"))
    if config.normalize:
        agent.actor.set_normalizer(mean, std)
    batches = dataset.batches(config.batch_size, run.rng("batches"))
    run.track(agent=agent, batches=batches)
    for _ in run.loop(config.updates, policy=agent.actor):
        batch = next(batches)
        metrics = agent.update(batch)
        run.log({**metrics, **agent.diagnose(batch)} if run.logging else metrics)


if __name__ == "__main__":
    from rlsuite.cli import run_file

    run_file(__file__)
