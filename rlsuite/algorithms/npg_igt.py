"""N-PG-IGT and HARPG: Stochastic Policy Gradient Methods: Improved Sample Complexity for Fisher-non-degenerate Policies

rlsuite train npg_igt --env CartPole-v1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Vector = Any  # NumPy's or torch's, (..., d): leading dimensions are runs side by side


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
        return min(1.0, self.eta_const or self.eta0 * (2 / (t + 2)) ** self.rule.eta)

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
