"""N-PG-IGT and (N)-HARPG: Stochastic Policy Gradient Methods: Improved Sample Complexity for Fisher-non-degenerate
Policies (Fatkhullin, Barakat, Kireeva and He, 2023, arXiv 2302.01734).

A gradient from one trajectory is noisy, and an average over past iterations is stale. N-PG-IGT samples where the policy
would be if it went on as before, which carries the old gradients along for free; HARPG moves the average by a
Hessian-vector product at a random point of the last step, from a second batch:

    theta_{t+1} = theta_t + gamma_t d_t [/ ||d_t||]
    d_t = (1 - eta_t) (d_{t-1} + c_t) + eta_t g(tau_t, x_t),   d_0 = g(tau_0, theta_0),   tau_t ~ pi_{x_t}
    x_t = theta_t + (1 - eta_t) / eta_t (theta_t - theta_{t-1})  (look-ahead), else theta_t
    c_t = B(tau', q theta_t + (1 - q) theta_{t-1}) (theta_t - theta_{t-1}),   q ~ U[0, 1]  (hessian)
    c_t = g(tau_t, theta_t) - w g(tau_t, theta_{t-1}),   w = p_{theta_{t-1}} / p_{theta_t}  (weights)
    g(tau, theta) = sum_t gamma^t (R_t - b(s_t, t)) grad log pi(a_t|s_t),   R_t = sum_{h >= t} gamma^{h-t} r_h
    B(tau, theta) v = grad Phi <grad log p_theta(tau), v> + hess Phi v,   grad Phi = g

g and B v are formed for each trajectory, then averaged. eta_t = eta0 (2/(t+2))^p and gamma_t = gamma0 (2/(t+2))^q:

    method      p     q    normalised                            paper
    pg          -    2/3   no                                    eta_t = 1; the plain policy gradient
    npg         -    2/3   yes                                   the authors' nsgdm, which never averages
    nmpg       2/3    1    yes
    npg_igt    4/5    1    yes          look-ahead               2302.01734
    harpg       1    1/2   no           hessian                  2302.01734
    nharpg      1     1    yes          hessian                  2302.01734
    storm_pg   2/3   1/3   no           weights                  2003.04302, with the powers of STORM (1905.10018)
    sharp      2/3   2/3   yes          hessian                  2205.08253

All environment steps count, also those of the second batch. What is evaluated and stored is theta_t, never x_t. The end
of an episode by a time limit counts as a termination, and actions are clipped to the bounds only on their way to the
environment. Parameters are one vector, with one norm; networks are small, so all of it is done on a CPU. Where steps
are not normalised they grow with the gradient, and step sizes are a hundred times smaller: 0.003 on CartPole.

    rlsuite train npg_igt --env CartPole-v1
    rlsuite train npg_igt --env Hopper-v5 --method nharpg --step-size 0.3
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.func import grad, jvp

from rlsuite.errors import UserError
from rlsuite.harness.environments import Diverged
from rlsuite.harness.networks import FlatPolicy
from rlsuite.harness.run import Run
from rlsuite.harness.trajectories import Sampler, Trajectories

Array = np.ndarray
Vector = Any  # NumPy's or torch's, (..., d): leading dimensions are runs side by side
Method = Literal["pg", "npg", "nmpg", "npg_igt", "harpg", "nharpg", "storm_pg", "sharp"]
Estimator = Literal["gpomdp", "reinforce", "mean"]


@dataclass(frozen=True)
class Config:
    env: str
    """environment: a Gymnasium id"""
    total_steps: int = 1_000_000
    """environment steps, over all copies and batches"""
    method: Method = "npg_igt"
    """row of the table above"""
    estimator: Estimator = "gpomdp"
    """g: gpomdp as above; reinforce, the whole return for R_t; mean, the authors' mean over steps without gamma^t"""
    baseline: Literal["none", "average", "linear"] = "linear"
    """b, fitted to the last batch: 0, the mean return at each time, or linear in features of state and time"""
    step_size: float = 0.1
    """gamma0"""
    step_const: bool = False
    """keep the step size at gamma0"""
    eta0: float = 1.0
    """factor of the momentum's schedule, whose values are clipped to 1"""
    eta_const: float | None = None
    """a momentum that stays the same, instead of the schedule"""
    trajectories: int = 0
    """episodes of a step, 1 in the paper; 0 for batch_steps"""
    batch_steps: int = 1000
    """environment steps of a step, in whole episodes: the first that have so many, whose mean has a bias of O(1/n)"""
    correction_trajectories: int = 0
    """episodes of the second batch, for hessian; 0 for correction_steps"""
    correction_steps: int = 0
    """environment steps of the second batch; 0 for as many steps or episodes as the first has"""
    n_envs: int = 1
    """copies of the environment; more of them change no trajectory, but play episodes that batch_steps then drops"""
    horizon: int = 0
    """cut training episodes after so many steps; 0 for the environment's own limit"""
    gamma: float = 0.99
    """discount"""
    hidden: tuple[int, ...] = (64, 64)
    """widths of the policy's hidden layers"""
    init_log_std: float = 0.0
    """log standard deviation of continuous actions at the beginning"""
    eta_lag: bool = False
    """look ahead with the momentum of the step before, as the authors' code does"""
    harpg_official: bool = False
    """the first term of B v as in the authors' code: sign turned, batch means multiplied"""
    stochastic: bool = False
    """evaluate discrete policies with sampled actions"""


EVERY = {"eval_every": 50_000, "log_every": 10_000, "checkpoint_every": 100_000}
CLASSIC = {"total_steps": 100_000, "hidden": (32, 32), "step_size": 0.3, "eval_every": 10_000}
PRESETS: dict[str, dict[str, Any]] = {  # after the authors' scripts, but for the step sizes
    "*": EVERY,
    "cartpole*": CLASSIC | {"horizon": 200},
    "acrobot*": CLASSIC,
    "halfcheetah*": {"horizon": 500},
    "swimmer*": {"horizon": 500},
}


@dataclass(frozen=True)
class Rule:
    """One row of the table of methods."""

    eta: float | None  # power p of eta_t = eta0 (2 / (t + 2))^p, clipped to (0, 1]; None: no averaging, eta_t = 1
    step: float  # power q of gamma_t = gamma0 (2 / (t + 2))^q
    normalized: bool
    lookahead: bool = False
    correction: Literal["none", "hessian", "weights"] = "none"


METHODS = {
    "pg": Rule(None, 2 / 3, False),
    "npg": Rule(None, 2 / 3, True),
    "nmpg": Rule(2 / 3, 1, True),
    "npg_igt": Rule(4 / 5, 1, True, lookahead=True),
    "harpg": Rule(1, 1 / 2, False, correction="hessian"),
    "nharpg": Rule(1, 1, True, correction="hessian"),
    "storm_pg": Rule(2 / 3, 1 / 3, False, correction="weights"),
    "sharp": Rule(2 / 3, 2 / 3, True, correction="hessian"),
}


class Ascent:
    """The step rule, on flat parameters theta (..., d) of NumPy or torch.

        theta_{t+1} = theta_t + gamma_t d_t [/ ||d_t||],   d_t = (1 - eta_t) (d_{t-1} + c_t) + eta_t g_t

    with d_0 = g_0 and theta_{-1} = theta_0. Where d_t = 0 there is no step.

    Args:
        gamma0: a number, or (..., 1) for runs with different step sizes side by side
        eta_const, gamma_const: a momentum and a step size that stay the same, instead of the schedules
        eta_lag: look ahead with eta_{t-1}, as the authors' code does
    """

    def __init__(
        self,
        theta: Vector,
        rule: Rule,
        gamma0: Any,
        eta0: float = 1.0,
        *,
        eta_const: float | None = None,
        gamma_const: Any = None,
        eta_lag: bool = False,
    ) -> None:
        self.rule, self.gamma0, self.eta0 = rule, gamma0, eta0
        self.eta_const, self.gamma_const, self.eta_lag = eta_const, gamma_const, eta_lag
        self.theta, self.previous, self.d, self.t = theta, theta, theta * 0, 0

    def _eta(self, t: int) -> float:
        if t <= 0 or self.rule.eta is None:
            return 1.0
        return min(1.0, self.eta0 * (2 / (t + 2)) ** self.rule.eta if self.eta_const is None else self.eta_const)

    @property
    def eta(self) -> float:
        """eta_t"""
        return self._eta(self.t)

    @property
    def gamma(self) -> Any:
        """gamma_t"""
        if self.gamma_const is not None:
            return self.gamma_const
        return self.gamma0 * (2 / (self.t + 2)) ** self.rule.step

    def lookahead(self) -> Vector:
        """theta_t + (1 - eta_t) / eta_t (theta_t - theta_{t-1}) where the rule looks ahead, else theta_t."""
        if not self.rule.lookahead:
            return self.theta
        eta = self._eta(self.t - self.eta_lag)
        return self.theta + (1 - eta) / eta * (self.theta - self.previous)

    def advance(self, g: Vector, c: Vector | float = 0.0) -> Any:
        """One iteration, with the gradient g (..., d) and the correction c; gives ||d_t||, (...)."""
        eta = self.eta
        self.d = g if eta == 1 else (1 - eta) * (self.d + c) + eta * g
        norm = (self.d * self.d).sum(-1)[..., None] ** 0.5
        direction = self.d / (norm + (norm == 0)) if self.rule.normalized else self.d
        self.previous, self.theta = self.theta, self.theta + self.gamma * direction
        self.t += 1
        return norm[..., 0]

    def state_dict(self) -> dict[str, Any]:
        return {"theta": self.theta, "previous": self.previous, "d": self.d, "t": self.t}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.theta, self.previous, self.d, self.t = (state[name] for name in ("theta", "previous", "d", "t"))


def score(log_probs: Callable[[Tensor], Tensor], theta: Tensor, weights: Tensor) -> Tensor:
    """sum_j weights_j grad log_probs_j at theta (d,), where `log_probs` maps theta -> (N,)."""
    gradient: Tensor = grad(lambda x: (weights * log_probs(x)).sum())(theta)
    return gradient


def hessian_product(
    log_probs: Callable[[Tensor], Tensor],
    theta: Tensor,
    v: Tensor,
    weights: Tensor,
    lengths: list[int],
    official: bool = False,
) -> Tensor:
    """sum_i B(tau_i, theta) v, (d,), where grad Phi_i = sum_t w_it grad log pi(a_it|s_it).

    The N weights, into which a mean over trajectories goes, belong to trajectories of `lengths`, end to end. Both terms
    are one derivative, of sum_j w_j grad log pi_j in the direction of v in theta and of w_j <grad log p_i, v> in the
    weights: that of the importance-weighted gradient. `official` puts minus the mean over all steps of
    <grad log pi, v> for <grad log p_i, v>, as the authors' code does.
    """
    slopes = jvp(log_probs, (theta,), (v,))[1]
    if official:
        along = -slopes.mean() * torch.ones_like(slopes)
    else:
        along = torch.cat([part.sum().expand(len(part)) for part in torch.split(slopes, lengths)])
    product: Tensor = jvp(lambda x, w: score(log_probs, x, w), (theta, weights), (v, weights * along))[1]
    return product


def rewards_to_go(rewards: Array, lengths: Array, gamma: float) -> Array:
    """R_t = r_t + gamma R_{t+1} within each trajectory, (N,)."""
    result, row = np.empty(len(rewards)), 0
    for length in lengths.tolist():
        total, column = 0.0, []
        for reward in rewards[row : row + length][::-1].tolist():
            total = reward + gamma * total
            column.append(total)
        result[row : row + length] = column[::-1]
        row += length
    return result


def credit(
    batch: Trajectories, baseline: Array, gamma: float, estimator: Estimator, log_ratios: Array | None = None
) -> Array:
    """The weights w (N,) of g = sum_j w_j grad log pi_j, the mean over trajectories (or steps) included.

    Args:
        baseline: b(s_t, t), (N,)
        log_ratios: log pi_theta(a|s) / pi_sampled(a|s), (N,), for g at another theta than the trajectories come from.
            A reward counts with the product of the ratios up to it, or, with `reinforce`, of the whole trajectory.
    """
    discount = gamma**batch.times
    ratios = np.ones(len(batch))
    if log_ratios is not None:
        sums = np.cumsum(log_ratios)
        last = batch.starts + batch.lengths - 1
        before = (sums - log_ratios)[batch.starts]
        ratios = np.exp((batch.spread(sums[last]) if estimator == "reinforce" else sums) - batch.spread(before))
    if estimator == "reinforce":
        returns = batch.spread(np.add.reduceat(discount * batch.rewards, batch.starts))
        weights: Array = ratios * (returns - discount * baseline) / len(batch.lengths)
        return weights
    advantages: Array = rewards_to_go(ratios * batch.rewards, batch.lengths, gamma) - ratios * baseline
    return advantages / len(batch) if estimator == "mean" else discount * advantages / len(batch.lengths)


class Baseline:
    """b(s, t), fitted to R_t of one batch and used for the next, so that it never sees what it is subtracted from.

    average: the mean of R_t over the trajectories that came so far; beyond the longest, the last of these means.
    linear: least squares in s, s^2, k, k^2, k^3 and 1, with s clipped to +-10, k = t / 100 and a ridge of 1e-5, which
    grows tenfold while the solution is not finite (Duan et al., 2016, arXiv 1604.06778).
    """

    def __init__(self, kind: str) -> None:
        self.kind, self.coefficients = kind, np.zeros(0)

    def __call__(self, batch: Trajectories) -> Array:
        """(N,); 0 before the first fit."""
        if not len(self.coefficients):
            return np.zeros(len(batch))
        if self.kind == "average":
            prediction: Array = self.coefficients[np.minimum(batch.times, len(self.coefficients) - 1)]
        else:
            prediction = self.features(batch) @ self.coefficients
        return prediction

    def fit(self, batch: Trajectories, gamma: float) -> None:
        """Learn from a batch that the policy has learnt from."""
        if self.kind == "none":
            return
        returns = rewards_to_go(batch.rewards, batch.lengths, gamma)
        if self.kind == "average":
            self.coefficients = np.bincount(batch.times, returns) / np.bincount(batch.times)
            return
        x, ridge = self.features(batch), 1e-5
        for _ in range(5):
            self.coefficients = np.linalg.lstsq(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ returns)[0]
            if np.isfinite(self.coefficients).all():
                break
            ridge *= 10

    @staticmethod
    def features(batch: Trajectories) -> Array:
        """(N, 2 observation_dim + 4)"""
        s, k = np.clip(batch.observations.astype(np.float64), -10, 10), batch.times[:, None] / 100
        return np.concatenate([s, s**2, k, k**2, k**3, np.ones_like(k)], 1)

    def state_dict(self) -> dict[str, Any]:
        return {"coefficients": self.coefficients}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.coefficients = state["coefficients"]


class Agent:
    """The policy, its step rule, and what estimates g and c."""

    def __init__(self, config: Config, sampler: Sampler, second: Sampler | None, run: Run) -> None:
        self.config, self.run, self.sampler, self.second = config, run, sampler, second
        self.q = run.rng("q")
        self.policy = make_policy(sampler, config, run.rng("init"))
        self.b = Baseline(config.baseline)
        self.ascent = Ascent(
            self.policy.flat.values.numpy().astype(np.float64),
            METHODS[config.method],
            config.step_size,
            config.eta0,
            eta_const=config.eta_const,
            gamma_const=config.step_size if config.step_const else None,
            eta_lag=config.eta_lag,
        )

    def update(self) -> dict[str, float]:
        """One iteration; gives metrics. Raises Diverged if d is not finite."""
        c, ascent = self.config, self.ascent
        ahead = ascent.lookahead()
        self.policy.assign(ahead)
        batch = self.sampler.play(self.policy.draw, c.trajectories, c.batch_steps)
        g = self.policy.score(batch.observations, batch.actions, self.credit(batch))
        corrected = ascent.eta < 1 and ascent.rule.correction != "none"
        correction = self.correction(batch, g) if corrected else 0.0
        metrics = {
            "eta": ascent.eta,
            "step_size": ascent.gamma,
            "lookahead": float(np.linalg.norm(ahead - ascent.theta)),
        }
        metrics |= {"gradient_norm": float(np.linalg.norm(g)), "direction_norm": float(ascent.advance(g, correction))}
        if not math.isfinite(metrics["direction_norm"]):
            raise Diverged(f"the direction of the step has a norm of {metrics['direction_norm']} at {self.run.place}")
        self.policy.assign(ascent.theta)
        self.b.fit(batch, c.gamma)
        return metrics

    def credit(self, batch: Trajectories, log_ratios: Array | None = None) -> Array:
        return credit(batch, self.b(batch), self.config.gamma, self.config.estimator, log_ratios)

    def correction(self, batch: Trajectories, g: Array) -> Array | float:
        """c_t, where `g` comes from `batch` and the policy stands at theta_t."""
        ascent = self.ascent
        if ascent.rule.correction == "weights":
            log_probs = self.policy.log_probs(batch.observations, batch.actions).astype(np.float64)
            self.policy.assign(ascent.previous)
            log_ratios = self.policy.log_probs(batch.observations, batch.actions) - log_probs
            difference: Array = g - self.policy.score(batch.observations, batch.actions, self.credit(batch, log_ratios))
            return difference
        if self.second is None:
            return 0.0
        c, q = self.config, self.q.random()
        theta = q * ascent.theta + (1 - q) * ascent.previous
        self.policy.assign(theta)
        trajectories = c.correction_trajectories or (0 if c.correction_steps else c.trajectories)
        batch = self.second.play(self.policy.draw, trajectories, c.correction_steps or c.batch_steps)
        self.second.finished.clear()  # returns between two iterates are nobody's
        v, weights = ascent.theta - ascent.previous, self.credit(batch)
        product: Array = hessian_product(
            self.policy.functional(batch.observations, batch.actions),
            torch.from_numpy(theta),
            torch.from_numpy(v),
            torch.from_numpy(weights),
            batch.lengths.tolist(),
            c.harpg_official,
        ).numpy()
        return product


def make_policy(sampler: Sampler, config: Config, rng: np.random.Generator) -> FlatPolicy:
    """A policy for the spaces of the environment."""
    space, width = sampler.action_space, sampler.observation_space.shape[0]
    if isinstance(space, gym.spaces.Box):
        low, high = space.low.tolist(), space.high.tolist()
        return FlatPolicy(width, space.shape[0], low, high, config.hidden, config.init_log_std, rng=rng)
    return FlatPolicy(width, int(space.n), hidden=config.hidden, stochastic=config.stochastic, rng=rng)


def check(config: Config, device: torch.device) -> None:
    """UserError where a number makes no sense."""
    c = config
    if device.type != "cpu":
        raise UserError(
            f"npg_igt computes on the CPU, whose small networks gain nothing elsewhere; drop --device {device}."
        )
    for name in ("trajectories", "batch_steps", "correction_trajectories", "correction_steps"):
        if getattr(c, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} is at least 0, not {getattr(c, name)}.")
    if not (c.trajectories or c.batch_steps):
        raise UserError("a step needs a batch; give --trajectories or --batch-steps.")
    if not 0 < c.step_size < math.inf:
        raise UserError(f"--step-size is a number above 0, not {c.step_size}.")
    for name, value in (("eta0", c.eta0), ("eta-const", c.eta_const)):
        if value is not None and not 0 < value <= 1:
            raise UserError(f"--{name} is above 0 and at most 1, not {value}.")


def train(config: Config, run: Run) -> None:
    """Train `config.method` in `config.env`."""
    check(config, run.device)
    sampler = run.sampler(config.env, config.n_envs, config.horizon)
    second = None
    if METHODS[config.method].correction == "hessian":
        second = run.sampler(config.env, config.n_envs, config.horizon, name="correction ")
    agent = Agent(config, sampler, second, run)
    run.track(agent=agent)
    for _ in run.loop(config.total_steps, policy=agent.policy, stride=0):
        metrics = agent.update()
        if run.logging:
            run.log(metrics | sampler.statistics())


if __name__ == "__main__":
    from rlsuite.cli import run_file

    run_file(__file__)
