"""GridWorld, TwoStep and Chain: finite tasks with known best returns, each with a lure beside the best way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray


class Tabular(gym.Env[NDArray[np.float32], np.int64], ABC):
    """A finite Markov decision process whose observation (states,) is the state, one-hot.

    Attribute: `state`, the index of the current state, which may be set to try a transition.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own annotation)

    def __init__(self, states: int, actions: int, start: int = 0) -> None:
        self.observation_space = gym.spaces.Box(0.0, 1.0, (states,), np.float32)
        self.action_space = gym.spaces.Discrete(actions)
        self.states = states
        self.start = self.state = start

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.start
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        reward, terminated = self._move(int(action))
        return self._observation(), reward, terminated, False, {}

    @abstractmethod
    def _move(self, action: int) -> tuple[float, bool]:
        """Change `state`; the reward, and whether the episode terminates."""

    def _observation(self) -> NDArray[np.float32]:
        observation = np.zeros(self.states, np.float32)
        observation[self.state] = 1.0
        return observation


class GridWorld(Tabular):
    """A square of size x size cells with a good corner at its lower right and a lure at its upper left.

    State: row * size + column. Actions: up, down, left, right; a step into the wall stays. An episode starts in the
    centre (of the four middle cells of an even size, in the upper left one) and ends in the upper left corner with
    reward 0.5 or in the lower right one with reward 1; every other step costs 0.01.

    The best return, d steps from the good corner, is 1 - 0.01 (d - 1): 0.97 at size 5 and 0.93 at size 9. The time
    limit is 30 steps at size 5; for another size, give `gymnasium.make` also `max_episode_steps=3 * size`.
    """

    def __init__(self, size: int = 5) -> None:
        """Raises ValueError for a size below 3, where the centre is a corner."""
        if size < 3:
            raise ValueError(f"a GridWorld of size {size} has no cell between its corners; choose a size of 3 or more.")
        centre = (size - 1) // 2
        super().__init__(size * size, 4, start=centre * size + centre)
        self.size = size

    def _move(self, action: int) -> tuple[float, bool]:
        row, column = divmod(self.state, self.size)
        down, right = ((-1, 0), (1, 0), (0, -1), (0, 1))[action]
        last = self.size - 1
        row, column = min(max(row + down, 0), last), min(max(column + right, 0), last)
        self.state = row * self.size + column
        if row == column == 0:
            return 0.5, True
        if row == column == last:
            return 1.0, True
        return -0.01, False


class TwoStep(Tabular):
    """Two choices between two actions: a sure reward of 1, or 2 for those who then choose well and 0.5 for the others.

    A binary tree of seven states: action a in state s leads to 2 s + 1 + a, and an episode starts in state 0 and ends
    in one of 3, 4, 5 and 6 with reward 2, 0.5, 1 and 1. The best return is 2, by action 0 twice. To a policy that
    chooses evenly in state 1, action 0 is worth 1.25 at first, from two rewards far apart, and action 1 is worth 1.
    """

    REWARDS = (0.0, 0.0, 0.0, 2.0, 0.5, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__(7, 2)

    def _move(self, action: int) -> tuple[float, bool]:
        self.state = 2 * self.state + 1 + action
        return self.REWARDS[self.state], self.state > 2


class Chain(Tabular):
    """The classic chain: a small reward for going back to the start, a large one for staying at the far end.

    Of `length` states, an episode starts in 0. Action 0 moves one state on, with no reward; in the last state it stays
    and pays 10. Action 1 leads back to state 0 and pays 2. With probability `slip` the other action is done instead.
    It never terminates; the time limit is 15 steps. For another length, give `gymnasium.make` also
    `max_episode_steps=3 * length`. With length 5 and slip 0.2 it is the chain of Dearden, Friedman and Russell,
    Bayesian Q-learning (AAAI 1998). (The authors' code of PROPS has another task of this name, a corridor with two
    exits.)

    Without slips, the best return of H steps is max(2 H, 10 (H - length + 1)): 110 at length 5, where a policy that
    always goes back has 30.
    """

    def __init__(self, length: int = 5, slip: float = 0.0) -> None:
        """Raises ValueError for a length below 2, or a slip that is no probability."""
        if length < 2 or not 0.0 <= slip <= 1.0:
            raise ValueError(f"a Chain needs a length of 2 or more and a slip in [0, 1], not {length} and {slip}.")
        super().__init__(length, 2)
        self.slip = slip

    def _move(self, action: int) -> tuple[float, bool]:
        back = (action == 1) != (self.np_random.random() < self.slip)
        if back:
            self.state = 0
            return 2.0, False
        last = self.states - 1
        reward = 10.0 if self.state == last else 0.0
        self.state = min(self.state + 1, last)
        return reward, False
