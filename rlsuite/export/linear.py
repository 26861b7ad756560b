"""Products and networks in an exported file: the bits of the package's, with a node of the graph for every layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlsuite.kernels.linear import EPSILON, SMALLEST, onednn, weight_gradient


@cache
def onednn_works() -> bool:
    """Whether this is an AMD processor, on which oneDNN is the faster one, and the operator gives the right numbers."""
    rng = np.random.default_rng(0)
    x, weight, bias = (torch.from_numpy(rng.standard_normal(s, np.float32)) for s in ((64, 128), (128, 128), 128))
    try:
        close = torch.allclose(onednn(x, weight, bias), functional.linear(x, weight, bias), atol=1e-4)
        return close and "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except (OSError, AttributeError, RuntimeError):  # an internal operator may change with any release of torch
        return False


def fast(x: Tensor) -> bool:
    """Whether oneDNN multiplies x."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and onednn_works()


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
