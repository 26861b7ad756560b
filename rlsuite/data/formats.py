"""D4RL-layout HDF5 and npz; Minari's functions are re-exported from `minari_store`.

Both formats are flat columns, so one function turns columns into episodes. Its rules:

- `terminals` (no bootstrap) and `timeouts` (cut by a limit) both end an episode, and are kept apart.
- With `next_observations`, every row is kept with its true successor, time-outs included.
- Without them, the successor of row i is row i + 1 of the same episode. That of a time-out row is not stored anywhere,
  so such rows are necessarily dropped, as is a last row that is not terminal; the row before is marked truncated. The
  successor of a terminal row is masked in every bootstrap and stored as that row's own observation, so that no
  transition crosses a reset.
- Without `timeouts` too, an episode is taken to time out after `max_episode_steps`, as D4RL does.
- `drop_timeouts=True` gives exactly the rows of `d4rl.qlearning_dataset` instead (`qlearning_rows`).

What is written here carries a header with a SHA-256 of header and columns, and a file whose columns are not those is
refused. Files of others are checked as far as structure and values can tell.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlsuite.data.dataset import Dataset
from rlsuite.data.files import atomic_file
from rlsuite.data.hdf5 import check_seal, hdf5_file, read_array
from rlsuite.data.minari_store import read_minari, write_minari
from rlsuite.data.names import D4RL_NAME
from rlsuite.data.recording import Header, Recording, Space, env_spec
from rlsuite.errors import UserError, printable

__all__ = [
    "as_qlearning",
    "d4rl_recording",
    "npz_recording",
    "qlearning_rows",
    "read_d4rl",
    "read_minari",
    "read_npz",
    "write_d4rl",
    "write_minari",
    "write_npz",
]

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations", "episode_starts")
ALIASES = {"terminations": "terminals", "truncations": "timeouts"}
HEADER = "rlsuite_header"
# The closest that Gymnasium still has to the models D4RL recorded on; -v5 changed rewards and frictions.
D4RL_ENVS = {"hopper": "Hopper-v4", "halfcheetah": "HalfCheetah-v4", "walker2d": "Walker2d-v4", "ant": "Ant-v4"}


def qlearning_rows(terminals: np.ndarray, timeouts: np.ndarray | None, max_episode_steps: int = 1000) -> np.ndarray:
    """The rows i, ascending int64, that `d4rl.qlearning_dataset` keeps; the successor there is always row i + 1.

    The last row is never kept, and time-out rows are not, even where they are terminal. Without `timeouts` a counter
    decides, and D4RL's counter stands at 1, not 0, after a terminal row; that is reproduced (D4RL, `d4rl/__init__.py`).
    """
    if timeouts is not None:
        return np.flatnonzero(~timeouts[:-1]).astype(np.int64)
    rows, counter = [], 0
    for row, terminal in enumerate(terminals[:-1].tolist()):
        if counter == max_episode_steps - 1:
            counter = 0
            continue
        rows.append(row)
        counter = 1 if terminal else counter + 1
    return np.array(rows, np.int64)


def _time_limits(terminals: np.ndarray, max_episode_steps: int) -> np.ndarray:
    """(N,) bool: rows at which an episode has lasted `max_episode_steps`, counted from the last terminal row."""
    rows = np.arange(len(terminals))
    starts = np.where(np.concatenate([[False], terminals[:-1]]), rows, 0)
    last: np.ndarray = (rows - np.maximum.accumulate(starts)) % max_episode_steps == max_episode_steps - 1
    return last


def _check_type(dtype: np.dtype[Any], key: str, where: str) -> None:
    if dtype.kind not in "fiub":
        raise UserError(f"{key} of {where} has dtype {printable(dtype)}, where real numbers belong.")


def _checked(columns: Mapping[str, Any], where: str) -> dict[str, np.ndarray]:
    """Columns of known names, numeric, of one length; flags as bool."""
    missing = [key for key in REQUIRED if key not in columns]
    if missing:
        raise UserError(
            f"{where} is no dataset of transitions: it lacks {', '.join(missing)} and holds "
            f"{printable(', '.join(sorted(columns)[:8])) or 'nothing'}."
        )
    result = {}
    for key in (*REQUIRED, *OPTIONAL):
        if key not in columns:
            continue
        array = np.asarray(columns[key])
        _check_type(array.dtype, key, where)
        if key in ("observations", "actions", "next_observations"):
            array = array[:, None] if array.ndim == 1 else array
            fits = array.ndim == 2 and array.shape[1] > 0
        else:
            array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
            fits = array.ndim == 1
        if not fits:
            raise UserError(f"{key} of {where} has shape {array.shape}, where one row a transition belongs.")
        if key in ("terminals", "timeouts"):
            numbers = array.view(np.uint8) if array.dtype == bool else array  # a stored bool may be any byte
            if not ((numbers == 0) | (numbers == 1)).all():
                raise UserError(f"{key} of {where} hold other numbers than 0 and 1.")
            array = array.astype(bool)
        result[key] = array
    lengths = {key: len(array) for key, array in result.items() if key != "episode_starts"}
    if len(set(lengths.values())) > 1:
        described = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise UserError(f"the columns of {where} differ in length ({described}); it is cut or mixed up.")
    if lengths["rewards"] == 0:
        raise UserError(f"{where} holds no transitions.")
    if "next_observations" in result and result["next_observations"].shape != result["observations"].shape:
        raise UserError(
            f"next_observations of {where} have shape {result['next_observations'].shape}, "
            f"observations {result['observations'].shape}; they must be alike."
        )
    return result


def _assemble(
    columns: Mapping[str, Any], name: str, header: Header | None, drop_timeouts: bool, max_episode_steps: int
) -> Recording:
    """Columns as episodes, by the rules of the module's docstring."""
    data = _checked(columns, name)
    observations, terminals, timeouts = data["observations"], data["terminals"], data.get("timeouts")
    successors = data.get("next_observations")
    size = len(terminals)
    if drop_timeouts:
        rows = qlearning_rows(terminals, timeouts, max_episode_steps)
        successors = observations[rows + 1]
        first = None
    elif successors is not None:
        rows = np.arange(size)
        first = data.get("episode_starts")
        if first is None and timeouts is None:  # only the observations tell where an episode was cut
            jumps = (observations[1:] != successors[:-1]).any(1)
            first = np.concatenate([[0], np.flatnonzero(terminals[:-1] | jumps) + 1])
    else:
        ends = _time_limits(terminals, max_episode_steps) if timeouts is None else timeouts.copy()
        ends[-1] = True
        rows = np.flatnonzero(terminals | ~ends)
        successors = observations[np.where(terminals, np.arange(size), np.minimum(np.arange(size) + 1, size - 1))[rows]]
        first = None
    if len(rows) == 0:
        raise UserError(f"{name} holds no transition whose successor is known.")
    kept_terminals = terminals[rows]
    if first is not None:
        starts = first.astype(np.int64) if first.dtype.kind in "iu" else np.empty(0, np.int64)
        if len(starts) == 0 or starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= size:
            raise UserError(f"episode_starts of {name} must rise from 0 and stay below {size}.")
        truncations = timeouts[rows] if timeouts is not None else np.zeros(size, bool)
    else:
        ended = kept_terminals.copy()
        if timeouts is not None:
            ended |= timeouts[rows]
        begins = np.concatenate([[True], ended[:-1] | (np.diff(rows) > 1)])
        starts = np.flatnonzero(begins)
        truncations = timeouts[rows] if timeouts is not None else np.zeros(len(rows), bool)
    if drop_timeouts or "next_observations" not in data or timeouts is None:
        last = np.append(starts[1:], len(rows)) - 1
        truncations = truncations.copy()
        truncations[last] |= ~kept_terminals[last]
    if header is None:
        header = _guess_header(name, observations, data["actions"])
    for key, space in (("observations", header.observation_space), ("actions", header.action_space)):
        if data[key].shape[1] != space.dim:
            raise UserError(f"{key} of {name} have {data[key].shape[1]} dimensions, but their space has {space.dim}.")
    return Recording(
        observations[rows],
        data["actions"][rows],
        data["rewards"][rows],
        successors.astype(observations.dtype, copy=False),
        kept_terminals,
        truncations,
        starts,
        name,
        header,
    )


def _guess_header(name: str, observations: np.ndarray, actions: np.ndarray) -> Header:
    """Spaces of a file that does not state any: D4RL's robots are known by the file name, others stay unbounded."""
    space, unknown = (Space.unbounded(array.shape[1], array.dtype) for array in (observations, actions))
    match = D4RL_NAME.fullmatch(name)
    if match is None:
        return Header(space, unknown)
    unit = np.ones(actions.shape[1])  # all D4RL robots take actions in [-1, 1]
    return Header(space, Space(-unit, unit, str(actions.dtype)), env_spec(D4RL_ENVS[match["robot"].lower()]))


def as_qlearning(recording: Recording) -> Recording:
    """The rows and successors that `d4rl.qlearning_dataset` would give for this recording."""
    columns = _columns(recording)
    del columns["next_observations"], columns["episode_starts"]
    return _assemble(columns, recording.name, recording.header, True, 0)


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}; check the path.")
    return path


def d4rl_recording(path: str | Path, drop_timeouts: bool = False, max_episode_steps: int = 1000) -> Recording:
    """A D4RL-layout HDF5 file in its own dtypes; see `read_d4rl`."""
    path = _existing(path)
    try:
        check_seal(path)
        with h5py.File(path, "r") as file:
            columns: dict[str, Any] = dict.fromkeys(file)
            for place in (*REQUIRED, *OPTIONAL, "metadata/episode_starts"):
                if place not in file:
                    continue
                key = place.removeprefix("metadata/")
                if not isinstance(file[place], h5py.Dataset):
                    raise UserError(f"{key} of {path.name} is a group; only flat arrays can be read.")
                _check_type(file[place].dtype, key, path.name)
                columns[key] = read_array(file[place])
            text = file.attrs.get(HEADER)
    except UserError:
        raise
    except Exception as error:  # damaged bytes make h5py raise whatever the place they stand at suggests
        reason = printable(error) or type(error).__name__
        advice = "it is truncated, fetch or write it again" if "truncated" in reason else "fetch or write it again"
        if not h5py.is_hdf5(path):
            advice = "it is no HDF5 file"
        raise UserError(f"{path} cannot be read ({reason}): {advice}.") from error
    if "episode_0" in columns:
        raise UserError(f"{path} is the inside of a Minari dataset; give the id or the folder of the dataset instead.")
    header = _stored_header(text, columns, path.name)
    return _assemble(columns, path.name, header, drop_timeouts, max_episode_steps)


def read_d4rl(
    path: str | Path, steps: int | None = None, drop_timeouts: bool = False, max_episode_steps: int = 1000
) -> Dataset:
    """A D4RL-layout HDF5 file: observations, actions, rewards, terminals, and optionally timeouts, next_observations.

    By default time-out transitions are kept with their true successor where `next_observations` are stored; where they
    are not, that successor is unknown and the rows are necessarily dropped. With `drop_timeouts` the observations,
    actions, next_observations, rewards and terminations are those of `d4rl.qlearning_dataset`, row for row; there the
    successor of a terminal row is the first observation of the next episode. `max_episode_steps` counts only where the
    file has no `timeouts`.

    Raises UserError for a file that is missing, truncated, no HDF5 or no such dataset.
    """
    return d4rl_recording(path, drop_timeouts, max_episode_steps).dataset(steps)


def npz_recording(path: str | Path, drop_timeouts: bool = False, max_episode_steps: int = 1000) -> Recording:
    """An npz of columns in its own dtypes; see `read_npz`."""
    path = _existing(path)
    try:
        with path.open("rb") as file:
            if file.read(6) == np.lib.format.MAGIC_PREFIX:
                raise UserError(f"{path} is one array; save the columns by name with numpy.savez.")
        columns: dict[str, Any] = {}
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                key = ALIASES.get(name, name)
                known = key in (*REQUIRED, *OPTIONAL, HEADER)
                columns[key] = _member(archive, member, key, path.name) if known else None
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy have no common exception for damaged bytes
        reason = printable(error) or type(error).__name__
        raise UserError(f"{path} cannot be read as npz ({reason}): it is truncated or no npz.") from error
    header = _stored_header(columns.pop(HEADER, None), columns, path.name)
    return _assemble(columns, path.name, header, drop_timeouts, max_episode_steps)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, key: str, where: str) -> np.ndarray:
    """One array, read-only. numpy's own reader trusts the shape, and does not reach the checksum if that is too small.

    Raises UserError for a pickle, and anything for damaged bytes.
    """
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(file)
        if dtype.hasobject:
            raise UserError(f"{key} of {where} holds a pickle, which is never opened; save plain arrays of numbers.")
        content = file.read()
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"{key} has {len(content)} bytes, which is not shape {shape} of {dtype}")
    return np.ndarray(shape, dtype, content, order="F" if fortran_order else "C")


def read_npz(path: str | Path, steps: int | None = None, drop_timeouts: bool = False) -> Dataset:
    """An npz with arrays named like the fields of `Dataset` (`terminals`, `timeouts` are understood too).

    observations, actions, rewards and terminations are required; next_observations, truncations and episode_starts are
    optional, with the rules of D4RL files. Raises UserError for anything else, pickles included.
    """
    return npz_recording(path, drop_timeouts).dataset(steps)


def _digest(header: str, columns: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the header and the name, dtype, shape and bytes of all known columns."""
    digest = hashlib.sha256(header.encode())
    for key in sorted({*REQUIRED, *OPTIONAL} & columns.keys()):
        array = np.ascontiguousarray(columns[key])
        digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _header_text(recording: Recording, columns: Mapping[str, np.ndarray]) -> str:
    text = recording.header.to_json()
    return json.dumps({"header": text, "sha256": _digest(text, columns)})


def _stored_header(text: Any, columns: Mapping[str, Any], name: str) -> Header | None:
    """The header that `_header_text` wrote beside these columns, None where there is none."""
    if text is None:
        return None
    try:
        stored = json.loads(str(text))
        if stored["sha256"] == _digest(stored["header"], columns):
            return Header.from_json(stored["header"], name)
    except Exception as error:  # anything may stand there
        raise UserError(
            f"the header that rlsuite wrote into {name} is damaged ({printable(error)}); fetch or write the file again."
        ) from error
    raise UserError(
        f"the arrays or the header of {name} are not those that rlsuite wrote there (their SHA-256 differs); "
        "fetch or write the file again."
    )


def _columns(recording: Recording) -> dict[str, np.ndarray]:
    return {
        "observations": recording.observations,
        "actions": recording.actions,
        "rewards": recording.rewards,
        "terminals": recording.terminations,
        "timeouts": recording.truncations,
        "next_observations": recording.next_observations,
        "episode_starts": recording.episode_starts,
    }


def write_d4rl(data: Dataset | Recording, path: str | Path) -> None:
    """Write D4RL-layout HDF5 with next_observations and timeouts, in the dtypes of `data`, atomically.

    Spaces, environment and metadata go into the attribute `rlsuite_header`, episode boundaries into
    `metadata/episode_starts`, so that reading it back gives the same recording bit for bit. Raises UserError where the
    file cannot be written.
    """
    recording = Recording.of(data) if isinstance(data, Dataset) else data
    columns = _columns(recording)
    with atomic_file(Path(path).expanduser()) as temporary, hdf5_file(temporary, sealed=True) as (file, _):
        for key, array in columns.items():
            file["metadata/episode_starts" if key == "episode_starts" else key] = array
        file.attrs[HEADER] = _header_text(recording, columns)


def write_npz(data: Dataset | Recording, path: str | Path) -> None:
    """Write an npz with the names of `Dataset` and a header string, atomically. Errors as `write_d4rl`."""
    recording = Recording.of(data) if isinstance(data, Dataset) else data
    columns = _columns(recording)
    names = {alias: key for key, alias in ALIASES.items()}
    arrays = {names.get(key, key): array for key, array in columns.items()}
    with atomic_file(Path(path).expanduser()) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays, **{HEADER: np.array(_header_text(recording, columns))})
