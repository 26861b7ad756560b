"""PRDC: Policy Regularization with Dataset Constraint for Offline Reinforcement Learning (Ran et al., ICML 2023,
arXiv 2306.06569).

TD3+BC pulls the policy towards the action taken in this very state, even where that action is poor. PRDC pulls the pair
(s, pi(s)) towards its nearest neighbour in the whole dataset, so a good action of a nearby state may be taken over:

    n    = argmin_i || (beta s, pi(s)) - (beta s_i, a_i) ||         (all i of the dataset, no gradient)
    L_pi = -lambda mean Q_1(s, pi(s)) + mean (pi(s) - a_n)^2        (mean over batch and action dimensions)
    lambda = alpha / mean |Q_1(s, pi(s))|                           (no gradient)

beta trades the state against the action: beta -> infinity is TD3+BC, beta = 0 any action of the dataset. Critics,
smoothing noise and targets are TD3's, as in td3_bc.py:

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

import copy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlsuite.data.dataset import Batch, Dataset
from rlsuite.data.rewards import scaled_rewards
from rlsuite.harness.networks import DeterministicActor, TwinCritic
from rlsuite.harness.run import Run
from rlsuite.kernels.adam import Adam
from rlsuite.kernels.neighbours import NearestNeighbours


@dataclass(frozen=True)
class Config:
    dataset: str
    """dataset to learn from: a name of `rlsuite data list`, a Minari id, or the path of an HDF5 or npz file"""
    dataset_steps: int = 0
    """use the first so many transitions; 0 for all"""
    env: str = ""
    """environment to evaluate in; the dataset's own if empty"""
    updates: int = 1_000_000
    """critic updates"""
    batch_size: int = 256
    """transitions a batch"""
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
    gamma: float = 0.99
    """discount"""
    tau: float = 0.005
    """step of the targets towards the networks"""
    policy_noise: float = 0.2
    """standard deviation of the target policy's smoothing noise, in units of the action bound"""
    noise_clip: float = 0.5
    """largest smoothing noise, in units of the action bound"""
    policy_freq: int = 2
    """critic updates for one update of policy and targets"""
    actor_learning_rate: float = 3e-4
    """Adam"""
    critic_learning_rate: float = 3e-4
    """Adam"""
    hidden: tuple[int, ...] = (256, 256)
    """widths of the hidden layers of policy and critics"""
    normalize: bool = True
    """standardise observations by the dataset's mean and standard deviation"""
    reward_scale: float = 1.0
    """rewards become reward_scale * r + reward_shift"""
    reward_shift: float = 0.0
    """see reward_scale"""


# From the README of the authors' code (LAMDA-RL/PRDC); for AntMaze it gives medium-play only.
PRESETS: dict[str, dict[str, Any]] = {
    "*halfcheetah*": {"alpha": 40.0},
    "*antmaze*": {"alpha": 7.5, "beta": 7.5, "reward_scale": 10_000.0, "reward_shift": -1.0},
}


class PRDC:
    """Policy, twin critics, their targets and optimisers, and the index of the dataset's pairs."""

    def __init__(self, dataset: Dataset, config: Config, init: np.random.Generator, noise: np.random.Generator) -> None:
        self.config, self.noise = config, noise
        self.dataset_actions = dataset.actions
        self.neighbours = NearestNeighbours(
            dataset.observations,
            dataset.actions,
            config.beta,
            k=config.k,
            backend="auto" if config.search == "exact" else "approximate",
        )
        sizes = dataset.observation_dim, dataset.action_dim
        self.max_action = dataset.max_action
        self.actor = DeterministicActor(*sizes, self.max_action, config.hidden, init).to(dataset.device)
        self.critic = TwinCritic(*sizes, config.hidden, init).to(dataset.device)
        self.target_actor, self.target_critic = copy.deepcopy((self.actor, self.critic))
        self.weights: list[Tensor] = [*self.actor.parameters(), *self.critic.parameters()]
        self.target_weights: list[Tensor] = [*self.target_actor.parameters(), *self.target_critic.parameters()]
        self.actor_optimizer = Adam(self.actor.parameters(), config.actor_learning_rate)
        self.critic_optimizer = Adam(self.critic.parameters(), config.critic_learning_rate)
        self.updates = 0

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One critic update and, every `policy_freq` calls, one of the policy and the targets."""
        self.updates += 1
        metrics = self.update_critic(batch)
        if self.updates % self.config.policy_freq == 0:
            metrics |= self.update_actor(batch)
            self.update_targets()
        return metrics

    def update_critic(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            target = self.target_value(batch)
        q1, q2 = self.critic(batch.observations, batch.actions)
        loss = functional.mse_loss(q1, target) + functional.mse_loss(q2, target)
        self.critic_optimizer.step(loss)
        return {"critic_loss": loss.detach()}

    def target_value(self, batch: Batch) -> Tensor:
        """y, (B,)."""
        c, bound = self.config, self.max_action
        noise = torch.from_numpy(self.noise.standard_normal(batch.actions.shape, np.float32)).to(batch.actions.device)
        noise = (noise * (c.policy_noise * bound)).clamp_(-c.noise_clip * bound, c.noise_clip * bound)
        next_actions = (self.target_actor(batch.next_observations) + noise).clamp_(-bound, bound)
        next_value = torch.minimum(*self.target_critic(batch.next_observations, next_actions))
        return batch.rewards + c.gamma * (1 - batch.terminations) * next_value

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

    @torch.no_grad()
    def update_targets(self) -> None:
        """w' <- w' + tau (w - w') for policy and critics."""
        torch._foreach_lerp_(self.target_weights, self.weights, self.config.tau)


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
