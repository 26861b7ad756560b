"""Grids whose reward is the marginal gain of a set function: one path at a time, or many side by side.

Prajapat, Mutny, Zeilinger and Krause, Submodular Reinforcement Learning, arXiv 2307.13372. The tasks of that paper are
in `submodular_tasks`, their set functions in `set_functions`. A set function of your own needs no base class:

    class Distinct:                                     # how many different cells a path visits
        additive = np.ones(25)

        def reset(self, batch):
            self.new = np.ones((batch, 25), bool)

        def gain(self, states):
            paths = np.arange(len(states))
            gains = self.new[paths, states].astype(float)
            self.new[paths, states] = False
            return gains

    env = SubmodularGrid(5, 5, horizon=12, function=Distinct(), start=0)
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlsuite_envs.set_functions import Array, Cells, SetFunction

MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))  # (down, right) of stay, right, down, left, up
PIXELS = 12  # height and width of a cell in a picture
EARLY, LATE, NOW = np.array([0.0, 40.0, 160.0]), np.array([255.0, 200.0, 0.0]), np.array([220.0, 20.0, 20.0])


class SubmodularGrid(gym.Env[dict[str, Any], np.int64]):
    """A path s_0 .. s_{H-1} over the cells of a grid, paid for what each new cell adds to F of those before.

    Cell n is row n // columns and column n % columns. Actions: stay, right, down, left, up; a move into a wall or out
    of the grid stays. With probability `stochasticity` a uniformly drawn action is executed instead of the chosen one.
    An episode has `horizon` H cells, so H - 1 steps, and ends in a truncation; nothing is to be had after it.

    Observation, a dictionary:

        cell      the current cell, in 0..N-1
        path      (H,) int64, the cells visited so far in their order, and -1 for those to come
        t         how many steps were taken, in 0..H-1
        visited   (N,) int8, 1 for every cell of the path

    Reward: g_h = F({s_0, .., s_{h+1}}) - F({s_0, .., s_h}). What the start is worth, F({s_0}), no policy can change: it
    is in `info["initial_gain"]`, and with `initial_reward` also in the first reward, so that the return is F of the
    path. `info["F"]` is F so far, and `info["additive"]` what a visit to this cell is worth without history.

    Attributes: `rows`, `columns`, `cells` (N), `horizon` (H), `start`, `stochasticity`, `function`, `walls` (rows,
    columns) bool, `next_cell` (N, 5) int64, and `field` (rows, columns), which pictures show.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own)

    def __init__(
        self,
        rows: int,
        columns: int,
        horizon: int,
        function: SetFunction,
        start: int = 34,
        walls: NDArray[np.bool_] | None = None,
        stochasticity: float = 0.0,
        initial_reward: bool = False,
        field: Array | None = None,
        render_mode: str | None = None,
    ) -> None:
        """`field` is the additive reward if not given. Raises ValueError for values without meaning."""
        cells = rows * columns
        if min(rows, columns) < 1 or horizon < 2 or not 0.0 <= stochasticity <= 1.0:
            raise ValueError(
                "a SubmodularGrid needs rows and columns of 1 or more, a horizon of 2 or more and a stochasticity in "
                f"[0, 1], not {rows}, {columns}, {horizon} and {stochasticity}."
            )
        self.walls = np.zeros((rows, columns), bool) if walls is None else np.asarray(walls, bool)
        if self.walls.shape != (rows, columns):
            raise ValueError(f"the walls of a grid of {rows} x {columns} have that shape, not {self.walls.shape}.")
        if not 0 <= start < cells or self.walls.flat[start]:
            raise ValueError(f"the start, cell {start}, is no free cell of this grid of {cells}.")
        if np.shape(function.additive) != (cells,):
            raise ValueError(
                f"the set function's `additive` has the shape {np.shape(function.additive)}; a grid of {rows} x "
                f"{columns} needs ({cells},)."
            )
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"the render mode {render_mode!r} is unknown; choose 'rgb_array'.")
        self.rows, self.columns, self.cells = rows, columns, cells
        self.horizon, self.start, self.stochasticity = horizon, start, stochasticity
        self.initial_reward, self.render_mode = initial_reward, render_mode
        self.function = function
        self.field = np.reshape(function.additive if field is None else field, (rows, columns))
        self.next_cell = transitions(self.walls)
        self.observation_space = gym.spaces.Dict(
            cell=gym.spaces.Discrete(cells),
            path=gym.spaces.Box(-1, cells - 1, (horizon,), np.int64),
            t=gym.spaces.Discrete(horizon),
            visited=gym.spaces.MultiBinary(cells),
        )
        self.action_space = gym.spaces.Discrete(len(MOVES))
        self._path: Cells = np.full(horizon, -1)
        self._visited = np.zeros(cells, np.int8)
        self._F = 0.0
        self._only = self.batch(1)

    def batch(self, n: int) -> SubmodularBatch:
        """The same task for n paths side by side, which share nothing with this environment."""
        return SubmodularBatch(self, n)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._path[:] = -1
        self._visited[:] = 0
        cells = self._only.reset()
        self._F = self._only.initial_gain.item()
        return self._arrive(cells), self._info()

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Raises ValueError for an action that is none, and after the end of an episode."""
        if not 0 <= action < len(MOVES):
            raise ValueError(f"an action is a whole number from 0 to {len(MOVES) - 1}, not {action}.")
        first = self._only.t == 0
        uniforms = np.array([self.np_random.random()]) if self.stochasticity else None
        cells, gains, _ = self._only.step(np.array([action]), uniforms)
        reward = gains.item()
        self._F += reward
        if first and self.initial_reward:
            reward += self._only.initial_gain.item()
        return self._arrive(cells), reward, False, self._only.t == self.horizon - 1, self._info()

    def render(self) -> NDArray[np.uint8] | None:
        """(12 rows, 12 columns, 3): the field in grey, walls black, the path from blue to yellow, its end red."""
        if self.render_mode is None:
            return None
        low, high = self.field.min(), self.field.max()
        grey = 60.0 + 140.0 * (self.field - low) / max(high - low, np.finfo(np.float64).tiny)
        squares = np.repeat(np.where(self.walls, 0.0, grey).ravel()[:, None], 3, 1).astype(np.uint8)
        picture = squares.reshape(self.rows, 1, self.columns, 1, 3).repeat(PIXELS, 1).repeat(PIXELS, 3)
        for t, cell in enumerate(self._path[: self._only.t + 1]):
            colour = EARLY + (LATE - EARLY) * t / (self.horizon - 1) if t < self._only.t else NOW
            picture[cell // self.columns, 3:-3, cell % self.columns, 3:-3] = colour
        return picture.reshape(self.rows * PIXELS, self.columns * PIXELS, 3)

    def _arrive(self, cells: Cells) -> dict[str, Any]:
        cell = cells.item()
        self._path[self._only.t] = cell
        self._visited[cell] = 1
        return {"cell": cell, "path": self._path.copy(), "t": self._only.t, "visited": self._visited.copy()}

    def _info(self) -> dict[str, Any]:
        additive = float(self.function.additive[self._path[self._only.t]])
        return {"F": self._F, "additive": additive, "initial_gain": self._only.initial_gain.item()}


class SubmodularBatch:
    """n paths of one SubmodularGrid side by side, without Gymnasium: the same numbers, bit for bit.

    Attributes: `cells` (n,) int64, `t`, which is the same for all paths, `initial_gain` (n,), and the set function's
    own copy, `function`.
    """

    def __init__(self, env: SubmodularGrid, n: int) -> None:
        """Raises ValueError without a path."""
        if n < 1:
            raise ValueError(f"a batch has 1 path or more, not {n}.")
        self.n, self.start, self.horizon, self.stochasticity = n, env.start, env.horizon, env.stochasticity
        self.function = copy.deepcopy(env.function)
        self.next_cell, self._additive = env.next_cell, np.asarray(self.function.additive, np.float64)
        self.t = self.horizon - 1  # nothing can be stepped before `reset`

    def reset(self) -> Cells:
        """Begin anew; gives the cells (n,). Raises ValueError if a user's F does not give n finite numbers."""
        self.t = 0
        self.cells: Cells = np.full(self.n, self.start)
        self.function.reset(self.n)
        self.initial_gain = self._gain()
        if self.initial_gain.shape != (self.n,) or not np.isfinite(self.initial_gain).all():
            raise ValueError(
                f"the set function's `gain` of {self.n} states is {self.initial_gain!r}; return an array of "
                f"{self.n} finite numbers."
            )
        return self.cells

    def step(self, actions: Cells, uniforms: Array | None = None) -> tuple[Cells, Array, Array]:
        """Let every path take its action (n,); gives the new cells, their gains and their additive rewards, (n,) each.

        `uniforms` (n,), drawn from U[0, 1), decide which action is executed where the task is stochastic. Raises
        ValueError without them there, and when the paths have `horizon` cells already.
        """
        if self.t == self.horizon - 1:
            raise ValueError(f"a path has {self.horizon} cells, and no step after that; reset first.")
        if self.stochasticity:
            actions = self._executed(actions, uniforms)
        self.cells = self.next_cell[self.cells, actions]
        self.t += 1
        return self.cells, self._gain(), self._additive[self.cells]

    def select(self, rows: Cells) -> None:
        """Go on with these paths (m,), in this order and with repetition. The set function needs `select` for it."""
        self.n = len(rows)
        self.cells, self.initial_gain = self.cells[rows], self.initial_gain[rows]
        self.function.select(rows)

    def _gain(self) -> Array:
        return np.asarray(self.function.gain(self.cells), np.float64)

    def _executed(self, actions: Cells, uniforms: Array | None) -> Cells:
        """A uniform below p replaces the action; where in [0, p) it lies is uniform again, and says by which."""
        if uniforms is None:
            raise ValueError(f"with a stochasticity of {self.stochasticity} a step needs uniforms, one for each path.")
        others = np.minimum(uniforms / self.stochasticity * len(MOVES), len(MOVES) - 1).astype(np.int64)
        return np.where(uniforms < self.stochasticity, others, actions)


def transitions(walls: NDArray[np.bool_]) -> Cells:
    """The cell (N, 5) that each action leads to from each cell of a grid with these walls (rows, columns)."""
    rows, columns = walls.shape
    here = np.arange(walls.size)
    row, column = np.divmod(here, columns)
    table = np.empty((walls.size, len(MOVES)), np.int64)
    for action, (down, right) in enumerate(MOVES):
        there = np.clip(row + down, 0, rows - 1) * columns + np.clip(column + right, 0, columns - 1)
        table[:, action] = np.where(walls.ravel()[there], here, there)
    return table
