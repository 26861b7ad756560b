"""The checks of IQL that catch a wrong implementation: beside plain torch, at fixed points, and where cloning fails."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import expectile
from torch import Tensor, nn

from rlsuite.algorithms import bc
from rlsuite.algorithms.iql import IQL, Config
from rlsuite.data.dataset import Dataset
from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.evaluation import evaluate
from rlsuite.harness.run import load_state, state_of
from tests.algorithms.test_prdc import dataset

QUICK = {"dataset": "toy", "hidden": (32, 32)}


def toy(n: int = 1000, max_action: float = 1.0) -> Dataset:
    """Random transitions, a tenth of them terminal."""
    rng = np.random.default_rng(0)
    data = dataset(
        rng.standard_normal((n, 5)),
        max_action * rng.uniform(-1, 1, (n, 3)),
        rng.standard_normal(n),
        rng.standard_normal((n, 5)),
        rng.random(n) < 0.1,
    )
    return replace(data, action_low=max_action * data.action_low, action_high=max_action * data.action_high)


def agent_of(config: Config, data: Dataset) -> IQL:
    return IQL(data, config, np.random.default_rng(1))


def run(agent: IQL, data: Dataset, updates: int, batch_size: int = 256) -> list[dict[str, float]]:
    batches = data.batches(batch_size, np.random.default_rng(2))
    return [{k: v.item() for k, v in agent.update(next(batches)).items()} for _ in range(updates)]


class Plain:
    """IQL in plain torch, the updates in the order of the authors' code and of CORL's: V, Q, Q', policy."""

    def __init__(self, agent: IQL, config: Config, max_action: float) -> None:
        self.config, self.max_action = config, max_action
        self.q = nn.ModuleList(layers(net) for net in (agent.critic.first, agent.critic.second))
        self.target = nn.ModuleList(layers(net) for net in (agent.critic.first, agent.critic.second))
        self.v, self.mean = layers(agent.value), layers(agent.actor.net)
        self.log_std = nn.Parameter(torch.zeros(agent.actor.net.bias2.shape))
        self.v_adam = torch.optim.Adam(self.v.parameters(), config.value_learning_rate)
        self.q_adam = torch.optim.Adam(self.q.parameters(), config.critic_learning_rate)
        self.policy_adam = torch.optim.Adam([*self.mean.parameters(), self.log_std], config.actor_learning_rate)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.policy_adam, config.updates)

    def update(self, s: Tensor, a: Tensor, r: Tensor, s2: Tensor, d: Tensor) -> dict[str, float]:
        c, x = self.config, torch.cat([s, a], 1)
        with torch.no_grad():
            y = r + c.gamma * (1 - d) * self.v(s2)[:, 0]
            q = torch.min(self.target[0](x), self.target[1](x))[:, 0]
        v = self.v(s)[:, 0]
        u = q - v
        v_loss = torch.where(u > 0, c.expectile, 1 - c.expectile).mul(u**2).mean()
        descend(self.v_adam, v_loss)
        q_loss = sum(((net(x)[:, 0] - y) ** 2).mean() for net in self.q) / 2
        descend(self.q_adam, q_loss)
        for target, online in zip(self.target.parameters(), self.q.parameters(), strict=True):
            target.data = (1 - c.tau) * target.data + c.tau * online.data
        weight = torch.clamp(torch.exp(c.beta * u.detach()), max=100)
        policy = torch.distributions.Normal(self.max_action * self.mean(s).tanh(), self.max_action * self.log_std.exp())
        policy_loss = -(weight * policy.log_prob(a).sum(1)).mean()
        descend(self.policy_adam, policy_loss)
        self.schedule.step()
        metrics = {"value_loss": v_loss, "value": v.mean(), "critic_loss": q_loss, "actor_loss": policy_loss}
        return {k: m.item() for k, m in metrics.items()} | {"weight": weight.mean().item()}

    def parameters(self) -> list[Tensor]:
        parts = (self.q, self.target, self.v, self.mean)
        return [p for part in parts for p in part.parameters()] + [self.log_std]


def layers(mlp: nn.Module) -> nn.Sequential:
    """The same network of torch's own layers."""
    parameters = [p.detach().clone() for p in mlp.parameters()]
    net = nn.Sequential()
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        linear = nn.Linear(*weight.t().shape)
        linear.weight.data, linear.bias.data = weight, bias
        net.extend([linear, nn.ReLU()])
    return net[:-1]


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("max_action", "given"),
    [
        (1.0, {}),
        (2.0, {}),
        (1.0, {"expectile": 0.9, "beta": 10.0, "gamma": 0.9, "tau": 0.1}),
        (1.0, {"expectile": 0.5, "beta": 0.0}),
    ],
)
def test_every_number_is_that_of_plain_torch(max_action, given):
    """The policy's learning rate falls to zero meanwhile, so that a wrong schedule shows."""
    data = toy(max_action=max_action)
    rates = {"actor_learning_rate": 4e-3, "critic_learning_rate": 4e-3, "value_learning_rate": 4e-3}
    config = Config("toy", hidden=(64, 32), updates=30, **rates, **given)
    agent = agent_of(config, data)
    plain = Plain(agent, config, max_action)
    before = [p.clone() for p in plain.parameters()]
    batches = data.batches(128, np.random.default_rng(2))
    for _ in range(30):
        batch = next(batches)
        own, expected = agent.update(batch), plain.update(*batch[:5])
        assert {k: v.item() for k, v in own.items()} == pytest.approx(expected, rel=1e-4, abs=1e-5)
    parts = (agent.critic, agent.target_critic, agent.value, agent.actor.net)
    weights = [p for part in parts for p in part.parameters()] + [agent.actor.log_std]
    for weight, expected, old in zip(weights, plain.parameters(), before, strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-5)
        assert (weight - old).abs().max() > 3e-5


@pytest.mark.parametrize("level", [0.5, 0.7, 0.9])
def test_v_is_the_expectile_of_the_smaller_q_over_the_actions_of_the_data(level):
    """One state, whose actions have the known values q and q + a positive number; SciPy computes the expectile."""
    rng = np.random.default_rng(0)
    q = torch.from_numpy(rng.exponential(1.0, 400).astype(np.float32))
    larger = q + torch.from_numpy(rng.uniform(0, 3, 400).astype(np.float32))
    data = dataset(np.ones((400, 1)), np.linspace(-1, 1, 400)[:, None])
    agent = agent_of(Config("bandit", hidden=(32, 32), expectile=level, value_learning_rate=1e-3), data)
    agent.target_critic = lambda observations, actions: (larger[row], q[row])
    everything = next(data.batches(400, rng))._replace(actions=data.actions)
    row = torch.arange(400)
    for _ in range(1500):
        agent.update_value(everything)
    advantage, metrics = agent.update_value(everything)
    assert metrics["value"].item() == pytest.approx(expectile(q.numpy(), level), abs=1e-3)
    torch.testing.assert_close(advantage, q - metrics["value"], atol=1e-5, rtol=0)
    if level == 0.5:
        assert metrics["value"].item() == pytest.approx(q.mean().item(), abs=1e-3)


def test_a_bandit_is_solved_to_its_closed_form():
    """Three actions of known reward: Q is the reward, V its expectile, the policy the Gaussian of the weighted data."""
    actions = np.repeat([-0.5, 0.0, 0.5], [120, 60, 20])
    rewards = np.repeat([0.0, 0.3, 1.0], [120, 60, 20])
    data = dataset(np.zeros((200, 1)), actions[:, None], rewards, terminations=np.ones(200, bool))
    rates = {"actor_learning_rate": 1e-2, "critic_learning_rate": 3e-3, "value_learning_rate": 3e-3}
    agent = agent_of(Config("bandit", hidden=(32, 32), tau=0.05, beta=3.0, updates=1500, **rates), data)
    run(agent, data, 1500)
    v = expectile(rewards, 0.7)
    weight = np.exp(3.0 * (rewards - v))
    mean = np.average(actions, weights=weight)
    std = np.sqrt(np.average((actions - mean) ** 2, weights=weight))
    with torch.no_grad():
        q1, q2 = agent.critic(data.observations, data.actions)
        for q in (q1, q2):
            np.testing.assert_allclose(q, rewards, atol=0.02)
        assert agent.value(data.observations[:1]).item() == pytest.approx(v, abs=0.02)
        assert agent.actor(data.observations[:1]).item() == pytest.approx(mean, abs=0.02)
        assert agent.actor.log_std.exp().item() == pytest.approx(std, abs=0.02)


def test_without_beta_rewards_do_not_matter_to_the_policy():
    data = toy()
    policies = {}
    for beta in (0.0, 3.0):
        for scale in (1.0, 100.0):
            agent = agent_of(Config(**QUICK, beta=beta, value_learning_rate=1e-2), data)
            rows = run(agent, replace(data, rewards=scale * data.rewards), 20)
            policies[beta, scale] = list(agent.actor.parameters())
            if beta == 0:
                assert {row["weight"] for row in rows} == {1.0}
    assert all(map(torch.equal, policies[0.0, 1.0], policies[0.0, 100.0]))
    assert not all(map(torch.equal, policies[3.0, 1.0], policies[3.0, 100.0]))


def test_a_weight_is_at_most_100():
    data = toy()
    batch = next(data.batches(4, np.random.default_rng(0)))
    advantage = torch.tensor([0.0, 1.5, 1.6, 1e6])  # exp(3 u) is 1, 90, 122 and infinite
    agents = [agent_of(Config(**QUICK), data) for _ in range(2)]
    metrics = agents[0].update_actor(batch, advantage)
    assert metrics["weight"].item() == pytest.approx((1 + math.exp(4.5) + 100 + 100) / 4)
    assert math.isfinite(metrics["actor_loss"])
    agents[1].update_actor(batch, torch.tensor([0.0, 1.5, 7.0, 7.0]))
    assert all(map(torch.equal, agents[0].actor.parameters(), agents[1].actor.parameters()))


@pytest.mark.parametrize(("terminal", "value"), [(True, 1.0), (False, 2.0)])
def test_only_a_termination_ends_the_bootstrap(terminal, value):
    """Reward 1 in a state that is its own successor: Q is 1 if that was the end, else 1 / (1 - gamma), gamma = 0.5."""
    data = dataset(np.ones((64, 1)), np.zeros((64, 1)), np.ones(64), np.ones((64, 1)), np.full(64, terminal))
    data = replace(data, truncations=torch.ones(64, dtype=torch.bool))
    rates = {"critic_learning_rate": 3e-3, "value_learning_rate": 3e-3}
    agent = agent_of(Config("chain", hidden=(32, 32), gamma=0.5, tau=0.05, **rates), data)
    run(agent, data, 1000, batch_size=32)
    with torch.no_grad():
        q1, q2 = agent.critic(data.observations, torch.zeros(64, 1))
        estimates = torch.stack([q1[0], q2[0], agent.value(data.observations)[0, 0]])
    torch.testing.assert_close(estimates, torch.full((3,), value), atol=0.05, rtol=0)


def test_the_learning_rate_of_the_policy_falls_along_half_a_cosine_also_after_a_resume():
    data = toy()
    config = Config(**QUICK, updates=10, actor_learning_rate=2e-3)
    agent, resumed = agent_of(config, data), agent_of(replace(config), data)
    batches = data.batches(64, np.random.default_rng(0))
    rates = []
    for update in range(10):
        batch = next(batches)
        agent.update(batch)
        rates.append(agent.actor_optimizer.learning_rate)
        if update >= 7:
            resumed.update(batch)
            assert resumed.actor_optimizer.learning_rate == rates[-1]
        elif update == 6:
            load_state(resumed, state_of(agent))
    assert rates == pytest.approx([1e-3 * (1 + math.cos(math.pi * update / 10)) for update in range(10)])
    assert (rates[0], rates[5]) == pytest.approx((2e-3, 1e-3))
    assert 0 < rates[9] < 1e-4
    assert all(map(torch.equal, agent.actor.parameters(), resumed.actor.parameters()))
    others = agent.critic_optimizer.learning_rate, agent.value_optimizer.learning_rate
    assert others == (config.critic_learning_rate, config.value_learning_rate)


LOCOMOTION = (0.7, 3.0, "exact", 0.0)
MAZE = (0.9, 10.0, "no", -1.0)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("rlsuite/hopper/medium-v0", LOCOMOTION),
        ("d4rl/halfcheetah-medium-expert-v2", LOCOMOTION),
        ("/data/Walker2d_full_replay-v2.hdf5", LOCOMOTION),
        ("D4RL/antmaze/large-diverse-v1", MAZE),
        ("rlsuite/pointmaze/medium-v0", MAZE),
        ("rlsuite/pendulum/medium-v0", (0.7, 3.0, "no", 0.0)),
    ],
)
def test_presets_are_those_of_the_paper(task, expected):
    c = resolve(load_algorithm("iql"), {"dataset": task}).config
    assert (c.expectile, c.beta, c.scale_by_returns, c.reward_shift) == expected
    assert (c.reward_scale, c.gamma, c.tau, c.batch_size, c.hidden) == (1.0, 0.99, 0.005, 256, (256, 256))
    assert (c.value_learning_rate, c.critic_learning_rate, c.actor_learning_rate) == (3e-4, 3e-4, 3e-4)
    given = {"dataset": task, "expectile": 0.6, "reward_shift": 0.5, "scale_by_returns": "official"}
    c = resolve(load_algorithm("iql"), given).config
    assert (c.expectile, c.reward_shift, c.scale_by_returns) == (0.6, 0.5, "official")


class Given:
    """A run up to the moment at which the agent is made: `seen` is the data that it is given."""

    def __init__(self, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data = data
        monkeypatch.setattr("rlsuite.algorithms.iql.IQL", self.agent)

    def dataset(self, *arguments):
        return self.data

    def rng(self, name):
        return np.random.default_rng(0)

    def agent(self, data, *rest):
        self.seen = data
        raise StopIteration


@pytest.mark.parametrize(
    ("task", "given", "rewards"),
    [
        ("rlsuite/hopper/medium-v0", {}, [100.0, 200.0, 300.0, 1000.0]),
        ("rlsuite/hopper/medium-v0", {"reward_scale": 2, "reward_shift": 1}, [201.0, 401.0, 601.0, 2001.0]),
        ("D4RL/antmaze/umaze-v1", {}, [0.0, 1.0, 2.0, 9.0]),
        ("other", {}, [1.0, 2.0, 3.0, 10.0]),
    ],
)
def test_rewards_are_scaled_then_shifted(task, given, rewards, monkeypatch):
    """Two episodes that return 3 and 13, 10 apart."""
    data = dataset(np.zeros((4, 2)), np.zeros((4, 1)), [1, 2, 3, 10], terminations=[False, True, False, True])
    run = Given(replace(data, episode_starts=torch.tensor([0, 2])), monkeypatch)
    algorithm = load_algorithm("iql")
    with pytest.raises(StopIteration):
        algorithm.module.train(resolve(algorithm, {"dataset": task, **given}).config, run)
    assert run.seen.rewards.tolist() == rewards


def there_and_back() -> Dataset:
    """Trajectories in LineWorld, none of which leads from the start to the goal.

    From 0 they lead right to 20 and slowly back; others begin at 12 and reach the goal at 30. Steps to the right are
    from 0.4 to 1 long, those back half as long.
    """
    rng = np.random.default_rng(0)
    columns: list[tuple[float, float, float]] = []
    starts = []
    for episode in range(200):
        starts.append(len(columns))
        x, sign = (0.0, 1) if episode % 2 else (12.0, 1)
        while not columns[starts[-1] :] or 0 < x < 30:
            if episode % 2 and x > 20:
                sign = -1
            action = sign * rng.uniform(0.4, 1) / (1 if sign > 0 else 2)
            following = float(np.clip(x + action, 0, 30))
            columns.append((x, action, following))
            x = following
    x, actions, following = np.array(columns, np.float32).T
    reached = following >= 30
    data = dataset(x[:, None], actions[:, None], reached, following[:, None], reached)
    return replace(data, episode_starts=torch.tensor(starts))


def test_iql_joins_pieces_of_trajectories_where_cloning_goes_back_and_forth():
    """Rewards are -1, and 0 at the goal; the environment's return counts the goal alone, so it is 0 or 1."""
    data = there_and_back()
    statistics = data.observation_statistics()
    data = replace(data, rewards=data.rewards - 1).normalized(*statistics)
    rates = {"critic_learning_rate": 3e-3, "value_learning_rate": 3e-3, "actor_learning_rate": 3e-3}
    config = Config("line", hidden=(64, 64), expectile=0.9, beta=10.0, tau=0.05, updates=1200, **rates)
    agents = {
        "iql": agent_of(config, data),
        "beta = 0": agent_of(replace(config, beta=0.0), data),
        "bc": bc.BC(data, bc.Config("line", hidden=(64, 64), learning_rate=3e-3), np.random.default_rng(1)),
    }
    steps = {}
    for name, agent in agents.items():
        agent.actor.set_normalizer(*statistics)
        run(agent, data, 1200, batch_size=128)
        (episode,) = evaluate(agent.actor.act, "rlsuite/LineWorld-v0", [0])
        steps[name] = episode.length if episode.total == 1 else None
    assert steps["iql"] is not None and steps["iql"] < 50  # of five seeds each took 37 to 39, and 30 is the least
    assert steps["beta = 0"] is steps["bc"] is None
