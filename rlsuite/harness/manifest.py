"""Who ran what, where: the facts that tell a changed result from a changed machine."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

import rlsuite
from rlsuite.kernels import linear

PACKAGES = ("torch", "numpy", "scipy", "gymnasium", "mujoco", "minari", "h5py", "stable-baselines3")


@cache
def code_version() -> str:
    """The release, and the git commit where the package lies in a checkout: `0.1.0+gabc1234` (`.dirty` if changed)."""
    folder = Path(rlsuite.__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if git("ls-files", "__init__.py") != "__init__.py":  # installed below somebody else's repository
            return rlsuite.__version__
        commit = git("rev-parse", "--short=10", "HEAD")
        dirty = ".dirty" if git("status", "--porcelain", "--untracked-files=no", "--", str(folder)) else ""
    except (OSError, subprocess.SubprocessError):
        return rlsuite.__version__
    return f"{rlsuite.__version__}+g{commit}{dirty}"


@cache
def cpu_class() -> str:
    """What bits depend on beside the versions: processor family, torch's instruction set, the matrix product."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    except OSError:
        facts["vendor_id"] = platform.processor() or platform.machine()
    name = "-".join(facts.get(key, "") for key in ("vendor_id", "cpu family", "model")).strip("-")
    return f"{name}/{torch.backends.cpu.get_cpu_capability()}/{linear.backend()}"


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}}


def machine() -> dict[str, Any]:
    return {"platform": platform.platform(), "cpu_class": cpu_class(), "versions": versions()}
