"""The memory of a run: its data a little more than once, and 200 MiB."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROWS, OBSERVATIONS, ACTIONS = 1_000_000, 17, 6
MEASURE = """
import sys
from pathlib import Path
import gymnasium, h5py, minari, tensorboard, torch
from rlsuite import data
from rlsuite.data import registry
from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.environments import make_env
from rlsuite.harness.run import execute


def kilobytes(of):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(of))


algorithm, dataset, directory = sys.argv[1:]
given = {"dataset": dataset, "env": "HalfCheetah-v5", "updates": 3, "eval_every": 0, "final_episodes": 1}
setup = resolve(load_algorithm(algorithm), given)
make_env("HalfCheetah-v5").close()
imported = kilobytes("VmRSS")
assert execute(setup, Path(directory)) == 0
print(1024 * (kilobytes("VmHWM") - imported))  # ru_maxrss would count the process that started this one
"""


@pytest.fixture(scope="module")
def halfcheetah(tmp_path_factory) -> Path:
    """A million transitions in episodes of a thousand; the name gives the presets."""
    rng = np.random.default_rng(0)
    last = np.arange(ROWS) % 1000 == 999
    observations = rng.standard_normal((ROWS, OBSERVATIONS), np.float32)
    path = tmp_path_factory.mktemp("data") / "halfcheetah.npz"
    np.savez(
        path,
        observations=observations,
        actions=rng.uniform(-1, 1, (ROWS, ACTIONS)).astype(np.float32),
        rewards=rng.standard_normal(ROWS, np.float32),
        next_observations=np.where(last[:, None], observations, np.roll(observations, -1, 0)),
        terminations=np.zeros(ROWS, bool),
        truncations=last,
    )
    return path


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("algorithm", ["bc", "td3_bc", "iql", "odice", "odice_il"])
def test_a_run_holds_its_data_a_little_more_than_once(algorithm, halfcheetah, tmp_path):
    """In a process of its own, beyond what it has imported; scaling and standardising copy what they change."""
    dataset = ROWS * (4 * (2 * OBSERVATIONS + ACTIONS + 1) + 2)
    peak = subprocess.run(
        [sys.executable, "-c", MEASURE, algorithm, str(halfcheetah), str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).stdout
    assert dataset < int(peak) < 1.2 * dataset + 200 * 2**20
