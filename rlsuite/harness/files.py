"""Files that are either whole or absent: atomic writes, checkpoints with a checksum, append-only logs, policies."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlsuite.data.files import write_atomic
from rlsuite.errors import UserError

MAGIC = b"rlsuite checkpoint 1\n"


# A tree of dicts, lists and tuples over arrays and plain values is stored as arrays in an npz (no pickle) plus a JSON
# skeleton. Dicts become lists of pairs, because optimiser states have integer keys.


def _encode(node: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(node, Tensor):
        arrays.append(node.detach().cpu().numpy())
        return {"tensor": len(arrays) - 1}
    if isinstance(node, np.ndarray):
        arrays.append(node)
        return {"array": len(arrays) - 1}
    if isinstance(node, dict):
        return {"dict": [[key, _encode(value, arrays)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return {type(node).__name__: [_encode(value, arrays) for value in node]}
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, np.integer | np.floating):
        return node.item()
    raise TypeError(f"a checkpoint cannot hold a {type(node).__name__}; use tensors, arrays and plain values")


def _decode(node: Any, arrays: Any) -> Any:
    if not isinstance(node, dict):
        return node
    kind, value = next(iter(node.items()))
    if kind == "tensor":
        return torch.from_numpy(arrays[f"a{value}"])
    if kind == "array":
        return arrays[f"a{value}"]
    if kind == "dict":
        return {key: _decode(child, arrays) for key, child in value}
    children = [_decode(child, arrays) for child in value]
    return tuple(children) if kind == "tuple" else children


def save_checkpoint(path: Path, tree: dict[str, Any]) -> None:
    """Write `tree` (nested dicts, lists, tuples of tensors, arrays and plain values) with its SHA-256, atomically."""
    arrays: list[np.ndarray] = []
    skeleton = json.dumps(_encode(tree, arrays))
    buffer = io.BytesIO()
    named: dict[str, Any] = {f"a{i}": array for i, array in enumerate(arrays)}
    np.savez(buffer, skeleton=np.array(skeleton), **named)
    payload = buffer.getvalue()
    write_atomic(path, MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The tree in a checkpoint file; UserError if it is none, was cut, or its checksum is wrong."""
    data = path.read_bytes()
    head = len(MAGIC) + 65
    if not data.startswith(MAGIC):
        raise UserError(f"{path} is no rlsuite checkpoint; point to a run directory made by `rlsuite train`.")
    if hashlib.sha256(data[head:]).hexdigest().encode() != data[len(MAGIC) : head - 1]:
        raise UserError(
            f"the checkpoint {path} is damaged (its checksum is wrong); delete it to continue from the one before it."
        )
    with np.load(io.BytesIO(data[head:]), allow_pickle=False) as arrays:
        tree: dict[str, Any] = _decode(json.loads(str(arrays["skeleton"])), arrays)
    return tree


class JsonLines:
    """An append-only file of JSON objects that can be cut back to where a checkpoint saw it."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self._file = path.open("ab")
        self._file.truncate(offset)

    def append(self, *rows: dict[str, Any]) -> None:
        try:
            self._file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
            self._file.flush()
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; free the place, then start again.") from error

    def sync(self) -> int:
        """Bytes so far, all of them on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, oldest first."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def save_policy(path: Path, policy: Any, source: str) -> None:
    """Weights, normaliser and shapes of `policy` as plain arrays: all that acting needs."""
    arrays = {key: value.detach().cpu().numpy() for key, value in policy.state_dict().items()}
    about = {"class": type(policy).__name__, "arguments": policy.arguments, "algorithm": source}
    buffer = io.BytesIO()
    np.savez(buffer, __policy__=np.array(json.dumps(about)), **arrays)
    write_atomic(path, buffer.getvalue())


def read_policy(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `save_policy` wrote: the description, and the state dict.

    Raises UserError if the file is missing, is no such file, or holds pickled objects, which are never loaded.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["__policy__"]))
            state = {key: torch.from_numpy(file[key]) for key in file.files if key != "__policy__"}
    except FileNotFoundError:
        raise UserError(f"there is no policy at {path}; has the run reached its first checkpoint?") from None
    except Exception as error:  # zipfile, json, numpy and torch each have their own
        raise UserError(
            f"{path} is no policy file of rlsuite ({str(error).splitlines()[0]}); a file that holds a pickle is never "
            "loaded, train again or convert it to plain arrays."
        ) from error
    return about, state
