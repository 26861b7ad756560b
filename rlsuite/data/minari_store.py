"""Minari datasets on disk: streaming reader, and a writer that is atomic, compact and the same bytes every time.

Reading goes through Minari's own storage classes, except for HDF5, where a direct read is twice as fast on datasets of
many short episodes. Written datasets open with plain `minari.load_dataset`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t
from minari.dataset.minari_dataset import parse_dataset_id
from minari.dataset.minari_storage import MinariStorage
from minari.storage.datasets_root_dir import get_dataset_path

from rlsuite.data.dataset import Dataset
from rlsuite.data.files import atomic_folder, cannot_write
from rlsuite.data.hdf5 import hdf5_file
from rlsuite.data.recording import Episode, Header, Recording, Space
from rlsuite.errors import UserError, printable

STRUCTURE = {  # keys of Minari's metadata that the writer sets by itself
    "total_episodes",
    "total_steps",
    "data_format",
    "jpeg_encoding",
    "observation_space",
    "action_space",
    "env_spec",
    "dataset_id",
    "minari_version",
    "dataset_size",
}
SMALL = 8192  # bytes of an array that is kept in its header
OTHERS = [b"actions", b"rewards", b"terminations", b"truncations"]  # beside the observations


def is_id(name: str) -> bool:
    """Whether `name` is spelled like a Minari id: `(namespace/)name-vN`."""
    return re.fullmatch(r"(?:[-_\w]+/)*[-_\w]+-v\d+", name) is not None


def folder(name: str | Path) -> Path | None:
    """The folder that holds metadata.json, for a Minari id or a path; None where there is none."""
    candidates = [Path(name), Path(name) / "data"]
    if is_id(str(name)):
        candidates.insert(0, get_dataset_path(str(name)) / "data")
    return next((path for path in candidates if (path / "metadata.json").is_file()), None)


def read_metadata(name: str | Path) -> dict[str, Any]:
    """Minari's metadata of a dataset. Raises UserError where it is absent or broken."""
    path = folder(name)
    if path is None:
        raise UserError(f"{name} is no Minari dataset: it has no data/metadata.json; give its id or its folder.")
    try:
        metadata: dict[str, Any] = json.loads((path / "metadata.json").read_text())
        for key in ("total_steps", "total_episodes"):
            if not isinstance(metadata[key], int) or metadata[key] < 0:
                raise ValueError(f"{key} is {metadata[key]!r}")
        metadata["data_format"]
        if not isinstance(metadata.get("rlsuite", {}), dict):
            raise ValueError("rlsuite is no object")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path / 'metadata.json'} is damaged ({type(error).__name__}: {printable(error)}); "
            "fetch or build the dataset again."
        ) from error
    return metadata


def _header(metadata: Mapping[str, Any], path: Path, where: str) -> Header:
    if "observation_space" not in metadata or "action_space" not in metadata:
        try:  # written before Minari 0.4.3: only the environment knows them
            storage = MinariStorage.read(path)
        except Exception as error:
            raise UserError(
                f"the environment of {where} cannot be made ({printable(error)}), nor its spaces."
            ) from error
        metadata = {
            **metadata,
            **{
                key: minari.serialization.serialize_space(getattr(storage, key))
                for key in ("observation_space", "action_space")
            },
        }
    try:
        header = Header(
            Space.from_json(metadata["observation_space"], "observations", where),
            Space.from_json(metadata["action_space"], "actions", where),
            metadata.get("env_spec"),
            {key: value for key, value in metadata.items() if key not in STRUCTURE},
        )
        _ = header.env_id
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"the spaces or the environment in {path / 'metadata.json'} are damaged "
            f"({type(error).__name__}: {printable(error)}); fetch or build the dataset again."
        ) from error
    return header


def env_id(metadata: Mapping[str, Any]) -> str | None:
    """The environment that Minari's metadata name."""
    text = metadata.get("env_spec")
    return json.loads(text)["id"] if text else None


def _names(observations: Space) -> list[bytes]:
    """Where the arrays of an episode stand in its group; one for each part of the observations, then the others."""
    return ["/".join(("observations", *part.path)).encode() for part in observations.parts] + OTHERS


def _hdf5_episodes(path: Path, metadata: Mapping[str, Any], header: Header, where: str) -> Iterator[Episode]:
    space, longest = header.observation_space, metadata["total_steps"] + 1
    rows = [*(part.shape for part in space.parts), (header.action_space.dim,), (), (), ()]
    names = list(zip(_names(space), rows, strict=True))
    with h5py.File(path / "main_data.hdf5", "r") as file:
        for k in range(metadata["total_episodes"]):
            group = h5g.open(file.id, f"episode_{k}".encode())
            arrays = []
            for name, row in names:
                dataset = h5d.open(group, name)
                shape = dataset.shape
                if not shape or shape[0] > longest or shape[1:] != row:  # before memory is asked for
                    raise ValueError(f"{name.decode()} of episode {k} have shape {shape}")
                array = np.empty(shape, dataset.dtype)
                dataset.read(h5s.ALL, h5s.ALL, array)
                arrays.append(array)
            observations = space.join(arrays[:-4], where)
            yield Episode(observations, arrays[-4], arrays[-3], arrays[-2], arrays[-1])


def _other_episodes(path: Path, metadata: Mapping[str, Any], header: Header, where: str) -> Iterator[Episode]:
    """Arrow and Parquet."""
    storage, count, space = MinariStorage.read(path), metadata["total_episodes"], header.observation_space
    for k in range(0, count, 100):
        for episode in storage.get_episodes(range(k, min(k + 100, count))):
            parts = [reduce(getitem, part.path, episode["observations"]) for part in space.parts]
            observations = space.join([np.asarray(part) for part in parts], where)
            arrays = [np.asarray(episode[key.decode()]) for key in OTHERS]
            yield Episode(observations, arrays[0], arrays[1], arrays[2], arrays[3])


def read_recording(name: str | Path, steps: int | None = None, dtype: Any = None) -> Recording:
    """A Minari dataset, by id or folder, of any storage format; the first `steps` transitions or all.

    Observations in a Dict are flattened as `gymnasium.wrappers.FlattenObservation` does. `dtype` casts observations,
    actions and rewards while reading. Raises UserError for what is missing, damaged or of other spaces.
    """
    path, metadata = folder(name), read_metadata(name)
    assert path is not None
    label = printable(metadata.get("dataset_id") or Path(name).name)
    header = _header(metadata, path, label)
    total = metadata["total_steps"]
    wanted = total if steps is None else min(steps, total)
    dims = header.observation_space.dim, header.action_space.dim
    types = [np.dtype(dtype or space.dtype) for space in (header.observation_space, header.action_space)]
    rewards: np.ndarray | None = None
    starts, row = [], 0
    read = _hdf5_episodes if metadata["data_format"] == "hdf5" else _other_episodes
    try:
        observations, next_observations = (np.empty((wanted, dims[0]), types[0]) for _ in range(2))
        actions = np.empty((wanted, dims[1]), types[1])
        terminations, truncations = np.zeros(wanted, bool), np.zeros(wanted, bool)
        for k, episode in enumerate(read(path, metadata, header, label)):
            length = len(episode.rewards)
            shapes = [np.shape(array) for array in episode[:5]]
            expected = [(length + 1, dims[0]), (length, dims[1]), (length,), (length,), (length,)]
            if shapes != expected:
                raise UserError(
                    f"episode {k} of {label} has arrays of shapes {shapes} where {expected} belong; "
                    "fetch or build the dataset again."
                )
            if any(array.dtype.kind not in "fiub" for array in episode[:5]):
                raise ValueError(f"episode {k} has arrays that are no real numbers")
            if row == wanted and wanted < total:
                break
            if row + length > total:
                raise ValueError(f"there are more transitions than the {total} of its metadata")
            if rewards is None:
                rewards = np.empty(wanted, dtype or episode.rewards.dtype)
            n = min(length, wanted - row)
            rows = slice(row, row + n)
            observations[rows] = episode.observations[:n]
            next_observations[rows] = episode.observations[1 : n + 1]
            actions[rows] = episode.actions[:n]
            rewards[rows] = episode.rewards[:n]
            terminations[rows] = episode.terminations[:n]
            truncations[rows] = episode.truncations[:n]
            if n < length and not terminations[row + n - 1]:
                truncations[row + n - 1] = True
            if n:
                starts.append(row)
            row += n
    except UserError:
        raise
    except Exception as error:  # Minari's storages raise what their libraries raise
        reason = printable(error) or type(error).__name__
        raise UserError(
            f"the data of {label} in {path} cannot be read ({reason}); fetch or build the dataset again."
        ) from error
    if (np.stack([terminations, truncations]).view(np.uint8) > 1).any():  # a stored bool may be any byte
        raise UserError(f"the flags of {label} hold other bytes than 0 and 1; fetch or build the dataset again.")
    if row < wanted or rewards is None:
        raise UserError(f"{label} holds {row} transitions where its metadata promise {total}; fetch or build it again.")
    if steps is not None and steps > row:
        raise UserError(f"{label} has {row} transitions, so the first {steps} cannot be taken from it.")
    return Recording(
        observations,
        actions,
        rewards,
        next_observations,
        terminations,
        truncations,
        np.array(starts, np.int64),
        label,
        header,
    )


def read_minari(id_or_path: str | Path, steps: int | None = None) -> Dataset:
    """A Minari dataset in memory, every transition with its true successor. Errors as `read_recording`."""
    return read_recording(id_or_path, steps, np.float32).dataset()


@contextlib.contextmanager
def locked(dataset_id: str) -> Iterator[None]:
    """Hold the right to write `dataset_id`; waits for a process that holds it. Released at death."""
    path = scratch(dataset_id, "lock")
    try:
        file = path.open("w")
    except OSError as error:
        raise cannot_write(path, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def root() -> Path:
    """Minari's folder of datasets."""
    return Path(get_dataset_path())


def _scratch() -> Path:
    """Minari's root: hidden names there are not taken for datasets, and renaming into it stays on one file system."""
    try:
        return root()
    except OSError as error:
        raise cannot_write(Path(os.environ.get("MINARI_DATASETS_PATH", "~/.minari")), error) from error


def scratch(dataset_id: str, suffix: str) -> Path:
    """A hidden file beside the datasets, for work on one of them. Raises UserError where the root cannot be had."""
    return _scratch() / f"{_prefix(dataset_id)}{suffix}"


def _prefix(dataset_id: str) -> str:
    return f".rlsuite-{dataset_id.replace('/', '-')}."


class _Hdf5Writer:
    """Minari's HDF5 layout through the low-level interface: half the time of the high-level one, and no time stamps."""

    def __init__(self, file: h5py.File, observations: Space, where: str) -> None:
        self.file, self.episodes, self.steps = file, 0, 0
        self._observations, self._where, self._names = observations, where, _names(observations)
        self._links = h5p.create(h5p.LINK_CREATE)
        self._links.set_create_intermediate_group(True)
        self._large, self._small = (h5p.create(h5p.DATASET_CREATE) for _ in range(2))
        for properties in (self._large, self._small):
            properties.set_obj_track_times(False)
        self._small.set_layout(h5d.COMPACT)  # inside the object's header: a third of the writes
        self._types: dict[np.dtype[Any], h5t.TypeID] = {}
        self._scalar = h5s.create(h5s.SCALAR)

    def _type(self, dtype: np.dtype[Any]) -> h5t.TypeID:
        if dtype not in self._types:
            self._types[dtype] = h5t.py_create(dtype, logical=True)
        return self._types[dtype]

    def append(self, episode: Episode) -> None:
        group = h5g.create(self.file.id, f"episode_{self.episodes}".encode())
        attributes = {b"id": self.episodes, b"total_steps": len(episode.rewards)}
        if episode.seed is not None:
            attributes[b"seed"] = episode.seed
        for name, value in attributes.items():
            scalar = np.array(value, np.int64)
            h5a.create(group, name, self._type(scalar.dtype), self._scalar).write(scalar)
        parts = self._observations.split(episode.observations, self._where)
        for name, values in zip(self._names, [*parts, *episode[1:5]], strict=True):
            array = np.ascontiguousarray(values)
            space = h5s.create_simple(array.shape)
            properties = self._small if array.nbytes <= SMALL else self._large
            dataset = h5d.create(group, name, self._type(array.dtype), space, properties, self._links)
            dataset.write(h5s.ALL, h5s.ALL, array)
        self.episodes += 1
        self.steps += len(episode.rewards)


def write_episodes(
    dataset_id: str,
    header: Header,
    episodes: Iterable[Episode],
    finish: Callable[[Path], Mapping[str, Any]] | None = None,
) -> None:
    """Stream `episodes` into a new dataset that replaces an older one at the end, under `locked(dataset_id)`.

    `finish` gets the readable but still hidden dataset and gives further metadata (a content hash).
    """
    base = _scratch()
    final = base / dataset_id
    with atomic_folder(final, base, f"{_prefix(dataset_id)}tmp-") as temporary:
        data = temporary / "data"
        data.mkdir()
        with hdf5_file(data / "main_data.hdf5") as (file, guard):
            writer = _Hdf5Writer(file, header.observation_space, dataset_id)
            for episode in episodes:
                writer.append(episode)
                guard.check()
        metadata = {
            "total_episodes": writer.episodes,
            "total_steps": writer.steps,
            "data_format": "hdf5",
            "jpeg_encoding": True,
            "observation_space": header.observation_space.to_json(),
            "action_space": header.action_space.to_json(),
            **({"env_spec": header.env_spec} if header.env_spec else {}),
            "dataset_id": dataset_id,
            "minari_version": minari.__version__,
            "dataset_size": round((data / "main_data.hdf5").stat().st_size / 1e6, 1),
            **header.metadata,
        }
        (data / "metadata.json").write_text(json.dumps(metadata))
        if finish is not None:
            metadata |= finish(data)
            (data / "metadata.json").write_text(json.dumps(metadata))
        # Minari lists a namespace only where this file stands
        for parent in list(final.relative_to(base).parents)[:-1]:
            (base / parent).mkdir(parents=True, exist_ok=True)
            note = base / parent / "namespace_metadata.json"
            if not note.exists():
                note.write_text("{}")


def write_minari(
    data: Dataset | Recording,
    dataset_id: str,
    *,
    description: str | None = None,
    requirements: Iterable[str] = (),
    overwrite: bool = False,
) -> None:
    """Write a Minari dataset under Minari's own root, in the dtypes of `data`.

    Observations that were flattened get their layout back. Raises UserError for a malformed or taken id, for an episode
    that is no sequence of observations, for numbers that the layout cannot hold, and where the disk refuses; nothing is
    left behind then.
    """
    recording = Recording.of(data) if isinstance(data, Dataset) else data
    if not is_id(dataset_id):
        raise UserError(f"'{dataset_id}' is no Minari id; write it as namespace/name-v0.")
    parse_dataset_id(dataset_id)
    metadata = {key: value for key, value in recording.header.metadata.items() if key not in STRUCTURE}
    if description is not None:
        metadata["description"] = description
    if requirements:
        metadata["requirements"] = list(requirements)
    header = Header(
        recording.header.observation_space, recording.header.action_space, recording.header.env_spec, metadata
    )
    with locked(dataset_id):
        if folder(dataset_id) is not None and not overwrite:
            raise UserError(f"{dataset_id} exists already; choose another id or pass --force.")
        write_episodes(dataset_id, header, recording.episodes())
