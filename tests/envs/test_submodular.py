"""The submodular grids against F computed from scratch, golden paths, properties of F, and their batched twin.

Golden numbers without another origin are arithmetic on the formulas in the docstrings.
"""

from __future__ import annotations

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding
from gymnasium.utils.env_checker import check_env

import rlsuite_envs  # noqa: F401
from rlsuite_envs.oracles import beam, greedy
from rlsuite_envs.set_functions import Coverage, DOptimalDesign, ItemCollection
from rlsuite_envs.submodular import PIXELS, SubmodularGrid
from rlsuite_envs.submodular_tasks import CAPS, COPIES, matern

STAY, RIGHT, DOWN, LEFT, UP = range(5)
TASKS = [
    ("Coverage", {}),
    ("Coverage", {"weights": "linear", "disc": "large", "horizon": 60}),
    ("Bimodal", {"stochasticity": 0.4}),
    ("TwoRooms", {}),
    ("TwoRooms", {"disc": "large", "stochasticity": 1.0}),
    ("GP3", {}),
    ("Items1", {"stochasticity": 0.1}),
    ("DDesign2", {}),
    ("DDesign9", {"noise_variance": 1e-3, "stochasticity": 0.2}),
]
all_tasks = pytest.mark.parametrize(("name", "settings"), TASKS)


def make(name: str, **settings) -> SubmodularGrid:
    settings = {"initial_reward": False, **settings}
    return gym.make(f"rlsuite/{name}-v0", disable_env_checker=True, **settings).unwrapped


def play(env: SubmodularGrid, actions) -> tuple[dict, float]:
    """The last info, and the additive reward of all visits, the start's included."""
    _, info = env.reset(seed=0)
    additive = info["additive"]
    for action in actions:
        *_, info = env.step(action)
        additive += info["additive"]
    return info, additive


def covered(env: SubmodularGrid, cell: int, side: int) -> set[tuple[int, int]]:
    row, column = divmod(cell, env.columns)
    block = itertools.product(range(row, row + side), range(column, column + side))
    return {(i, j) for i, j in block if i < env.rows and j < env.columns and not env.walls[i, j]}


def from_scratch(env: SubmodularGrid, name: str, settings: dict, path: list[int]) -> float:
    """F of a path by its definition, with Python's sets and NumPy's determinant."""
    if name.startswith("Items"):
        kinds = env.field.ravel()[sorted(set(path))]
        return float(sum(min(int((kinds == k).sum()), cap) for k, cap in enumerate((3, 2, 3, 4, 6, 3))))
    if name.startswith("DDesign"):
        noise = settings.get("noise_variance", 1e-6)
        K = env.function._covariance[np.ix_(path, path)]
        return 0.5 * np.linalg.slogdet(np.eye(len(path)) + K / noise)[1]
    side = 3 if settings.get("disc") == "large" else 2
    return math.fsum(env.field[cell] for cell in set().union(*(covered(env, cell, side) for cell in path)))


def moved(env: SubmodularGrid, cell: int, action: int) -> int:
    row, column = divmod(cell, env.columns)
    row += (action == DOWN) - (action == UP)
    column += (action == RIGHT) - (action == LEFT)
    inside = 0 <= row < env.rows and 0 <= column < env.columns
    return row * env.columns + column if inside and not env.walls[row, column] else cell


@all_tasks
def test_gains_add_up_to_f_from_scratch(name, settings):
    env, n, rng = make(name, **settings), 100, np.random.default_rng(1)
    batch = env.batch(n)
    paths, F = [batch.reset()], batch.initial_gain.copy()
    for _ in range(env.horizon - 1):
        actions = rng.integers(5, size=n)
        cells, gains, additive = batch.step(actions, rng.random(n))
        if not env.stochasticity:
            assert cells.tolist() == [
                moved(env, *pair) for pair in zip(paths[-1].tolist(), actions.tolist(), strict=True)
            ]
        assert np.array_equal(additive, env.function.additive[cells])
        paths.append(cells)
        F += gains
        if len(paths) % 13 == 0 or len(paths) == env.horizon:
            expected = [from_scratch(env, name, settings, path) for path in np.stack(paths, 1).tolist()]
            assert np.allclose(F, expected, rtol=1e-10, atol=1e-9)


@all_tasks
def test_a_batch_is_many_single_environments(name, settings):
    """Bit for bit, with the same actions and uniforms; also the observations say what happened."""
    env, n, rng = make(name, **settings), 7, np.random.default_rng(2)
    batch, single = env.batch(n), [make(name, **settings) for _ in range(n)]
    for _ in range(2):  # nothing of an episode is left in the next one
        paths = [batch.reset()]
        draws = [seeding.np_random(seed)[0] for seed in range(n)]
        for k in range(n):
            observation, info = single[k].reset(seed=k)
            assert info == {
                "F": batch.initial_gain[k],
                "additive": env.function.additive[env.start],
                "initial_gain": batch.initial_gain[k],
            }
            assert observation["cell"] == env.start and observation["t"] == 0
        F = batch.initial_gain.copy()
        for t in range(1, env.horizon):
            actions = rng.integers(5, size=n)
            uniforms = np.array([draw.random() for draw in draws])
            cells, gains, additive = batch.step(actions, uniforms)
            paths.append(cells)
            F += gains
            for k in range(n):
                observation, reward, terminated, truncated, info = single[k].step(actions[k])
                assert (reward, info["F"], info["additive"]) == (gains[k], F[k], additive[k])
                assert not terminated and truncated == (t == env.horizon - 1)
                path = np.stack(paths, 1)[k]
                assert observation["cell"] == cells[k] and observation["t"] == t
                assert observation["path"].tolist() == path.tolist() + [-1] * (env.horizon - t - 1)
                assert np.flatnonzero(observation["visited"]).tolist() == sorted(set(path.tolist()))


@all_tasks
def test_f_is_monotone_and_submodular(name, settings):
    """0 <= F(Y + v) - F(Y) <= F(X + v) - F(X) for X within Y."""
    env, n, rng = make(name, **settings), 500, np.random.default_rng(3)
    free = np.flatnonzero(~env.walls)
    function = env.batch(1).function
    for small, more in ((0, 1), (1, 5), (5, 20), (30, 30)):
        X, rest, v = (rng.choice(free, (length, n)) for length in (small, more, 1))
        gains = []
        for others in (X, np.concatenate([X, rest])):
            function.reset(n)
            for cells in others:
                function.gain(cells)
            gains.append(function.gain(v[0]))
        assert (gains[1] >= -1e-9).all() and (gains[1] <= gains[0] + 1e-9).all()
        assert (gains[1] < gains[0] - 1e-9).any()  # and not additive


@all_tasks
def test_chosen_sequences_go_on_as_if_they_were_played_alone(name, settings):
    env, rng = make(name, **settings), np.random.default_rng(4)
    cells = rng.choice(np.flatnonzero(~env.walls), (21, 6))
    rows = np.array([4, 0, 4, 2, 5, 1, 1, 1])
    one, other = env.batch(1).function, env.batch(1).function
    one.reset(6)
    for states in cells[:9]:
        one.gain(states)
    one.select(rows)
    other.reset(8)
    for states in cells[:9, rows]:
        other.gain(states)
    for states in cells[9:]:
        assert np.array_equal(one.gain(states[rows]), other.gain(states[rows]))


def test_golden_paths_of_coverage():
    env = make("Coverage")
    info, additive = play(env, [RIGHT] * 10)
    assert (info["F"], info["initial_gain"], additive) == (24.0, 4.0, 44.0)
    info, _ = play(env, [RIGHT] * 10 + [LEFT] * 10)
    assert info["F"] == 24.0
    assert (env.rows, env.columns, env.horizon, env.start) == (30, 30, 80, 34)


def test_golden_paths_of_two_rooms():
    env = make("TwoRooms")
    info, additive = play(env, [LEFT] * 6)
    assert (info["F"], additive) == (16.0, 28.0)
    info, _ = play(env, [LEFT] * 6 + [UP] * 2)
    assert info["F"] == 20.0


def test_the_rooms_and_their_walls():
    env = make("TwoRooms")
    rows = ["....######....", "....######....", "..............", "..............", *["....######...."] * 3]
    assert env.walls.tolist() == [[character == "#" for character in row] for row in rows]
    assert (~env.walls).sum() == 68 and divmod(env.start, 14) == (2, 6)
    assert covered(env, 3 * 14 + 9, 2) == {(3, 9), (3, 10), (4, 10)} and covered(env, 3, 2) == {(0, 3), (1, 3)}
    assert env.function.additive[[3 * 14 + 9, 3, 0, 97]].tolist() == [3.0, 2.0, 4.0, 1.0]
    corner = 1 * 14 + 3  # of the left room: a wall to the right and none below
    assert env.next_cell[corner].tolist() == [corner, corner, 2 * 14 + 3, 1 * 14 + 2, 3]


def test_weights():
    bimodal = make("Bimodal").field
    assert [bimodal[0, 0], bimodal[29, 29]] == pytest.approx([0.731059] * 2, abs=5e-7)
    assert [bimodal[0, 29], bimodal[29, 0]] == pytest.approx([0.268941] * 2, abs=5e-7)
    assert make("Coverage", weights="linear").field.ravel().tolist() == list(range(900))
    assert (make("Coverage").field == 1).all()
    assert np.array_equal(make("Coverage", weights="gp", instance=4).field, make("GP4").field)


def test_the_large_disc_is_paid_by_multiplicity_but_covers_once():
    """1, 2, 1 / 2, 4, 2 / 1, 2, 1, as the authors' code adds them up."""
    env = make("Coverage", disc="large")
    info, additive = play(env, [])
    assert (info["F"], additive) == (9.0, 16.0)
    assert env.function.additive[[899, 898, 29]].tolist() == [1.0, 3.0, 4.0]


def test_what_is_not_free_is_never_covered():
    function = Coverage(np.arange(1.0, 7.0), 2, 3, free=np.array([1, 1, 1, 1, 0, 1], bool))
    assert function.additive.tolist() == [1 + 2 + 4, 2 + 3 + 6, 3 + 6, 4, 6, 6]
    function.reset(1)
    assert [function.gain(np.array([cell])).item() for cell in (3, 0, 1)] == [4, 3, 9]


MATERN = [  # noise variance, path, F in nats
    (1e-6, [34], 6.724500),
    (1e-6, [34, 35], 11.394264),
    (1e-6, list(range(34, 45)), 39.851561),
    (1e-6, [34] * 11, 7.923447),
    (1e-3, list(range(34, 45)), 12.036180),
    (1e-3, [34] * 11, 4.469634),
]


@pytest.mark.parametrize(("noise", "path", "expected"), MATERN)
def test_golden_designs_of_the_prior(noise, path, expected):
    points = 1.0 + 0.1 * np.stack(np.divmod(np.arange(900), 30), -1)
    function = DOptimalDesign(matern(points, points), noise)
    function.reset(1)
    value = sum(function.gain(np.array([cell])).item() for cell in path)
    assert value == pytest.approx(expected, abs=5e-7)
    if len(set(path)) == 1:
        assert value == pytest.approx(0.5 * math.log1p(len(path) * math.log(2) / noise), abs=1e-8)
        assert function.additive[34] == pytest.approx(0.5 * math.log1p(math.log(2) / noise), abs=1e-12)


def test_rounding_makes_no_gain_negative():
    """Of a noise near the last bit of the variances."""
    function = DOptimalDesign(matern(np.zeros((1, 2)), np.zeros((1, 2))), 1e-16)
    function.reset(1)
    gains = [function.gain(np.array([0])).item() for _ in range(20)]
    assert np.isfinite(gains).all() and min(gains) >= 0.0


def test_items():
    env = make("Items0")
    kinds = env.field.ravel().astype(int)
    assert [int((kinds == k).sum()) for k in range(-1, 6)] == [105 - sum(COPIES), *COPIES]
    function = env.batch(1).function
    function.reset(1)
    once = [function.gain(np.array([cell])).item() for cell in range(105)]
    again = [function.gain(np.array([cell])).item() for cell in range(105)]
    assert sum(once) == 21 and sum(again) == 0
    for k, cap in enumerate(CAPS):
        assert [once[cell] for cell in np.flatnonzero(kinds == k)] == [1.0] * cap + [0.0] * (COPIES[k] - cap)
    assert np.array_equal(env.function.additive, kinds >= 0)
    item = int(np.flatnonzero(kinds >= 0)[0])
    twice = make("Items0", start=item)
    info, additive = play(twice, [STAY])
    assert (info["F"], additive) == (1.0, 2.0)


INSTANCES = {  # of weights, kinds of items and prior variances, some cells
    ("GP", 0): [3.533187, 3.509087, 3.323658, 2.33053],
    ("GP", 7): [2.84259, 2.326205, 1.65164, 2.45242],
    ("GP", 9): [1.621001, 1.947416, 2.748424, 3.520321],
    ("Items", 0): [4.0, 1.0, 1.0, 3.0],
    ("Items", 7): [3.0, 5.0, -1.0, 4.0],
    ("Items", 9): [-1.0, 1.0, 5.0, 0.0],
    ("DDesign", 0): [0.512273, 0.623534, 0.686974, 0.691888],
    ("DDesign", 7): [0.693147, 0.693147, 0.693147, 0.693131],
    ("DDesign", 9): [0.693035, 0.692752, 0.693134, 0.693091],
}


def test_the_instances_stay_what_they_are():
    """Printed by the first version of these tasks; results were made with them."""
    for (family, instance), expected in INSTANCES.items():
        field = make(f"{family}{instance}").field.ravel()
        cells = [0, 34, len(field) // 2, len(field) - 1]
        assert field[cells].tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("family", ["GP", "Items", "DDesign"])
def test_no_two_instances_are_the_same(family):
    fields = [make(f"{family}{instance}").field for instance in range(10)]
    assert len({field.tobytes() for field in fields}) == 10
    assert family != "GP" or all((field >= 0).all() and 1.0 < field.mean() < 4.0 for field in fields)


def test_stochasticity_executes_another_action_and_leaves_the_chosen_one():
    """Of 100,000 steps, by four standard deviations; the array of the chosen actions is not written to."""
    n = 100_000
    env = SubmodularGrid(3, 3, 2, Coverage(np.ones(9), 3, 3), start=4, stochasticity=0.3)
    batch, actions = env.batch(n), np.full(n, LEFT)
    actions.flags.writeable = False
    batch.reset()
    cells, _, _ = batch.step(actions, np.random.default_rng(5).random(n))
    for action, share in enumerate([0.06, 0.06, 0.06, 0.76, 0.06]):
        assert (cells == env.next_cell[4, action]).mean() == pytest.approx(share, abs=4 * math.sqrt(0.25 / n))
    batch.reset()
    extremes = np.array([0.0, np.nextafter(0.3, 0), 0.3, np.nextafter(1, 0)])
    few = env.batch(4)
    few.reset()
    assert few.step(actions[:4], extremes)[0].tolist() == [4, 1, 3, 3]


@pytest.mark.filterwarnings("error")
@all_tasks
def test_gymnasium_finds_nothing_wrong(name, settings):
    check_env(make(name, **settings, render_mode="rgb_array"))


def test_an_episode_ends_once_and_begins_anew():
    env = make("TwoRooms")
    with pytest.raises(ValueError, match="reset first"):
        env.step(STAY)
    play(env, [LEFT] * 39)
    with pytest.raises(ValueError, match="a path has 40 cells, and no step after that"):
        env.step(STAY)
    info, _ = play(env, [LEFT] * 6)
    assert info["F"] == 16.0


@all_tasks
def test_the_specification_makes_the_same_environment(name, settings):
    spec = gym.make(f"rlsuite/{name}-v0", **settings).spec
    again = gym.make(EnvSpec.from_json(spec.to_json()), disable_env_checker=True).unwrapped
    actions = np.random.default_rng(7).integers(5, size=again.horizon - 1)
    assert play(again, actions) == play(make(name, **settings), actions) and again.initial_reward


@all_tasks
def test_the_return_under_a_registered_id_is_f(name, settings):
    env, rng = gym.make(f"rlsuite/{name}-v0", **settings), np.random.default_rng(6)
    for seed in range(3):
        env.reset(seed=seed)
        total, truncated = 0.0, False
        while not truncated:
            _, reward, _, truncated, info = env.step(rng.integers(5))
            total += reward
        assert total == pytest.approx(info["F"], abs=1e-9)


class Distinct:
    """A user's own: the number of different cells, in the plainest Python, with the two members that are needed."""

    additive = np.ones(6)

    def reset(self, batch):
        self.seen = [set() for _ in range(batch)]

    def gain(self, states):
        gains = []
        for seen, state in zip(self.seen, states.tolist(), strict=True):
            gains.append(state not in seen)
            seen.add(state)
        return gains


def test_a_set_function_of_the_users_own():
    env = SubmodularGrid(2, 3, horizon=6, function=Distinct(), start=0)
    check_env(env, skip_render_check=True)
    info, additive = play(env, [RIGHT, RIGHT, LEFT, DOWN, DOWN])
    assert info == {"F": 4.0, "additive": 1.0, "initial_gain": 1.0} and additive == 6.0
    batch = env.batch(2)
    batch.reset()
    env.reset()
    steps = [batch.step(np.array(pair)) for pair in ([1, 0], [1, 2], [3, 0], [2, 4], [2, 1])]
    assert [gains.tolist() for _, gains, _ in steps] == [[1, 0], [1, 1], [0, 0], [1, 0], [0, 1]]
    assert env.step(RIGHT)[1] == 1.0  # batch and environment have each their own
    with pytest.raises(ValueError, match="give the set function a method `select"):
        greedy(env)


def test_a_set_function_that_gives_no_gains_is_told_so():
    class Wrong(Distinct):
        def gain(self, states):
            return [math.nan] * len(states)

    with pytest.raises(ValueError, match="return an array of 3 finite numbers"):
        SubmodularGrid(2, 3, 6, Wrong(), start=0).batch(3).reset()


def small(seed: int) -> SubmodularGrid:
    weights = np.random.default_rng(seed).random(12)
    walls = np.zeros((3, 4), bool)
    walls[1, 1] = True
    return SubmodularGrid(3, 4, 6, Coverage(weights, 3, 4, free=~walls), start=0, walls=walls)


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_is_the_best_of_all_paths_and_greedy_the_best_of_each_step(seed):
    env = small(seed)
    batch = env.batch(5**5)
    every = np.array(list(itertools.product(range(5), repeat=5)))
    batch.reset()
    best = (batch.initial_gain + sum(batch.step(actions)[1] for actions in every.T)).max()
    _, _, reached = beam(env, 5**5)
    assert reached == pytest.approx(best, abs=1e-12)
    path = greedy(env)
    batch = env.batch(5)
    for t in range(5):
        batch.reset()
        for action in path.actions[:t]:
            batch.step(np.full(5, action))
        _, gains, _ = batch.step(np.arange(5))
        assert gains[path.actions[t]] == pytest.approx(gains.max(), abs=1e-12)


ORACLES = [  # task, width, F at least
    ("TwoRooms", 10_000, 68.0),  # all there is
    ("Coverage", 1, 162.0),  # 4 and 2 a step: all there can be
    ("Bimodal", 1, 46.7),  # 46.7 to 50.1, by the ties
    ("Bimodal", 100, 51.3),
    *[(f"Items{instance}", 1000, 21.0) for instance in range(10)],  # all caps
]


@pytest.mark.parametrize(("name", "width", "expected"), ORACLES)
def test_oracles(name, width, expected):
    env = make(name)
    path = beam(env, width)
    assert expected <= path.F <= expected * 1.03
    assert len(path.cells) == env.horizon and len(path.actions) == env.horizon - 1
    info, _ = play(env, path.actions)
    assert info["F"] == pytest.approx(path.F, abs=1e-9)
    assert path.cells[0] == env.start
    assert path.cells[1:].tolist() == env.next_cell[path.cells[:-1], path.actions].tolist()


def test_the_oracles_refuse_what_they_cannot_plan():
    with pytest.raises(ValueError, match="stochasticity=0"):
        greedy(make("TwoRooms", stochasticity=0.1))
    with pytest.raises(ValueError, match="a width of 1 or more, not 0"):
        beam(make("TwoRooms"), 0)


def test_a_picture_shows_walls_path_and_end():
    env = make("TwoRooms", render_mode="rgb_array")
    play(env, [LEFT, LEFT])
    picture = env.render()
    assert picture.shape == (7 * PIXELS, 14 * PIXELS, 3) and picture.dtype == np.uint8
    centres = picture[PIXELS // 2 :: PIXELS, PIXELS // 2 :: PIXELS].astype(int)
    assert (centres[env.walls] == 0).all()
    red, green, blue = centres[2, 4]
    assert red > 2 * max(green, blue)
    for column in (5, 6):
        red, green, blue = centres[2, column]
        assert blue > 2 * red
    assert len(set(map(tuple, centres[3]))) == 1  # where the path was not, the field is
    assert make("TwoRooms").render() is None


def grid(**changed) -> SubmodularGrid:
    settings = {"rows": 2, "columns": 3, "horizon": 4, "function": Distinct(), "start": 0}
    return SubmodularGrid(**{**settings, **changed})


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: grid(horizon=1), "a horizon of 2 or more"),
        (lambda: grid(rows=0), "rows and columns of 1 or more"),
        (lambda: grid(stochasticity=1.5), r"stochasticity in \[0, 1\]"),
        (lambda: grid(start=6), "the start, cell 6, is no free cell"),
        (lambda: grid(walls=np.ones((2, 3), bool)), "the start, cell 0, is no free cell"),
        (lambda: grid(walls=np.ones((3, 2), bool)), "walls of a grid of 2 x 3 have that shape, not"),
        (lambda: grid(columns=4), r"additive` has the shape \(6,\); a grid of 2 x 4 needs \(8,\)"),
        (lambda: grid(render_mode="human"), "choose 'rgb_array'"),
        (lambda: grid().batch(0), "1 path or more, not 0"),
        (lambda: make("Coverage", weights="gorilla"), "constant, linear, bimodal, gp, not 'gorilla'"),
        (lambda: make("Coverage", disc="huge"), "'small' or 'large', not 'huge'"),
        (lambda: Coverage(-np.ones(6), 2, 3), "2 x 3 weights of 0 or more"),
        (lambda: Coverage(np.ones(5), 2, 3), "2 x 3 weights of 0 or more"),
        (lambda: ItemCollection(np.array([0, 2]), np.array([1, 1])), "kinds 0 to 1, or -1 for none"),
        (lambda: DOptimalDesign(np.ones((2, 3)), 1.0), r"a symmetric covariance \(N, N\)"),
        (lambda: make("DDesign0", noise_variance=0.0), "a noise variance above 0"),
    ],
)
def test_a_setting_without_meaning_is_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong()


def test_an_action_that_is_none_and_a_step_without_uniforms_are_refused():
    env = make("TwoRooms", stochasticity=0.5)
    env.reset(seed=0)
    for action in (-1, 5):
        with pytest.raises(ValueError, match=f"from 0 to 4, not {action}"):
            env.step(action)
    batch = env.batch(2)
    batch.reset()
    with pytest.raises(ValueError, match="a step needs uniforms, one for each path"):
        batch.step(np.zeros(2, int))
