"""The networks that several methods share, with everything acting needs inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlsuite.harness import sampling_error
from rlsuite.harness.rollouts import ObservationNormalizer
from rlsuite.kernels.distributions import Categorical, Gaussian
from rlsuite.kernels.linear import MLP, mlp
from rlsuite.kernels.tanh_mlp import Flat, TanhMLP, backward, forward, orthogonal

Array = np.ndarray
PICTURE_FEATURES = 512  # what NatureCNN makes of a picture
CHUNK = 256  # rows of a forward pass without gradient, so that a rollout of pictures fits into memory


class DeterministicActor(nn.Module):
    """a = max_action * tanh(MLP((s - mean) / std)).

    `forward` takes observations that are already normalised, as a batch of a normalised dataset is; `act` takes them as
    the environment gives them. Mean and std are buffers: the normaliser is part of the policy.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        max_action: float = 1.0,
        hidden: Sequence[int] = (256, 256),
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "observation_dim": observation_dim,
            "action_dim": action_dim,
            "max_action": max_action,
            "hidden": list(hidden),
        }
        self.max_action = max_action
        self.net = MLP((observation_dim, *hidden, action_dim), rng or np.random.default_rng(0))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(observation_dim))
        self.register_buffer("std", torch.ones(observation_dim))

    def set_normalizer(self, mean: Tensor, std: Tensor) -> None:
        """Take the statistics of the dataset, each (observation_dim,)."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, observations: Tensor) -> Tensor:
        """(B, observation_dim) normalised -> (B, action_dim)."""
        actions = torch.tanh(self.net(observations))
        return actions if self.max_action == 1.0 else self.max_action * actions

    @torch.no_grad()
    def act(self, observations: np.ndarray) -> np.ndarray:
        """(B, observation_dim) as the environment gives them -> (B, action_dim)."""
        x = torch.as_tensor(observations, dtype=torch.float32, device=self.mean.device)
        actions: np.ndarray = self((x - self.mean) / self.std).cpu().numpy()
        return actions


class GaussianActor(DeterministicActor):
    """N(m(s), sigma^2) with a standard deviation for each action dimension that does not depend on the state.

    m(s) = max_action * tanh(MLP(s)), or max_action * MLP(s) where `tanh` is False; log(sigma / max_action) is a
    parameter, clipped to [-5, 2] where it is used. `act` plays the mean, clipped to the bounds.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        max_action: float = 1.0,
        hidden: Sequence[int] = (256, 256),
        tanh: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(observation_dim, action_dim, max_action, hidden, rng)
        self.arguments["tanh"] = tanh
        self.tanh = tanh
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, observations: Tensor) -> Tensor:
        """(B, observation_dim) normalised -> the means (B, action_dim)."""
        if self.tanh:
            return super().forward(observations)
        means: Tensor = self.max_action * self.net(observations)
        return means

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """(B, observation_dim) normalised, (B, action_dim) -> log-densities (B,)."""
        log_std = self.log_std.clamp(-5.0, 2.0) + math.log(self.max_action)
        z: Tensor = (actions - self(observations)) * (-log_std).exp()
        return -0.5 * z.square().sum(1) - log_std.sum() - 0.5 * math.log(2 * math.pi) * len(log_std)

    @torch.no_grad()
    def act(self, observations: np.ndarray) -> np.ndarray:
        """(B, observation_dim) as the environment gives them -> (B, action_dim)."""
        return super().act(observations).clip(-self.max_action, self.max_action)


class TwinCritic(nn.Module):
    """Two independent action-value networks Q_1, Q_2 : (s, a) -> R."""

    def __init__(self, observation_dim: int, action_dim: int, hidden: Sequence[int], rng: np.random.Generator) -> None:
        super().__init__()
        self.first = MLP((observation_dim + action_dim, *hidden, 1), rng)
        self.second = MLP((observation_dim + action_dim, *hidden, 1), rng)

    def forward(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, observation_dim), (B, action_dim) -> Q_1 (B,), Q_2 (B,)."""
        x = torch.cat([observations, actions], 1)
        return self.first(x).squeeze(1), self.second(x).squeeze(1)

    def q1_frozen(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Q_1 alone, (B,), differentiable in the actions but not in its weights: what a policy climbs."""
        q: Tensor = self.first(torch.cat([observations, actions], 1), frozen=True).squeeze(1)
        return q


class NatureCNN(nn.Module):
    """Pictures (B, channels, height, width) of numbers up to `highest` -> features (B, 512); Mnih et al., 2015."""

    def __init__(self, shape: Sequence[int], rng: np.random.Generator, highest: float = 255.0) -> None:
        super().__init__()
        self.highest = highest
        channels, height, width = shape
        for i, (filters, size, stride) in enumerate(((32, 8, 4), (64, 4, 2), (64, 3, 1))):
            weight = orthogonal(filters, channels * size * size, math.sqrt(2), rng)
            self.register_parameter(f"weight{i}", nn.Parameter(weight.view(filters, channels, size, size)))
            self.register_parameter(f"bias{i}", nn.Parameter(torch.zeros(filters)))
            channels, height, width = filters, (height - size) // stride + 1, (width - size) // stride + 1
        weight = orthogonal(PICTURE_FEATURES, channels * height * width, math.sqrt(2), rng)
        self.weight3, self.bias3 = nn.Parameter(weight), nn.Parameter(torch.zeros(PICTURE_FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        # Channels last, rearranged while still small: the first layer's backward pass takes a third of the time. To
        # scale its weights is cheaper than to scale the pictures.
        first, *parameters = self.parameters()
        x = x.contiguous(memory_format=torch.channels_last).to(first.dtype)
        parameters.insert(0, first / self.highest)  # type: ignore[arg-type]
        for i, stride in enumerate((4, 2, 1)):
            x = torch.conv2d(x, parameters[2 * i], parameters[2 * i + 1], stride).relu_()
        return mlp(x.flatten(1), parameters[6:]).relu_().float()


class ActorCritic(nn.Module):
    """Policy and value function, with the observation normaliser.

    Args:
        observation_shape: of one observation; three axes are a picture, channels first
        actions: action dimensions, or how many actions there are to choose from
        low, high: bounds of continuous actions; none for discrete ones
        stochastic: whether evaluation samples actions instead of taking the most likely one
        highest: the largest number of a picture, 255 of bytes
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        actions: int,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        hidden: Sequence[int] = (64, 64),
        mean_tanh: bool = False,
        normalize: bool = True,
        stochastic: bool = False,
        highest: float = 255.0,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "rng", "__class__")}
        rng = rng or np.random.default_rng(0)
        self.continuous, self.mean_tanh, self.stochastic = low is not None, mean_tanh, stochastic
        self.low, self.high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        self.pictures = len(observation_shape) == 3
        self.normalizer = ObservationNormalizer(tuple(observation_shape)) if normalize and not self.pictures else None
        sizes = (PICTURE_FEATURES,) if self.pictures else (observation_shape[0], *hidden)
        self.trunk = NatureCNN(observation_shape, rng, highest) if self.pictures else nn.Identity()
        self.actor = TanhMLP((*sizes, actions), 0.01, rng)
        self.critic = TanhMLP((*sizes, 1), 1.0, rng)
        # What acts comes first, because that part alone is what a behaviour policy needs.
        self.acting = [*self.trunk.parameters(), *self.actor.parameters()]
        self.split = len(self.acting)
        if self.continuous:
            self.log_std = nn.Parameter(torch.zeros(actions))
            self.acting.append(self.log_std)
        self.critic_from = len(self.acting)
        self.learnt = [*self.acting, *self.critic.parameters()]
        self.flat = None if self.pictures else Flat(self.learnt)

    def to_device(self, device: torch.device) -> ActorCritic:
        """Move the weights; elsewhere than on a CPU they are not driven by NumPy."""
        if device.type != "cpu":
            self.flat = None
        return self.to(device)

    # Through autograd

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ...) prepared observations -> means or logits (B, actions), values (B,)."""
        return self.heads(self.trunk(x))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.actor(x)
        return torch.tanh(outputs) if self.mean_tanh else outputs, self.critic(x).squeeze(1)

    def evaluate(self, x: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, ...), (B, ...) -> log-probabilities (B,), entropies (B,), values (B,)."""
        outputs, values = self(x)
        distribution: Any
        if self.continuous:
            distribution = torch.distributions.Normal(outputs, self.log_std.exp(), validate_args=False)
            return distribution.log_prob(actions).sum(1), distribution.entropy().sum(1), values
        distribution = torch.distributions.Categorical(logits=outputs, validate_args=False)
        return distribution.log_prob(actions), distribution.entropy(), values

    # Without gradient

    def prepare(self, observations: Array) -> Array:
        """What the networks see of raw observations: normalised, or as they are."""
        return observations if self.normalizer is None else self.normalizer.normalize(observations)

    def distribution(self, x: Array) -> Gaussian | Categorical:
        """Of the actions at prepared observations (B, ...)."""
        return self.of_outputs(self._through_torch(x)[0] if self.flat is None else self.actor_layers(x)[-1])

    def values(self, x: Array) -> Array:
        """(B,) at prepared observations."""
        if self.flat is None:
            return self._through_torch(x)[1]
        values: Array = forward(x, self.flat.views[self.critic_from :])[-1][:, 0]
        return values

    def distribution_and_values(self, x: Array) -> tuple[Gaussian | Categorical, Array]:
        """Both, in one pass where the networks share layers."""
        if self.flat is not None:
            return self.distribution(x), self.values(x)
        outputs, values, _ = self._through_torch(x)
        return self.of_outputs(outputs), values

    def actor_layers(self, x: Array) -> list[Array]:
        """The input of every layer of the actor, and its output."""
        assert self.flat is not None
        layers = forward(x, self.flat.views[: self.split])
        if self.mean_tanh:
            np.tanh(layers[-1], out=layers[-1])
        return layers

    def of_outputs(self, outputs: Array) -> Gaussian | Categorical:
        if self.continuous:
            return Gaussian(outputs, self.log_std.detach().cpu().numpy().copy())  # it outlives the next step
        return Categorical.of(outputs)

    def sampling_error(self, observations: Array, actions: Array) -> sampling_error.SamplingError:
        """Of a buffer of raw observations (N, ...) and the actions taken there (N, ...), for this policy's head."""
        x = self.prepare(observations)
        features = self._through_torch(x)[2] if self.flat is None else self.actor_layers(x)[-2]
        weight, bias = [p.detach().cpu().numpy() for p in list(self.actor.parameters())[-2:]]
        if not self.continuous:
            return sampling_error.categorical(features, actions, weight, bias)
        measure = sampling_error.tanh_gaussian if self.mean_tanh else sampling_error.gaussian
        return measure(features, actions, weight, bias, self.log_std.detach().cpu().numpy())

    def backward(self, layers: list[Array], grad: Array, log_std: Array | float = 0.0) -> None:
        """Write the actor's part of the gradient, for `grad` (B, actions) at its outputs and `log_std` (actions,)."""
        assert self.flat is not None
        if self.mean_tanh:
            grad = grad * (1 - layers[-1] * layers[-1])
        backward(grad, layers, self.flat.views[: self.split], self.flat.gradient_views[: self.split])
        if self.continuous:
            self.flat.gradient_views[self.split][:] = log_std

    @torch.no_grad()
    def _through_torch(self, x: Array) -> tuple[Array, Array, Array]:
        """Outputs (N, actions), values (N,), and the inputs of the heads (N, ...)."""
        device = self.acting[0].device
        parts = []
        for i in range(0, len(x), CHUNK):
            features = self.trunk(torch.from_numpy(x[i : i + CHUNK]).to(device))
            parts.append((*self.heads(features), features))
        outputs, values, features = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
        return outputs, values, features

    def act(self, observations: Array, uniforms: Array | None = None) -> Array:
        """(B, ...) as the environment gives them -> actions within the bounds: the mode, or sampled at `uniforms`."""
        distribution = self.distribution(self.prepare(observations))
        if isinstance(distribution, Gaussian):
            clipped: Array = np.clip(distribution.mode(), self.low, self.high)
            return clipped
        return distribution.mode() if uniforms is None else distribution.at(uniforms)


class FlatPolicy(nn.Module):
    """A softmax over numbered actions or a Gaussian, from a tanh network of which all parameters are one vector.

    Weights begin uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010), biases at 0. The mean of the
    Gaussian is linear in the last layer and its standard deviations depend on no state; nothing is squashed.

    Args:
        actions: action dimensions, or how many actions there are to choose from
        low, high: bounds of continuous actions; none for discrete ones
        stochastic: whether evaluation samples actions instead of taking the most likely one
    """

    def __init__(
        self,
        observation_dim: int,
        actions: int,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        hidden: Sequence[int] = (64, 64),
        init_log_std: float = 0.0,
        stochastic: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "rng", "__class__")}
        rng = rng or np.random.default_rng(0)
        self.continuous, self.stochastic = low is not None, stochastic
        self.low, self.high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        for i, (fan_in, fan_out) in enumerate(pairwise((observation_dim, *hidden, actions))):
            bound = math.sqrt(6 / (fan_in + fan_out))
            weight = rng.uniform(-bound, bound, (fan_out, fan_in)).astype(np.float32)
            self.register_parameter(f"weight{i}", nn.Parameter(torch.from_numpy(weight)))
            self.register_parameter(f"bias{i}", nn.Parameter(torch.zeros(fan_out)))
        self.layers = 2 * (len(hidden) + 1)  # parameters of the network; the log standard deviation comes last
        if self.continuous:
            self.log_std = nn.Parameter(torch.full((actions,), init_log_std))
        self.shapes = [p.shape for p in self.parameters()]
        self.flat = Flat(self.parameters())

    def assign(self, theta: Array) -> None:
        """Take the parameters theta (d,)."""
        self.flat.values.numpy()[:] = theta

    def distribution(self, outputs: Array) -> Gaussian | Categorical:
        """Of the actions, for outputs of the network."""
        return Gaussian(outputs, self.flat.views[-1]) if self.continuous else Categorical.of(outputs)

    def outputs(self, observations: Array) -> Array:
        """(B, observation_dim) -> (B, actions). Each row is multiplied by itself, so that no other changes its bits:
        those of a product of matrices depend on the place of a row among the others."""
        outputs: Array = forward(observations[:, None], self.flat.views[: self.layers])[-1][:, 0]
        return outputs

    def draw(self, observations: Array, noise: Array) -> Array:
        """Actions at (B, observation_dim), for normal noise (B, k), or uniform noise (B,) where they are discrete."""
        outputs = self.outputs(observations)
        if self.continuous:
            outputs += np.exp(self.flat.views[-1]) * noise
            return outputs
        return Categorical(outputs - outputs.max(1, keepdims=True)).at(noise)  # which divides by the sum itself

    def act(self, observations: Array, uniforms: Array | None = None) -> Array:
        """(B, observation_dim) -> actions within the bounds: the mode, or sampled at `uniforms`."""
        if uniforms is not None:
            return self.draw(observations, uniforms)
        mode = self.distribution(self.outputs(observations)).mode()
        return np.minimum(np.maximum(mode, self.low), self.high) if self.continuous else mode

    def log_probs(self, observations: Array, actions: Array) -> Array:
        """(N,)"""
        return self.distribution(forward(observations, self.flat.views[: self.layers])[-1]).log_prob(actions)

    def score(self, observations: Array, actions: Array, weights: Array) -> Array:
        """sum_j weights_j grad log pi(a_j|s_j), (d,) float64; written out."""
        layers = forward(observations, self.flat.views[: self.layers])
        parts = self.distribution(layers[-1]).gradient(actions, weights.astype(np.float32))
        if isinstance(parts, tuple):
            outputs, self.flat.gradient_views[-1][:] = parts
        else:
            outputs = parts
        backward(outputs, layers, self.flat.views[: self.layers], self.flat.gradient_views[: self.layers])
        gradient: Array = self.flat.gradient.numpy().astype(np.float64)
        return gradient

    def functional(self, observations: Array, actions: Array) -> Callable[[Tensor], Tensor]:
        """theta (d,) -> log pi(a_j|s_j), (N,), for autograd in the precision of theta."""

        def log_probs(theta: Tensor) -> Tensor:
            pieces = torch.split(theta, [shape.numel() for shape in self.shapes])
            parts = [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
            x = torch.from_numpy(observations).to(theta.dtype)
            for i in range(0, self.layers, 2):
                x = functional.linear(torch.tanh(x) if i else x, parts[i], parts[i + 1])
            chosen = torch.from_numpy(actions)
            if not self.continuous:
                return torch.log_softmax(x, 1).gather(1, chosen[:, None])[:, 0]
            z: Tensor = (chosen.to(theta.dtype) - x) * (-parts[-1]).exp()
            return -0.5 * (z * z).sum(1) - parts[-1].sum() - 0.5 * math.log(2 * math.pi) * len(parts[-1])

        return log_probs
