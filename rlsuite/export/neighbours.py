"""PRDC's search in an exported file: the package's answers from a third of its lines.

It lacks what makes the package's fast where the policy is near the data, which is the certificate that a row is its
own nearest neighbour, and what only odd data need.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rlsuite.errors import UserError

Array = np.ndarray


class NearestNeighbours:
    """The k nearest dataset pairs (s_j, a_j) of (s_i, action), in |beta (s_i - s_j)|^2 + |action - a_j|^2.

    Exact: what may be nearest in single precision is measured again in double, and ties go to the query's own row, then
    to the lowest. On a CPU the keys are grouped into Voronoi cells by k-means. Let p be the query, c the centre of a
    cell, c' any other centre. A key of the cell is closer to c than to c', so it is at least
    (|p - c|^2 - |p - c'|^2) / (2 |c - c'|) away from p, and a cell farther than the best so far is skipped. All bounds
    carry the rounding errors of their own computation.
    """

    def __init__(self, observations: Tensor, actions: Tensor, beta: float, k: int = 1, backend: str = "auto") -> None:
        self.k, self.action_dim = k, actions.shape[1]
        self.keys = torch.cat([beta * observations.float(), actions.float()], 1)
        if not (1 <= k <= len(self.keys) and beta >= 0 and torch.isfinite(self.keys).all()):
            raise UserError(f"k = {k}, beta = {beta} or the dataset is out of range; k is 1 to {len(self.keys)}.")
        # Of a product, relative.
        self.error = np.float32((self.keys.shape[1] + 8) * np.finfo(np.float32).eps)
        if self.keys.device.type == "cpu":
            self.group(self.keys.numpy())

    def query(self, rows: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Neighbours of the pairs (state of dataset row rows[b], actions[b]), nearest first.

        rows (B,) int64, actions (B, action_dim) -> rows (B, k) int64 and distances (B, k) float32.
        """
        queries = torch.cat([self.keys[rows, : -self.action_dim], actions.detach().float()], 1)
        with np.errstate(invalid="ignore"):  # a diverged policy is found elsewhere
            best = Best(self.keys, rows, queries, self.k)
            if rows.device.type == "cpu":
                self.search(best, rows.numpy(), queries.numpy())
            else:
                best.offer(*self.scan_all(queries))
            distances = np.sqrt(best.squared).astype(np.float32)
        return torch.from_numpy(best.index).to(rows.device), torch.from_numpy(distances).to(rows.device)

    def scan_all(self, queries: Tensor) -> tuple[Array, Array]:
        """Pairs (query, row) that hold the nearest, from all distances in single precision."""
        error, centre = 2 * float(self.error), self.keys.mean(0)
        offset = torch.nan_to_num(queries - centre, 0.0, 0.0, 0.0)
        slack = error * offset.square().sum(1, keepdim=True)
        bound = torch.full((len(queries), self.k), torch.inf, device=queries.device)  # of the k lowest scores so far
        found = []
        for start in range(0, len(self.keys), 65536):
            block = self.keys[start : start + 65536] - centre
            squared = block.square().sum(1)
            lower = torch.addmm((0.5 - error) * squared, offset, block.T, alpha=-1)  # of the scores, up to `slack`
            lowest, at = lower.topk(min(self.k, len(block)), largest=False)
            upper = lowest + 2 * error * squared[at] + slack
            bound = torch.cat([bound, upper], 1).topk(self.k, largest=False).values
            query, row = (lower - slack <= bound[:, -1:]).nonzero().T.cpu().numpy()
            found.append((query, row + start))
        query, row = np.concatenate(found, 1)
        return query, row

    def group(self, keys: Array) -> None:
        """Make the cells."""
        rng = np.random.default_rng(0)
        count = max(1, round(0.7 * len(keys) ** 0.5))
        sample = keys[rng.permutation(len(keys))[: 64 * count]]
        centres = sample[:count]
        for _ in range(8):
            label = assign(sample, centres)
            size = np.bincount(label, minlength=count)
            sums = np.stack([np.bincount(label, column, count) for column in sample.T], 1)
            centres = np.where(size[:, None] > 0, sums / np.maximum(size, 1)[:, None], centres).astype(np.float32)
        used, self.cell = np.unique(assign(keys, centres), return_inverse=True)
        self.centres = centres = centres[used]
        self.order = np.argsort(self.cell, kind="stable")  # position in the blocks -> dataset row
        self.starts = np.searchsorted(self.cell[self.order], np.arange(len(used) + 1))
        self.radius = np.zeros(len(used), np.float32)
        self.blocks = []  # a cell as (dimensions + 1, keys): the keys relative to the centre, and half their squares
        for c, rows in enumerate(np.split(self.order, self.starts[1:-1])):
            members = keys[rows].astype(np.float64) - centres[c]
            half = 0.5 * (members * members).sum(1, keepdims=True)
            self.radius[c] = np.sqrt(2 * half.max()) * 1.00001
            self.blocks.append(np.concatenate([members, half], 1).T.astype(np.float32, order="C"))
        wide = centres.astype(np.float64)
        norm = (wide * wide).sum(1)
        norms = norm[:, None] + norm
        gaps = np.sqrt(np.maximum(norms - 2 * product(wide, wide.T), 0) + 1e-13 * norms)
        self.gaps = (2.00001 * gaps).astype(np.float32)  # twice the distance between two centres, rounded up
        # Rounding errors of |p - c|^2, and of the choice of the nearest centre for the keys of the cell.
        self.slack = 4 * self.error * (np.sqrt(norm) + self.radius).astype(np.float32) ** 2
        self.plane = np.concatenate([-2 * wide, (norm - self.slack)[:, None]], 1).T.astype(np.float32, order="C")

    def search(self, best: Best, rows: Array, queries: Array) -> None:
        """Scan the nearest cell of every query, then all that may hold something nearer than was found there."""
        every = np.arange(len(queries))
        far = product(np.concatenate([queries, np.ones((len(queries), 1), np.float32)], 1), self.plane)
        first = far.argmin(1)  # |p - c|^2 - |p|^2
        self.scan(best, queries, every, first)
        slack, bound = 4 * self.error * (queries * queries).sum(1), best.bound()
        reachable = np.ones(far.shape, np.bool_)
        for reference in (self.cell[rows], first):
            near = far[every, reference] + 2 * self.slack[reference] + slack
            reachable &= far <= self.gaps[reference] * bound[:, None] + near[:, None]
        reachable[every, first] = False
        self.scan(best, queries, *np.nonzero(reachable))

    def scan(self, best: Best, queries: Array, query: Array, cell: Array) -> None:
        """Offer `best` every key of the pairs (query, cell) that may be among the k nearest."""
        by_cell = np.argsort(cell, kind="stable")
        query, cell = query[by_cell], cell[by_cell]
        offset = queries[query] - self.centres[cell]
        squared = np.einsum("pd,pd->p", offset, offset)
        # |p - x|^2 = |p - c|^2 + 2 score, with score = |x - c|^2 / 2 - (p - c) (x - c)
        tolerance = self.error * (np.sqrt(squared) + self.radius[cell])[:, None] ** 2
        limit = 0.5 * (best.bound()[query] ** 2 - squared)[:, None] + tolerance
        left = np.concatenate([-offset, np.ones((len(query), 1), np.float32)], 1)
        found = []
        for pairs in np.split(np.arange(len(cell)), np.flatnonzero(np.diff(cell)) + 1) if len(cell) else []:
            c = cell[pairs[0]]
            score = product(left[pairs], self.blocks[c])
            hits = np.flatnonzero(score <= limit[pairs])
            if len(hits) > 2 * self.k * len(score) and score.shape[1] > self.k:  # the cell itself has a better bound
                kth = np.partition(score, self.k - 1, axis=1)[:, self.k - 1 : self.k] + 2 * tolerance[pairs]
                hits = np.flatnonzero(score <= np.minimum(kth, limit[pairs]))
            found.append((hits // score.shape[1] + pairs[0], hits % score.shape[1] + self.starts[c]))
        if found:
            hit, position = np.concatenate(found, 1)
            best.offer(query[hit], self.order[position])


class Best:
    """The k nearest rows so far of every query, measured in double precision; the own row is there from the start."""

    def __init__(self, keys: Tensor, rows: Tensor, queries: Tensor, k: int) -> None:
        self.keys, self.queries, self.k = keys, queries, k
        self.rows = rows.cpu().numpy()
        self.index, self.squared = np.full((len(rows), k), -1), np.full((len(rows), k), np.inf)
        self.offer(np.arange(len(rows)), self.rows)

    def bound(self) -> Array:
        """(B,) upper bounds of the distance to the k-th neighbour."""
        # The square of what stands for no bound is still a float32.
        return np.asarray(np.minimum(np.sqrt(self.squared[:, -1]) * 1.000001, 1e18), np.float32)

    def offer(self, query: Array, row: Array) -> None:
        """Let dataset rows row[p] compete for query[p]."""
        old = np.flatnonzero(self.index.ravel() >= 0)
        query, row = np.append(query, old // self.k), np.append(row, self.index.ravel()[old])
        difference = (self.queries[query].double() - self.keys[row]).cpu().numpy()
        squared = np.asarray(sum((difference * difference).T))  # column after column: a pair has one distance
        order = np.lexsort((row, row != self.rows[query], squared, query))
        query, row, squared = query[order], row[order], squared[order]
        new = np.append(True, (np.diff(query) != 0) | (np.diff(row) != 0))
        query, row, squared = query[new], row[new], squared[new]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        keep = rank < self.k
        self.index[query[keep], rank[keep]] = row[keep]
        self.squared[query[keep], rank[keep]] = squared[keep]


def product(x: Array, y: Array) -> Array:
    return np.asarray(torch.mm(torch.from_numpy(x), torch.from_numpy(y)))


def assign(keys: Array, centres: Array) -> Array:
    """(N,) the nearest centre of each key, up to single-precision rounding."""
    half = 0.5 * (centres * centres).sum(1)
    chunks = [keys[i : i + 1024] for i in range(0, len(keys), 1024)]
    return np.concatenate([(half - product(chunk, centres.T)).argmin(1) for chunk in chunks])
