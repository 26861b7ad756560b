import sys
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

import rlsuite_envs  # noqa: F401
from rlsuite_envs.point_maze import PointMaze

LIMITS = {"rlsuite/PointMaze-UMaze-v0": 300, "rlsuite/PointMaze-Medium-v0": 600, "rlsuite/PointMaze-Large-v0": 800}
STILL = np.zeros(2, np.float32)


@pytest.fixture(scope="module", params=LIMITS)
def env(request):
    pytest.importorskip("gymnasium_robotics")
    env = gym.make(request.param)
    yield env
    env.close()


def drawing(maze: PointMaze) -> list[str]:
    marks = {maze.start_cell: "S", maze.goal_cell: "G"}
    return [
        "".join("#" if wall else marks.get((row, column), " ") for column, wall in enumerate(line))
        for row, line in enumerate(maze.walls)
    ]


@pytest.mark.filterwarnings("ignore:.*A Box observation space m:UserWarning")
def test_gymnasiums_checker_passes(env):
    check_env(env.unwrapped, skip_render_check=True)


def test_the_docstring_shows_the_maze(env):
    shown = PointMaze.__doc__ or ""
    assert all(line in shown for line in drawing(env.unwrapped))


def test_an_episode_starts_at_rest_near_the_start_and_a_seed_repeats_it(env):
    starts = np.stack([env.reset(seed=seed)[0] for seed in range(30)])
    offsets = starts[:, :2] - env.unwrapped.centre(env.unwrapped.start_cell)
    assert np.abs(offsets).max() <= 0.25
    assert (offsets.min(0) < -0.15).all() and (offsets.max(0) > 0.15).all()
    assert not starts[:, 2:].any()
    again, info = env.reset(seed=7)
    assert np.array_equal(again, starts[7]) and info == {"success": False}
    following = env.reset()[0]
    env.reset(seed=7)
    assert np.array_equal(env.reset()[0], following) and not np.array_equal(following, again)


def test_a_used_environment_steps_like_a_new_one(env):
    actions = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    fresh = gym.make(env.spec)
    for one in (env, fresh):
        one.reset(seed=3)
    assert all(np.array_equal(env.step(action)[0], fresh.step(action)[0]) for action in actions)


def test_the_reward_comes_once_within_the_radius_of_a_goal_that_stays(env):
    maze = env.unwrapped
    goal = maze.goal.copy()
    assert np.array_equal(goal, maze.centre(maze.goal_cell))
    seen = set()
    for seed in range(6):
        observation, info = env.reset(seed=seed, options={"reset_cell": maze.goal_cell})
        assert info["success"] == (np.linalg.norm(observation[:2] - goal) <= 0.45)
        for _ in range(100):  # towards the edge of the goal's cell, out of the radius and in again
            action = np.sign(goal - observation[:2]) if seed % 2 else np.array([1.0, -1.0])
            observation, reward, terminated, truncated, info = env.step(action.astype(np.float32))
            reached = bool(np.linalg.norm(observation[:2] - goal) <= 0.45)
            assert (reward, terminated, truncated) == (float(reached), reached, False)
            assert info["success"] is reached
            seen.add(reached)
        assert np.array_equal(maze.goal, goal)
    assert seen == {True, False}


def test_far_from_the_goal_only_the_time_limit_ends_an_episode(env):
    env.reset(seed=0)
    limit = LIMITS[env.spec.id]
    outcomes = [env.step(STILL)[1:4] for _ in range(limit)]
    assert outcomes == [(0.0, False, False)] * (limit - 1) + [(0.0, False, True)]


def test_an_episode_can_start_in_any_free_cell_and_in_no_other(env):
    maze = env.unwrapped
    for row, column in np.argwhere(~maze.walls).tolist():
        observation, _ = env.reset(seed=1, options={"reset_cell": (row, column)})
        assert np.abs(observation[:2] - maze.centre((row, column))).max() <= 0.25
        for _ in range(3):
            observation = env.step(STILL)[0]
        assert np.abs(observation[2:]).max() < 1e-6  # no wall pushes it
    rows, columns = maze.walls.shape
    for cell in ((0, 0), (-2, 1), (rows, 1), (1, columns)):
        with pytest.raises(ValueError, match="no free cell"):
            env.reset(options={"reset_cell": cell})


def test_the_specification_makes_the_same_environment(env):
    again = gym.make(EnvSpec.from_json(gym.spec(env.spec.id).to_json()))
    assert drawing(again.unwrapped) == drawing(env.unwrapped)
    assert again.spec.max_episode_steps == LIMITS[env.spec.id]
    assert np.array_equal(again.reset(seed=5)[0], env.reset(seed=5)[0])


def test_no_file_is_left_behind(env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gym.make(env.spec.id).close()
    assert list(tmp_path.iterdir()) == []


def test_without_gymnasium_robotics_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "gymnasium_robotics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(ImportError, match="pip install gymnasium-robotics"):
        gym.make("rlsuite/PointMaze-UMaze-v0")
