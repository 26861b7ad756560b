import gymnasium as gym
import numpy as np
import pytest

import rlsuite_envs  # noqa: F401
from rlsuite_envs.tabular import Tabular


def transitions(mdp: Tabular) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Successor, reward and termination (states, actions) of a deterministic task, by trying each action in each state.

    In a state in which episodes end nothing is tried: it stays there and pays nothing.
    """
    shape = mdp.observation_space.shape[0], int(mdp.action_space.n)
    successor, rewards, terminal = np.zeros(shape, int), np.zeros(shape), np.zeros(shape, bool)
    mdp.reset(seed=0)
    unvisited, visited = [mdp.state], set()
    while unvisited:
        state = unvisited.pop()
        visited.add(state)
        for action in range(shape[1]):
            mdp.state = state
            observation, rewards[state, action], terminal[state, action], _, _ = mdp.step(np.int64(action))
            following = successor[state, action] = int(observation.argmax())
            if not terminal[state, action] and following not in visited:
                unvisited.append(following)
    return successor, rewards, terminal


def best_return(mdp: Tabular, horizon: int) -> tuple[float, np.ndarray]:
    """The best undiscounted return from the start, and a best action (horizon, states) for each step."""
    successor, rewards, terminal = transitions(mdp)
    value, plan = np.zeros(len(successor)), []
    for _ in range(horizon):
        action_value = rewards + np.where(terminal, 0.0, value[successor])
        plan.append(action_value.argmax(1))
        value = action_value.max(1)
    return value[mdp.start], np.stack(plan[::-1])


@pytest.mark.parametrize(
    "name, states, best",
    [
        ("rlsuite/GridWorld-v0", 25, 0.97),
        ("rlsuite/GridWorld9-v0", 81, 0.93),
        ("rlsuite/Chain-v0", 5, 110.0),
        ("rlsuite/TwoStep-v0", 7, 2.0),
    ],
)
def test_the_best_plan_has_the_documented_return(name, states, best):
    env = gym.make(name)
    assert env.observation_space.shape == (states,)
    expected, plan = best_return(env.unwrapped, env.spec.max_episode_steps or 2)
    assert expected == pytest.approx(best)
    observation, _ = env.reset(seed=0)
    total, ended = 0.0, False
    for actions in plan:
        assert not ended
        observation, reward, terminated, truncated, _ = env.step(actions[observation.argmax()])
        total, ended = total + reward, terminated or truncated
        if terminated:
            break
    assert ended and total == pytest.approx(best)


@pytest.mark.parametrize("size", [3, 4, 5, 6, 9, 10])
def test_the_best_return_of_a_grid_of_any_size_and_horizon(size):
    grid = gym.make("rlsuite/GridWorld-v0", size=size, max_episode_steps=3 * size).unwrapped
    centre = (size - 1) // 2
    lure, good = 2 * centre, 2 * (size - 1 - centre)  # steps to the corners
    for horizon in range(1, 3 * size + 1):
        waiting = -0.01 * horizon
        best = max(
            waiting,
            0.5 - 0.01 * (lure - 1) if horizon >= lure else waiting,
            1.0 - 0.01 * (good - 1) if horizon >= good else waiting,
        )
        assert best_return(grid, horizon)[0] == pytest.approx(best)


def test_every_move_on_a_grid():
    grid = gym.make("rlsuite/GridWorld-v0", size=4).unwrapped
    assert grid.start == 1 * 4 + 1
    successor, rewards, terminal = transitions(grid)
    for state in range(1, 15):
        row, column = divmod(state, 4)
        cells = [
            (max(row - 1, 0), column),
            (min(row + 1, 3), column),
            (row, max(column - 1, 0)),
            (row, min(column + 1, 3)),
        ]
        assert successor[state].tolist() == [4 * row + column for row, column in cells]
        assert rewards[state].tolist() == [{0: 0.5, 15: 1.0}.get(cell, -0.01) for cell in successor[state].tolist()]
    assert np.array_equal(terminal, np.isin(rewards, [0.5, 1.0]))
    assert terminal.sum() == 4


def test_returns_of_every_way_through_two_step():
    env = gym.make("rlsuite/TwoStep-v0")
    returns = {}
    for first, second in np.ndindex(2, 2):
        env.reset(seed=0)
        way = [env.step(first), env.step(second)]
        assert [state.argmax() for state, *_ in way] == [1 + first, 3 + 2 * first + second]
        assert [terminated for _, _, terminated, _, _ in way] == [False, True]
        returns[first, second] = [reward for _, reward, *_ in way]
    assert returns == {(0, 0): [0, 2], (0, 1): [0, 0.5], (1, 0): [0, 1], (1, 1): [0, 1]}


@pytest.mark.parametrize("length", [2, 5, 10])
def test_the_best_return_of_a_chain_of_any_length_and_horizon(length):
    chain = gym.make("rlsuite/Chain-v0", length=length, max_episode_steps=3 * length).unwrapped
    returns = [best_return(chain, horizon)[0] for horizon in range(1, 3 * length + 1)]
    assert returns == [max(2 * horizon, 10 * (horizon - length + 1)) for horizon in range(1, 3 * length + 1)]


def test_a_slip_does_the_other_action():
    mdp = gym.make("rlsuite/Chain-v0", slip=0.2).unwrapped
    mdp.reset(seed=0)
    tries = 4000
    for state, action in np.ndindex(5, 2):
        outcomes = []
        for _ in range(tries):
            mdp.state = state
            observation, reward, *_ = mdp.step(action)
            outcomes.append((int(observation.argmax()), reward))
        on, back = (min(state + 1, 4), 10.0 if state == 4 else 0.0), (0, 2.0)
        assert set(outcomes) == {on, back}
        slips = outcomes.count(on if action == 1 else back) / tries
        assert slips == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / tries))


def test_going_on_along_a_slippery_chain_has_the_known_return():
    slip, length, horizon = 0.2, 5, 15
    env = gym.make("rlsuite/Chain-v0", slip=slip, disable_env_checker=True)

    def total(seed: int) -> float:
        env.reset(seed=seed)
        return sum(env.step(0)[1] for _ in range(horizon))

    returns = [total(seed) for seed in range(3000)]
    assert [total(seed) for seed in range(20)] == returns[:20]
    # back with each slip; in the last state wherever the last length - 1 moves went on
    known = 2 * slip * horizon + 10 * (1 - slip) ** length * (horizon - length + 1)
    assert np.mean(returns) == pytest.approx(known, abs=4 * np.std(returns) / np.sqrt(len(returns)))


@pytest.mark.parametrize(
    "name, settings, reason",
    [
        ("GridWorld", {"size": 2}, "no cell between its corners"),
        ("Chain", {"length": 1}, "length of 2 or more"),
        ("Chain", {"slip": 1.5}, r"slip in \[0, 1\]"),
    ],
)
def test_a_setting_without_meaning_is_refused(name, settings, reason):
    with pytest.raises(ValueError, match=reason):
        gym.make(f"rlsuite/{name}-v0", **settings)
