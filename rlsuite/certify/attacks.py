"""Attackers of the observations, each within a Euclidean budget over the whole episode.

An attacker adds something to every clean frame before its noise is drawn (rlsuite/harness/smoothing.py asks). It knows
the policy, the clean frames and all noisy frames so far, and never the noise that is still to come: nothing here is
given it.

`QAttack` is that of Kumar et al. (2022): wait until the values of the actions differ by more than a threshold, then
spend as little as makes the policy take the worst action that can be reached; what is not spent carries over.
`PGDAttack` and `RandomAttack` spend alike at every step. `ActorAttack`, against continuous actions, is ours, after what
is said of the paper's on Mountain Car.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlsuite.certify.policies import Outputs, Subject
from rlsuite.errors import UserError
from rlsuite.harness.smoothing import SmoothedSlots

Array = np.ndarray
REACHED = 0.05  # of the range of actions: so near to its end is at its end


class Attacker(ABC):
    """Keeps the budgets and the clean frames of n copies; a subclass says what to add.

    Args:
        envs: the copies
        budget: Euclidean norm of all that may be added in an episode, in the units of what the policy sees
        seed: of the attacker's own random numbers
    """

    def __init__(self, envs: SmoothedSlots, budget: float, seed: int = 0) -> None:
        self.envs, self.budget = envs, float(budget)
        n = len(envs.stack)
        self.left = np.full(n, self.budget**2)  # squared
        self.clean = np.zeros_like(envs.stack)
        self.fresh = np.ones(n, bool)  # the episode begins
        self.rng = np.random.default_rng(seed)

    def begin(self, slots: Array) -> None:
        """New episodes in `slots`."""
        self.left[slots], self.fresh[slots] = self.budget**2, True

    def spent(self, slots: Array) -> Array:
        """Euclidean norm of what was added in the episodes of `slots`."""
        norm: Array = np.sqrt(self.budget**2 - self.left[slots])
        return norm

    def perturb(self, slots: Array, frames: Array) -> Array:
        """What to add to the clean frames (m, ...) of `slots`."""
        clean, fresh = self.clean[slots], self.fresh[slots]
        clean[:, :-1] = clean[:, 1:]
        clean[:, -1] = frames
        clean[fresh] = frames[fresh, None]
        self.clean[slots] = clean
        added = self.choose(slots, frames)
        axes = tuple(range(1, added.ndim))
        squares = np.square(added, dtype=np.float64).sum(axes)
        over = squares > self.left[slots]
        if over.any():  # rounding
            shrink = np.sqrt(self.left[slots][over] / squares[over]) * (1 - 1e-6)
            added[over] *= shrink.reshape(-1, *(1,) * (added.ndim - 1)).astype(np.float32)
            squares[over] = np.square(added[over], dtype=np.float64).sum(axes)
        self.left[slots] = np.maximum(self.left[slots] - squares, 0.0)
        self.fresh[slots] = False
        return added

    @abstractmethod
    def choose(self, slots: Array, frames: Array) -> Array:
        """What to add to the clean frames (m, ...), which `perturb` cuts to what is left of the budget."""

    def seen_with(self, slots: Array, frames: Tensor, owners: Tensor) -> Tensor:
        """The observations (P, ...) if the newest frames of copies `slots[owners]` were these (P, ...), without noise.

        The earlier frames are as they are in the stack, with what was added to them and their noise.
        """
        stack = torch.from_numpy(self.envs.stack[slots])[owners]
        newest = frames[:, None]
        followed = torch.cat([stack[:, 1:], newest], 1)
        first = torch.from_numpy(self.fresh[slots])[owners].view(-1, *(1,) * (followed.dim() - 1))
        stacked = torch.where(first, newest.expand_as(followed), followed)
        return stacked.reshape(len(frames), *self.envs.observation_space.shape)

    def noise(self, samples: int) -> Tensor:
        """(samples, ...) possible noise of a frame, the attacker's own draw; none where frames have none."""
        if not self.envs.view.noisy:
            return torch.zeros(1, *self.envs.shape)
        drawn = self.rng.standard_normal((samples, *self.envs.shape), np.float32)
        return torch.from_numpy(self.envs.sigma * drawn)

    def expected(self, outputs: Outputs, slots: Array, frames: Tensor, owners: Tensor, noise: Tensor) -> Tensor:
        """Mean outputs (P, actions) over the noise (samples, ...) that the newest frames (P, ...) may get."""
        pairs, samples = len(frames), len(noise)
        noisy = (frames[:, None] + noise).reshape(pairs * samples, *frames.shape[1:])
        seen = self.seen_with(slots, noisy, owners.repeat_interleave(samples))
        return outputs(seen).view(pairs, samples, -1).mean(1)


class RandomAttack(Attacker):
    """A random direction at every step, with an equal share of the budget for each of `steps`."""

    def __init__(self, envs: SmoothedSlots, budget: float, steps: int, seed: int = 0) -> None:
        super().__init__(envs, budget, seed)
        self.share = budget / math.sqrt(steps)

    def choose(self, slots: Array, frames: Array) -> Array:
        direction = self.rng.standard_normal(frames.shape, np.float32)
        norms = np.linalg.norm(direction.reshape(len(frames), -1), axis=1)
        added: Array = direction * (self.share / norms).reshape(-1, *(1,) * (frames.ndim - 1)).astype(np.float32)
        return added


class PGDAttack(Attacker):
    """Projected gradient ascent on how far another action is above the one taken without attack, with an equal share of
    the budget for each of `steps`."""

    def __init__(
        self,
        envs: SmoothedSlots,
        budget: float,
        outputs: Outputs,
        steps: int,
        iterations: int = 10,
        samples: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(envs, budget, seed)
        self.outputs, self.iterations, self.samples = outputs, iterations, samples
        self.share = budget / math.sqrt(steps)

    def choose(self, slots: Array, frames: Array) -> Array:
        owners, noise = torch.arange(len(slots)), self.noise(self.samples)
        clean = torch.from_numpy(frames)
        with torch.no_grad():
            taken = self.expected(self.outputs, slots, clean, owners, noise).argmax(1)
        x = clean + torch.from_numpy(self.rng.standard_normal(frames.shape, np.float32)) * 1e-3 * self.share
        for _ in range(self.iterations):
            x = x.requires_grad_()
            outputs = self.expected(self.outputs, slots, x, owners, noise)
            others = outputs.scatter(1, taken[:, None], -torch.inf).amax(1)
            # Not the cross-entropy, whose slope is 0 to float32 where action values differ by more than 17.
            ahead = (others - outputs.gather(1, taken[:, None]).squeeze(1)).sum()
            (slope,) = torch.autograd.grad(ahead, x)
            length = 2.5 * self.share / self.iterations
            x = onto_ball(x.detach() + length * unit(slope), clean, torch.tensor(self.share))
        return (x - clean).numpy()


class QAttack(Attacker):
    """The paper's, against action values.

    Args:
        outputs: the action values (or logits) of observations
        threshold: lambda_Q; only actions that are worse by more than this are aimed at
        step: of the gradient
        multiple: gradient steps for the way to the edge of the budget
        samples: of the noise, over which values are averaged
        clamp: range of a frame's numbers, of pictures (0, 1)
    """

    def __init__(
        self,
        envs: SmoothedSlots,
        budget: float,
        outputs: Outputs,
        threshold: float = 0.0,
        step: float = 0.01,
        multiple: float = 2.0,
        samples: int = 128,
        clamp: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(envs, budget, seed)
        self.outputs, self.threshold, self.step, self.multiple = outputs, threshold, step, multiple
        self.samples, self.clamp = samples, clamp

    @torch.no_grad()
    def clean_values(self, slots: Array) -> Tensor:
        """(m, actions) at the clean frames, averaged over noise on all of them."""
        clean = torch.from_numpy(self.clean[slots])
        if not self.envs.view.noisy:
            return self.outputs(clean.reshape(len(slots), *self.envs.observation_space.shape))
        noise = self.envs.sigma * self.rng.standard_normal((self.samples, *clean.shape[1:]), np.float32)
        noisy = (clean[:, None] + torch.from_numpy(noise)).reshape(-1, *self.envs.observation_space.shape)
        return self.outputs(noisy).view(len(slots), self.samples, -1).mean(1)

    def choose(self, slots: Array, frames: Array) -> Array:
        clean = torch.from_numpy(frames)
        values = self.clean_values(slots)
        best = values.max(1).values
        budget = torch.from_numpy(np.sqrt(np.maximum(self.left[slots], 0.0))).float()
        steps = (self.multiple * budget / self.step).floor()
        worse = (values + self.threshold <= best[:, None]) & (values < best[:, None]) & (steps > 0)[:, None]
        owners, goals = worse.nonzero(as_tuple=True)
        noise = self.noise(self.samples)
        lowest, chosen = best.clone(), clean.clone()
        x = clean[owners].clone()
        reached = torch.zeros(len(owners), dtype=torch.bool)
        trying = torch.arange(len(owners))  # pairs of copy and goal whose goal is not reached yet
        for i in range(int(steps[owners].max()) if len(owners) else 0):
            trying = trying[(steps[owners[trying]] > i) & ~reached[trying]]
            if not len(trying):
                break
            here = x[trying].requires_grad_()
            outputs = self.expected(self.outputs, slots, here, owners[trying], noise)
            reached[trying] = outputs.argmax(1) == goals[trying]
            loss = -functional.cross_entropy(outputs, goals[trying], reduction="sum")
            (slope,) = torch.autograd.grad(loss, here)
            moved = onto_ball(here.detach() + self.step * unit(slope), clean[owners[trying]], budget[owners[trying]])
            if self.clamp is not None:
                moved = moved.clamp(*self.clamp)
            x[trying] = torch.where(spread(reached[trying], moved), here.detach(), moved)
        for pair in reached.nonzero()[:, 0].tolist():
            owner, value = owners[pair], values[owners[pair], goals[pair]]
            if value < lowest[owner]:
                lowest[owner], chosen[owner] = value, x[pair]
        return (chosen - clean).numpy()


class ActorAttack(Attacker):
    """Against continuous actions: down what the critic thinks of the action, or, without one, to the opposite end.

    What is added has a price, and all that is left of the budget may be spent at once; but where the opposite end of
    the actions' range is reached, no more is.

    Args:
        outputs: the mean actions of observations, not clipped, because there is no way out where they are
        critic: values (P,) of observations and actions, or None
        price: of the squared norm
    """

    def __init__(
        self,
        envs: SmoothedSlots,
        budget: float,
        outputs: Outputs,
        critic: Callable[[Tensor, Tensor], Tensor] | None = None,
        price: float = 1e-4,
        step: float = 0.01,
        iterations: int = 100,
        samples: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(envs, budget, seed)
        self.outputs, self.critic, self.price = outputs, critic, price
        self.step, self.iterations, self.samples = step, iterations, samples

    def choose(self, slots: Array, frames: Array) -> Array:
        owners, noise, clean = torch.arange(len(slots)), self.noise(self.samples), torch.from_numpy(frames)
        budget = torch.from_numpy(np.sqrt(np.maximum(self.left[slots], 0.0))).float()
        observations = torch.from_numpy(self.clean[slots]).reshape(len(slots), *self.envs.observation_space.shape)
        space = self.envs.action_space
        assert isinstance(space, gym.spaces.Box)
        with torch.no_grad():
            usual = self.expected(self.outputs, slots, clean, owners, noise)
        low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
        opposite = torch.where(usual > (low + high) / 2, low, high)
        x = clean + 1e-3 * torch.from_numpy(self.rng.standard_normal(frames.shape, np.float32))
        x = onto_ball(x, clean, budget)
        for _ in range(self.iterations):
            x = x.requires_grad_()
            actions = self.expected(self.outputs, slots, x, owners, noise)
            if self.critic is None:
                good = (actions - opposite).square().sum(1)
                there = ((actions.clamp(low, high) - opposite).abs() <= REACHED * (high - low)).all(1)
            else:
                good, there = self.critic(observations, actions), torch.zeros(len(x), dtype=torch.bool)
            loss = (good + self.price * (x - clean).flatten(1).square().sum(1)).sum()
            (slope,) = torch.autograd.grad(loss, x)
            x = x.detach()
            x = torch.where(spread(there, x), x, onto_ball(x - self.step * unit(slope), clean, budget))
            if there.all():
                break
        return (x - clean).numpy()


def spread(flags: Tensor, like: Tensor) -> Tensor:
    """(P,) with axes of size one behind it, to go with (P, ...)."""
    return flags.view(-1, *(1,) * (like.dim() - 1))


def unit(x: Tensor) -> Tensor:
    """(P, ...) with rows of norm one; a row of zeros stays."""
    return x / spread(x.flatten(1).norm(dim=1).clamp_min(1e-12), x)


def onto_ball(x: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """(P, ...) moved straight to within `radius` (P,) or () of `centre` (P, ...)."""
    away = x - centre
    norms = away.flatten(1).norm(dim=1)
    factor = (radius / norms.clamp_min(1e-12)).clamp_max(1.0)
    return centre + away * spread(factor, away)


@dataclass(frozen=True)
class Plan:
    """An attack with its numbers, to be sent to another process: called with a policy it gives what `play` takes."""

    kind: Literal["q", "pgd", "random", "actor"]
    budget: float
    threshold: float = 0.0
    samples: int = 128
    steps: int = 0
    """that a budget is shared by (pgd and random)"""
    pictures: bool = False

    def __call__(self, subject: Subject, seed: int = 0) -> Callable[[SmoothedSlots], Attacker]:
        """`seed` is of the attacker's own numbers. Raises UserError where this attack does not work on the policy."""
        if self.kind == "random":
            return lambda envs: RandomAttack(envs, self.budget, self.steps, seed=seed)
        network = subject.network
        if network is None:
            raise UserError(f"{subject.name} cannot be differentiated here; use --attack random.")
        outputs = network.outputs
        if self.kind == "actor":
            if network.discrete:
                raise UserError(f"the actions of {subject.name} are discrete; use --attack q or pgd.")
            return lambda envs: ActorAttack(envs, self.budget, outputs, network.critic, samples=self.samples, seed=seed)
        if not network.discrete:
            raise UserError(f"the actions of {subject.name} are continuous; use --attack actor or random.")
        if self.kind == "pgd":
            return lambda envs: PGDAttack(envs, self.budget, outputs, self.steps, samples=self.samples, seed=seed)
        given = {"samples": self.samples, "clamp": (0.0, 1.0) if self.pictures else None, "seed": seed}
        return lambda envs: QAttack(envs, self.budget, outputs, self.threshold, **given)  # type: ignore[arg-type]
