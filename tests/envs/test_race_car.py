"""Car racing: its models and its track, what is paid, many cars beside single ones, and that it can be learnt."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.environments import GymnasiumSlots, make_slots
from rlsuite.harness.files import read_lines
from rlsuite.harness.run import execute
from rlsuite_envs import race_car
from rlsuite_envs.race_car import RaceCar, RaceCars, advance, dynamic, kinematic, runge_kutta
from rlsuite_envs.race_track import CURVATURE, LEFT, LENGTH, RIGHT, along, centre_line, on_track, position

IDS = ("rlsuite/RaceCar-v0", "rlsuite/RaceCarModular-v0")
ONE = np.ones(1)


def driver(observations, target):
    """Follow the middle between the edges at up to `target` m/s, slower in bends: (n, 5) -> (n, 2)."""
    s, d, mu, v_x, _ = observations.T.astype(np.float64)
    bend = along(s + 0.1 + 0.1 * v_x, CURVATURE)
    middle = (along(s + 0.1, LEFT) + along(s + 0.1, RIGHT)) / 2
    speed = np.minimum(target, np.sqrt(2.5 / np.maximum(abs(bend), 0.1)))
    actions = [2 * (speed - v_x) + 0.3, np.clip(0.062 * bend - 1.2 * mu - 3 * (d - middle), -0.4, 0.4)]
    return np.clip(np.stack(actions, 1), -1, 1).astype(np.float32)


@pytest.mark.filterwarnings("ignore:.*A Box observation space m:UserWarning")
@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_checker_passes(name):
    check_env(gym.make(name, render_mode="rgb_array").unwrapped)


def test_a_car_at_rest_stays_and_does_not_roll_back():
    """Rolling resistance is a constant force in these models; unchecked, it would push the car backwards."""
    cars = RaceCars(3)
    cars.reset(range(3), range(3))
    start = cars.state.copy()
    for drive in (0.0, -1.0, 0.15):
        cars.step(range(3), np.tile(np.float32([drive, 0.0]), (3, 1)))
        assert np.array_equal(cars.state, start)


def test_a_full_brake_slows_down_to_a_crawl_and_never_reverses():
    for v in np.linspace(0.02, 4.0, 60):
        state = np.array([[1.0], [0.0], [0.0], [v], [0.0], [0.0]])
        for _ in range(60):
            state = advance(state, np.array([[-1.0, 0.0]]))
            assert 0 <= state[3, 0] <= v
        assert state[3, 0] <= 0.1


def test_the_steady_speed_at_full_throttle():
    """Cm1 - Cm2 v - Cr0 - Cr2 v^2 = 0 at v = 4.199, the number of the specification."""
    root = max(np.roots([0.000348, 0.054527, 0.051891 - 0.287]))
    assert root == pytest.approx(4.199, abs=5e-4)
    state = np.zeros((6, 1))
    for _ in range(400):
        state = advance(state, np.array([[1.0, 0.0]]))
    assert state[3, 0] == pytest.approx(root, abs=1e-5) and state[4, 0] == state[5, 0] == 0


@pytest.mark.parametrize("v", [0.05, 0.4, 3.0])
def test_both_models_progress_alike_on_the_centre_line(v):
    for s in (0.3, 9.2, 20.0):
        fast = dynamic(np.array([[s], [0], [0], [v], [0], [0]], np.float64), 0.5 * ONE, 0 * ONE)
        slow = kinematic(np.array([[s], [0], [0], [v]], np.float64), 0.5 * ONE, 0 * ONE)
        assert fast[0, 0] == slow[0, 0] == v
        assert fast[1, 0] == slow[1, 0] == 0
        assert fast[2, 0] == slow[2, 0] == -along(np.array(s), CURVATURE) * v
        assert fast[3, 0] == pytest.approx(slow[3, 0])


def test_the_dynamic_model_at_a_state_worked_out_by_hand():
    """s' = (2 cos .1 - .1 sin .1) / (1 - 1.9 * .1), and so on; an own calculation from the formulas, at s = 0."""
    state = np.array([[0.0], [0.1], [0.1], [2.0], [0.1], [3.0]])
    found = dynamic(state, 0.5 * ONE, 0.1 * ONE)[:, 0]
    progress = (2 * np.cos(0.1) - 0.1 * np.sin(0.1)) / 0.81
    front = 0.2016 * np.sin(1.2 * np.arctan(2.579 * (0.1 - np.arctan(0.187 / 2.00001))))
    rear = 0.20844 * np.sin(1.2691 * np.arctan(3.3852 / 1.2 * np.arctan(-0.001 / 2.00001)))
    push = 0.287 * 0.5 - 0.054527 * 2 * 0.5 - 0.000348 * 4 - 0.051891
    expected = [
        progress,
        2 * np.sin(0.1) + 0.1 * np.cos(0.1),
        3 - 1.9 * progress,
        (push - front * np.sin(0.1) + 0.041 * 0.1 * 3) / 0.041,
        (rear + front * np.cos(0.1) - 0.041 * 2 * 3) / 0.041,
        (front * 0.029 * np.cos(0.1) - rear * 0.033) / 27.8e-6,
    ]
    assert found == pytest.approx(expected, rel=1e-12)


def test_between_the_models_states_are_mixed_by_speed(monkeypatch):
    """At 0.3 m/s and below all is kinematic, at 0.5 all dynamic, at 0.35 a quarter of it."""

    def after(v):
        return advance(np.array([[0.0], [0.05], [0.1], [v], [0.01], [0.2]]), np.array([[0.5, 0.3]]))

    speeds = (0.2, 0.3, 0.35, 0.5, 0.6)
    mixed = [after(v) for v in speeds]
    monkeypatch.setattr(race_car, "SLOW", 1.0)
    monkeypatch.setattr(race_car, "FAST", 2.0)
    slow = [after(v) for v in speeds]
    monkeypatch.setattr(race_car, "SLOW", 0.01)
    monkeypatch.setattr(race_car, "FAST", 0.02)
    fast = [after(v) for v in speeds]
    assert all(abs(one[5] / other[5] - 1) > 0.05 for one, other in zip(slow, fast, strict=True))
    for state, one, other, share in zip(mixed, slow, fast, (0, 0, 0.25, 1, 1), strict=True):
        assert state == pytest.approx(share * other + (1 - share) * one, rel=1e-12)


def test_a_step_is_one_of_the_classical_runge_kutta_method():
    """Of y' = -k y it makes the beginning of the exponential series, up to the fourth power of h = 0.03 k."""
    h = np.array([[0.5, 1.0, 1.5]])
    found = runge_kutta(lambda y: -h / 0.03 * y, np.ones((1, 3)))
    assert found == pytest.approx(1 - h + h**2 / 2 - h**3 / 6 + h**4 / 24, rel=1e-12)


def test_the_track_is_periodic_and_interpolated():
    s = np.linspace(0, LENGTH, 1000, endpoint=False)
    for table in (CURVATURE, LEFT, RIGHT):
        assert len(table) == 84
        assert along(s + LENGTH, table) == pytest.approx(along(s, table), abs=1e-11)
        assert along(s - 2 * LENGTH, table) == pytest.approx(along(s, table), abs=1e-11)
    assert along(np.array([0.2, 0.3, 16.4, LENGTH]), CURVATURE) == pytest.approx([1.53, 1.105, 4.19, 1.90])
    state = np.array([[3.0], [0.05], [0.1], [1.5], [0.1], [0.5]])
    lap = np.array([[LENGTH], [0], [0], [0], [0], [0]])
    assert advance(state + lap, ONE[None] * [0.4, 0.1]) - lap == pytest.approx(advance(state, ONE[None] * [0.4, 0.1]))


def test_off_the_track_from_the_edges_on():
    s = np.full(4, 0.2)
    assert on_track(s, np.array([0.2599, 0.26, -0.0999, -0.10])).tolist() == [True, False, True, False]


def test_no_place_of_the_track_is_passed_without_end():
    """Where the inner edge lies beyond the centre of curvature, a step is at most five times as long as the car's."""
    s, share = np.meshgrid(np.linspace(0, LENGTH, 800), np.linspace(0.001, 0.999, 30))
    s, share = s.ravel(), share.ravel()
    d = along(s, RIGHT) + share * (along(s, LEFT) - along(s, RIGHT))
    assert (1 - along(s, CURVATURE) * d).min() < 0
    rest = np.zeros_like(s)
    speeds = dynamic(np.stack([s, d, rest, rest + 2.0, rest, rest]), rest, rest)[0]
    assert speeds.min() > 0 and speeds.max() <= 10


@pytest.mark.parametrize("name", IDS)
def test_what_a_lap_is_paid(name):
    env = gym.make(name)
    observation, info = env.reset(seed=0)
    assert info == {"F": 0.0, "additive": 0.0, "initial_gain": 0.0}
    total, places = 0.0, []
    while True:
        observation, reward, terminated, truncated, info = env.step(driver(observation[None], 2.0)[0])
        total += reward
        places.append(info["F"])
        if terminated or truncated:
            break
    assert terminated and not truncated and info["F"] >= 16.4 and places[-2] < 16.4
    paid = places[-1] if name == IDS[0] else sum(places)
    assert total == pytest.approx(paid - 0.01 * len(places) + 1)
    assert np.float32(info["F"]) == observation[0]


def test_leaving_the_track_costs_one_and_ends():
    env = gym.make(IDS[0])
    env.reset(seed=0)
    before = 0.0
    while True:
        _, reward, terminated, _, info = env.step(np.float32([1, 0]))
        if terminated:
            break
        before = info["F"]
    assert reward == pytest.approx(info["F"] - before - 0.01 - 1) and info["F"] < 5


def test_starts_are_on_either_side_and_a_seed_repeats_them():
    env = gym.make(IDS[0])
    starts = [env.reset(seed=seed)[0] for seed in range(20)]
    assert {float(start[1]) for start in starts} == {float(np.float32(0.1)), float(np.float32(-0.1))}
    assert all(not start[[0, 2, 3, 4]].any() for start in starts)
    assert np.array_equal(RaceCars(20).reset(range(20), range(20)), starts)


@pytest.mark.parametrize("name", IDS)
def test_every_step_of_many_cars_is_that_of_single_ones(name):
    """Bit for bit, at all speeds; cars begin anew when they end, or in the midst of a lap, and some wait."""
    n, rng = 7, np.random.default_rng(0)
    batch, single = make_slots(name, n), GymnasiumSlots(name, n)
    assert isinstance(batch, RaceCars) and batch.limit == 700
    assert batch.observation_space == single.observation_space and batch.action_space == single.action_space
    now = np.zeros((n, 5), np.float32)

    def begin(slots):
        seeds = rng.integers(1 << 32, size=len(slots)).tolist()
        now[slots] = batch.reset(slots, seeds)
        assert np.array_equal(now[slots], single.reset(slots, seeds))

    begin(list(range(n)))
    terminated = truncated = 0
    speeds = np.linspace(0.05, 3.0, n)
    for _ in range(900):
        playing = np.flatnonzero(rng.random(n) < 0.95)
        actions = driver(now, speeds) + rng.normal(0, 0.2, (n, 2)).astype(np.float32) * (speeds > 0.5)[:, None]
        found, expected = batch.step(playing, actions), single.step(playing.tolist(), actions)
        for ours, theirs in zip(found[:4], expected[:4], strict=True):
            assert np.array_equal(ours, theirs)
        for k in playing:
            assert np.array_equal(batch.state[:, k], single.envs[k].unwrapped.cars.state[:, 0])
        now[playing] = found[0]
        over = playing[found[2] | found[3]]
        terminated, truncated = terminated + found[2].sum(), truncated + (found[3] & ~found[2]).sum()
        if len(over):
            begin(over.tolist())
    assert terminated > 5 and truncated > 0


def test_an_unknown_reward_is_a_sentence():
    with pytest.raises(ValueError, match="one of gain, additive, not 'distance'"):
        RaceCar("distance")


def test_the_picture_shows_the_track_the_path_and_the_car():
    env = gym.make(IDS[0], render_mode="rgb_array").unwrapped
    observation, _ = env.reset(seed=0)
    first = env.render()
    assert first.shape == (280, 300, 3) and first.dtype == np.uint8
    red = (first == (200, 50, 40)).all(-1)
    assert 20 < red.sum() < 80
    for _ in range(100):
        observation = env.step(driver(observation[None], 2.0)[0])[0]
    later = env.render()
    assert (later == (70, 110, 190)).all(-1).sum() > 30
    assert not (red & (later == (200, 50, 40)).all(-1)).any()
    assert ((first == 225).all(-1)).mean() > 0.2


def test_the_drawn_lap_closes_as_the_docstring_says():
    """The curvature has 83 samples a lap, so the end misses the beginning."""
    _, x, y, heading = centre_line()[:, -1]
    assert np.hypot(x, y) == pytest.approx(0.264, abs=5e-4)
    assert np.degrees(heading) - 360 == pytest.approx(5.33, abs=5e-3)
    left, right = position(np.array([2.0]), np.array([0.1])), position(np.array([2.0]), np.array([-0.1]))
    assert np.hypot(left[0] - right[0], left[1] - right[1]) == pytest.approx(0.2)


@pytest.mark.slow
def test_ppo_learns_to_drive_a_lap(tmp_path):
    """A lap is 14 or more, that of `driver` 13.4, standing still -7; late evaluations can be off the track again."""
    given = {"env": IDS[0], "total_steps": 307_200, "n_envs": 16, "eval_every": 25_000}
    assert execute(resolve(load_algorithm("ppo"), given), tmp_path / "run") == 0
    assert max(row["return"] for row in read_lines(tmp_path / "run" / "evaluations.jsonl")) > 13
