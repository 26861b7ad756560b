"""Car racing: drive a 1:43 scale car along a track, paid for progress (Prajapat et al., arXiv 2307.13372)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlsuite_envs.race_track import CURVATURE, along, on_track, paint, picture, position

Array = NDArray[np.float64]
Observations = NDArray[np.float32]

SECONDS = 0.03  # of a step
MASS, INERTIA, FRONT, REAR = 0.041, 27.8e-6, 0.029, 0.033  # kg, kg m^2, m from the centre of mass to the axles
MOTOR, MOTOR_LOSS, ROLLING, DRAG = 0.287, 0.054527, 0.051891, 0.000348  # Cm1, Cm2, Cr0, Cr2
FRONT_TYRE, REAR_TYRE = (2.579, 1.2, 1.05 * 0.192), (3.3852 / 1.2, 1.2691, 0.1737 * 1.2)  # Pacejka's B, C, D
CRAWL = 0.1  # m/s, up to which the motor at least keeps the speed
SLOW, FAST = 0.3, 0.5  # m/s, between which the kinematic model fades into the dynamic one
FOLD = 0.2  # least value of 1 - kappa d

FINISH = 16.4  # m
START, TIME_COST, BONUS = 0.1, 0.01, 1.0
REWARDS = ("gain", "additive")


def dynamic(state: Array, drive: Array, steering: Array) -> Array:
    """Time derivatives (6, n) of s, d, mu, v_x, v_y, r: the single-track model with Pacejka's tyres."""
    s, d, mu, v_x, v_y, r = state
    curvature = along(s, CURVATURE)
    slip_front = steering - np.arctan((FRONT * r + v_y) / (v_x + 1e-5))
    slip_rear = np.arctan((REAR * r - v_y) / (v_x + 1e-5))
    front, rear = tyre(slip_front, *FRONT_TYRE), tyre(slip_rear, *REAR_TYRE)
    cos, sin = np.cos(mu), np.sin(mu)
    progress = (v_x * cos - v_y * sin) / np.maximum(1 - curvature * d, FOLD)
    return np.stack(
        [
            progress,
            v_x * sin + v_y * cos,
            r - curvature * progress,
            (motor(drive, v_x) - front * np.sin(steering)) / MASS + v_y * r,
            (rear + front * np.cos(steering)) / MASS - v_x * r,
            (front * FRONT * np.cos(steering) - rear * REAR) / INERTIA,
        ]
    )


def kinematic(state: Array, drive: Array, slip: Array) -> Array:
    """Time derivatives (4, n) of s, d, mu, v: no tyre slides, and the car moves at `slip` to its axis."""
    s, d, mu, v = state
    curvature = along(s, CURVATURE)
    holding = (ROLLING + DRAG * v * v) / (MOTOR - MOTOR_LOSS * v)
    drive = np.where(v <= CRAWL, np.maximum(drive, holding), drive)
    progress = v * np.cos(slip + mu) / np.maximum(1 - curvature * d, FOLD)
    turning = v * np.sin(slip) / REAR
    return np.stack([progress, v * np.sin(slip + mu), turning - curvature * progress, motor(drive, v) / MASS])


def motor(drive: Array, v: Array) -> Array:
    """Force along the axis, N."""
    return MOTOR * drive - MOTOR_LOSS * v * drive - DRAG * v * v - ROLLING


def tyre(slip: Array, b: float, c: float, d: float) -> Array:
    """Force across, N."""
    force: Array = d * np.sin(c * np.arctan(b * slip))
    return force


def runge_kutta(derivatives: Callable[..., Array], state: Array, *controls: Array) -> Array:
    """The state a step later, by the classical method of fourth order."""
    k1 = derivatives(state, *controls)
    k2 = derivatives(state + SECONDS / 2 * k1, *controls)
    k3 = derivatives(state + SECONDS / 2 * k2, *controls)
    k4 = derivatives(state + SECONDS * k3, *controls)
    return state + SECONDS / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def advance(state: Array, actions: Array) -> Array:
    """The states (6, n) of n cars a step after `state`, with `actions` (n, 2)."""
    drive, steering = np.clip(np.asarray(actions, np.float64).T, -1.0, 1.0)
    share = np.clip((state[3] - SLOW) / (FAST - SLOW), 0.0, 1.0)
    if (share == 1).all():
        return runge_kutta(dynamic, state, drive, steering)
    slip = np.arctan(REAR * np.tan(steering) / (FRONT + REAR))
    s, d, mu, v = runge_kutta(kinematic, np.stack([*state[:3], np.hypot(state[3], state[4])]), drive, slip)
    v = np.maximum(v, 0.0)  # a full brake can pass 0 within a step
    v_x = v * np.cos(slip)
    slow = np.stack([s, d, mu, v_x, v * np.sin(slip), v_x * np.tan(steering) / (FRONT + REAR)])
    if not share.any():
        return slow
    fast = runge_kutta(dynamic, state, drive, steering)
    return np.where(share > 0, share * fast + (1 - share) * slow, slow)


class RaceCars:
    """n cars, each on a track of its own, with what `RaceCar` says of one; `limit` steps end an episode, 0 none.

    Attributes: `state` (6, n) float64: s, d, mu, v_x, v_y, r.
    """

    def __init__(self, n: int, limit: int = 0, reward: str = "gain") -> None:
        """Raises ValueError for an unknown reward."""
        if reward not in REWARDS:
            raise ValueError(f"the reward of car racing is one of {', '.join(REWARDS)}, not {reward!r}.")
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.reward, self.limit = reward, limit
        self.state: Array = np.zeros((6, n))
        self.steps = np.zeros(n, np.int64)

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> Observations:
        """Begin new episodes in `slots`; gives their first observations, (m, 5)."""
        for k, seed in zip(slots, seeds, strict=True):
            self.begin(k, np.random.default_rng(seed))
        return self.observe(np.asarray(slots))

    def begin(self, k: int, rng: np.random.Generator) -> None:
        """Put car k at the start."""
        self.state[:, k] = 0.0
        self.state[1, k] = rng.choice((-START, START))
        self.steps[k] = 0

    def observe(self, chosen: NDArray[np.int64]) -> Observations:
        """(m, 5)"""
        return self.state[:5, chosen].T.astype(np.float32)

    def step(
        self, slots: Sequence[int] | NDArray[np.int64], actions: NDArray[np.float32]
    ) -> tuple[Observations, Array, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Let `slots` (m,) take their of the n `actions`.

        Gives, each with m rows, observations, rewards, terminations, truncations, and whether a life was lost (none).
        """
        chosen = np.asarray(slots)
        before = np.take(self.state, chosen, 1)
        state = advance(before, actions[chosen])
        self.state[:, chosen] = state
        self.steps[chosen] += 1
        s, d = state[:2]
        off, home = ~on_track(s, d), s >= FINISH
        rewards = (s if self.reward == "additive" else s - before[0]) - TIME_COST - off + BONUS * home
        truncations = self.steps[chosen] >= self.limit if self.limit else np.zeros(len(chosen), bool)
        return self.observe(chosen), rewards, off | home, truncations, np.zeros(len(chosen), bool)

    def close(self) -> None:
        pass


class RaceCar(gym.Env[Observations, NDArray[np.float32]]):
    """One lap of a track of 16.4 m for a car of 41 g, at up to 4.2 m/s.

    The state is the place on the track, s along its centre line and d to the left of it, m, the heading mu relative to
    the centre line, rad, the velocity v_x, v_y along the car's axes, m/s, and the yaw rate r, rad/s. The action (2,)
    float32 in [-1, 1] is D, the motor's duty cycle, and delta, the angle of the front wheels in rad; it acts for 0.03 s
    (one step of the Runge-Kutta method). Above 0.5 m/s the car has the dynamics of Liniger, Domahidi and Morari (arXiv
    1711.07300), below 0.3 m/s, where those are singular, a kinematic model, and a mixture of the two states in between.
    The car cannot roll back: up to 0.1 m/s it keeps its speed at least. With kappa(s), the curvature, 1 - kappa d is
    kept at 0.2 or more: at s = 9.2 the tabulated edge lies beyond the centre of curvature, where a car would pass
    without end while it stands still.

    Observation (5,) float32: s, d, mu, v_x, v_y; the yaw rate is hidden. An episode starts at rest at s = 0 and d =
    0.1 or -0.1, terminates off the track and at s = 16.4, and its time limit is 700 steps. F = s, the track that was
    covered, which is 0 at first. Rewards:

        gain      s_t+1 - s_t - 0.01, and one less off the track, one more at the finish
        additive  the same with s_t+1 in place of the gain

    `info` has `F`, `additive` (s) and `initial_gain`, 0.

    The picture (`rgb_array`) shows the track from above, the car's path on it and the car. It is drawn by integrating
    the curvature, of which every 0.2 m is tabulated, so that the ends of the lap miss each other by 0.26 m and 5
    degrees, two parts of the track touch, and one corner of an edge is folded. That is no part of the task, which knows
    only s and d.

    Attributes: `cars`, a `RaceCars` of one, and `path`, the places (s, d) of the episode.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 33}  # noqa: RUF012 (Gymnasium's own)
    slots: ClassVar = RaceCars

    def __init__(self, reward: str = "gain", render_mode: str | None = None) -> None:
        """Raises ValueError for an unknown reward."""
        self.cars = RaceCars(1, reward=reward)
        self.observation_space, self.action_space = self.cars.observation_space, self.cars.action_space
        self.render_mode = render_mode
        self.path: list[tuple[float, float]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        super().reset(seed=seed)
        self.cars.begin(0, self.np_random)
        self.path = [self._place()]
        return self.cars.observe(np.array([0]))[0], self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        observations, rewards, terminations, _, _ = self.cars.step([0], np.asarray(action)[None])
        self.path.append(self._place())
        return observations[0], float(rewards[0]), bool(terminations[0]), False, self._info()

    def render(self) -> NDArray[np.uint8]:
        """(280, 300, 3)"""
        frame = picture().copy()
        paint(frame, *position(*np.array(self.path).T)[:2], (70, 110, 190))
        s, d, mu = self.cars.state[:3, 0]
        x, y, heading = position(s, d)
        ahead, aside = np.meshgrid(np.linspace(-0.06, 0.06, 25), np.linspace(-0.03, 0.03, 13))
        cos, sin = np.cos(heading + mu), np.sin(heading + mu)
        paint(frame, x + ahead * cos - aside * sin, y + ahead * sin + aside * cos, (200, 50, 40))
        return frame

    def _place(self) -> tuple[float, float]:
        s, d = self.cars.state[:2, 0].tolist()
        return s, d

    def _info(self) -> dict[str, Any]:
        s = float(self.cars.state[0, 0])
        return {"F": s, "additive": s, "initial_gain": 0.0}
