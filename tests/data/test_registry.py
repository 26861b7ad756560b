"""Names and paths that lead to datasets."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import minari
import pytest

from rlsuite import data
from rlsuite.data import formats, minari_store, registry
from rlsuite.data.recording import Recording
from rlsuite.errors import UserError


def test_every_kind_of_name(tmp_path: Path, recording: Recording) -> None:
    formats.write_minari(recording, "test/sample-v0")
    formats.write_d4rl(recording, tmp_path / "a.hdf5")
    formats.write_npz(recording, tmp_path / "a.npz")
    (tmp_path / "d4rl").mkdir()
    formats.write_d4rl(recording, tmp_path / "d4rl/hopper_medium_expert-v2.hdf5")
    names = ["test/sample-v0", str(minari_store.root() / "test/sample-v0"), str(tmp_path / "a.hdf5")]
    names += [str(tmp_path / "a.npz"), "d4rl/hopper-medium-expert-v2"]
    loaded = [data.load(name) for name in names]
    assert len({dataset.content_hash for dataset in loaded}) == 1
    assert all(dataset.env_id == "Hopper-v5" for dataset in loaded)
    assert loaded[4].name == "hopper_medium_expert-v2.hdf5"
    for name in names:
        part = data.load(name, steps=8)
        assert len(part) == 8
        assert part.episode_starts.tolist() == [0, 5, 6]
        assert bool(part.truncations[7])
        with pytest.raises(UserError, match="16 transitions"):
            data.load(name, steps=17)
        assert len(data.load(name, drop_timeouts=True)) == 13


def test_a_recipe_that_was_changed_is_refused_wherever_it_lies(tmp_path: Path) -> None:
    name = "rlsuite/hopper/random-v0"
    content_hash = data.load(name, steps=100).content_hash
    copy = tmp_path / "copy"
    shutil.copytree(minari_store.root() / name, copy)
    assert data.load(str(copy)).content_hash == content_hash
    assert data.load(str(copy), steps=50).content_hash == data.load(name, steps=50).content_hash
    file = copy / "data/main_data.hdf5"
    with h5py.File(file, "r+") as hdf5:
        hdf5["episode_0/rewards"][0] += 1
    for steps in (None, 50):
        with pytest.raises(UserError, match="edited since it was built"):
            data.load(str(copy), steps=steps)
    with pytest.raises(UserError, match="edited since it was built"):
        registry.resolve(str(copy)).recording()
    file.write_bytes(b"not HDF5")
    with pytest.raises(UserError, match="edited since it was built"):
        data.load(str(copy))


def test_unknown_names_get_the_nearest() -> None:
    for name in ("rlsuite/hopper/medum-v0", "rlsuite/hoper/medium-v0"):
        with pytest.raises(UserError, match="did you mean 'rlsuite/hopper/medium-v0'"):
            data.load(name)
    with pytest.raises(UserError, match=r"known: .*rlsuite/hopper/medium-v0, rlsuite/hopper/random-v0"):
        data.load("zzz")


def test_paths_to_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="is no dataset"):
        data.load(str(tmp_path / "notes.txt"))
    with pytest.raises(UserError, match="is no dataset"):
        data.load(str(tmp_path))
    with pytest.raises(UserError, match="there is no file"):
        data.load(str(tmp_path / "absent.hdf5"))
    with pytest.raises(UserError, match=r"hopper_medium-v2\.hdf5"):
        data.load("d4rl/hopper-medium-v2")


def test_without_a_network_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("Network is unreachable\nand more")

    monkeypatch.setattr(registry, "_reach_remote", lambda: None)
    monkeypatch.setattr(minari, "download_dataset", offline)
    with pytest.raises(UserError, match="Network is unreachable") as error:
        data.load("mujoco/hopper/medium-v0")
    assert "\n" not in str(error.value)
    assert "go online" in str(error.value)


def test_a_download_is_used(monkeypatch: pytest.MonkeyPatch, recording: Recording) -> None:
    monkeypatch.setattr(registry, "_reach_remote", lambda: None)
    monkeypatch.setattr(minari, "download_dataset", lambda name, **_: formats.write_minari(recording, name))
    assert len(data.load("mujoco/hopper/medium-v0")) == 16
    assert registry.resolve("mujoco/hopper/medium-v0").kind == "minari"


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, rlsuite.data, rlsuite.data.cli\n"
        "heavy = {'torch', 'h5py', 'gymnasium', 'minari', 'numpy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from rlsuite.data import load, Dataset\n"
        "assert callable(load)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = data.nothing
