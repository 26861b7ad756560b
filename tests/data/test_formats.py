"""Readers and writers: exact rows, bit-for-bit round trips, and one sentence for every kind of bad file."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest

from rlsuite.data import formats, minari_store
from rlsuite.data.dataset import ARRAYS
from rlsuite.data.recording import Recording
from rlsuite.errors import UserError


def assert_same(a: Recording, b: Recording) -> None:
    for key in ARRAYS:
        x, y = getattr(a, key), getattr(b, key)
        assert x.dtype == y.dtype, key
        assert x.shape == y.shape, key
        assert x.tobytes() == y.tobytes(), key
    assert a.header.to_json() == b.header.to_json()


def write_hdf5(path: Path, **columns: Any) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in columns.items():
            file[key] = value
    return path


def numbered(size: int, **flags: list[int]) -> dict[str, np.ndarray]:
    """Columns in which row i is recognisable everywhere; flags are given as lists of rows."""
    rows = np.arange(size, dtype=np.float32)
    columns = {"observations": rows[:, None] + 0.5, "actions": rows[:, None] / 100, "rewards": 10 * rows}
    for name, marked in flags.items():
        columns[name] = np.isin(np.arange(size), marked)
    return columns


def reference_qlearning(columns: dict[str, np.ndarray], limit: int) -> dict[str, np.ndarray]:
    """What D4RL documents about `qlearning_dataset`, written down independently, one row at a time."""
    kept, step = [], 0
    for row in range(len(columns["rewards"]) - 1):
        final = bool(columns["timeouts"][row]) if "timeouts" in columns else step == limit - 1
        if final:
            step = 0
            continue
        if columns["terminals"][row]:
            step = 0
        kept.append(row)
        step += 1
    index = np.array(kept)
    return {
        "observations": columns["observations"][index],
        "actions": columns["actions"][index],
        "next_observations": columns["observations"][index + 1],
        "rewards": columns["rewards"][index],
        "terminations": columns["terminals"][index],
    }


# D4RL layout: which rows


def test_qlearning_rows_by_hand(tmp_path: Path) -> None:
    """Terminal at 2, time-out at 5, both at 8, neither at the end; D4RL ignores next_observations."""
    columns = numbered(11, terminals=[2, 8], timeouts=[5, 8])
    columns["next_observations"] = np.full((11, 1), -1, np.float32)
    path = write_hdf5(tmp_path / "a.hdf5", **columns)
    dataset = formats.read_d4rl(path, drop_timeouts=True)
    assert (dataset.observations[:, 0] - 0.5).tolist() == [0, 1, 2, 3, 4, 6, 7, 9]
    assert (dataset.next_observations[:, 0] - 0.5).tolist() == [1, 2, 3, 4, 5, 7, 8, 10]
    assert dataset.rewards.tolist() == [0, 10, 20, 30, 40, 60, 70, 90]
    assert dataset.terminations.tolist() == [False, False, True, False, False, False, False, False]
    assert dataset.episode_starts.tolist() == [0, 3, 5, 7]
    assert dataset.truncations.tolist() == [False, False, False, False, True, False, True, True]


@pytest.mark.parametrize("with_timeouts", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_qlearning_rows_equal_the_reference(tmp_path: Path, seed: int, with_timeouts: bool) -> None:
    rng = np.random.default_rng(seed)
    flags = {"terminals": rng.choice(400, 12, replace=False).tolist()}
    if with_timeouts:
        flags["timeouts"] = [*rng.choice(400, 9, replace=False).tolist(), *flags["terminals"][:2], 399]
    columns = numbered(400, **flags)
    path = write_hdf5(tmp_path / "a.hdf5", **columns)
    dataset = formats.read_d4rl(path, drop_timeouts=True, max_episode_steps=25)
    for key, expected in reference_qlearning(columns, 25).items():
        assert np.array_equal(getattr(dataset, key).numpy(), expected), key


def test_timeouts_are_kept_with_the_stored_successor(tmp_path: Path) -> None:
    columns = numbered(7, terminals=[1], timeouts=[4])
    columns["next_observations"] = columns["observations"] + 1
    columns["next_observations"][[1, 4]] = [[77], [88]]
    dataset = formats.read_d4rl(write_hdf5(tmp_path / "a.hdf5", **columns))
    assert len(dataset) == 7
    assert dataset.next_observations[:, 0].tolist() == [1.5, 77, 3.5, 4.5, 88, 6.5, 7.5]
    assert dataset.terminations.nonzero().flatten().tolist() == [1]
    assert dataset.truncations.nonzero().flatten().tolist() == [4]
    assert dataset.episode_starts.tolist() == [0, 2, 5]


def test_without_successors_no_transition_crosses_a_reset(tmp_path: Path) -> None:
    """Time-out at 3 and open end at 7 are dropped; the terminal row 5 stays, with itself as its masked successor."""
    path = write_hdf5(tmp_path / "a.hdf5", **numbered(8, terminals=[5], timeouts=[3]))
    dataset = formats.read_d4rl(path)
    assert (dataset.observations[:, 0] - 0.5).tolist() == [0, 1, 2, 4, 5, 6]
    assert (dataset.next_observations[:, 0] - 0.5).tolist() == [1, 2, 3, 5, 5, 7]
    assert dataset.terminations.tolist() == [False, False, False, False, True, False]
    assert dataset.truncations.tolist() == [False, False, True, False, False, True]
    assert dataset.episode_starts.tolist() == [0, 3, 5]


def test_without_any_flag_of_time_the_limit_decides(tmp_path: Path) -> None:
    """Limit 3, terminal at 1: rows 4 and 7 are the third of their episode."""
    path = write_hdf5(tmp_path / "a.hdf5", **numbered(9, terminals=[1]))
    dataset = formats.read_d4rl(path, max_episode_steps=3)
    assert (dataset.observations[:, 0] - 0.5).tolist() == [0, 1, 2, 3, 5, 6]
    assert dataset.episode_starts.tolist() == [0, 2, 4]


def test_successors_without_timeouts_tell_where_episodes_end(tmp_path: Path) -> None:
    columns = numbered(6, terminals=[1])
    columns["next_observations"] = columns["observations"] + 1
    columns["next_observations"][3] = 99
    dataset = formats.read_d4rl(write_hdf5(tmp_path / "a.hdf5", **columns))
    assert dataset.episode_starts.tolist() == [0, 2, 4]
    assert dataset.truncations.tolist() == [False, False, False, True, False, True]


def test_column_shapes_of_old_files(tmp_path: Path) -> None:
    """(N, 1) rewards and flags and one-dimensional actions mean what they seem to mean."""
    columns = numbered(5, terminals=[4])
    columns["rewards"], columns["terminals"] = columns["rewards"][:, None], columns["terminals"][:, None].astype(float)
    columns["actions"] = columns["actions"][:, 0]
    dataset = formats.read_d4rl(write_hdf5(tmp_path / "a.hdf5", **columns))
    assert dataset.rewards.tolist() == [0, 10, 20, 30, 40]
    assert dataset.actions.shape == (5, 1)
    assert dataset.terminations.tolist() == [False] * 4 + [True]


def test_a_d4rl_file_name_tells_robot_and_bounds(tmp_path: Path) -> None:
    columns = numbered(4, terminals=[3])
    columns["observations"], columns["actions"] = np.zeros((4, 11), np.float32), np.zeros((4, 3), np.float32)
    dataset = formats.read_d4rl(write_hdf5(tmp_path / "hopper_medium-v2.hdf5", **columns))
    assert dataset.env_id == "Hopper-v4"
    assert dataset.max_action == 1.0


def test_drop_timeouts_means_the_same_for_every_format(tmp_path: Path, recording: Recording) -> None:
    formats.write_d4rl(recording, tmp_path / "a.hdf5")
    formats.write_npz(recording, tmp_path / "a.npz")
    hdf5 = formats.read_d4rl(tmp_path / "a.hdf5", drop_timeouts=True)
    npz = formats.read_npz(tmp_path / "a.npz", drop_timeouts=True)
    direct = formats.as_qlearning(recording).dataset()
    assert hdf5.content_hash == npz.content_hash == direct.content_hash
    assert len(direct) == 16 - 2 - 1


# round trips


def test_minari_d4rl_minari_changes_no_bit(tmp_path: Path, recording: Recording) -> None:
    formats.write_minari(recording, "test/sample-v0")
    first = minari_store.read_recording("test/sample-v0")
    assert_same(first, recording)
    formats.write_d4rl(first, tmp_path / "a.hdf5")
    second = formats.d4rl_recording(tmp_path / "a.hdf5")
    assert_same(second, recording)
    formats.write_npz(second, tmp_path / "a.npz")
    third = formats.npz_recording(tmp_path / "a.npz")
    assert_same(third, recording)
    formats.write_minari(third, "test/sample-v1")
    assert_same(minari_store.read_recording("test/sample-v1"), recording)
    files = [minari_store.root() / f"test/sample-v{i}/data/main_data.hdf5" for i in (0, 1)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_round_trip_keeps_odd_bits(tmp_path: Path, recording: Recording) -> None:
    """NaN, negative zero and denormal numbers survive, and a chain through NaN is a chain."""
    observations, successors = recording.observations.copy(), recording.next_observations.copy()
    observations[2, :3] = successors[1, :3] = [np.nan, -0.0, 5e-324]
    odd = replace(recording, observations=observations, next_observations=successors)
    formats.write_minari(odd, "test/odd-v0")
    formats.write_d4rl(minari_store.read_recording("test/odd-v0"), tmp_path / "a.h5")
    assert_same(formats.d4rl_recording(tmp_path / "a.h5"), odd)


def test_a_float32_dataset_round_trips_through_every_format(tmp_path: Path, recording: Recording) -> None:
    dataset = recording.dataset()
    formats.write_minari(dataset, "test/single-v0", description="single precision", requirements=["mujoco"])
    formats.write_d4rl(dataset, tmp_path / "a.hdf5")
    formats.write_npz(dataset, tmp_path / "a.npz")
    for read in (
        formats.read_minari("test/single-v0"),
        formats.read_d4rl(tmp_path / "a.hdf5"),
        formats.read_npz(tmp_path / "a.npz"),
    ):
        assert read.content_hash == dataset.content_hash
        assert read.env_id == "Hopper-v5"
        assert read.max_action == 1.0


def test_d4rl_reader_sees_our_files_as_d4rl_does(tmp_path: Path, recording: Recording) -> None:
    formats.write_d4rl(recording, tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert file["observations"].dtype == np.float64
        assert file["timeouts"].dtype == np.bool_
        assert np.array_equal(file["terminals"][:], recording.terminations)
        columns = {key: file[key][:] for key in ("observations", "actions", "rewards", "terminals", "timeouts")}
    expected = reference_qlearning(columns, 1000)
    got = formats.read_d4rl(tmp_path / "a.hdf5", drop_timeouts=True)
    assert np.array_equal(got.next_observations.numpy(), expected["next_observations"].astype(np.float32))


def test_the_seal_is_the_hash_of_what_hdf5_readers_see(tmp_path: Path, recording: Recording) -> None:
    path = tmp_path / "a.hdf5"
    formats.write_d4rl(recording, path)
    content = path.read_bytes()
    digest = hashlib.sha256(content[512:]).hexdigest()
    assert content[:512] == f"rlsuite sha256 {digest}\n".encode().ljust(512, b"\0")
    with h5py.File(path) as file:
        assert file.userblock_size == 512
        assert {"observations", "actions", "rewards", "terminals", "timeouts"} < set(file)
    with h5py.File(path, "r+") as file:
        file["rewards"][3] += 1
    with pytest.raises(UserError, match="edited since rlsuite wrote it"):
        formats.read_d4rl(path)


def test_arrays_that_were_changed_under_our_header_are_refused(tmp_path: Path, recording: Recording) -> None:
    formats.write_npz(recording, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "same.npz", **dict(reversed(arrays.items())))
    assert_same(formats.npz_recording(tmp_path / "same.npz"), replace(recording, name="same.npz"))
    arrays["rewards"] = arrays["rewards"] + 1
    np.savez(tmp_path / "changed.npz", **arrays)
    with pytest.raises(UserError, match="not those that rlsuite wrote"):
        formats.read_npz(tmp_path / "changed.npz")
    del arrays[formats.HEADER]
    np.savez(tmp_path / "theirs.npz", **arrays)
    assert formats.read_npz(tmp_path / "theirs.npz").rewards.tolist() == (recording.rewards + 1).astype("f4").tolist()


# Minari


def test_plain_minari_opens_what_we_write(recording: Recording) -> None:
    formats.write_minari(recording, "test/sample-v0", description="a test", requirements=["mujoco>=3"])
    dataset = minari.load_dataset("test/sample-v0")
    assert dataset.total_steps == 16
    assert dataset.total_episodes == 4
    assert dataset.env_spec.id == "Hopper-v5"
    assert dataset.action_space.contains(recording.actions[0])
    assert dataset.storage.metadata["description"] == "a test"
    assert dataset.storage.metadata["requirements"] == ["mujoco>=3"]
    episode = dataset[2]
    assert np.array_equal(episode.observations[:-1], recording.observations[6:13])
    assert np.array_equal(episode.observations[-1], recording.next_observations[12])
    assert np.array_equal(episode.actions, recording.actions[6:13])
    assert episode.terminations[-1]
    assert "test/sample-v0" in minari.list_local_datasets()
    assert dataset.recover_environment().spec.id == "Hopper-v5"


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_reads_what_plain_minari_writes(recording: Recording, data_format: str) -> None:
    if data_format != "hdf5":
        pytest.importorskip("pyarrow")
    buffers = [
        minari.data_collector.EpisodeBuffer(
            observations=episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=episode.terminations,
            truncations=episode.truncations,
            infos={},
        )
        for episode in recording.episodes()
    ]
    with pytest.warns(UserWarning):
        minari.create_dataset_from_buffers("other/sample-v3", buffers, env="Hopper-v5", data_format=data_format)
    by_id = minari_store.read_recording("other/sample-v3")
    by_path = minari_store.read_recording(minari_store.root() / "other/sample-v3")
    for key in ARRAYS:
        assert np.array_equal(getattr(by_id, key), getattr(recording, key)), key
        assert np.array_equal(getattr(by_path, key), getattr(recording, key)), key
    part = formats.read_minari("other/sample-v3", steps=9)
    assert len(part) == 9
    assert part.truncations.tolist() == [False] * 5 + [True, False, False, True]
    assert part.content_hash == recording.dataset(9).content_hash


def test_refuses_other_spaces_in_one_sentence(recording: Recording) -> None:
    formats.write_minari(recording, "test/sample-v0")
    file = minari_store.root() / "test/sample-v0/data/metadata.json"
    metadata = json.loads(file.read_text())
    for space, named in (
        ({"type": "Dict", "subspaces": {}}, "Dict"),
        ({"type": "Box", "shape": [84, 84], "low": [0], "high": [1], "dtype": "uint8"}, r"Box\(84, 84\)"),
    ):
        file.write_text(json.dumps({**metadata, "observation_space": json.dumps(space)}))
        with pytest.raises(UserError, match=named):
            formats.read_minari("test/sample-v0")


def test_an_existing_minari_id_is_not_overwritten_unasked(recording: Recording) -> None:
    formats.write_minari(recording, "test/sample-v0")
    with pytest.raises(UserError, match="exists already"):
        formats.write_minari(recording.first(5), "test/sample-v0")
    formats.write_minari(recording.first(5), "test/sample-v0", overwrite=True)
    assert len(formats.read_minari("test/sample-v0")) == 5
    assert not list(minari_store.root().glob(".*tmp*"))


def test_broken_chains_are_refused_and_leave_nothing(recording: Recording) -> None:
    successors = recording.next_observations.copy()
    successors[8, 4] += 1e-9
    with pytest.raises(UserError, match="row 8"):
        formats.write_minari(replace(recording, next_observations=successors), "test/broken-v0")
    assert [path.name for path in minari_store.root().iterdir() if not path.name.endswith(".lock")] == []


# bad input


def _plain_text(path: Path) -> None:
    path.write_text("observations, actions\n1, 2\n")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"observations": np.zeros(3)}))


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8 : len(data) : 7] = b"\xff" * len(data[8 : len(data) : 7])
    path.write_bytes(data)


def one_sentence(error: pytest.ExceptionInfo[UserError], path: Path) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert path.name in text
    assert text.endswith(".")


@pytest.mark.parametrize("damage", [_plain_text, _empty, _truncated, _pickled, _flipped])
@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_damaged_files(tmp_path: Path, recording: Recording, suffix: str, damage: Callable[[Path], None]) -> None:
    path = tmp_path / f"a{suffix}"
    write, read = {
        ".hdf5": (formats.write_d4rl, formats.read_d4rl),
        ".npz": (formats.write_npz, formats.read_npz),
    }[suffix]
    write(recording, path)
    damage(path)
    with pytest.raises(UserError) as error:
        read(path)
    one_sentence(error, path)


@pytest.mark.parametrize("damage", [_plain_text, _empty, _truncated, _flipped])
@pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json"])
def test_damaged_minari(recording: Recording, name: str, damage: Callable[[Path], None]) -> None:
    formats.write_minari(recording, "test/sample-v0")
    damage(minari_store.root() / "test/sample-v0/data" / name)
    with pytest.raises(UserError) as error:
        formats.read_minari("test/sample-v0")
    assert "\n" not in str(error.value)


def test_minari_metadata_that_promise_too_much(recording: Recording) -> None:
    formats.write_minari(recording, "test/sample-v0")
    file = minari_store.root() / "test/sample-v0/data/metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "total_steps": 20}))
    with pytest.raises(UserError, match="16 transitions where its metadata promise 20"):
        formats.read_minari("test/sample-v0")


def test_an_npz_whose_header_lies(tmp_path: Path) -> None:
    """numpy itself reads half of the bytes, and so never comes to the checksum."""
    columns = numbered(5000, terminals=[4999]) | {"rewards": np.ones(5000)}
    np.savez(tmp_path / "a.npz", **columns)
    content = (tmp_path / "a.npz").read_bytes()
    assert content.count(b"'<f8'") == 1
    (tmp_path / "a.npz").write_bytes(content.replace(b"'<f8'", b"'<f4'"))
    with np.load(tmp_path / "a.npz") as file:
        assert file["rewards"].shape == (5000,)
    with pytest.raises(UserError, match="CRC") as error:
        formats.read_npz(tmp_path / "a.npz")
    one_sentence(error, tmp_path / "a.npz")


def test_an_npz_that_holds_a_pickle_is_never_opened(tmp_path: Path) -> None:
    columns = numbered(4, terminals=[3])
    columns["rewards"] = np.array([Bomb(), 1, 2, 3], dtype=object)
    np.savez(tmp_path / "a.npz", allow_pickle=True, **columns)  # writing the trap; nothing of ours reads one
    with pytest.raises(UserError, match="pickle"):
        formats.read_npz(tmp_path / "a.npz")
    columns["infos"], columns["rewards"] = columns["rewards"], np.zeros(4)
    np.savez(tmp_path / "a.npz", allow_pickle=True, **columns)  # the same trap where nobody looks
    assert len(formats.read_npz(tmp_path / "a.npz")) == 4  # nor where nobody asks for it


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.abort, ()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"rewards": None}, "lacks rewards"),
        ({"terminals": None, "actions": None}, "lacks actions, terminals"),
        ({"rewards": np.zeros(3)}, "differ in length"),
        ({"rewards": np.zeros((5, 2))}, r"shape \(5, 2\)"),
        ({"observations": np.zeros((5, 2, 2))}, r"shape \(5, 2, 2\)"),
        ({"observations": np.zeros((5, 2), complex)}, "dtype complex128"),
        ({"actions": np.array([b"a"] * 5)}, "dtype"),
        ({"next_observations": np.zeros((5, 3))}, "must be alike"),
        ({"episode_starts": np.array([1, 3]), "next_observations": np.zeros((5, 1))}, "must rise from 0"),
    ],
)
@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_wrong_columns(tmp_path: Path, suffix: str, change: dict[str, Any], complaint: str) -> None:
    columns = {**numbered(5, terminals=[4]), **change}
    columns = {key: value for key, value in columns.items() if value is not None}
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez(path, **columns)
    else:
        write_hdf5(path, **{"metadata/" * (key == "episode_starts") + key: value for key, value in columns.items()})
    with pytest.raises(UserError, match=complaint) as error:
        formats.read_npz(path) if suffix == ".npz" else formats.read_d4rl(path)
    one_sentence(error, path)


def test_the_inside_of_a_minari_dataset_is_no_d4rl_file(recording: Recording) -> None:
    formats.write_minari(recording, "test/sample-v0")
    with pytest.raises(UserError, match="folder of the dataset"):
        formats.read_d4rl(minari_store.root() / "test/sample-v0/data/main_data.hdf5")


def test_absent_files(tmp_path: Path) -> None:
    for read, name in ((formats.read_d4rl, "a.hdf5"), (formats.read_npz, "a.npz"), (formats.read_minari, "a/b-v0")):
        with pytest.raises(UserError):
            read(tmp_path / name)


# writing


def test_unwritable_targets_leave_nothing(tmp_path: Path, recording: Recording) -> None:
    (tmp_path / "file").write_text("in the way")
    for target in (tmp_path / "missing/a.npz", tmp_path / "file/a.npz", Path("/proc/a.npz")):
        for write in (formats.write_npz, formats.write_d4rl):
            with pytest.raises(UserError) as error:
                write(recording, target)
            one_sentence(error, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_minari_root_that_is_a_file(tmp_path: Path, recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file"))
    with pytest.raises(UserError, match="could not be written"):
        formats.write_minari(recording, "test/sample-v0")


FULL_DISK = """
import resource, signal, sys
from rlsuite.data import formats
from rlsuite.errors import UserError
recording = formats.npz_recording(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # every file is full after 3000 bytes
write = {"npz": formats.write_npz, "hdf5": formats.write_d4rl, "minari": formats.write_minari}[sys.argv[2]]
try:
    write(recording, sys.argv[3])
except UserError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize(("kind", "target"), [("npz", "full/b.npz"), ("hdf5", "full/b.hdf5"), ("minari", "test/b-v0")])
def test_a_full_disk_leaves_nothing(tmp_path: Path, recording: Recording, kind: str, target: str) -> None:
    formats.write_npz(recording, tmp_path / "a.npz")
    (tmp_path / "full").mkdir()
    place = target if kind == "minari" else str(tmp_path / target)
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.npz"), kind, place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "full").iterdir()) == []
    if kind == "minari":
        left = [path.name for path in (tmp_path / "minari").iterdir() if not path.name.endswith(".lock")]
        assert left == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, recording: Recording) -> None:
    formats.write_npz(recording, tmp_path / "a.npz")
    before = (tmp_path / "a.npz").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError):
            formats.write_npz(recording, tmp_path / "a.npz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "a.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name != "minari"] == ["a.npz"]
