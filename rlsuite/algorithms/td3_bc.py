"""TD3+BC: A Minimalist Approach to Offline Reinforcement Learning (Fujimoto and Gu, NeurIPS 2021, arXiv 2106.06860).

TD3 with one more term: the policy is pulled towards the action that the dataset took in the same state, and the scale
of Q is taken out so that one weight alpha serves all tasks.

Critics, both on the same target, with smoothing noise eps ~ a_max clip(N(0, policy_noise^2), -noise_clip, noise_clip):

    y = r + gamma (1 - d) min_j Q'_j(s', clip(pi'(s') + eps, -a_max, a_max))
    L_Q = mean (Q_1(s, a) - y)^2 + mean (Q_2(s, a) - y)^2

Policy, every `policy_freq` updates, after which all targets move by tau:

    lambda = alpha / mean |Q_1(s, pi(s))|                       (no gradient)
    L_pi = -lambda mean Q_1(s, pi(s)) + mean (pi(s) - a)^2      (mean over batch and action dimensions)

d = 1 only at true terminations. Departures from the authors' code: time-out transitions are kept with their true
successor; the denominator of lambda is clamped at 1e-6 (without effect in practice).

    rlsuite train td3_bc --dataset rlsuite/hopper/medium-v0
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlsuite.data.dataset import Batch, Dataset
from rlsuite.harness.networks import DeterministicActor, TwinCritic
from rlsuite.harness.run import Run
from rlsuite.kernels.adam import Adam


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
    """weight of Q against the pull towards the dataset's action"""
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


class TD3BC:
    """Policy, twin critics, their targets and optimisers."""

    def __init__(self, dataset: Dataset, config: Config, init: np.random.Generator, noise: np.random.Generator) -> None:
        self.config, self.noise = config, noise
        s, a = dataset.observation_dim, dataset.action_dim
        self.max_action = dataset.max_action
        self.actor = DeterministicActor(s, a, self.max_action, config.hidden, init).to(dataset.device)
        self.critic = TwinCritic(s, a, config.hidden, init).to(dataset.device)
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
        bc_loss = functional.mse_loss(actions, batch.actions)
        loss = -scale * q.mean() + bc_loss
        self.actor_optimizer.step(loss)
        return {"actor_loss": loss.detach(), "bc_loss": bc_loss.detach(), "q": q.detach().mean(), "lambda": scale}

    @torch.no_grad()
    def update_targets(self) -> None:
        """w' <- w' + tau (w - w') for policy and critics."""
        torch._foreach_lerp_(self.target_weights, self.weights, self.config.tau)


def train(config: Config, run: Run) -> None:
    """Train TD3+BC on `config.dataset`."""
    dataset = run.dataset(config.dataset, config.dataset_steps, config.env)
    agent = TD3BC(dataset, config, run.rng("init"), run.rng("target_noise"))
    if config.normalize:
        agent.actor.set_normalizer(*dataset.observation_statistics())
        dataset = dataset.normalized(agent.actor.mean, agent.actor.std)
    batches = dataset.batches(config.batch_size, run.rng("batches"))
    run.track(agent=agent, batches=batches)
    for _ in run.loop(config.updates, policy=agent.actor):
        run.log(agent.update(next(batches)))


if __name__ == "__main__":
    from rlsuite.cli import run_file

    run_file(__file__)
