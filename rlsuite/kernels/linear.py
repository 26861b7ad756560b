"""Multi-layer perceptrons on the fastest float32 matrix product that the machine has.

torch's own float32 product on a CPU is MKL's, which on AMD processors reaches about half of what oneDNN reaches; oneDNN
is inside torch, but only as an internal operator. `MLP` uses it on such processors, with a backward pass written out,
and torch's own layers everywhere else. Which one a machine uses follows from its processor alone, never from a
measurement, because the two differ in the last bits: it is part of the CPU class of a result (`backend()`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-5  # of layer normalisation, torch's default
SMALLEST = 64  # outputs of a layer; below that width a oneDNN call costs more than its product


@cache
def backend() -> str:
    """ "onednn" on AMD processors where the operator gives the right numbers, else "torch"."""
    try:
        vendor = Path("/proc/cpuinfo").read_text()
        if "AuthenticAMD" not in vendor or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return "torch"
        rng = np.random.default_rng(0)
        x, weight, bias = (torch.from_numpy(rng.standard_normal(s, np.float32)) for s in ((64, 128), (128, 128), 128))
        close = torch.allclose(onednn(x, weight, bias), functional.linear(x, weight, bias), atol=1e-4)
    except (OSError, AttributeError, RuntimeError):  # an internal operator may change with any release of torch
        return "torch"
    return "onednn" if close else "torch"


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """x (B, in) @ weight (out, in).T + bias (out,), then the activation ("none" or "relu"); not differentiable."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")
    return product


def fast(x: Tensor) -> bool:
    """Whether oneDNN multiplies x."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and backend() == "onednn"


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias the fastest way; differentiable only by way of torch's own."""
    if not torch.is_grad_enabled() and fast(x) and len(weight) >= SMALLEST:
        return onednn(x, weight, bias)
    return functional.linear(x, weight, bias)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad (B, out).T @ x (B, in), with the narrow side where oneDNN wants it."""
    if x.shape[1] < SMALLEST:
        return onednn(x.t(), grad.t()).t().contiguous()
    return onednn(grad.t(), x.t())


def forward(x: Tensor, parameters: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """The input of every layer, and the output; `parameters` are weight, bias, weight, ..."""
    inputs = [x]
    last = len(parameters) - 2
    for i in range(0, last + 2, 2):
        weight, bias = parameters[i], parameters[i + 1]
        if len(weight) >= SMALLEST:
            x = onednn(x, weight, bias, "none" if i == last else "relu")
        else:
            x = functional.linear(x, weight, bias)
            x = x if i == last else x.relu_()
        inputs.append(x)
    return inputs[:-1], x


class _OneDnnMLP(torch.autograd.Function):
    """The whole network as one node of the graph: fewer, larger steps than a node a layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        inputs, output = forward(x, parameters)
        ctx.save_for_backward(*inputs, *parameters[::2])
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        layers = len(ctx.saved_tensors) // 2
        inputs, weights = ctx.saved_tensors[:layers], ctx.saved_tensors[layers:]
        grad = gradients[0].contiguous()
        wanted = ctx.needs_input_grad
        result: list[Tensor | None] = [None] * len(wanted)
        for layer in reversed(range(layers)):
            x, weight = inputs[layer], weights[layer]
            large = len(weight) >= SMALLEST
            if wanted[1 + 2 * layer]:
                result[1 + 2 * layer] = weight_gradient(grad, x) if large else grad.t() @ x
                result[2 + 2 * layer] = grad.sum(0)
            if layer == 0 and not wanted[0]:
                break
            grad = onednn(grad, weight.t()) if large else grad @ weight
            if layer:
                grad = torch.ops.aten.threshold_backward(grad, x, 0)
            else:
                result[0] = grad
        return tuple(result)


class MLP(nn.Module):
    """Fully connected layers with ReLU between them and a linear output.

    Initial weights and biases are uniform in +-1/sqrt(fan_in), as torch's own default is, but drawn by a NumPy
    generator: those bits do not depend on the processor's instruction set.

    Args:
        sizes: widths from input to output, for example (17, 256, 256, 6)
        rng: the stream the initial weights come from
        layer_norm: normalise each hidden layer before its ReLU (Ba et al., 2016, arXiv 1607.06450)
    """

    def __init__(self, sizes: Sequence[int], rng: np.random.Generator, layer_norm: bool = False) -> None:
        super().__init__()
        self.layer_norm = layer_norm
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            bound = 1 / math.sqrt(fan_in)
            for name, shape in (("weight", (fan_out, fan_in)), ("bias", (fan_out,))):
                values = rng.uniform(-bound, bound, shape).astype(np.float32)
                self.register_parameter(f"{name}{i}", nn.Parameter(torch.from_numpy(values)))
            if layer_norm and i < len(sizes) - 2:
                self.register_parameter(f"scale{i}", nn.Parameter(torch.ones(fan_out)))
                self.register_parameter(f"shift{i}", nn.Parameter(torch.zeros(fan_out)))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """(B, in) -> (B, out). `frozen` lets gradients through to x only, which saves those of the weights."""
        # In the order of registration: weight, bias, weight, ... `parameters()` would cost as much as a small layer.
        return mlp(x, list(self._parameters.values()), frozen, self.layer_norm)  # type: ignore[arg-type]

    def vjp(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
        """`vjp` of this network, which has one output."""
        return vjp(x, list(self._parameters.values()), self.layer_norm)  # type: ignore[arg-type]


def mlp(x: Tensor, parameters: Sequence[Tensor], frozen: bool = False, layer_norm: bool = False) -> Tensor:
    """`MLP` with any weight (out, in), bias (out,)[, scale (out,), shift (out,)], weight, ...: (B, in) -> (B, out)."""
    if frozen:
        parameters = [p.detach() for p in parameters]
    if fast(x) and not layer_norm:
        if not torch.is_grad_enabled():
            return forward(x, parameters)[1]
        output: Tensor = _OneDnnMLP.apply(x, *parameters)  # type: ignore[no-untyped-call]
        return output
    for i in range(0, len(parameters), 4 if layer_norm else 2):
        # Without normalisation oneDNN has done it above.
        x = (product if layer_norm else functional.linear)(x, parameters[i], parameters[i + 1])
        if i + 2 < len(parameters):
            if layer_norm:
                x = functional.layer_norm(x, x.shape[1:], parameters[i + 2], parameters[i + 3], EPSILON)
            x = torch.relu(x)
    return x


def vjp(
    x: Tensor, parameters: Sequence[Tensor], layer_norm: bool = False
) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
    """What an `mlp` with one output makes of x (B, in), which is f (B,), and its vector-Jacobian products.

    These are a function: slopes (n, B) -> for each parameter the n gradients of sum_i slopes[:, i] f(x_i), (n, *shape).
    A slope only scales what comes back for its own row, so that all n share one way back through the network, where
    autograd needs n. Nothing here is seen by autograd.
    """
    stride = 4 if layer_norm else 2
    inputs, norms = [x], []
    with torch.no_grad():
        for i in range(0, len(parameters) - 2, stride):
            x = product(x, parameters[i], parameters[i + 1])
            if layer_norm:
                scale, shift = parameters[i + 2 : i + 4]
                normalized, mean, rstd = torch.native_layer_norm(x, [len(scale)], scale, shift, EPSILON)
                norms.append((x, mean, rstd))
                x = normalized
            x = x.relu_()
            inputs.append(x)
        output = functional.linear(x, parameters[-2], parameters[-1]).squeeze(1)

    @torch.no_grad()
    def products(slopes: Tensor) -> list[Tensor]:
        result = [(slopes @ inputs[-1])[:, None], slopes.sum(1, keepdim=True)]
        back = parameters[-2].expand(slopes.shape[1], -1)  # of f(x_i) with respect to what leaves the layer
        for layer in reversed(range(len(inputs) - 1)):
            weight, _, *affine = parameters[stride * layer : stride * (layer + 1)]
            back = torch.ops.aten.threshold_backward(back, inputs[layer + 1], 0)
            of_affine = []
            if layer_norm:
                before, mean, rstd = norms[layer]
                scaled = slopes * rstd.t()
                of_affine = [scaled @ (back * before) - (scaled * mean.t()) @ back, slopes @ back]
                back, *_ = torch.ops.aten.native_layer_norm_backward(
                    back, before, [len(weight)], mean, rstd, *affine, [True, False, False]
                )
            x = inputs[layer]
            each = (slopes[:, None] * back.t().contiguous()).flatten(0, 1)  # (n out, B)
            of_weight = weight_gradient(each.t(), x) if fast(x) and len(weight) >= SMALLEST else each @ x
            result = [of_weight.view(len(slopes), *weight.shape), slopes @ back, *of_affine, *result]
            if layer:
                back = product(back, weight.t())
        return result

    return output, products
