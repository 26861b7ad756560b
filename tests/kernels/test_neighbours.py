"""The search against double-precision brute force; T1, T2, T4, T5 and T14 are tests of the PRDC specification."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rlsuite.errors import UserError
from rlsuite.kernels.neighbours import NearestNeighbours

EXACT = ("cells", "brute")


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float32))


def toy(kind: str, rows: int = 5000, states: int = 17, actions: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Observations and actions: "random"; "trajectories" (slow walks); "copies" (many equal rows); "outliers"."""
    rng = np.random.default_rng(seed)
    observations = rng.standard_normal((rows, states))
    taken = np.tanh(rng.standard_normal((rows, actions)))
    if kind == "trajectories":
        observations = np.cumsum(observations.reshape(-1, 100, states), 1).reshape(rows, states) / 10
    if kind == "copies":
        few = rng.integers(0, rows // 50, rows)
        observations, taken = np.round(observations[few]), np.round(taken[few])
    if kind == "outliers":
        observations[::97] *= 300
    return tensor(observations), tensor(taken)


def queries(actions: Tensor, size: int = 1024, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Rows and actions of the four regimes: near the data, mid, another row's, saturated."""
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.integers(0, len(actions), size))
    own, noise = actions[rows], tensor(rng.standard_normal((size, actions.shape[1])))
    asked = torch.cat([own + 0.1 * noise, own + 0.4 * noise, own[torch.randperm(size)], noise.sign()])
    return rows, asked[torch.arange(size) + size * (torch.arange(size) % 4)].clamp(-1, 1)


def truth(
    observations: Tensor, actions: Tensor, beta: float, rows: Tensor, asked: Tensor, k: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and distances by definition, in double precision: ties to the own row, then to the lowest."""
    keys = torch.cat([beta * observations, actions], 1).numpy().astype(np.float64)
    points = torch.cat([beta * observations[rows], asked], 1).numpy().astype(np.float64)
    index, distance = np.empty((len(rows), k), np.int64), np.empty((len(rows), k))
    for b, (row, point) in enumerate(zip(rows.tolist(), points, strict=True)):
        squared = sum(((keys - point) ** 2).T)
        index[b] = np.lexsort((np.arange(len(keys)), np.arange(len(keys)) != row, squared))[:k]
        distance[b] = np.sqrt(squared[index[b]])
    return index, distance


@pytest.mark.parametrize("beta", [0.0, 2.0])
@pytest.mark.parametrize("kind", ["random", "trajectories", "copies", "outliers"])
def test_exact_backends_equal_double_precision_brute_force(kind: str, beta: float) -> None:  # T1
    observations, actions = toy(kind)
    rows, asked = queries(actions)
    index, distance = truth(observations, actions, beta, rows, asked)
    for backend in EXACT:
        search = NearestNeighbours(observations, actions, beta, backend=backend)
        for _ in range(4):  # the certificate learns at the third visit
            found, measured = search.query(rows, asked)
            np.testing.assert_array_equal(found.numpy(), index)
            np.testing.assert_allclose(measured.numpy(), distance, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 3, 10, 2047, 2050])
@pytest.mark.parametrize("backend", EXACT)
def test_small_datasets_and_one_query_at_a_time(rows: int, backend: str) -> None:
    observations, actions = toy("random", rows, 3, 2)
    asked_rows, asked = queries(actions, 16)
    k = min(3, rows)
    index, distance = truth(observations, actions, 2.0, asked_rows, asked, k)
    search = NearestNeighbours(observations, actions, 2.0, k, backend)
    found, measured = search.query(asked_rows, asked)
    np.testing.assert_array_equal(found.numpy(), index)
    np.testing.assert_allclose(measured.numpy(), distance, rtol=1e-5)
    for b in range(4):
        alone, alone_distance = search.query(asked_rows[b : b + 1], asked[b : b + 1])
        assert torch.equal(alone[0], found[b])
        assert torch.equal(alone_distance[0], measured[b])


@pytest.mark.parametrize("kind", ["trajectories", "copies"])
def test_k_neighbours_come_sorted_and_the_first_is_that_of_k_1(kind: str) -> None:  # T14
    observations, actions = toy(kind)
    rows, asked = queries(actions, 256)
    index, distance = truth(observations, actions, 1.0, rows, asked, 3)
    for backend in EXACT:
        found, measured = NearestNeighbours(observations, actions, 1.0, 3, backend).query(rows, asked)
        np.testing.assert_array_equal(found.numpy(), index)
        np.testing.assert_allclose(measured.numpy(), distance, rtol=1e-5)
        assert (measured.diff(dim=1) >= 0).all()
        first, _ = NearestNeighbours(observations, actions, 1.0, 1, backend).query(rows, asked)
        assert torch.equal(found[:, :1], first)
        assert not torch.equal(found[:, 2:], first)


def test_own_row_bounds_the_distance() -> None:  # T2
    observations, actions = toy("trajectories")
    rows, asked = queries(actions)
    found, distance = NearestNeighbours(observations, actions, 2.0).query(rows, asked)
    own = (asked.double() - actions[rows]).square().sum(1).sqrt().float()
    assert (distance[:, 0] <= own * (1 + 1e-6)).all()
    is_own = found[:, 0] == rows
    assert 0.1 < is_own.float().mean() < 0.99
    torch.testing.assert_close(distance[is_own, 0], own[is_own])
    assert (distance[~is_own, 0] < own[~is_own]).all()


def test_beta_0_looks_at_actions_only() -> None:  # T4
    observations, actions = toy("random")
    rows, asked = queries(actions)
    found, _ = NearestNeighbours(observations, actions, 0.0).query(rows, asked)
    other, _ = NearestNeighbours(observations[torch.randperm(len(observations))], actions, 0.0).query(rows, asked)
    assert torch.equal(actions[found[:, 0]], actions[other[:, 0]])


def test_larger_beta_keeps_to_the_own_row() -> None:  # T5
    observations, actions = toy("random", 2000, 5, 3)
    rows, asked = queries(actions)
    own, moved = [], []
    for beta in (0.0, 1.0, 2.0, 10.0, 100.0):
        found = NearestNeighbours(observations, actions, beta).query(rows, asked)[0][:, 0]
        own.append(float((found == rows).float().mean()))
        moved.append(float((asked - actions[found]).norm(dim=1).mean()))
    assert own == sorted(own) and moved == sorted(moved)
    assert own[0] < 0.2 and own[-1] == 1.0


def test_certificate_settles_only_rows_that_are_their_own_neighbours() -> None:
    observations, actions = toy("trajectories")
    rows, asked = queries(actions)
    search = NearestNeighbours(observations, actions, 2.0)
    for _ in range(3):
        search.query(rows, asked)
    assert 0.2 < search.certified < 1.0
    certificate = search._certificate
    states = 2.0 * observations.double()
    gaps = torch.cdist(states[rows], states, compute_mode="donot_use_mm_for_euclid_dist")
    gaps[torch.arange(len(rows)), rows] = torch.inf
    proven = torch.from_numpy(certificate.proven[rows.numpy()])
    assert (proven <= gaps.amin(1)).all()
    own = (asked.double() - actions[rows]).square().sum(1).sqrt()
    sure, _ = certificate.check(rows.numpy(), own.numpy())
    index, _ = truth(observations, actions, 2.0, rows, asked)
    assert sure.mean() == pytest.approx(search.certified)
    np.testing.assert_array_equal(index[sure, 0], rows.numpy()[sure])


def test_most_keys_are_never_touched() -> None:
    observations, actions = toy("trajectories", 20_000)
    rows, asked = queries(actions)
    search = NearestNeighbours(observations, actions, 2.0)
    search.query(rows, asked)
    assert search.scanned < 0.25


@pytest.mark.parametrize("backend", ["cells", "approximate"])
def test_answers_depend_neither_on_history_nor_on_company(backend: str) -> None:
    observations, actions = toy("trajectories")
    rows, asked = queries(actions)
    used = NearestNeighbours(observations, actions, 2.0, backend=backend, probes=2)
    for seed in range(4):
        used.query(*queries(actions, seed=seed))
    for _ in range(3):
        used.query(rows, asked)
    fresh = NearestNeighbours(observations, actions, 2.0, backend=backend, probes=2)
    whole = used.query(rows, asked)
    parts = [fresh.query(rows[i : i + 100], asked[i : i + 100]) for i in range(0, len(rows), 100)]
    assert torch.equal(whole[0], torch.cat([part[0] for part in parts]))
    assert torch.equal(whole[1], torch.cat([part[1] for part in parts]))


def test_approximate_recall_is_measured() -> None:
    observations, actions = toy("random", 20_000, 6, 4)
    rows, asked = queries(actions)
    exact = NearestNeighbours(observations, actions, 2.0).query(rows, asked)[1]
    recalls = []
    for probes in (1, 8, 64):
        search = NearestNeighbours(observations, actions, 2.0, backend="approximate", probes=probes)
        found = search.query(rows, asked)[1]
        assert (found >= exact).all()
        recalls.append(search.recall(rows, asked))
        assert recalls[-1] == pytest.approx(float((found == exact).float().mean()))
    assert recalls == sorted(recalls)
    assert recalls[0] < 1.0 and recalls[1] > 0.8 and recalls[2] > 0.97


def test_actions_that_are_not_finite_do_not_crash() -> None:
    observations, actions = toy("random", 500, 3, 2)
    rows, asked = queries(actions, 8)
    index, _ = truth(observations, actions, 2.0, rows, asked)
    asked[3], asked[5] = torch.nan, torch.inf
    for backend in EXACT:
        found, distance = NearestNeighbours(observations, actions, 2.0, backend=backend).query(rows, asked)
        assert not distance[[3, 5]].isfinite().any()
        fine = [0, 1, 2, 4, 6, 7]
        np.testing.assert_array_equal(found[fine].numpy(), index[fine])


def test_auto_is_exact_and_takes_gradients_off() -> None:
    observations, actions = toy("random", 500, 3, 2)
    search = NearestNeighbours(observations, actions, 2.0)
    assert search.backend == "cells"
    rows, asked = queries(actions, 8)
    _, distance = search.query(rows, asked.requires_grad_())
    assert not distance.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 11}, "11 nearest neighbours out of 10"),
        ({"k": 0}, "0 nearest neighbours"),
        ({"backend": "brut"}, "did you mean 'brute'"),
        ({"beta": -1.0}, "beta"),
        ({"beta": float("nan")}, "beta"),
        ({"probes": 0}, "probes"),
        ({"actions": torch.zeros(9, 2)}, "(9, 2)"),
        ({"observations": torch.zeros(10)}, "(10,)"),
        ({"observations": torch.full((10, 3), torch.nan)}, "finite"),
    ],
)
def test_bad_input_is_one_sentence(change: dict[str, object], message: str) -> None:
    arguments = {"observations": torch.zeros(10, 3), "actions": torch.zeros(10, 2), "beta": 2.0} | change
    with pytest.raises(UserError) as error:
        NearestNeighbours(**arguments)  # type: ignore[arg-type]
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("rows", "asked"), [(torch.zeros(4, 1).long(), torch.zeros(4, 2)), (torch.zeros(4).long(), torch.zeros(4, 3))]
)
def test_bad_queries_are_one_sentence(rows: Tensor, asked: Tensor) -> None:
    search = NearestNeighbours(torch.zeros(10, 3), torch.zeros(10, 2), 2.0)
    with pytest.raises(UserError, match="a query needs rows"):
        search.query(rows, asked)


@pytest.mark.parametrize("backend", ["cells", "approximate"])
def test_threads_change_nothing(backend: str) -> None:
    observations, actions = toy("trajectories")
    rows, asked = queries(actions)
    before, answers = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            search = NearestNeighbours(observations, actions, 2.0, backend=backend, probes=2)
            answers.append(search.query(rows, asked))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))
