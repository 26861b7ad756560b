"""Walks through a PointMaze: the behaviour of the `rlsuite/pointmaze/...` datasets, and the expert of their scores."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from rlsuite_envs.point_maze import Cell, PointMaze

Point = tuple[float, float]

TO_GOAL = 0.125  # probability of an episode that walks to the goal
NOISE = 0.5  # standard deviation of the noise on either force, as in D4RL's noisy maze2d data
PROPORTIONAL = 10.0  # gain, as D4RL's controller for maze2d has it
DERIVATIVE = 1.5  # gain; there it is 1, with which the ball now and then runs past a waypoint into another cell
CLOSE = 0.1  # a target is reached when x and y are as near as this
SPREAD = 0.2  # largest distance of a waypoint from its cell's centre, in x and in y


class WaypointController:
    """Pushes the ball from cell to cell along shortest paths, with force clip(10 (waypoint - position) - 1.5 velocity).

    The waypoint is a point of the next cell on the path from wherever the ball is, near the centre and drawn anew for
    each walk. Normal noise is added to the force, which is then clipped again.

    An episode begins in a random free cell, its home, and walks to one random cell after another. With L moves from
    the evaluation start to the goal, it keeps to the cells within L // 3 moves of its home, and no walk is longer than
    L // 2. So no episode touches both start and goal: data of this behaviour solve the task only when episodes are
    put together. An eighth of the episodes have their home within L // 3 of the goal and walk straight to it; all
    others leave the goal out.

    With `expert` the ball goes to the goal from anywhere, without noise and with the cells' centres as waypoints;
    episodes begin where the environment has them begin.
    """

    _target: Cell
    _waypoint: Point

    def __init__(self, expert: bool = False) -> None:
        self.expert = expert

    def begin(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> dict[str, Any] | None:
        """Start of an episode, before reset, with everything to come drawn from `rng`; gives the options of reset."""
        maze = env.unwrapped
        assert isinstance(maze, PointMaze)
        self._maze, self._rng = maze, rng
        self._half_rows, self._half_columns = (size / 2 for size in maze.walls.shape)
        free: list[Cell] = [(row, column) for row, column in np.argwhere(~maze.walls).tolist()]
        from_goal = moves(free, maze.goal_cell)
        longest = from_goal[maze.start_cell]
        self._longest_walk = longest // 2
        if self.expert:
            self._area: Collection[Cell] = free
            self._noise: Iterator[Point] = itertools.repeat((0.0, 0.0))
            self._aim(maze.goal_cell)
            return None
        radius = longest // 3
        to_goal = rng.random() < TO_GOAL
        others = [cell for cell in free if cell != maze.goal_cell]
        home = self._pick([cell for cell in others if from_goal[cell] <= radius] if to_goal else others)
        around = moves(free if to_goal else others, home)
        self._area = {cell: count for cell, count in around.items() if count <= radius}
        self._noise = _noise(rng)
        self._aim(maze.goal_cell if to_goal else self._next_target(home))
        return {"reset_cell": home}

    def act(self, observation: np.ndarray) -> np.ndarray:
        """(2,) float32 in [-1, 1] for an observation (4,)."""
        # Python floats: on two numbers NumPy would take ten times as long.
        x, y, vx, vy = observation.tolist()
        cell = int(self._half_rows - y), int(self._half_columns + x)
        if cell == self._target and not self.expert:
            to_x, to_y = self._waypoints[cell]
            if abs(to_x - x) < CLOSE and abs(to_y - y) < CLOSE:
                self._aim(self._next_target(cell))
        # Should the ball be knocked out of the area, the last waypoint leads back.
        to_x, to_y = self._waypoint = self._waypoints.get(cell, self._waypoint)
        noise_x, noise_y = next(self._noise)
        force_x = _clip(PROPORTIONAL * (to_x - x) - DERIVATIVE * vx)
        force_y = _clip(PROPORTIONAL * (to_y - y) - DERIVATIVE * vy)
        return np.array([_clip(force_x + noise_x), _clip(force_y + noise_y)], np.float32)

    def _pick(self, cells: list[Cell]) -> Cell:
        return cells[self._rng.integers(len(cells))]

    def _next_target(self, cell: Cell) -> Cell:
        return self._pick([other for other, n in moves(self._area, cell).items() if 0 < n <= self._longest_walk])

    def _aim(self, target: Cell) -> None:
        """Set the waypoint of every cell of the area, on the way to `target`."""
        count = moves(self._area, target)
        spread = 0.0 if self.expert else SPREAD
        offsets = self._rng.uniform(-spread, spread, (len(count), 2))
        points: dict[Cell, Point] = {}
        for cell, offset in zip(count, offsets, strict=True):
            x, y = (self._maze.centre(cell) + offset).tolist()
            points[cell] = x, y
        self._waypoints = {target: points[target]}
        for cell in list(count)[1:]:
            self._waypoints[cell] = points[min((n for n in neighbours(cell) if n in count), key=count.__getitem__)]
        self._target, self._waypoint = target, points[target]


def neighbours(cell: Cell) -> list[Cell]:
    """The four cells beside a cell, walls or not."""
    row, column = cell
    return [(row - 1, column), (row, column - 1), (row, column + 1), (row + 1, column)]


def moves(free: Collection[Cell], source: Cell) -> dict[Cell, int]:
    """The number of moves from `source` to every cell of `free` that can be reached within `free`, nearest first."""
    found, queue = {source: 0}, [source]
    for cell in queue:
        for other in neighbours(cell):
            if other in free and other not in found:
                found[other] = found[cell] + 1
                queue.append(other)
    return found


def _noise(rng: np.random.Generator) -> Iterator[Point]:
    while True:
        yield from rng.normal(0, NOISE, (256, 2)).tolist()  # one at a time would take longer than the rest of `act`


def _clip(force: float) -> float:
    return min(max(force, -1.0), 1.0)
