"""SubPO: Submodular Reinforcement Learning (Prajapat, Mutny, Zeilinger and Krause, 2024, arXiv 2307.13372).

A path s_0 .. s_{H-1} is worth F of the set of its cells, where a cell pays less the more was visited before it. The
policy gradient stays one if the reward of a step is what the step adds, its marginal gain:

    F(tau) = F({s_0}) + sum_h g_h,   g_h = F({s_0 .. s_{h+1}}) - F({s_0 .. s_h}),   h = 0 .. H - 2
    grad J = E[sum_h grad log pi(a_h | s_0 .. s_h) (w_h - b_h)],   w_h = sum_{j >= h} g_j                           (1)

with any b_h of the history up to s_h. An epoch samples B paths and takes one step down

    L = -mean_{paths, h} log pi(a_h | .) (w_h - b_h) / (2 (H + 1)) - alpha / (k + 1) mean_{paths, h} entropy

in epoch k. There is no discount, and nothing is bootstrapped at the end, which is the end of the problem.

    credit      w_h
    rtg         sum_{j >= h} g_j           equation (1)
    full        F(tau)                     the same gradient, more variance
    gae         sum_l lambda^l (g_{h+l} + V_{h+l+1} - V_{h+l})   arXiv 1506.02438; with V as the baseline
    immediate   g_h                        myopic: another gradient
    prefix      F({s_0 .. s_{h+1}})        what the authors' script runs; in expectation that of immediate

    policy      sees
    M           the cell and the time (SubPO-M; ModPO with the reward `mod`)
    NM          the time and all cells so far: their mask, or with raw features the path (SubPO-NM)
    GRU         cells and times one after another, through a gated recurrent unit

ModPO, the baseline of the paper, is paid F({s}) for every visit (`--reward mod`), and is judged by F. `official` is
the authors' script: prefix credit, cell numbers and times as they are for features, no baseline. Else features are
one-hot, and what is subtracted is the mean of w_h over the paths. The step is Adam's or, which the authors' code lacks,
the natural gradient's: F^-1 grad L by conjugate gradients, as long as a KL divergence of `max_kl` allows, with a line
search (TRPO, arXiv 1502.05477). Where the environment replaces actions, the chosen ones are learnt from; the authors'
code takes those that were carried out. Parameters have a leading dimension, so that runs of several seeds and tasks can
be side by side (`SubPO`); a command trains one.

    rlsuite train subpo --env rlsuite/GP0-v0
    rlsuite train subpo --env rlsuite/TwoRooms-v0 --policy NM
    rlsuite train subpo --env rlsuite/Items0-v0 --reward mod --profile official
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlsuite.errors import UserError
from rlsuite.harness.run import Run
from rlsuite.kernels.adam import Adam
from rlsuite.kernels.distributions import Categorical
from rlsuite.kernels.stacked import assign, conjugate_gradient, divergence, fisher, flat, gather, gru, mlp, uniform

Array = np.ndarray
TRIES, TINY = 10, 1e-30  # of the line search; below what a step has no curvature
FEW = 50  # paths below which the mean that is subtracted from a path's credit leaves that path out


@dataclass(frozen=True)
class Config:
    env: str
    """environment: the Gymnasium id of a SubmodularGrid"""
    total_steps: int = 2_730_000
    """environment steps, over all paths"""
    paths: int = 500
    """B, paths of an epoch"""
    policy: Literal["M", "NM", "GRU"] = "M"
    """what the policy sees: M, the cell and the time; NM, the history; GRU, the history step by step"""
    reward: Literal["sub", "mod"] = "sub"
    """sub, marginal gains; mod, the worth of every visited cell alone (ModPO)"""
    profile: Literal["default", "official"] = "default"
    """what the next three are where they say `profile`: rtg, batch, onehot, or the authors' prefix, none, raw"""
    credit: Literal["profile", "rtg", "prefix", "immediate", "full", "gae"] = "profile"
    """w_h, see the table above"""
    baseline: Literal["profile", "none", "batch", "value"] = "profile"
    """b_h: 0, the mean of w_h over the paths, or a value network, which sees what the policy sees"""
    features: Literal["profile", "onehot", "raw"] = "profile"
    """one-hot row, column and time (and mask), or their numbers"""
    gae_lambda: float = 0.95
    """lambda of gae"""
    learning_rate: float = 1e-3
    """Adam"""
    value_learning_rate: float = 1e-2
    """Adam of the value network, one step an epoch"""
    entropy_weight: float = 0.0
    """alpha, weight of the entropy bonus in the first epoch; it falls like 1 / (k + 1)"""
    hidden: tuple[int, ...] = (64, 32)
    """widths of the hidden layers; the first is also the state of a GRU"""
    step: Literal["adam", "npg"] = "adam"
    """Adam, or the natural gradient with a line search"""
    max_kl: float = 0.01
    """KL divergence of a natural-gradient step"""
    damping: float = 1e-3
    """what is added to the diagonal of the Fisher matrix"""


EVERY = {"eval_every": 500_000, "log_every": 10_000, "checkpoint_every": 200_000}
PRESETS: dict[str, dict[str, Any]] = {  # the authors' epochs, paths and learning rates
    "*": EVERY,
    "*/items*": {"total_steps": 2_925_000, "learning_rate": 5e-3},
    "*/ddesign*": {"total_steps": 2_925_000},
    "*/tworooms*": {"total_steps": 16_380_000, "paths": 3000, "learning_rate": 2e-2, "eval_every": 2_000_000},
    "*/coverage*": {"total_steps": 1_975_000, "learning_rate": 1e-2},
}
PROFILES = {
    "default": {"credit": "rtg", "baseline": "batch", "features": "onehot"},
    "official": {"credit": "prefix", "baseline": "none", "features": "raw"},
}


class Policy(nn.Module):
    """A softmax over the five moves, or with one output a value, of R runs side by side.

    Layers with tanh between them; weights and biases begin uniform in +-1/sqrt(fan_in), torch's own default. Features
    are never formed: what a one-hot input multiplies is a row of the weights, and the part of a history is the sum of
    what its steps have added.

    Args:
        kind: what it sees, see `Config.policy`
        rows, columns: of the grid, whose cell n is (n // columns, n % columns)
        horizon: H, cells of a path
        outputs: moves, or 1 for a value
        rngs: one stream for each of the R runs
    """

    stochastic = True

    def __init__(
        self,
        kind: str,
        features: str,
        rows: int,
        columns: int,
        horizon: int,
        hidden: Sequence[int] = (64, 32),
        outputs: int = 5,
        rngs: Sequence[np.random.Generator] | None = None,
    ) -> None:
        super().__init__()
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "rngs", "__class__")}
        self.kind, self.onehot = kind, features == "onehot"
        self.cells, self.times = rows * columns, horizon - 1
        if self.onehot:
            self.split = [rows, columns, self.times] + [self.cells] * (kind == "NM")
        else:
            self.split = [self.times] if kind == "NM" else [1, 1]
        wide, fan_in = (3 * hidden[0], hidden[0]) if kind == "GRU" else (hidden[0], sum(self.split))
        layers = {"0": (sum(self.split), wide, fan_in)}
        if kind == "GRU":
            layers["_state"] = (hidden[0], wide, hidden[0])
        for i, sizes in enumerate(zip(hidden, (*hidden[1:], outputs), strict=True)):
            layers[str(i + 1)] = (*sizes, sizes[0])
        rngs = rngs or [np.random.default_rng(0)]
        for name, (size, out, fan_in) in layers.items():
            self.register_parameter(f"weight{name}", nn.Parameter(uniform(rngs, size, out, fan_in**-0.5)))
            self.register_parameter(f"bias{name}", nn.Parameter(uniform(rngs, 1, out, fan_in**-0.5)))

    def forward(
        self, cells: Tensor, fresh: Tensor, start: int = 0, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The outputs (R, T, B, outputs) at the times start .. start + T - 1.

        Args:
            cells: (R, T, B) int64, where the paths are at these times
            fresh: (R, T, B) float32, 1 where a path is in a cell for the first time, else 0
            memory: of the times before, as this function gave it
        """
        runs, steps, paths = cells.shape
        if self.kind == "M" and paths > self.cells:  # one answer for each cell and time, whoever comes by
            table, _ = self(torch.arange(self.cells).expand(runs, steps, -1), fresh, start)
            return table.gather(2, cells[..., None].expand(-1, -1, -1, table.shape[-1])), None
        parameters: list[Tensor] = list(self.parameters())
        parts, bias, rest = torch.split(parameters[0], self.split, 1), parameters[1][:, None], parameters[2:]
        times = slice(start, start + steps)
        if self.onehot:
            row, column, time = parts[:3]
            x = gather((row[:, :, None] + column[:, None] + bias).flatten(1, 2), cells) + time[:, times, None]
        elif self.kind == "NM":  # -1 stands where the path has not been
            x = bias - parts[0].sum(1, keepdim=True)[:, None]
        else:
            hours = torch.arange(start, start + steps)[:, None, None]
            x = cells[..., None] * parts[0][:, None] + (hours * parts[1][:, None] + bias)
        if self.kind == "GRU":
            x, memory = gru(x, memory, *rest[:2])
            rest = rest[2:]
        elif self.kind == "NM":
            if self.onehot:
                added = gather(parts[3], cells) * fresh[..., None]
            else:
                added = (cells + 1)[..., None] * parts[0][:, times, None]
            past = added.cumsum(1) if memory is None else added.cumsum(1) + memory
            x, memory = x + past, past[:, -1:]
        x = x if self.kind == "GRU" else torch.tanh(x)
        return mlp(x.flatten(1, 2), rest).view(runs, steps, paths, -1), memory

    def log_probs(self, cells: Tensor, fresh: Tensor) -> Tensor:
        """log pi(a | s_0 .. s_h) for whole paths, (R, T, B, 5)."""
        return functional.log_softmax(self(cells, fresh)[0], -1)

    @torch.no_grad()
    def act(self, observations: Array, uniforms: Array | None = None) -> Array:
        """(B, ...) flat observations of a SubmodularGrid, of which it takes the path -> (B,) moves of the first run:
        the most likely, or sampled at `uniforms`.
        """
        path = observations[:, self.cells : self.cells + self.times].astype(np.int64)
        now = np.maximum((path >= 0).sum(1) - 1, 0)
        cells = np.maximum(path, 0).T[None]
        outputs = self(torch.from_numpy(cells), torch.from_numpy(first_visits(cells)))[0][0].numpy()
        outputs = outputs[now, np.arange(len(now))]
        moves: Array = outputs.argmax(1) if uniforms is None else draw(outputs, uniforms)
        return moves


def first_visits(cells: Array) -> Array:
    """1 where a path (R, T, B) is in a cell for the first time, else 0; float32."""
    return np.stack([first_visit(cells, h) for h in range(cells.shape[1])], 1)


def first_visit(cells: Array, h: int) -> Array:
    """The same at the time h alone, (R, B)."""
    new: Array = (cells[:, :h] != cells[:, h : h + 1]).all(1).astype(np.float32)
    return new


def draw(outputs: Array, uniforms: Array) -> Array:
    """The moves (...) at `uniforms` (...) in [0, 1) of the softmax of outputs (..., 5)."""
    logits = outputs.reshape(-1, outputs.shape[-1])
    moves: Array = Categorical(logits - logits.max(1, keepdims=True)).at(uniforms.ravel()).reshape(uniforms.shape)
    return moves


def credit(gains: Array, initial: Array, rule: str, values: Array | None = None, decay: float = 1.0) -> Array:
    """w_h (..., T, B), see the table above.

    Args:
        gains: g_h, (..., T, B)
        initial: F({s_0}), (..., B) or (..., 1)
        values: V_h, (..., T, B), for gae; it is 0 after the last step
        decay: lambda of gae
    """
    so_far: Array = initial[..., None, :] + gains.cumsum(-2)
    if rule == "immediate":
        return gains
    if rule == "prefix":
        return so_far
    if rule == "full":
        return np.broadcast_to(so_far[..., -1:, :], gains.shape)
    if rule == "rtg":
        return np.asarray(so_far[..., -1:, :] - so_far + gains)
    assert values is not None
    weights: Array = gains - values
    weights[..., :-1, :] += values[..., 1:, :]
    for h in range(gains.shape[-2] - 2, -1, -1):
        weights[..., h, :] += decay * weights[..., h + 1, :]
    return weights


def centred(weights: Array) -> Array:
    """w_h (..., T, B) minus its mean over the paths at each h, in which a path does not count where they are few."""
    n = weights.shape[-1]
    rest: Array = weights - weights.mean(-1, keepdims=True)
    return rest * (n / (n - 1)) if n < FEW else rest


@dataclass(frozen=True)
class Paths:
    """B paths of each of R runs: cells (R, H, B), the rest (R, H - 1, B) or (R, B)."""

    cells: Array  # int64
    fresh: Array  # float32, 1 where a path is in a cell for the first time
    actions: Array  # int64, as the policy chose them
    gains: Array  # float64
    additive: Array  # float64, what ModPO is paid
    initial: Array  # F({s_0})

    @property
    def worth(self) -> Array:
        """F(tau), (R, B)"""
        return np.asarray(self.initial + self.gains.sum(1))


class SubPO:
    """Policy, optimiser and value network of R runs side by side.

    Args:
        grids: the environment of each run; of the same shape and horizon
        config: of all runs
        streams: gives a random stream by name, for each run; a run does the same alone, but for rounding
    """

    def __init__(self, grids: Sequence[Any], config: Config, streams: Sequence[Callable[[str], Any]]) -> None:
        self.config = c = config
        self.credit, self.baseline, features = choices(config)
        first = grids[0]
        if len({(grid.rows, grid.columns, grid.horizon) for grid in grids}) > 1:
            raise UserError("the runs side by side have grids of different shapes or horizons; train them one by one.")
        self.horizon = first.horizon
        self.twins = [grid.batch(c.paths) for grid in grids]
        self.noise, self.moves = ([stream(name) for stream in streams] for name in ("actions", "environment"))
        shape = (config.policy, features, first.rows, first.columns, first.horizon, c.hidden)
        self.policy = Policy(*shape, rngs=[stream("init") for stream in streams])
        self.optimizer = Adam(self.policy.parameters(), c.learning_rate)
        if self.baseline == "value":
            self.value = Policy(*shape, outputs=1, rngs=[stream("value") for stream in streams])
            self.value_optimizer = Adam(self.value.parameters(), c.value_learning_rate)
        self.epoch = 0

    @torch.no_grad()
    def play(self) -> Paths:
        """Sample the paths of an epoch."""
        runs, steps, n = len(self.twins), self.horizon - 1, self.config.paths
        noise, moves = (np.stack([rng.random((steps, n)) for rng in rngs]) for rngs in (self.noise, self.moves))
        cells, actions = np.empty((runs, steps + 1, n), np.int64), np.empty((runs, steps, n), np.int64)
        new, gains, additive = np.empty(cells.shape, np.float32), np.empty(actions.shape), np.empty(actions.shape)
        cells[:, 0] = [twin.reset() for twin in self.twins]
        initial = np.stack([twin.initial_gain for twin in self.twins])
        memory = None
        for h in range(steps):
            now = slice(h, h + 1)
            new[:, h] = first_visit(cells, h)
            outputs, memory = self.policy(torch.from_numpy(cells[:, now]), torch.from_numpy(new[:, now]), h, memory)
            actions[:, h] = draw(outputs[:, 0].numpy(), noise[:, h])
            for r, twin in enumerate(self.twins):
                cells[r, h + 1], gains[r, h], additive[r, h] = twin.step(actions[r, h].copy(), moves[r, h])
        new[:, -1] = first_visit(cells, steps)
        return Paths(cells, new, actions, gains, additive, initial)

    def update(self) -> dict[str, Array]:
        """One epoch; gives metrics (R,)."""
        paths = self.play()
        cells, new = torch.from_numpy(paths.cells[:, :-1]), torch.from_numpy(paths.fresh[:, :-1])
        weights = torch.from_numpy(self.weigh(paths, cells, new).astype(np.float32))
        actions = torch.from_numpy(paths.actions)
        log_probs = self.policy.log_probs(cells, new)
        loss, entropy = self.loss(log_probs, actions, weights)
        if self.config.step == "adam":
            self.optimizer.step(loss.sum())
            of_step: dict[str, Array] = {}
        else:
            of_step = self.natural_step(log_probs, loss, (cells, new), actions, weights)
        self.epoch += 1
        return of_step | {
            "F": paths.worth.mean(1),
            "F_max": paths.worth.max(1),
            "F_median": np.median(paths.worth, 1),
            "F_min": paths.worth.min(1),
            "distinct_cells": paths.fresh.sum(1).mean(1),
            "entropy": entropy.detach().numpy(),
            "parameter_norm": flat(list(self.policy.parameters())).detach().norm(dim=1).numpy(),
        }

    def weigh(self, paths: Paths, cells: Tensor, new: Tensor) -> Array:
        """(w_h - b_h) / (2 (H + 1)), (R, H - 1, B)."""
        c, values, rewards, first = self.config, None, paths.gains, paths.initial
        if self.config.reward == "mod":
            starts = [[twin.function.additive[twin.start]] for twin in self.twins]
            rewards, first = paths.additive, np.array(starts)
        if self.baseline == "value":
            predicted = self.value(cells, new)[0][..., 0]
            values = predicted.detach().numpy().astype(np.float64)
        weights = credit(rewards, first, self.credit, values, c.gae_lambda)
        if values is not None:
            target = weights + values if self.credit == "gae" else weights
            error = predicted - torch.from_numpy(target.astype(np.float32))
            self.value_optimizer.step(error.square().mean((1, 2)).sum())
            weights = target - values
        weights = centred(weights) if self.baseline == "batch" else weights
        return np.asarray(weights / (2 * (self.horizon + 1)))

    def natural_step(
        self, log_probs: Tensor, loss: Tensor, inputs: tuple[Tensor, Tensor], actions: Tensor, weights: Tensor
    ) -> dict[str, Array]:
        """Go sqrt(2 max_kl / x F x) x, F x = -grad L, or less where that is too far; gives the KL divergence (R,)."""
        c, parameters = self.config, list(self.policy.parameters())
        gradient = flat(torch.autograd.grad(loss.sum(), parameters, retain_graph=True))
        product, old = fisher(log_probs, parameters, c.damping), log_probs.detach()
        x = conjugate_gradient(product, -gradient)
        curvature = (x * product(x)).sum(1, keepdim=True).clamp_min(TINY)
        step = (2 * c.max_kl / curvature).sqrt() * x
        start, before = flat(parameters).detach(), self.loss(old, actions, weights, old)[0]
        for _ in range(TRIES):
            with torch.no_grad():
                assign(parameters, start + step)
                log_probs = self.policy.log_probs(*inputs)
            kl = divergence(old, log_probs)
            good = (self.loss(log_probs, actions, weights, old)[0] < before) & (kl <= 1.5 * c.max_kl)
            if good.all():
                break
            step = torch.where(good[:, None], 1.0, 0.8) * step
        else:
            assign(parameters, torch.where(good[:, None], start + step, start))
            kl = torch.where(good, kl, 0.0)
        return {"kl": kl.numpy()}

    def loss(
        self, log_probs: Tensor, actions: Tensor, weights: Tensor, old: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """L and the mean entropy, both (R,). With `old`, ratios of probabilities stand for log-probabilities, as the
        gradient there is the same, and they say what a step has brought.
        """
        chosen = log_probs.gather(-1, actions[..., None])[..., 0]
        if old is not None:
            chosen = (chosen - old.gather(-1, actions[..., None])[..., 0]).exp()
        entropy = -(log_probs.exp() * log_probs).sum(-1).mean((1, 2))
        loss = -(chosen * weights).mean((1, 2))
        bonus = self.config.entropy_weight / (self.epoch + 1)
        return (loss - bonus * entropy if bonus else loss), entropy


def choices(config: Config) -> tuple[str, str, str]:
    """Credit, baseline and features; UserError where numbers make no sense or choices contradict each other."""
    c, profile = config, PROFILES[config.profile]
    rule, baseline, features = (
        profile[key] if value == "profile" else value
        for key, value in (("credit", config.credit), ("baseline", config.baseline), ("features", config.features))
    )
    if rule == "gae" and baseline != "value":
        raise UserError("--credit gae is built on a value network; add --baseline value.")
    if baseline == "batch" and c.paths == 1:
        raise UserError("--baseline batch compares a path with others, and --paths 1 has none; change one of the two.")
    for flag, value, most in (("max-kl", c.max_kl, 1), ("damping", c.damping, 1), ("paths", c.paths, math.inf)):
        if not 0 < value <= most:
            raise UserError(f"--{flag} is above 0{' and at most 1' * (most == 1)}, not {value:g}.")
    if not (0 <= c.gae_lambda <= 1 and c.entropy_weight >= 0 and c.hidden):
        raise UserError("--gae-lambda lies between 0 and 1, --entropy-weight is at least 0, and --hidden names widths.")
    return rule, baseline, features


def train(config: Config, run: Run) -> None:
    """Train in `config.env`."""
    if run.device.type != "cpu":
        raise UserError(f"subpo computes on the CPU, where its environment is; drop --device {run.device}.")
    grid = run.task(config.env, needs="batch")
    agent = SubPO([grid], config, [run.rng])
    run.track(agent=agent)
    for _ in run.loop(config.total_steps, policy=agent.policy, stride=config.paths * (grid.horizon - 1)):
        metrics = agent.update()
        if run.logging:
            run.log({name: values[0] for name, values in metrics.items()})


if __name__ == "__main__":
    from rlsuite.cli import run_file

    run_file(__file__)
