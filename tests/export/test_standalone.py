"""What an exported file reads from a dataset is what the package reads."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch

from rlsuite import data
from rlsuite.data.dataset import ARRAYS
from rlsuite.data.formats import write_d4rl, write_minari, write_npz
from rlsuite.data.recording import Header, Recording, Space
from rlsuite.errors import UserError
from rlsuite.export import linear, standalone
from rlsuite.export.neighbours import Best
from rlsuite.export.neighbours import NearestNeighbours as Search
from rlsuite.harness import environments
from rlsuite.harness.evaluation import evaluate
from rlsuite.harness.seeding import Streams, evaluation_seeds
from rlsuite.kernels import linear as kernels
from rlsuite.kernels.neighbours import NearestNeighbours
from tests.export.test_export import write_pendulum


def assert_same(name: str, steps: int | None = None) -> None:
    ours, theirs = data.load(name, steps), standalone.load(name, steps)
    for key in ARRAYS:
        a, b = getattr(ours, key), getattr(theirs, key)
        assert a.dtype == b.dtype and torch.equal(a, b), key
    assert (ours.env_id or "") == theirs.env_id


@pytest.fixture
def columns(tmp_path) -> dict[str, np.ndarray]:
    """Random columns: episodes end by a terminal state, by a time limit, by both and by the end of the recording."""
    rng = np.random.default_rng(0)
    n = 2500
    terminals, timeouts = np.zeros((2, n), bool)
    terminals[[100, 700, 701, 1300]] = True
    timeouts[[50, 400, 701, 2000]] = True
    observations = rng.standard_normal((n, 3))
    successors = np.roll(observations, -1, 0)
    successors[terminals | timeouts] += 1
    return {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (n, 2)),
        "rewards": rng.standard_normal(n),
        "terminals": terminals,
        "timeouts": timeouts,
        "next_observations": successors,
    }


@pytest.mark.parametrize("without", [(), ("timeouts",), ("next_observations",), ("timeouts", "next_observations")])
@pytest.mark.parametrize("suffix", ["npz", "hdf5"])
def test_columns_with_and_without_their_successors(columns, without, suffix, tmp_path):
    path = tmp_path / f"data.{suffix}"
    kept = {key: array for key, array in columns.items() if key not in without}
    if suffix == "npz":
        np.savez(path, **kept)
    else:
        with h5py.File(path, "w") as file:
            file["metadata/algorithm"] = "unknown"
            for key, array in kept.items():
                file[key] = array.astype(np.uint8) if array.dtype == bool else array
    for steps in (None, 60, 701, 702, 1000):
        assert_same(str(path), steps)
    assert_same(f"{path}#0,2")


def test_files_that_the_package_wrote(tmp_path):
    dataset = data.load(str(write_pendulum(tmp_path / "plain.npz")))
    dataset = dataset.__class__(**{**vars(dataset), "env_id": "Pendulum-v1"})
    for path, write in ((tmp_path / "data.npz", write_npz), (tmp_path / "data.hdf5", write_d4rl)):
        write(dataset, path)
        for steps in (None, 100, 150):
            assert_same(str(path), steps)
        assert_same(f"{path}#1,4")
        assert standalone.load(str(path)).env_id == "Pendulum-v1"


def test_minari_datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    dataset = data.load(str(write_pendulum(tmp_path / "plain.npz")))
    write_minari(dataset.__class__(**{**vars(dataset), "env_id": "Pendulum-v1"}), "mine/pendulum-v0")
    for name in ("mine/pendulum-v0", str(tmp_path / "mine" / "pendulum-v0")):
        for steps in (None, 100, 150):
            assert_same(name, steps)
        assert_same(f"{name}#1,4")


def test_a_minari_dataset_with_observations_in_a_dict(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    box = gym.spaces.Box(-1, 1, (2, 2), np.float64)
    import minari

    layout = minari.serialization.serialize_space(gym.spaces.Dict({"b": box, "a": gym.spaces.Box(-1, 1, (3,))}))
    rng = np.random.default_rng(0)
    observations = rng.uniform(-1, 1, (21, 7)).astype(np.float32).astype(np.float64)
    space = Space.from_json(layout, "observations", "here")
    recording = Recording(
        observations[:-1],
        rng.uniform(-1, 1, (20, 1)).astype(np.float32),
        rng.standard_normal(20),
        observations[1:],
        np.zeros(20, bool),
        np.arange(20) == 19,
        np.array([0]),
        "mine",
        Header(space, Space(-np.ones(1), np.ones(1), "float32")),
    )
    write_minari(recording, "mine/dicts-v0")
    assert_same("mine/dicts-v0")


def test_too_few_rows_and_missing_columns_are_one_sentence(columns, tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, **columns)
    with pytest.raises(UserError, match="2500 transitions"):
        standalone.load(str(path), 2501)
    del columns["rewards"]
    np.savez(path, **columns)
    with pytest.raises(UserError, match="lacks rewards"):
        standalone.load(str(path))


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_copies_of_an_environment_are_the_packages(env_id):
    """Observations, rewards, flags and statistics over many episodes."""

    def play(cls) -> list:
        streams: dict[str, np.random.Generator] = {}
        envs = cls(env_id, 3, lambda name: streams.setdefault(name, np.random.default_rng(int(name[4:]))))
        rng = np.random.default_rng(0)
        envs.begin()
        seen = [envs.observations]
        for _ in range(450):
            continuous = isinstance(envs.action_space, gym.spaces.Box)
            actions = rng.uniform(-2, 2, (3, 1)).astype(np.float32) if continuous else rng.integers(2, size=3)
            seen += [*envs.step(actions), envs.observations]
        return [*seen, *envs.statistics().values()]

    ours, theirs = play(environments.Environments), play(standalone.Environments)
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "1e6", 1_000_000),
        (int, "20", 20),
        (float, "3e-4", 3e-4),
        (tuple[int, ...], "64,64", (64, 64)),
        (tuple[int, ...], "none", ()),
        (tuple[int, ...], [64, 64], (64, 64)),
        (int | None, "none", None),
        (int | None, "3", 3),
        (str, "x", "x"),
        (bool, True, True),
    ],
)
def test_flags_and_presets_are_read_as_the_package_reads_them(kind, text, value):
    assert standalone.parse(kind, text) == value


def test_the_module_costs_no_command_its_time():
    """It is read, not imported, where somebody only asks for help."""
    code = "import sys, rlsuite.export.cli; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize(("noise", "beta"), [(0.0, 1.0), (0.1, 1.0), (3.0, 1.0), (0.3, 0.0)])
def test_neighbours_are_the_packages(k, noise, beta):
    """Rows and distances, bit for bit, with ties: a third of the pairs stand twice, and beta = 0 makes more."""
    rng = np.random.default_rng(k)
    observations = torch.from_numpy(rng.standard_normal((2000, 5), np.float32))
    actions = torch.from_numpy(rng.uniform(-1, 1, (2000, 2)).astype(np.float32).round(decimals=1))
    observations[1000:1700], actions[1000:1700] = observations[:700], actions[:700]
    package, own = NearestNeighbours(observations, actions, beta, k=k), Search(observations, actions, beta, k)
    for _ in range(5):
        rows = torch.from_numpy(rng.integers(2000, size=64))
        wanted = actions[rows] + noise * torch.from_numpy(rng.standard_normal((64, 2), np.float32))
        expected = package.query(rows, wanted)
        assert all(map(torch.equal, own.query(rows, wanted), expected))
        queries = torch.cat([own.keys[rows, :-2], wanted], 1)  # what an accelerator does
        best = Best(own.keys, rows, queries, k)
        best.offer(*own.scan_all(queries))
        assert np.array_equal(best.index, expected[0])


def test_neighbours_refuse_what_cannot_be_searched():
    for keys, k in ((torch.ones(3, 1), 4), (torch.full((3, 1), torch.nan), 1)):
        with pytest.raises(UserError, match="out of range"):
            Search(keys, keys, 1.0, k)


@pytest.mark.parametrize("own", [standalone.evaluate, standalone.evaluate_each])
@pytest.mark.parametrize("stochastic", [False, True])
def test_evaluation_is_the_packages(stochastic, own):
    """Returns, lengths and flags of more episodes than are played at a time."""

    def act(observations: np.ndarray, uniforms: np.ndarray | float = 0.5) -> np.ndarray:
        return (observations[:, 2] + 0.3 * (uniforms - 0.5) > 0).astype(np.int64)

    seeds = evaluation_seeds("CartPole-v1", "final", 20)
    assert standalone.evaluation_seeds("CartPole-v1", "final", 20) == seeds
    ours, theirs = (f(act, "CartPole-v1", seeds, stochastic=stochastic) for f in (evaluate, own))
    assert [vars(episode) for episode in ours] == [vars(episode) for episode in theirs]


@pytest.mark.parametrize("works", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_networks_are_the_packages(works, layer_norm, monkeypatch):
    """Outputs and gradients, bit for bit, with torch's products and with oneDNN's, for wide and narrow layers."""
    if works and not linear.onednn_works():
        pytest.skip("no processor for oneDNN")
    monkeypatch.setattr(linear, "onednn_works", lambda: works)
    monkeypatch.setattr(kernels, "backend", lambda: "onednn" if works else "torch")
    rng = np.random.default_rng(0)
    for sizes in ((5, 128, 64, 3), (70, 32, 96, 1)):
        parameters = list(kernels.MLP(sizes, rng, layer_norm).parameters())
        x = torch.from_numpy(rng.standard_normal((32, sizes[0]), np.float32)).requires_grad_()
        for frozen in (False, True):
            found = []
            for mlp in (kernels.mlp, linear.mlp):
                output = mlp(x, parameters, frozen, layer_norm)
                wanted = [x] if frozen else [x, *parameters]
                with torch.no_grad():
                    found.append([output, mlp(x, parameters, frozen, layer_norm)])
                found[-1] += torch.autograd.grad(output.square().sum(), wanted)
            assert all(map(torch.equal, *found))


def test_streams_are_the_packages():
    run, streams = standalone.Run(standalone.Settings(seed=7)), Streams(7)
    for name in ("init", "batches", "init"):
        assert run.rng(name).random() == streams(name).random()


def test_spaces_that_no_method_fits_are_told():
    class Odd(gym.Env):
        observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.MultiDiscrete([2, 3])

    gym.register("Odd-v0", Odd)
    with pytest.raises(UserError, match="Odd-v0 has actions MultiDiscrete"):
        standalone.Environments("Odd-v0", 1, Streams(0))
