"""PPO: advantages by another formula, gradients by autograd, and what happens at limits and borders."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from rlsuite.algorithms.ppo import PPO, Batch, Config, gae
from rlsuite.cli import main
from rlsuite.harness import files
from rlsuite.harness.environments import Environments
from rlsuite.harness.evaluation import evaluate
from rlsuite.harness.networks import ActorCritic, NatureCNN
from rlsuite.harness.runs import load_policy
from rlsuite.harness.seeding import Streams, evaluation_seeds
from rlsuite.kernels.adam import Adam

GAMMA, DECAY = 0.97, 0.9


def make(env_id, n=1, **given):
    """An agent and the environments it collects in."""
    run = SimpleNamespace(device=torch.device("cpu"), rng=Streams(0))
    envs = Environments(env_id, n, run.rng)
    return PPO(envs, Config(env_id, **{"n_envs": n, "hidden": (16, 16), **given}), run), envs


def through_torch(agent):
    """Let autograd do what the gradient written out does."""
    agent.policy.flat = None
    agent.optimizer = Adam(agent.policy.learnt, agent.config.learning_rate, agent.config.adam_epsilon)
    return agent


def weights(agent):
    return torch.cat([p.detach().reshape(-1).clone() for p in agent.policy.learnt])


class Steady(gym.Env):
    """Reward 1 a step; episodes of three steps end by a time limit, or as the task ends."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, terminates=False):
        self.terminates = terminates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        over = self.t == 3
        return np.full(1, self.t, np.float32), 1.0, over and self.terminates, over and not self.terminates, {}


@pytest.fixture(autouse=True)
def steady():
    gym.register("Truncated-v0", entry_point=Steady)
    gym.register("Terminated-v0", entry_point=Steady, kwargs={"terminates": True})
    yield
    del gym.registry["Truncated-v0"], gym.registry["Terminated-v0"]


# Advantages


def experience(steps, copies, seed=0, rate=0.15):
    """Random rewards, values, flags; what follows an ended episode is another state's value."""
    rng = np.random.default_rng(seed)
    rewards, values, following = rng.standard_normal((3, steps, copies))
    terminations, truncations = rng.random((2, steps, copies)) < rate / 2
    ends = terminations | truncations
    following[:-1][~ends[:-1]] = values[1:][~ends[:-1]]
    return rewards, values, following, terminations, ends


def mixture_of_n_step_returns(rewards, values, following, terminations, ends, t):
    """sum_n (1 - lambda) lambda^(n-1) G_n - V, all weight that is left on the last G_n; of one copy."""
    total, weight, partial, discount = 0.0, 1.0, 0.0, 1.0
    for u in range(t, len(rewards)):
        partial += discount * rewards[u]
        discount *= GAMMA
        n_step = partial + discount * (0.0 if terminations[u] else following[u])
        if ends[u] or u == len(rewards) - 1:
            return total + weight * n_step - values[t]
        total += weight * (1 - DECAY) * n_step
        weight *= DECAY
    raise AssertionError


def test_advantages_are_the_mixture_of_n_step_returns():
    data = experience(40, 3)
    assert data[3].any() and (data[4] & ~data[3]).any()
    ours = gae(*data, GAMMA, DECAY)
    for k in range(3):
        column = [part[:, k] for part in data]
        expected = [mixture_of_n_step_returns(*column, t) for t in range(40)]
        np.testing.assert_allclose(ours[:, k], expected, rtol=1e-5, atol=1e-6)


def test_advantages_of_two_episodes_by_hand():
    """gamma = lambda = 1/2: an episode of two steps that terminates, then one of three steps cut by a limit."""
    column = lambda *x: np.array(x, np.float64)[:, None]  # noqa: E731
    flags = lambda *x: np.array(x, bool)[:, None]  # noqa: E731
    ours = gae(
        column(1, 2, 3, 4, 5),
        column(10, 20, 30, 40, 50),
        column(20, 99, 40, 50, 60),
        flags(0, 1, 0, 0, 0),
        flags(0, 1, 0, 0, 1),
        0.5,
        0.5,
    )
    last = 5 + 0.5 * 60 - 50
    fourth = 4 + 0.5 * 50 - 40 + last / 4
    third = 3 + 0.5 * 40 - 30 + fourth / 4
    second = 2 - 20
    first = 1 + 0.5 * 20 - 10 + second / 4
    assert ours[:, 0].tolist() == [first, second, third, fourth, last]


def test_copies_do_not_touch_each_other():
    data = experience(25, 4)
    together = gae(*data, GAMMA, DECAY)
    for k in range(4):
        assert np.array_equal(gae(*(part[:, [k]] for part in data), GAMMA, DECAY), together[:, [k]])


@pytest.mark.parametrize("env_id", ["Truncated-v0", "Terminated-v0"])
def test_with_exact_values_nothing_is_an_advantage(env_id):
    """A reward of 1 for ever is worth 1 / (1 - gamma), also through a time limit; one that ends is worth less."""
    agent, envs = make(env_id, 2, rollout_steps=28, minibatches=2, normalize_rewards=False, gamma=GAMMA)
    rollout = agent.collect(envs, 14)
    with torch.no_grad():
        for parameter in agent.policy.critic.parameters():
            parameter.zero_()
        agent.policy.critic.get_parameter("bias2").fill_(1 / (1 - GAMMA))
    advantages = agent.batch(rollout).advantages.reshape(14, 2)
    if env_id == "Truncated-v0":
        assert np.abs(advantages).max() < 1e-4
        agent.config = replace(agent.config, bootstrap_truncated=False)
        advantages = agent.batch(rollout).advantages.reshape(14, 2)
    assert np.allclose(advantages[2::3], 1 - 1 / (1 - GAMMA))
    assert np.abs(advantages[-2:]).max() < 1e-4  # the last episode has not ended yet


def test_a_limit_is_valued_at_the_last_observation_and_not_at_the_next_episodes_first():
    agent, envs = make("Truncated-v0", rollout_steps=9, minibatches=3, normalize_rewards=False, gae_lambda=0.0)
    rollout = agent.collect(envs, 9)
    policy, gamma = agent.policy, agent.config.gamma
    value = {s: float(policy.values(policy.prepare(np.full((1, 1), s, np.float32)))[0]) for s in range(4)}
    assert len({round(v, 5) for v in value.values()}) == 4
    expected = [1 + gamma * value[s + 1] - value[s] for s in (0, 1, 2)] * 3
    np.testing.assert_allclose(agent.batch(rollout).advantages, expected, rtol=1e-5)
    agent.config = replace(agent.config, bootstrap_truncated=False)
    expected[2::3] = [1 - value[2]] * 3
    np.testing.assert_allclose(agent.batch(rollout).advantages, expected, rtol=1e-5)


@pytest.mark.parametrize("env_id", ["Truncated-v0", "Terminated-v0", "Hopper-v5"])
@pytest.mark.parametrize("halves", [(20, 20), (1, 39), (33, 3, 4)])
def test_a_long_rollout_is_its_parts_joined(env_id, halves):
    """The border of two batches is nothing to the advantages, wherever it falls in an episode."""
    given = {"rollout_steps": 80, "minibatches": 4}
    (long, envs), (short, parts) = (make(env_id, 2, **given) for _ in range(2))
    one = long.collect(envs, 40)
    first, *rest = (short.collect(parts, steps) for steps in halves)
    joined = first
    for part in rest:
        joined = joined.then(part)
    assert np.array_equal(joined.observations, one.observations)
    for whole, together in zip(long.batch(one), short.batch(joined), strict=True):
        np.testing.assert_allclose(together, whole, rtol=2e-5, atol=1e-6)
    alone = short.batch(first)  # while a border that is the end of what is known shortens the sum
    if env_id == "Hopper-v5" and halves[0] > 1:
        assert not np.allclose(alone.advantages, long.batch(one).advantages[: len(alone.advantages)], rtol=1e-3)


# The gradient


def random_batch(policy, size=256, seed=0):
    """Experience of another policy, so that ratios lie far on both sides of 1, and values too."""
    rng = np.random.default_rng(seed)
    width = policy.arguments["observation_shape"][0]
    x = rng.standard_normal((size, width)).astype(np.float32)
    distribution = policy.distribution(x)
    actions = distribution.sample(rng)
    log_probs = distribution.log_prob(actions) + 0.4 * rng.standard_normal(size).astype(np.float32)
    values = policy.values(x) + 0.4 * rng.standard_normal(size).astype(np.float32)
    returns, advantages = rng.standard_normal((2, size)).astype(np.float32)
    return Batch(x, actions, log_probs, values, advantages, values + returns)


def disturbed(env_id, **given):
    agent, envs = make(env_id, **given)
    envs.close()
    with torch.no_grad():
        for number, parameter in enumerate(agent.policy.learnt):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return agent


POLICIES = [("Hopper-v5", {}), ("Hopper-v5", {"mean_tanh": True}), ("Acrobot-v1", {})]


@pytest.mark.parametrize("clip_value", [True, False])
@pytest.mark.parametrize(("env_id", "given"), POLICIES)
def test_the_loss_is_the_formula_of_the_paper(env_id, given, clip_value):
    agent = disturbed(env_id, clip=0.1, clip_value=clip_value, entropy_weight=0.3, value_weight=0.7, **given)
    data = random_batch(agent.policy)
    distribution, v = agent.policy.distribution_and_values(data.observations)
    entropy = float(np.mean(distribution.entropy()))
    q = np.exp(distribution.log_prob(data.actions) - data.log_probs)
    a = (data.advantages - data.advantages.mean()) / data.advantages.std(ddof=1)
    surrogate = np.minimum(a * q, a * np.clip(q, 0.9, 1.1)).mean()
    squares = (v - data.returns) ** 2
    if clip_value:
        squares = np.maximum(squares, (np.clip(v, data.values - 0.1, data.values + 0.1) - data.returns) ** 2)
    loss, log_ratio = agent.loss(Batch(*map(torch.from_numpy, data)))
    assert loss.item() == pytest.approx(-surrogate - 0.3 * entropy + 0.7 * 0.5 * squares.mean(), rel=1e-4)
    np.testing.assert_allclose(log_ratio, np.log(q), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("entropy_weight", [0.0, 0.05])
@pytest.mark.parametrize("clip_value", [True, False])
@pytest.mark.parametrize(("env_id", "given"), POLICIES)
def test_the_gradient_written_out_is_that_of_the_loss(env_id, given, clip_value, entropy_weight):
    agent = disturbed(env_id, clip_value=clip_value, entropy_weight=entropy_weight, kl_stop=1.0, **given)
    policy = agent.policy
    data = random_batch(policy)
    ratio = np.exp(policy.distribution(data.observations).log_prob(data.actions) - data.log_probs)
    standard = data.advantages - data.advantages.mean()
    for side in (ratio < 0.8, ratio > 1.2):  # clipped and not, on both sides
        for sign in (standard < 0, standard > 0):
            assert (side & sign).sum() > 5
    moved = np.abs(policy.values(data.observations) - data.values) > agent.config.clip
    assert 20 < moved.sum() < 236

    policy.flat.gradient.fill_(torch.nan)
    kl = agent.gradient(data)
    loss, log_ratio = agent.loss(Batch(*map(torch.from_numpy, data)))
    expected = torch.autograd.grad(loss, policy.learnt)
    assert kl == pytest.approx(float((log_ratio.exp() - 1 - log_ratio).mean()), rel=1e-4)
    for ours, theirs in zip(policy.flat.gradient_views, expected, strict=True):
        assert np.linalg.norm(ours - theirs.numpy()) <= 1e-5 * float(theirs.norm())
        assert float(theirs.norm()) > 0


@pytest.mark.parametrize(("env_id", "given"), POLICIES)
def test_one_update_through_numpy_is_one_through_autograd(env_id, given):
    given = {"rollout_steps": 256, "minibatches": 8, "epochs": 4, "kl_stop": 0.5, **given}
    (fast, envs), (slow, _) = make(env_id, 2, **given), make(env_id, 2, **given)
    through_torch(slow)
    before = weights(fast)
    assert torch.equal(before, weights(slow))
    rollout = fast.collect(envs, 128)
    slow.scaler, slow.policy.normalizer = fast.scaler, fast.policy.normalizer
    fast.update(rollout)
    slow.update(rollout)
    assert float((weights(fast) - before).abs().max()) > 1e-3
    torch.testing.assert_close(weights(fast), weights(slow), rtol=0, atol=1e-4)


def test_the_scale_and_the_level_of_advantages_do_not_matter():
    agent = disturbed("Hopper-v5")
    data = random_batch(agent.policy)
    gradients = []
    for shifted in (data.advantages, 7 * data.advantages + 3):
        agent.gradient(data._replace(advantages=shifted))
        gradients.append(agent.policy.flat.gradient.clone())
        loss, _ = agent.loss(Batch(*map(torch.from_numpy, data._replace(advantages=shifted))))
        gradients.append(loss.detach())
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients[1], gradients[3])


def test_what_has_moved_too_far_in_the_direction_that_pays_pulls_no_more():
    """All ratios above 1 + clip: only actions with a negative advantage pull."""
    agent = disturbed("Acrobot-v1", value_weight=0.0)
    data = random_batch(agent.policy)
    now = agent.policy.distribution(data.observations).log_prob(data.actions)
    signs = np.where(np.arange(len(now)) % 2, 1, -1).astype(np.float32)
    for move, pulling in ((0.5, -1), (-0.5, 1)):  # log-ratio; whose actions still pull
        batch = data._replace(log_probs=now - np.float32(move), advantages=signs)
        agent.gradient(batch)
        whole = agent.policy.flat.gradient.clone()
        layers = agent.policy.actor_layers(data.observations)
        standard = (signs - signs.mean()) / signs.std(ddof=1)
        pull = np.where(signs == pulling, -standard * np.exp(np.float32(move)) / len(now), 0).astype(np.float32)
        agent.policy.backward(layers, agent.policy.of_outputs(layers[-1]).gradient(data.actions, pull))
        torch.testing.assert_close(agent.policy.flat.gradient, whole, rtol=1e-4, atol=1e-7)
        assert whole.norm() > 0


# The update


def test_the_learning_rate_falls_from_its_start_to_one_rollout_before_zero():
    agent, envs = make("Truncated-v0", rollout_steps=8, minibatches=2, total_steps=43, learning_rate=1e-2, epochs=1)
    rates = []
    for _ in range(5):  # 43 steps are five rollouts of 8
        agent.update(agent.collect(envs, 8))
        rates.append(agent.optimizer.learning_rate)
    np.testing.assert_allclose(rates, 1e-2 * np.array([1, 0.8, 0.6, 0.4, 0.2]))
    agent, envs = make("Truncated-v0", rollout_steps=8, minibatches=2, total_steps=16, anneal=False)
    agent.update(agent.collect(envs, 8))
    agent.update(agent.collect(envs, 8))
    assert agent.optimizer.learning_rate == agent.config.learning_rate


@pytest.mark.parametrize("path", ["numpy", "torch"])
def test_an_update_that_has_moved_too_far_ends_before_the_next_step(path):
    """The first minibatch sees a divergence of 0 and steps; the second sees what that did."""
    runs = {}
    for kl_stop in (1e-12, 1e-3, 0.0):
        agent, envs = make("Hopper-v5", rollout_steps=128, minibatches=4, epochs=5, kl_stop=kl_stop, learning_rate=1e-3)
        if path == "torch":
            through_torch(agent)
        start = weights(agent)
        data = agent.update(agent.collect(envs, 128))
        runs[kl_stop] = agent, int(agent.optimizer.steps[0]), agent.diagnose(data)["kl"], start
    assert [steps for _, steps, _, _ in runs.values()][::2] == [1, 20]
    assert 1 < runs[1e-3][1] < 20
    assert runs[1e-3][2] < runs[0.0][2]
    agent, _, _, start = runs[1e-12]
    move = (weights(agent) - start).abs()
    assert float(move.max()) < 1.01e-3 and float(move.max()) > 0  # no step of Adam is longer than its rate


def test_every_transition_is_used_once_an_epoch(monkeypatch):
    agent, envs = make("Truncated-v0", 2, rollout_steps=24, minibatches=3, epochs=4)
    rollout = agent.collect(envs, 12)
    seen = []
    monkeypatch.setattr(agent, "step", lambda batch: bool(seen.append(batch)) or True)
    data = agent.update(rollout)
    assert [len(batch.advantages) for batch in seen] == [8] * 12
    rows = [set(zip(batch.log_probs.tolist(), batch.advantages.tolist(), strict=True)) for batch in seen]
    everything = set(zip(data.log_probs.tolist(), data.advantages.tolist(), strict=True))
    for epoch in range(4):
        assert set.union(*rows[3 * epoch : 3 * epoch + 3]) == everything
    assert rows[0] != rows[3]


def test_a_distribution_stays_what_it_was_when_the_weights_move():
    for env_id in ("Hopper-v5", "Acrobot-v1"):
        agent = disturbed(env_id)
        data = random_batch(agent.policy)
        distribution = agent.policy.distribution(data.observations)
        before = distribution.log_prob(data.actions)
        agent.step(data)
        assert np.array_equal(distribution.log_prob(data.actions), before)
        assert not np.array_equal(agent.policy.distribution(data.observations).log_prob(data.actions), before)


def test_the_gradient_is_clipped_as_a_whole():
    for path in ("numpy", "torch"):
        agent = disturbed("Hopper-v5", max_gradient_norm=1e-3, adam_epsilon=1e3)  # so large that Adam is a plain step
        if path == "torch":
            through_torch(agent)
        agent.optimizer.learning_rate = 1e3
        start = weights(agent)
        agent.step(random_batch(agent.policy))
        assert float((weights(agent) - start).norm()) == pytest.approx(1e-3, rel=2e-2)


def test_actions_are_stored_unclipped_and_their_log_probabilities_are_theirs():
    agent, envs = make("rlsuite/LineWorld-v0", rollout_steps=64, minibatches=2)
    with torch.no_grad():
        agent.policy.log_std.fill_(1.0)
    rollout = agent.collect(envs, 64)
    assert np.abs(rollout.actions).max() > 3
    travelled = np.diff(rollout.observations[:, 0, 0])
    assert np.abs(travelled).max() <= 1
    data = agent.batch(rollout)
    normal = torch.distributions.Normal(agent.policy(torch.from_numpy(data.observations))[0], np.e)
    expected = normal.log_prob(torch.from_numpy(data.actions)).sum(1).detach()
    np.testing.assert_allclose(data.log_probs, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(data.actions, rollout.flat("actions"))


def test_a_rollout_is_kept_raw_and_scaled_by_the_moments_at_the_update():
    agent, envs = make("Hopper-v5", rollout_steps=64, minibatches=2)
    rollout = agent.collect(envs, 64)
    normalizer = agent.policy.normalizer
    np.testing.assert_allclose(normalizer.mean.numpy(), rollout.flat("observations").mean(0), rtol=1e-4, atol=1e-4)
    data = agent.batch(rollout)
    np.testing.assert_allclose(data.observations.mean(0), 0, atol=1e-3)
    assert np.array_equal(data.observations, normalizer.normalize(rollout.flat("observations")))
    assert agent.scaler.variance[0] > 1  # rewards of 1 a step add up
    values = agent.policy.values(data.observations)
    ends = (rollout.terminations | rollout.truncations)[:, 0]
    last = int(np.flatnonzero(rollout.terminations[:, 0])[0])
    scaled = agent.scaler.scale(rollout.rewards)[last, 0]
    assert ends[last]
    np.testing.assert_allclose(data.advantages[last], scaled - values[last], rtol=1e-4)
    np.testing.assert_allclose(data.returns, data.advantages + values, rtol=1e-5)


def test_diagnostics_begin_at_zero():
    agent, envs = make("Acrobot-v1", rollout_steps=64, minibatches=2)
    rollout = agent.collect(envs, 64)
    data = agent.batch(rollout)
    numbers = agent.diagnose(data)
    assert (numbers["kl"], numbers["clip_fraction"]) == (pytest.approx(0, abs=1e-6), 0.0)
    assert numbers["entropy"] == pytest.approx(np.log(3), rel=1e-3)  # of logits that are nearly 0
    assert numbers["value_loss"] == pytest.approx(0.5 * np.mean(data.advantages**2), rel=1e-4)
    residual = np.var(data.returns - data.values) / np.var(data.returns)
    assert numbers["explained_variance"] == pytest.approx(1 - residual, rel=1e-4)
    agent.update(rollout)
    assert agent.diagnose(data)["kl"] > 0


# Pictures


def plain_nature_cnn(trunk):
    layers = [nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1), nn.Linear(64 * 7 * 7, 512)]
    own = list(trunk.parameters())
    for number, layer in enumerate(layers):
        layer.weight.data, layer.bias.data = own[2 * number].detach().clone(), own[2 * number + 1].detach().clone()
    first, second, third, last = layers
    relu = nn.ReLU()
    return nn.Sequential(first, relu, second, relu, third, relu, nn.Flatten(), last, relu).double()


def test_the_picture_network_is_the_published_one():
    trunk = NatureCNN((4, 84, 84), np.random.default_rng(0))
    with torch.no_grad():
        for number in range(4):
            bias = trunk.get_parameter(f"bias{number}")
            bias.copy_(0.1 * torch.randn(bias.shape, generator=torch.Generator().manual_seed(number)))
    plain = plain_nature_cnn(trunk)
    x = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours, theirs = trunk(x), plain(x.double() / 255)
    assert ours.shape == (5, 512)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    for mine, expected in zip(trunk.parameters(), plain.parameters(), strict=True):
        assert float((mine.grad.double() - expected.grad).norm()) <= 1e-4 * float(expected.grad.norm())


def test_an_agent_that_sees_pictures_learns_with_every_weight():
    agent, envs = make("ale-dqn/Pong", 2, rollout_steps=16, minibatches=2, epochs=2, entropy_weight=0.01)
    before = [p.detach().clone() for p in agent.policy.learnt]
    assert agent.policy.flat is None and agent.policy.normalizer is None
    rollout = agent.collect(envs, 8)
    assert rollout.observations.dtype == np.uint8
    assert rollout.observations.shape == (8, 2, 4, 84, 84)
    data = agent.batch(rollout)
    loss, log_ratio = agent.loss(Batch(*map(torch.from_numpy, data)))
    assert float(log_ratio.abs().max()) < 1e-5
    assert all(float(g.norm()) > 0 for g in torch.autograd.grad(loss, agent.policy.learnt))
    agent.update(rollout)
    assert all(not torch.equal(p, old) for p, old in zip(agent.policy.learnt, before, strict=True))
    envs.close()


# The policy that a run leaves behind

EVALUATE = """
import json, sys
from pathlib import Path
from rlsuite.harness.evaluation import evaluate
from rlsuite.harness.runs import load_policy
from rlsuite.harness.seeding import evaluation_seeds
policy = load_policy(Path(sys.argv[1]))
played = evaluate(policy.act, sys.argv[2], evaluation_seeds(sys.argv[2], "final", 5), stochastic=policy.stochastic)
print(json.dumps([[e.total, e.length] for e in played]))
"""


@pytest.mark.parametrize(
    ("env_id", "flags"),
    [("Hopper-v5", "--mean-tanh"), ("CartPole-v1", "--stochastic"), ("CartPole-v1", "--normalize-observations")],
)
def test_another_process_plays_the_very_episodes_of_the_run(tmp_path, capsys, rlsuite, env_id, flags):
    directory = tmp_path / "run"
    quick = "--total-steps 512 --rollout-steps 128 --minibatches 4 --hidden 16,16 --eval-every 0 --final-episodes 5"
    assert main(["train", "ppo", "--env", env_id, "--run-dir", str(directory), *quick.split(), flags]) == 0
    rows = [row for row in files.read_lines(directory / "evaluations.jsonl") if row["phase"] == "final"]
    assert {row["policy_mode"] for row in rows} == {"stochastic" if flags == "--stochastic" else "deterministic"}
    command = [sys.executable, "-c", EVALUATE, str(directory), env_id]
    played = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(played.stdout) == [[row["return"], row["length"]] for row in rows]
    done = rlsuite("eval", directory, "--episodes", 5)
    assert done.returncode == 0
    assert f"return {np.mean([row['return'] for row in rows]):.1f}," in done.stdout


def test_the_normaliser_is_saved_with_the_policy_and_evaluation_does_not_move_it(tmp_path):
    agent, envs = make("Hopper-v5", rollout_steps=64, minibatches=2)
    agent.update(agent.collect(envs, 64))
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    evaluate(agent.policy.act, "Hopper-v5", evaluation_seeds("Hopper-v5", "interim", 3))
    assert all(torch.equal(value, before[name]) for name, value in agent.policy.state_dict().items())
    files.save_policy(tmp_path / "policy.npz", agent.policy, "ppo")
    again = load_policy(tmp_path)
    assert float(again.normalizer.count) > 64
    observations = 3 * np.random.default_rng(0).standard_normal((16, 11)).astype(np.float32)
    assert np.array_equal(again.act(observations), agent.policy.act(observations))
    again.normalizer.mean += 1
    assert not np.array_equal(again.act(observations), agent.policy.act(observations))


def test_a_policy_acts_within_the_bounds_and_by_its_mode():
    policy = ActorCritic((3,), 2, [-0.4, -1.0], [0.4, 2.0], (8,), rng=np.random.default_rng(0))
    with torch.no_grad():
        policy.actor.get_parameter("bias1").copy_(torch.tensor([5.0, 1.5]))
    actions = policy.act(np.zeros((16, 3), np.float32))
    np.testing.assert_allclose(actions, [[0.4, 1.5]] * 16, rtol=1e-6)
    policy = ActorCritic((3,), 4, hidden=(8,), rng=np.random.default_rng(0))
    with torch.no_grad():
        policy.actor.get_parameter("bias1").copy_(torch.log(torch.tensor([0.2, 0.5, 0.2, 0.1])))
    assert policy.act(np.zeros((16, 3), np.float32)).tolist() == [1] * 16
    uniforms = np.linspace(0.01, 0.99, 16)
    sampled = policy.act(np.zeros((16, 3), np.float32), uniforms)
    assert np.array_equal(sampled, np.searchsorted([0.2, 0.7, 0.9], uniforms))


# Bad input


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--rollout-steps 100 --minibatches 32", ["--rollout-steps 100 is no multiple of --minibatches 32"]),
        ("--rollout-steps 128 --n-envs 3", ["--rollout-steps 128 is no multiple of --n-envs 3"]),
        ("--n-envs 0", ["--n-envs"]),
        ("--n-envs -2", ["--n-envs"]),
        ("--minibatches 0", ["--minibatches"]),
        ("--rollout-steps 0", ["--rollout-steps"]),
        ("--rollout-steps -2048", ["--rollout-steps"]),
        ("--rollout-steps 64 --minibatches 64", ["less than two transitions", "--minibatches 64"]),
        ("--total-steps 1000", ["--total-steps 1000", "2048"]),
        ("--total-steps 0", ["total_steps is at least 1"]),
        ("--env ale-dqm/Pong", ["unknown preset", "ale-dqn"]),
        ("--env ALE/Pong-v5", ["ale-machado/Pong"]),
        ("--env NoSuch-v1", ["NoSuch"]),
    ],
)
def test_numbers_that_do_not_fit_are_one_sentence_and_leave_nothing(tmp_path, capsys, flags, words):
    directory = tmp_path / "run"
    assert main(["train", "ppo", "--env", "CartPole-v1", "--run-dir", str(directory), *flags.split()]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    for word in words:
        assert word in message, message
    assert not directory.exists()
