"""Reference returns and normalised scores."""

from __future__ import annotations

import numpy as np
import pytest

from rlsuite.data import scores


def test_d4rl_constants_for_d4rl_data() -> None:
    """D4RL: 100 * (1000 + 20.272305) / (3234.3 + 20.272305) for hopper."""
    for name in ("d4rl/hopper-medium-v2", "hopper_medium-v2.hdf5", "hopper-medium-expert-v0"):
        score = scores.normalized_score(np.array([1000.0]), "Hopper-v4", name)
        assert score is not None
        assert score[0] == pytest.approx(31.348890, abs=1e-6)
    found = scores.reference("HalfCheetah-v4", "d4rl/halfcheetah-random-v2")
    assert found is not None
    assert (found.label, found.random, found.expert) == ("D4RL v2", -280.178953, 12135.0)


def test_references_belong_to_an_environment_and_its_version() -> None:
    own = scores.reference("Hopper-v5", "rlsuite/hopper/medium-v0")
    assert own is not None
    assert own.label == "rlsuite Hopper-v5"
    assert own.random < 25 < 3000 < own.expert
    assert scores.reference("Hopper-v5", "d4rl/hopper-medium-v2") == own
    assert scores.reference("Hopper-v4", "rlsuite/hopper/medium-v0") is None
    assert scores.reference("Hopper-v4") is None
    assert scores.reference("CartPole-v1", "some.npz") is None
    assert scores.reference(None) is None
    assert scores.normalized_score(np.ones(3), "CartPole-v1") is None


def test_scores_are_affine_per_episode() -> None:
    """A spread scales by the range and is not shifted."""
    found = scores.reference("Hopper-v5")
    assert found is not None
    returns = np.array([[100.0, 900.0], [2500.0, 40.0]])
    score = found.score(returns)
    assert score.shape == returns.shape
    assert score.std() == pytest.approx(100 * returns.std() / (found.expert - found.random))
    assert found.score(np.array([found.random, found.expert])) == pytest.approx([0.0, 100.0])


def test_every_row_has_its_provenance() -> None:
    rows = scores.references()
    assert len({(row.scope, row.key) for row in rows}) == len(rows)
    for row in rows:
        assert row.random < row.expert
        assert row.random_source and row.expert_source
