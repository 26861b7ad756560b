"""Policy Smoothing for Provably Robust Reinforcement Learning (Kumar et al., ICLR 2022, arXiv 2106.11420).

Somebody perturbs what an agent observes, adaptively: he knows the policy, the states, everything that happened so far,
but not the noise that is still to come. Let every frame o_t get Gaussian noise once, before the policy sees it,

    z_t = o_t + eps_t + N(0, sigma^2 I),      sum over the episode of |eps_t|^2 <= B^2,      a_t = pi(z_1 .. z_t).

Then, whatever the policy is, for every event in the episode (every h into [0, 1])

    P_clean(h) >= p    implies    P_attacked(h) >= Phi(Phi^-1(p) - B / sigma),                                    (1)

as if the whole episode were one input: the log-likelihood ratio of attacked and clean noise is exactly normal however
adaptive the attack, so the Neyman-Pearson lemma says which event would suffer most. With G(x) = P_clean(return > x) and
L(x) a lower confidence bound on it for all x at once, a return in [a, b] is in the mean at least

    E_attacked(return) >= a + integral from a to b of Phi(Phi^-1(L(x)) - B / sigma) dx.                           (2)

L comes from n clean episodes of the frozen policy, under its own noise: by Clopper and Pearson for each of the m values
of a return that counts (confidence 1 - alpha / m each), or by the inequality of Dvoretzky, Kiefer, Wolfowitz and
Massart. One band serves all budgets B; whoever picks the best of several policies by their certificates must split
alpha.

Training is ordinary reinforcement learning in the noisy environment; here DQN (Mnih et al., 2015), as in the paper:

    L_Q = mean huber(r + gamma (1 - d) max_a' Q'(z', a') - Q(z, a)),      Q' a copy of Q, renewed from time to time

It comes and goes in what it can do, so every now and then it is tried on a few episodes, and the best is kept.

Noise and stack are part of the environment (rlsuite/harness/smoothing.py), so that any method can be trained under
them; `rlsuite certify` takes any policy.

Departures from the authors' scripts (which survive in copies; they published none): pictures are noised as floats in
[0, 1], where theirs wrap around as bytes while training; time limits are bootstrapped; the certificate begins at `low`,
not at 0, and its value at B = 0 is a bound like the others.

    rlsuite train policy_smoothing --env 'CartPole-v0#frames=5,sigma=0.2'
    rlsuite certify runs/... --budgets 0,0.1,0.2,0.4
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri
from scipy.stats import beta
from torch import Tensor, nn
from torch.nn import functional

from rlsuite.data.replay import Replay
from rlsuite.errors import UserError
from rlsuite.harness.environments import TRAINING_SEEDS, Environments
from rlsuite.harness.evaluation import evaluate
from rlsuite.harness.networks import PICTURE_FEATURES, NatureCNN
from rlsuite.harness.run import Run
from rlsuite.harness.smoothing import split_view
from rlsuite.kernels.adam import Adam, clip_norm
from rlsuite.kernels.linear import MLP

Array = np.ndarray


@dataclass(frozen=True)
class Config:
    env: str
    """environment and what is seen of it, NAME#frames=5,sigma=0.2"""
    total_steps: int = 500_000
    """environment steps, over all copies"""
    n_envs: int = 1
    """copies of the environment"""
    learning_rate: float = 1e-4
    """Adam"""
    gamma: float = 0.99
    """discount"""
    batch_size: int = 1024
    """transitions a batch"""
    buffer_size: int = 100_000
    """newest frames that are learnt from"""
    learning_starts: int = 1000
    """environment steps before the first update"""
    train_every: int = 256
    """environment steps between two rounds of updates"""
    gradient_steps: int = 128
    """updates a round"""
    target_every: int = 10
    """environment steps after which the target is renewed, at the next round"""
    exploration_fraction: float = 0.16
    """share of the steps over which exploration falls from 1"""
    exploration_end: float = 0.0
    """share of random actions after that"""
    best_every: int = 2000
    """environment steps between two trials of the policy; the best so far is what the run keeps; 0 keeps the last"""
    best_episodes: int = 10
    """episodes of such a trial"""
    max_gradient_norm: float = 10.0
    """Euclidean norm of the whole gradient, clipped"""
    hidden: tuple[int, ...] = (256, 256)
    """widths of the hidden layers; without meaning for pictures"""


# The paper's, as its scripts survive in mrh996/ReCePS.
PRESETS: dict[str, dict[str, Any]] = {
    "*": {"eval_every": 20_000, "log_every": 2_560, "checkpoint_every": 50_000},
    "cartpole*": {"learning_rate": 5e-5},
    "cartpole*frames=5*": {"learning_rate": 1e-4},
    "ale-*": {
        "total_steps": 10_000_000,
        "batch_size": 32,
        "buffer_size": 10_000,
        "learning_starts": 100_000,
        "train_every": 4,
        "gradient_steps": 1,
        "target_every": 1000,
        "exploration_fraction": 0.1,
        "exploration_end": 0.01,
        "best_every": 100_000,
        "eval_every": 500_000,
        "log_every": 10_000,
        "checkpoint_every": 250_000,
    },
}


# ---- certificates


def shift(p: ArrayLike, budget: ArrayLike, sigma: float) -> Array:
    """(1): what is left of a probability p under any attack within `budget`; broadcasts. A negative budget gives what
    it can be raised to. Without noise nothing is left, unless p is 1 or there is no budget."""
    p, budget = np.asarray(p, np.float64), np.asarray(budget, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.divide(budget, sigma)
        moved = ndtr(ndtri(p) - away)
    sure = np.where(np.isinf(away), away < 0, p)  # where both terms are infinite: without noise, or of a sure event
    return np.where(budget == 0, p, np.where(np.isnan(moved), sure, moved))


def clopper_pearson(successes: ArrayLike, n: int, alpha: float, upper: bool = False) -> Array:
    """One-sided bounds of confidence 1 - alpha on a probability, from `successes` out of n; same shape."""
    k = np.asarray(successes, np.float64)
    if upper:
        return np.where(k < n, beta.ppf(1 - alpha, k + 1, np.maximum(n - k, 1)), 1.0)
    return np.where(k > 0, beta.ppf(alpha, np.maximum(k, 1), n - k + 1), 0.0)


def dkw_margin(n: int, alpha: float, two_sided: bool = False) -> float:
    """How far the distribution of n samples is from the true one, everywhere at once, at confidence 1 - alpha.

    Massart, 1990; one-sided for alpha up to 1/2. The authors take the two-sided one.
    """
    return math.sqrt(math.log((2 if two_sided else 1) / alpha) / (2 * n))


@dataclass(frozen=True)
class Band:
    """Confidence bounds on P(return >= x) that hold for all x at once.

    They stand at `values` (V,), ascending, the last of them the highest possible return; an x between two of them has
    the bounds of the upper one.
    """

    low: float
    values: Array
    lower: Array
    upper: Array

    def mean(self, budget: ArrayLike = 0.0, sigma: float = 1.0) -> Array:
        """(2): lower bounds on the mean return under attacks within each budget; same shape."""
        return self.low + self._integral(self.lower, np.asarray(budget, np.float64), sigma)

    def mean_upper(self, budget: ArrayLike = 0.0, sigma: float = 1.0) -> Array:
        """No attack within the budget can raise the mean return above this."""
        return self.low + self._integral(self.upper, -np.asarray(budget, np.float64), sigma)

    def probability(self, level: float, budget: ArrayLike = 0.0, sigma: float = 1.0) -> Array:
        """P(return >= level) is at least this under attacks within each budget; same shape."""
        if level <= self.low:
            return np.ones_like(np.asarray(budget, np.float64))
        above = np.append(self.lower, 0.0)[np.searchsorted(self.values, level)]
        return shift(above, budget, sigma)

    def quantile(self, q: float, budget: ArrayLike = 0.0, sigma: float = 1.0) -> Array:
        """The q-quantile of the return under attack is at least this."""
        left = shift(self.lower, np.asarray(budget, np.float64)[..., None], sigma)
        reached = (left >= 1 - q).sum(-1)  # `left` descends
        highest: Array = np.concatenate([[self.low], self.values])[reached]
        return highest

    def _integral(self, probabilities: Array, budget: Array, sigma: float) -> Array:
        widths = np.diff(self.values, prepend=self.low)
        return shift(probabilities, budget[..., None], sigma) @ widths


def band(
    returns: ArrayLike, alpha: float, low: float, high: float, levels: ArrayLike | None = None, two_sided: bool = False
) -> Band:
    """The band from the returns of n episodes, all within [low, high].

    With `levels`, all values above `low` that a return can have, which must be known beforehand: Clopper and Pearson
    with alpha divided by their number. Without: Dvoretzky, Kiefer, Wolfowitz and Massart. Each side holds at 1 - alpha.

    Raises UserError where a return is outside the range, or none of the levels.
    """
    x = np.sort(np.asarray(returns, np.float64))
    if not (len(x) and low <= x[0] and x[-1] <= high):
        found = f"from {x[0]:g} to {x[-1]:g}" if len(x) else "of no episode"
        raise UserError(f"returns {found} do not lie in the range from {low:g} to {high:g}; give their range.")
    if levels is not None:
        values = np.asarray(levels, np.float64)
        if not np.isin(x, np.append(values, low)).all():
            raise UserError("a return is none of the levels that were named beforehand; take the band without levels.")
        above = len(x) - np.searchsorted(x, values, side="left")
        each = alpha / len(values)
        return Band(low, values, clopper_pearson(above, len(x), each), clopper_pearson(above, len(x), each, upper=True))
    values = np.unique(np.append(x[x > low], high))
    share = 1 - np.searchsorted(x, values, side="left") / len(x)
    margin = dkw_margin(len(x), alpha, two_sided)
    return Band(low, values, np.maximum(share - margin, 0.0), np.minimum(share + margin, 1.0))


def certified_budget(p: ArrayLike, theta: float, sigma: float) -> Array:
    """The budget up to which a probability stays above `theta`, given a lower bound p on it without attack."""
    with np.errstate(divide="ignore", invalid="ignore"):
        budget: Array = np.fmax(0.0, sigma * (ndtri(np.asarray(p, np.float64)) - ndtri(theta)))
    return budget


def whole_budget(size: float, steps: int, numbers: int = 1) -> float:
    """The Euclidean budget of an episode that allows `size` at each of its steps.

    `size` is a Euclidean norm, or, with the count of a frame's numbers, what each of them may change by (l_inf).
    """
    return size * math.sqrt(steps * numbers)


# ---- training


class QPolicy(nn.Module):
    """Action values of what the policy sees, and the best action.

    Args:
        observation_shape: of one observation; three axes are a picture of floats, channels first
        actions: how many there are to choose from
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        actions: int,
        hidden: Sequence[int] = (256, 256),
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        self.arguments = {"observation_shape": list(observation_shape), "actions": actions, "hidden": list(hidden)}
        rng = rng or np.random.default_rng(0)
        pictures = len(observation_shape) == 3
        self.trunk = NatureCNN(observation_shape, rng, highest=1.0) if pictures else nn.Identity()
        sizes = (PICTURE_FEATURES,) if pictures else (observation_shape[0], *hidden)
        self.head = MLP((*sizes, actions), rng)

    def forward(self, observations: Tensor) -> Tensor:
        """(B, ...) -> values (B, actions)."""
        values: Tensor = self.head(self.trunk(observations))
        return values

    @torch.no_grad()
    def act(self, observations: Array) -> Array:
        """(B, ...) as the environment gives them -> the best actions (B,)."""
        device = next(self.parameters()).device
        best: Array = self(torch.as_tensor(observations, dtype=torch.float32, device=device)).argmax(1).cpu().numpy()
        return best


class DQN:
    """Action values, their target, optimiser and replay buffer."""

    def __init__(self, envs: Environments, config: Config, run: Run) -> None:
        self.config, self.device = config, run.device
        self.noise, self.draws = run.rng("exploration"), run.rng("batches")
        assert isinstance(envs.action_space, gym.spaces.Discrete)
        self.actions = int(envs.action_space.n)
        shape = envs.observation_space.shape
        self.policy = QPolicy(shape, self.actions, config.hidden, run.rng("init")).to(run.device)
        self.target = copy.deepcopy(self.policy)
        self.best, self.best_mean = copy.deepcopy(self.policy), -math.inf
        self.trials = run.rng("trials")
        self.optimizer = Adam(self.policy.parameters(), config.learning_rate)
        _, view = split_view(config.env)
        pictures = len(shape) == 3
        self.replay = Replay(
            config.buffer_size, envs.n, shape, view.frames if view else 1, np.float16 if pictures else np.float32
        )
        self.steps = 0  # environment steps, over all copies
        self.renewed = 0  # when the target was

    @property
    def exploration(self) -> float:
        """Share of random actions now."""
        c = self.config
        share = self.steps / max(1.0, c.exploration_fraction * c.total_steps)
        return max(c.exploration_end, 1 - (1 - c.exploration_end) * share)

    def collect(self, envs: Environments, steps: int) -> None:
        """`steps` steps of every copy, into the replay buffer."""
        if not len(self.replay):
            envs.begin()
            self.replay.begin(envs.observations)
        for _ in range(steps):
            actions = self.policy.act(envs.observations)
            random = self.noise.random(envs.n) < self.exploration
            actions = np.where(random, self.noise.integers(self.actions, size=envs.n), actions)
            successors, rewards, terminations, truncations = envs.step(actions)
            ends = terminations | truncations
            self.replay.add(actions, rewards, terminations, ends, successors, envs.observations)
            self.steps += envs.n

    def update(self) -> dict[str, Tensor]:
        """One step on a batch from the replay buffer."""
        c = self.config
        batch = self.replay.sample(c.batch_size, self.draws)
        observations, actions, rewards, following, terminations = (
            torch.from_numpy(array).to(self.device) for array in batch
        )
        with torch.no_grad():
            goal = rewards + c.gamma * (1 - terminations) * self.target(following).amax(1)
        values = self.policy(observations).gather(1, actions[:, None]).squeeze(1)
        loss = functional.smooth_l1_loss(values, goal)
        gradients = list(torch.autograd.grad(loss, self.optimizer.parameters))
        self.optimizer.apply(clip_norm(gradients, c.max_gradient_norm))
        return {"q_loss": loss.detach(), "q": values.detach().mean()}

    def renew_target(self) -> None:
        """Copy Q to Q' once `target_every` steps have passed."""
        if self.steps // self.config.target_every > self.renewed // self.config.target_every:
            self.target.load_state_dict(self.policy.state_dict())
            self.renewed = self.steps

    def keep_best(self, before: int) -> None:
        """Try the policy if `best_every` steps have passed, and keep it if none was better."""
        c = self.config
        if c.best_every and self.steps // c.best_every > before // c.best_every:
            seeds = [int(seed) for seed in self.trials.integers(TRAINING_SEEDS, size=c.best_episodes)]
            mean = sum(episode.total for episode in evaluate(self.policy.act, c.env, seeds)) / len(seeds)
            if mean < self.best_mean:
                return
            self.best_mean = mean
        elif c.best_every:
            return
        self.best.load_state_dict(self.policy.state_dict())


def check(config: Config) -> None:
    """UserError where a number is too small, or the numbers do not go into each other."""
    for name in ("n_envs", "train_every", "gradient_steps", "target_every", "buffer_size", "best_episodes"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is at least 1, not {getattr(config, name)}.")
    if config.train_every % config.n_envs:
        raise UserError(
            f"--train-every {config.train_every} is no multiple of --n-envs {config.n_envs}; change one of the two."
        )


def train(config: Config, run: Run) -> None:
    """Train DQN in `config.env`, with the noise and the frames that its name says."""
    check(config)
    envs = run.environments(config.env, config.n_envs)
    if not isinstance(envs.action_space, gym.spaces.Discrete):
        raise UserError(
            f"DQN needs discrete actions, and {config.env} has {envs.action_space}; train `ppo`, `sb3:ddpg` or another "
            "method in the same environment."
        )
    agent = DQN(envs, config, run)
    run.track(agent=agent)
    for step in run.loop(config.total_steps, policy=agent.best, stride=config.train_every):
        before = agent.steps
        agent.collect(envs, config.train_every // config.n_envs)
        if step < config.learning_starts:
            continue
        for _ in range(config.gradient_steps):
            metrics = agent.update()
        agent.renew_target()
        agent.keep_best(before)
        run.log(metrics | {"exploration": agent.exploration} | (envs.statistics() if run.logging else {}))


if __name__ == "__main__":
    from rlsuite.cli import run_file

    run_file(__file__)
