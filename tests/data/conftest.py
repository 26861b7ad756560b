"""Small datasets with known contents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlsuite.data.recording import Header, Recording, Space, env_spec


@pytest.fixture(autouse=True)
def minari_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has Minari's folder to itself."""
    root = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    return root


@pytest.fixture
def recording() -> Recording:
    """Hopper-shaped random numbers in Gymnasium's dtypes: 4 episodes of 5, 1, 7 and 3 rows.

    They end terminated, truncated, with both flags, and with neither.
    """
    rng = np.random.default_rng(0)
    lengths = [5, 1, 7, 3]
    starts = np.array([0, 5, 6, 13])
    observations, next_observations = [], []
    for length in lengths:
        chain = rng.normal(size=(length + 1, 11))
        observations.append(chain[:-1])
        next_observations.append(chain[1:])
    terminations, truncations = np.zeros((2, 16), bool)
    terminations[[4, 12]] = True
    truncations[[5, 12]] = True
    return Recording(
        np.concatenate(observations),
        rng.uniform(-1, 1, (16, 3)).astype(np.float32),
        rng.normal(size=16),
        np.concatenate(next_observations),
        terminations,
        truncations,
        starts,
        "sample",
        Header(
            Space(np.full(11, -np.inf), np.full(11, np.inf), "float64"),
            Space(-np.ones(3), np.ones(3), "float32"),
            env_spec("Hopper-v5"),
            {"description": "random numbers"},
        ),
    )
