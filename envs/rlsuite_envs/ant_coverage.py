"""Ant coverage: walk over as much ground as possible, paid for what is new (Prajapat et al., arXiv 2307.13372)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from numpy.typing import NDArray

Array = NDArray[np.float64]

HALF = 20.0  # of the field's side, m
CELL = 0.4  # side of a cell, m
CELLS = 100  # along a side of the field
REACH = 5  # a visit marks REACH x REACH cells
VIEW, BLOCK = 11, 3  # what history shows: VIEW x VIEW blocks of BLOCK x BLOCK cells
MARGIN = VIEW * BLOCK // 2  # cells that a view from the edge of the field shows beyond it
SCALE = 10.0  # cells per unit of reward
LOWEST, HIGHEST = 0.2, 1.0  # z of a healthy torso, m, as Ant-v5 has it
REWARDS = ("gain", "additive", "modular_official")


class Ground:
    """The cells of one field, and which of them are marked.

    Attributes: `marked` (100, 100) uint8, x first, and `count`, how many of them are.
    """

    def __init__(self) -> None:
        side = CELLS + 1 + 2 * MARGIN  # the one for x = 20, which is in the field and in none of its cells
        self._seen = np.ones((side, side), np.uint8)  # beyond the field is nothing to gain
        self.marked = self._seen[MARGIN : MARGIN + CELLS, MARGIN : MARGIN + CELLS]
        self.clear()

    def clear(self) -> None:
        self.marked[:] = 0
        self.count = 0

    def visit(self, x: float, y: float) -> tuple[int, int]:
        """Mark what a visit of (x, y), in m, covers; gives how many cells are new, and how many a first visit has."""
        if not self.has(x, y):
            return 0, 0
        a, b = cell(x), cell(y)
        patch = self.marked[a : a + REACH, b : b + REACH]
        new = patch.size - int(np.count_nonzero(patch))
        if new:
            patch[:] = 1
            self.count += new
        return new, patch.size

    def around(self, x: float, y: float) -> Array:
        """(121,): the share of marked cells in each block around (x, y), x first; 0 everywhere if that is no place."""
        if not self.has(x, y):
            return np.zeros(VIEW * VIEW)
        a, b = cell(x), cell(y)
        side = VIEW * BLOCK
        view = self._seen[a : a + side, b : b + side].reshape(VIEW, BLOCK, VIEW, BLOCK)
        shares: Array = view.sum((1, 3), np.int64).ravel() / BLOCK**2
        return shares

    @staticmethod
    def has(x: float, y: float) -> bool:
        """Whether (x, y) is in the field."""
        return abs(x) <= HALF and abs(y) <= HALF


def cell(metres: float) -> int:
    """Index of the cell at a coordinate of the field."""
    return int((metres + HALF) / CELL)


class AntCoverage(AntEnv):
    """Gymnasium's Ant-v5 on a field of 40 m x 40 m, whose ground is covered by walking.

    The field has 100 x 100 cells of 0.4 m. At (x, y), in the cell (a, b), the ant marks the cells a..a+4 by b..b+4 as
    far as they are in the field, and has marked those of its start when an episode begins. F is the number of marked
    cells, a monotone submodular function of the positions; the rewards are tenths of

        gain              newly marked cells, F(s_0..s_h+1) - F(s_0..s_h)
        additive          F({s_h+1}): 25, less within 1.6 m of two edges, however often they were marked before
        modular_official  F(s_0..s_h+1), all that is marked, which is what the authors' code calls modular

    so that with `gain` the return and `initial_gain` add up to F / 10. The ant's own reward is dropped. An episode
    terminates as Ant-v5 does, and where |x| or |y| passes 20 m (nothing is marked there); its time limit is 400 steps
    of 0.05 s.

    Observation (29,) float64: Ant-v5's without contact forces, but with x and y in front. With `history` it has 121
    numbers more, (150,): what is marked around the ant, as the shares of 11 x 11 blocks of 1.2 m, the ant in the middle
    one, x first; the ground beyond the field counts as marked. A view that goes along tells a network without
    convolutions the same in every place. Its axes are the world's, as those of the velocity are, and its 6.6 m each way
    are three times the track that the ant leaves, and more than a second of walking. Action (8,) float32 in [-1, 1]:
    the torques.

    `info` has `F`, `additive` (in rewards), and `initial_gain`, F({s_0}) / 10.

    Attributes: `ground`, whose `marked` (100, 100) uint8 is the field.
    """

    def __init__(self, reward: str = "gain", history: bool = False, **kwargs: Any) -> None:
        """Raises ValueError for an unknown reward; `kwargs` go to Gymnasium's MujocoEnv: how to render."""
        if reward not in REWARDS:
            raise ValueError(f"the reward of ant coverage is one of {', '.join(REWARDS)}, not {reward!r}.")
        self.reward, self.history = reward, history
        self.ground = Ground()
        self.initial_gain = 0.0
        super().__init__(
            exclude_current_positions_from_observation=False, include_cfrc_ext_in_observation=False, **kwargs
        )
        gym.utils.EzPickle.__init__(self, reward, history, **kwargs)  # in place of what Ant-v5 keeps of its own
        if history:
            size = self.data.qpos.size + self.data.qvel.size + VIEW * VIEW
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.ground.clear()
        x, y = self.data.qpos[:2].tolist()
        new, _ = self.ground.visit(x, y)
        self.initial_gain = new / SCALE
        return self.observe(self.data, self.ground), {"F": self.ground.count, "initial_gain": self.initial_gain}

    def step(self, action: NDArray[np.float32]) -> tuple[Array, np.float64, bool, bool, dict[str, Any]]:
        self.do_simulation(action, self.frame_skip)
        x, y = self.data.qpos[:2].tolist()
        new, alone = self.ground.visit(x, y)
        reward = np.float64(self.pay(new, alone, self.ground))
        terminated = not (self.is_healthy and self.ground.has(x, y))
        if self.render_mode == "human":
            self.mujoco_renderer.render(self.render_mode)
        info = {"F": self.ground.count, "additive": alone / SCALE, "initial_gain": self.initial_gain}
        return self.observe(self.data, self.ground), reward, terminated, False, info

    def pay(self, new: int, alone: int, ground: Ground) -> float:
        """The reward of a visit that marked `new` cells on `ground`, and would have marked `alone` as the first one."""
        return {"gain": new, "additive": alone, "modular_official": ground.count}[self.reward] / SCALE

    def observe(self, data: mujoco.MjData, ground: Ground) -> Array:
        """(29,) or (150,)"""
        parts = [data.qpos, data.qvel]
        return np.concatenate([*parts, ground.around(*data.qpos[:2].tolist())] if self.history else parts)


class AntCoverages:
    """n ants, each on ground of its own: what n `AntCoverage` do, bit for bit, without Gymnasium between the steps.

    `limit` steps end an episode, 0 none; `kwargs` are those of `AntCoverage`. More than nine tenths of the time are
    MuJoCo's in either form, so this takes hardly less of it; what it spares is a renderer and a wrapper for every ant.

    Attributes: `bodies`, one simulation an ant, and `grounds`.
    """

    def __init__(self, n: int, limit: int = 0, **kwargs: Any) -> None:
        self.ant = AntCoverage(**kwargs)  # begins the episodes
        self.observation_space, self.action_space = self.ant.observation_space, self.ant.action_space
        self.limit = limit
        self.steps = np.zeros(n, np.int64)
        self.bodies = [mujoco.MjData(self.ant.model) for _ in range(n)]
        self.grounds = [Ground() for _ in range(n)]

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> Array:
        """Begin new episodes in `slots`; gives their first observations, (m, 29) or (m, 150)."""
        observations = []
        for k, seed in zip(slots, seeds, strict=True):
            observations.append(self.ant.reset(seed=seed)[0])
            mujoco.mj_copyData(self.bodies[k], self.ant.model, self.ant.data)
            self.grounds[k].clear()
            self.grounds[k].visit(*self.bodies[k].qpos[:2].tolist())
            self.steps[k] = 0
        return np.array(observations)

    def step(
        self, slots: Sequence[int] | NDArray[np.int64], actions: NDArray[np.float32]
    ) -> tuple[Array, Array, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Let `slots` (m,) take their of the n `actions`.

        Gives, each with m rows, observations, rewards, terminations, truncations, and whether a life was lost (none).
        """
        observations, rewards, terminations = [], [], []
        for k in slots:
            body, ground = self.bodies[k], self.grounds[k]
            body.ctrl[:] = actions[k]
            mujoco.mj_step(self.ant.model, body, nstep=self.ant.frame_skip)
            x, y, z = body.qpos[:3].tolist()
            new, alone = ground.visit(x, y)
            rewards.append(self.ant.pay(new, alone, ground))
            observations.append(self.ant.observe(body, ground))
            terminations.append(not (LOWEST <= z <= HIGHEST and ground.has(x, y)))
        seen = np.array(observations)
        ends = np.array(terminations) | ~np.isfinite(seen).all(1)
        steps = self.steps[slots] = self.steps[slots] + 1
        truncations = steps >= self.limit if self.limit else np.zeros(len(steps), bool)
        return seen, np.array(rewards), ends, truncations, np.zeros(len(steps), bool)

    def close(self) -> None:
        pass
