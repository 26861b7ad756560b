"""Monotone submodular set functions of the cells that a path visits, of many paths at once, in float64.

A set function F gives a path s_0, s_1, ... the value F({s_0, .., s_h}), and its marginal gain pays a step for what it
adds: g_h = F({s_0, .., s_{h+1}}) - F({s_0, .., s_h}). For monotone F no gain is negative, and for submodular F a cell
adds the less, the more has been visited before it (Prajapat, Mutny, Zeilinger and Krause, arXiv 2307.13372).
"""

from __future__ import annotations

from typing import Protocol

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
        open_cells = np.ones(cells, bool) if free is None else np.asarray(free, bool).ravel()
        if disc not in BLOCKS:
            raise ValueError(f"a disc is 'small' or 'large', not {disc!r}.")
        if weights.size != cells or open_cells.size != cells or not (weights >= 0.0).all():
            raise ValueError(f"Coverage needs {rows} x {columns} weights of 0 or more, and as many entries of `free`.")
        side, counts = BLOCKS[disc]
        row, column = np.divmod(np.arange(cells)[:, None], columns)
        down, right = np.divmod(np.arange(side * side), side)
        inside = (row + down < rows) & (column + right < columns)
        block = np.where(inside, (row + down) * columns + column + right, 0)
        inside &= open_cells[block]
        self._weights: Array = np.where(inside, weights[block], 0.0)
        self._block = np.where(inside, block, cells)  # a last column, of weight 0, stands for all that is not there
        self.additive: Array = (self._weights * counts.ravel()).sum(1)

    def reset(self, batch: int) -> None:
        width = len(self._block) + 1
        self._open = np.ones((batch, width), bool)
        self._first = np.arange(0, batch * width, width)[:, None]

    def gain(self, states: Cells) -> Array:
        entries = self._block.take(states, 0) + self._first
        bitmap = self._open.ravel()
        gains: Array = (self._weights.take(states, 0) * bitmap.take(entries)).sum(1)
        bitmap[entries] = False
        return gains

    def select(self, rows: Cells) -> None:
        chosen = self._open[rows]
        self.reset(len(rows))
        self._open = chosen
