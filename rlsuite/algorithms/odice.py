"""O-DICE: Revealing the Mystery of Distribution Correction Estimation via Orthogonal-gradient Update (Mao et al., ICLR
2024, arXiv 2402.00348).

A value function alone, learnt on the dataset's own transitions: the dual of "maximise the return, and stay near the
data in the distribution of states and actions", measured by an f-divergence with conjugate f* (over w >= 0),

    min_V  mean (1 - lambda) V(s) + lambda f*(y),      y = r + gamma (1 - d) V(s') - V(s).

Its gradient has a part through V(s), which holds the policy to the data's actions, and one through V(s'), which lowers
V at states off the data; the two point in nearly opposite directions and cancel. O-DICE keeps of the second what is
orthogonal to the first. With V' a moving average of V, w*(y) = f*'(y), and the gradients over all parameters at once,

    y_f = r + gamma (1 - d) V'(s') - V(s)       g_f = grad mean lambda f*(y_f)          through V(s)
    y_b = r + gamma (1 - d) V(s') - V'(s)       g_b = grad mean lambda eta f*(y_b)      through V(s')

    orthogonal   g = grad mean (1 - lambda) V(s) + g_f + (g_b - c g_f),      c = <g_f, g_b> / <g_f, g_f>
    semi         g = grad mean (1 - lambda) V(s) + g_f                       (the family of EQL, f-DVL and SQL)
    true         the gradient of the dual itself

With two value functions V' is the smaller of the averages, and means run over both. The policy clones the actions
weighted by how much better than expected they turned out, y_f (y in `true`) before the step:

    L_pi = -mean min(max(0, y_f), 100) log pi(a|s),       pi(.|s) = N(m(s), diag(sigma^2)), m played clipped

            f(x)           f*(y)                             w*(y)              weight of the policy
    pearson (x - 1)^2      y^2 / 4 + y, but -1 below -2      max(0, y/2 + 1)    max(0, y); `theory` w*(y)
    kl      x log x        exp(y - 1)                        exp(y - 1)         w*(y)

lambda is tied to the scale of the rewards: at the fixed point the mean of w* is (1 - lambda) / lambda, so where the
residuals spread by less than 2 (2 lambda - 1) / lambda all of them are negative, and with them every weight: the policy
does not learn. `positive_weights` is the share of positive ones, and a run whose share stays at zero says so. `true`
drives V far below all returns: then all weights are positive and the policy is nearly a plain clone.

Departures from the authors' code: time-out transitions are kept with their true successor (theirs drops them); rewards
are scaled by the returns of the true episodes (`scale_by_returns = official` finds them as theirs does); the policy's
update leaves out the transitions of weight zero, whose gradient is zero.

    rlsuite train odice --dataset rlsuite/hopper/medium-v0
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rlsuite.data.dataset import Batch, Dataset
from rlsuite.data.rewards import scaled_rewards
from rlsuite.errors import UserError
from rlsuite.harness.networks import GaussianActor
from rlsuite.harness.run import Run
from rlsuite.kernels.adam import Adam
from rlsuite.kernels.linear import MLP

MAX_WEIGHT = 100.0
STARVED = 10_000  # updates
BLOCK = 8  # transitions of positive weight are taken in multiples of this, so that few shapes of products arise


@dataclass(frozen=True)
class Learner:
    """What O-DICE has with rewards (`Config`) and without (odice_il.py)."""

    dataset: str
    """dataset to learn from: a name of `rlsuite data list`, a Minari id, or the path of an HDF5 or npz file"""
    dataset_steps: int = 0
    """use the first so many transitions; 0 for all"""
    env: str = ""
    """environment to evaluate in; the dataset's own if empty"""
    updates: int = 1_000_000
    """updates of value and policy"""
    batch_size: int = 256
    """transitions a batch"""
    gradient: Literal["orthogonal", "semi", "true"] = "orthogonal"
    """how the value function is updated"""
    lambda_: float = 0.6
    """weight of the residuals against the value at the data's states, between 0 and 1"""
    eta: float = 1.0
    """weight of the gradient through the next state (orthogonal only)"""
    f: Literal["pearson", "kl"] = "pearson"
    """divergence from the data"""
    policy_weight: Literal["code", "theory", "one"] = "code"
    """weight of an action: the authors' code's, the paper's w*, or 1 for all (behavioural cloning)"""
    max_residual: float = math.inf
    """above it f* goes on as its tangent, because the exponential (kl) overflows on unscaled rewards; 10 is ample"""
    gamma: float = 0.99
    """discount"""
    tau: float = 0.005
    """step of the target towards the value function"""
    value_learning_rate: float = 2e-4
    """Adam"""
    policy_learning_rate: float = 2e-4
    """Adam"""
    weight_decay: float = 1e-4
    """L2 penalty on all parameters of the policy"""
    hidden: tuple[int, ...] = (256, 256)
    """widths of the hidden layers of the value functions"""
    policy_hidden: tuple[int, ...] = (1024, 1024)
    """widths of the hidden layers of the policy"""
    twin: bool = True
    """two value functions instead of one"""
    layer_norm: bool = True
    """layer normalisation in the value functions"""
    tanh: bool = False
    """squash the policy's mean"""
    normalize: bool = False
    """standardise observations by the dataset's mean and standard deviation"""

    def __post_init__(self) -> None:
        if not 0 < self.lambda_ < 1:
            raise UserError(f"--lambda lies between 0 and 1, not at {self.lambda_:g}.")
        if not 0 <= self.eta < math.inf:
            raise UserError(f"--eta is at least 0, not {self.eta:g}; 0 is the semi-gradient.")
        needed = (1 - self.lambda_) / self.lambda_
        if conjugate_slope(torch.tensor(self.max_residual), self.f) <= needed:
            least = 2 * (needed - 1) if self.f == "pearson" else 1 + math.log(needed)
            raise UserError(
                f"with --max-residual {self.max_residual:g} the value function has no minimum, because residuals at "
                f"--lambda {self.lambda_:g} are {least:.3g} in the mean; give a larger one."
            )


@dataclass(frozen=True)
class Config(Learner):
    scale_by_returns: Literal["no", "exact", "official"] = "no"
    """multiply rewards so that the best and the worst episode are 1000 apart; official: of episodes found as by D4RL"""
    reward_scale: float = 1.0
    """rewards become reward_scale * r + reward_shift, after the former"""
    reward_shift: float = 0.0
    """see reward_scale"""


# From the authors' scripts (maoliyuan/ODICE-Pytorch): rewards of -3, and 0 at the goal; no layer normalisation.
SPARSE: dict[str, Any] = {"reward_scale": 3.0, "reward_shift": -3.0, "layer_norm": False}
# Lambda and eta by the rule of benchmarks/odice_sweep.toml, on the first 200,000 transitions.
PRESETS: dict[str, dict[str, Any]] = {
    "*hopper*": {"scale_by_returns": "exact"},
    "*halfcheetah*": {"scale_by_returns": "exact"},
    "*walker2d*": {"scale_by_returns": "exact"},
    "*antmaze*": SPARSE,
    "*antmaze*large*": {"twin": False},
    "*antmaze*umaze-diverse*": {"twin": False},
    "*pointmaze*": SPARSE,
    "rlsuite/hopper/medium-v0": {"lambda": 0.4, "eta": 0.6},
    "rlsuite/hopper/medium-replay-v0": {"lambda": 0.6, "eta": 0.4},
    "rlsuite/hopper/medium-expert-v0": {"lambda": 0.4, "eta": 0.2},
    "rlsuite/halfcheetah/medium-v0": {"lambda": 0.4, "eta": 0.4},
    "rlsuite/halfcheetah/medium-replay-v0": {"lambda": 0.6, "eta": 0.4},
    "rlsuite/halfcheetah/medium-expert-v0": {"lambda": 0.4, "eta": 0.8},
    "rlsuite/walker2d/medium-v0": {"lambda": 0.4, "eta": 0.6},
    "rlsuite/walker2d/medium-replay-v0": {"lambda": 0.6, "eta": 1.0},
    "rlsuite/walker2d/medium-expert-v0": {"lambda": 0.4, "eta": 0.2},
    "rlsuite/pointmaze/umaze-v0": {"lambda": 0.4, "eta": 1.0},
}


class Value(nn.Module):
    """One value function of the state, or two independent ones."""

    def __init__(
        self, observation_dim: int, hidden: Sequence[int], layer_norm: bool, heads: int, rng: np.random.Generator
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(MLP((observation_dim, *hidden, 1), rng, layer_norm) for _ in range(heads))

    def forward(self, observations: Tensor) -> Tensor:
        """(B, observation_dim) -> (heads, B)."""
        return torch.cat([head(observations) for head in self.heads], 1).t()

    def vjp(self, observations: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """V (heads, B), and a function: slopes (n, heads, B) -> the n gradients of the sum of slope times V, (n, P).

        A gradient is one vector over all parameters. Autograd would give the same, but only one at a time.
        """
        values, products = zip(*(head.vjp(observations) for head in self.heads), strict=True)  # type: ignore[operator]

        def gradients(slopes: Tensor) -> Tensor:
            of_heads = [product(slopes[:, i]) for i, product in enumerate(products)]
            return torch.cat([gradient.flatten(1) for head in of_heads for gradient in head], 1)

        return torch.stack(values), gradients


class ODICE:
    """Policy, value function, its target and optimisers."""

    def __init__(self, dataset: Dataset, config: Learner, init: np.random.Generator) -> None:
        self.config = config
        s, a, bound = dataset.observation_dim, dataset.action_dim, dataset.max_action
        self.actor = GaussianActor(s, a, bound, config.policy_hidden, config.tanh, init).to(dataset.device)
        self.value = Value(s, config.hidden, config.layer_norm, 1 + config.twin, init).to(dataset.device)
        self.target_value = copy.deepcopy(self.value)
        self.weights: list[Tensor] = list(self.value.parameters())
        self.target_weights: list[Tensor] = list(self.target_value.parameters())
        self.value_optimizer = Adam(self.weights, config.value_learning_rate)
        rate, decay = config.policy_learning_rate, config.weight_decay
        self.actor_optimizer = Adam(self.actor.parameters(), rate, weight_decay=decay)
        self.fed = self.warned = 0  # see `starves`

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One update of the value function, of its target, and of the policy."""
        gradient, residual, metrics = self.value_gradient(batch)
        self.value_optimizer.apply(gradient)
        self.update_target()
        return metrics | self.update_actor(batch, self.weight(residual))

    @torch.no_grad()
    def value_gradient(self, batch: Batch) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
        """g for each parameter of the value function, the residuals (heads, B) that weigh the policy, and metrics."""
        c = self.config
        discount = c.gamma * (1 - batch.terminations)
        v, through_v = self.value.vjp(batch.observations)
        each = 1 / v.numel()  # of a mean over heads and batch
        if c.gradient == "true":
            next_v, through_next_v = self.value.vjp(batch.next_observations)
            residual = batch.rewards + discount * next_v - v
            slope = each * c.lambda_ * self.conjugate_slope(residual)
            (gradient,) = through_v(each * (1 - c.lambda_) - slope[None]) + through_next_v((discount * slope)[None])
            return self.as_weights(gradient), residual, self.dual(v, residual)
        next_target = self.target_value(batch.next_observations).amin(0)
        residual = batch.rewards + discount * next_target - v
        slope = -each * c.lambda_ * self.conjugate_slope(residual)
        total = each * (1 - c.lambda_) + slope
        metrics = self.dual(v, residual)
        if c.gradient == "semi":
            (gradient,) = through_v(total[None])
        else:
            gradient, forward = through_v(torch.stack([total, slope]))
            target = self.target_value(batch.observations).amin(0)
            next_v, through_next_v = self.value.vjp(batch.next_observations)
            slope = self.conjugate_slope(batch.rewards + discount * next_v - target)
            (backward,) = through_next_v((each * c.lambda_ * c.eta * discount * slope)[None])
            (remainder,), metrics["projection"] = orthogonal_part([backward], [forward])
            gradient = gradient + remainder
        return self.as_weights(gradient), residual, metrics

    def dual(self, v: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """The objective in V, at these residuals."""
        c = self.config
        loss = ((1 - c.lambda_) * v + c.lambda_ * conjugate(residual, c.f)).mean()
        return {"value_loss": loss, "value": v.mean()}

    def as_weights(self, gradient: Tensor) -> list[Tensor]:
        """(P,) in the shapes of the value function's parameters."""
        parts = torch.split(gradient, [weight.numel() for weight in self.weights])
        return [part.view_as(weight) for part, weight in zip(parts, self.weights, strict=True)]

    def conjugate_slope(self, y: Tensor) -> Tensor:
        """w*(y), same shape."""
        return conjugate_slope(y.clamp_max(self.config.max_residual), self.config.f)

    def weight(self, residual: Tensor) -> Tensor:
        """Residuals (heads, B) -> weights of the actions (B,): the mean over heads."""
        c = self.config
        if c.policy_weight == "one":
            return torch.ones_like(residual[0])
        as_code = c.f == "pearson" and c.policy_weight == "code"
        weight = residual.clamp_min(0) if as_code else conjugate_slope(residual, c.f)
        return weight.clamp_max(MAX_WEIGHT).mean(0)

    def update_actor(self, batch: Batch, weight: Tensor) -> dict[str, Tensor]:
        observations, actions = batch.observations, batch.actions
        metrics = {"weight": weight.mean(), "positive_weights": (weight > 0).float().mean()}
        if weight.device.type == "cpu":  # elsewhere it would stall to ask how many they are
            rows = rows_that_count(weight)
            observations, actions, weight = observations[rows], actions[rows], weight[rows]
        loss = -(weight * self.actor.log_prob(observations, actions)).sum() / len(batch.rewards)
        self.actor_optimizer.step(loss)
        return metrics | {"actor_loss": loss.detach()}

    @torch.no_grad()
    def update_target(self) -> None:
        """w' <- w' + tau (w - w')."""
        torch._foreach_lerp_(self.target_weights, self.weights, self.config.tau)

    def starves(self, update: int, share: float) -> bool:
        """Whether, for the first time, the share of positive weights has been nil for `STARVED` updates."""
        if share >= 1e-3:
            self.fed = update
        if self.warned or update - self.fed < STARVED:
            return False
        self.warned = 1
        return True


def conjugate(y: Tensor, f: str) -> Tensor:
    """f*(y) = max over w >= 0 of w y - f(w), elementwise."""
    return y * (y / 2 + 1).clamp_min(0) - (y / 2).clamp_min(-1).square() if f == "pearson" else (y - 1).exp()


def conjugate_slope(y: Tensor, f: str) -> Tensor:
    """w*(y), the derivative of f* and the w of its maximum, elementwise."""
    return (y / 2 + 1).clamp_min(0) if f == "pearson" else (y - 1).exp()


def orthogonal_part(gradient: Sequence[Tensor], direction: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """What is left of `gradient` beside its component along `direction`, and that component's coefficient c.

    Both are lists of equal shapes and stand for one vector each, the concatenation of all entries.
    """
    along = torch.cat([d.flatten() for d in direction])
    c = torch.dot(torch.cat([g.flatten() for g in gradient]), along) / torch.dot(along, along).clamp_min(1e-10)
    return [g - c * d for g, d in zip(gradient, direction, strict=True)], c


def rows_that_count(weight: Tensor) -> Tensor:
    """Indices of the positive weights of (B,), filled up with others to a multiple of `BLOCK`."""
    positive = weight > 0
    count = max(1, int(positive.sum()))
    return positive.byte().argsort(descending=True, stable=True)[: -(-count // BLOCK) * BLOCK]


def fit(agent: ODICE, batches: Iterator[Batch], run: Run) -> None:
    """The loop, with an eye on the weights."""
    run.track(agent=agent, batches=batches)
    for update in run.loop(agent.config.updates, policy=agent.actor):
        metrics = agent.update(next(batches))
        if run.logging and agent.starves(update, float(metrics["positive_weights"])):
            run.warn(
                f"no action has had a positive weight for {STARVED} updates, so the policy does not learn; "
                "scale the rewards up, or lower --lambda."
            )
        run.log(metrics)


def train(config: Config, run: Run) -> None:
    """Train O-DICE on `config.dataset`."""
    dataset = run.dataset(config.dataset, config.dataset_steps, config.env)
    dataset = scaled_rewards(dataset, config.scale_by_returns, config.reward_scale, config.reward_shift)
    agent = ODICE(dataset, config, run.rng("init"))
    if config.normalize:
        agent.actor.set_normalizer(*dataset.observation_statistics())
        dataset = dataset.normalized(agent.actor.mean, agent.actor.std)
    fit(agent, dataset.batches(config.batch_size, run.rng("batches")), run)


if __name__ == "__main__":
    from rlsuite.cli import run_file

    run_file(__file__)
