"""Networks of R runs side by side, whose parameters all have a leading dimension R, and their natural gradients.

Small networks on small batches cost calls rather than arithmetic, and one call does for all runs. Runs share nothing,
so the gradient of the sum of their losses is that of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def uniform(rngs: Sequence[np.random.Generator], rows: int, columns: int, bound: float) -> Tensor:
    """(R, rows, columns) uniform in +-bound, float32; those of a run come from its own stream."""
    drawn = np.stack([rng.uniform(-bound, bound, (rows, columns)) for rng in rngs])
    return torch.from_numpy(drawn.astype(np.float32))


def mlp(x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Layers with tanh between them: (R, B, in) -> (R, B, out); weight (R, in, out), bias (R, 1, out), weight, ..."""
    for i in range(0, len(parameters), 2):
        x = torch.baddbmm(parameters[i + 1], torch.tanh(x) if i else x, parameters[i])
    return x


def gather(tables: Tensor, rows: Tensor) -> Tensor:
    """(R, ..., k), the rows (R, ...) int64 of tables (R, N, k): what a product with one-hot inputs would be."""
    runs, n, _ = tables.shape
    if runs > 1:
        rows = rows + (n * torch.arange(runs)).view(-1, *[1] * (rows.dim() - 1))
    return functional.embedding(rows, tables.flatten(0, 1))


def gru(inputs: Tensor, state: Tensor | None, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """States (R, T, B, k) of a gated recurrent unit (Cho et al., 2014, arXiv 1406.1078), and the last one (R, B, k).

    Args:
        inputs: (R, T, B, 3 k), what the input gives to the gates reset and update and to the candidate
        state: (R, B, k), of before; None for zeros
        weight, bias: (R, k, 3 k) and (R, 1, 3 k), what makes that of the state
    """
    runs, _, paths, wide = inputs.shape
    state = inputs.new_zeros(runs, paths, wide // 3) if state is None else state
    states = []
    for x in inputs.unbind(1):
        x_reset, x_update, x_candidate = x.chunk(3, -1)
        h_reset, h_update, h_candidate = torch.baddbmm(bias, state, weight).chunk(3, -1)
        candidate = torch.tanh(x_candidate + torch.sigmoid(x_reset + h_reset) * h_candidate)
        state = torch.lerp(candidate, state, torch.sigmoid(x_update + h_update))
        states.append(state)
    return torch.stack(states, 1), state


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Parameters, or what belongs to them, (R, ...) each, as one (R, d)."""
    return torch.cat([tensor.flatten(1) for tensor in tensors], 1)


@torch.no_grad()
def assign(parameters: Sequence[Tensor], values: Tensor) -> None:
    """The inverse of `flat`: let parameters take their parts of values (R, d)."""
    sizes = [p[0].numel() for p in parameters]
    for p, value in zip(parameters, torch.split(values, sizes, 1), strict=True):
        p.copy_(value.view_as(p))


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, iterations: int = 10, tolerance: float = 1e-10
) -> Tensor:
    """x (R, d) with product(x) = b, for a symmetric positive definite matrix of each run (Hestenes and Stiefel, 1952).

    A run whose squared residual has come down to `tolerance` times that of x = 0 stays where it is.
    """
    x, residual, direction = torch.zeros_like(b), b, b
    squared = b.square().sum(1, keepdim=True)
    enough = tolerance * squared
    for _ in range(iterations):
        going = squared > enough
        if not going.any():
            break
        image = product(direction)
        length = torch.where(going, squared / (direction * image).sum(1, keepdim=True), 0.0)
        x, residual = x + length * direction, residual - length * image
        following = residual.square().sum(1, keepdim=True)
        direction = residual + torch.where(going, following / squared, 0.0) * direction
        squared = following
    return x


def divergence(old: Tensor, log_probs: Tensor) -> Tensor:
    """Mean KL(old || new), (R,), of the log-probabilities (R, ..., k) of numbered actions."""
    return (old.exp() * (old - log_probs)).sum(-1).flatten(1).mean(1)


def fisher(log_probs: Tensor, parameters: Sequence[Tensor], damping: float) -> Callable[[Tensor], Tensor]:
    """v (R, d) -> (F + damping I) v, where F is the mean Fisher information of log-probabilities (R, ..., k).

    F is the second derivative of `divergence` where that is 0, so that F v is the derivative of a slope along v.
    """
    change = divergence(log_probs.detach(), log_probs).sum()
    slopes = flat(torch.autograd.grad(change, parameters, create_graph=True))
    return lambda v: flat(torch.autograd.grad((slopes * v).sum(), parameters, retain_graph=True)) + damping * v
