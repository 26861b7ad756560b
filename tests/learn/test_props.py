"""PROPS learns to balance a pole, in a quarter of a minute."""

from __future__ import annotations

import numpy as np

from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.files import read_lines
from rlsuite.harness.run import execute


def test_props_balances_a_pole(tmp_path):
    """Of 500 steps at most; a policy that chooses at random holds it for about 22. Seeds 0 to 3 reach 491 to 500."""
    quick = {"total_steps": 30_000, "rollout_steps": 512, "behavior_steps": 64, "eval_every": 0, "final_episodes": 20}
    assert execute(resolve(load_algorithm("props"), {"env": "CartPole-v1", **quick}), tmp_path / "run") == 0
    returns = [row["return"] for row in read_lines(tmp_path / "run" / "evaluations.jsonl") if row["phase"] == "final"]
    assert len(returns) == 20
    assert np.mean(returns) >= 400
