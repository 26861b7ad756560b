"""PROPS: On-Policy Policy Gradient RL Without On-Policy Sampling (Corrado and Hanna, arXiv 2311.08290).

A finite batch never has the action frequencies of the policy that drew it. PROPS collects with a behaviour policy
pi_phi, refitted every m steps to make under-represented actions likelier, and learns from a buffer of b batches by
plain PPO (ppo.py), as if it were on-policy. From phi = theta, over what will still be in the buffer, with
r = pi_phi(a|s) / pi_theta(a|s):

    L(phi) = mean max(r, clip(r, 1 - eps, 1 + eps)) + lam mean KL          until mean((r - 1) - log r) > delta

Only the lower clip acts: the gradient is 0 where r < 1 - eps. At phi = theta it is that of mean log pi_theta(a|s), so
one plain step is ROS (Zhong et al., 2022, arXiv 2111.14552): phi = theta - alpha grad mean log pi_theta(a|s), there
after every environment step (`--behavior-steps 1`).

`--sampler`: `props`; `aw_props` (each transition weighted by |A| / std A); `ros`; `greedy` (the action of a discrete
policy that its state's counts lack most); `on_policy` (with b >= 2 this is PPO-Buffer: stale data taken as on-policy);
`noise` (a control: theta with its deviation raised until KL(theta || phi) = delta, so more exploration, no correction).

Departures from the authors' code: the reference is the current theta also right after theta was updated
(`--stale-reference` for theirs); ROS has the sign of its paper; the KL of discrete policies is exact; observations are
clipped after normalisation in the buffer too. As theirs: KL(phi || theta), averaged over action dimensions, which the
published lam were tuned with (`--kl-direction`, `--kl-dims` for the paper's form), and time limits count as
terminations in MuJoCo's presets.

    rlsuite train props --env HalfCheetah-v5
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from rlsuite.algorithms import ppo
from rlsuite.algorithms.ppo import PPO, Batch, make_policy
from rlsuite.errors import UserError
from rlsuite.harness.environments import Environments
from rlsuite.harness.networks import PICTURE_FEATURES, ActorCritic
from rlsuite.harness.rollouts import Buffer, Rollout
from rlsuite.harness.run import Run
from rlsuite.kernels.adam import Adam, clip_norm
from rlsuite.kernels.distributions import Categorical, Gaussian

Array = np.ndarray


@dataclass(frozen=True)
class Config(ppo.Config):
    sampler: Literal["props", "aw_props", "ros", "greedy", "on_policy", "noise"] = "props"
    """what draws the actions"""
    buffer_batches: int = 2
    """b, rollouts in the buffer"""
    behavior_steps: int = 256
    """m, environment steps between refits of the behaviour policy, over all copies"""
    behavior_learning_rate: float = 1e-3
    """Adam; the step size alpha of ROS"""
    behavior_epochs: int = 16
    """passes over the buffer a refit; 0 samples on-policy"""
    behavior_minibatches: int = 16
    """gradient steps a pass, once the buffer is full"""
    behavior_clip: float = 0.3
    """eps"""
    behavior_kl_stop: float = 0.03
    """delta"""
    behavior_kl_weight: float = 0.1
    """lam"""
    kl_direction: Literal["published", "behavior_target", "target_behavior"] = "published"
    """KL(behaviour || target) or its reverse; published: the first if actions are continuous, the second if discrete"""
    kl_dims: Literal["mean", "sum"] = "mean"
    """over the dimensions of continuous actions"""
    evict: Literal["sliding", "batch"] = "sliding"
    """refit to the newest (b n - m) steps, or to the newest (b - 1) rollouts and the current one"""
    stale_reference: bool = False
    """measure r after an update of theta against theta before it, as the authors' code does"""
    sampling_error: bool = False
    """log the sampling error of the buffer at the logged updates of theta"""
    entropy_weight: float = 0.01
    """ent, weight of the entropy bonus"""
    kl_stop: float = 0.03
    """end the update before the step at which the estimated KL divergence from the old policy is larger; 0 for never"""


# n, m, the learning rates, delta, lam and the minibatches of a refit: the configurations stored with the authors' runs.
MUJOCO: dict[str, Any] = {"mean_tanh": True, "bootstrap_truncated": False}
DISCRETE: dict[str, Any] = {
    "total_steps": 500_000,
    "rollout_steps": 1024,
    "learning_rate": 1e-3,
    "buffer_batches": 1,
    "behavior_steps": 128,
    "behavior_minibatches": 8,
    "normalize_rewards": False,
    "eval_every": 10_000,
}


def mujoco(
    steps: int, n: int, m: int, rates: tuple[float, float], delta: float, lam: float, nmb: int
) -> dict[str, Any]:
    return {
        "total_steps": steps,
        "rollout_steps": n,
        "behavior_steps": m,
        "learning_rate": rates[0],
        "behavior_learning_rate": rates[1],
        "behavior_kl_stop": delta,
        "behavior_kl_weight": lam,
        "behavior_minibatches": nmb,
        **MUJOCO,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "*": ppo.EVERY,
    "swimmer*": mujoco(1_000_000, 2048, 1024, (1e-3, 1e-5), 0.03, 0.1, 16),
    "hopper*": mujoco(1_000_000, 2048, 256, (1e-3, 1e-3), 0.05, 0.3, 16),
    "halfcheetah*": mujoco(2_000_000, 1024, 512, (1e-4, 1e-3), 0.05, 0.3, 16),
    "walker2d*": mujoco(2_000_000, 2048, 256, (1e-3, 1e-3), 0.10, 0.3, 32),
    "ant*": mujoco(4_000_000, 2048, 256, (1e-4, 1e-3), 0.03, 0.1, 16),
    "humanoid*": mujoco(6_000_000, 8192, 256, (1e-4, 1e-4), 0.10, 0.1, 32),
    "cartpole*": DISCRETE,
    "acrobot*": DISCRETE,
    "lunarlander*": DISCRETE | {"total_steps": 1_000_000},
    "rlsuite/discrete2d*": DISCRETE,
    "rlsuite/gridworld*": DISCRETE | {"normalize_observations": False},
    "rlsuite/twostep*": DISCRETE
    | {"normalize_observations": False, "total_steps": 20_000, "rollout_steps": 128, "behavior_steps": 16},
    "ale-*": ppo.ATARI | {"buffer_batches": 1, "behavior_steps": 256, "behavior_epochs": 1},
}


class PROPS:
    """A PPO learner, the behaviour policy that collects for it, and the buffer between them."""

    def __init__(self, envs: Environments, config: Config, run: Run) -> None:
        self.config, self.device, self.copies = config, run.device, envs.n
        self.learner = PPO(envs, config, run)
        self.capacity = config.buffer_batches * config.rollout_steps
        self.learner.minibatch = max(1, self.capacity // config.minibatches)
        self.shuffle = run.rng("behavior minibatches")
        self.buffer = Buffer(self.capacity // envs.n)
        self.behavior = make_policy(envs, config, run.rng("behavior init")).to_device(run.device)
        self.optimizer = Adam(acting(self.behavior), config.behavior_learning_rate, config.adam_epsilon)
        self.counts: dict[bytes, Array] = {}  # of `greedy`: state -> how often each action
        self.steps = 0  # environment steps
        self.behavior_updates = 0  # gradient steps
        self.reset_behavior()

    # Sampling

    def collect(self, envs: Environments) -> Rollout:
        """m steps with the behaviour policy, appended to the buffer; gives the whole buffer."""
        if self.config.sampler == "greedy":
            self.count(self.kept())
        block = self.learner.collect(envs, self.config.behavior_steps // self.copies, self.explore)
        self.steps += len(block)
        return self.buffer.add(block)

    def explore(self, observations: Array) -> Array:
        """Actions (n, ...) of the behaviour policy."""
        x = self.learner.see(observations)
        if self.config.sampler != "greedy":
            return self.behavior.distribution(x).sample(self.learner.noise)
        target = self.learner.policy.distribution(x)
        assert isinstance(target, Categorical)
        wanted = np.exp(target.log_probs)
        actions = np.empty(len(x), np.int64)
        for k, observation in enumerate(observations):
            counts = self.counts.setdefault(observation.tobytes(), np.zeros(wanted.shape[1]))
            actions[k] = (counts / max(counts.sum(), 1.0) - wanted[k]).argmin()
            counts[actions[k]] += 1
        return actions

    def kept(self) -> Rollout | None:
        """D': what of the buffer will still be in it when theta is updated next."""
        rollout, c = self.buffer.rollout, self.config
        if rollout is None or c.evict == "batch":
            return rollout
        room = self.capacity - c.behavior_steps
        return rollout.newest(room // self.copies) if room else None

    # Learning

    def update(self, rollout: Rollout, logged: bool = True) -> tuple[Batch[Array] | None, dict[str, float]]:
        """What is due after m steps: every n steps an update of theta, then one of phi.

        Gives what theta was updated on, if it was, and metrics of the buffer and of the behaviour policy, of which the
        costly ones are computed only if they are to be `logged`.
        """
        c, data, reference = self.config, None, None
        metrics: dict[str, float] = {}
        if self.steps % c.rollout_steps == 0:
            if c.evict == "batch":
                old = (c.buffer_batches - 1) * c.rollout_steps // self.copies
                self.buffer.rollout = rollout.newest(old) if old else None
            if c.stale_reference and (kept := self.kept()) is not None:
                reference = self.reference(kept)
            if c.sampling_error and logged:
                measured = self.learner.policy.sampling_error(rollout.flat("observations"), rollout.flat("actions"))
                metrics |= {"sampling_error": measured.value, "sampling_error_expected": measured.expected}
            data = self.learner.update(rollout)
        return data, metrics | self.update_behavior(reference)

    def reference(self, kept: Rollout) -> tuple[Array, Array, Any]:
        """Prepared observations and actions of D', and what theta says there."""
        policy = self.learner.policy
        x = policy.prepare(kept.flat("observations"))
        return x, kept.flat("actions"), policy.distribution(x)

    def update_behavior(self, reference: tuple[Array, Array, Any] | None = None) -> dict[str, float]:
        """Refit phi, from theta, to D'."""
        c = self.config
        self.reset_behavior()
        if c.sampler == "on_policy":
            return {}
        if c.sampler == "noise":
            return {"behavior_log_std": self.widen()}
        kept = self.kept()
        if c.sampler == "greedy" or kept is None:
            return {}
        x, actions, target = reference or self.reference(kept)
        if c.sampler == "ros":
            self.ros_step(x, actions)
            return {}
        log_probs = target.log_prob(actions)
        weights = self.advantage_weights(kept) if c.sampler == "aw_props" else np.ones(len(x), np.float32)
        size = min(len(x), max(1, (self.capacity - c.behavior_steps) // c.behavior_minibatches))
        steps, kl = 0, 0.0
        for _ in range(c.behavior_epochs):
            order = self.shuffle.permutation(len(x))
            for start in range(0, len(x), size):
                rows = order[start : start + size]
                kl = self.step(x[rows], actions[rows], log_probs[rows], weights[rows], take(target, rows))
                if kl > c.behavior_kl_stop:
                    return {"behavior_steps": steps, "behavior_kl": kl}
                steps += 1
        return {"behavior_steps": steps, "behavior_kl": kl}

    def step(self, x: Array, actions: Array, log_probs: Array, weights: Array, target: Any) -> float:
        """One gradient step on L, unless the estimated KL divergence, which is returned, is beyond delta."""
        c, flat = self.config, self.behavior.flat
        if flat is not None:
            kl = self.gradient(x, actions, log_probs, weights, target)
            if kl > c.behavior_kl_stop:
                return kl
            gradient = flat.gradient[: self.optimizer.parameters[0].numel()]
            self.optimizer.apply(clip_norm([gradient], c.max_gradient_norm))
        else:
            loss, kl = self.loss(target, *map(self.tensor, (x, actions, log_probs, weights)))
            if kl > c.behavior_kl_stop:
                return kl
            gradients = list(torch.autograd.grad(loss, self.behavior.acting))
            self.optimizer.apply(clip_norm(gradients, c.max_gradient_norm))
        self.behavior_updates += 1
        return kl

    def gradient(self, x: Array, actions: Array, log_probs: Array, weights: Array, target: Any) -> float:
        """The gradient of L, into `behavior.flat`; gives the estimate mean((r - 1) - log r) of KL(theta || phi)."""
        c, phi = self.config, self.behavior
        layers = phi.actor_layers(x)
        distribution = phi.of_outputs(layers[-1])
        log_ratio = distribution.log_prob(actions) - log_probs
        ratio = np.exp(log_ratio)
        d_log_prob = weights * ratio * (ratio >= 1 - c.behavior_clip) / np.float32(len(x))
        lam = c.behavior_kl_weight / len(x)
        which = c.kl_direction
        if isinstance(distribution, Gaussian):
            mean, log_std = distribution.gradient(actions, d_log_prob)
            if lam:
                of_kl = distribution.reverse_kl_gradient if which == "target_behavior" else distribution.kl_gradient
                of_mean, of_log_std = of_kl(target)
                weight = np.float32(lam / (mean.shape[1] if c.kl_dims == "mean" else 1))
                mean, log_std = mean + weight * of_mean, log_std + weight * of_log_std.sum(0)
            phi.backward(layers, mean, log_std)
        else:
            logits = distribution.gradient(actions, d_log_prob)
            if lam:
                of_kls = distribution.kl_gradient if which == "behavior_target" else distribution.reverse_kl_gradient
                logits += np.float32(lam) * of_kls(target)
            phi.backward(layers, logits)
        return float((ratio - 1 - log_ratio).mean())

    def loss(
        self, target: Gaussian | Categorical, x: Tensor, actions: Tensor, log_probs: Tensor, weights: Tensor
    ) -> tuple[Tensor, float]:
        """L, for autograd, and the same estimate."""
        c, outputs = self.config, self.behavior(x)[0]
        phi: Any
        theta: Any
        if isinstance(target, Gaussian):
            phi = torch.distributions.Normal(outputs, self.behavior.log_std.exp(), validate_args=False)
            moments = self.tensor(target.mean), self.tensor(np.exp(target.log_std))
            theta = torch.distributions.Normal(*moments, validate_args=False)
            log_ratio = phi.log_prob(actions).sum(1) - log_probs
        else:
            phi = torch.distributions.Categorical(logits=outputs, validate_args=False)
            theta = torch.distributions.Categorical(logits=self.tensor(target.log_probs), validate_args=False)
            log_ratio = phi.log_prob(actions) - log_probs
        ratio = log_ratio.exp()
        loss = (weights * torch.maximum(ratio, ratio.clamp(1 - c.behavior_clip, 1 + c.behavior_clip))).mean()
        kl = torch.distributions.kl_divergence(*((phi, theta) if self.forward_kl else (theta, phi)))  # (B,) or (B, k)
        kl = kl.mean() if c.kl_dims == "mean" else kl.sum() / len(x)
        return loss + c.behavior_kl_weight * kl, float((ratio - 1 - log_ratio).detach().mean())

    @property
    def forward_kl(self) -> bool:
        """Whether L has KL(phi || theta)."""
        direction = self.config.kl_direction
        return direction == "behavior_target" or (direction == "published" and self.behavior.continuous)

    def tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    # The parts of the samplers

    @torch.no_grad()
    def reset_behavior(self) -> None:
        """phi <- theta; the moments of its optimiser stay."""
        torch._foreach_copy_(acting(self.behavior), acting(self.learner.policy))

    def ros_step(self, x: Array, actions: Array) -> None:
        """phi <- phi - alpha grad mean log pi_phi(a|s)"""
        ones, alpha = np.ones(len(x), np.float32), self.config.behavior_learning_rate
        if self.behavior.flat is not None:
            layers = self.behavior.actor_layers(x)
            distribution = self.behavior.of_outputs(layers[-1])
            parts = distribution.gradient(actions, ones / np.float32(len(x)))
            self.behavior.backward(layers, *(parts if isinstance(parts, tuple) else (parts,)))
            weights, gradient = acting(self.behavior)[0], self.behavior.flat.gradient
            weights.sub_(gradient[: weights.numel()], alpha=alpha)
        else:
            mean = self.behavior.evaluate(self.tensor(x), self.tensor(actions))[0].mean()
            gradients = torch.autograd.grad(mean, self.behavior.acting)
            with torch.no_grad():
                torch._foreach_add_(acting(self.behavior), gradients, alpha=-alpha)
        self.behavior_updates += 1

    def widen(self) -> float:
        """Raise the log standard deviation of phi by one number until KL(theta || phi) = delta; gives the number."""
        log_std = self.behavior.log_std
        # KL of two Gaussians with the same mean, by dimension: u + (exp(-2 u) - 1) / 2 for a raise of u.
        excess = self.config.behavior_kl_stop / len(log_std)
        rise = float(brentq(lambda u: u + (math.exp(-2 * u) - 1) / 2 - excess, 0, 1 + excess))
        with torch.no_grad():
            log_std.add_(rise)
        return rise

    def count(self, kept: Rollout | None) -> None:
        """Count the actions of every state of D'; states are told apart by their bytes."""
        self.counts = {}
        if kept is None:
            return
        choices = self.learner.policy.arguments["actions"]
        for observation, action in zip(kept.flat("observations"), kept.flat("actions"), strict=True):
            self.counts.setdefault(observation.tobytes(), np.zeros(choices))[action] += 1

    def advantage_weights(self, kept: Rollout) -> Array:
        """|A| / std A of the transitions of D', under theta."""
        advantages = np.abs(data := self.learner.batch(kept).advantages)
        weights: Array = advantages / (data.std() + np.float32(1e-8))
        return weights


def acting(policy: ActorCritic) -> list[Tensor]:
    """The weights that acting needs: one vector of them where NumPy drives the policy."""
    if policy.flat is None:
        return list(policy.acting)
    return [policy.flat.values[: sum(p.numel() for p in policy.acting)]]


def take(distribution: Gaussian | Categorical, rows: Array) -> Gaussian | Categorical:
    if isinstance(distribution, Gaussian):
        return Gaussian(distribution.mean[rows], distribution.log_std)
    return Categorical(distribution.log_probs[rows])


def check(config: Config, envs: Environments) -> None:
    """UserError where the numbers do not go into each other, or the sampler does not fit the actions."""
    ppo.check(config)
    c = config
    for name in ("buffer_batches", "behavior_minibatches"):
        if getattr(c, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is at least 1, not {getattr(c, name)}.")
    for flag, whole, part in (
        ("--rollout-steps", c.rollout_steps, ("--behavior-steps", c.behavior_steps)),
        ("--behavior-steps", c.behavior_steps, ("--n-envs", c.n_envs)),
    ):
        if part[1] < 1 or whole % part[1]:
            raise UserError(f"{flag} {whole} is no multiple of {part[0]} {part[1]}; change one of the two.")
    if c.sampler in ("props", "aw_props", "ros") and c.buffer_batches * c.rollout_steps == c.behavior_steps:
        raise UserError(
            f"--sampler {c.sampler} has nothing to refit to where --behavior-steps {c.behavior_steps} fill the whole "
            "buffer; take fewer, or more --buffer-batches."
        )
    shape = envs.observation_space.shape
    weights = 1 + (PICTURE_FEATURES if len(shape) == 3 else (*shape, *c.hidden)[-1])
    if c.sampling_error and c.rollout_steps <= weights:
        raise UserError(f"--sampling-error fits {weights} weights to --rollout-steps {c.rollout_steps}; collect more.")
    discrete = hasattr(envs.action_space, "n")
    if c.sampler == "greedy" and not discrete:
        raise UserError(f"--sampler greedy counts discrete actions, which {c.env} does not have; take another sampler.")
    if c.sampler == "noise" and discrete:
        raise UserError(f"--sampler noise widens a Gaussian, and {c.env} has discrete actions; take another sampler.")


def train(config: Config, run: Run) -> None:
    """Train PPO in `config.env` on what the behaviour policy collects."""
    envs = run.environments(config.env, config.n_envs)
    check(config, envs)
    agent = PROPS(envs, config, run)
    run.track(learner=agent.learner, agent=agent)
    whole = config.total_steps - config.total_steps % config.rollout_steps  # what comes after would teach nothing
    for _ in run.loop(whole, policy=agent.learner.policy, stride=config.behavior_steps):
        data, metrics = agent.update(agent.collect(envs), run.logging)
        if data is not None and run.logging:
            run.log(agent.learner.diagnose(data) | metrics | envs.statistics())


if __name__ == "__main__":
    from rlsuite.cli import run_file

    run_file(__file__)
