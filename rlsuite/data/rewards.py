"""Rewards brought to the scale that a method's constants belong to."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from rlsuite.data.dataset import Dataset
from rlsuite.errors import UserError

SPAN = 1000.0  # difference in return between the best and the worst episode after scaling, as IQL has it
Episodes = Literal["exact", "official"]


def return_range(dataset: Dataset, episodes: Episodes = "exact") -> tuple[float, float]:
    """The lowest and the highest return of the complete episodes.

    `exact` takes the episodes as the dataset has them. `official` finds them as the code of IQL and of those that
    followed it does on D4RL's data: without the transitions that a time limit cut, an episode ends at a terminal state
    or after 1000 steps, so that where episodes are cut it drifts over their boundaries.

    Raises UserError where no episode is complete.
    """
    if episodes == "official":
        returns = _official_returns(dataset)
    else:
        last = dataset.episode_ends - 1
        complete = dataset.terminations[last] | dataset.truncations[last]
        returns = dataset.episode_returns()[complete.cpu().numpy()]
    if not len(returns):
        raise UserError(
            f"{dataset.name} has no complete episode in {len(dataset)} transitions, so its returns have no range; load "
            "more of it (--dataset-steps), or leave its rewards as they are."
        )
    return float(returns.min()), float(returns.max())


def _official_returns(dataset: Dataset) -> np.ndarray:
    kept = ~dataset.truncations
    rewards = dataset.rewards[kept].cpu().double().numpy()
    ends: list[int] = []
    start = 0
    for terminal in [*np.flatnonzero(dataset.terminations[kept].cpu().numpy()), None]:
        stop = len(rewards) if terminal is None else int(terminal) + 1
        ends += range(start + 1000, stop, 1000)
        if terminal is not None or (stop - start) % 1000 == 0 < stop - start:
            ends.append(stop)
        start = stop
    return np.add.reduceat(rewards[: ends[-1]], [0, *ends[:-1]]) if ends else np.empty(0)


def scaled_rewards(
    dataset: Dataset, by_returns: Literal["no"] | Episodes = "no", scale: float = 1.0, shift: float = 0.0
) -> Dataset:
    """The same transitions with rewards scale * r + shift, after `scale_by_returns` unless `by_returns` is "no"."""
    if by_returns != "no":
        dataset = scale_by_returns(dataset, by_returns)
    return replace(dataset, rewards=scale * dataset.rewards + shift)


def scale_by_returns(dataset: Dataset, episodes: Episodes = "exact") -> Dataset:
    """The same transitions with rewards times 1000 / (highest return - lowest return); see `return_range`.

    Raises UserError where all returns are the same.
    """
    low, high = return_range(dataset, episodes)
    if not high > low:
        raise UserError(
            f"every complete episode of {dataset.name} returns {low:g}, so rewards cannot be scaled by the range of "
            "returns; leave them as they are (--scale-by-returns no)."
        )
    return replace(dataset, rewards=dataset.rewards * (SPAN / (high - low)))
