"""Small policies for the tests of certificates and attacks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from rlsuite.algorithms.policy_smoothing import QPolicy
from rlsuite.harness.files import save_policy

# Rules of the specification: right if K . mean(the last noisy frames) > 0, and the noise that each is made for.
STEADY = ("CartPole-v0#frames=5,sigma=0.2", (0.01, 0.18, 1.8, 0.88))
LOOSE = ("CartPole-v0#frames=5,sigma=0.4", (0.2, 0.4, 1.9, 2.0))
SINGLE = ("CartPole-v0#frames=1,sigma=0.2", (0.14, 0.7, 3.3, 2.0))


def linear(rule, frames: int, scale: float = 1.0) -> QPolicy:
    """Action values -y and y, with y = scale * rule . mean(frames)."""
    policy = QPolicy((len(rule) * frames,), 2, ())
    row = torch.tensor(rule, dtype=torch.float32).repeat(frames) * scale / frames
    with torch.no_grad():
        policy.head.weight0.copy_(torch.stack([-row, row]))
        policy.head.bias0.zero_()
    return policy


def run_of(policy, directory: Path, env: str, algorithm: str = "policy_smoothing") -> Path:
    """A directory that looks like a run which left this policy."""
    directory.mkdir(parents=True)
    save_policy(directory / "policy.npz", policy, algorithm)
    (directory / "manifest.json").write_text(json.dumps({"env": env, "algorithm": algorithm}))
    return directory


def steady(directory: Path, made=STEADY) -> Path:
    env, rule = made
    return run_of(linear(rule, 5 if "frames=5" in env else 1), directory, env)


def jittered(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module with weights that are not what it began with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return module


def wave(space, n: int = 60, seed: int = 0) -> np.ndarray:
    """n observations of a Box, within its bounds."""
    rng = np.random.default_rng(seed)
    if np.isfinite(space.high).all():
        drawn = rng.uniform(space.low, space.high, (n, *space.shape))
    else:
        drawn = 2 * rng.standard_normal((n, *space.shape))
    return drawn.astype(space.dtype)
