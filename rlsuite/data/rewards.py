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
    """The lowest and the highest return of the complete episodes, as the dataset or the `official` rule finds them.

    Raises UserError where no episode is complete.
    """
    if episodes == "official":
        returns = _official_returns(dataset)
    else:
        last = dataset.episode_ends - 1
        complete = dataset.terminations[last] | dataset.truncations[last]
        returns = dataset.episode_returns()[complete.cpu().numpy()]
    if not len(returns):
        steps = f"{len(dataset)} transitions; load more of it (--dataset-steps), or leave its rewards as they are."
        raise UserError(f"{dataset.name} has no complete episode in {steps}")
    return float(returns.min()), float(returns.max())


def _official_returns(dataset: Dataset) -> np.ndarray:
    """Of the episodes that the code of IQL and of those that followed it finds in D4RL's data.

    Without the transitions that a time limit cut, an episode ends at a terminal state or after 1000 steps, so that
    where episodes are cut it drifts over their boundaries.
    """
    kept = ~dataset.truncations
    rewards, terminal = dataset.rewards[kept].cpu().double().numpy(), dataset.terminations[kept].cpu().numpy()
    rows = np.arange(len(rewards))
    begins = np.maximum.accumulate(np.where(np.append(True, terminal)[:-1], rows, 0))
    ends = np.flatnonzero(terminal | ((rows - begins) % 1000 == 999)) + 1
    return np.add.reduceat(rewards[: ends[-1]], [0, *ends[:-1]]) if len(ends) else np.empty(0)


def scaled_rewards(
    dataset: Dataset, by_returns: Literal["no", "exact", "official"] = "no", scale: float = 1.0, shift: float = 0.0
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
            f"every complete episode of {dataset.name} returns {low:g}, which is no range; use --scale-by-returns no."
        )
    return replace(dataset, rewards=dataset.rewards * (SPAN / (high - low)))
