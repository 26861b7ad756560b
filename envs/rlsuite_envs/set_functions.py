"""Monotone submodular set functions of the cells that a path visits, of many paths at once, in float64.

A set function F gives a path s_0, s_1, ... the value F({s_0, .., s_h}), and its marginal gain pays a step for what it
adds: g_h = F({s_0, .., s_{h+1}}) - F({s_0, .., s_h}). For monotone F no gain is negative, and for submodular F a cell
adds the less, the more has been visited before it (Prajapat, Mutny, Zeilinger and Krause, arXiv 2307.13372).
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Cells = NDArray[np.int64]

BLOCKS: dict[str, tuple[int, Array]] = {  # side of the block, and how often the additive reward counts its cells
    "small": (2, np.ones((2, 2))),
    "large": (3, np.array([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])),
}


class SetFunction(Protocol):
    """F of n growing sequences of the cells 0..N-1. A class of your own needs these members and no base class."""

    additive: Array
    """(N,) what a visit to each cell is worth to who ignores history; usually F of that cell alone"""

    def reset(self, batch: int) -> None:
        """Begin `batch` empty sequences."""

    def gain(self, states: Cells) -> Array:
        """Append one cell, of `states` (n,), to each sequence; gives what that adds to F, (n,)."""

    def select(self, rows: Cells) -> None:
        """Go on with these sequences (m,), in this order and with repetition. Only the oracles need it."""


class Coverage:
    """The weight of all that is covered. A cell covers itself and its neighbours to the right and below.

    The block of (i, j) is {i, i + 1} x {j, j + 1} if `disc` is "small" and {i, .., i + 2} x {j, .., j + 2} if it is
    "large", without what lies outside the grid or is not free. The additive reward of a visit is the weight of its
    block, in which "large" counts (i + a, j + b) C(2, a) C(2, b) times, as the authors' code does.
    """

    def __init__(
        self, weights: Array, rows: int, columns: int, disc: str = "small", free: NDArray[np.bool_] | None = None
    ) -> None:
        """`weights` and `free` have a number per cell, (rows, columns) or flat. Raises ValueError for others."""
        cells = rows * columns
        weights = np.asarray(weights, np.float64).ravel()
        allowed = np.ones(cells, bool) if free is None else np.asarray(free, bool).ravel()
        if disc not in BLOCKS:
            raise ValueError(f"a disc is 'small' or 'large', not {disc!r}.")
        if weights.size != cells or allowed.size != cells or not (weights >= 0.0).all():
            raise ValueError(f"Coverage needs {rows} x {columns} weights of 0 or more, and as many entries of `free`.")
        side, counts = BLOCKS[disc]
        row, column = np.divmod(np.arange(cells)[:, None], columns)
        down, right = np.divmod(np.arange(side * side), side)
        inside = (row + down < rows) & (column + right < columns)
        block = np.where(inside, (row + down) * columns + column + right, 0)
        inside &= allowed[block]
        self._weights: Array = np.where(inside, weights[block], 0.0)
        self._block = np.where(inside, block, cells)  # a last column, of weight 0, stands for all that is not there
        self.additive: Array = (self._weights * counts.ravel()).sum(1)

    def reset(self, batch: int) -> None:
        width = len(self._block) + 1
        self._uncovered = np.ones((batch, width), bool)
        self._first = np.arange(0, batch * width, width)[:, None]

    def gain(self, states: Cells) -> Array:
        entries = self._block.take(states, 0) + self._first
        bitmap = self._uncovered.ravel()
        gains: Array = (self._weights.take(states, 0) * bitmap.take(entries)).sum(1)
        bitmap[entries] = False
        return gains

    def select(self, rows: Cells) -> None:
        chosen = self._uncovered[rows]
        self.reset(len(rows))
        self._uncovered = chosen


class ItemCollection:
    """How many items a path picks up, of each kind at most its cap; a cell's item is there once.

    F = sum_k min(number of distinct visited cells with an item of kind k, cap_k). The additive reward is 1 for every
    visit to a cell with an item, taken or not.
    """

    def __init__(self, kinds: Cells, caps: Cells) -> None:
        """`kinds` (N,) says which item a cell holds, -1 for none, and `caps` (K,). Raises ValueError for others."""
        kinds, caps = np.asarray(kinds, np.int64).ravel(), np.asarray(caps, np.int64)
        if kinds.min() < -1 or kinds.max() >= len(caps) or caps.min() < 0:
            raise ValueError(f"items are of the kinds 0 to {len(caps) - 1}, or -1 for none, and a cap is 0 or more.")
        self._kinds, self._caps = kinds, np.append(caps, 0)  # -1, no item, is a last kind of which nobody can have any
        self.additive: Array = (kinds >= 0).astype(np.float64)

    def reset(self, batch: int) -> None:
        self._there = np.ones((batch, len(self._kinds)), bool)
        self._room = np.tile(self._caps, (batch, 1))
        self._paths = np.arange(batch)

    def gain(self, states: Cells) -> Array:
        kinds = self._kinds[states]
        taken = self._there[self._paths, states] & (self._room[self._paths, kinds] > 0)
        self._there[self._paths, states] = False
        self._room[self._paths, kinds] -= taken
        return taken.astype(np.float64)

    def select(self, rows: Cells) -> None:
        self._there, self._room, self._paths = self._there[rows], self._room[rows], np.arange(len(rows))


class DOptimalDesign:
    """What noisy measurements at the visited cells tell about a Gaussian process: the information gain, in nats.

    F = 1/2 log det(I + K / s2), K the covariances of the cells of the path with repetition: to measure again is worth a
    little. With the Cholesky factor L of K + s2 I, a new cell s with covariances k to the path has

        g = 1/2 log((K_ss + s2 - |w|^2) / s2),   L w = k,

    and w is the next row of L. The additive reward is 1/2 log(1 + K_ss / s2).
    """

    def __init__(self, covariance: Array, noise_variance: float) -> None:
        """`covariance` (N, N). Raises ValueError where that is no symmetric matrix, or the noise not positive."""
        covariance = np.asarray(covariance, np.float64)
        square = covariance.ndim == 2 and covariance.shape[0] == covariance.shape[1]
        if not square or not np.allclose(covariance, covariance.T) or noise_variance <= 0.0:
            raise ValueError("a DOptimalDesign needs a symmetric covariance (N, N) and a noise variance above 0.")
        self._covariance, self._noise = covariance, noise_variance
        self.additive: Array = 0.5 * np.log1p(np.diag(covariance) / noise_variance)
        self._states: Cells = np.empty((1, 0), np.int64)
        self._columns: Array = np.empty((1, 1, 0))  # [j, i] is L_ij, so that a column's rows lie side by side

    def reset(self, batch: int) -> None:
        self._length = 0
        if self._states.shape[1] != batch:
            self._states, self._columns = np.empty((1, batch), np.int64), np.empty((1, 1, batch))

    def gain(self, states: Cells) -> Array:
        m = self._length
        if m == len(self._states):
            self._grow()
        # Forward substitution by columns: elementwise over the paths, so that their number changes no bit of a path.
        w = self._covariance[self._states[:m], states]
        variance = self._covariance[states, states] + self._noise
        for j in range(m):
            w[j] /= self._columns[j, j]
            w[j + 1 :] -= self._columns[j, j + 1 : m] * w[j]
            variance -= w[j] * w[j]
        variance = np.maximum(variance, self._noise)  # it is no less, but for rounding
        self._states[m] = states
        self._columns[:m, m] = w
        self._columns[m, m] = np.sqrt(variance)
        self._length += 1
        return np.asarray(0.5 * np.log(variance / self._noise))

    def select(self, rows: Cells) -> None:
        self._states, self._columns = self._states.take(rows, 1), self._columns.take(rows, 2)

    def __deepcopy__(self, memo: dict[int, Any]) -> DOptimalDesign:
        """Many environments can share the one large matrix, which never changes."""
        memo[id(self._covariance)] = self._covariance
        other = copy.copy(self)
        vars(other).update(copy.deepcopy(vars(self), memo))
        return other

    def _grow(self) -> None:
        """Make room for twice as many cells."""
        m, batch = self._states.shape
        states, columns = np.empty((2 * m, batch), np.int64), np.empty((2 * m, 2 * m, batch))
        states[:m], columns[:m, :m] = self._states, self._columns
        self._states, self._columns = states, columns
