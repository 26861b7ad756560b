"""The six grid tasks of Submodular Reinforcement Learning (arXiv 2307.13372), each a function that makes one.

Every one passes what else it is given to `SubmodularGrid`; under the registered ids that is also `initial_reward`, so
that a return is F of the path. The authors' instances are not shipped: those here are drawn by
NumPy's default generator from the number of the instance.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from rlsuite_envs.set_functions import Array, Coverage, DOptimalDesign, ItemCollection
from rlsuite_envs.submodular import SubmodularGrid

SIDE = 30  # of the square grids
VARIANCE = np.log(2.0)  # of the Gaussian process, softplus(0)
CAPS, COPIES = (3, 2, 3, 4, 6, 3), (18, 14, 13, 16, 18, 14)  # of the six kinds of items
WEIGHTS = ("constant", "linear", "bimodal", "gp")


def coverage(
    weights: str = "constant", horizon: int = 80, disc: str = "small", instance: int = 0, **settings: Any
) -> SubmodularGrid:
    """Cover cells of a 30 x 30 grid that are worth `weights`: F is the weight of all that the path covers.

    constant   1
    linear     n, the number of the cell
    bimodal    1 / (1 + exp(-x y)), x and y from -1 to 1: two corners are worth 0.731, and two 0.269
    gp         a sample of a Gaussian process, which `instance` draws: see `gp_weights`

    Raises ValueError for other weights.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights are one of {', '.join(WEIGHTS)}, not {weights!r}.")
    axis = np.linspace(-1.0, 1.0, SIDE)
    field: Array = np.ones((SIDE, SIDE))
    if weights == "linear":
        field = np.arange(SIDE * SIDE, dtype=np.float64).reshape(SIDE, SIDE)
    elif weights == "bimodal":
        field = 1.0 / (1.0 + np.exp(-axis[:, None] * axis))
    elif weights == "gp":
        field = gp_weights(instance)
    return SubmodularGrid(SIDE, SIDE, horizon, Coverage(field, SIDE, SIDE, disc), field=field, **settings)


def two_rooms(horizon: int = 40, disc: str = "small", **settings: Any) -> SubmodularGrid:
    """Cover two rooms of 7 x 4 cells, beginning in the corridor between them; F is at most 68.

    ....######....
    ....######....
    ......S.......
    ..............
    ....######....
    ....######....
    ....######....
    """
    walls = np.zeros((7, 14), bool)
    walls[np.ix_([0, 1, 4, 5, 6], range(4, 10))] = True
    free = ~walls
    function = Coverage(np.ones(free.size), *free.shape, disc, free)
    return SubmodularGrid(*free.shape, horizon, function, walls=walls, field=free.astype(np.float64), **settings)


def items(instance: int = 0, horizon: int = 40, **settings: Any) -> SubmodularGrid:
    """Collect items of six kinds, up to a cap of each, from 93 cells of a 7 x 15 grid; F is at most 21.

    `instance` draws the order of the cells, whose first 18 hold kind 0, the next 14 kind 1, and so on.
    """
    kinds = np.full(7 * 15, -1)
    cells = np.random.default_rng(instance).permutation(kinds.size)
    kinds[cells[: sum(COPIES)]] = np.repeat(np.arange(len(COPIES)), COPIES)
    field = kinds.reshape(7, 15).astype(np.float64)
    return SubmodularGrid(7, 15, horizon, ItemCollection(kinds, np.array(CAPS)), field=field, **settings)


def d_design(instance: int = 0, horizon: int = 40, noise_variance: float = 1e-6, **settings: Any) -> SubmodularGrid:
    """Choose where on a 30 x 30 grid to measure a Gaussian process that was measured at 5 points before.

    `instance` draws those points from [0, 10]^2, most of which lies beyond the grid, and the variance of their noise is
    0.001; that of the path's measurements is `noise_variance`.
    """
    covariance = design_covariance(instance)
    field = np.diag(covariance).reshape(SIDE, SIDE)
    return SubmodularGrid(SIDE, SIDE, horizon, DOptimalDesign(covariance, noise_variance), field=field, **settings)


@cache
def design_covariance(instance: int) -> Array:
    """(900, 900), what `d_design` chooses measurements of."""
    covariance = posterior(np.random.default_rng(instance).uniform(0.0, 10.0, (5, 2)))
    covariance.flags.writeable = False
    return covariance


def matern(one: Array, other: Array) -> Array:
    """(n, m) covariances ln 2 (1 + r + r^2 / 3) exp(-r), r = sqrt(5) |x - x'|, of points (n, 2) and (m, 2).

    The Matern kernel with smoothness 5/2 and length scale 1.
    """
    r = np.sqrt(5.0 * ((one[:, None] - other) ** 2).sum(-1))
    return np.asarray(VARIANCE * (1.0 + r + r * r / 3.0) * np.exp(-r))


def posterior(observed: Array, noise_variance: float = 1e-3) -> Array:
    """(900, 900) covariance of the process on the grid after noisy observations at points (m, 2).

    Cell (i, j) is the point (1 + 0.1 i, 1 + 0.1 j). The observations are taken in one after another, elementwise, so
    that no library of linear algebra has a say in the bits.
    """
    points = np.concatenate([1.0 + 0.1 * np.stack(np.divmod(np.arange(SIDE * SIDE), SIDE), -1), observed])
    covariance = matern(points, points)
    for known in range(SIDE * SIDE, len(points)):
        row = covariance[known].copy()
        covariance -= row[:, None] * row / (row[known] + noise_variance)
    return covariance[: SIDE * SIDE, : SIDE * SIDE]


@cache
def gp_weights(instance: int) -> Array:
    """(30, 30) weights of 0 or more: 3 and a sample of the process after an observation of 0 at a point of [0, 10]^2.

    A sample that goes below -3 is lifted to a minimum of 0 instead. The jitter of its Cholesky factor is 1e-6, and its
    numbers are rounded to six decimals, so that an instance hardly depends on the linear algebra of a machine.
    """
    rng = np.random.default_rng(instance)
    covariance = posterior(rng.uniform(0.0, 10.0, (1, 2)))
    factor = np.linalg.cholesky(covariance + 1e-6 * np.eye(len(covariance)))
    sample = (factor @ rng.standard_normal(len(factor))).reshape(SIDE, SIDE)
    weights: Array = np.round(sample - min(sample.min(), -3.0), 6)
    weights.flags.writeable = False
    return weights
