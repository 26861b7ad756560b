"""Runs side by side compute what each computes alone, and what torch's own modules do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rlsuite.kernels.stacked import assign, conjugate_gradient, divergence, flat, gather, gru, mlp, uniform


def streams(runs: int) -> list[np.random.Generator]:
    return [np.random.default_rng(k) for k in range(runs)]


def test_a_run_has_the_weights_that_it_has_alone():
    three = uniform(streams(3), 4, 5, 0.3)
    assert three.shape == (3, 4, 5) and three.dtype == torch.float32 and 0.25 < three.abs().max() <= 0.3
    for k, rng in enumerate(streams(3)):
        assert torch.equal(three[k : k + 1], uniform([rng], 4, 5, 0.3))


def test_layers_are_those_of_each_run():
    weights = [uniform(streams(2), rows, columns, 1.0) for rows, columns in ((3, 4), (1, 4), (4, 2), (1, 2))]
    x = uniform(streams(2), 7, 3, 1.0)
    for k, result in enumerate(mlp(x, weights)):
        first, first_bias, second, second_bias = (w[k] for w in weights)
        assert torch.allclose(result, torch.tanh(x[k] @ first + first_bias) @ second + second_bias, atol=1e-6)


def test_a_gathered_row_is_a_product_with_a_one_hot_input():
    tables, rows = (
        uniform(streams(3), 6, 4, 1.0),
        torch.randint(6, (3, 2, 5), generator=torch.Generator().manual_seed(0)),
    )
    dense = nn.functional.one_hot(rows, 6).float() @ tables[:, None]
    assert torch.equal(gather(tables, rows), dense)


def test_a_recurrent_unit_is_torchs():
    """Whose gates stand in the same order, and whose parameters stand transposed."""
    inputs, weight, bias = (uniform(streams(2), *shape, 1.0) for shape in ((5 * 7, 9), (3, 9), (1, 9)))
    x = inputs.view(2, 5, 7, 9)
    states, last = gru(x, None, weight, bias)
    again, _ = gru(x[:, 3:], states[:, 2], weight, bias)
    assert torch.equal(states[:, 3:], again) and torch.equal(states[:, -1], last)
    for k in range(2):
        theirs = nn.GRU(9, 3)
        with torch.no_grad():
            theirs.weight_ih_l0.copy_(torch.eye(9))
            theirs.weight_hh_l0.copy_(weight[k].T)
            theirs.bias_ih_l0.zero_()
            theirs.bias_hh_l0.copy_(bias[k, 0])
            assert torch.allclose(states[k], theirs(x[k])[0], atol=1e-6)


def test_flat_parameters_go_back_to_where_they_came_from():
    parameters = [nn.Parameter(uniform(streams(2), *shape, 1.0)) for shape in ((3, 4), (1, 4))]
    values = flat(parameters).detach()
    assert values.shape == (2, 16) and torch.equal(values[1, 12:], parameters[1][1, 0])
    assign(parameters, 2 * values)
    assert torch.equal(flat(parameters), 2 * values)


def test_conjugate_gradients_solve_the_system_of_each_run():
    rng = np.random.default_rng(0)
    roots = rng.standard_normal((3, 12, 12))
    matrices = torch.from_numpy(roots @ roots.swapaxes(1, 2) + np.eye(12))
    b = torch.from_numpy(rng.standard_normal((3, 12)))
    b[1] = 0.0  # a run with nothing to solve does not disturb the others
    x = conjugate_gradient(lambda v: (matrices @ v[..., None])[..., 0], b, 40, 1e-24)
    assert torch.allclose(x, torch.linalg.solve(matrices, b), rtol=1e-8, atol=1e-12)
    alone = conjugate_gradient(lambda v: (matrices[2:] @ v[..., None])[..., 0], b[2:], 40, 1e-24)
    assert torch.allclose(x[2:], alone, rtol=1e-10)


def test_divergence_is_that_of_distributions():
    old, new = (torch.tensor([[[p]]]).log() for p in ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5]))
    assert divergence(old, new).item() == pytest.approx(0.25 * np.log(2))
