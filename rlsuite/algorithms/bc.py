"""BC: behavioural cloning, the baseline every offline method must beat.

The policy is regressed on the actions of the dataset; rewards are ignored.

    L(phi) = mean over batch and action dimensions of (pi_phi(s) - a)^2

A deterministic tanh policy and the squared error, as in the BC term of TD3+BC (Fujimoto and Gu, 2021, arXiv
2106.06860), so that the offline policies of this suite differ only in what they are pulled towards.

    rlsuite train bc --dataset rlsuite/hopper/medium-v0
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional

from rlsuite.data.dataset import Batch, Dataset
from rlsuite.harness.networks import DeterministicActor
from rlsuite.harness.run import Run
from rlsuite.kernels.adam import Adam


@dataclass(frozen=True)
class Config:
    dataset: str
    """dataset to learn from: a name of `rlsuite data list`, a Minari id, or the path of an HDF5 or npz file"""
    dataset_steps: int = 0
    """use the first so many transitions; 0 for all"""
    env: str = ""
    """environment to evaluate in; the dataset's own if empty"""
    updates: int = 1_000_000
    """gradient updates"""
    batch_size: int = 256
    """transitions a batch"""
    learning_rate: float = 3e-4
    """Adam"""
    hidden: tuple[int, ...] = (256, 256)
    """widths of the hidden layers"""
    normalize: bool = True
    """standardise observations by the dataset's mean and standard deviation"""


class BC:
    """The policy and its optimiser."""

    def __init__(self, dataset: Dataset, config: Config, init: np.random.Generator) -> None:
        self.actor = DeterministicActor(
            dataset.observation_dim, dataset.action_dim, dataset.max_action, config.hidden, init
        ).to(dataset.device)
        self.optimizer = Adam(self.actor.parameters(), config.learning_rate)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step on a batch of normalised observations."""
        loss = functional.mse_loss(self.actor(batch.observations), batch.actions)
        self.optimizer.step(loss)
        return {"bc_loss": loss.detach()}


def train(config: Config, run: Run) -> None:
    """Clone the behaviour of `config.dataset`."""
    dataset = run.dataset(config.dataset, config.dataset_steps, config.env)
    agent = BC(dataset, config, run.rng("init"))
    if config.normalize:
        agent.actor.set_normalizer(*dataset.observation_statistics())
        dataset = dataset.normalized(agent.actor.mean, agent.actor.std)
    batches = dataset.batches(config.batch_size, run.rng("batches"))
    run.track(agent=agent, batches=batches)
    for _ in run.loop(config.updates, policy=agent.actor):
        run.log(agent.update(next(batches)))


if __name__ == "__main__":
    from rlsuite.cli import run_file

    run_file(__file__)
