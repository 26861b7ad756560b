"""Networks of an exported file that stand alone, where the package's are built on others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rlsuite.kernels.linear import MLP


class GaussianActor(nn.Module):
    """N(m(s), sigma^2) with a standard deviation for each action dimension that does not depend on the state.

    m(s) = max_action * tanh(MLP(s)), or max_action * MLP(s) where `tanh` is False; log(sigma / max_action) is a
    parameter, clipped to [-5, 2] where it is used. `act` plays the mean, clipped to the bounds, for observations as the
    environment gives them; all else takes normalised ones. The normaliser, (s - mean) / std, is part of the policy.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        max_action: float = 1.0,
        hidden: Sequence[int] = (256, 256),
        tanh: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        self.max_action, self.tanh = max_action, tanh
        self.net = MLP((observation_dim, *hidden, action_dim), rng or np.random.default_rng(0))
        self.log_std = nn.Parameter(torch.zeros(action_dim))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(observation_dim))
        self.register_buffer("std", torch.ones(observation_dim))

    def set_normalizer(self, mean: Tensor, std: Tensor) -> None:
        """Take the statistics of the dataset, each (observation_dim,)."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, observations: Tensor) -> Tensor:
        """(B, observation_dim) normalised -> the means (B, action_dim)."""
        outputs: Tensor = self.net(observations)
        return self.max_action * (torch.tanh(outputs) if self.tanh else outputs)

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """(B, observation_dim) normalised, (B, action_dim) -> log-densities (B,)."""
        log_std = self.log_std.clamp(-5.0, 2.0) + math.log(self.max_action)
        z: Tensor = (actions - self(observations)) * (-log_std).exp()
        return -0.5 * z.square().sum(1) - log_std.sum() - 0.5 * math.log(2 * math.pi) * len(log_std)

    @torch.no_grad()
    def act(self, observations: np.ndarray) -> np.ndarray:
        """(B, observation_dim) as the environment gives them -> (B, action_dim)."""
        x = torch.as_tensor(observations, dtype=torch.float32, device=self.mean.device)
        actions: np.ndarray = self((x - self.mean) / self.std).cpu().numpy()
        return actions.clip(-self.max_action, self.max_action)
