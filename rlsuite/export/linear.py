"""Products and networks in an exported file: the bits of the package's, with a node of the graph for every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rlsuite.kernels.linear import EPSILON, SMALLEST, fast, onednn, weight_gradient


class OneDnn(torch.autograd.Function):
    """x (B, in) @ weight (out, in).T + bias (out,) by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x, weight), grad, wanted = ctx.saved_tensors, gradients[0].contiguous(), ctx.needs_input_grad
        of_x = onednn(grad, weight.t()) if wanted[0] else None
        return (of_x, weight_gradient(grad, x), grad.sum(0)) if wanted[1] else (of_x, None, None)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias the fastest way."""
    if fast(x) and len(weight) >= SMALLEST:
        output: Tensor = OneDnn.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return output
    return functional.linear(x, weight, bias)


def mlp(x: Tensor, parameters: Sequence[Tensor], frozen: bool = False, layer_norm: bool = False) -> Tensor:
    """`MLP` with any weight (out, in), bias (out,)[, scale (out,), shift (out,)], weight, ...: (B, in) -> (B, out)."""
    if frozen:
        parameters = [p.detach() for p in parameters]
    for i in range(0, len(parameters), 4 if layer_norm else 2):
        # What goes through a normalised layer backwards is torch's own.
        layer = functional.linear if layer_norm and torch.is_grad_enabled() else product
        x = layer(x, parameters[i], parameters[i + 1])
        if i + 2 < len(parameters):
            if layer_norm:
                x = functional.layer_norm(x, x.shape[1:], parameters[i + 2], parameters[i + 3], EPSILON)
            x = torch.relu(x)
    return x
