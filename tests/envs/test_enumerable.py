import gymnasium as gym
import numpy as np
import pytest

import rlsuite_envs  # noqa: F401
from rlsuite_envs.enumerable import Enumerable

RNG = np.random.default_rng(0)
SIZES = [{}, {"states": 2, "actions": 3, "horizon": 3, "seed": 5}, {"states": 4, "actions": 2, "horizon": 1, "seed": 1}]
all_sizes = pytest.mark.parametrize("sizes", SIZES)


def policies(mdp: Enumerable, count: int = 5) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(count, mdp.rewards.size))


def central_differences(function, theta: np.ndarray, step: float = 1e-5) -> np.ndarray:
    return np.stack(
        [(function(theta + step * e) - function(theta - step * e)) / (2 * step) for e in np.eye(theta.shape[-1])], -1
    )


@all_sizes
def test_the_trajectories_are_all_that_can_happen(sizes):
    mdp = Enumerable(**sizes)
    states, actions = mdp.trajectories()
    assert states.shape == actions.shape == (mdp.rewards.size**mdp.horizon, mdp.horizon)
    assert len(np.unique(np.hstack([states, actions]), axis=0)) == len(states)
    assert np.abs(mdp.probabilities(policies(mdp)).sum(-1) - 1).max() < 1e-13


def test_the_usual_size_has_1296_trajectories():
    assert len(Enumerable().trajectories()[0]) == 1296


@all_sizes
def test_objective_gradient_and_hessian_agree_with_each_other_and_with_enumeration(sizes):
    mdp = Enumerable(**sizes)
    theta = policies(mdp)
    states, actions = mdp.trajectories()
    returns = (mdp.rewards[states, actions] * mdp.discount ** np.arange(mdp.horizon)).sum(-1)
    assert np.abs(mdp.probabilities(theta) @ returns - mdp.objective(theta)).max() < 1e-13
    assert np.abs(central_differences(mdp.objective, theta) - mdp.gradient(theta)).max() < 1e-9
    assert np.abs(central_differences(mdp.gradient, theta) - mdp.hessian(theta)).max() < 1e-9
    # without differences: grad E[R] = E[R grad log p], Hessian E[R] = E[R (grad log p grad log p^T + Hessian log p)]
    for one in theta:
        scores = mdp.scores(one)[states, actions].sum(1)
        weights = mdp.probabilities(one) * returns
        assert np.abs(weights @ scores - mdp.gradient(one)).max() < 1e-13
        curvature = np.einsum("n,nij->ij", weights, mdp.curvature(one)[states].sum(1))
        assert np.abs((weights[:, None] * scores).T @ scores + curvature - mdp.hessian(one)).max() < 1e-13


def test_batches_are_policies_side_by_side():
    mdp = Enumerable()
    theta = RNG.normal(size=(2, 3, 6))
    for function in (mdp.policy, mdp.objective, mdp.gradient, mdp.hessian, mdp.endless, mdp.probabilities, mdp.scores):
        batched = function(theta)
        for i, j in np.ndindex(2, 3):
            assert np.allclose(batched[i, j], function(theta[i, j]), rtol=1e-13, atol=1e-15)


def test_no_deterministic_policy_is_better_than_the_best():
    mdp = Enumerable()
    best, plan = mdp.best()
    logits = [np.eye(2)[[a, b, c]].ravel() for a, b, c in np.ndindex(2, 2, 2)]
    returns = mdp.objective(1000.0 * np.array(logits))
    assert returns.max() == pytest.approx(best, abs=1e-13)
    assert np.array_equal(np.array(list(np.ndindex(2, 2, 2)))[returns.argmax()], plan)
    assert mdp.gradient(np.zeros(6)) @ logits[returns.argmax()] > 0


def test_episodes_follow_the_policy_and_the_probabilities():
    """Chi-squared of 20,000 episodes against the exact probabilities of states at each time, and of the returns."""
    env = gym.make("rlsuite/Enumerable-v0", disable_env_checker=True)
    mdp = env.unwrapped
    theta = policies(mdp, 1)[0]
    policy, rng, episodes = mdp.policy(theta), np.random.default_rng(3), 20_000
    seen, returns = np.zeros((4, 3, 2)), np.zeros(episodes)
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        for step in range(4):
            state = int(observation.argmax())
            action = int(rng.random() > policy[state, 0])
            seen[step, state, action] += 1
            observation, reward, terminated, truncated, _ = env.step(action)
            returns[episode] += mdp.discount**step * reward
            assert not terminated and truncated == (step == 3)
    states, actions = mdp.trajectories()
    expected = np.zeros_like(seen)
    for step in range(4):
        np.add.at(expected[step], (states[:, step], actions[:, step]), episodes * mdp.probabilities(theta))
    chi = ((seen - expected) ** 2 / expected).sum((1, 2))
    assert (chi < 25.7).all()  # exceeded with probability 1e-4 with 5 degrees of freedom
    assert returns.mean() == pytest.approx(mdp.objective(theta), abs=4 * returns.std() / np.sqrt(episodes))


def test_the_seed_of_the_task_is_the_task():
    one, same, other = Enumerable(seed=3), Enumerable(seed=3), Enumerable(seed=4)
    assert np.array_equal(one.kernel, same.kernel) and np.array_equal(one.rewards, same.rewards)
    assert not np.array_equal(one.kernel, other.kernel)
    assert np.allclose(one.kernel.sum(-1), 1) and (one.rewards >= 0).all() and (one.rewards <= 1).all()


def test_the_usual_task_stays_what_it_is():
    """Printed by the first version of this file; results/npg_igt was made with it."""
    mdp = Enumerable()
    assert mdp.best()[0] == pytest.approx(2.5847749403118336, abs=1e-12)
    assert mdp.objective(np.zeros(6)) == pytest.approx(1.8740679531265219, abs=1e-12)


@pytest.mark.parametrize("horizon", [1, 10, 691])
def test_a_horizon_cuts_off_what_the_geometric_series_says(horizon):
    """One state: J - J_H = gamma^H r / (1 - gamma)."""
    mdp = Enumerable(states=1, actions=1, horizon=horizon, discount=0.99)
    theta, (reward,) = np.zeros(1), mdp.rewards.ravel()
    assert mdp.endless(theta) == pytest.approx(reward / 0.01, rel=1e-12)
    assert mdp.endless(theta) - mdp.objective(theta) == pytest.approx(0.99**horizon * reward / 0.01, rel=1e-10)


@pytest.mark.parametrize("discount, iterations", [(0.9, 10), (0.99, 1000), (0.999, 10_000)])
def test_the_horizon_of_the_theory_costs_one_part_in_so_many(discount, iterations):
    """H = ceil(log(T + 1) / (1 - gamma)), as in arXiv 2302.01734: a share of less than 1 / T of the return is cut."""
    horizon = int(np.ceil(np.log(iterations + 1) / (1 - discount)))
    mdp = Enumerable(states=1, actions=1, horizon=horizon, discount=discount)
    endless = mdp.endless(np.zeros(1))
    assert 0 < (endless - mdp.objective(np.zeros(1))) / endless < 1 / iterations


def test_a_long_horizon_reaches_the_endless_task():
    mdp = Enumerable(horizon=2000)
    theta = policies(mdp)
    assert np.abs(mdp.objective(theta) - mdp.endless(theta)).max() < 1e-12


@pytest.mark.parametrize(
    "settings", [{"states": 0}, {"actions": 0}, {"horizon": 0}, {"discount": 1.1}, {"concentration": 0.0}]
)
def test_a_setting_without_meaning_is_refused(settings):
    with pytest.raises(ValueError, match="states, actions and a horizon of 1 or more"):
        gym.make("rlsuite/Enumerable-v0", **settings)


def test_too_many_trajectories_are_refused():
    with pytest.raises(ValueError, match="too many; choose a smaller horizon"):
        Enumerable(horizon=8).trajectories()
