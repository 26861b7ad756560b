"""PPO: Proximal Policy Optimization Algorithms (Schulman et al., 2017, arXiv 1707.06347).

Collect a rollout with the policy, estimate advantages, and climb a surrogate that stops paying once the probability of
an action has moved by more than `clip`:

    delta_t = r_t + gamma (1 - d_t) V(s_{t+1}) - V(s_t)
    A_t = delta_t + gamma lambda (1 - e_t) A_{t+1}                              (GAE, arXiv 1506.02438)
    q = pi(a|s) / pi_old(a|s)
    L = mean max(-A q, -A clip(q, 1 - clip, 1 + clip)) - ent mean H(pi) + vf L_V
    L_V = 1/2 mean max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2),   R = A + V_old

d = 1 only at true terminations, e = 1 wherever an episode ends. At a time limit V is that of the true last observation
(`--no-bootstrap-truncated` counts it as a termination, as CleanRL does). Advantages are standardised in each minibatch.
Observations and rewards are scaled by running moments; a rollout is stored raw and scaled as a whole at the update.

Continuous actions: a Gaussian with a state-independent log standard deviation, clipped to the bounds on the way to the
environment. Discrete ones: a categorical distribution. Pictures: the network of Mnih et al. (2015), shared by policy
and value. The gradient of small networks on a CPU is written out (`gradient`), and equals that of `loss` through
autograd (a test holds that); it takes a quarter of the time.

    rlsuite train ppo --env HalfCheetah-v5
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlsuite.errors import UserError
from rlsuite.harness.environments import Environments
from rlsuite.harness.networks import ActorCritic
from rlsuite.harness.rollouts import RewardScaler, Rollout, collect
from rlsuite.harness.run import Run
from rlsuite.kernels.adam import Adam, clip_norm
from rlsuite.kernels.distributions import Gaussian
from rlsuite.kernels.tanh_mlp import backward, forward

Array = np.ndarray


@dataclass(frozen=True)
class Config:
    env: str
    """environment: a Gymnasium id, ale-machado/Game or ale-dqn/Game"""
    total_steps: int = 1_000_000
    """environment steps, over all copies"""
    n_envs: int = 1
    """copies of the environment"""
    rollout_steps: int = 2048
    """environment steps of a rollout, over all copies"""
    learning_rate: float = 3e-4
    """Adam"""
    anneal: bool = True
    """let the learning rate fall linearly to 0"""
    anneal_steps: int = 0
    """where it is 0, so that a part of a longer run can be run; 0 for total_steps"""
    epochs: int = 10
    """passes over a rollout"""
    minibatches: int = 32
    """gradient steps a pass"""
    gamma: float = 0.99
    """discount"""
    gae_lambda: float = 0.95
    """decay of the advantage estimator"""
    clip: float = 0.2
    """how far the probability ratio may move"""
    clip_value: bool = True
    """clip the value function's move too"""
    entropy_weight: float = 0.0
    """ent, weight of the entropy bonus"""
    value_weight: float = 0.5
    """vf, weight of the value loss"""
    max_gradient_norm: float = 0.5
    """Euclidean norm of the whole gradient, clipped"""
    kl_stop: float = 0.0
    """end the update before the step at which the estimated KL divergence from the old policy is larger; 0 for never"""
    bootstrap_truncated: bool = True
    """value what follows a time limit; without it a time limit counts as a termination"""
    hidden: tuple[int, ...] = (64, 64)
    """widths of the hidden layers of policy and value, which share none; without meaning for pictures"""
    mean_tanh: bool = False
    """tanh on the mean of continuous actions"""
    normalize_observations: bool = True
    """scale observations by their running moments; without meaning for pictures"""
    normalize_rewards: bool = True
    """scale rewards by the running deviation of the discounted return"""
    adam_epsilon: float = 1e-5
    """Adam"""
    stochastic: bool = False
    """evaluate discrete policies with sampled actions"""


# Values of unscaled rewards move by more than `clip`.
UNSCALED = {"normalize_observations": False, "normalize_rewards": False, "clip_value": False, "eval_every": 10_000}
EVERY = {"eval_every": 50_000, "log_every": 10_000, "checkpoint_every": 100_000}
ATARI: dict[str, Any] = {
    "total_steps": 10_000_000,
    "n_envs": 8,
    "rollout_steps": 1024,
    "learning_rate": 2.5e-4,
    "epochs": 4,
    "minibatches": 4,
    "clip": 0.1,
    "entropy_weight": 0.01,
    "normalize_rewards": False,
    "stochastic": True,
    "eval_every": 500_000,
    "final_episodes": 30,
}
PRESETS: dict[str, dict[str, Any]] = {"*": EVERY, "cartpole*": UNSCALED, "acrobot*": UNSCALED, "ale-*": ATARI}


T = TypeVar("T", Array, Tensor)


class Batch(NamedTuple, Generic[T]):
    """Transitions as the loss sees them: prepared observations (B, ...), actions (B, ...), the rest (B,)."""

    observations: T
    actions: T
    log_probs: T  # of the policy that the update begins with
    values: T
    advantages: T
    returns: T


class PPO:
    """Policy, value function, optimiser and reward scale."""

    def __init__(self, envs: Environments, config: Config, run: Run) -> None:
        self.config, self.device = config, run.device
        self.noise, self.shuffle = run.rng("actions"), run.rng("minibatches")
        self.policy = make_policy(envs, config, run.rng("init")).to_device(run.device)
        flat = self.policy.flat
        learnt = self.policy.learnt if flat is None else [flat.values]
        self.optimizer = Adam(learnt, config.learning_rate, config.adam_epsilon)
        self.scaler = RewardScaler(envs.n, config.gamma) if config.normalize_rewards else None
        self.minibatch = config.rollout_steps // config.minibatches
        self.updates = 0

    def collect(self, envs: Environments, steps: int, explore: Callable[[Array], Array] | None = None) -> Rollout:
        """`steps` steps of every copy with the policy, or with what `explore` draws, counted in the running moments."""
        rollout = collect(envs, steps, explore or self.explore)
        if self.scaler is not None:
            self.scaler.update(rollout.rewards, rollout.terminations)
        return rollout

    def explore(self, observations: Array) -> Array:
        """Sampled actions, (n, ...)."""
        return self.policy.distribution(self.see(observations)).sample(self.noise)

    def see(self, observations: Array) -> Array:
        """Count (n, ...) observations in the running moments and prepare them."""
        if self.policy.normalizer is not None:
            self.policy.normalizer.update(observations)
        return self.policy.prepare(observations)

    def update(self, rollout: Rollout) -> Batch[Array]:
        """Learn from a rollout; gives what was learnt from, in time order."""
        c = self.config
        if c.anneal:
            rollouts = max(1, (c.anneal_steps or c.total_steps) // c.rollout_steps)
            self.optimizer.learning_rate = c.learning_rate * max(0.0, 1 - self.updates / rollouts)
        self.updates += 1
        data = self.batch(rollout)
        for _ in range(c.epochs):
            order = self.shuffle.permutation(len(rollout))
            for start in range(0, len(order), self.minibatch):
                rows = order[start : start + self.minibatch]
                if not self.step(Batch(*(array[rows] for array in data))):
                    return data
        return data

    def batch(self, rollout: Rollout) -> Batch[Array]:
        """Scale a rollout by the running moments and estimate its advantages, under the current weights."""
        c, policy = self.config, self.policy
        x, actions = policy.prepare(rollout.flat("observations")), rollout.flat("actions")
        rewards = rollout.rewards if self.scaler is None else self.scaler.scale(rollout.rewards)
        distribution, values = policy.distribution_and_values(x)
        values = values.reshape(rewards.shape)
        following = np.concatenate([values[1:], policy.values(policy.prepare(rollout.next_observations))[None]])
        terminations = rollout.terminations
        if not c.bootstrap_truncated:
            terminations = terminations | rollout.truncations
        elif len(rollout.final_rows):
            following.reshape(-1)[rollout.final_rows] = policy.values(policy.prepare(rollout.final_observations))
        ends = rollout.terminations | rollout.truncations
        advantages = gae(rewards, values, following, terminations, ends, c.gamma, c.gae_lambda)
        log_probs = distribution.log_prob(actions)
        return Batch(x, actions, log_probs, values.ravel(), advantages.ravel(), (advantages + values).ravel())

    def step(self, batch: Batch[Array]) -> bool:
        """One gradient step; False, and none, if the policy has moved further than `kl_stop`."""
        c, flat = self.config, self.policy.flat
        if flat is not None:
            kl = self.gradient(batch)
            if c.kl_stop and kl > c.kl_stop:
                return False
            flat.clip_gradient(c.max_gradient_norm)
            self.optimizer.apply([flat.gradient])
            return True
        loss, log_ratio = self.loss(Batch(*(torch.from_numpy(array).to(self.device) for array in batch)))
        if c.kl_stop and float((log_ratio.exp() - 1 - log_ratio).mean()) > c.kl_stop:
            return False
        gradients = list(torch.autograd.grad(loss, self.policy.learnt))
        self.optimizer.apply(clip_norm(gradients, c.max_gradient_norm))
        return True

    def loss(self, batch: Batch[Tensor]) -> tuple[Tensor, Tensor]:
        """L, and the log-ratios (B,) without gradient."""
        c = self.config
        log_probs, entropies, values = self.policy.evaluate(batch.observations, batch.actions)
        log_ratio = log_probs - batch.log_probs
        ratio = log_ratio.exp()
        advantages = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
        clipped = ratio.clamp(1 - c.clip, 1 + c.clip)
        policy_loss = torch.maximum(-advantages * ratio, -advantages * clipped).mean()
        value_loss = (values - batch.returns) ** 2
        if c.clip_value:
            near = batch.values + (values - batch.values).clamp(-c.clip, c.clip)
            value_loss = torch.maximum(value_loss, (near - batch.returns) ** 2)
        loss = policy_loss - c.entropy_weight * entropies.mean() + c.value_weight * 0.5 * value_loss.mean()
        return loss, log_ratio.detach()

    def gradient(self, batch: Batch[Array]) -> float:
        """The gradient of `loss`, into `policy.flat`; gives the estimated KL divergence if `kl_stop` asks for it."""
        c, policy, flat, size = self.config, self.policy, self.policy.flat, len(batch.advantages)
        assert flat is not None
        layers = policy.actor_layers(batch.observations)
        distribution = policy.of_outputs(layers[-1])
        log_ratio = distribution.log_prob(batch.actions) - batch.log_probs
        ratio = np.exp(log_ratio)
        advantages = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std(ddof=1) + np.float32(1e-8))
        gain = advantages * ratio
        pays = gain <= advantages * np.minimum(np.maximum(ratio, 1 - c.clip), 1 + c.clip)
        d_log_prob = gain * pays * np.float32(-1 / size)
        if isinstance(distribution, Gaussian):
            policy.backward(layers, *distribution.gradient(batch.actions, d_log_prob, -c.entropy_weight))
        else:
            policy.backward(layers, distribution.gradient(batch.actions, d_log_prob, -c.entropy_weight))

        weights, gradients = flat.views[policy.critic_from :], flat.gradient_views[policy.critic_from :]
        layers = forward(batch.observations, weights)
        error = layers[-1][:, 0] - batch.returns
        if c.clip_value:
            move = layers[-1][:, 0] - batch.values
            near = np.minimum(np.maximum(move, -c.clip), c.clip)
            other = batch.values + near - batch.returns
            error = np.where(error * error >= other * other, error, other * (near == move))
        error *= np.float32(c.value_weight / size)
        backward(error[:, None], layers, weights, gradients)
        return float((ratio - 1 - log_ratio).mean()) if c.kl_stop else 0.0

    def diagnose(self, data: Batch[Array]) -> dict[str, float]:
        """How an update went, over all that it learnt from."""
        distribution, values = self.policy.distribution_and_values(data.observations)
        log_ratio = distribution.log_prob(data.actions) - data.log_probs
        spread = data.returns.var()
        return {
            "kl": float((np.exp(log_ratio) - 1 - log_ratio).mean()),
            "clip_fraction": float((np.abs(np.expm1(log_ratio)) > self.config.clip).mean()),
            "entropy": distribution.entropy(),
            "value_loss": 0.5 * float(((values - data.returns) ** 2).mean()),
            "explained_variance": 1 - float((data.returns - data.values).var() / spread) if spread else 0.0,
            "learning_rate": self.optimizer.learning_rate,
        }


def gae(
    rewards: Array, values: Array, following: Array, terminations: Array, ends: Array, gamma: float, decay: float
) -> Array:
    """Generalised advantage estimates, all arrays (T, n), step by step within a copy.

    `following` are the values of what comes after each step: of the true last observation where a time limit ended an
    episode. `terminations` (subset of `ends`) take no value of it; nothing is carried across `ends`.
    """
    deltas = rewards + gamma * following * ~terminations - values
    carried = gamma * decay * ~ends
    advantages = np.empty(rewards.shape, np.float32)
    for k in range(rewards.shape[1]):
        advantage, column = 0.0, []
        for delta, carry in zip(deltas[::-1, k].tolist(), carried[::-1, k].tolist(), strict=True):
            advantage = delta + carry * advantage
            column.append(advantage)
        advantages[::-1, k] = column
    return advantages


def make_policy(envs: Environments, config: Config, rng: np.random.Generator) -> ActorCritic:
    """A policy for the spaces of `envs`."""
    observations, actions = envs.observation_space, envs.action_space
    continuous = isinstance(actions, gym.spaces.Box)
    low, high = (actions.low.tolist(), actions.high.tolist()) if isinstance(actions, gym.spaces.Box) else (None, None)
    count = actions.shape[0] if isinstance(actions, gym.spaces.Box) else int(actions.n)
    return ActorCritic(
        observations.shape,
        count,
        low,
        high,
        config.hidden,
        config.mean_tanh and continuous,
        config.normalize_observations,
        config.stochastic and not continuous,
        255.0 if observations.dtype == np.uint8 else 1.0,
        rng,
    )


def check(config: Config) -> None:
    """UserError where the numbers of a rollout do not go into each other."""
    c, n = config, config.rollout_steps
    for flag, part in (("n-envs", c.n_envs), ("minibatches", c.minibatches)):
        if part < 1 or n % part:
            raise UserError(f"--rollout-steps {n} is no multiple of --{flag} {part}; change one of the two.")
    if c.total_steps < n:
        raise UserError(f"--total-steps {c.total_steps} are less than one rollout, --rollout-steps {n}; ask for more.")
    if n < 2 * c.minibatches:
        raise UserError(
            f"--rollout-steps {n} is less than two transitions for each of --minibatches {c.minibatches}, which "
            "standard advantages need; change one of the two."
        )


def train(config: Config, run: Run) -> None:
    """Train PPO in `config.env`."""
    check(config)
    envs = run.environments(config.env, config.n_envs)
    agent = PPO(envs, config, run)
    run.track(agent=agent)
    for _ in run.loop(config.total_steps, policy=agent.policy, stride=config.rollout_steps):
        data = agent.update(agent.collect(envs, config.rollout_steps // config.n_envs))
        if run.logging:
            run.log(agent.diagnose(data) | envs.statistics())


if __name__ == "__main__":
    from rlsuite.cli import run_file

    run_file(__file__)
