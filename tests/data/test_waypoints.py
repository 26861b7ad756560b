"""The walks through PointMaze: stitching is needed, some episodes arrive, and the expert always does."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest

from rlsuite.data.waypoints import WaypointController, moves
from rlsuite_envs.point_maze import Cell, PointMaze

pytest.importorskip("gymnasium_robotics")
EPISODES = {"UMaze": 200, "Medium": 150, "Large": 150}


class Walk(NamedTuple):
    observations: np.ndarray  # (T + 1, 4)
    actions: np.ndarray  # (T, 2)
    terminated: bool
    home: Cell


def make(name: str) -> tuple[gym.Env, PointMaze]:
    env = gym.make(f"rlsuite/PointMaze-{name}-v0")
    assert isinstance(env.unwrapped, PointMaze)
    return env, env.unwrapped


def walk(env: gym.Env, controller: WaypointController, seed: int, start: Cell | None = None) -> Walk:
    options = controller.begin(env, np.random.default_rng(seed)) or ({"reset_cell": start} if start else {})
    observation, _ = env.reset(seed=seed, options=options)
    observations, actions = [observation], []
    terminated = truncated = False
    while not (terminated or truncated):
        actions.append(controller.act(observation))
        observation, _, terminated, truncated, _ = env.step(actions[-1])
        observations.append(observation)
    return Walk(np.stack(observations), np.stack(actions), terminated, options.get("reset_cell"))


def cells(maze: PointMaze, observations: np.ndarray) -> list[Cell]:
    rows, columns = maze.walls.shape
    where = np.stack([rows / 2 - observations[:, 1], columns / 2 + observations[:, 0]], 1)
    return [(row, column) for row, column in np.floor(where).astype(int).tolist()]


def free_cells(maze: PointMaze) -> set[Cell]:
    return {(row, column) for row, column in np.argwhere(~maze.walls).tolist()}


@pytest.fixture(scope="module", params=EPISODES)
def data(request: pytest.FixtureRequest) -> tuple[PointMaze, list[Walk]]:
    env, maze = make(request.param)
    controller = WaypointController()
    return maze, [walk(env, controller, seed) for seed in range(EPISODES[request.param])]


def test_no_episode_leads_from_start_to_goal(data: tuple[PointMaze, list[Walk]]) -> None:
    maze, walks = data
    free = free_cells(maze)
    longest = moves(free, maze.start_cell)[maze.goal_cell]
    for episode in walks:
        visited = set(cells(maze, episode.observations))
        assert not {maze.start_cell, maze.goal_cell} <= visited
        from_home = moves(free, episode.home)
        assert max(from_home[cell] for cell in visited) <= longest // 3


def test_all_episodes_together_lead_from_start_to_goal(data: tuple[PointMaze, list[Walk]]) -> None:
    maze, walks = data
    steps = {pair for episode in walks for pair in itertools.pairwise(cells(maze, episode.observations))}
    reached, queue = {maze.start_cell}, [maze.start_cell]
    for cell in queue:
        for there in {b for a, b in steps if a == cell} - reached:
            reached.add(there)
            queue.append(there)
    assert maze.goal_cell in reached


def test_some_episodes_reach_the_goal_and_the_others_keep_away(data: tuple[PointMaze, list[Walk]]) -> None:
    maze, walks = data
    assert 0.05 <= np.mean([episode.terminated for episode in walks]) <= 0.2
    for episode in walks:
        nearest = np.linalg.norm(episode.observations[:, :2] - maze.goal, axis=1).min()
        assert episode.terminated == (nearest <= 0.45)


def test_episodes_begin_all_over_the_maze_and_walk_on(data: tuple[PointMaze, list[Walk]]) -> None:
    maze, walks = data
    homes = {episode.home for episode in walks}
    assert maze.goal_cell not in homes and len(homes) > 0.8 * len(free_cells(maze))
    for episode in walks:
        assert cells(maze, episode.observations)[0] == episode.home
        if not episode.terminated:
            last = cells(maze, episode.observations)[-150:]
            assert len(set(last)) > 1


def test_actions_vary_within_their_bounds(data: tuple[PointMaze, list[Walk]]) -> None:
    actions = np.concatenate([episode.actions for episode in data[1]])
    assert actions.dtype == np.float32 and np.abs(actions).max() <= 1
    inside = np.abs(actions) < 1
    assert inside.mean() > 0.5
    assert actions[inside].std() > 0.4


def test_equal_generators_give_equal_episodes_whatever_came_before() -> None:
    env, _ = make("Medium")
    used, fresh = WaypointController(), WaypointController()
    walk(env, used, 1)
    first, second, other = walk(env, used, 2), walk(make("Medium")[0], fresh, 2), walk(env, used, 3)
    assert np.array_equal(first.observations, second.observations)
    assert np.array_equal(first.actions, second.actions)
    assert not np.array_equal(first.actions[:10], other.actions[:10])


@pytest.mark.parametrize(("name", "steps"), [("UMaze", 140), ("Medium", 250), ("Large", 420)])
def test_the_expert_reaches_the_goal_from_anywhere(name: str, steps: int) -> None:
    env, maze = make(name)
    expert = WaypointController(expert=True)
    for seed in range(3):
        episode = walk(env, expert, seed)
        assert cells(maze, episode.observations)[0] == maze.start_cell
        assert episode.terminated and len(episode.actions) <= steps
    for k, cell in enumerate(sorted(free_cells(maze))[::5]):
        assert walk(env, expert, k, start=cell).terminated


def test_moves_counts_around_walls() -> None:
    ring = {(row, column) for row in range(3) for column in range(3)} - {(1, 1)}
    count = moves(ring | {(9, 9)}, (0, 0))
    assert count == {(0, 0): 0, (0, 1): 1, (1, 0): 1, (0, 2): 2, (2, 0): 2, (1, 2): 3, (2, 1): 3, (2, 2): 4}
    assert list(count.values()) == sorted(count.values())
