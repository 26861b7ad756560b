"""The checks of PRDC that catch a wrong implementation; names T3 ... T14 as in the method's specification.

T1, T2, T4 and T5 belong to the search alone and stand in tests/kernels/test_neighbours.py.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlsuite.algorithms.prdc import PRDC
from rlsuite.algorithms.prdc import Config as PRDCConfig
from rlsuite.algorithms.td3_bc import TD3BC
from rlsuite.algorithms.td3_bc import Config as TD3BCConfig
from rlsuite.data.dataset import Dataset
from rlsuite.harness.config import load_algorithm, resolve


def dataset(observations, actions, rewards=None, next_observations=None, terminations=None) -> Dataset:
    n, width = len(observations), actions.shape[1]
    as_tensor = lambda x: torch.as_tensor(np.asarray(x), dtype=torch.float32)  # noqa: E731
    return Dataset(
        as_tensor(observations),
        as_tensor(actions),
        as_tensor(np.zeros(n) if rewards is None else rewards),
        as_tensor(observations if next_observations is None else next_observations),
        torch.as_tensor(np.zeros(n, bool) if terminations is None else terminations),
        torch.zeros(n, dtype=torch.bool),
        torch.tensor([0]),
        action_low=-np.ones(width, np.float32),
        action_high=np.ones(width, np.float32),
    )


def toy(n=2000, seed=0) -> Dataset:
    rng = np.random.default_rng(seed)
    return dataset(
        rng.standard_normal((n, 5)), rng.uniform(-1, 1, (n, 3)), rng.standard_normal(n), rng.standard_normal((n, 5))
    )


def agent_of(kind, config, data, seed=0):
    return kind(data, config, np.random.default_rng(seed), np.random.default_rng(seed + 1))


def run(agent, data, updates, seed=2, batch_size=256):
    batches = data.batches(batch_size, np.random.default_rng(seed))
    return [agent.update(next(batches)) for _ in range(updates)]


def weights(agent):
    return [w.clone() for w in (*agent.weights, *agent.target_weights)]


QUICK = {"dataset": "toy", "hidden": (32, 32)}


def test_t3_with_a_large_beta_prdc_is_td3_bc_bit_for_bit():
    data = toy()
    td3_bc = agent_of(TD3BC, TD3BCConfig(**QUICK), data)
    run(td3_bc, data, 200)
    outcomes = {}
    for beta in (100.0, 2.0):
        prdc = agent_of(PRDC, PRDCConfig(**QUICK, beta=beta), data)
        own = []
        for batch in itertools.islice(data.batches(256, np.random.default_rng(2)), 200):
            own.append(prdc.diagnose(batch)["own_fraction"].item())
            prdc.update(batch)
        own = np.mean(own)
        outcomes[beta] = own, all(map(torch.equal, weights(prdc), weights(td3_bc)))
    assert outcomes[100.0] == (1.0, True)
    own, equal = outcomes[2.0]
    assert 0.5 < own < 0.95  # the specification measured 0.79
    assert not equal


def test_t6_the_gradient_is_that_of_the_squared_distance_to_the_dataset():
    data = toy(500)
    beta = 2.0
    agent = agent_of(PRDC, PRDCConfig(**QUICK, beta=beta), data)
    rows = torch.arange(64)
    actions = torch.empty(64, 3).uniform_(-1, 1, generator=torch.Generator().manual_seed(0)).requires_grad_()
    neighbours, _ = agent.neighbours.query(rows, actions.detach())
    anchor = agent.neighbour_actions(neighbours)
    (gradient,) = torch.autograd.grad(actions.numel() * torch.nn.functional.mse_loss(actions, anchor), actions)
    torch.testing.assert_close(gradient, 2 * (actions - anchor).detach())

    keys = torch.cat([beta * data.observations, data.actions], 1).double()

    def squared_distance(query_actions):
        queries = torch.cat([beta * data.observations[rows].double(), query_actions], 1)
        return torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist").square()

    step = 1e-6
    exact = actions.detach().double()
    gap = squared_distance(exact).topk(2, largest=False).values.diff().squeeze(1)
    interior = gap > 1e-3  # away from Voronoi boundaries
    assert interior.sum() > 50
    for dimension in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[dimension] = step
        up, down = (squared_distance(exact + sign * shift).amin(1) for sign in (1, -1))
        finite = (up - down) / (2 * step)
        assert (finite - gradient[:, dimension].double()).abs()[interior].max() < 1e-5


def test_t7_the_actor_step_leaves_the_critics_and_ignores_the_scale_of_q():
    data = toy()
    batch = next(data.batches(256, np.random.default_rng(0)))
    moves = []
    for factor in (1.0, 8.0):  # a power of two scales floats exactly
        agent = agent_of(PRDC, PRDCConfig(**QUICK), data)
        with torch.no_grad():
            for net in (agent.critic.first, agent.critic.second):
                for parameter in list(net.parameters())[-2:]:
                    parameter *= factor
        before = [p.clone() for p in agent.critic.parameters()]
        actor = [p.clone() for p in agent.actor.parameters()]
        agent.update_actor(batch)
        assert all(map(torch.equal, before, agent.critic.parameters()))
        assert all(p.grad is None for p in agent.critic.parameters())
        moves.append([(p - old).detach() for p, old in zip(agent.actor.parameters(), actor, strict=True)])
    assert any(m.abs().max() > 0 for m in moves[0])
    for one, other in zip(*moves, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("beta", "lowest", "highest"), [(0.1, 0.6, 0.8), (2.0, 0.6, 0.8), (100.0, 0.0, 0.2)])
def test_t8_without_q_the_policy_goes_to_a_mode_where_cloning_averages(beta, lowest, highest):
    """Actions are +-0.7 by a coin. The specification measured mean |pi| 0.68 to 0.71 for small beta, 0.10 for 100."""
    rng = np.random.default_rng(0)
    actions = rng.choice([-0.7, 0.7], (2000, 1)) + 0.05 * rng.standard_normal((2000, 1))
    data = dataset(rng.standard_normal((2000, 2)), actions)
    agent = agent_of(PRDC, PRDCConfig("toy", hidden=(64, 64), alpha=0.0, beta=beta, actor_learning_rate=1e-3), data)
    batches = data.batches(256, np.random.default_rng(1))
    for _ in range(2000):
        agent.update_actor(next(batches))
    with torch.no_grad():
        assert lowest < agent.actor(data.observations).abs().mean() < highest


def test_t9_policy_and_targets_move_every_second_update_only():
    data = toy()
    agent = agent_of(PRDC, PRDCConfig(**QUICK), data)
    batches = data.batches(64, np.random.default_rng(0))
    slow = [*agent.actor.parameters(), *agent.target_weights]
    for update in range(1, 7):
        before, targets = [w.clone() for w in slow], [w.clone() for w in agent.target_weights]
        agent.update(next(batches))
        moved = [not torch.equal(old, new) for old, new in zip(before, slow, strict=True)]
        assert all(moved) if update % 2 == 0 else not any(moved)
        if update % 2 == 0:
            for old, target, online in zip(targets, agent.target_weights, agent.weights, strict=True):
                torch.testing.assert_close(target, 0.005 * online + 0.995 * old)


@pytest.mark.parametrize(("terminal", "value"), [(True, 1.0), (False, 2.0)])
def test_t10_only_a_termination_ends_the_bootstrap(terminal, value):
    """Reward 1 in a state that is its own successor: Q is 1 if that was the end, else 1 / (1 - gamma), gamma = 0.5."""
    data = dataset(np.ones((64, 1)), np.zeros((64, 1)), np.ones(64), np.ones((64, 1)), np.full(64, terminal))
    config = PRDCConfig("chain", hidden=(32, 32), gamma=0.5, tau=0.05, policy_noise=0.0, critic_learning_rate=3e-3)
    agent = agent_of(PRDC, config, data)
    run(agent, data, 1000, batch_size=32)
    with torch.no_grad():
        q1, q2 = agent.critic(data.observations, torch.zeros(64, 1))
    torch.testing.assert_close(torch.stack([q1[0], q2[0]]), torch.full((2,), value), atol=0.05, rtol=0)


def test_t11_the_antmaze_transform_changes_rewards_and_nothing_else(tmp_path, monkeypatch):
    seen = {}
    prdc = load_algorithm("prdc")
    data = replace(toy(), rewards=torch.tensor([0.0, 1.0]).repeat(1000), name="antmaze")
    original = prdc.module.PRDC

    class Spy(original):
        def __init__(self, dataset, *rest):
            seen["dataset"] = dataset
            raise StopIteration

    class Run:
        def dataset(self, *_):
            return data

        def rng(self, name):
            return np.random.default_rng(0)

    monkeypatch.setattr(prdc.module, "PRDC", Spy)
    with pytest.raises(StopIteration):
        prdc.module.train(resolve(prdc, {"dataset": "D4RL/antmaze/medium-play-v1"}).config, Run())
    assert sorted(set(seen["dataset"].rewards.tolist())) == [-1.0, 9999.0]
    normalized = data.normalized(*data.observation_statistics())
    assert torch.equal(seen["dataset"].next_observations, normalized.next_observations)


def test_t12_the_order_of_the_rows_does_not_matter():
    data = toy()
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    place = torch.argsort(order)  # row i of `data` is row place[i] of the shuffled one
    names = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    shuffled = replace(data, **{name: getattr(data, name)[order] for name in names})
    agents = [agent_of(PRDC, PRDCConfig(**QUICK), d) for d in (data, shuffled)]
    batches = data.batches(256, np.random.default_rng(2))
    for _ in range(20):
        batch = next(batches)
        one = agents[0].update(batch)
        other = agents[1].update(batch._replace(indices=place[batch.indices]))
        assert {k: v.item() for k, v in one.items()} == {k: v.item() for k, v in other.items()}


def test_t13_the_backend_of_the_search_does_not_change_a_bit():
    data = toy()
    outcomes = []
    for backend in ("auto", "cells", "brute"):
        agent = agent_of(PRDC, PRDCConfig(**QUICK), data)
        agent.neighbours = type(agent.neighbours)(data.observations, data.actions, 2.0, backend=backend)
        run(agent, data, 100)
        outcomes.append(weights(agent))
    assert all(map(torch.equal, outcomes[0], outcomes[1]))
    assert all(map(torch.equal, outcomes[0], outcomes[2]))


def test_t14_rank_and_mean_of_k():
    data = toy(200)
    rows, actions = torch.arange(50), torch.zeros(50, 3)

    def anchors(k, k_mode):
        agent = agent_of(PRDC, PRDCConfig(**QUICK, k=k, k_mode=k_mode), data)
        return agent.neighbour_actions(agent.neighbours.query(rows, actions)[0])

    assert torch.equal(anchors(1, "rank"), anchors(1, "mean"))
    assert not torch.equal(anchors(3, "rank"), anchors(3, "mean"))
    keys = torch.cat([2 * data.observations, data.actions], 1)
    queries = torch.cat([2 * data.observations[rows], actions], 1)
    third = torch.cdist(queries, keys).topk(3, largest=False).indices
    assert torch.equal(anchors(3, "rank"), data.actions[third[:, 2]])
    torch.testing.assert_close(anchors(3, "mean"), data.actions[third].mean(1))


def test_approximate_search_logs_its_recall(tmp_path):
    from rlsuite.harness import files
    from rlsuite.harness.run import execute
    from tests.conftest import write_line_world

    path = write_line_world(tmp_path / "data.npz")
    resolved = resolve(
        load_algorithm("prdc"),
        {
            "dataset": str(path),
            "env": "rlsuite/LineWorld-v0",
            "search": "approximate",
            "updates": 100,
            "log_every": 50,
            "eval_every": 0,
            "final_episodes": 1,
            "hidden": "16",
        },
    )
    assert execute(resolved, tmp_path / "run") == 0
    rows = files.read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [0.0 <= row["recall"] <= 1.0 for row in rows] == [True, True]
