"""The finished episodes of a build that is not finished, on disk.

A build appends every episode to its spool, so that a killed one continues from there, and reads it back for the content
hash, so that its memory does not grow with the dataset.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlsuite.data.dataset import ARRAYS, array_head
from rlsuite.data.files import cannot_write
from rlsuite.data.recording import Episode, Header, Space
from rlsuite.data.rollout import HEAD, MARK, Head

LIMIT = 1 << 24  # steps: no real episode is longer, but a damaged head may say so


class Frame(NamedTuple):
    """An episode as a worker sent it."""

    head: Head
    body: bytes

    def episode(self, observations: Space, actions: Space, length: int) -> Episode:
        """The first `length` steps; if these are not all, the last of them is marked truncated."""
        total = self.head.length
        shapes = ((total + 1, observations.dim), (total, actions.dim), (total,))
        arrays, offset = [], 0
        for shape, dtype in zip(shapes, (observations.dtype, actions.dtype, "float64"), strict=True):
            arrays.append(np.frombuffer(self.body, dtype, math.prod(shape), offset).reshape(shape))
            offset += arrays[-1].nbytes
        terminations, truncations = np.zeros((2, length), bool)
        whole = length == total
        terminations[-1], truncations[-1] = whole and self.head.terminated, self.head.truncated or not whole
        rows = arrays[0][: length + 1], arrays[1][:length], arrays[2][:length]
        return Episode(*rows, terminations, truncations, self.head.seed)


def body_size(length: int, observations: Space, actions: Space) -> int:
    """Bytes of an episode's arrays."""
    widths = [space.dim * np.dtype(space.dtype).itemsize for space in (observations, actions)]
    return (length + 1) * widths[0] + length * (widths[1] + 8)


def read_frame(file: Any, observations: Space, actions: Space) -> Frame | None:
    """The next frame of a binary file or pipe; None at its end, and where what follows is no whole, sound frame."""
    data = file.read(HEAD.size)
    if len(data) < HEAD.size:
        return None
    head = Head(*HEAD.unpack(data))
    if head.mark != MARK or not 0 < head.length < LIMIT:
        return None
    size = body_size(head.length, observations, actions)
    body = file.read(size)
    return Frame(head, body) if len(body) == size and zlib.crc32(body) == head.checksum else None


class Spool:
    """The frames of one build, in the order of the dataset; `identity` says what they are of.

    A context: the file is removed at its end, be it reached or be it an error, and stays after an interruption. Raises
    UserError where the disk refuses.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], header: Header) -> None:
        self.path, self.spaces = path, (header.observation_space, header.action_space)
        self._index: list[tuple[int, Head]] = []  # where the arrays of each episode begin
        self._end = 0
        first = (json.dumps(identity, sort_keys=True) + "\n").encode()
        try:
            self._file = path.open("a+b")
            self._file.seek(0)
            if self._file.readline() != first:
                self._file.truncate(0)
                self._file.write(first)
                self._file.flush()
        except OSError as error:
            raise cannot_write(path, error) from error

    def frames(self) -> Iterator[Frame]:
        """What is stored, once. Whatever a kill left half-written at the end is cut off."""
        with self.path.open("rb") as file:
            file.readline()
            while True:
                self._end = file.tell()
                frame = read_frame(file, *self.spaces)
                if frame is None:
                    break
                self._index.append((self._end + HEAD.size, frame.head))
                yield frame
        if self.path.stat().st_size > self._end:
            os.truncate(self.path, self._end)

    def append(self, frame: Frame) -> None:
        """After all that is stored has been read."""
        self._index.append((self._end + HEAD.size, frame.head))
        self._file.write(HEAD.pack(*frame.head))
        self._file.write(frame.body)
        self._end += HEAD.size + len(frame.body)

    def content_hash(self, steps: int) -> str:
        """`Dataset.content_hash` of the first `steps` transitions in float32, with one episode in memory at a time."""
        self._file.flush()
        lengths = np.array([head.length for _, head in self._index])
        ends = np.cumsum(lengths)
        count = int(np.searchsorted(ends, steps)) + 1
        heads = [head for _, head in self._index[:count]]
        cut = ends[count - 1] > steps
        terminations, truncations = np.zeros((2, steps), bool)
        last = np.minimum(ends[:count], steps) - 1
        terminations[last] = [head.terminated for head in heads]
        truncations[last] = [head.truncated for head in heads]
        if cut:
            terminations[-1], truncations[-1] = False, True
        whole = {
            "terminations": terminations,
            "truncations": truncations,
            "episode_starts": np.append(0, ends[: count - 1]).astype(np.int64),
        }
        widths = {"observations": self.spaces[0].dim, "actions": self.spaces[1].dim}
        widths["next_observations"] = widths["observations"]
        digest = hashlib.sha256()
        for key in ARRAYS:
            if key in whole:
                digest.update(array_head(key, whole[key].dtype, whole[key].shape) + whole[key].tobytes())
                continue
            shape = (steps, widths[key]) if key in widths else (steps,)
            digest.update(array_head(key, np.dtype(np.float32), shape))
            for (offset, head), end in zip(self._index[:count], ends.tolist(), strict=False):
                rows = self._rows(key, offset, head.length, head.length - max(end - steps, 0))
                digest.update(rows.astype(np.float32).tobytes())
        return digest.hexdigest()

    def _rows(self, key: str, offset: int, length: int, keep: int) -> np.ndarray:
        """The first `keep` rows of one array, flat, of an episode of `length` steps that begins at `offset`."""
        observations, actions = self.spaces
        width, dtype = observations.dim, np.dtype(observations.dtype)
        if key == "next_observations":
            offset += width * dtype.itemsize
        elif key != "observations":
            offset += (length + 1) * width * dtype.itemsize
            width, dtype = actions.dim, np.dtype(actions.dtype)
            if key == "rewards":
                offset += length * width * dtype.itemsize
                width, dtype = 1, np.dtype(np.float64)
        return np.frombuffer(os.pread(self._file.fileno(), keep * width * dtype.itemsize, offset), dtype)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a full disk has been reported already
            self._file.close()
