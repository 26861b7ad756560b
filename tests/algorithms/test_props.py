"""The checks of PROPS' specification, by its numbers; 7, of the meter, stands in tests/harness/test_sampling_error.py.

8 to 11 are experiments. Here they run on fewer seeds or steps, with bounds that leave room for that; those of the size
of the specification take a quarter of an hour and print what they find:

    python -m pytest tests/algorithms/test_props.py -m full -s
"""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlsuite.algorithms import props
from rlsuite.algorithms.ppo import PPO
from rlsuite.algorithms.props import PRESETS, PROPS, Config, acting, check
from rlsuite.errors import UserError
from rlsuite.harness import files, sampling_error
from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.environments import Environments
from rlsuite.harness.rollouts import Rollout
from rlsuite.harness.run import Run, execute, load_state, state_of
from rlsuite.harness.seeding import Streams
from rlsuite.kernels.adam import Adam
from rlsuite.kernels.tanh_mlp import Flat

SAMPLERS = ("props", "aw_props", "ros", "greedy", "on_policy", "noise")
KINDS = {"categorical": "CartPole-v1", "gaussian": "Hopper-v5"}
FITTING = [(k, s) for k in KINDS for s in SAMPLERS if (k, s) not in (("gaussian", "greedy"), ("categorical", "noise"))]
TINY = {"rollout_steps": 64, "behavior_steps": 16, "minibatches": 4, "behavior_minibatches": 2, "hidden": (16, 16)}
TABULAR = {"hidden": (), "normalize_observations": False, "normalize_rewards": False, "buffer_batches": 1}


class Arms(gym.Env):
    """One state, observed as 0, so that a policy without hidden layers has its biases for logits."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(4)
    rewards = (1.0, 0.0, 2.0, -1.0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), self.rewards[action], True, False, {}


class Counting(gym.Env):
    """Observes how many steps there were; every fifth ends an episode by a time limit. The reward is the action's."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Discrete(3)
    count = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count += 1
        return np.full(1, self.count, np.float32), {}

    def step(self, action):
        over = self.count % 5 == 4
        self.count += not over  # what follows the last step of an episode is never acted on, so it is not counted
        return np.full(1, self.count, np.float32), 1.0 + action, False, over, {}


class Pictures(gym.Env):
    """Noise to look at; the better action is 1."""

    observation_space = gym.spaces.Box(0, 255, (2, 36, 36), np.uint8)

    def __init__(self, continuous=False):
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32) if continuous else gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        picture = self.np_random.integers(256, size=(2, 36, 36), dtype=np.uint8)
        return picture, float(np.sum(action == 1)), False, False, {}


OWN = {
    "Arms-v0": (Arms, {}),
    "Counting-v0": (Counting, {}),
    "Pictures-v0": (Pictures, {}),
    "ContinuousPictures-v0": (Pictures, {"continuous": True}),
}


@pytest.fixture(autouse=True)
def own_environments():
    for name, (kind, kwargs) in OWN.items():
        gym.register(name, entry_point=kind, kwargs=kwargs, disable_env_checker=True)
    yield
    for name in OWN:
        del gym.registry[name]


def make(env_id, seed=0, kind=PROPS, **given):
    """An agent and the environments it collects in."""
    run = SimpleNamespace(device=torch.device("cpu"), rng=Streams(seed))
    config = Config(env_id, **given)
    envs = Environments(env_id, config.n_envs, run.rng)
    check(config, envs)
    return kind(envs, config, run), envs


def play(agent, envs, steps):
    """The metrics of every m steps."""
    return [agent.update(agent.collect(envs))[1] for _ in range(steps // agent.config.behavior_steps)]


def set_target(agent, probabilities):
    """Make a policy without hidden layers choose with these probabilities wherever observations are 0."""
    policy = agent.learner.policy
    policy.flat.values.zero_()
    policy.flat.views[1][:] = np.log(probabilities)
    agent.reset_behavior()


def experience(actions, observations=None, rewards=None):
    """One-step episodes of one copy, in time order."""
    n = len(actions)
    x = np.zeros((n, 1), np.float32) if observations is None else observations
    return Rollout(
        x[:, None],
        np.asarray(actions)[:, None],
        (np.zeros(n, np.float32) if rewards is None else rewards)[:, None],
        np.ones((n, 1), bool),
        np.zeros((n, 1), bool),
        np.zeros((0, x.shape[1]), np.float32),
        np.zeros(0, np.int64),
        np.zeros((1, x.shape[1]), np.float32),
    )


def minibatch(agent, rows=64, seed=0):
    """Random states, the target's actions there, their log-probabilities, random weights, and the target itself."""
    rng, policy = np.random.default_rng(seed), agent.learner.policy
    x = rng.standard_normal((rows, *policy.arguments["observation_shape"])).astype(policy.flat.views[0].dtype)
    target = policy.distribution(x)
    actions = target.sample(rng)
    return x, actions, target.log_prob(actions), rng.uniform(0.5, 2, rows).astype(np.float32), target


def perturb(agent, scale=0.1, seed=0):
    """Move phi away from theta."""
    generator = torch.Generator().manual_seed(seed)
    (weights,) = acting(agent.behavior)
    weights += scale * torch.randn(weights.shape, generator=generator, dtype=weights.dtype)


def in_double(agent):
    for policy in (agent.learner.policy, agent.behavior):
        policy.flat = Flat(policy.double().learnt)
    return agent


def through_torch(agent):
    """Let autograd do what the gradient written out does, as for pictures."""
    learner = agent.learner
    learner.policy.flat = agent.behavior.flat = None
    learner.optimizer = Adam(learner.policy.learnt, learner.config.learning_rate, learner.config.adam_epsilon)
    agent.optimizer = Adam(acting(agent.behavior), agent.config.behavior_learning_rate, agent.config.adam_epsilon)
    return agent


class Descent:
    """Plain gradient descent in the place of Adam."""

    def __init__(self, parameters, rate):
        self.parameters, self.rate = parameters, rate

    def apply(self, gradients):
        with torch.no_grad():
            torch._foreach_add_(self.parameters, gradients, alpha=-self.rate)


def flattened(parameters):
    return torch.cat([p.detach().reshape(-1).clone() for p in parameters])


def phi_of(agent):
    return flattened(agent.behavior.acting)


def theta_of(agent):
    return flattened(agent.learner.policy.acting)


def by_autograd(agent, batch):
    """Loss, estimate of the divergence, and gradient with respect to phi."""
    x, actions, log_probs, weights, target = batch
    loss, kl = agent.loss(target, *map(torch.from_numpy, (x, actions, log_probs, weights)))
    return loss, kl, flattened(torch.autograd.grad(loss, agent.behavior.acting))


def by_hand(agent, batch):
    """The estimate and the gradient again."""
    kl = agent.gradient(*batch)
    return kl, agent.behavior.flat.gradient[: len(phi_of(agent))].clone()


# 1 and 2: the objective and its gradient


@pytest.mark.parametrize("kind", KINDS)
def test_1_without_the_divergence_the_objective_is_ppos_for_advantages_of_minus_one(kind):
    agent, _ = make(KINDS[kind], behavior_kl_weight=0.0)
    x, actions, log_probs, weights, target = minibatch(agent)
    batch = x, actions, log_probs, np.ones_like(weights), target
    perturb(agent, 0.2)
    loss, _, gradient = by_autograd(agent, batch)
    q = (agent.behavior.evaluate(torch.from_numpy(x), torch.from_numpy(actions))[0] - torch.from_numpy(log_probs)).exp()
    minus_a = torch.ones(len(x))
    ppo = torch.maximum(minus_a * q, minus_a * q.clamp(0.7, 1.3)).mean()
    assert torch.equal(loss, ppo)
    assert torch.equal(gradient, flattened(torch.autograd.grad(ppo, agent.behavior.acting, retain_graph=True)))
    q = q.detach().numpy()
    assert loss.item() == pytest.approx(np.maximum(q, 0.7).mean(), rel=1e-6)
    assert (q < 0.7).sum() > 5 and (q > 1.3).sum() > 5
    for row in range(len(x)):  # only the lower clip acts
        rows = slice(row, row + 1)
        _, alone = by_hand(agent, (*(part[rows] for part in batch[:4]), props.take(target, rows)))
        assert bool(alone.any()) == (q[row] >= 0.7)


@pytest.mark.parametrize("lam", [0.0, 0.7])
def test_2_one_softmax_state_has_the_gradient_of_the_closed_form(lam):
    """dL/dlogit_a = w_a - pi_a sum w + lam (pi - pi_theta)_a, with w_a = p_hat_a r_a where r_a >= 1 - eps."""
    theta, phi = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.2, 0.5, 0.1, 0.2])
    agent = in_double(make("Arms-v0", **TABULAR, behavior_kl_weight=lam)[0])
    set_target(agent, theta)
    actions = np.repeat(np.arange(4), (5, 3, 1, 7))
    x = np.zeros((16, 1))
    target = agent.learner.policy.distribution(x)
    batch = x, actions, target.log_prob(actions), np.ones(16, np.float32), target
    agent.behavior.flat.views[1][:] = np.log(phi)

    ratio = phi / theta
    assert (ratio < 0.7).any() and (ratio > 1.3).any()
    w = np.bincount(actions) / 16 * ratio * (ratio >= 0.7)
    expected = w - phi * w.sum() + lam * (phi - theta)
    kl, gradient = by_hand(agent, batch)
    np.testing.assert_allclose(gradient[4:], expected, rtol=1e-6)
    assert not gradient[:4].any()
    log_ratio = np.log(ratio)[actions]
    assert kl == pytest.approx((np.expm1(log_ratio) - log_ratio).mean(), rel=1e-9)

    bias = agent.behavior.flat.views[1]
    for a in range(4):
        losses = []
        for shift in (1e-5, -2e-5):
            bias[a] += shift
            losses.append(by_autograd(agent, batch)[0].item())
        bias[a] += 1e-5
        assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(expected[a], rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("dims", ["mean", "sum"])
@pytest.mark.parametrize("direction", ["published", "behavior_target", "target_behavior"])
@pytest.mark.parametrize(("kind", "mean_tanh"), [("categorical", False), ("gaussian", False), ("gaussian", True)])
def test_2_the_gradient_written_out_is_autograds(kind, mean_tanh, direction, dims):
    agent = in_double(
        make(KINDS[kind], behavior_kl_weight=0.5, kl_direction=direction, kl_dims=dims, mean_tanh=mean_tanh)[0]
    )
    perturb(agent, 0.5)  # of theta too
    agent.learner.policy.flat.values[: len(phi_of(agent))] = phi_of(agent)
    perturb(agent, 0.1, seed=1)
    batch = minibatch(agent)
    _, kl, expected = by_autograd(agent, batch)
    ours, gradient = by_hand(agent, batch)
    assert kl > 0.05
    assert ours == pytest.approx(kl, rel=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7 * expected.abs().max())


def test_2_the_published_divergence_is_that_of_phi_from_theta_by_dimension_and_the_papers_if_discrete():
    gradients = {}
    for kind, env_id in KINDS.items():
        for direction in ("published", "behavior_target", "target_behavior"):
            for dims in ("mean", "sum"):
                agent, _ = make(env_id, behavior_kl_weight=0.5, kl_direction=direction, kl_dims=dims)
                x, actions, log_probs, weights, target = minibatch(agent)
                perturb(agent)
                _, gradients[kind, direction, dims] = by_hand(agent, (x, actions, log_probs, 0 * weights, target))
    for dims in ("mean", "sum"):
        for kind, same, other in (
            ("gaussian", "behavior_target", "target_behavior"),
            ("categorical", "target_behavior", "behavior_target"),
        ):
            published = gradients[kind, "published", dims]
            assert torch.equal(published, gradients[kind, same, dims])
            assert not torch.allclose(published, gradients[kind, other, dims], rtol=0.01)
    summed, averaged = (gradients["gaussian", "published", dims] for dims in ("sum", "mean"))
    torch.testing.assert_close(summed, 3 * averaged)
    assert torch.equal(gradients["categorical", "published", "sum"], gradients["categorical", "published", "mean"])
    assert props.Config("Hopper-v5").kl_dims == "mean"


# 3: ROS, the limit


@pytest.mark.parametrize("kind", KINDS)
def test_3_one_plain_step_without_clip_and_divergence_is_ros(kind):
    alpha, phis = 0.5, {}
    limit = {
        "behavior_clip": math.inf,
        "behavior_kl_weight": 0.0,
        "behavior_kl_stop": math.inf,
        "behavior_epochs": 1,
        "max_gradient_norm": math.inf,
    }
    for sampler in ("props", "ros"):
        given = {**TINY, **limit, "behavior_minibatches": 1, "behavior_learning_rate": alpha, "sampler": sampler}
        agent, envs = make(KINDS[kind], **given)
        agent.optimizer = Descent(acting(agent.behavior), alpha)
        rollout = agent.collect(envs)
        assert agent.behavior_updates == 0
        agent.update_behavior()
        assert agent.behavior_updates == 1
        phis[sampler] = phi_of(agent)
    policy = agent.learner.policy
    x = torch.from_numpy(policy.prepare(rollout.flat("observations")))
    log_probs, _, _ = policy.evaluate(x, torch.from_numpy(rollout.flat("actions")))
    gradient = flattened(torch.autograd.grad(log_probs.mean(), policy.acting))
    assert gradient.norm() > 0.1
    for phi in phis.values():
        torch.testing.assert_close(phi, theta_of(agent) - alpha * gradient, rtol=1e-5, atol=1e-6)


def test_trap_2_ros_makes_what_was_drawn_too_often_rarer():
    """After counts 8, 1, 1 under the uniform policy one step gives (.20, .40, .40); the authors' (.50, .25, .25)."""
    agent, _ = make("Counting-v0", **TABULAR, sampler="ros", behavior_learning_rate=1.0)
    set_target(agent, np.full(3, 1 / 3))
    agent.buffer.add(experience([0] * 8 + [1, 2]))
    agent.update_behavior()
    frequencies = np.array([0.8, 0.1, 0.1])
    np.testing.assert_allclose(agent.behavior.flat.views[1], np.log(1 / 3) - (frequencies - 1 / 3), rtol=1e-5)
    chances = np.exp(agent.behavior.distribution(np.zeros((1, 1), np.float32)).log_probs[0])
    np.testing.assert_allclose(chances, [0.2, 0.4, 0.4], atol=0.005)


# 4: what switches it off


def identical(one, other):
    for name in ("observations", "actions", "rewards"):
        if not np.array_equal(getattr(one.buffer.rollout, name), getattr(other.buffer.rollout, name)):
            return False
    return torch.equal(one.learner.policy.flat.values, other.learner.policy.flat.values)


@pytest.mark.parametrize("off", [{"behavior_epochs": 0}, {"behavior_learning_rate": 0.0}])
@pytest.mark.parametrize("kind", KINDS)
def test_4_without_refits_it_is_ppo_buffer_bit_for_bit(kind, off):
    agents = {}
    for name, given in {"buffer": {"sampler": "on_policy"}, "off": off, "on": {"behavior_learning_rate": 0.01}}.items():
        agents[name], envs = make(KINDS[kind], **{**TINY, **given})
        play(agents[name], envs, 5 * 64)
    assert identical(agents["off"], agents["buffer"])
    assert not identical(agents["on"], agents["buffer"])
    assert len(agents["buffer"].buffer.rollout) == 2 * 64


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("categorical", {"normalize_rewards": False}),
        ("gaussian", {"normalize_rewards": False}),
        ("gaussian", {"behavior_steps": 64, "sampler": "on_policy"}),
    ],
)
def test_4_without_refits_one_batch_is_ppo_bit_for_bit(kind, given):
    """Rewards are counted by blocks of m, so their scale is the same bits only for m = n."""
    given = {**TINY, "buffer_batches": 1, "behavior_epochs": 0, **given}
    agent, envs = make(KINDS[kind], **given)
    play(agent, envs, 5 * 64)
    learner, envs = make(KINDS[kind], kind=PPO, **given)
    for _ in range(5):
        rollout = learner.collect(envs, 64)
        learner.update(rollout)
    assert np.array_equal(rollout.actions, agent.buffer.rollout.actions)
    assert torch.equal(learner.policy.flat.values, agent.learner.policy.flat.values)


@pytest.mark.parametrize("kind", KINDS)
def test_4_a_huge_weight_of_the_divergence_holds_phi_at_theta(kind):
    distances = []
    for lam in (0.0, 1e6):
        agent, envs = make(KINDS[kind], **TINY, behavior_kl_weight=lam, behavior_kl_stop=math.inf, behavior_epochs=64)
        x = agent.learner.policy.prepare(agent.collect(envs).flat("observations"))
        agent.update_behavior()
        theta, phi = agent.learner.policy.distribution(x), agent.behavior.distribution(x)
        distances.append(float(theta.kl(phi).sum() / len(x)))
    assert distances[0] > 0.03
    assert distances[1] < 0.02 * distances[0]


# 5: isolation, and the reference


def digest(agent):
    """Of everything but phi, its optimiser and the buffer."""
    learner = agent.learner
    state = {
        "policy": learner.policy.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict() if learner.scaler else {},
    }
    parts = [
        np.asarray(value).tobytes()
        for tree in state.values()
        for values in tree.values()
        for value in (values if isinstance(values, list) else [values])
    ]
    assert len(parts) > 10
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize(("kind", "sampler"), FITTING)
def test_5_a_refit_leaves_the_learner_alone(kind, sampler):
    agent, envs = make(KINDS[kind], **TINY, sampler=sampler)
    play(agent, envs, 2 * 64)
    before, buffer = digest(agent), agent.buffer.rollout.observations.copy()
    agent.update_behavior()
    assert torch.equal(phi_of(agent), theta_of(agent)) == (sampler in ("greedy", "on_policy"))
    assert digest(agent) == before
    assert np.array_equal(agent.buffer.rollout.observations, buffer)
    agent.learner.update(agent.buffer.rollout)
    assert digest(agent) != before


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("evict", ["sliding", "batch"])
@pytest.mark.parametrize("kind", KINDS)
def test_5_and_trap_1_every_refit_begins_where_r_is_1(kind, evict, stale):
    """Also right after theta was updated, unless the authors' reference is asked for."""
    given = {**TINY, "evict": evict, "stale_reference": stale, "learning_rate": 1e-2, "kl_stop": 0.0}
    agent, envs = make(KINDS[kind], **given)
    begun, step = [], agent.step

    def watched(x, actions, log_probs, weights, target):
        if len(begun) < agent.steps // 16:
            begun.append((len(agent.kept()), agent.behavior.distribution(x).log_prob(actions) - log_probs))
        return step(x, actions, log_probs, weights, target)

    agent.step = watched
    play(agent, envs, 4 * 64)
    sizes = [size for size, _ in begun]
    away = np.array([np.abs(log_ratio).max() for _, log_ratio in begun])
    after_update = np.arange(1, len(away) + 1) % 4 == 0
    if evict == "batch":  # the newest batch and what came since
        assert sizes == [16, 32, 48, *[64, 80, 96, 112] * 3, 64]
    else:  # b n - m
        assert sizes == [16, 32, 48, 64, 80, 96, *[112] * 10]
    assert away[~after_update].max() < 1e-5  # float32; the same numbers in another order
    assert (away[after_update] > 0.01).all() if stale else away[after_update].max() < 1e-5


def test_5_the_moments_of_the_behaviours_optimiser_persist():
    agent, envs = make(KINDS["gaussian"], **TINY)
    play(agent, envs, 2 * 64)
    steps = agent.optimizer.steps[0].item()
    assert steps == agent.behavior_updates > 10
    assert agent.optimizer.means[0].any()
    play(agent, envs, 16)
    assert agent.optimizer.steps[0].item() > steps


# 6: the buffer


@pytest.mark.parametrize(
    ("batches", "n", "m", "copies"), [(1, 32, 8, 1), (2, 32, 16, 1), (3, 16, 8, 2), (2, 16, 16, 4)]
)
def test_6_refits_see_the_newest_transitions_that_will_stay(batches, n, m, copies):
    agent, envs = make(
        "Counting-v0",
        n_envs=copies,
        buffer_batches=batches,
        rollout_steps=n,
        behavior_steps=m,
        minibatches=4,
        epochs=0,
        normalize_observations=False,
    )
    for t in range(m, 6 * n + 1, m):
        rollout = agent.collect(envs)
        size = min(t, batches * n)
        assert np.array_equal(rollout.flat("observations")[:, 0], np.arange(t - size, t) // copies)
        agent.update(rollout)
        size = min(t, batches * n - m)
        kept = agent.kept()
        assert np.array_equal(kept.flat("observations")[:, 0], np.arange(t - size, t) // copies)
        assert (kept.next_observations == t // copies).all()


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("batches", [1, 2, 3])
def test_evicting_by_batches_keeps_what_the_next_update_will_see(batches, copies):
    n, m = 32, 8
    agent, envs = make(
        "Counting-v0",
        n_envs=copies,
        buffer_batches=batches,
        rollout_steps=n,
        behavior_steps=m,
        minibatches=4,
        evict="batch",
        learning_rate=1e-2,
    )
    learnt_from = []
    learn = agent.learner.update
    agent.learner.update = lambda rollout: learnt_from.append(rollout.flat("observations")[:, 0]) or learn(rollout)
    for t in range(m, 6 * n + 1, m):
        agent.update(agent.collect(envs))
        oldest = max(0, (t // n - batches + 1) * n)
        kept = agent.kept()
        if oldest == t:  # b = 1: phi begins a batch as theta
            assert kept is None and torch.equal(phi_of(agent), theta_of(agent))
        else:
            assert np.array_equal(kept.flat("observations")[:, 0], np.arange(oldest, t) // copies)
            assert not torch.equal(phi_of(agent), theta_of(agent))
    for i, seen in enumerate(learnt_from, 1):
        assert np.array_equal(seen, np.arange(max(0, i - batches) * n, i * n) // copies)


@pytest.mark.parametrize("bootstrap", [False, True])
def test_6_and_trap_4_advantages_span_the_batches(bootstrap):
    """Those of a buffer of two are those of its episodes one by one, the one over the border included."""
    given = {**TINY, "rollout_steps": 16, "behavior_steps": 8, "epochs": 0, "normalize_rewards": False}
    agent, envs = make("Counting-v0", **given, bootstrap_truncated=bootstrap)
    play(agent, envs, 24)
    rollout = agent.collect(envs)
    data, _ = agent.update(rollout)
    assert len(data.advantages) == 32
    assert (data.advantages[:16] != 0).all() and (data.advantages[16:] != 0).all()
    policy, rewards, expected = agent.learner.policy, rollout.rewards[:, 0], np.empty(32)
    ends = [0, 5, 10, 15, 20, 25, 30, 32]
    for first, last in pairwise(ends):
        # The time limit comes before the count moves on; the last episode is cut by the buffer.
        following = policy.values(policy.prepare(np.full((1, 1), min(last, 32) - (last < 32), np.float32)))
        values = np.append(data.values[first:last], following if bootstrap or last == 32 else 0.0)
        deltas = rewards[first:last] + 0.99 * values[1:] - values[:-1]
        for t in range(last - first):
            expected[first + t] = sum(deltas[t + k] * (0.99 * 0.95) ** k for k in range(last - first - t))
    np.testing.assert_allclose(data.advantages, expected, rtol=1e-4, atol=1e-5)


# 8 to 11: experiments

ARMS = (0.5, 0.25, 0.15, 0.1)
BANDIT = {"behavior_steps": 16, "behavior_minibatches": 1, "behavior_learning_rate": 0.05, "behavior_kl_stop": 0.05}


def bandit_actions(seed, target, sizes, **given):
    """The first actions under a fixed target, as many as each of `sizes`."""
    agent, envs = make("Arms-v0", seed, **{**TABULAR, "rollout_steps": 2048, **BANDIT, **given})
    set_target(agent, target)
    while agent.steps < sizes[-1]:
        rollout = agent.collect(envs)
        agent.update_behavior()
    actions = rollout.flat("actions")
    return [actions[:size] for size in sizes]


def bandit_errors(seeds, sizes, **given):
    """Mean sampling error by size."""
    return np.mean(
        [
            [
                sampling_error.tabular(np.zeros(size, int), actions, np.log([ARMS])).value
                for size, actions in zip(sizes, bandit_actions(seed, ARMS, sizes, **given), strict=True)
            ]
            for seed in range(seeds)
        ],
        axis=0,
    )


ROS = {"sampler": "ros", "behavior_steps": 1}


def test_8_a_bandits_sampling_error():
    """The specification measured, over on-policy sampling's: PROPS .1 at 512; ROS with alpha = 10 .22 and .19 at 32 and
    128, with the wrong sign 1.8 and 2.1. Its bounds are .2 and 1.5. Twenty errors of three degrees of freedom average
    to within a factor 1 +- .18, one standard deviation, of their mean.
    """
    expected = 3 / (2 * np.array([32, 128, 512]))
    on_policy = bandit_errors(20, (32, 128, 512), sampler="on_policy") / expected
    assert (on_policy > 0.6).all() and (on_policy < 1.4).all()
    assert bandit_errors(20, (32, 128, 512))[2] < 0.2 * expected[2]
    assert (bandit_errors(20, (32, 128), **ROS, behavior_learning_rate=10.0) < 0.4 * expected[:2]).all()
    assert bandit_errors(40, (128,), **ROS, behavior_learning_rate=-1.0) > 1.5 * expected[1]


@pytest.mark.full
def test_8_in_full():
    sizes = (32, 128, 512, 2048)
    measured = {
        "on-policy": bandit_errors(100, sizes, sampler="on_policy"),
        "PROPS": bandit_errors(100, sizes),
        **{f"ROS {a:g}": bandit_errors(100, sizes, **ROS, behavior_learning_rate=a) for a in (10.0, 100.0, -1.0)},
    }
    print("\nsampling error at", sizes)
    for name, errors in measured.items():
        print(f"{name:10}", *(f"{error:.5f}" for error in errors))
    assert measured["PROPS"][2] < measured["on-policy"][2] / 5
    assert (measured["ROS -1"] > 1.5 * measured["on-policy"]).all()
    assert (measured["ROS 100"] < measured["ROS 10"]).all()


def gradient_errors(seeds, sizes, **given):
    """Mean squared errors of the policy gradient and of the mean reward, (2, sizes), with exact advantages."""
    target, rewards = np.array([0.4, 0.3, 0.2, 0.1]), np.array(Arms.rewards)
    advantages = rewards - target @ rewards
    errors = []
    for seed in range(seeds):
        counted = bandit_actions(seed, target, sizes, **{"rollout_steps": 1024, "behavior_steps": 8, **given})
        found = np.array([np.bincount(actions, minlength=4) / len(actions) for actions in counted])
        gradients = found * advantages - (found @ advantages)[:, None] * target
        errors.append([((gradients - target * advantages) ** 2).sum(1), (found @ rewards - target @ rewards) ** 2])
    return np.mean(errors, 0)


def test_9_policy_gradients_and_values_have_less_error():
    """The specification measured .33, .14 and .09 (gradient) and .32, .11 and .09 (value) of the on-policy error at 64,
    256 and 1024, and its bounds are .5 at 64 and .2 at 1024. Here up to 256, where a bound of .3 leaves the same room,
    and against the exact on-policy errors over N draws: .588 / N of the gradient and .81 / N of the value.
    """
    sizes = np.array([64, 256])
    exact = np.array([[0.588], [0.81]]) / sizes
    assert (gradient_errors(30, sizes) < [0.5, 0.3] * exact).all()
    on_policy = gradient_errors(60, sizes, sampler="on_policy") / exact
    assert (on_policy > 0.6).all() and (on_policy < 1.5).all()


@pytest.mark.full
def test_9_in_full():
    sizes = (64, 256, 1024)
    on_policy, ours = gradient_errors(300, sizes, sampler="on_policy"), gradient_errors(300, sizes)
    print("\nmean squared error, PROPS / on-policy, at", sizes)
    for name, ratios in zip(("gradient", "value"), ours / on_policy, strict=True):
        print(f"{name:10}", *(f"{ratio:.3f}" for ratio in ratios))
    print("on-policy value error x N:", *(f"{error:.3f}" for error in on_policy[1] * sizes))
    assert (ours[:, 0] < 0.5 * on_policy[:, 0]).all()
    assert (ours[:, 2] < 0.2 * on_policy[:, 2]).all()


GRID = {
    **TABULAR,
    "rollout_steps": 300,
    "behavior_steps": 30,
    "learning_rate": 0.01,
    "epochs": 1,
    "minibatches": 1,
    "behavior_learning_rate": 0.05,
    "behavior_kl_weight": 0.0,
    "behavior_kl_stop": 1.0,
    "behavior_minibatches": 1,
    "sampling_error": True,
}


def grid_error(seeds, steps, **given):
    """Mean sampling error of the buffers that a tabular policy of GridWorld learns from, and the mean return."""
    errors, returns = [], []
    for seed in range(seeds):
        agent, envs = make("rlsuite/GridWorld-v0", seed, **{**GRID, "total_steps": steps, **given})
        errors += [metrics["sampling_error"] for metrics in play(agent, envs, steps) if "sampling_error" in metrics]
        returns.append(envs.statistics()["episode_return"])
    assert len(errors) == seeds * steps // 300
    return np.mean(errors), np.mean(returns)


def test_10_buffers_of_a_learning_tabular_policy_have_less_sampling_error():
    """The specification asks for a quarter less with b = 1 and b = 2, and measured a third and almost a half.

    It does not say how theta is updated; one step a batch gives its on-policy error. With b = 1 eviction is by batches:
    where it slides, most of what phi is refitted to is of an older batch, and just a quarter is gained. Seeds differ by
    about 1 percent. This part of the run, where theta has hardly learnt, gains most: a half.
    """
    for given in ({"buffer_batches": 1, "evict": "batch"}, {"buffer_batches": 2}):
        on_policy, _ = grid_error(2, 6_000, **given, sampler="on_policy")
        ours, _ = grid_error(2, 6_000, **given)
        assert ours < 0.75 * on_policy


@pytest.mark.full
def test_10_in_full():
    print("\nmean sampling error: on-policy, PROPS sliding, PROPS by batches; mean return of each")
    for batches in (1, 2):
        on_policy, sliding, by_batches = (
            grid_error(12, 30_000, buffer_batches=batches, **given)
            for given in ({"sampler": "on_policy"}, {}, {"evict": "batch"})
        )
        errors, returns = zip(on_policy, sliding, by_batches, strict=True)
        print(f"b = {batches}", *(f"{error:.4f}" for error in errors), *(f"{value:.3f}" for value in returns))
        assert by_batches[0] < 0.75 * on_policy[0]
        assert sliding[0] < (0.8 if batches == 1 else 0.75) * on_policy[0]


HOPPER = {
    "rollout_steps": 16_384,
    "buffer_batches": 1,
    "behavior_steps": 256,
    "behavior_kl_stop": 0.05,
    "normalize_observations": False,
    "normalize_rewards": False,
}


def hopper_errors(seeds, sizes, **given):
    """Sampling errors (seeds, sizes) under the initial policy, over d / 2 N."""
    errors = []
    for seed in range(seeds):
        agent, envs = make("Hopper-v5", seed, **{**HOPPER, **given})
        row = []
        while agent.steps < sizes[-1]:
            rollout = agent.collect(envs)
            agent.update_behavior()
            if agent.steps in sizes:
                x, actions = np.clip(rollout.flat("observations"), -10, 10), rollout.flat("actions")
                measured = agent.learner.policy.sampling_error(x, actions)
                row.append(measured.value / measured.expected)
        errors.append(row)
    return np.array(errors)


def test_11_a_fixed_target_in_hopper():
    """The specification measured .80, .91 and .83 of the on-policy error at 1024, 4096 and 8192 steps, with 2 seeds.

    At 8192 the error of one seed has a standard deviation of 10 percent of its mean, that of three 6.
    """
    assert hopper_errors(3, (8192,)).mean() < 0.9
    assert 0.85 < hopper_errors(2, (8192,), sampler="on_policy").mean() < 1.15


@pytest.mark.full
def test_11_in_full():
    sizes = (1024, 4096, 8192, 16_384)
    on_policy = hopper_errors(10, sizes, sampler="on_policy")
    print("\nsampling error over on-policy's at", sizes, "\non-policy over theory", on_policy.mean(0).round(3))
    for name, given in (
        ("PROPS", {}),
        ("no KL", {"behavior_kl_weight": 0.0}),
        ("ROS 1e-2", {"sampler": "ros", "behavior_learning_rate": 1e-2}),
        ("ROS -1e-2", {"sampler": "ros", "behavior_learning_rate": -1e-2}),
    ):
        ours = hopper_errors(10, sizes, **given)
        print(f"{name:10}", (ours.mean(0) / on_policy.mean(0)).round(3))
        if "sampler" not in given:
            assert (ours.mean(0) < 0.95 * on_policy.mean(0))[1:].all()


# 12: determinism


@pytest.mark.parametrize(("kind", "sampler"), FITTING)
def test_12_same_seed_same_bits_and_measuring_changes_none(kind, sampler):
    agents = []
    for seed, measured in ((3, False), (3, False), (3, True), (4, False)):
        agent, envs = make(KINDS[kind], seed, **TINY, sampler=sampler, sampling_error=measured)
        metrics = play(agent, envs, 4 * 64)
        logged = [each["sampling_error"] for each in metrics if "sampling_error" in each]
        assert len(logged) == 4 * measured
        assert all(0 <= error < math.inf for error in logged)
        agents.append(agent)
    first, again, with_meter, other = agents
    assert identical(first, again)
    assert identical(first, with_meter)
    assert torch.equal(phi_of(first), phi_of(with_meter))
    assert not identical(first, other)


def test_sampling_error_is_of_the_buffer_before_theta_learns_from_it():
    agent, envs = make(KINDS["categorical"], **TINY, sampling_error=True)
    play(agent, envs, 48)
    rollout = agent.collect(envs)
    x, actions = rollout.flat("observations"), rollout.flat("actions")
    expected = agent.learner.policy.sampling_error(x, actions)
    _, metrics = agent.update(rollout)
    assert metrics["sampling_error"] == expected.value
    assert metrics["sampling_error_expected"] == expected.expected
    assert agent.learner.policy.sampling_error(x, actions).value != expected.value
    play(agent, envs, 48)
    _, metrics = agent.update(agent.collect(envs), logged=False)
    assert "sampling_error" not in metrics and "behavior_kl" in metrics


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_continues_from_a_checkpoint(sampler, tmp_path):
    env_id = KINDS["gaussian"] if sampler == "noise" else "rlsuite/TwoStep-v0"

    def begin():
        agent, envs = make(env_id, **TINY, sampler=sampler)
        return agent, envs, {"environments": envs, "learner": agent.learner, "agent": agent}

    agent, envs, tracked = begin()
    play(agent, envs, 80)
    streams = [envs._seeds[0], agent.learner.noise, agent.learner.shuffle, agent.shuffle]
    state = {name: state_of(part) for name, part in tracked.items()}
    states = [stream.bit_generator.state for stream in streams]
    files.save_checkpoint(tmp_path / "a.ckpt", {"tracked": state, "streams": states})
    saved = files.load_checkpoint(tmp_path / "a.ckpt")
    again, other, tracked = begin()
    for name, part in tracked.items():
        load_state(part, saved["tracked"][name])
    streams = [other._seeds[0], again.learner.noise, again.learner.shuffle, again.shuffle]
    for stream, state in zip(streams, saved["streams"], strict=True):
        stream.bit_generator.state = state
    play(agent, envs, 128)
    play(again, other, 128)
    assert identical(agent, again)
    assert torch.equal(phi_of(agent), phi_of(again))


# Other samplers, and the rest


def test_a_refit_makes_rare_actions_likelier():
    agent, _ = make("Counting-v0", **TABULAR, behavior_learning_rate=0.01)
    set_target(agent, np.array([0.5, 0.3, 0.2]))
    agent.buffer.add(experience([0] * 60 + [1] * 10 + [2] * 30))
    metrics = agent.update_behavior()
    chances = np.exp(agent.behavior.distribution(np.zeros((1, 1), np.float32)).log_probs[0])
    assert chances[0] < 0.45 and chances[1] > 0.35
    assert metrics["behavior_steps"] == agent.behavior_updates > 0


@pytest.mark.parametrize("copies", [1, 2])
def test_greedy_takes_the_action_that_its_state_lacks_most(copies):
    agent, envs = make(
        "rlsuite/TwoStep-v0",
        sampler="greedy",
        n_envs=copies,
        hidden=(),
        normalize_observations=False,
        buffer_batches=2,
        rollout_steps=128,
        behavior_steps=32,
    )
    perturb(SimpleNamespace(behavior=agent.learner.policy), 1.0)
    for _ in range(10):
        kept = agent.kept()
        counts = np.zeros((7, 2))
        if kept is not None:
            np.add.at(counts, (kept.flat("observations").argmax(1), kept.flat("actions")), 1)
        rollout = agent.collect(envs).newest(32 // copies)
        for x, action in zip(rollout.flat("observations"), rollout.flat("actions"), strict=True):
            chances = np.exp(agent.learner.policy.distribution(x[None]).log_probs[0])
            own = counts[x.argmax()]
            lacking = chances - own / max(own.sum(), 1)
            assert lacking[action] == pytest.approx(lacking.max(), abs=1e-6)
            own[action] += 1
        agent.update(agent.buffer.rollout)


def test_greedy_follows_the_target_as_closely_as_whole_numbers_can():
    for sampler, near in (("greedy", True), ("on_policy", False)):
        (actions,) = bandit_actions(0, ARMS, (512,), sampler=sampler)
        away = [np.abs(np.bincount(actions[:n], minlength=4) - n * np.array(ARMS)).max() for n in range(1, 513)]
        assert (max(away) <= 1 + 1e-6) == near


@pytest.mark.parametrize("delta", [0.0, 0.03, 0.5, 3.0])
def test_noise_widens_until_the_divergence_is_exactly_delta(delta):
    agent, envs = make(KINDS["gaussian"], **TINY, sampler="noise", behavior_kl_stop=delta)
    for metrics in play(agent, envs, 3 * 64):
        assert metrics["behavior_log_std"] >= 0
    x = minibatch(agent)[0]
    theta, phi = agent.learner.policy.distribution(x), agent.behavior.distribution(x)
    np.testing.assert_allclose(theta.kl(phi).sum(1), delta, rtol=1e-4, atol=1e-6)
    assert np.array_equal(theta.mean, phi.mean)
    rises = phi.log_std - theta.log_std
    assert (rises >= 0).all() and np.ptp(rises) < 1e-6


def test_aw_props_weighs_by_the_advantage():
    """In one-step episodes the advantage is reward less value, and one of the four actions has none."""
    given = {**TABULAR, "buffer_batches": 2, "rollout_steps": 256, "behavior_steps": 64, "behavior_minibatches": 1}
    agent, envs = make("Arms-v0", sampler="aw_props", **given, behavior_kl_weight=0.0, behavior_epochs=1)
    agent.learner.policy.flat.views[3][:] = 2.0  # the value of the only state
    seen, step = [], agent.step
    agent.step = lambda x, actions, log_probs, weights, target: (
        seen.append((actions, weights)) or step(x, actions, log_probs, weights, target)
    )
    agent.collect(envs)
    agent.update_behavior()
    ((actions, weights),) = seen
    advantages = np.array(Arms.rewards)[actions] - 2.0
    np.testing.assert_allclose(weights, np.abs(advantages) / advantages.std(), rtol=1e-5)
    assert (weights[actions == 2] == 0).all() and (actions == 2).any()
    plain, envs = make("Arms-v0", **given, behavior_kl_weight=0.0, behavior_epochs=1)
    plain.collect(envs)
    plain.update_behavior()
    assert not torch.allclose(phi_of(plain), phi_of(agent))


def test_aw_props_weights_belong_to_the_rows_of_the_buffer():
    agent, envs = make(KINDS["gaussian"], **TINY, sampler="aw_props", bootstrap_truncated=False)
    play(agent, envs, 3 * 64 + 16)
    kept = agent.kept()
    advantages = agent.learner.batch(kept).advantages
    np.testing.assert_allclose(agent.advantage_weights(kept), np.abs(advantages) / advantages.std(), rtol=1e-5)


def test_trap_7_a_delta_of_zero_still_lets_one_step_pass():
    """At the first minibatch nothing has moved; what switches refits off is no pass, or no learning rate."""
    for given, steps in (
        ({"behavior_kl_stop": 0.0}, 1),
        ({"behavior_kl_stop": 1e-7}, 1),
        ({"behavior_epochs": 0}, 0),
        ({"behavior_kl_stop": math.inf, "behavior_epochs": 5}, 5),
    ):
        agent, _ = make("Arms-v0", **{**TABULAR, "behavior_minibatches": 1, "behavior_learning_rate": 0.05, **given})
        set_target(agent, ARMS)
        agent.buffer.add(experience([0] * 80 + [1, 2, 3]))
        assert agent.update_behavior()["behavior_steps"] == agent.behavior_updates == steps
        assert torch.equal(phi_of(agent), theta_of(agent)) == (steps == 0)


def test_the_refit_ends_before_the_step_that_begins_too_far_away():
    agent, envs = make(KINDS["categorical"], **{**TINY, "behavior_learning_rate": 0.01, "behavior_epochs": 50})
    stopped = 0
    for metrics in play(agent, envs, 3 * 64):
        full = metrics["behavior_steps"] >= 50
        assert full or metrics["behavior_kl"] > 0.03
        stopped += not full
    assert stopped > 3


def test_the_gradient_of_a_refit_is_clipped():
    for limit in (1e-3, 1e-2):
        once = {"behavior_minibatches": 1, "behavior_epochs": 1}
        agent, _ = make("Arms-v0", **TABULAR, **once, max_gradient_norm=limit)
        agent.optimizer = Descent(acting(agent.behavior), 1.0)
        agent.buffer.add(experience([0] * 50))
        agent.update_behavior()
        assert float((phi_of(agent) - theta_of(agent)).norm()) == pytest.approx(limit, rel=1e-2)


def test_a_minibatch_has_the_size_of_a_full_buffer_also_while_it_fills():
    agent, envs = make(KINDS["categorical"], **{**TINY, "behavior_steps": 32}, behavior_kl_stop=math.inf)
    sizes, gradient = [], agent.gradient
    agent.gradient = lambda x, *others: sizes.append(len(x)) or gradient(x, *others)
    for stored in (32, 64, 96, 96):
        sizes.clear()
        agent.update(agent.collect(envs))
        # (C - m) / 2 = 48 rows, and the short last one is kept
        assert sizes[: len(sizes) // 16] == [48] * (stored // 48) + [stored % 48] * (stored % 48 > 0)
        assert sum(sizes) == 16 * stored


def test_so_has_a_minibatch_of_theta():
    agent, envs = make(KINDS["categorical"], **TINY, kl_stop=0.0)
    sizes, gradient = [], agent.learner.gradient
    agent.learner.gradient = lambda batch: sizes.append(len(batch.returns)) or gradient(batch)
    for stored in (64, 128, 128):
        sizes.clear()
        play(agent, envs, 64)
        assert sizes == [2 * 64 // 4] * (10 * stored // 32)


# Through autograd, as pictures go


@pytest.mark.parametrize("sampler", ["props", "aw_props", "ros"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_of_computing_give_the_same(kind, sampler):
    given = {**TINY, "sampler": sampler, "behavior_learning_rate": 0.01, "mean_tanh": kind == "gaussian"}
    fast, envs = make(KINDS[kind], **given)
    slow = through_torch(make(KINDS[kind], **given)[0])
    rounds = 0
    while fast.steps < 2 * 64:
        rollout = fast.collect(envs)
        slow.buffer.rollout, slow.steps = rollout, fast.steps
        slow.learner.policy.normalizer.load_state_dict(fast.learner.policy.normalizer.state_dict())
        slow.learner.scaler.load_state_dict(fast.learner.scaler.state_dict())
        one, other = (agent.update(rollout)[1] for agent in (fast, slow))
        assert one.get("behavior_steps") == other.get("behavior_steps")
        assert one.get("behavior_kl", 0.0) == pytest.approx(other.get("behavior_kl", 0.0), rel=1e-2, abs=1e-5)
        assert not torch.allclose(phi_of(fast), theta_of(fast), atol=1e-4)
        torch.testing.assert_close(theta_of(slow), theta_of(fast), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(phi_of(slow), phi_of(fast), rtol=1e-3, atol=1e-4)
        rounds += 1
    assert rounds == 8


@pytest.mark.parametrize("sampler", ["props", "aw_props", "ros", "greedy", "on_policy"])
def test_pictures(sampler):
    """Every sampler collects, learns and refits; the refit lowers its loss by moving the convolutions too."""
    given = {**TINY, "n_envs": 2, "sampler": sampler, "epochs": 1, "behavior_epochs": 1}
    agent, envs = make("Pictures-v0", **given)
    assert agent.behavior.flat is None and agent.learner.policy.flat is None
    before = theta_of(agent)
    play(agent, envs, 64)
    assert not torch.equal(theta_of(agent), before)
    moved = [not torch.equal(p, q) for p, q in zip(agent.behavior.acting, agent.learner.policy.acting, strict=True)]
    assert all(moved) if sampler in ("props", "aw_props", "ros") else not any(moved)
    if sampler == "props":
        x, actions, target = agent.reference(agent.kept())
        log_probs, weights = target.log_prob(actions), np.ones(len(x), np.float32)
        lowered = by_autograd(agent, (x, actions, log_probs, weights, target))[0].item()
        agent.reset_behavior()
        assert lowered < by_autograd(agent, (x, actions, log_probs, weights, target))[0].item() - 1e-3


@pytest.mark.parametrize("sampler", ["props", "noise"])
def test_pictures_with_continuous_actions(sampler):
    agent, envs = make("ContinuousPictures-v0", **TINY, sampler=sampler, epochs=1, behavior_epochs=1)
    play(agent, envs, 64)
    assert not torch.equal(phi_of(agent), theta_of(agent))


# Settings

# Per-environment settings of the authors' stored runs, from section 3.2 of the specification: n, m, learning rate,
# learning rate of phi, delta, lam, minibatches of phi; and the budget, from 3.1.
MUJOCO = {
    "Swimmer": (2048, 1024, 1e-3, 1e-5, 0.03, 0.1, 16, 1_000_000),
    "Hopper": (2048, 256, 1e-3, 1e-3, 0.05, 0.3, 16, 1_000_000),
    "HalfCheetah": (1024, 512, 1e-4, 1e-3, 0.05, 0.3, 16, 2_000_000),
    "Walker2d": (2048, 256, 1e-3, 1e-3, 0.10, 0.3, 32, 2_000_000),
    "Ant": (2048, 256, 1e-4, 1e-3, 0.03, 0.1, 16, 4_000_000),
    "Humanoid": (8192, 256, 1e-4, 1e-4, 0.10, 0.1, 32, 6_000_000),
}
# Columns 1 and 3 of section 3.1.
FIXED = {
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "epochs": 10,
    "minibatches": 32,
    "clip": 0.2,
    "clip_value": True,
    "entropy_weight": 0.01,
    "value_weight": 0.5,
    "max_gradient_norm": 0.5,
    "kl_stop": 0.03,
    "anneal": True,
    "adam_epsilon": 1e-5,
    "behavior_epochs": 16,
    "behavior_clip": 0.3,
    "hidden": (64, 64),
    "kl_direction": "published",
    "kl_dims": "mean",
    "evict": "sliding",
    "stale_reference": False,
    "n_envs": 1,
}
DISCRETE = {
    "rollout_steps": 1024,
    "learning_rate": 1e-3,
    "buffer_batches": 1,
    "behavior_steps": 128,
    "behavior_learning_rate": 1e-3,
    "behavior_minibatches": 8,
    "behavior_kl_stop": 0.03,
    "behavior_kl_weight": 0.1,
    "normalize_rewards": False,
    "total_steps": 500_000,
}


def preset(env_id, **given):
    return resolve(load_algorithm("props"), {"env": env_id, **given}).config


def differing(config, expected):
    return {name: getattr(config, name) for name, value in expected.items() if getattr(config, name) != value}


@pytest.mark.parametrize("version", ["v4", "v5"])
@pytest.mark.parametrize("name", MUJOCO)
def test_presets_of_mujoco_are_those_of_the_stored_runs(name, version):
    n, m, rate, behavior_rate, delta, lam, minibatches, budget = MUJOCO[name]
    expected = FIXED | {
        "rollout_steps": n,
        "behavior_steps": m,
        "learning_rate": rate,
        "behavior_learning_rate": behavior_rate,
        "behavior_kl_stop": delta,
        "behavior_kl_weight": lam,
        "behavior_minibatches": minibatches,
        "total_steps": budget,
        "buffer_batches": 2,
        "mean_tanh": True,
        "bootstrap_truncated": False,
        "normalize_observations": True,
        "normalize_rewards": True,
    }
    assert differing(preset(f"{name}-{version}"), expected) == {}


def test_presets_of_the_discrete_tasks_are_those_of_the_authors_older_code():
    for env_id in ("CartPole-v1", "Acrobot-v1", "rlsuite/Discrete2D100-v0", "rlsuite/GridWorld-v0"):
        assert differing(preset(env_id), FIXED | DISCRETE) == {}
    assert differing(preset("LunarLander-v3"), FIXED | DISCRETE | {"total_steps": 1_000_000}) == {}


@pytest.mark.parametrize("pattern", PRESETS)
def test_every_preset_is_one_that_can_run(pattern):
    """Its fields exist, its numbers go into each other, and its refits have something to refit to."""
    config = preset(pattern.replace("*", "Pong" if pattern == "ale-*" else "-v1"))
    observations = gym.spaces.Box(0, 1, (4, 84, 84) if pattern == "ale-*" else (8,), np.float32)
    check(config, SimpleNamespace(observation_space=observations, action_space=gym.spaces.Discrete(2)))
    assert config.total_steps >= config.rollout_steps


def test_a_policy_may_be_linear():
    for hidden in ("none", "", []):
        assert preset("CartPole-v1", hidden=hidden).hidden == ()
    agent, envs = make("CartPole-v1", **{**TINY, "hidden": ()}, sampling_error=True)
    assert [p.shape for p in agent.learner.policy.actor.parameters()] == [(2, 4), (2,)]
    assert play(agent, envs, 64)[-1]["sampling_error_expected"] == 5 / (2 * 64)


@pytest.mark.parametrize(
    ("env_id", "given", "message"),
    [
        ("CartPole-v1", {"rollout_steps": 100, "n_envs": 3}, "--rollout-steps 100 is no multiple of --n-envs 3"),
        ("CartPole-v1", {"rollout_steps": 100}, "--rollout-steps 100 is no multiple of --minibatches 32"),
        ("CartPole-v1", {"minibatches": 0}, "--rollout-steps 2048 is no multiple of --minibatches 0"),
        ("CartPole-v1", {"rollout_steps": 64, "minibatches": 64}, "two transitions"),
        ("CartPole-v1", {"rollout_steps": 0}, "two transitions"),
        ("CartPole-v1", {"buffer_batches": 0}, "--buffer-batches is at least 1, not 0"),
        ("CartPole-v1", {"behavior_steps": 300}, "--rollout-steps 2048 is no multiple of --behavior-steps 300"),
        ("CartPole-v1", {"behavior_steps": 0}, "--rollout-steps 2048 is no multiple of --behavior-steps 0"),
        ("CartPole-v1", {"behavior_steps": 4096}, "--rollout-steps 2048 is no multiple of --behavior-steps 4096"),
        ("CartPole-v1", {"behavior_steps": 4, "n_envs": 8}, "--behavior-steps 4 is no multiple of --n-envs 8"),
        ("CartPole-v1", {"behavior_minibatches": 0}, "--behavior-minibatches is at least 1, not 0"),
        ("CartPole-v1", {"buffer_batches": 1, "behavior_steps": 2048}, "--sampler props has nothing to refit to"),
        ("CartPole-v1", {"rollout_steps": 64, "behavior_steps": 64, "sampling_error": True}, "fits 65 weights"),
        ("CartPole-v1", {**TINY, "hidden": (8, 63), "sampling_error": True}, "fits 64 weights to --rollout-steps 64"),
        ("Pictures-v0", {"rollout_steps": 512, "sampling_error": True}, "fits 513 weights"),
        ("Hopper-v5", {"sampler": "greedy"}, "--sampler greedy counts discrete actions, which Hopper-v5 does not"),
        ("CartPole-v1", {"sampler": "noise"}, "--sampler noise widens a Gaussian, and CartPole-v1 has discrete"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(env_id, given, message):
    with pytest.raises(UserError) as refused:
        make(env_id, **given)
    sentence = str(refused.value)
    assert message in sentence
    assert sentence.endswith(".") and "\n" not in sentence and sentence.count(". ") == 0


def test_a_run_writes_its_metrics_and_refuses_before_it_writes(tmp_path):
    given = {"env": "CartPole-v1", "rollout_steps": 64, "minibatches": 4, "behavior_steps": 16, "log_every": 64}
    quick = given | {"eval_every": 0, "final_episodes": 2, "sampling_error": True, "hidden": "8"}
    resolved = resolve(load_algorithm("props"), quick | {"total_steps": 256})
    assert execute(resolved, tmp_path / "run") == 0
    rows = files.read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [row["update"] for row in rows] == [64, 128, 192, 256]
    assert {"sampling_error", "sampling_error_expected", "behavior_steps", "behavior_kl", "kl"} <= set(rows[0])
    refused = resolve(load_algorithm("props"), quick | {"sampler": "noise"})
    with pytest.raises(UserError):
        props.train(refused.config, Run(refused, tmp_path / "refused"))
    assert not (tmp_path / "refused").exists()
