"""Each defect is injected into a sound dataset and must be named with its row."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlsuite import data
from rlsuite.data import doctor, formats, minari_store
from rlsuite.data.dataset import Dataset
from rlsuite.data.recording import Recording
from rlsuite.errors import UserError


@pytest.fixture
def sound(recording: Recording) -> Dataset:
    """Episodes of 5, 1, 7 and 3 rows that end in exactly one flag each."""
    truncations = recording.truncations.copy()
    truncations[12], truncations[15] = False, True
    return replace(recording, truncations=truncations).dataset()


def changed(dataset: Dataset, name: str, row: int, value: Any) -> Dataset:
    tensor = getattr(dataset, name).clone()
    tensor[row] = value
    return replace(dataset, **{name: tensor})


def test_sound_data_have_no_findings(sound: Dataset) -> None:
    assert doctor.examine(sound) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        doctor.check(sound)


INJECTIONS: list[tuple[str, Callable[[Dataset], Dataset], str, str, int | None]] = [
    ("error", lambda d: changed(d, "observations", 3, torch.nan), "finite", "observations hold NaN", 3),
    ("error", lambda d: changed(d, "rewards", 8, -torch.inf), "finite", "rewards hold NaN or infinity in row 8", 8),
    ("error", lambda d: changed(d, "actions", 15, torch.nan), "finite", "actions hold NaN", 15),
    ("error", lambda d: changed(d, "next_observations", 15, torch.inf), "finite", "next_observations hold", 15),
    ("error", lambda d: changed(d, "actions", 7, 1.01), "bounds", "actions leave their bounds in row 7", 7),
    ("error", lambda d: replace(d, rewards=d.rewards[:-1]), "shapes", "beside 15 rewards", None),
    ("error", lambda d: replace(d, actions=d.actions.flatten()), "shapes", "actions have shape (48,)", None),
    ("error", lambda d: replace(d, observations=d.observations[:, 1:]), "shapes", "next_observations (16, 11)", None),
    ("error", lambda d: replace(d, rewards=d.rewards.double()), "dtypes", "rewards have dtype torch.float64", None),
    ("error", lambda d: replace(d, terminations=d.terminations.float()), "dtypes", "not torch.bool", None),
    ("error", lambda d: replace(d, truncations=(7 * d.truncations.byte()).view(torch.bool)), "dtypes", "than 0", None),
    ("error", lambda d: replace(d, episode_starts=torch.tensor([0, 6, 5])), "episodes", "do not rise", None),
    ("error", lambda d: replace(d, episode_starts=torch.tensor([1, 5])), "episodes", "do not rise", None),
    ("error", lambda d: replace(d, action_low=-np.ones(2), action_high=np.ones(2)), "bounds", "3 dimensions", None),
    ("defect", lambda d: changed(d, "terminations", 9, True), "flags", "terminations are set in the middle", 9),
    ("defect", lambda d: changed(d, "truncations", 2, True), "flags", "truncations are set in the middle", 2),
    ("defect", lambda d: changed(d, "next_observations", 1, 0.0), "continuity", "after it in row 1.", 1),
    (
        "defect",
        lambda d: replace(d, episode_starts=torch.tensor([0, 6, 13])),
        "continuity",
        "after it in row 4.",
        4,
    ),
    (
        "defect",
        lambda d: d.take_episodes(np.array([0, 1, 2, 3, 1])),
        "duplicates",
        "1 whole episode repeats an earlier one, the first begins at row 16 (like that at row 5)",
        16,
    ),
    ("note", lambda d: d.take_episodes(np.array([0, 1, 1])), "duplicates", "1 transition repeats an earlier one", 6),
    ("note", lambda d: changed(d, "truncations", 4, True), "flags", "both set in row 4", 4),
    ("note", lambda d: changed(d, "truncations", 15, False), "flags", "ends without a flag in row 15", 15),
]


@pytest.mark.parametrize(("severity", "inject", "check", "message", "row"), INJECTIONS)
def test_finds(
    sound: Dataset,
    severity: str,
    inject: Callable[[Dataset], Dataset],
    check: str,
    message: str,
    row: int | None,
) -> None:
    broken = inject(sound)
    findings = doctor.examine(broken)
    found = [f for f in findings if (f.severity, f.check, f.row) == (severity, check, row) and message in f.message]
    assert found, [str(finding) for finding in findings]
    assert found[0].message.endswith(".")
    assert "\n" not in found[0].message
    if severity == "error":
        assert findings[0].severity == "error"
        with pytest.raises(UserError, match="sample cannot be used"):
            doctor.check(broken)


def test_a_load_warns_about_defects(tmp_path: Path, sound: Dataset) -> None:
    formats.write_npz(changed(sound, "terminations", 9, True), tmp_path / "a.npz")
    with pytest.warns(UserWarning, match=r"terminations are set in the middle of an episode in row 9"):
        data.load(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("name", ["a.npz", "a.hdf5"])
def test_a_load_refuses_errors(tmp_path: Path, sound: Dataset, name: str) -> None:
    write = formats.write_npz if name == "a.npz" else formats.write_d4rl
    write(changed(sound, "observations", 3, torch.nan), tmp_path / name)
    with pytest.raises(UserError, match="observations hold NaN or infinity in row 3"):
        data.load(str(tmp_path / name))


def test_values_that_float32_cannot_hold(tmp_path: Path, recording: Recording) -> None:
    rewards = recording.rewards.copy()
    rewards[6] = 1e300
    formats.write_npz(replace(recording, rewards=rewards), tmp_path / "a.npz")
    assert [(f.check, f.row) for f in doctor.examine(tmp_path / "a.npz") if f.severity == "error"] == [("finite", 6)]


def test_a_damaged_file_is_a_finding(tmp_path: Path, sound: Dataset) -> None:
    formats.write_d4rl(sound, tmp_path / "a.hdf5")
    whole = (tmp_path / "a.hdf5").read_bytes()
    (tmp_path / "a.hdf5").write_bytes(whole[:-500])
    findings = doctor.examine(tmp_path / "a.hdf5")
    assert [finding.severity for finding in findings] == ["error"]
    assert "truncated" in findings[0].message


def test_a_path_to_no_dataset_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for name in (tmp_path / "notes.txt", tmp_path / "absent.hdf5"):
        with pytest.raises(UserError):
            doctor.examine(name)


def test_stored_arrays_are_compared_with_their_hash() -> None:
    data.load("rlsuite/hopper/random-v0", steps=300)
    assert [f for f in doctor.examine("rlsuite/hopper/random-v0") if f.severity != "note"] == []
    file = minari_store.root() / "rlsuite/hopper/random-v0/data/metadata.json"
    metadata = json.loads(file.read_text())
    metadata["rlsuite"]["content_hash"] = 64 * "0"
    file.write_text(json.dumps(metadata))
    findings = doctor.examine("rlsuite/hopper/random-v0")
    assert [finding.check for finding in findings] == ["readable"]
    assert "SHA-256 differs" in findings[0].message


def test_the_cheap_part_sees_episodes_without_an_end() -> None:
    size = 20_000
    rng = np.random.default_rng(0)
    chain = torch.from_numpy(rng.normal(size=(size + 1, 17)).astype(np.float32))
    flags = torch.zeros(size, dtype=torch.bool)
    dataset = Dataset(
        chain[:-1].clone(),
        torch.from_numpy(rng.uniform(-1, 1, (size, 6)).astype(np.float32)),
        torch.zeros(size),
        chain[1:].clone(),
        flags,
        flags,
        torch.arange(0, size, 1000),
        action_low=-np.ones(6, np.float32),
        action_high=np.ones(6, np.float32),
    )
    assert [f.check for f in doctor.examine(dataset, thorough=False)] == ["flags"]
