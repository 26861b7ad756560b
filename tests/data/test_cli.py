"""`rlsuite data ...` through its parser and handlers."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import minari
import numpy as np
import pytest

from rlsuite import data
from rlsuite.data import cli, formats, minari_store, registry
from rlsuite.data.dataset import ARRAYS
from rlsuite.data.recording import Recording, env_spec
from rlsuite.errors import UserError

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        cli.add_parser(parser.add_subparsers())
        namespace = parser.parse_args(["data", *arguments])
        capsys.readouterr()
        code: int = namespace.handler(namespace)
        return code, capsys.readouterr().out

    return call


def test_make_show_list(run: Run) -> None:
    code, out = run("list")
    assert code == 0
    assert "rlsuite/hopper/medium-v0" in out
    assert "1,000,000" in out
    code, out = run("show", "rlsuite/hopper/medium-v0")
    assert code == 0
    assert "not on this machine" in out
    code, out = run("make", "rlsuite/hopper/medium-v0", "--steps", "2_000", "--jobs", "1")
    assert code == 0
    content_hash = data.load("rlsuite/hopper/medium-v0", steps=2000, build=False).content_hash
    folder = minari_store.folder("rlsuite/hopper/medium-v0")
    for expected in ("written now", content_hash, str(folder), "2,000"):
        assert expected in out
    code, out = run("make", "rlsuite/hopper/medium-v0", "--steps", "2000")
    assert code == 0
    assert "already there" in out
    assert content_hash in out
    _, out = run("show", "rlsuite/hopper/medium-v0")
    for expected in ("2,000", "Hopper-v5", content_hash, "rlsuite Hopper-v5"):
        assert expected in out
    _, out = run("list")
    assert "2,000" in out
    code, out = run("doctor", "rlsuite/hopper/medium-v0")
    assert code == 0
    assert "is sound" in out


def test_make_says_why_not(run: Run, tmp_path: Path, recording: Recording) -> None:
    with pytest.raises(UserError, match="did you mean"):
        run("make", "rlsuite/hopper/medum-v0")
    formats.write_npz(recording, tmp_path / "a.npz")
    with pytest.raises(UserError, match="nothing to make"):
        run("make", str(tmp_path / "a.npz"))
    with pytest.raises(SystemExit):
        run("make", "rlsuite/hopper/medium-v0", "--steps", "0")


def test_doctor_exit_codes(run: Run, tmp_path: Path, recording: Recording) -> None:
    path = tmp_path / "a.hdf5"
    formats.write_d4rl(recording, path)
    code, out = run("doctor", str(path))
    assert code == 0
    assert "note: an episode ends without a flag in row 15." in out
    rewards = recording.rewards.copy()
    rewards[3] = np.nan
    formats.write_d4rl(replace(recording, rewards=rewards), path)
    code, out = run("doctor", str(path))
    assert code == 1
    assert "error: rewards hold NaN or infinity in row 3." in out
    path.write_bytes(path.read_bytes()[:4000])
    code, out = run("doctor", str(path))
    assert code == 1
    assert "truncated" in out
    with pytest.raises(UserError):
        run("doctor", str(tmp_path / "absent.npz"))


def test_convert_there_and_back(run: Run, tmp_path: Path, recording: Recording) -> None:
    formats.write_minari(recording, "test/sample-v0")
    chain = ["test/sample-v0", str(tmp_path / "a.hdf5"), str(tmp_path / "b.npz"), "test/sample-v1"]
    for source, target in itertools.pairwise(chain):
        assert run("convert", source, target)[0] == 0
    back = minari_store.read_recording("test/sample-v1")
    for name in ARRAYS:
        assert getattr(back, name).tobytes() == getattr(recording, name).tobytes(), name
    for target in chain[1:]:
        with pytest.raises(UserError, match="exists already"):
            run("convert", chain[0], target)
    assert run("convert", chain[0], chain[1], "--steps", "4", "--force")[0] == 0
    assert len(formats.read_d4rl(chain[1])) == 4
    with pytest.raises(UserError, match="is no Minari id"):
        run("convert", chain[0], str(tmp_path / "c.parquet"))
    with pytest.raises(UserError, match="not built"):
        run("convert", "rlsuite/hopper/random-v0", str(tmp_path / "c.npz"))


def test_show_writes_cards(run: Run, tmp_path: Path, recording: Recording) -> None:
    folder = tmp_path / "cards"
    formats.write_npz(recording, tmp_path / "my data.npz")
    with pytest.raises(UserError, match="rlsuite data make rlsuite/hopper/random-v0"):
        run("show", str(tmp_path / "my data.npz"), "rlsuite/hopper/random-v0", "--card", str(folder))
    assert not folder.exists()
    run("make", "rlsuite/hopper/random-v0", "--steps", "500", "--jobs", "1")
    code, out = run("show", str(tmp_path / "my data.npz"), "rlsuite/hopper/random-v0", "--card", str(folder))
    assert code == 0
    assert str(folder / "rlsuite-hopper-random-v0.md") in out
    stems = {"rlsuite-hopper-random-v0", "my data.npz"}
    assert {path.name for path in folder.iterdir()} == {f"{s}{end}" for s in stems for end in (".md", ".png")} | {
        "README.md"
    }
    contents = (folder / "README.md").read_text()
    assert "[my data.npz](my%20data.npz.md)" in contents
    assert "[rlsuite/hopper/random-v0](rlsuite-hopper-random-v0.md) | Hopper-v5 | 500 |" in contents
    before = {path: path.read_bytes() for path in folder.iterdir()}
    run("show", "rlsuite/hopper/random-v0", "--card", str(folder))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "README.md").write_bytes(b"# Notes of mine \xff\n")
    run("show", "rlsuite/hopper/random-v0", "--card", str(folder))
    assert (folder / "README.md").read_bytes() == b"# Notes of mine \xff\n"
    with pytest.raises(UserError, match="could not be written"):
        run("show", "rlsuite/hopper/random-v0", "--card", str(folder / "README.md"))


def test_show_keeps_the_provenance_of_converted_data(run: Run, tmp_path: Path) -> None:
    run("make", "rlsuite/hopper/random-v0", "--steps", "500", "--jobs", "1")
    run("convert", "rlsuite/hopper/random-v0", str(tmp_path / "a.hdf5"))
    code, out = run("show", str(tmp_path / "a.hdf5"), "rlsuite/hopper/medium-v0")
    assert code == 0
    assert "D4RL-layout HDF5" in out
    assert "rlsuite data make rlsuite/hopper/random-v0 --steps 500" in out
    assert "uniform    500 (100.0%)" in out
    assert out.index("episodes by return") < out.index("not on this machine; `rlsuite data make rlsuite/hopper/medium")


def test_show_refuses_what_no_loader_takes(run: Run, tmp_path: Path, recording: Recording) -> None:
    observations = recording.observations.copy()
    observations[3, 2] = np.nan
    formats.write_npz(replace(recording, observations=observations), tmp_path / "a.npz")
    with pytest.raises(UserError, match="NaN or infinity in row 3"):
        run("show", str(tmp_path / "a.npz"))


def test_make_reads_no_transitions_of_a_recipe(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object, **kwargs: object) -> None:
        raise AssertionError("the dataset was loaded")

    run("make", "rlsuite/hopper/random-v0", "--steps", "500", "--jobs", "1")
    content_hash = data.load("rlsuite/hopper/random-v0", steps=500, build=False).content_hash
    monkeypatch.setattr(registry, "load", load)
    monkeypatch.setattr(registry.Source, "recording", load)
    _, out = run("make", "rlsuite/hopper/random-v0", "--steps", "500")
    assert content_hash in out and "already there" in out
    monkeypatch.undo()


def test_make_knows_foreign_data(run: Run, recording: Recording) -> None:
    formats.write_minari(recording, "test/sample-v0")
    _, out = run("make", "test/sample-v0")
    for expected in ("already there", "16", "4", data.load("test/sample-v0").content_hash):
        assert expected in out


def test_a_damaged_download_is_fetched_again(
    run: Run, recording: Recording, monkeypatch: pytest.MonkeyPatch, minari_root: Path
) -> None:
    formats.write_minari(recording, "mujoco/sample-v0")
    data_file = minari_root / "mujoco/sample-v0/data/main_data.hdf5"
    whole = data_file.read_bytes()
    data_file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        run("make", "mujoco/sample-v0")

    def fetch(name: str, force_download: bool) -> None:
        assert force_download
        data_file.write_bytes(whole)

    monkeypatch.setattr(registry, "_reach_remote", lambda: None)
    monkeypatch.setattr(minari, "download_dataset", fetch)
    _, out = run("make", "mujoco/sample-v0", "--force")
    assert "written now" in out and data.load("mujoco/sample-v0").content_hash in out


def test_scores_table(run: Run) -> None:
    code, out = run("scores")
    assert code == 0
    for expected in ("D4RL v2", "-20.272305", "3,234.3", "infos.py", "100 episodes", "Hopper-v5", "3,247.6 ± 4.6"):
        assert expected in out
    ours, theirs = (out.index(text) for text in ("rlsuite: measured here", "D4RL v2: constants"))
    lines = out[min(ours, theirs) : max(ours, theirs)], out[max(ours, theirs) :]
    assert all(("\nwalker2d " in part) != ("\nHopper-v5 " in part) for part in lines), "one table a collection"


def test_scores_of_one(run: Run, tmp_path: Path, recording: Recording) -> None:
    formats.write_npz(recording, tmp_path / "a.npz")
    formats.write_minari(recording, "test/sample-v0")
    for name in ("Hopper-v5", "rlsuite/hopper/random-v0", "test/sample-v0", str(tmp_path / "a.npz")):
        code, out = run("scores", name)
        assert code == 0
        for expected in ("rlsuite Hopper-v5", "uniform actions", "hopper-expert", "gymnasium 1", "behaviour.reference"):
            assert expected in out, name
    for name in ("hopper", "d4rl/hopper-medium-v2"):
        _, out = run("scores", name)
        assert "D4RL v2" in out and "-20.272305" in out and "sha256" not in out
    with pytest.raises(UserError, match="did you mean 'Hopper-v5'"):
        run("scores", "Hoper-v5")
    other = replace(recording, header=replace(recording.header, env_spec=env_spec("Swimmer-v5")))
    formats.write_npz(other, tmp_path / "b.npz")
    with pytest.raises(UserError, match="Swimmer-v5, which has no reference"):
        run("scores", str(tmp_path / "b.npz"))
