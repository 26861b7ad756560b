"""Adam without the cost of torch.optim: no import of the compiler at start-up, no bookkeeping at every step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma and Ba, 2015, arXiv 1412.6980) with the default betas (0.9, 0.999).

    The same fused kernel as `torch.optim.Adam(parameters, learning_rate, fused=True)`, and the same bits (a test holds
    that); `step` takes the loss, so that gradients are neither accumulated nor zeroed. `weight_decay` is added to the
    gradient as the L2 penalty that it is the factor of (AdamW's does not pass through the moments).
    """

    def __init__(
        self, parameters: Iterable[Tensor], learning_rate: float, epsilon: float = 1e-8, weight_decay: float = 0.0
    ) -> None:
        self.parameters = list(parameters)
        self.learning_rate, self.epsilon, self.weight_decay = learning_rate, epsilon, weight_decay
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        # The kernel counts for every parameter; in one tensor, because one operation a parameter would cost as much as
        # a small layer.
        self.count = torch.zeros(len(self.parameters), device=self.parameters[0].device)
        self.steps = list(self.count)

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of the scalar `loss`."""
        self.apply(list(torch.autograd.grad(loss, self.parameters)))

    def apply(self, gradients: list[Tensor]) -> None:
        """One step down `gradients`, one for each parameter."""
        with torch.no_grad():
            self.count += 1
            tensors: Any = (self.parameters, gradients, self.means, self.squares, [], self.steps)
            rates: Any = {"lr": self.learning_rate, "weight_decay": self.weight_decay, "eps": self.epsilon}
            torch._fused_adam_(*tensors, **rates, beta1=0.9, beta2=0.999, amsgrad=False, maximize=False)

    def state_dict(self) -> dict[str, Any]:
        return {"means": self.means, "squares": self.squares, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("means", "squares", "steps"):
            for own, saved in zip(getattr(self, name), state[name], strict=True):
                own.copy_(saved)


def clip_norm(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    """Scale gradients down to a common Euclidean norm of at most `max_norm`."""
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return gradients
