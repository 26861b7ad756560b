"""Reference returns and normalised scores."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from rlsuite.data import scores
from rlsuite.data.behaviour import reference


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
    assert len({row.label for row in rows if row.scope == "environment"} | {"D4RL v2"}) == 1 + len(
        [row for row in rows if row.scope == "environment"]
    ), "a label names one reference"
    for row in rows:
        assert row.random < row.expert
        assert row.source
        if row.scope == "environment":
            assert row.key in reference.environments()
            assert (row.episodes, row.seed) == (100, 20_000)
            assert row.random_std is not None and row.expert_std is not None
            assert "gymnasium" in row.versions and row.date
            file = reference.determined_by(reference.expert(row.key))
            assert row.expert_sha256 == hashlib.sha256(file.read_bytes()).hexdigest(), f"{row.key}: measure it again"


def test_the_measurement_is_that_of_the_table() -> None:
    """Two episodes of each policy: the expert varies little, and random actions stay far below."""
    row = reference.measure("Hopper-v5", episodes=2)
    stored = scores.reference("Hopper-v5")
    assert stored is not None
    assert float(row["expert"]) == pytest.approx(stored.expert, abs=25)
    assert float(row["random"]) < 150
    assert row["expert_sha256"] == stored.expert_sha256
    assert set(row) == set(scores.COLUMNS)
    assert (row["label"], row["episodes"]) == (stored.label, "2")


def measured(env_id: str, random: float = 1, expert: float = 200) -> reference.Row:
    numbers = {"random": f"{random}", "expert": f"{expert}", "date": "2030-01", "source": "a test"}
    return dict.fromkeys(scores.COLUMNS, "") | {"label": env_id, "scope": "environment", "key": env_id} | numbers


def test_an_update_touches_only_its_rows(tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    shutil.copy(scores.TABLE, table)
    before = table.read_text().splitlines()
    assert reference.update([measured("New-v0")], table) == ["New-v0: random 1, expert 200 (new)"]
    assert table.read_text().splitlines()[:-1] == before
    after = table.read_bytes()
    assert reference.update([measured("New-v0") | {"date": "2031-01"}], table) == [
        "New-v0: random 1, expert 200 (as before)"
    ]
    assert table.read_bytes() == after, "the date alone is no change"
    (sentence,) = reference.update([measured("New-v0", expert=300)], table)
    assert sentence == "New-v0: random 1, expert 300 (CHANGED: expert was 200)"
    assert table.read_text().splitlines()[:-1] == before
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_an_environment_without_an_expert_gets_no_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[reference.Row] = []
    monkeypatch.setattr(reference, "environments", lambda: ["Hopper-v5", "Swimmer-v5"])
    monkeypatch.setattr(reference, "measure", lambda env_id: measured(env_id))
    monkeypatch.setattr(reference, "update", lambda rows: [row["key"] for row in rows if not written.append(row)])
    assert reference.main([]) == 0
    assert [row["key"] for row in written] == ["Hopper-v5"]
    assert "Swimmer-v5: left out, it has no expert yet" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr(reference, "environments", lambda: ["Hopper-v5", "Swimmer-v5"])
    for env_id, why in (("Swimmer-v5", "has no expert yet (swimmer-expert.npz)"), ("Hoper-v5", "did you mean")):
        assert reference.main([env_id]) == 2
        captured = capsys.readouterr()
        assert why in captured.err and not captured.out
