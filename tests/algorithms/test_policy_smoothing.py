"""The bounds of policy smoothing, and DQN; checks of the method's specification have their number in brackets.

What returns under attack are at worst is played out in tests/certify/test_games.py.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from rlsuite.algorithms.policy_smoothing import (
    DQN,
    Band,
    Config,
    QPolicy,
    band,
    certified_budget,
    clopper_pearson,
    dkw_margin,
    shift,
    whole_budget,
)
from rlsuite.cli import main
from rlsuite.errors import UserError
from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.environments import Environments
from rlsuite.harness.run import execute
from rlsuite.harness.runs import first_difference, load_policy
from rlsuite.harness.seeding import Streams
from tests.contract.kills import cut_and_finish
from tests.kernels.test_linear import reference

SIX = {"rtol": 0, "atol": 5.1e-7}  # numbers that are printed with six digits
BUDGETS = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
SIGMA = 0.4


# Bounds


@pytest.mark.parametrize(
    ("successes", "alpha", "bound"),
    [
        (10_000, 0.05, 0.999700),
        (9_900, 0.05, 0.988203),
        (9_000, 0.05, 0.894929),
        (5_000, 0.05, 0.491727),
        (9_000, 0.05 / 200, 0.889170),
        (10_000, 0.05 / 200, 0.999171),
        (0, 0.05, 0.0),
    ],
)
def test_golden_numbers_of_clopper_and_pearson(successes, alpha, bound):
    """(1) Out of 10,000; from the specification, which has them from statsmodels' two-sided routine at 2 alpha."""
    np.testing.assert_allclose(clopper_pearson(successes, 10_000, alpha), bound, **SIX)


def test_golden_numbers_of_the_band_without_levels():
    """(1, 14) The last is what the code of Robust_HighUtil_Smoothed_DRL (ICML 2024) has for 1000 episodes."""
    assert dkw_margin(10_000, 0.05, two_sided=True) == pytest.approx(0.0135810, abs=5e-8)
    assert dkw_margin(10_000, 0.05) == pytest.approx(0.0122387, abs=5e-8)
    assert dkw_margin(10_000, 0.01, two_sided=True) == pytest.approx(0.0162762, abs=5e-8)
    assert dkw_margin(1000, 0.05) == pytest.approx(0.0387, abs=5e-5)


@pytest.mark.parametrize(
    ("p", "budget", "sigma", "left"),
    [
        (0.99, 0.2, 0.2, 0.907638),
        (0.9, 0.1, 0.2, 0.782761),
        (0.9, 0.2, 0.2, 0.610856),
        (0.5, 0.1, 0.05, 0.022750),
        (0.95, 0.4, 0.4, 0.740489),
    ],
)
def test_golden_numbers_of_the_theorem(p, budget, sigma, left):
    """(1)"""
    np.testing.assert_allclose(shift(p, budget, sigma), left, **SIX)


def test_what_is_left_of_a_probability_at_the_ends():
    assert shift([0.0, 1.0], 3.0, SIGMA).tolist() == [0.0, 1.0]
    assert shift([0.0, 1.0], -3.0, SIGMA).tolist() == [0.0, 1.0]
    assert shift([0.0, 0.3, 1.0], 0.0, 0.0).tolist() == [0.0, 0.3, 1.0]  # no noise, but no attack either
    assert shift([0.0, 0.3, 1.0], 0.1, 0.0).tolist() == [0.0, 0.0, 0.0]  # without noise nothing is sure
    assert shift([0.0, 0.3, 1.0], -0.1, 0.0).tolist() == [1.0, 1.0, 1.0]
    np.testing.assert_allclose(shift(shift(0.7, 0.3, SIGMA), -0.3, SIGMA), 0.7)


def test_clopper_pearson_is_where_as_many_successes_become_unlikely():
    """The lower bound is the probability with which `successes` or more have the probability alpha."""
    k, n, alpha = np.arange(1, 30), 30, 0.07
    np.testing.assert_allclose(binom.sf(k - 1, n, clopper_pearson(k, n, alpha)), alpha, rtol=1e-9)
    np.testing.assert_allclose(binom.cdf(k, n, clopper_pearson(k, n, alpha, upper=True)), alpha, rtol=1e-9)
    assert clopper_pearson([0, 30], n, alpha, upper=True)[1] == 1.0
    assert clopper_pearson([0, 30], n, alpha)[0] == 0.0


def test_the_budget_of_steps_and_of_numbers():
    assert whole_budget(0.1, 400) == pytest.approx(2.0)
    assert whole_budget(0.1, 100, 4) == pytest.approx(2.0)
    steps = np.full((100, 4), 0.1)  # every number of every frame changed by as much
    assert np.linalg.norm(steps) == pytest.approx(whole_budget(0.1, 100, 4))


def test_the_certified_budget_is_where_the_probability_falls_to_the_threshold():
    p, theta = np.array([0.99, 0.8, 0.6]), 0.55
    budget = certified_budget(p, theta, SIGMA)
    np.testing.assert_allclose(shift(p, budget, SIGMA), theta)
    assert certified_budget([0.5, 0.0], theta, SIGMA).tolist() == [0.0, 0.0]
    assert certified_budget(1.0, theta, SIGMA) == np.inf
    with np.errstate(all="raise"):
        assert certified_budget(0.0, 0.0, SIGMA) == 0.0


# Bands


def by_hand(x, alpha=0.1, low=-2.0, high=3.0):
    """A band of whole numbers, one level after the other."""
    levels = np.arange(low + 1, high + 1)
    return levels, np.array([clopper_pearson(sum(x >= level), len(x), alpha / len(levels)) for level in levels])


def test_a_band_of_levels_has_a_share_of_alpha_for_each():
    x = np.array([-2, -1, -1, 0, 0, 0, 2, 2, 3, 1, 0, 2])
    levels, lower = by_hand(x)
    found = band(x, 0.1, -2, 3, levels)
    assert np.array_equal(found.values, levels)
    np.testing.assert_allclose(found.lower, lower)
    sure = 0.1 / 5
    np.testing.assert_allclose(
        found.upper, [clopper_pearson(sum(x >= v), 12, sure, upper=True) for v in (-1, 0, 1, 2, 3)]
    )
    left = shift(lower, 0.3, SIGMA)
    np.testing.assert_allclose(found.mean(0.3, SIGMA), -2 + left.sum())  # widths are 1
    np.testing.assert_allclose(found.probability(1.5, 0.3, SIGMA), left[3])  # 1.5 or more is 2 or more
    assert found.probability(-2, 0.3, SIGMA) == 1.0
    assert found.probability(3.5, 0.3, SIGMA) == 0.0


@pytest.mark.parametrize("two_sided", [False, True])
def test_a_band_without_levels_is_as_far_from_the_shares_everywhere(two_sided):
    x = np.array([0.5, 2.25, 0.5, 1.0, -1.0])
    found = band(x, 0.4, -1.5, 4.0, two_sided=two_sided)
    margin = dkw_margin(5, 0.4, two_sided)
    assert found.values.tolist() == [-1.0, 0.5, 1.0, 2.25, 4.0]
    np.testing.assert_allclose(found.lower, np.clip(np.array([5, 4, 2, 1, 0]) / 5 - margin, 0, 1))
    np.testing.assert_allclose(found.upper, np.clip(np.array([5, 4, 2, 1, 0]) / 5 + margin, 0, 1))
    widths = np.array([0.5, 1.5, 0.5, 1.25, 1.75])
    np.testing.assert_allclose(found.mean(), -1.5 + widths @ found.lower)
    np.testing.assert_allclose(found.mean_upper(), -1.5 + widths @ found.upper)
    np.testing.assert_allclose(found.mean_upper(0.2, SIGMA), -1.5 + widths @ shift(found.upper, -0.2, SIGMA))


def test_sum_form_and_sorted_form_are_one_on_whole_returns():
    """(8) sum_j Phi(Phi^-1(L(j)) - c) over all whole j, and the sum over sorted returns with their widths."""
    x = np.random.default_rng(0).binomial(20, 0.7, 300)
    margin = dkw_margin(300, 0.05)
    shares = np.array([(x > j).mean() for j in range(20)])  # P(return > j)
    whole = [shift(np.maximum(shares - margin, 0), b, SIGMA).sum() for b in BUDGETS]
    np.testing.assert_allclose(band(x, 0.05, 0, 20).mean(BUDGETS, SIGMA), whole, rtol=1e-12)


def bands_of(x, alpha=0.05, low=-5.0, high=12.0):
    """Both kinds of band, for whole returns x."""
    return [band(x, alpha, low, high), band(x, alpha, low, high, np.arange(low + 1, high + 1))]


@pytest.fixture(params=range(4))
def returns(request):
    """Whole numbers from -5 to 12: spread, most at the top, all alike, all at the bottom."""
    rng = np.random.default_rng(request.param)
    return [rng.integers(-5, 13, 80), rng.binomial(17, 0.95, 300) - 5, np.full(50, 7), np.full(30, -5)][request.param]


def test_the_bound_falls_from_a_confidence_bound_on_the_mean_to_the_lowest_return(returns):
    """(8)"""
    for found in bands_of(returns):
        widths = np.diff(found.values, prepend=-5.0)
        assert found.mean(0.0, SIGMA) == pytest.approx(-5 + widths @ found.lower)
        curve = found.mean(np.linspace(0, 4, 200), SIGMA)
        assert (np.diff(curve) <= 0).all()
        assert found.mean(100.0, SIGMA) == -5
        assert found.mean(0.0, SIGMA) <= returns.mean() <= found.mean_upper(0.0, SIGMA)
        above = found.mean_upper(np.linspace(0, 4, 200), SIGMA)
        assert (np.diff(above) >= 0).all()
        assert found.mean_upper(100.0, SIGMA) == pytest.approx(12)
        assert (np.diff(found.quantile(0.3, np.linspace(0, 4, 200), SIGMA)) <= 0).all()


def test_the_bound_is_above_the_one_by_lipschitz_constant(returns):
    """(8)"""
    for found in bands_of(returns):
        lipschitz = found.mean(0.0, SIGMA) - 17 * BUDGETS / (SIGMA * np.sqrt(2 * np.pi))
        assert (found.mean(BUDGETS, SIGMA) >= lipschitz - 1e-12).all()


@pytest.mark.parametrize(("factor", "offset"), [(2.0, 0.0), (1.0, 30.0), (0.5, -40.0), (3.0, 7.5)])
def test_the_bound_scales_and_moves_with_the_returns(returns, factor, offset):
    """(8) A bound whose integral began at 0 would not, where returns are negative."""
    low, high = factor * -5 + offset, factor * 12 + offset
    levels = factor * np.arange(-4, 13) + offset
    moved = [
        band(factor * returns + offset, 0.05, low, high),
        band(factor * returns + offset, 0.05, low, high, levels),
    ]
    for before, after in zip(bands_of(returns), moved, strict=True):
        for bound in ("mean", "mean_upper"):
            expected = factor * getattr(before, bound)(BUDGETS, SIGMA) + offset
            np.testing.assert_allclose(getattr(after, bound)(BUDGETS, SIGMA), expected, rtol=1e-9, atol=1e-9)
        quantiles = factor * before.quantile(0.3, BUDGETS, SIGMA) + offset
        np.testing.assert_allclose(after.quantile(0.3, BUDGETS, SIGMA), quantiles)


def test_the_order_of_returns_does_not_matter_nor_does_a_tie_that_is_hardly_one(returns):
    """(8)"""
    rng = np.random.default_rng(1)
    apart = returns + rng.uniform(-1e-9, 1e-9, len(returns))
    for before, after in zip(bands_of(returns), bands_of(rng.permutation(returns)), strict=True):
        assert np.array_equal(before.mean(BUDGETS, SIGMA), after.mean(BUDGETS, SIGMA))
    before, after = band(returns, 0.05, -5.1, 12.1), band(apart, 0.05, -5.1, 12.1)
    np.testing.assert_allclose(after.mean(BUDGETS, SIGMA), before.mean(BUDGETS, SIGMA), atol=1e-7)


def test_the_quantile_is_the_highest_return_that_stays_likely_enough(returns):
    for found in bands_of(returns):
        for q in (0.05, 0.5, 0.9):
            for budget, bound in zip(BUDGETS, found.quantile(q, BUDGETS, SIGMA), strict=True):
                likely = [v for v in found.values if found.probability(v, budget, SIGMA) >= 1 - q]
                assert bound == max(likely, default=-5.0)


def test_the_median_under_attack_is_that_of_smoothed_values():
    """(14) The constants of the ICML 2024 code: 1000 episodes, slack 0.0387, and 50 = sqrt(2500 frames) times eps."""
    x = np.random.default_rng(0).normal(size=1000)
    found = band(x, 0.05, -10, 10)
    median = np.sort(x)[500]  # half of the returns are as high
    for epsilon in (0.001, 0.005, 0.02):
        left = ndtr(ndtri(0.5 - 0.0387) - 50 * epsilon / SIGMA)
        budget = whole_budget(epsilon, 2500)
        assert found.probability(median, budget, SIGMA) == pytest.approx(left, abs=1e-4)
        assert found.quantile(1 - left + 1e-4, budget, SIGMA) >= median > found.quantile(1 - left - 2e-3, budget, SIGMA)


@pytest.mark.parametrize("budget", [0.0, 0.2])
def test_confidence_is_kept(budget):
    """(9) Of 400 certificates of 500 episodes each no more than 5 % may be above the truth, with attack or without.

    Without the margin of a band about half of them are.
    """
    rng = np.random.default_rng(0)
    support = np.arange(13.0)
    chances = rng.dirichlet(np.ones(13) / 2)
    beyond = 1 - np.cumsum(chances)[:-1]  # P(return >= 1), ...
    lowest, highest = shift(beyond, budget, SIGMA).sum(), shift(beyond, -budget, SIGMA).sum()
    wrong = np.zeros(5)
    for _ in range(400):
        x = rng.choice(support, 500, p=chances)
        for i, found in enumerate([band(x, 0.05, 0, 12), band(x, 0.05, 0, 12, support[1:])]):
            wrong[2 * i] += found.mean(budget, SIGMA) > lowest
            wrong[2 * i + 1] += found.mean_upper(budget, SIGMA) < highest
        shares = np.array([(x >= v).mean() for v in support[1:]])
        wrong[4] += Band(0, support[1:], shares, shares).mean(budget, SIGMA) > lowest
    assert (wrong[:4] <= 0.05 * 400).all()
    assert wrong[4] > 0.4 * 400


@pytest.mark.parametrize(
    ("x", "given", "words"),
    [
        ([], {}, "no episode"),
        ([1.0, 5.0], {}, "from 1 to 5"),
        ([-1.0, 2.0], {}, "from -1 to 2"),
        ([1.0, float("nan")], {}, "nan"),
        ([1.0, 2.5], {"levels": [1, 2, 3, 4]}, "none of the levels"),
    ],
)
def test_returns_that_do_not_fit_are_refused(x, given, words):
    with pytest.raises(UserError, match=words):
        band(x, 0.05, 0, 4, **given)


# DQN


class Steady(gym.Env):
    """Reward 1 a step; the third ends an episode, if `ends` says how. Observes the step where it terminates."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def __init__(self, ends=""):
        self.ends = ends

    def observe(self):
        return np.eye(4, dtype=np.float32)[self.t if self.ends == "terminates" else 0]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        over = self.t == 3
        return self.observe(), 1.0, over and self.ends == "terminates", over and self.ends == "truncates", {}


@pytest.fixture(autouse=True)
def steady():
    names = {"Endless-v0": "", "Terminated-v0": "terminates", "Truncated-v0": "truncates"}
    for name, ends in names.items():
        gym.register(name, entry_point=Steady, kwargs={"ends": ends})
    yield
    for name in names:
        del gym.registry[name]


QUICK = {"hidden": (16, 12), "batch_size": 32, "buffer_size": 400, "learning_rate": 1e-3}


def make(env, n=1, **given) -> tuple[DQN, Environments]:
    """An agent and the environments that it acts in."""
    run = SimpleNamespace(device=torch.device("cpu"), rng=Streams(0))
    envs = Environments(env, n, run.rng)
    return DQN(envs, Config(env, **{"n_envs": n, **QUICK, **given}), run), envs


@pytest.mark.parametrize("limit", [10.0, 0.01])
def test_an_update_is_that_of_a_literal_computation(limit):
    """In double precision, by torch's own layers and optimiser; errors on both sides of Huber's corner."""
    agent, envs = make("CartPole-v0#frames=2,sigma=0.1", 2, max_gradient_norm=limit, gamma=0.9)
    agent.collect(envs, 100)
    draws = Streams(0)("batches")
    with torch.no_grad():
        for weight in agent.target.parameters():
            weight.add_(0.5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    target, plain = reference(agent.target.head), reference(agent.policy.head)
    adam = torch.optim.Adam(plain.parameters(), 1e-3)
    sides = set()
    for _ in range(3):
        b = agent.replay.sample(32, draws)
        loss = torch.zeros((), dtype=torch.float64)
        for z, a, r, after, d in zip(*(torch.from_numpy(part) for part in b), strict=True):
            with torch.no_grad():
                goal = r.double() + 0.9 * (1 - d.double()) * target(after.double()).max()
            error = goal - plain(z.double())[a]
            sides.add(bool(error.abs() < 1))
            loss = loss + (error**2 / 2 if error.abs() < 1 else error.abs() - 0.5) / 32
        adam.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in plain.parameters()]).norm()
        assert (norm > limit) == (limit < 1)
        for p in plain.parameters():
            p.grad *= min(1.0, limit / norm)
        adam.step()
        metrics = agent.update()
        assert metrics["q_loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert sides == {True, False}
    for ours, theirs, mean in zip(
        agent.policy.head.parameters(), plain.parameters(), agent.optimizer.means, strict=True
    ):
        torch.testing.assert_close(mean.double(), adam.state[theirs]["exp_avg"], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(ours.double(), theirs.data, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("env", "values"),
    [
        ("Terminated-v0#sigma=0", (1.75, 1.5, 1.0)),
        ("Truncated-v0#sigma=0", (2.0,)),
        ("Endless-v0#sigma=0,steps=3", (2.0,)),
        ("Truncated-v0", (2.0,)),
    ],
)
def test_truncation_bootstraps_and_termination_does_not(env, values):
    """A reward of 1 a step, discounted by 1/2, is worth 2, unless the task ends after three of them."""
    agent, envs = make(env, hidden=(), gamma=0.5, learning_rate=0.05, target_every=1)
    for _ in range(40):
        agent.collect(envs, 5)
        for _ in range(10):
            agent.update()
        agent.renew_target()
    found = agent.policy(torch.eye(4)[: len(values)]).detach().numpy()
    np.testing.assert_allclose(found, np.array(values)[:, None] * np.ones(2), atol=0.02)


def test_what_is_learnt_from_leads_to_the_true_last_observation_of_an_episode():
    """And never to the first of the next."""
    agent, envs = make("Terminated-v0", 2)
    agent.collect(envs, 40)
    b = agent.replay.sample(500, np.random.default_rng(0))
    assert np.array_equal(b.next_observations.argmax(1), b.observations.argmax(1) + 1)
    assert np.array_equal(b.terminations, b.observations.argmax(1) == 2)
    assert {*b.observations.argmax(1)} == {0, 1, 2} and (b.rewards == 1).all()


def test_the_target_is_a_copy_that_is_renewed_once_so_many_steps_have_passed():
    agent, envs = make("Endless-v0", target_every=10)
    agent.collect(envs, 5)

    def is_copy():
        return all(torch.equal(a, b) for a, b in zip(agent.policy.parameters(), agent.target.parameters(), strict=True))

    assert is_copy()
    renewed = []
    for steps in (5, 9, 10, 19, 20, 256, 257, 259, 260):
        agent.steps = steps
        agent.update()
        assert not is_copy()
        agent.renew_target()
        renewed.append(is_copy())
    assert renewed == [False, False, True, False, True, True, False, False, True]


def test_exploration_falls_linearly_over_its_share_of_the_run():
    agent, _ = make("Endless-v0", total_steps=1000, exploration_fraction=0.2, exploration_end=0.1)
    found = []
    for steps in (0, 50, 100, 199, 200, 201, 1000):
        agent.steps = steps
        found.append(agent.exploration)
    np.testing.assert_allclose(found, [1, 0.775, 0.55, 0.1045, 0.1, 0.1, 0.1])
    agent.config = replace(agent.config, exploration_fraction=0.0, exploration_end=0.0)
    assert agent.exploration == 0.0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_so_many_actions_are_random_and_the_others_are_the_best(share):
    agent, envs = make("Endless-v0", 4, hidden=(), buffer_size=8000, exploration_fraction=0.0, exploration_end=share)
    with torch.no_grad():
        agent.policy.head.bias0.copy_(torch.tensor([0.0, 100.0]))
    agent.steps = 1  # exploration has fallen
    agent.collect(envs, 1000)
    assert agent.steps == 4001
    taken = agent.replay.actions[:, 1:1001]
    other = (taken == 0).mean()
    assert abs(other - share / 2) <= 4 * np.sqrt(share / 2 * (1 - share / 2) / 4000)


def test_what_acts_takes_the_largest_value_of_vectors_and_of_pictures():
    rng = np.random.default_rng(0)
    for shape in ((6,), (2, 36, 40)):
        policy = QPolicy(shape, 5, (16,), rng)
        x = rng.standard_normal((20, *shape), dtype=np.float32)
        values = policy(torch.from_numpy(x))
        assert values.shape == (20, 5)
        assert np.array_equal(policy.act(x), values.detach().numpy().argmax(1))
        again = QPolicy(**policy.arguments)
        again.load_state_dict(policy.state_dict())
        assert torch.equal(again(torch.from_numpy(x)), values)


def test_the_settings_of_the_paper():
    """As its scripts survive in mrh996/ReCePS."""
    algorithm = load_algorithm("policy_smoothing")
    several, single, game = (
        resolve(algorithm, {"env": env}).config
        for env in ("CartPole-v0#frames=5,sigma=0.2", "CartPole-v0#sigma=0.2", "ale-machado/Pong#frames=4,sigma=0.05")
    )
    assert (several.learning_rate, single.learning_rate, game.learning_rate) == (1e-4, 5e-5, 1e-4)
    assert (several.total_steps, several.batch_size, several.train_every) == (500_000, 1024, 256)
    assert (game.total_steps, game.batch_size, game.train_every, game.target_every) == (10_000_000, 32, 4, 1000)
    assert (several.exploration_end, game.exploration_end) == (0.0, 0.01)


TRAINED = {
    "env": "CartPole-v0#frames=3,sigma=0.2",
    "total_steps": 600,
    "n_envs": 2,
    "train_every": 50,
    "gradient_steps": 5,
    "batch_size": 16,
    "buffer_size": 150,
    "learning_starts": 60,
    "target_every": 70,
    "hidden": "16,16",
    "log_every": 50,
    "eval_every": 200,
    "eval_episodes": 1,
    "final_episodes": 2,
    "checkpoint_every": 100,
}


def test_a_run_that_was_cut_ends_as_if_it_had_not_been(tmp_path):
    """With a replay buffer that has been overwritten, and noise in the midst of an episode."""
    setup = resolve(load_algorithm("policy_smoothing"), TRAINED)
    assert execute(setup, tmp_path / "whole") == 0
    cut_and_finish(setup, tmp_path / "cut", 4)
    assert first_difference(tmp_path / "whole", tmp_path / "cut") == ""
    policy = load_policy(tmp_path / "cut")
    assert policy.arguments == {"observation_shape": [12], "actions": 2, "hidden": [16, 16]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_every": 3, "n_envs": 2}, ["--train-every 3", "--n-envs 2"]),
        ({"n_envs": 0}, ["--n-envs", "0"]),
        ({"train_every": 0}, ["--train-every", "0"]),
        ({"gradient_steps": 0}, ["--gradient-steps", "0"]),
        ({"target_every": 0}, ["--target-every", "0"]),
        ({"buffer_size": 0}, ["--buffer-size", "0"]),
        ({"env": "Pendulum-v1#sigma=0.1"}, ["discrete", "Pendulum-v1"]),
        ({"env": "CartPole-v0#frames=0"}, ["frames=0"]),
        ({"env": "CartPole-v0#sigma=0.1:0.1"}, ["2 numbers", "4"]),
    ],
)
def test_bad_settings_are_one_sentence_and_leave_nothing(change, words, tmp_path, capsys):
    given = {**TRAINED, **change, "run_dir": tmp_path / "run"}
    flags = [part for key, value in given.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    assert main(["train", "policy_smoothing", *flags]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("rlsuite: ") and all(word in message for word in words), message
    assert not any(tmp_path.iterdir())
