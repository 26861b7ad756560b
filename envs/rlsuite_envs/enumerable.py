"""Enumerable: a random finite task so small that all its trajectories, and so all expectations, can be written out."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlsuite_envs.tabular import Tabular

Array = NDArray[np.float64]

MOST_TRAJECTORIES = 1_000_000


class Enumerable(Tabular):
    """A random Markov decision process with the exact J, gradient and Hessian of tabular softmax policies.

    Observation: the state, one-hot. The seed draws the transition probabilities p(.|s, a) from a symmetric Dirichlet
    distribution and the rewards r(s, a) from U[0, 1]; an episode starts in any state with the same probability and
    never terminates. The time limit is the horizon of 4; for another one, give `gymnasium.make` also
    `max_episode_steps=horizon`. With the usual sizes there are (3 * 2)^4 = 1296 trajectories of states and actions.

    A policy is theta (..., d), d = states * actions, with any leading batch dimensions: logits, in order of states and
    then of actions, so pi(a|s) = exp(theta_sa) / sum_b exp(theta_sb). Its objective is the discounted return up to H,

        J(theta) = E[sum_{t < H} gamma^t r(s_t, a_t)],

    and all of what follows is float64 and exact but for rounding. Q_t and V_t are values of what is left after t steps:

        V_t(s) = sum_a pi(a|s) Q_t(s, a),   Q_t(s, a) = r(s, a) + gamma sum_s' p(s'|s, a) V_{t+1}(s'),   V_H = 0,
        dJ / dtheta_sa = sum_t gamma^t P(s_t = s) pi(a|s) (Q_t(s, a) - V_t(s))       (the policy gradient theorem),
        V_t'' = sum_a pi(a|s) [(u u^T + C) Q_t + u Q_t'^T + Q_t' u^T + Q_t''],   primes for gradient and Hessian,

    with the score u = grad log pi(a|s) and C = -(diag pi_s - pi_s pi_s^T), the Hessian of log pi(a|s) for every a.

    Attributes: `kernel` (states, actions, states), `rewards` (states, actions), `start_probabilities` (states,),
    `horizon`, `discount`.
    """

    def __init__(
        self,
        states: int = 3,
        actions: int = 2,
        horizon: int = 4,
        discount: float = 0.95,
        concentration: float = 0.5,
        seed: int = 0,
    ) -> None:
        """`seed` draws the task, that of `reset` an episode. Raises ValueError for values without meaning."""
        if min(states, actions, horizon) < 1 or not 0.0 <= discount <= 1.0 or concentration <= 0.0:
            raise ValueError(
                "an Enumerable needs states, actions and a horizon of 1 or more, a discount in [0, 1] and a positive "
                f"concentration, not {states}, {actions}, {horizon}, {discount} and {concentration}."
            )
        super().__init__(states, actions)
        rng = np.random.default_rng(seed)
        self.kernel: Array = rng.dirichlet(np.full(states, concentration), (states, actions))
        self.rewards: Array = rng.uniform(size=(states, actions))
        self.start_probabilities: Array = np.full(states, 1.0 / states)
        self.horizon = horizon
        self.discount = discount

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        gym.Env.reset(self, seed=seed)
        self.state = int(self.np_random.choice(self.states, p=self.start_probabilities))
        return self._observation(), {}

    def _move(self, action: int) -> tuple[float, bool]:
        reward = float(self.rewards[self.state, action])
        self.state = int(self.np_random.choice(self.states, p=self.kernel[self.state, action]))
        return reward, False

    def policy(self, theta: Array) -> Array:
        """Probabilities pi(a|s) (..., states, actions) of theta (..., d)."""
        logits = theta.reshape(*theta.shape[:-1], *self.rewards.shape)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return np.asarray(weights / weights.sum(-1, keepdims=True))

    def returns(self, policy: Array) -> Array:
        """J (...) of any stationary policy, given as probabilities (..., states, actions)."""
        _, values = self._values(policy)
        return np.asarray(values[0] @ self.start_probabilities)

    def objective(self, theta: Array) -> Array:
        """J (...) of theta (..., d)."""
        return self.returns(self.policy(theta))

    def endless(self, theta: Array) -> Array:
        """J (...) of theta (..., d) without a horizon, from V = (I - gamma P_pi)^-1 r_pi. A discount of 1 has none.

        As 0 <= r <= 1, the horizon takes away at least 0 and at most gamma^H / (1 - gamma).
        """
        policy = self.policy(theta)
        transitions = np.einsum("...sa,sap->...sp", policy, self.kernel)
        rewards = (policy * self.rewards).sum(-1)
        values = np.linalg.solve(np.eye(self.states) - self.discount * transitions, rewards[..., None])[..., 0]
        return np.asarray(values @ self.start_probabilities)

    def gradient(self, theta: Array) -> Array:
        """The gradient of J, (..., d), at theta (..., d)."""
        policy = self.policy(theta)
        action_values, values = self._values(policy)
        occupancy, total = self.start_probabilities, np.zeros_like(policy)
        for q, v in zip(action_values, values, strict=False):
            total += (occupancy[..., None] * policy) * (q - v[..., None])
            occupancy = self.discount * np.einsum("...s,...sa,sap->...p", occupancy, policy, self.kernel)
        return total.reshape(theta.shape)

    def hessian(self, theta: Array) -> Array:
        """The Hessian of J, (..., d, d), at theta (..., d)."""
        policy, scores = self.policy(theta), self.scores(theta)
        curvature = self.curvature(theta)[..., :, None, :, :]
        products = scores[..., :, None] * scores[..., None, :] + curvature
        value = np.zeros(policy.shape[:-1])
        gradient, hessian = np.zeros(scores[..., 0, :].shape), np.zeros(products[..., 0, :, :].shape)
        for _ in range(self.horizon):
            q = self.rewards + self._expected("", value)
            dq, ddq = self._expected("i", gradient), self._expected("ij", hessian)
            cross = scores[..., :, None] * dq[..., None, :]
            ddq = ddq + products * q[..., None, None] + cross + np.swapaxes(cross, -1, -2)
            value = (policy * q).sum(-1)
            gradient = (policy[..., None] * (scores * q[..., None] + dq)).sum(-2)
            hessian = (policy[..., None, None] * ddq).sum(-3)
        return np.asarray(np.einsum("s,...sij->...ij", self.start_probabilities, hessian))

    def scores(self, theta: Array) -> Array:
        """grad log pi(a|s), (..., states, actions, d), at theta (..., d)."""
        own = np.eye(theta.shape[-1]).reshape(*self.rewards.shape, -1)
        return np.asarray(own - self._blocks(theta)[..., :, None, :])

    def curvature(self, theta: Array) -> Array:
        """The Hessian of log pi(a|s), (..., states, d, d), at theta (..., d); it is the same for all actions."""
        blocks = self._blocks(theta)
        return np.asarray(blocks[..., :, None] * blocks[..., None, :] - blocks[..., None] * np.eye(theta.shape[-1]))

    def trajectories(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """States and actions, (n, horizon) both, of all n = (states * actions)^horizon trajectories, possible or not.

        Raises ValueError for more than a million.
        """
        pairs = self.rewards.size
        if pairs**self.horizon > MOST_TRAJECTORIES:
            raise ValueError(f"({pairs})^{self.horizon} trajectories are too many; choose a smaller horizon or task.")
        steps = np.indices((pairs,) * self.horizon).reshape(self.horizon, -1).T
        states, actions = np.divmod(steps, self.rewards.shape[1])
        return states, actions

    def probabilities(self, theta: Array) -> Array:
        """Probability (..., n) of each of the n trajectories under theta (..., d); they sum to 1."""
        states, actions = self.trajectories()
        chosen = self.policy(theta)[..., states, actions].prod(-1)
        moved = self.kernel[states[:, :-1], actions[:, :-1], states[:, 1:]].prod(-1)
        return np.asarray(chosen * moved * self.start_probabilities[states[:, 0]])

    def best(self) -> tuple[float, NDArray[np.int64]]:
        """J* and the actions (states,) of the best stationary deterministic policy; tries all actions^states of them.

        With a horizon, a policy that saw the time could do better, and so could a stationary one that acts at random.
        """
        states, actions = self.rewards.shape
        plans = np.indices((actions,) * states).reshape(states, -1).T
        returns = self.returns(np.eye(actions)[plans])
        return float(returns.max()), plans[returns.argmax()]

    def _values(self, policy: Array) -> tuple[list[Array], list[Array]]:
        """Q_t (..., states, actions) for t < H, and V_t (..., states) for t <= H."""
        action_values: list[Array] = []
        values = [np.zeros(policy.shape[:-1])]
        for _ in range(self.horizon):
            action_values.append(self.rewards + self._expected("", values[-1]))
            values.append((policy * action_values[-1]).sum(-1))
        return action_values[::-1], values[::-1]

    def _expected(self, indices: str, following: Array) -> Array:
        """gamma E[x(s')|s, a], (..., states, actions, *indices), of x (..., states, *indices)."""
        expected = np.einsum(f"sap,...p{indices}->...sa{indices}", self.kernel, following)
        return np.asarray(self.discount * expected)

    def _blocks(self, theta: Array) -> Array:
        """(..., states, d): pi(.|s) where theta has the logits of s, and 0 elsewhere."""
        policy = self.policy(theta)
        blocks = np.eye(self.states)[:, :, None] * policy[..., :, None, :]
        return np.asarray(blocks.reshape(*policy.shape[:-1], -1))
