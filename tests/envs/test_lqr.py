import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import rlsuite_envs  # noqa: F401
from rlsuite_envs.lqr import LQR

SETTINGS = [{}, {"horizon": 5, "dt": 1.0, "noise": 0.0}, {"horizon": 1}]
all_settings = pytest.mark.parametrize("settings", SETTINGS)
GAIN, LOG_STD = np.array([[-0.7, -1.2]]), np.array([-0.5])


@pytest.mark.filterwarnings("ignore:.*Box (action|observation) space m.* value is -?infinity")
@pytest.mark.filterwarnings("ignore:.*we recommend using a symmetric and normalized space")
@pytest.mark.filterwarnings("error")
def test_gymnasiums_checker_passes_but_for_the_missing_bounds():
    check_env(gym.make("rlsuite/LQR-v0").unwrapped)


def test_an_episode_is_the_system_its_seed_and_a_time_limit():
    env = gym.make("rlsuite/LQR-v0", disable_env_checker=True, noise=0.0)
    first, _ = env.reset(seed=3)
    x = env.unwrapped.x.copy()
    assert np.array_equal(env.reset(seed=3)[0], first) and not np.array_equal(env.reset(seed=4)[0], first)
    env.reset(seed=3)
    for step, force in enumerate(np.linspace(-50, 50, 20, dtype=np.float32).tolist()):
        observation, reward, terminated, truncated, _ = env.step(np.array([force], np.float32))
        assert reward == pytest.approx(-(x @ x + force**2), rel=1e-12)
        x = np.array([x[0] + 0.2 * x[1], x[1] + 0.2 * force])
        assert observation.dtype == np.float32 and observation == pytest.approx(x, rel=1e-5)
        assert (terminated, truncated) == (False, step == 19)


def test_episodes_have_the_objective_of_their_policy():
    env, rng = gym.make("rlsuite/LQR-v0", disable_env_checker=True), np.random.default_rng(1)
    returns = np.zeros(4000)
    for episode in range(len(returns)):
        observation, _ = env.reset(seed=episode)
        truncated = False
        while not truncated:
            action = GAIN @ observation + np.exp(LOG_STD) * rng.standard_normal(1)
            observation, reward, _, truncated, _ = env.step(action)
            returns[episode] += reward
    known = env.unwrapped.objective(GAIN, LOG_STD)
    assert returns.mean() == pytest.approx(known, abs=4 * returns.std() / np.sqrt(len(returns)))


@all_settings
def test_the_gradient_is_that_of_the_objective(settings):
    lqr, rng, step = LQR(**settings), np.random.default_rng(0), 1e-5
    gain, log_std = GAIN + 0.3 * rng.normal(size=(4, 1, 2)), LOG_STD + rng.normal(size=(4, 1))
    of_gain, of_log_std = lqr.gradient(gain, log_std)
    for entry, direction in enumerate(np.eye(2)[:, None]):
        change = lqr.objective(gain + step * direction, log_std) - lqr.objective(gain - step * direction, log_std)
        assert change / (2 * step) == pytest.approx(of_gain[:, 0, entry], rel=1e-7, abs=1e-8)
    change = lqr.objective(gain, log_std + step) - lqr.objective(gain, log_std - step)
    assert change / (2 * step) == pytest.approx(of_log_std[:, 0], rel=1e-7, abs=1e-8)
    for row in range(4):
        assert lqr.objective(gain[row], log_std[row]) == pytest.approx(lqr.objective(gain, log_std)[row], rel=1e-14)


@all_settings
def test_the_best_controller_has_the_return_of_riccati_and_no_neighbour_is_better(settings):
    lqr, rng = LQR(**settings), np.random.default_rng(0)

    def returns(gains: np.ndarray) -> float:
        covariance, total = np.eye(2), 0.0
        for gain in gains:
            total -= np.trace((np.eye(2) + gain.T @ gain) @ covariance)
            closed = lqr.A + lqr.B @ gain
            covariance = closed @ covariance @ closed.T + lqr.noise**2 * np.eye(2)
        return total

    best, gains = lqr.best()
    assert gains.shape == (lqr.horizon, 1, 2)
    assert returns(gains) == pytest.approx(best, rel=1e-12)
    for _ in range(50):
        assert returns(gains + 1e-2 * rng.normal(size=gains.shape)) < best


@all_settings
def test_the_best_stationary_policy_is_a_maximum_below_the_best_controller(settings):
    lqr, rng = LQR(**settings), np.random.default_rng(0)
    for log_std in (np.array([-20.0]), LOG_STD, np.array([0.5])):
        best, gain = lqr.best_stationary(log_std)
        assert best <= lqr.best()[0] + 1e-12
        assert np.abs(lqr.gradient(gain, log_std)[0]).max() < 1e-10 * abs(best)
        assert (lqr.objective(gain + 0.1 * rng.normal(size=(200, 1, 2)), log_std) <= best).all()


def test_the_documented_returns():
    lqr, certain = LQR(), np.array([-30.0])
    assert lqr.best()[0] == pytest.approx(-22.73, abs=0.005)
    assert lqr.objective(np.zeros((1, 2)), certain) == pytest.approx(-146.9, abs=0.05)
    assert lqr.best_stationary(certain)[0] == pytest.approx(-23.10, abs=0.005)


@pytest.mark.parametrize("settings", [{"horizon": 0}, {"dt": 0.0}, {"noise": -0.1}])
def test_a_setting_without_meaning_is_refused(settings):
    with pytest.raises(ValueError, match="a horizon of 1 or more, a positive time step"):
        gym.make("rlsuite/LQR-v0", **settings)
