"""Exact nearest dataset pairs in the space (beta * observation, action), the search at the heart of PRDC.

A KD-tree is superb while the policy stays near the data and hopeless when it does not; a brute-force scan costs the
same everywhere. This search is faster than both, because of two facts:

* The query state is the state of a dataset row i, so |action - a_i| is an upper bound u of the distance sought.
* Keys are grouped by k-means into Voronoi cells. Let p be the query, c the centre of a cell, c' any other centre. A key
  of the cell is closer to c than to c', so it is at least (|p - c|^2 - |p - c'|^2) / (2 |c - c'|) away from p, which is
  how far p is from the plane between the two cells. A cell farther than u holds no neighbour. On HalfCheetah data this
  leaves 0.2 to 17 percent of the keys, where the usual bound |p - c| - radius leaves several times as many.

What is left is scanned cell by cell: one small single-precision matrix product for all queries that need the cell.
Every key whose score is within the rounding error of the best is measured again in double precision, so the answer is
the double-precision minimiser, whatever the machine, the number of threads or the backend; ties go to the query's own
row first, then to the lowest row. All bounds carry the rounding errors of their own computation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlsuite.errors import UserError, nearest

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
FAR = np.float32(1e18)  # "no bound yet": its square is still a float32


class NearestNeighbours:
    """The k nearest dataset pairs (s_j, a_j) of (s_i, action), in |beta (s_i - s_j)|^2 + |action - a_j|^2.

    observations  (N, observation_dim) float32, usually standardised
    actions       (N, action_dim) float32
    beta          weight of the observations, >= 0
    k             how many neighbours a query returns, 1 <= k <= N
    backend       "auto" is "cells" on the CPU and "brute" on an accelerator. Both are exact and give equal results.
                  "approximate" scans at most `probes` cells a query, the nearest ones; `recall` measures it.
    probes        see "approximate"

    The index is built here (4 s for 1,000,000 x 23) and takes two to four copies of the keys. Raises UserError for
    shapes that do not match, values that are not finite, and options out of range.

    After a query, `scanned` is the share of the B * N distances that were computed, and `certified` the share of its
    rows that needed no search.
    """

    def __init__(
        self,
        observations: Tensor,
        actions: Tensor,
        beta: float,
        k: int = 1,
        backend: str = "auto",
        probes: int = 32,
    ) -> None:
        backends = ("auto", "cells", "brute", "approximate")
        if backend not in backends:
            raise UserError(f"unknown search backend '{backend}'; {nearest(backend, backends)}")
        if observations.ndim != 2 or actions.ndim != 2 or len(observations) != len(actions):
            raise UserError(
                f"nearest neighbours need observations (N, o) and actions (N, a), not {tuple(observations.shape)} "
                f"and {tuple(actions.shape)}."
            )
        if not 1 <= k <= len(actions):
            raise UserError(f"cannot give {k} nearest neighbours out of {len(actions)} rows; choose k from 1 to N.")
        if not (np.isfinite(beta) and beta >= 0) or probes < 1:
            raise UserError(f"beta must be a number >= 0 and probes >= 1, not {beta} and {probes}.")
        exact = "cells" if actions.device.type == "cpu" else "brute"
        self.k, self.backend = k, exact if backend == "auto" else backend
        self.probes = probes if backend == "approximate" else None
        self.scanned, self.certified = 1.0, 0.0
        self.keys = torch.cat([beta * observations.float(), actions.float()], dim=1)
        if not torch.isfinite(self.keys).all():
            raise UserError("nearest neighbours need finite observations and actions; run the doctor on the dataset.")
        self.action_dim = actions.shape[1]
        if self.backend != "brute":
            with _one_thread():
                self._cells = _Cells(self.keys.cpu().numpy(), k)
                self._certificate = _Certificate(self._cells, self.keys.shape[1] - self.action_dim)

    def query(self, rows: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Neighbours of the pairs (state of dataset row rows[b], actions[b]).

        rows (B,) int64 in 0..N-1, actions (B, action_dim), B >= 1. Returns rows (B, k) int64 and distances (B, k)
        float32, nearest first. An action that is not finite gives some row and a distance that is not finite.
        """
        if rows.ndim != 1 or not len(rows) or actions.shape != (len(rows), self.action_dim):
            raise UserError(
                f"a query needs rows (B,) and actions (B, {self.action_dim}), not {tuple(rows.shape)} and "
                f"{tuple(actions.shape)}."
            )
        return self._query(rows, actions.detach(), self.probes)

    def recall(self, rows: Tensor, actions: Tensor) -> float:
        """Share of the queries whose first neighbour is as near as the exact one. Costs one exact search more."""
        found = self.query(rows, actions)[1][:, 0]
        exact = self._query(rows, actions.detach(), None)[1][:, 0]
        return float((found <= exact).float().mean())

    def _query(self, rows: Tensor, actions: Tensor, probes: int | None) -> tuple[Tensor, Tensor]:
        queries = torch.cat([self.keys[rows, : -self.action_dim], actions.float()], dim=1)
        if self.backend == "brute":
            return _brute(self.keys, rows, queries, self.k)
        with _one_thread(), np.errstate(invalid="ignore"):  # a diverged policy is found elsewhere
            index, squared = self._search(rows.cpu().numpy(), queries.cpu().numpy(), probes)
        distances = torch.from_numpy(np.sqrt(squared).astype(np.float32))
        return torch.from_numpy(index).to(rows.device), distances.to(rows.device)

    def _search(self, rows: Rows, queries: Floats, probes: int | None) -> tuple[Rows, NDArray[np.float64]]:
        if self.k > 1:  # the own row is only the first neighbour
            index, squared, self.scanned = self._cells.search(rows, queries, probes)
            return index, squared
        squared = _squared_distance(queries, self._cells.keys[rows])
        sure, alone = self._certificate.check(rows, np.sqrt(squared))
        index, squared, self.scanned = rows[:, None].copy(), squared[:, None], 0.0
        self.certified = float(sure.mean())
        rest = np.flatnonzero(~sure)
        if len(rest):
            index[rest], squared[rest], share = self._cells.search(rows[rest], queries[rest], probes, alone[rest])
            self.scanned = share * len(rest) / len(rows)
        return index, squared


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of small products: more threads would only wait for each other, and group the cells differently."""
    threads = torch.get_num_threads()
    if threads == 1:  # setting it would empty oneDNN's cache, which costs a training loop half a millisecond a call
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Certificate:
    """Own-sample certificate: if no other state is within |action - a_i| of s_i, row i is its own nearest neighbour.

    How far the other states of its own cell are is cheap to find for all rows at once. Where that would do for a row
    the third time, its nearest state among all rows is searched, once and for all. What is known changes no answer.
    """

    def __init__(self, cells: _Cells, states: int) -> None:
        self.cells, self.states = cells, states
        self.in_cell = cells.distance_to_next(states)  # (N,) no state of the same cell is nearer
        self.proven = np.full(len(self.in_cell), -1, np.float32)  # (N,) no state at all is nearer; -1 is unknown
        self.visits = np.zeros(len(self.in_cell), np.uint8)

    def check(self, rows: Rows, distance: NDArray[np.float64]) -> tuple[Mask, Mask]:
        """Which rows are their own neighbours; and which have no nearer neighbour in their own cell."""
        alone = distance <= self.in_cell[rows]
        unknown = rows[alone & (self.proven[rows] < 0)]
        if len(unknown):
            self.visits[unknown] += 1
            learn = np.unique(unknown[self.visits[unknown] > 2])
            if len(learn):
                states = self.state_cells.keys[learn]
                _, squared, _ = self.state_cells.search(learn, states, within=self.in_cell[learn])
                self.proven[learn] = np.sqrt(squared[:, 1]) * 0.99999
        return distance <= self.proven[rows], alone

    @cached_property
    def state_cells(self) -> _Cells:
        return _Cells(np.ascontiguousarray(self.cells.keys[:, : self.states]), 2)


class _Cells:
    """Keys grouped into Voronoi cells.

    NumPy, whose small operations are cheap; but products are torch's, whose threads can be held at one. (NumPy's own
    are 20 percent faster here on one thread, and ten times slower where OpenBLAS takes all cores of a busy machine.)
    """

    def __init__(self, keys: Floats, k: int) -> None:
        self.keys, self.k = keys, k
        self.error = np.float32((keys.shape[1] + 8) * np.finfo(np.float32).eps)  # of a product, relative
        centres = _k_means(keys, max(1, round(0.7 * len(keys) ** 0.5)))
        used, self.cell = np.unique(_assign(keys, centres), return_inverse=True)
        self.centres = centres = centres[used]
        count = len(used)

        kept = _without_copies(keys, k)
        self.order = kept[np.argsort(self.cell[kept], kind="stable")]  # position in the blocks -> dataset row
        ends = np.cumsum(np.bincount(self.cell[kept], minlength=count))
        self.starts = np.concatenate([[0], ends])
        self.radius = np.zeros(count, np.float32)
        self.blocks = []  # a cell as (dimensions + 1, keys): the keys relative to the centre, and half their squares
        for c in range(count):
            rows = self.order[self.starts[c] : self.starts[c + 1]]
            members = keys[rows].astype(np.float64) - centres[c]
            half = 0.5 * (members * members).sum(1, keepdims=True)
            self.radius[c] = np.sqrt(2 * half.max(initial=0)) * 1.00001
            block = np.concatenate([members, half], 1).T.astype(np.float32, order="C")
            self.blocks.append(torch.from_numpy(block))

        wide = centres.astype(np.float64)
        norm = (wide * wide).sum(1)
        norms = norm[:, None] + norm
        gaps = np.sqrt(np.maximum(norms - 2 * _product(wide, wide.T), 0) + 1e-13 * norms)
        self.gaps = (2.00001 * gaps).astype(np.float32)  # twice the distance between two centres, rounded up
        # Rounding errors of |p - c|^2, and of the choice of the nearest centre for the keys of the cell.
        self.slack = 4 * self.error * (np.sqrt(norm) + self.radius).astype(np.float32) ** 2
        self.plane = np.concatenate([-2 * wide, (norm - self.slack)[:, None]], 1).T.astype(np.float32, order="C")

    def distance_to_next(self, dimensions: int) -> Floats:
        """(N,) lower bounds of the distance, in the first `dimensions`, to the nearest other key of the same cell."""
        radius = np.zeros(len(self.keys), np.float32)
        for begin, end, block in zip(self.starts[:-1], self.starts[1:], self.blocks, strict=True):
            if begin < end:
                state = block.numpy()[:dimensions]
                squared = (state * state).sum(0)
                left = np.concatenate([-2 * state, np.ones_like(state[:1])]).T
                distance = _product(left, np.concatenate([state, squared[None]]))
                np.fill_diagonal(distance, np.inf)
                nearest_other = distance.min(1) + squared - 4 * self.error * squared.max()
                radius[self.order[begin:end]] = np.sqrt(np.maximum(nearest_other, 0)) * 0.99999
        return radius

    def search(
        self,
        rows: Rows,
        queries: Floats,
        probes: int | None = None,
        alone: Mask | None = None,
        within: Floats | None = None,
    ) -> tuple[Rows, NDArray[np.float64], float]:
        """Rows (B, k), squared distances (B, k), and the share of all distances computed.

        `alone` marks queries whose own cell holds no other neighbour; what is farther than `within` may stay unfound.
        """
        best = _Best(self.keys, rows, queries, self.k)
        if within is not None:
            best.squared[:, -1] = within.astype(np.float64) ** 2
        ones = np.ones((len(queries), 1), np.float32)
        far = _product(np.concatenate([queries, ones], 1), self.plane)  # |p - c|^2 - |p|^2
        own, first = self.cell[rows], far.argmin(1)
        reachable = self._reachable(far, queries, best.bound(), own, first)
        if alone is not None:
            reachable[alone, own[alone]] = False
        work = 0
        probe = np.flatnonzero(np.count_nonzero(reachable, axis=1) > 3)
        if len(probe):  # the bound leaves much to do: tighten it in the nearest cell first
            work += self._scan(best, probe, first[probe])
            bound = best.bound()[probe]
            reachable[probe] &= self._reachable(far[probe], queries[probe], bound, own[probe], first[probe])
            reachable[probe, first[probe]] = False
        if probes is not None:
            self._cap(reachable, far, probes)
        work += self._scan(best, *np.nonzero(reachable))
        return best.index, best.squared, work / (len(rows) * len(self.keys))

    def _reachable(self, far: Floats, queries: Floats, bound: Floats, *references: Rows) -> Mask:
        """(B, cells): false where the plane between the cell and a reference cell is farther than `bound`."""
        slack = 4 * self.error * (queries * queries).sum(1)
        reachable = np.ones(far.shape, np.bool_)
        for reference in references:
            near = far[np.arange(len(far)), reference] + 2 * self.slack[reference] + slack
            limit = self.gaps[reference]
            limit *= bound[:, None]
            limit += near[:, None]
            reachable &= far <= limit
        return reachable

    @staticmethod
    def _cap(reachable: Mask, far: Floats, probes: int) -> None:
        """Leave at most `probes` cells a query, those with the nearest centres."""
        for b in np.flatnonzero(np.count_nonzero(reachable, axis=1) > probes):
            cells = np.flatnonzero(reachable[b])
            reachable[b, cells[np.argsort(far[b, cells], kind="stable")[probes:]]] = False

    def _scan(self, best: _Best, query: Rows, cell: Rows) -> int:
        """Offer `best` every key of the pairs (query, cell) that may be among the k nearest. Gives the keys scanned."""
        if not len(query):
            return 0
        by_cell = np.argsort(cell, kind="stable")
        query, cell = query[by_cell], cell[by_cell]
        offset = best.queries[query] - self.centres[cell]
        squared = np.einsum("pd,pd->p", offset, offset)
        # |p - x|^2 = |p - c|^2 + 2 score, with score = |x - c|^2 / 2 - (p - c) (x - c)
        tolerance = self.error * (np.sqrt(squared) + self.radius[cell])[:, None] ** 2
        limit = 0.5 * (best.bound()[query] ** 2 - squared)[:, None] + tolerance
        left = np.concatenate([-offset, np.ones((len(query), 1), np.float32)], 1)

        cuts = np.flatnonzero(np.diff(cell)) + 1
        begins, ends = np.concatenate([[0], cuts]), np.concatenate([cuts, [len(cell)]])
        sizes = np.diff(self.starts)[cell[begins]]
        products = sizes * (ends - begins)
        score_memory = np.empty(products.max(), np.float32)  # fresh memory for each product would cost more than it
        score_tensor, left_rows = torch.from_numpy(score_memory), torch.from_numpy(left)
        close_memory = np.empty(products.max(), np.bool_)
        who, what = [], []
        for c, begin, end, size in zip(*(x.tolist() for x in (cell[begins], begins, ends, sizes)), strict=True):
            shape, area = (end - begin, size), (end - begin) * size
            score = score_memory[:area].reshape(shape)
            torch.mm(left_rows[begin:end], self.blocks[c], out=score_tensor[:area].view(shape))
            close = np.less_equal(score, limit[begin:end], out=close_memory[:area].reshape(shape))
            (hits,) = close.ravel().nonzero()
            if len(hits) > 2 * self.k * len(score) and size > self.k:  # a loose bound: the cell itself has a better one
                kth = np.partition(score, self.k - 1, axis=1)[:, self.k - 1 : self.k] + 2 * tolerance[begin:end]
                (hits,) = (score <= np.minimum(kth, limit[begin:end])).ravel().nonzero()
            if len(hits):
                who.append(hits // size + begin)
                what.append(hits % size + self.starts[c])
        if who:
            best.offer(query[np.concatenate(who)], self.order[np.concatenate(what)])
        return int(products.sum())


class _Best:
    """The k nearest rows so far of every query, measured in double precision; the own row is there from the start."""

    def __init__(self, keys: Floats, rows: Rows, queries: Floats, k: int) -> None:
        self.keys, self.rows, self.queries, self.k = keys, rows, queries, k
        self.index = np.full((len(rows), k), -1)
        self.squared = np.full((len(rows), k), np.inf)
        self.offer(np.arange(len(rows)), rows)

    def bound(self) -> Floats:
        """(B,) upper bounds of the distance to the k-th neighbour."""
        bound: Floats = np.minimum(np.sqrt(self.squared[:, -1]) * 1.000001, FAR).astype(np.float32)
        return bound

    def offer(self, query: Rows, row: Rows) -> None:
        """Let dataset rows row[p] compete for query[p]."""
        squared = _squared_distance(self.queries[query], self.keys[row])
        old = np.flatnonzero(self.index.ravel() >= 0)
        query = np.concatenate([query, old // self.k])
        row = np.concatenate([row, self.index.ravel()[old]])
        squared = np.concatenate([squared, self.squared.ravel()[old]])
        order = np.lexsort((row, row != self.rows[query], squared, query))
        query, row, squared = query[order], row[order], squared[order]
        new = np.ones(len(query), np.bool_)
        new[1:] = (query[1:] != query[:-1]) | (row[1:] != row[:-1])
        query, row, squared = query[new], row[new], squared[new]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        keep = rank < self.k
        self.index[query[keep], rank[keep]] = row[keep]
        self.squared[query[keep], rank[keep]] = squared[keep]


def _squared_distance(x: Floats, y: Floats) -> NDArray[np.float64]:
    """(P,) in double precision, column after column, so that a pair has one distance whoever asks."""
    difference = x.astype(np.float64) - y
    return np.asarray(sum((difference * difference).T))


def _product(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    return torch.mm(torch.from_numpy(x), torch.from_numpy(y)).numpy()


def _k_means(keys: Floats, count: int, rounds: int = 8) -> Floats:
    """About `count` centres (count, D), from a fixed random sample of the keys."""
    rng = np.random.default_rng(0)
    sample = keys[np.sort(rng.permutation(len(keys))[: 64 * count])]
    centres = sample[np.sort(rng.permutation(len(sample))[:count])]
    for _ in range(rounds):
        label = _assign(sample, centres)
        size = np.bincount(label, minlength=count)
        sums = np.stack([np.bincount(label, column, count) for column in sample.T], 1)
        centres = np.where(size[:, None] > 0, sums / np.maximum(size, 1)[:, None], centres).astype(np.float32)
    return centres


def _assign(keys: Floats, centres: Floats) -> Rows:
    """(N,) the nearest centre of each key, up to single-precision rounding."""
    half = 0.5 * (centres * centres).sum(1)
    chunks = [keys[i : i + 1024] for i in range(0, len(keys), 1024)]
    return np.concatenate([(half - _product(chunk, centres.T)).argmin(1) for chunk in chunks])


def _without_copies(keys: Floats, k: int) -> Rows:
    """Rows, ascending, without those that repeat k lower rows: they cannot be among the k nearest, except as own row.

    Discrete actions with beta = 0 would otherwise give thousands of equal neighbours.
    """
    weights = np.random.default_rng(0).standard_normal((keys.shape[1], 1))
    mark = _product(keys.astype(np.float64), weights)[:, 0]
    order = np.argsort(mark, kind="stable")
    repeats = np.concatenate([[False], (keys[order[1:]] == keys[order[:-1]]).all(1)])
    position = np.arange(len(keys))
    run = position - np.maximum.accumulate(np.where(repeats, 0, position))
    return np.sort(order[run < k])


def _brute(keys: Tensor, rows: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same answer on any device: every distance in single precision, the near-best again in double."""
    centre = keys.mean(0)
    offset = torch.nan_to_num(queries - centre, 0.0, 0.0, 0.0)
    error = 2 * (keys.shape[1] + 8) * torch.finfo(torch.float32).eps
    slack = error * offset.square().sum(1, keepdim=True)  # rounding: error * (|p|^2 + |x|^2)
    chunk = 2048 if keys.device.type == "cpu" else 65536  # on a CPU, what stays in its cache
    bound = torch.full((len(rows), k), torch.inf, device=keys.device)  # upper bounds of the k lowest scores so far
    who, what = [], []
    for start in range(0, len(keys), chunk):
        block = keys[start : start + chunk] - centre
        squared = block.square().sum(1)
        lower = torch.addmm((0.5 - error) * squared, offset, block.T, alpha=-1)  # of the scores, up to `slack`
        lowest, at = lower.min(1, keepdim=True) if k == 1 else lower.topk(min(k, len(block)), largest=False)
        upper = lowest + 2 * error * squared[at] + slack
        bound = torch.cat([bound, upper], 1).topk(k, largest=False).values
        hits = (lower - slack <= bound[:, -1:]).nonzero()
        who.append(hits[:, 0])
        what.append(hits[:, 1] + start)
    query, row = torch.cat(who), torch.cat(what)
    difference = queries[query].double() - keys[row]
    distance = torch.stack((difference * difference).unbind(1)).cumsum(0)[-1]
    order = row.argsort(stable=True)
    for column in ((row != rows[query]).int(), distance, query):
        order = order[column[order].argsort(stable=True)]
    first = torch.searchsorted(query[order], torch.arange(len(rows), device=keys.device))
    take = order[first[:, None] + torch.arange(k, device=keys.device)]
    return row[take], distance[take].sqrt().float()
