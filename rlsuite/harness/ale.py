"""Atari games of a chosen difficulty and mode, one frame at a time.

ale-py's vector environment has no argument for either, and spends 70 milliseconds on every episode that has a seed of
its own, because it loads the game anew (four fifths of that go into a table of blended colours that nobody looks at).
Here every copy has an emulator, which puts its game back to the start. Sticky actions and no-ops are drawn outside of
it, from the generator of the same seed and in the same order as in ale-py, so that an episode is the same: its rewards,
its ends, and its pictures but for single pixels (a few in ten thousand) that lie in the middle between two greys and
are rounded to the other one. Only Berzerk and DoubleDunk begin otherwise under sticky actions: ale-py chooses their
mode by actions that may stick.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from rlsuite.errors import UserError

if TYPE_CHECKING:
    from ale_py import ALEInterface

Array = np.ndarray
SIZE, SKIP, LONGEST = 84, 4, 108_000  # pixels a side, frames that an action is held, frames of an episode
BLOCK = 1024  # frames whose sticky actions are drawn at a time


class AleSlots:
    """n copies of a game, stepped one after another; an observation is one picture (1, 84, 84).

    Args:
        rom: the game's file
        repeat_action_probability: that a frame has the action of the frame before
        full_action_space: all 18 actions, not the game's minimal set
        noop_max: an episode begins with fewer no-ops than this
        use_fire_reset: and before them with FIRE, where the game has it
        difficulty, mode: the game's own where None

    Raises UserError where the game has no such difficulty or mode.
    """

    def __init__(
        self,
        rom: Path,
        n: int,
        repeat_action_probability: float,
        full_action_space: bool,
        noop_max: int,
        use_fire_reset: bool,
        difficulty: int | None = None,
        mode: int | None = None,
    ) -> None:
        from ale_py import ALEInterface, LoggerMode

        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.rom, self.difficulty, self.mode, self.noop_max = rom, difficulty, mode, noop_max
        self.sticky = round(repeat_action_probability * 2**32)
        self.ales = [ALEInterface() for _ in range(n)]
        for ale in self.ales:
            self._load(ale)
        ale = self.ales[0]
        for what, given, known in (
            ("difficulty", difficulty, ale.getAvailableDifficulties()),
            ("mode", mode, ale.getAvailableModes()),
        ):
            if given is not None and given not in known:
                numbers = ", ".join(map(str, known))
                raise UserError(f"{rom.stem} has no {what} {given}; give one of those that it has: {numbers}.")
        for ale in self.ales:
            self._start(ale)
        legal = ale.getLegalActionSet() if full_action_space else ale.getMinimalActionSet()
        self.actions = [action.value for action in legal]
        self.fires = use_fire_reset and FIRE in self.actions
        self.action_space = gym.spaces.Discrete(len(self.actions))
        self.observation_space = gym.spaces.Box(0, 255, (1, SIZE, SIZE), np.uint8)
        height, width = ale.getScreenDims()
        self.shrink = Shrink(n, height, width)
        self.first = ale.getScreenGrayscale()
        self.starts = [ale.cloneState() for ale in self.ales] if self._returns(ale) else []
        # Of every copy: the larger of the last two frames, and the one before the last.
        self.frames = np.zeros((n, 2, height, width), np.uint8)
        self._newest, self._before = list(self.frames[:, 0]), list(self.frames[:, 1])
        self._sticks: list[Iterator[bool]] = [repeat(False)] * n
        self._previous, self._played, self.lives = [NOOP] * n, [0] * n, [0] * n

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> list[Array]:
        for k, seed in zip(slots, seeds, strict=True):
            self._begin(k, seed >> 1)  # as of ale-py's vector environment, which takes 31 bits
        return list(self._pictures(slots))

    def step(self, slots: Sequence[int] | Array, actions: Array) -> tuple[Any, ...]:
        rewards, lost = np.zeros(len(slots)), np.zeros(len(slots), bool)
        terminations, truncations = np.zeros((2, len(slots)), bool)
        for i, k in enumerate(slots):
            ale, action, total, over, late = self.ales[k], self.actions[int(actions[k])], 0, False, False
            for frame in range(SKIP):
                total += self._act(k, action)
                self._played[k] += 1
                over, late = ale.game_over(), self._played[k] >= LONGEST
                if over or late:
                    break
                if frame == SKIP - 2:
                    ale.getScreenGrayscale(self._before[k])
                elif frame == SKIP - 1:
                    ale.getScreenGrayscale(self._newest[k])
            np.maximum(self._newest[k], self._before[k], out=self._newest[k])
            rewards[i], terminations[i], truncations[i] = total, over, late and not over
            lives = ale.lives()
            lost[i], self.lives[k] = lives < self.lives[k], lives
        return self._pictures(slots), rewards, terminations, truncations, lost

    def close(self) -> None:
        pass

    def _load(self, ale: ALEInterface) -> None:
        ale.setFloat("repeat_action_probability", 0.0)
        ale.loadROM(self.rom)

    def _start(self, ale: ALEInterface) -> None:
        if self.difficulty is not None:
            ale.setDifficulty(self.difficulty)
        if self.mode is not None:
            ale.setMode(self.mode)
        ale.reset_game()

    def _returns(self, ale: ALEInterface) -> bool:
        """Whether the game that was just started can be put back to here. The states of ale-py 0.12.1 lack something
        that a few games need: Amidar, Koolaid, Qbert, Tetris, Trondead."""
        start, actions = ale.cloneState(), 2 * self.actions
        played = []
        for _ in range(2):
            played.append([(ale.act(action), ale.getScreen().tobytes()) for action in actions])
            for _ in range(len(actions)):
                ale.act(NOOP)
            ale.restoreState(start)
        return played[0] == played[1]

    def _begin(self, k: int, seed: int) -> None:
        """Start a new game in copy k."""
        self._restart(k)
        self._sticks[k] = sticks(seed, self.sticky) if self.sticky else repeat(False)
        noops = int(np.random.RandomState(seed).randint(2**32, dtype=np.uint32)) * self.noop_max >> 32
        if self.fires:
            self._act(k, FIRE)
        moved = self.fires
        for _ in range(noops - self.fires):
            self._act(k, NOOP)
            moved = True
            if self.ales[k].game_over():
                self._restart(k)
                moved = False
        if moved:
            self.ales[k].getScreenGrayscale(self._newest[k])
        else:
            self._newest[k][:] = self.first  # the emulator puts back everything but what is on the screen
        self._before[k][:] = 0
        self._played[k], self.lives[k] = 0, self.ales[k].lives()

    def _restart(self, k: int) -> None:
        self._previous[k] = NOOP
        if self.starts:
            self.ales[k].restoreState(self.starts[k])
        else:
            self._load(self.ales[k])
            self._start(self.ales[k])

    def _act(self, k: int, action: int) -> int:
        """Play one frame, with the action of the frame before where that sticks."""
        if not next(self._sticks[k]):
            self._previous[k] = action
        reward: int = self.ales[k].act(self._previous[k])
        return reward

    def _pictures(self, slots: Sequence[int] | Array) -> Array:
        return self.shrink([self._newest[k] for k in slots])[:, None]


NOOP, FIRE = 0, 1  # as ale-py counts actions


def sticks(seed: int, probability: int) -> Iterator[bool]:
    """For every frame, whether the action before it sticks; `probability` out of 2^32.

    ale-py draws two numbers a frame, the second of which is for another player.
    """
    stream = np.random.RandomState(seed)
    while True:
        yield from (stream.randint(2**32, size=2 * BLOCK, dtype=np.uint32)[::2] < probability).tolist()


class Shrink:
    """Pictures of one size to 84 x 84: each new pixel is the mean over its area.

    The weights are whole numbers, so sums are exact in any order; only the mean is rounded.
    """

    def __init__(self, n: int, height: int, width: int) -> None:
        import scipy.sparse

        down, across = overlaps(height), overlaps(width)
        self.down = scipy.sparse.block_diag([down] * (SIZE // len(down)), "csr")
        self.across = across.T.astype(np.float32)
        self.scale = np.float32(1 / (down[0].sum() * across[0].sum()))
        # Kept, because memory that is asked for anew at every step costs as much as the sums.
        self.rows = np.empty((n, SIZE, width), np.float32)
        self.each = SIZE * gcd(width, SIZE)
        self.means = np.empty((n * self.each, len(across)), np.float32)

    def __call__(self, pictures: Sequence[Array]) -> Array:
        """At most n of (height, width) -> (m, 84, 84) uint8"""
        m = len(pictures)
        for row, picture in zip(self.rows, pictures, strict=False):
            row[:] = self.down @ picture
        means = np.matmul(self.rows[:m].reshape(-1, len(self.across)), self.across, out=self.means[: m * self.each])
        means *= self.scale
        shrunk: Array = np.rint(means, out=means).astype(np.uint8)
        return shrunk.reshape(m, SIZE, SIZE)


def overlaps(size: int) -> Array:
    """How much of each pixel lies in each of 84 equal parts of `size` pixels, in the smallest whole numbers.

    It repeats itself: (84 / c, size / c), uint16, for the first of c = gcd(size, 84) periods.
    """
    parts, pixels = SIZE // gcd(size, SIZE), size // gcd(size, SIZE)
    part, pixel = pixels * np.arange(parts)[:, None], parts * np.arange(pixels)
    overlap: Array = np.maximum(np.minimum(part + pixels, pixel + parts) - np.maximum(part, pixel), 0).astype(np.uint16)
    return overlap
