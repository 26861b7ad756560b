"""Evaluation episodes: fixed seeds, one padded batch, no autoreset, nothing shared with training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from rlsuite.harness.environments import Episode, make_slots

BATCH = 16  # rows of every forward pass; a fixed number, because the last bits of a product depend on its shape


class Policy(Protocol):
    """What acts: a torch module whose `arguments` rebuild it and whose weights include its normaliser.

    One with the attribute `stochastic = True` is evaluated with sampled actions: `act` then takes a second argument,
    (B,) uniform numbers in [0, 1), which come from the seeds of the episodes.
    """

    arguments: dict[str, Any]

    def act(self, observations: np.ndarray) -> np.ndarray:
        """(B, ...) float32, or uint8 pictures -> B actions, without exploration."""

    def state_dict(self) -> dict[str, Any]: ...


def evaluate(
    act: Callable[..., np.ndarray],
    env_id: str,
    seeds: Sequence[int],
    slots: int = BATCH,
    tick: Callable[[], None] | None = None,
    stochastic: bool = False,
) -> list[Episode]:
    """Play one episode for each of `seeds`, up to `slots` of them at a time; returns are raw, unclipped scores.

    Each episode begins with `reset(seed=...)` and its actions come from a batch of always `BATCH` rows, so neither the
    number of slots nor the other episodes change it. `tick` is called at every step and may raise to stop.
    """
    envs = make_slots(env_id, min(slots, BATCH, len(seeds)))
    episodes = [Episode(seed) for seed in seeds]
    space = envs.observation_space
    assert space.shape is not None
    observations = np.zeros((BATCH, *space.shape), np.uint8 if space.dtype == np.uint8 else np.float32)
    uniforms, streams = np.zeros(BATCH), [np.random.default_rng(seed) for seed in seeds]
    waiting = list(range(len(seeds)))[::-1]
    running: dict[int, int] = {}  # slot -> episode

    def start(slot: int) -> None:
        running.pop(slot, None)
        if waiting:
            running[slot] = number = waiting.pop()
            observations[slot] = envs.reset([slot], [seeds[number]])[0]

    try:
        for slot in range(min(slots, BATCH, len(seeds))):
            start(slot)
        while running:
            if tick is not None:
                tick()
            if stochastic:
                for slot, number in running.items():
                    uniforms[slot] = streams[number].random()
            actions = act(observations, uniforms) if stochastic else act(observations)
            playing = sorted(running)
            played = envs.step(playing, actions)
            for slot, observation, reward, terminated, truncated, _ in zip(playing, *played, strict=False):
                episode = episodes[running[slot]]
                observations[slot] = observation
                episode.total += float(reward)
                episode.length += 1
                if terminated or truncated:
                    episode.terminated, episode.truncated = bool(terminated), bool(truncated)
                    start(slot)
    finally:
        envs.close()
    return episodes
