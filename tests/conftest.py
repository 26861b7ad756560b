"""What several test modules need: one torch thread, a private dataset folder, small datasets, the command line."""

# ruff: noqa: E402
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # read when the libraries are loaded, so before the imports below

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


def write_line_world(path: Path, rows: int = 400, seed: int = 0) -> Path:
    """An npz dataset of LineWorld: random steps, episodes of ten rows, cut by truncation or by the goal."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 30, rows // 10)
    columns: dict[str, list] = {
        k: [] for k in ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    }
    for start in x:
        position = start
        for step in range(10):
            action = rng.uniform(-1, 1)
            following = float(np.clip(position + action, 0, 30))
            reached = following >= 30
            for key, value in zip(
                columns,
                ([position], [action], float(reached), [following], reached, step == 9 and not reached),
                strict=True,
            ):
                columns[key].append(value)
            position = following
            if reached:
                break
    arrays = {k: np.array(v, bool if k.endswith("ations") and k[0] == "t" else np.float32) for k, v in columns.items()}
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def line_world(tmp_path_factory) -> Path:
    """Path of a small npz dataset of LineWorld (pass env="rlsuite/LineWorld-v0")."""
    return write_line_world(tmp_path_factory.mktemp("data") / "line_world.npz")


@pytest.fixture
def rlsuite():
    """Run the command line in a process of its own; returns the completed process with text output."""

    def call(*arguments: object, timeout: float = 120, **kwargs) -> subprocess.CompletedProcess:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **kwargs.pop("env", {})}
        return subprocess.run(
            [sys.executable, "-m", "rlsuite", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            **kwargs,
        )

    return call
