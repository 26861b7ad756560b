"""The networks that several methods share, with everything acting needs inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlsuite.kernels.linear import MLP


class DeterministicActor(nn.Module):
    """a = max_action * tanh(MLP((s - mean) / std)).

    `forward` takes observations that are already normalised, as a batch of a normalised dataset is; `act` takes them as
    the environment gives them. Mean and std are buffers: the normaliser is part of the policy.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        max_action: float = 1.0,
        hidden: Sequence[int] = (256, 256),
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "observation_dim": observation_dim,
            "action_dim": action_dim,
            "max_action": max_action,
            "hidden": list(hidden),
        }
        self.max_action = max_action
        self.net = MLP((observation_dim, *hidden, action_dim), rng or np.random.default_rng(0))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(observation_dim))
        self.register_buffer("std", torch.ones(observation_dim))

    def set_normalizer(self, mean: Tensor, std: Tensor) -> None:
        """Take the statistics of the dataset, each (observation_dim,)."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, observations: Tensor) -> Tensor:
        """(B, observation_dim) normalised -> (B, action_dim)."""
        actions = torch.tanh(self.net(observations))
        return actions if self.max_action == 1.0 else self.max_action * actions

    @torch.no_grad()
    def act(self, observations: np.ndarray) -> np.ndarray:
        """(B, observation_dim) as the environment gives them -> (B, action_dim)."""
        x = torch.as_tensor(observations, dtype=torch.float32, device=self.mean.device)
        actions: np.ndarray = self((x - self.mean) / self.std).cpu().numpy()
        return actions


class TwinCritic(nn.Module):
    """Two independent action-value networks Q_1, Q_2 : (s, a) -> R."""

    def __init__(self, observation_dim: int, action_dim: int, hidden: Sequence[int], rng: np.random.Generator) -> None:
        super().__init__()
        self.first = MLP((observation_dim + action_dim, *hidden, 1), rng)
        self.second = MLP((observation_dim + action_dim, *hidden, 1), rng)

    def forward(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, observation_dim), (B, action_dim) -> Q_1 (B,), Q_2 (B,)."""
        x = torch.cat([observations, actions], 1)
        return self.first(x).squeeze(1), self.second(x).squeeze(1)

    def q1_frozen(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Q_1 alone, (B,), differentiable in the actions but not in its weights: what a policy climbs."""
        q: Tensor = self.first(torch.cat([observations, actions], 1), frozen=True).squeeze(1)
        return q
