"""What planning reaches in a SubmodularGrid that is known and deterministic: greedy steps and beam search.

Both are lower bounds of the best F, to put beside what was learned, and neither is a policy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlsuite_envs.set_functions import Array, Cells
from rlsuite_envs.submodular import MOVES, SubmodularGrid


class Path(NamedTuple):
    """A whole path and its value."""

    actions: Cells  # (H - 1,)
    cells: Cells  # (H,)
    F: float  # of all cells, that of the start included


def greedy(env: SubmodularGrid) -> Path:
    """At each step the move with the largest gain, which is a beam of width 1."""
    return beam(env, 1)


def beam(env: SubmodularGrid, width: int) -> Path:
    """The best of the paths that remain if after each step only the `width` best with different cells are kept.

    Paths that end in the same cell and have visited the same cells count as one, the best of them. Which of equally
    good paths remain is decided by a fixed draw. A wider beam is not always better. Raises ValueError for a width below
    1, a stochastic environment, and a set function without `select`.
    """
    if width < 1:
        raise ValueError(f"a beam has a width of 1 or more, not {width}.")
    if env.stochasticity:
        raise ValueError("the oracles plan paths of a deterministic environment; make it with stochasticity=0.")
    if not hasattr(env.function, "select"):
        raise ValueError("beam search copies sequences; give the set function a method `select(rows)`.")
    marks = np.random.default_rng(0).integers(1, 1 << 63, env.cells)
    batch = env.batch(1)
    cells = batch.reset()[:, None]  # (paths, length)
    actions: Cells = np.empty((1, 0), np.int64)
    F: Array = batch.initial_gain
    visited = marks[cells[:, 0]]  # a hash of the set: the exclusive or of the marks of what is in it
    for _ in range(env.horizon - 1):
        rows = np.repeat(np.arange(len(F)), len(MOVES))
        moves = np.tile(np.arange(len(MOVES)), len(F))
        batch.select(rows)
        arrived, gains, _ = batch.step(moves)
        cells, actions = np.column_stack([cells[rows], arrived]), np.column_stack([actions[rows], moves])
        new = ~(cells[:, :-1] == arrived[:, None]).any(1)
        F, visited = F[rows] + gains, visited[rows] ^ np.where(new, marks[arrived], 0)
        order = np.lexsort((visited ^ marks[arrived], -F.round(9)))  # in the order of moves, equals would be all alike
        _, first = np.unique(np.stack([visited, arrived])[:, order], axis=1, return_index=True)
        kept = order[np.sort(first)[:width]]
        batch.select(kept)
        cells, actions, F, visited = cells[kept], actions[kept], F[kept], visited[kept]
    return Path(actions[0], cells[0], float(F[0]))
