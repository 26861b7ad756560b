"""Small tanh networks that torch owns and NumPy drives, with the gradient written out.

At 64 hidden units and minibatches of 64 the time of a step goes into calls, not into arithmetic: a minibatch of PPO
takes about 600 microseconds through autograd and 140 by the functions below, on the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Array = np.ndarray


def orthogonal(rows: int, columns: int, gain: float, rng: np.random.Generator) -> Tensor:
    """(rows, columns) with orthogonal rows or columns, whichever are fewer, times `gain`; Saxe et al., 2014."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diag(r))  # makes the distribution uniform over orthogonal matrices
    return torch.from_numpy((gain * (q if rows >= columns else q.T)).astype(np.float32).copy())


class TanhMLP(nn.Module):
    """Fully connected layers with tanh between them and a linear output.

    Orthogonal weights of gain sqrt(2), of `gain` in the output layer; biases 0.

    Args:
        sizes: widths from input to output, for example (17, 64, 64, 6)
        gain: of the output layer
        rng: the stream the initial weights come from
    """

    def __init__(self, sizes: Sequence[int], gain: float, rng: np.random.Generator) -> None:
        super().__init__()
        last = len(sizes) - 2
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            weight = orthogonal(fan_out, fan_in, gain if i == last else math.sqrt(2), rng)
            self.register_parameter(f"weight{i}", nn.Parameter(weight))
            self.register_parameter(f"bias{i}", nn.Parameter(torch.zeros(fan_out)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in) -> (B, out), for autograd."""
        parameters = list(self.parameters())
        for i in range(0, len(parameters), 2):
            x = functional.linear(x, parameters[i], parameters[i + 1])
            if i + 2 < len(parameters):
                x = torch.tanh(x)
        return x


def forward(x: Array, weights: Sequence[Array]) -> list[Array]:
    """The input of every layer of a TanhMLP, and its output; `weights` are weight (out, in), bias, weight, ..."""
    layers = [x]
    last = len(weights) - 2
    for i in range(0, len(weights), 2):
        x = x @ weights[i].T
        x += weights[i + 1]
        if i < last:
            np.tanh(x, out=x)
        layers.append(x)
    return layers


def backward(grad: Array, layers: Sequence[Array], weights: Sequence[Array], gradients: Sequence[Array]) -> None:
    """Write into `gradients` those of the weights, for `grad` (B, out) at the output of `forward`."""
    for i in range(len(weights) - 2, -1, -2):
        x = layers[i // 2]
        np.matmul(grad.T, x, out=gradients[i])
        grad.sum(0, out=gradients[i + 1])
        if i:
            grad = grad @ weights[i]
            grad *= 1 - x * x


class Flat:
    """Parameters laid out in one vector, so that a step, a norm or a copy of all of them is one call.

    The modules keep working on the same memory, which `views` shows to NumPy; `gradient_views` have the same shapes in
    the vector `gradient`. Only for parameters on the CPU.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        own = list(parameters)
        self.values = torch.cat([p.detach().reshape(-1) for p in own])
        self.gradient = torch.zeros_like(self.values)
        self.views: list[Array] = []
        self.gradient_views: list[Array] = []
        start = 0
        for p in own:
            end = start + p.numel()
            p.data = self.values[start:end].view(p.shape)
            self.views.append(p.data.numpy())
            self.gradient_views.append(self.gradient[start:end].view(p.shape).numpy())
            start = end

    def clip_gradient(self, max_norm: float) -> None:
        """Scale the gradient down to a Euclidean norm of at most `max_norm`."""
        gradient = self.gradient.numpy()
        norm = math.sqrt(gradient.dot(gradient))
        if norm > max_norm:
            gradient *= max_norm / norm
