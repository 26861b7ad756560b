"""Offline imitation with O-DICE (Mao et al., ICLR 2024, arXiv 2402.00348): learn from a demonstration without rewards.

With r = 0 the value function of odice.py only has to be consistent along the data,

    min_V  mean (1 - lambda) V(s) + lambda f*(gamma (1 - d) V(s') - V(s)),

and the policy clones the demonstration's actions weighted by the residual. All else, the orthogonal update among it, is
odice.py's; observations are standardised by the demonstration's own statistics and the policy's mean is squashed.

The paper's setting is one trajectory (of D4RL's expert data number 1, 10, 20 or 30) and nothing else. `suboptimal` adds
other data, which is not in the paper: half of every batch comes from there with reward 0, while the demonstrations'
transitions have reward `demo_reward` (as in SQIL, Reddy et al., 2020, arXiv 1905.11108), so that those actions of the
other data that lead to demonstrated states are cloned, too. At the paper's lambda every action has a positive weight,
and the policy clones all of the mixture; 0.6 picks (`--lambda 0.6`).

`policy_weight = one` is behavioural cloning with the same policy, optimiser and batches.

Departures from the authors' code: the last transition of a demonstration that a time limit cut has its true successor;
theirs is the first state of the next trajectory (`keep_boundary`).

    rlsuite train odice_il --dataset rlsuite/hopper/expert-v0 --demos 1
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from rlsuite import data
from rlsuite.algorithms.odice import ODICE, Learner, fit
from rlsuite.data.dataset import Batch, Batches, Dataset
from rlsuite.data.names import split_episodes
from rlsuite.errors import UserError
from rlsuite.harness.run import Run


@dataclass(frozen=True)
class Config(Learner):
    demos: tuple[int, ...] = ()
    """episodes of the dataset that are the demonstrations, counted from 0; all of it if none are named"""
    suboptimal: str = ""
    """other data without rewards, named as the dataset is; half of every batch comes from it"""
    suboptimal_steps: int = 0
    """use the first so many transitions of it; 0 for all"""
    demo_reward: float = 10.0
    """reward of the demonstrations' transitions beside suboptimal data"""
    keep_boundary: bool = False
    """let the last state of a cut demonstration be followed by the first one of the next, as the authors' code does"""
    updates: int = 500_000
    """updates of value and policy"""
    lambda_: float = 0.4
    """weight of the residuals against the value at the data's states, between 0 and 1"""
    value_learning_rate: float = 1e-4
    """Adam"""
    policy_learning_rate: float = 1e-4
    """Adam"""
    weight_decay: float = 1e-5
    """L2 penalty on all parameters of the policy"""
    layer_norm: bool = False
    """layer normalisation in the value functions"""
    tanh: bool = True
    """squash the policy's mean"""
    normalize: bool = True
    """standardise observations by the demonstrations' mean and standard deviation"""


# From the authors' scripts (maoliyuan/ODICE-Pytorch).
PRESETS: dict[str, dict[str, Any]] = {"*walker2d*": {"weight_decay": 1e-3}}


class MixedBatches:
    """An endless, resumable iterator of batches, the one half from the demonstrations, the other from other data."""

    def __init__(self, demos: Batches, others: Batches) -> None:
        self.demos, self.others = demos, others

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return Batch(*map(torch.cat, zip(next(self.demos), next(self.others), strict=True)))

    def state_dict(self) -> dict[str, Any]:
        return {"demos": self.demos.state_dict(), "others": self.others.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.demos.load_state_dict(state["demos"])
        self.others.load_state_dict(state["others"])


def across_boundaries(demos: Dataset, name: str, steps: int) -> Dataset:
    """The demonstrations `name` with the first state of the next episode after the last one of a cut episode."""
    name, episodes = split_episodes(name)
    whole = data.load(name, steps or None, device=str(demos.device))
    following = torch.tensor(episodes or range(len(whole.episode_starts)), device=demos.device) + 1
    last = demos.episode_ends - 1
    cut = demos.truncations[last] & ~demos.terminations[last] & (following < len(whole.episode_starts))
    next_observations = demos.next_observations.clone()
    next_observations[last[cut]] = whole.observations[whole.episode_starts[following[cut]]]
    return replace(demos, next_observations=next_observations)


def train(config: Config, run: Run) -> None:
    """Imitate the demonstrations in `config.dataset`."""
    if config.demos and split_episodes(config.dataset)[1]:
        raise UserError(f"{config.dataset} names the demonstrations already; leave out either #... or --demos.")
    half = config.batch_size // 2
    if config.suboptimal and not half:
        raise UserError("half of every batch comes from --suboptimal, so --batch-size is at least 2, not 1.")
    name = config.dataset + ("#" + ",".join(map(str, config.demos)) if config.demos else "")
    demos = run.dataset(name, config.dataset_steps, config.env)
    if config.keep_boundary:
        demos = across_boundaries(demos, name, config.dataset_steps)
    agent = ODICE(demos, config, run.rng("init"))
    if config.normalize:
        agent.actor.set_normalizer(*demos.observation_statistics())
        demos = demos.normalized(agent.actor.mean, agent.actor.std)
    reward = config.demo_reward if config.suboptimal else 0.0
    demos = replace(demos, rewards=torch.full_like(demos.rewards, reward))
    if not config.suboptimal:
        return fit(agent, demos.batches(config.batch_size, run.rng("batches")), run)
    others = run.dataset(config.suboptimal, config.suboptimal_steps, run.env_id)
    others = others.normalized(agent.actor.mean, agent.actor.std)
    others = replace(others, rewards=torch.zeros_like(others.rewards))
    return fit(
        agent,
        MixedBatches(
            demos.batches(config.batch_size - half, run.rng("batches")), others.batches(half, run.rng("other batches"))
        ),
        run,
    )


if __name__ == "__main__":
    from rlsuite.cli import run_file

    run_file(__file__)
