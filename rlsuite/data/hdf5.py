"""Writing HDF5 so that a full disk is an exception and not the death of the process."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import h5py


class GuardedFile:
    """A binary file for libhdf5, which crashes the process when a write fails.

    The first failure is kept in `error`, and later writes are accepted and dropped; `check` raises it where it is safe.
    """

    def __init__(self, raw: io.FileIO) -> None:
        self.raw = raw
        self.error: OSError | None = None

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def write(self, data: bytes | memoryview) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        end = self.raw.tell() + size
        try:
            while self.error is None and len(rest):
                rest = rest[self.raw.write(rest) :]
        except OSError as error:
            self.error = error
        self.raw.seek(end)
        return size

    def readinto(self, buffer: memoryview) -> int:
        whole = memoryview(buffer).cast("B")
        count = self.raw.readinto(whole)
        whole[count:] = bytes(len(whole) - count)  # what was dropped reads as zeros
        return len(whole)

    def read(self, size: int = -1) -> bytes:
        return self.raw.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.raw.seek(offset, whence)

    def tell(self) -> int:
        return self.raw.tell()

    def truncate(self, size: int | None = None) -> int:
        try:
            return self.raw.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def flush(self) -> None:
        self.raw.flush()


@contextlib.contextmanager
def hdf5_file(path: Path) -> Iterator[tuple[h5py.File, GuardedFile]]:
    """A new HDF5 file and its guard: call `guard.check()` now and then to stop early. Raises OSError, and only that."""
    with io.FileIO(path, "w+") as raw:
        guard = GuardedFile(raw)
        try:
            with h5py.File(guard, "w") as file:
                yield file, guard
        finally:
            guard.check()
