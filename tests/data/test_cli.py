"""`rlsuite data ...` through its parser and handlers."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlsuite import data
from rlsuite.data import cli, formats, minari_store
from rlsuite.data.dataset import ARRAYS
from rlsuite.data.recording import Recording
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


def test_scores_table(run: Run) -> None:
    code, out = run("scores")
    assert code == 0
    for expected in ("D4RL v2", "rlsuite Hopper-v5", "3234.3", "100 episodes"):
        assert expected in out
