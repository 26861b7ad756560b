"""PointMaze: push a ball through a maze from a fixed start to a fixed goal, for a reward of one on arrival."""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Cell = tuple[int, int]  # row and column of the map, from its upper left corner

RADIUS = 0.45  # of the goal, as in gymnasium-robotics' PointMaze
TASKS: dict[str, tuple[str, Cell, Cell]] = {  # the map's name in gymnasium-robotics, start, goal
    "umaze": ("U_MAZE", (3, 1), (1, 1)),
    "medium": ("MEDIUM_MAZE", (1, 1), (6, 5)),
    "large": ("LARGE_MAZE", (7, 1), (7, 10)),
}


class PointMaze(gym.Env[NDArray[np.float64], NDArray[np.float32]]):
    """gymnasium-robotics' PointMaze as offline RL poses it: reward 1 and termination at the goal, else 0.

    Observation (4,) float64: x, y, vx, vy. Action (2,) float32 in [-1, 1]: the force along x and y, for 0.01 s; before
    a step each speed is clipped to 5. A cell is 1 wide and the goal is reached within 0.45 of its cell's centre.
    Start (S) and goal (G) are two cells as far apart as the maze has them, at 6, 11 and 19 moves:

        umaze    #####    medium    ########    large    ############
                 #G  #              #S ##  #             #    #     #
                 ### #              #  #   #             # ## # # # #
                 #S  #              ##   ###             #      #   #
                 #####              #  #   #             # #### ### #
                                    # #  # #             #  # #     #
                                    #   #G #             ## # # # ###
                                    ########             #S #   #  G#
                                                         ############

    An episode starts at rest within 0.25 of the start cell's centre in x and in y, or of another free cell's with
    `reset(options={"reset_cell": (row, column)})`. `info["success"]` says whether the ball is at the goal.

    Unlike PointMaze in gymnasium-robotics the goal is always the centre of its cell (there it is moved by noise in each
    episode), and the observation is not a dictionary. Maps and time limits are those of D4RL's maze2d, whose goals are
    (1, 1), (6, 6) and (7, 9) with radius 0.5, whose episodes start anywhere, and do not end at the goal.

    Attributes: `walls` (rows, columns) bool, `start_cell`, `goal_cell`, and `goal` (2,) float64, the goal's centre.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium's own annotation)
        "render_modes": ["human", "rgb_array", "depth_array"],
        "render_fps": 100,
    }

    def __init__(self, maze: str = "umaze", render_mode: str | None = None) -> None:
        """Raises ImportError without gymnasium-robotics."""
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # on import it announces changes of other environments
                from gymnasium_robotics.envs.maze import maps
                from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
        except ImportError as error:
            raise ImportError(
                "PointMaze is made of gymnasium-robotics; install it with `pip install gymnasium-robotics`."
            ) from error
        name, self.start_cell, self.goal_cell = TASKS[maze]
        maze_map = getattr(maps, name)
        self.walls: NDArray[np.bool_] = np.array(maze_map) == 1
        self.goal = self.centre(self.goal_cell)
        self.render_mode = render_mode
        inner = PointMazeEnv(maze_map, render_mode, width=640)  # 480, the default, cuts the large maze's goal off
        Path(inner.tmp_xml_file_path).unlink(missing_ok=True)  # MuJoCo has read it, and nobody else removes it
        inner.goal = self.goal
        inner.update_target_site_pos()  # the red ball of a rendered frame
        self._noise = inner.position_noise_range
        self._point = inner.point_env
        self.observation_space = self._point.observation_space
        self.action_space = self._point.action_space

    def centre(self, cell: Cell) -> NDArray[np.float64]:
        """(2,): x and y of a cell's centre. The map's centre is the origin, and y grows upwards."""
        rows, columns = self.walls.shape
        return np.array([cell[1] + 0.5 - columns / 2, rows / 2 - cell[0] - 0.5])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Raises ValueError for a `reset_cell` that is no free cell."""
        super().reset(seed=seed)
        row, column = (options or {}).get("reset_cell", self.start_cell)
        rows, columns = self.walls.shape
        if not (0 <= row < rows and 0 <= column < columns) or self.walls[row, column]:
            raise ValueError(f"reset_cell {(row, column)} is no free cell of this maze; see the map in its docstring.")
        self._point.init_qpos[:2] = self.centre((row, column)) + self.np_random.uniform(-self._noise, self._noise, 2)
        observation, _ = self._point.reset()
        return observation, {"success": self._at_goal(observation)}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        observation = self._point.step(action)[0]
        reached = self._at_goal(observation)
        return observation, float(reached), reached, False, {"success": reached}

    def render(self) -> Any:
        return self._point.render()

    def close(self) -> None:
        self._point.close()

    def _at_goal(self, observation: NDArray[np.float64]) -> bool:
        return math.dist(observation[:2], self.goal) <= RADIUS
