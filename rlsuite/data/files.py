"""Writing that leaves either the whole thing or nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlsuite.errors import UserError


def fsync(path: Path) -> None:
    """Force a file or a folder entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: BaseException) -> UserError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).split("\n")[0]
    return UserError(
        f"{path} could not be written ({reason}); nothing was left there, choose a place with room and permission."
    )


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of `path`, renamed to `path` once the block has succeeded.

    Raises UserError where the folder is missing, not writable or full; the temporary file is removed.
    """
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} does not exist, so {path.name} cannot be written; create it first.")
    if path.is_dir():
        raise UserError(f"{path} is a folder, so no file can be written there; choose another name.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    except (OSError, RuntimeError) as error:  # h5py reports some failed writes as RuntimeError
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` in one step, making its folder if need be.

    A reader, or a reader after a crash, sees the old file or the new one. Raises UserError as `atomic_file`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is no such file; UserError where it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); delete it, or restore it from a copy.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object, but holds a {type(content).__name__}; restore it.")
    return content


@contextlib.contextmanager
def atomic_folder(path: Path, scratch: Path, prefix: str) -> Iterator[Path]:
    """A temporary folder in `scratch` (same file system), moved to `path` once the block has succeeded.

    An older `path` is replaced; folders of that prefix which a killed process left in `scratch` are removed, so the
    caller must hold a lock. Raises UserError as `atomic_file`.
    """
    temporary = None
    try:
        for stale in scratch.glob(f"{prefix}*"):
            shutil.rmtree(stale)
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=scratch))
        temporary.chmod(0o755)
        yield temporary
        for file in temporary.rglob("*"):
            fsync(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=prefix, dir=scratch))
            os.rename(path, old / path.name)
            os.rename(temporary, path)
            shutil.rmtree(old)
        else:
            os.rename(temporary, path)
        fsync(path.parent)
    except (OSError, RuntimeError) as error:
        raise cannot_write(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
