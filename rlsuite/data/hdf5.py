"""HDF5 out and in: a full disk is an exception and not the death of the process, and changed bytes are not parsed.

A sealed file begins with a user block, which HDF5 readers skip: a line with the SHA-256 of all that follows the block.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlsuite.errors import UserError

USER_BLOCK = 512  # bytes, the least that HDF5 allows
MARK = b"rlsuite sha256 "
EXPANSION = 1100  # deflate makes a byte of at most 1032


class GuardedFile:
    """A binary file for libhdf5, which crashes the process when a write fails.

    The first failure is kept in `error`, and later writes are accepted and dropped; `check` raises it where it is safe.
    """

    def __init__(self, raw: io.FileIO) -> None:
        self.raw = raw
        self.error: OSError | None = None
        self.position = 0  # kept here, because the system calls of `raw` would each let go of the interpreter's lock

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def write(self, data: bytes | memoryview) -> int:
        rest, start = memoryview(data).cast("B"), self.position
        self.position += len(rest)
        try:
            while self.error is None and len(rest):
                done = os.pwrite(self.raw.fileno(), rest, start)
                rest, start = rest[done:], start + done
        except OSError as error:
            self.error = error
        return len(data)

    def readinto(self, buffer: memoryview) -> int:
        whole = memoryview(buffer).cast("B")
        count = os.preadv(self.raw.fileno(), [whole], self.position)
        whole[count:] = bytes(len(whole) - count)  # what was dropped reads as zeros
        self.position += len(whole)
        return len(whole)

    def read(self, size: int = -1) -> bytes:
        data = self.raw.read(size) if size < 0 else os.pread(self.raw.fileno(), size, self.position)
        self.position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            offset += os.fstat(self.raw.fileno()).st_size
        elif whence == os.SEEK_CUR:
            offset += self.position
        self.position = offset
        return offset

    def tell(self) -> int:
        return self.position

    def truncate(self, size: int | None = None) -> int:
        size = self.position if size is None else size
        try:
            return self.raw.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size

    def flush(self) -> None:
        self.raw.flush()


@contextlib.contextmanager
def hdf5_file(path: Path, sealed: bool = False) -> Iterator[tuple[h5py.File, GuardedFile]]:
    """A new HDF5 file and its guard: call `guard.check()` now and then to stop early. Raises OSError, and only that."""
    with io.FileIO(path, "w+") as raw:
        guard = GuardedFile(raw)
        try:
            with h5py.File(guard, "w", userblock_size=USER_BLOCK if sealed else None) as file:
                yield file, guard
        finally:
            guard.check()
        if sealed:
            seal = MARK + _sha256(raw, USER_BLOCK).encode() + b"\n"
            raw.seek(0)
            raw.write(seal)


def check_seal(path: Path) -> None:
    """Raises UserError where a sealed file is not as it was written; a file without a seal passes."""
    with path.open("rb") as file:
        if file.read(len(MARK)) != MARK:
            return
        stored = file.readline(USER_BLOCK)
        if stored != _sha256(file, USER_BLOCK).encode() + b"\n":
            raise UserError(
                f"{path} was truncated, damaged or edited since rlsuite wrote it (its SHA-256 differs); "
                "fetch or write it again."
            )


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file: 1.8 GB a second where the processor has instructions for it."""
    with path.open("rb") as file:
        return _sha256(file, 0)


def _sha256(file: Any, start: int) -> str:
    """Of what follows byte `start` of a binary file."""
    digest = hashlib.sha256()
    file.seek(start)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def read_array(dataset: h5py.Dataset) -> np.ndarray:
    """A whole array. Raises ValueError where it claims more bytes than the file can hold, before asking for memory."""
    stored = dataset.id.get_storage_size()
    most = stored if dataset.id.get_create_plist().get_nfilters() == 0 else EXPANSION * stored
    if dataset.nbytes > most:
        raise ValueError(f"{dataset.name} claims {dataset.nbytes} bytes, of which {stored} are stored")
    array: np.ndarray = dataset[()]
    return array
