"""CROP's bounds (Wu et al., ICLR 2022, arXiv 2106.09292), to compare with.

Its smoothed policy in the local case is another one: the best action of values averaged over thousands of draws of the
noise at every step. What is certified there is the action in a state, not the return of an episode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import ndtri

from rlsuite.certify.play import make_view
from rlsuite.certify.policies import Outputs, Subject
from rlsuite.errors import UserError
from rlsuite.harness.smoothing import View, split_view

Array = np.ndarray
DRAWS = 0x6C6F616374  # "loact": the stream of an episode's seed that the noise is drawn from


@dataclass
class Local:
    """What CROP's policy did: how far each visited state is certified (states,), and its returns (episodes,)."""

    radii: Array
    returns: Array
    samples: int

    def certified(self, radius: ArrayLike) -> Array:
        """Share of the visited states whose action nobody changes who moves the observation by `radius`; same shape."""
        share: Array = (self.radii > np.asarray(radius, np.float64)[..., None]).mean(-1)
        return share


def of(subject: Subject, env_id: str, seeds: Sequence[int], samples: int) -> Local:
    """The same of a policy; UserError where it has no values of actions."""
    if subject.network is None or not subject.network.discrete:
        raise UserError(f"{subject.name} has no values of actions that can be averaged; leave --crop out.")
    return local(subject.network.outputs, env_id, seeds, samples)


def local(outputs: Outputs, env_id: str, seeds: Sequence[int], samples: int, alpha: float = 0.05) -> Local:
    """Play CROP's policy, which takes the best of the `outputs` averaged over draws of the noise on all frames.

    One episode for each of `seeds` but the last, whose episode is played beforehand: between the lowest and the highest
    value in it lies the range that values are clipped to.
    """
    values = _averages(outputs, env_id, seeds[-1:], samples, -math.inf, math.inf)[0]
    low, high = float(values.min()), float(values.max())
    values, returns = _averages(outputs, env_id, seeds[:-1], samples, low, high)
    sigma = split_view(env_id)[1].sigma  # type: ignore[union-attr]
    return Local(
        local_radius(values, samples, sigma[0] if len(sigma) == 1 else 1.0, low, high, alpha), returns, samples
    )


@torch.no_grad()
def _averages(
    outputs: Outputs, env_id: str, seeds: Sequence[int], samples: int, low: float, high: float
) -> tuple[Array, Array]:
    """Averaged values (states, actions) of every visited state, and the returns."""
    name, view = split_view(env_id)
    n, given = len(seeds), view or View()
    envs = make_view(replace(given, sigma=(0.0,)).of(name), n)
    sigma = np.array(given.sigma, np.float32).reshape(envs.shape if len(given.sigma) > 1 else ())
    streams = [np.random.default_rng([seed, DRAWS]) for seed in seeds]
    returns, visited, playing = np.zeros(n), [], np.arange(n)
    try:
        envs.reset(playing.tolist(), seeds)
        while len(playing):
            values = np.zeros((n, int(envs.action_space.n)))
            for k in playing:
                noise = sigma * streams[k].standard_normal((samples, *envs.stack.shape[1:]), np.float32)
                seen = (envs.stack[k] + noise).reshape(samples, *envs.observation_space.shape)
                values[k] = outputs(torch.from_numpy(seen)).clamp(low, high).double().mean(0).numpy()
            visited.append(values[playing])
            _, rewards, terminations, truncations, _ = envs.step(playing, values.argmax(1))
            returns[playing] += np.asarray(rewards, np.float64)
            playing = playing[~(np.asarray(terminations, bool) | np.asarray(truncations, bool))]
    finally:
        envs.close()
    return np.concatenate(visited), returns


def local_radius(values: ArrayLike, samples: int, sigma: float, low: float, high: float, alpha: float = 0.05) -> Array:
    """LoAct: how far an observation may be moved without another action becoming the best, (B,).

    `values` (B, actions) are means over `samples` draws of the noise, of action values clipped to [low, high].
    """
    ordered = np.sort(np.clip(np.asarray(values, np.float64), low, high), axis=-1)
    margin = (high - low) * math.sqrt(math.log(1 / alpha) / (2 * samples))
    best, second = ((ordered[..., -1] - margin - low), (ordered[..., -2] + margin - low))
    with np.errstate(invalid="ignore"):
        radius = sigma / 2 * (ndtri(np.clip(best / (high - low), 0, 1)) - ndtri(np.clip(second / (high - low), 0, 1)))
    certified: Array = np.maximum(np.nan_to_num(radius, nan=0.0), 0.0)
    return certified


def global_mean(mean: float, budget: ArrayLike, sigma: float, low: float, high: float) -> Array:
    """GRe: the mean return under attack by its Lipschitz constant; same shape as `budget`."""
    bound: Array = np.maximum(low, mean - (high - low) * math.sqrt(2 / math.pi) * np.asarray(budget) / sigma)
    return bound
