"""Updates per CPU second of BC, TD3+BC, IQL and O-DICE, beside other ways of computing them and beside the floor.

One thread, batch 256, HalfCheetah's shapes (17 observations, 6 actions), the hidden layers of the methods' authors
(256-256; the policy of O-DICE 1024-1024), and O-DICE with a policy of 256-256 as well. The ways of a method take turns
in blocks, so that a busy machine slows all of them; ratios are medians over blocks. "floor" is the products with the
weights of the hidden layers alone, by the product that this machine uses: forward, of the gradients of the weights and
of those handed on. "plain" is TD3+BC as it is usually written (nn.Sequential, torch.optim.Adam, batches by NumPy,
losses read back every step). Then the share of each stage of ours.

O-DICE leaves transitions of weight zero out of the update of its policy, so what it costs depends on the data, on
lambda, and on how far the value function has come: it is trained alone for --warm updates before the clock starts, and
the share of positive weights is printed. "all rows" is the worst case, every weight 1. Real data are timed with the
rewards scaled as the presets of IQL and O-DICE scale them. PRDC is TD3+BC and a search: prdc_search.py times that.

A peer takes its turn with --peer METHOD=FILE.py: a file that defines make(dataset, config) -> step, given the data in
memory (an rlsuite Dataset) and our configuration; step() makes one update, batch included.

    python benchmarks/speed/offline_updates.py [--blocks 9] [--updates 30] [--methods bc td3_bc iql odice]
    python benchmarks/speed/offline_updates.py --dataset rlsuite/halfcheetah/medium-v0 --warm 20000 --peer iql=FILE.py
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded, so before the imports below

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rlsuite import data
from rlsuite.algorithms import bc, iql, odice, td3_bc
from rlsuite.data.dataset import Dataset
from rlsuite.data.rewards import scale_by_returns
from rlsuite.kernels.linear import backend, onednn

OBSERVATIONS, ACTIONS, BATCH = 17, 6, 256
Step = Callable[[], object]
METHODS: dict[str, tuple[Any, Any, int]] = {  # configuration, agent, random streams that it takes
    "bc": (bc.Config, bc.BC, 1),
    "td3_bc": (td3_bc.Config, td3_bc.TD3BC, 2),
    "iql": (iql.Config, iql.IQL, 1),
    "odice": (odice.Config, odice.ODICE, 1),
}
STAGES = {  # what is timed of an agent: attribute -> stage
    "target_value": "targets",
    "value_gradient": "value",
    "update_value": "value",
    "update_critic": "critics",
    "update_actor": "policy",
    "optimizer.apply": "optimisers",
    "value_optimizer.apply": "optimisers",
    "critic_optimizer.apply": "optimisers",
    "actor_optimizer.apply": "optimisers",
    "update_target": "moving targets",
    "update_targets": "moving targets",
}


@dataclass(frozen=True)
class Case:
    method: str
    label: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.method} {self.label}".strip()


CASES = [Case("bc"), Case("td3_bc"), Case("iql")]
for width in (1024, 256):
    hidden = {"policy_hidden": (width, width)}
    CASES += [Case("odice", f"{width}, lambda {value}", {"lambda_": value, **hidden}) for value in (0.6, 0.4)]
    CASES += [Case("odice", f"{width}, all rows", {"policy_weight": "one", **hidden})]


def random_dataset(rows: int) -> Dataset:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape, np.float32))

    flags = torch.zeros(rows, dtype=torch.bool)
    bound = np.ones(ACTIONS, np.float32)
    return Dataset(
        normal(rows, OBSERVATIONS),
        normal(rows, ACTIONS).clamp_(-1, 1),
        normal(rows),
        normal(rows, OBSERVATIONS),
        flags,
        flags,
        torch.tensor([0]),
        action_low=-bound,
        action_high=bound,
    )


class Ours:
    """An agent, its batches, and the share of transitions that its policy learns from."""

    def __init__(self, dataset: Dataset, case: Case, warm: int) -> None:
        configure, create, streams = METHODS[case.method]
        self.config = configure("random", **case.settings)
        self.agent = create(dataset, self.config, *(np.random.default_rng(seed) for seed in range(streams)))
        self.batches = dataset.batches(BATCH, np.random.default_rng(2))
        self.share = 1.0
        if case.method == "odice":
            if case.settings.get("policy_weight") != "one":
                for _ in range(warm):
                    self.agent.value_optimizer.apply(self.agent.value_gradient(next(self.batches))[0])
                    self.agent.update_target()
            self.share = float(np.mean([float(self()["positive_weights"]) for _ in range(100)]))

    def __call__(self) -> dict[str, torch.Tensor]:
        metrics: dict[str, torch.Tensor] = self.agent.update(next(self.batches))
        return metrics

    def stages(self, updates: int) -> dict[str, float]:
        """CPU seconds in each stage, longest first; what a stage calls of another is not counted. The clocks stay."""
        spent: dict[str, float] = defaultdict(float)
        inside = [0.0]  # what the stages under way have spent in others

        def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                inside.append(0.0)
                begun = time.process_time()
                result = function(*arguments)
                seconds = time.process_time() - begun
                spent[stage] += seconds - inside.pop()
                inside[-1] += seconds
                return result

            return call

        for path, stage in STAGES.items():
            *owner, attribute = path.split(".")
            thing = getattr(self.agent, owner[0], None) if owner else self.agent
            if hasattr(thing, attribute):
                setattr(thing, attribute, timed(stage, getattr(thing, attribute)))
        draw = timed("batches", lambda: next(self.batches))
        update = timed("the rest", self.agent.update)
        for _ in range(updates):
            update(draw())
        return dict(sorted(spent.items(), key=lambda item: -item[1]))


def plain(dataset: Dataset) -> Step:
    """TD3+BC as it is usually written."""

    def mlp(inputs: int, outputs: int, *last: nn.Module) -> nn.Sequential:
        layers = [nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(256, outputs), *last)

    actor = mlp(OBSERVATIONS, ACTIONS, nn.Tanh())
    critics = [mlp(OBSERVATIONS + ACTIONS, 1) for _ in range(2)]
    target_actor, target_critics = copy.deepcopy((actor, critics))
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=3e-4)
    critic_optimizers = [torch.optim.Adam(critic.parameters(), lr=3e-4) for critic in critics]
    columns = [getattr(dataset, key) for key in ("observations", "actions", "rewards", "next_observations")]
    columns.append(dataset.terminations.float())
    columns = [column if column.ndim == 2 else column[:, None] for column in columns]
    updates = 0
    log: dict[str, float] = {}

    def step() -> None:
        nonlocal updates
        updates += 1
        rows = np.random.randint(0, len(dataset), size=BATCH)
        s, a, r, s2, d = (column[rows] for column in columns)
        with torch.no_grad():
            noise = (torch.randn_like(a) * 0.2).clamp(-0.5, 0.5)
            a2 = (target_actor(s2) + noise).clamp(-1, 1)
            q = torch.min(*(critic(torch.cat([s2, a2], 1)) for critic in target_critics))
            y = r + 0.99 * (1 - d) * q
        loss = torch.stack([functional.mse_loss(critic(torch.cat([s, a], 1)), y) for critic in critics]).sum()
        log["critic_loss"] = loss.item()
        for optimizer in critic_optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in critic_optimizers:
            optimizer.step()
        if updates % 2 == 0:
            pi = actor(s)
            q = critics[0](torch.cat([s, pi], 1))
            loss = -2.5 / q.abs().mean().detach() * q.mean() + functional.mse_loss(pi, a)
            log["actor_loss"] = loss.item()
            actor_optimizer.zero_grad()
            loss.backward()
            actor_optimizer.step()
            with torch.no_grad():
                for net, target in zip([actor, *critics], [target_actor, *target_critics], strict=True):
                    for w, w_target in zip(net.parameters(), target.parameters(), strict=True):
                        w_target.copy_(0.005 * w + 0.995 * w_target)

    return step


@dataclass(frozen=True)
class Passes:
    """How often an update takes `rows` rows through one network, in each of the three directions."""

    inputs: int
    hidden: tuple[int, ...]
    forward: int
    weights: int  # gradients of the weights
    inner: int  # gradients handed on to the layer before
    rows: int = BATCH

    def products(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The operands (m, k), (n, k) of all products."""
        found = []
        for first, (into, out) in enumerate(itertools.pairwise((self.inputs, *self.hidden))):
            x, weight = torch.randn(self.rows, into), torch.randn(out, into)
            found += self.forward * [(x, weight)]
            found += self.weights * [(torch.randn(into, self.rows), torch.randn(out, self.rows))]
            if first:
                found += self.inner * [(torch.randn(self.rows, out), torch.randn(into, out))]
        return found


def floor(ours: Ours, method: str) -> Step:
    """The products that one update needs, or two of TD3+BC, the second of which has the policy's."""
    s, a, hidden = OBSERVATIONS, ACTIONS, ours.config.hidden
    policy = Passes(s, hidden, 1, 1, 1)
    critic = Passes(s + a, hidden, 2, 1, 1)  # and its target
    if method == "bc":
        updates = [[policy]]
    elif method == "td3_bc":
        plain = [Passes(s, hidden, 1, 0, 0), critic, critic]
        updates = [plain, [*plain, policy, Passes(s + a, hidden, 1, 0, 1)]]
    elif method == "iql":
        updates = [[Passes(s, hidden, 2, 1, 1), critic, critic, policy]]
    else:  # V and its target at s and s'; three gradients, two of which share one way back from V(s)
        value = Passes(s, hidden, 4, 3, 2)
        rows = max(1, round(ours.share * BATCH))
        updates = [[value, value, Passes(s, ours.config.policy_hidden, 1, 1, 1, rows)]]
    product = onednn if backend() == "onednn" else functional.linear
    turns = itertools.cycle([[pair for passes in update for pair in passes.products()] for update in updates])

    def step() -> None:
        for x, weight in next(turns):
            product(x, weight)

    return step


def load_peer(path: Path) -> Callable[[Dataset, Any], Step]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    make: Callable[[Dataset, Any], Step] = module.make
    return make


def rate(step: Step, updates: int) -> float:
    begun = time.process_time()
    for _ in range(updates):
        step()
    return updates / (time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--dataset", default="", help="with HalfCheetah's shapes; random numbers if not given")
    parser.add_argument("--steps", type=int, default=200_000, help="transitions")
    parser.add_argument("--warm", type=int, default=0, help="updates of O-DICE's value function beforehand")
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--updates", type=int, default=30, help="a block")
    parser.add_argument("--peer", action="append", default=[], metavar="METHOD=FILE.py")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.dataset:
        dataset = scale_by_returns(data.load(arguments.dataset, steps=arguments.steps))
    else:
        dataset = random_dataset(arguments.steps)
    peers: dict[str, dict[str, Callable[[Dataset, Any], Step]]] = defaultdict(dict)
    for given in arguments.peer:
        method, _, path = given.partition("=")
        peers[method][Path(path).stem] = load_peer(Path(path))

    title = f"{arguments.dataset or 'random data'}, {len(dataset)} transitions; medians of {arguments.blocks} blocks"
    print(f"matrix product: {backend()}; {title}")
    print(f"{'what':26} {'updates per CPU s':>17}  ours is", flush=True)
    for case in (case for case in CASES if case.method in arguments.methods):
        ours = Ours(dataset, case, arguments.warm)
        ways: dict[str, Step] = {case.title: ours}
        ways |= {called: make(dataset, ours.config) for called, make in peers[case.method].items()}
        if case.method == "td3_bc":
            ways["plain"] = plain(dataset)
        ways["floor"] = floor(ours, case.method)
        for step in ways.values():
            rate(step, 10)
        found = [[rate(step, arguments.updates) for step in ways.values()] for _ in range(arguments.blocks)]
        blocks = np.array(found)
        for i, called in enumerate(ways):
            ratio = f"{np.median(blocks[:, 0] / blocks[:, i]):8.2f} x" if i else ""
            print(f"{'  ' * bool(i) + called:26} {np.median(blocks[:, i]):17.1f} {ratio}")
        spent = ours.stages(5 * arguments.updates)
        total = sum(spent.values())
        shares = ", ".join(
            f"{stage} {seconds / total:.0%}" for stage, seconds in spent.items() if seconds > 0.005 * total
        )
        weights = f"positive weights {ours.share:.0%}; " if case.method == "odice" else ""
        print(f"  {weights}{shares}", flush=True)


if __name__ == "__main__":
    main()
