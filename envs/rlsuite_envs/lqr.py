"""LQR: a linear system with quadratic costs, whose best controller and whose policy gradients are known."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class LQR(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The double integrator: push a point along a line so that it comes to rest at the origin.

        x_{t+1} = A x_t + B u_t + w_t,   r_t = -(x_t^T x_t + u_t^T u_t),   x_0 ~ N(0, I),   w_t ~ N(0, noise^2 I),

    A = [[1, dt], [0, 1]], B = [0, dt]^T, dt = 0.2. Observation (2,): position and velocity. Action (1,): the force,
    which is never clipped. An episode does not terminate; the time limit is 20 steps, so J is the expected sum of 20
    rewards. For another horizon, give `gymnasium.make` also `max_episode_steps=horizon`. Nothing bounds the rewards:
    the expected return is -22.7 at best, -147 without any force, and far below with gains that do not stabilise.

    A policy is linear-Gaussian, u = K x + diag(exp(log_std)) z, z ~ N(0, I). With M = A + B K, the covariances
    S_{t+1} = M S_t M^T + B diag(exp(2 log_std)) B^T + noise^2 I of the states, S_0 = I, and the costs to go
    P_t = I + K^T K + M^T P_{t+1} M, P_H = 0, what is known exactly, in float64, is

        J = -sum_t [tr((I + K^T K) S_t) + sum_i exp(2 log_std_i)],
        dJ / dK = -2 sum_t (K + B^T P_{t+1} M) S_t,
        dJ / dlog_std_i = -2 exp(2 log_std_i) sum_t (I + B^T P_{t+1} B)_ii

    (Fazel, Ge, Kakade and Mesbahi, arXiv 1801.05039, for a horizon), and the best controller, by Riccati's equation.

    Attributes: `A` (2, 2), `B` (2, 1), `noise`, `horizon`.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own annotation)

    def __init__(self, horizon: int = 20, dt: float = 0.2, noise: float = 0.1) -> None:
        """Raises ValueError for a horizon below 1, a time step that is not positive, or a negative noise."""
        if horizon < 1 or dt <= 0.0 or noise < 0.0:
            raise ValueError(
                "an LQR needs a horizon of 1 or more, a positive time step and a noise of 0 or more, "
                f"not {horizon}, {dt} and {noise}."
            )
        self.A: Array = np.array([[1.0, dt], [0.0, 1.0]])
        self.B: Array = np.array([[0.0], [dt]])
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.horizon = horizon
        self.noise = noise
        self.x: Array = np.zeros(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.x = self.np_random.standard_normal(2)
        return self.x.astype(np.float32), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        u = np.asarray(action, np.float64)
        reward = -float(self.x @ self.x + u @ u)
        self.x = self.A @ self.x + self.B @ u + self.noise * self.np_random.standard_normal(2)
        return self.x.astype(np.float32), reward, False, False, {}

    def objective(self, gain: Array, log_std: Array) -> Array:
        """J (...) of gains K (..., 1, 2) and log_std (..., 1)."""
        costs = np.eye(2) + np.swapaxes(gain, -1, -2) @ gain
        states = sum(
            np.einsum("...ij,...ij->...", costs, covariance) for covariance in self._covariances(gain, log_std)
        )
        return np.asarray(-(states + self.horizon * np.exp(2.0 * log_std).sum(-1)))

    def gradient(self, gain: Array, log_std: Array) -> tuple[Array, Array]:
        """dJ / dK (..., 1, 2) and dJ / dlog_std (..., 1), at gains K (..., 1, 2) and log_std (..., 1)."""
        of_gain, of_log_std = np.zeros_like(gain), np.zeros_like(log_std)
        for covariance, to_go in zip(self._covariances(gain, log_std), self._costs_to_go(gain), strict=True):
            weighted = self.B.T @ to_go
            of_gain = of_gain - 2.0 * (gain + weighted @ (self.A + self.B @ gain)) @ covariance
            paid = np.diagonal(np.eye(1) + weighted @ self.B, axis1=-2, axis2=-1)
            of_log_std = of_log_std - 2.0 * np.exp(2.0 * log_std) * paid
        return of_gain, of_log_std

    def best(self) -> tuple[float, Array]:
        """J* of all controllers, and its gains (horizon, 1, 2): u_t = K_t x_t without noise, by Riccati's equation.

        K_t = -(I + B^T P_{t+1} B)^-1 B^T P_{t+1} A,  P_t = I + A^T P_{t+1} (A + B K_t),  P_H = 0,
        J* = -tr(P_0) - noise^2 sum_{t < H} tr(P_{t+1}).
        """
        to_go, disturbed = np.zeros((2, 2)), 0.0
        gains = np.zeros((self.horizon, 1, 2))
        for step in reversed(range(self.horizon)):
            disturbed += self.noise**2 * float(np.trace(to_go))
            weighted = self.B.T @ to_go
            gains[step] = -np.linalg.solve(np.eye(1) + weighted @ self.B, weighted @ self.A)
            to_go = np.eye(2) + self.A.T @ to_go @ (self.A + self.B @ gains[step])
        return -float(np.trace(to_go)) - disturbed, gains

    def best_stationary(self, log_std: Array, iterations: int = 200) -> tuple[float, Array]:
        """J and gain (1, 2) of the best policy of the form above at this log_std (1,).

        Where dJ / dK = 0, with S_t and P_t held, K (sum_t c_t S_t) = -sum_t B^T P_{t+1} A S_t, c_t = 1 + B^T P_{t+1} B;
        repeated from Riccati's first gain, until nothing moves.
        """
        gain = self.best()[1][0]
        for _ in range(iterations):
            left, right = np.zeros((2, 2)), np.zeros((1, 2))
            for covariance, to_go in zip(self._covariances(gain, log_std), self._costs_to_go(gain), strict=True):
                left = left + (1.0 + self.B.T @ to_go @ self.B) * covariance
                right = right - self.B.T @ to_go @ self.A @ covariance
            gain = np.linalg.solve(left, right.T).T
        return float(self.objective(gain, log_std)), gain

    def _covariances(self, gain: Array, log_std: Array) -> list[Array]:
        """S_t (..., 2, 2) for t < H."""
        closed = self.A + self.B @ gain
        pushed = (self.B * np.exp(2.0 * log_std)[..., None, :]) @ self.B.T
        found = [np.broadcast_to(np.eye(2), closed.shape)]
        for _ in range(self.horizon - 1):
            found.append(closed @ found[-1] @ np.swapaxes(closed, -1, -2) + pushed + self.noise**2 * np.eye(2))
        return found

    def _costs_to_go(self, gain: Array) -> list[Array]:
        """P_{t+1} (..., 2, 2) for t < H."""
        closed, costs = self.A + self.B @ gain, np.eye(2) + np.swapaxes(gain, -1, -2) @ gain
        found: list[Array] = [np.zeros(closed.shape)]
        for _ in range(self.horizon - 1):
            found.append(costs + np.swapaxes(closed, -1, -2) @ found[-1] @ closed)
        return found[::-1]
