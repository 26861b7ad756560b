"""Environments as a smoothed policy sees them: Gaussian noise on every frame, drawn once, below the frame stack.

A name with a view behind it, `CartPole-v0#frames=5,sigma=0.2`, is an environment like any other: it can be trained in,
evaluated in and named in a table.

    frames=5          the last five frames, oldest first: vectors one behind the other, pictures as channels
    sigma=0.2         standard deviation of the noise, in the units of a frame; sigma=0.1:0.2:0.1:0.2 for each number
    steps=250         an episode is cut after so many steps
    ends=reward       an episode ends with the first reward that is not 0, as one point of Pong
    difficulty=1      of an Atari game, as its console has a switch for it; mode=3 is a variant of the game

The order is the whole of it (Kumar et al., 2022, arXiv 2106.11420): environment, preprocessing to one frame, what an
attacker adds, noise, stack, policy. A frame is noised once, when it comes; what the stack holds of it later is the same
noisy frame, and the first one of an episode fills the stack. Noise that is drawn again at every look would let an
attacker be seen through it `frames` times, and no certificate would hold.

Frames are float32. Pictures are scaled to [0, 1] and not clipped after the noise: as bytes they would wrap around.
The noise of an episode comes from its seed by a stream of its own, so an episode that is played again has the same
noise, whatever else is played beside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from rlsuite.errors import UserError
from rlsuite.kernels.normal import standard_normal

if TYPE_CHECKING:
    from rlsuite.harness.environments import Slots

Array = np.ndarray
STREAM = 0x6E6F697365  # "noise": the stream of an episode's seed that is not the environment's
NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"
GAME = ("difficulty", "mode")  # keys that only Atari games have
KEYS = {
    "frames": "[1-9][0-9]{0,2}",
    "steps": "[1-9][0-9]{0,6}",
    "sigma": f"{NUMBER}(:{NUMBER})*",
    "ends": "reward",
    "difficulty": "[0-9]{1,3}",
    "mode": "[0-9]{1,3}",
}
BLOCK = 64  # frames of vectors whose noise is drawn at a time


@dataclass(frozen=True)
class View:
    """What a policy sees: `frames` noisy frames, `sigma` one number, or one for each of a frame's; and its episodes."""

    frames: int = 1
    sigma: tuple[float, ...] = (0.0,)
    steps: int = 0
    ends: str = ""
    difficulty: int | None = None
    mode: int | None = None

    @property
    def noisy(self) -> bool:
        return any(self.sigma)

    def of(self, name: str) -> str:
        """The name of environment `name` seen so, always spelt alike."""
        parts = [f"frames={self.frames}", f"sigma={':'.join(map(spelt, self.sigma))}"]
        parts += [f"steps={self.steps}"] * bool(self.steps) + [f"ends={self.ends}"] * bool(self.ends)
        parts += [f"{key}={value}" for key in GAME if (value := getattr(self, key)) is not None]
        return f"{name}#{','.join(parts)}"


def split_view(env_id: str) -> tuple[str, View | None]:
    """The environment that a name means, and the view behind its #; None if it has none.

    >>> split_view("CartPole-v0#frames=5,sigma=0.2")
    ('CartPole-v0', View(frames=5, sigma=(0.2,), steps=0, ends='', difficulty=None, mode=None))

    Raises UserError if what stands there is no view.
    """
    name, sign, text = env_id.partition("#")
    if not sign:
        return name, None
    given: dict[str, Any] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key in GAME and not name.startswith("ale-"):
            raise UserError(f"{name} has no {key}, which only Atari games have; leave '{part}' out.")
        if (
            key in given
            or key not in KEYS
            or not re.fullmatch(KEYS[key], value)
            or (key == "sigma" and np.inf in numbers(value))
        ):
            raise UserError(
                f"the environment '{env_id}' has '{part}' behind its #, which is no view or one too many; write it as "
                f"in {name or 'CartPole-v0'}#frames=5,sigma=0.2."
            )
        given[key] = numbers(value) if key == "sigma" else value if key == "ends" else int(value)
    return name, View(**given)


def numbers(text: str) -> tuple[float, ...]:
    """Those of `0.1:0.2`."""
    return tuple(float(number) for number in text.split(":"))


def spelt(number: float) -> str:
    """The shortest way to write a number that is read as the same one."""
    return repr(number).removesuffix(".0")


class SmoothedSlots:
    """n copies whose observations are stacks of noisy frames.

    `seen` (rows, ...) is what the policy sees of all of them, and changes with every step; rows beyond the n-th, if
    there are more, stay 0. `advance` is a step that copies no observation.

    `perturb`, if set, is the attacker: given the copies and their clean frames (m, ...) it says what to add to them.
    It is asked before the noise of these frames is drawn.
    """

    def __init__(self, slots: Slots, n: int, view: View, rows: int = 0) -> None:
        rows = max(n, rows)
        self.slots, self.view = slots, view
        self.action_space = slots.action_space
        space = slots.observation_space
        self.scale = np.float32(1 / 255) if space.dtype == np.uint8 else np.float32(1)
        self.shape = space.shape  # of a frame; of pictures (1, height, width)
        numbers = int(np.prod(self.shape))
        if len(view.sigma) not in (1, numbers):
            raise UserError(
                f"sigma has {len(view.sigma)} numbers, but a frame has {numbers}; give one, or one for each of them."
            )
        self.sigma = np.array(view.sigma, np.float32).reshape(self.shape if len(view.sigma) > 1 else ())
        stacked = (view.frames * self.shape[0], *self.shape[1:])
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, stacked, np.float32)
        # Pictures lie in memory as a convolution reads them fastest, channels last.
        first, *rest = self.shape
        memory = np.zeros((rows, *rest, view.frames, first), np.float32)
        self.stack = np.moveaxis(memory, (-2, -1), (1, 2))
        self.seen = self.stack.reshape(rows, *stacked)
        self._flat = memory.reshape(rows, -1)
        self.perturb: Callable[[Array, Array], Array] | None = None
        self._streams: list[Any] = [None] * n
        self.pictures = len(self.shape) == 3
        self._noise = np.zeros((n, 0 if self.pictures else BLOCK, *self.shape), np.float32)
        self._used = np.full(n, BLOCK)
        self._steps = np.zeros(n, np.int64)

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> list[Array]:
        self.begin(slots, seeds)
        return list(self.seen[np.asarray(slots)])

    def begin(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """New episodes in `slots`."""
        frames = np.asarray(self.slots.reset(slots, seeds))
        for k, seed in zip(slots, seeds, strict=True):
            self._streams[k] = np.random.default_rng([seed, STREAM])
            self._used[k] = BLOCK
        chosen = np.asarray(slots)
        self._steps[chosen] = 0
        self.stack[chosen] = self._noisy(chosen, frames)[:, None]

    def step(self, slots: Sequence[int] | Array, actions: Array) -> tuple[Any, ...]:
        happened = self.advance(slots, actions)
        return self.seen[np.asarray(slots)], *happened

    def advance(self, slots: Sequence[int] | Array, actions: Array) -> tuple[Any, ...]:
        """Rewards, terminations, truncations, lost lives (m,), as of `step`."""
        frames, rewards, terminations, truncations, lost = self.slots.step(slots, actions)
        chosen = np.asarray(slots)
        self._steps[chosen] += 1
        if self.view.steps:
            truncations = np.asarray(truncations, bool) | (self._steps[chosen] >= self.view.steps)
        if self.view.ends:
            terminations = np.asarray(terminations, bool) | (np.asarray(rewards) != 0)
        noisy = self._noisy(chosen, np.asarray(frames))
        move = self.shape[0]
        self._flat[chosen, :-move] = self._flat[chosen, move:]  # the oldest frame is overwritten, in every pixel
        self.stack[chosen, -1] = noisy
        return rewards, terminations, truncations, lost

    def close(self) -> None:
        self.slots.close()

    def _noisy(self, slots: Array, frames: Array) -> Array:
        """What the policy gets to see of clean frames (m, ...)."""
        seen = frames.astype(np.float32)
        if self.scale != 1:
            seen *= self.scale
        if self.perturb is not None:
            seen += self.perturb(slots, seen)
        if self.view.noisy:
            seen += self.sigma * self._draw(slots)
        return seen

    def _draw(self, slots: Array) -> Array:
        """The next standard normal numbers of each copy, (m, ...)."""
        if self.pictures:
            numbers = math.prod(self.shape)
            return np.stack([standard_normal(self._streams[k], numbers).reshape(self.shape) for k in slots])
        for k in slots[self._used[slots] == BLOCK]:
            self._streams[k].standard_normal(out=self._noise[k], dtype=np.float32)
            self._used[k] = 0
        drawn: Array = self._noise[slots, self._used[slots]]
        self._used[slots] += 1
        return drawn
