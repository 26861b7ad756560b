"""IQL: Offline Reinforcement Learning with Implicit Q-Learning (Kostrikov et al., ICLR 2022, arXiv 2110.06169).

No action outside the data is ever evaluated. V is an upper expectile of Q over the data's actions, in place of the
maximum; Q is backed up through V; and the policy clones the actions that Q prefers. With u the advantage,

    u = min_j Q'_j(s, a) - V(s)
    L_V = mean |expectile - 1[u < 0]| u^2
    y = r + gamma (1 - d) V(s')                                   (V before its step)
    L_Q = mean ((Q_1(s, a) - y)^2 + (Q_2(s, a) - y)^2) / 2
    L_pi = -mean min(exp(beta u), 100) log pi(a|s)

and at last the targets Q' move by tau. pi(.|s) = N(max_action tanh(.), diag(sigma^2)), its mean is played, and its
learning rate falls to zero along half a cosine. d = 1 only at true terminations.

Departures from the authors' code: observations are standardised, as CORL does; time-out transitions are kept with their
true successor; rewards are scaled by the returns of the true episodes (`scale_by_returns = official` finds them as
theirs does); log(sigma) is clipped at -5.

    rlsuite train iql --dataset rlsuite/hopper/medium-v0
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlsuite.data.dataset import Batch, Dataset
from rlsuite.data.rewards import scaled_rewards
from rlsuite.errors import UserError
from rlsuite.harness.networks import GaussianActor, TwinCritic
from rlsuite.harness.run import Run
from rlsuite.kernels.adam import Adam
from rlsuite.kernels.linear import MLP

MAX_WEIGHT = 100.0


@dataclass(frozen=True)
class Config:
    dataset: str
    """dataset to learn from: a name of `rlsuite data list`, a Minari id, or the path of an HDF5 or npz file"""
    dataset_steps: int = 0
    """use the first so many transitions; 0 for all"""
    env: str = ""
    """environment to evaluate in; the dataset's own if empty"""
    updates: int = 1_000_000
    """updates of values and policy"""
    batch_size: int = 256
    """transitions a batch"""
    expectile: float = 0.7
    """of Q over the data's actions that V estimates; 0.5 is the mean, 1 the maximum"""
    beta: float = 3.0
    """inverse temperature of the policy's weights; 0 is behavioural cloning"""
    gamma: float = 0.99
    """discount"""
    tau: float = 0.005
    """step of the targets towards the critics"""
    value_learning_rate: float = 3e-4
    """Adam"""
    critic_learning_rate: float = 3e-4
    """Adam"""
    actor_learning_rate: float = 3e-4
    """Adam; at the beginning"""
    hidden: tuple[int, ...] = (256, 256)
    """widths of the hidden layers of all networks"""
    normalize: bool = True
    """standardise observations by the dataset's mean and standard deviation"""
    scale_by_returns: Literal["no", "exact", "official"] = "no"
    """multiply rewards so that the best and the worst episode are 1000 apart; official: of episodes found as by D4RL"""
    reward_scale: float = 1.0
    """rewards become reward_scale * r + reward_shift, after the former"""
    reward_shift: float = 0.0
    """see reward_scale"""

    def __post_init__(self) -> None:
        if not 0 < self.expectile < 1:
            raise UserError(f"--expectile lies between 0 and 1, not at {self.expectile:g}.")


# The paper's, section 5.1 and appendix B.
SPARSE: dict[str, Any] = {"reward_shift": -1.0, "expectile": 0.9, "beta": 10.0}
PRESETS: dict[str, dict[str, Any]] = {
    "*hopper*": {"scale_by_returns": "exact"},
    "*halfcheetah*": {"scale_by_returns": "exact"},
    "*walker2d*": {"scale_by_returns": "exact"},
    "*antmaze*": SPARSE,
    "*pointmaze*": SPARSE,
}


class IQL:
    """Policy, value function, twin critics, their targets and optimisers."""

    def __init__(self, dataset: Dataset, config: Config, init: np.random.Generator) -> None:
        self.config = config
        s, a = dataset.observation_dim, dataset.action_dim
        self.actor = GaussianActor(s, a, dataset.max_action, config.hidden, True, init).to(dataset.device)
        self.critic = TwinCritic(s, a, config.hidden, init).to(dataset.device)
        self.value = MLP((dataset.observation_dim, *config.hidden, 1), init).to(dataset.device)
        self.target_critic = copy.deepcopy(self.critic)
        self.weights: list[Tensor] = list(self.critic.parameters())
        self.target_weights: list[Tensor] = list(self.target_critic.parameters())
        self.actor_optimizer = Adam(self.actor.parameters(), config.actor_learning_rate)
        self.critic_optimizer = Adam(self.weights, config.critic_learning_rate)
        self.value_optimizer = Adam(self.value.parameters(), config.value_learning_rate)
        self.updates = 0

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One update of V, of Q and of the policy, and of the targets."""
        with torch.no_grad():
            next_value = self.value(batch.next_observations).squeeze(1)
        advantage, metrics = self.update_value(batch)
        metrics |= self.update_critic(batch, next_value)
        metrics |= self.update_actor(batch, advantage)
        self.update_targets()
        self.updates += 1
        return metrics

    def update_value(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the advantages (B,) before the step, too."""
        with torch.no_grad():
            target = torch.minimum(*self.target_critic(batch.observations, batch.actions))
        value = self.value(batch.observations).squeeze(1)
        advantage = target - value
        loss = ((self.config.expectile - (advantage < 0).float()).abs() * advantage.square()).mean()
        self.value_optimizer.step(loss)
        return advantage.detach(), {"value_loss": loss.detach(), "value": value.detach().mean()}

    def update_critic(self, batch: Batch, next_value: Tensor) -> dict[str, Tensor]:
        target = batch.rewards + self.config.gamma * (1 - batch.terminations) * next_value
        q1, q2 = self.critic(batch.observations, batch.actions)
        loss = (functional.mse_loss(q1, target) + functional.mse_loss(q2, target)) / 2
        self.critic_optimizer.step(loss)
        return {"critic_loss": loss.detach()}

    def update_actor(self, batch: Batch, advantage: Tensor) -> dict[str, Tensor]:
        weight = (self.config.beta * advantage).exp().clamp_max(MAX_WEIGHT)
        loss = -(weight * self.actor.log_prob(batch.observations, batch.actions)).mean()
        progress = min(self.updates / self.config.updates, 1.0)
        self.actor_optimizer.learning_rate = self.config.actor_learning_rate * (1 + math.cos(math.pi * progress)) / 2
        self.actor_optimizer.step(loss)
        return {"actor_loss": loss.detach(), "weight": weight.mean()}

    @torch.no_grad()
    def update_targets(self) -> None:
        """w' <- w' + tau (w - w') for the critics."""
        torch._foreach_lerp_(self.target_weights, self.weights, self.config.tau)


def train(config: Config, run: Run) -> None:
    """Train IQL on `config.dataset`."""
    dataset = run.dataset(config.dataset, config.dataset_steps, config.env)
    dataset = scaled_rewards(dataset, config.scale_by_returns, config.reward_scale, config.reward_shift)
    agent = IQL(dataset, config, run.rng("init"))
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
