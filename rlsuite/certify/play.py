"""Many episodes of a frozen policy under its own noise, fast, and none of them chosen by its outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlsuite.harness.environments import Slots, is_atari, make_slots
from rlsuite.harness.smoothing import SmoothedSlots, View, split_view
from rlsuite_envs.cart_pole import CartPoleBatch

Array = np.ndarray
# Rows of a forward pass: large enough for a product to be fast, always the same, so that no episode's bits depend on
# how many there are.
VECTORS, PICTURES = 512, 128
ACTIONS = 0x616374  # "act": the stream of an episode's seed that stochastic policies draw from
BATCHED: dict[str, Callable[[int], Any]] = {
    "CartPole-v0": lambda n: CartPoleBatch(n, 200),
    "CartPole-v1": lambda n: CartPoleBatch(n, 500),
}


@dataclass
class Played:
    """n episodes, in the order of their seeds: arrays (n,)."""

    seeds: Array
    returns: Array
    lengths: Array
    terminated: Array
    """ended by the task itself, not by a time limit"""
    spent: Array
    """Euclidean norm of all that an attacker added to the observations"""


def make_view(env_id: str, n: int, rows: int = 0) -> SmoothedSlots:
    """n copies of an environment seen through the view in its name; a name without one has one clean frame.

    `rows`, if more, are those of what is `seen`.
    """
    name, view = split_view(env_id)
    if name in BATCHED:
        return SmoothedSlots(BATCHED[name](n), n, view or View(), rows)
    slots: Slots = make_slots(env_id if view else f"{env_id}#frames=1", n, rows)
    assert isinstance(slots, SmoothedSlots)
    return slots


def play(
    act: Callable[..., Array],
    env_id: str,
    seeds: Sequence[int],
    attack: Callable[[SmoothedSlots], Any] | None = None,
    tick: Callable[[int], None] = lambda finished: None,
    stochastic: bool = False,
) -> Played:
    """Play one whole episode for each of `seeds`, many at a time.

    A copy that has finished its episode takes the next seed; every episode is played to its end, so that short ones do
    not come to be counted more often. `attack` makes an attacker, who is asked at every step and never sees the noise
    that is still to come. `tick` hears how many episodes are finished.
    """
    rows = PICTURES if is_atari(split_view(env_id)[0]) else VECTORS
    copies = min(rows, len(seeds))
    envs = make_view(env_id, copies, rows)
    attacker = attack(envs) if attack else None
    if attacker is not None:
        envs.perturb = attacker.perturb
    n = len(seeds)
    played = Played(np.asarray(seeds), np.zeros(n), np.zeros(n), np.zeros(n, bool), np.zeros(n))
    uniforms, streams = np.zeros(rows), [np.random.default_rng([seed, ACTIONS]) for seed in seeds] if stochastic else []
    number = np.full(copies, -1)  # the episode of each copy
    totals, steps = np.zeros(copies), np.zeros(copies, np.int64)
    following = 0
    try:
        free = np.arange(copies)
        while True:
            if len(free) and following < n:
                begun = free[: n - following]
                number[begun] = np.arange(following, following + len(begun))
                following += len(begun)
                totals[begun], steps[begun] = 0.0, 0
                if attacker is not None:
                    attacker.begin(begun)
                envs.begin(begun.tolist(), [int(seeds[i]) for i in number[begun]])
            playing = np.flatnonzero(number >= 0)
            if not len(playing):
                return played
            if stochastic:
                uniforms[playing] = [streams[i].random() for i in number[playing]]
            actions = act(envs.seen, uniforms) if stochastic else act(envs.seen)
            rewards, terminations, truncations, _ = envs.advance(playing, actions)
            totals[playing] += np.asarray(rewards, np.float64)
            steps[playing] += 1
            terminations = np.asarray(terminations, bool)
            ended = terminations | np.asarray(truncations, bool)
            free = playing[ended]
            if len(free):
                i = number[free]
                played.returns[i], played.lengths[i] = totals[free], steps[free]
                played.terminated[i] = terminations[ended]
                if attacker is not None:
                    played.spent[i] = attacker.spent(free)
                number[free] = -1
                tick(following - int((number >= 0).sum()))
    finally:
        envs.close()
