"""Transitions in memory, where they come from, and whether they are sound.

    from rlsuite import data
    dataset = data.load("rlsuite/hopper/medium-v0", steps=200_000)

Names load their modules on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlsuite.data.dataset import Batch, Batches, Dataset
    from rlsuite.data.doctor import Finding, examine
    from rlsuite.data.registry import load
    from rlsuite.data.scores import normalized_score, reference

_HOMES = {
    "Batch": "dataset",
    "Batches": "dataset",
    "Dataset": "dataset",
    "Finding": "doctor",
    "examine": "doctor",
    "load": "registry",
    "normalized_score": "scores",
    "reference": "scores",
}

__all__ = [
    "Batch",
    "Batches",
    "Dataset",
    "Finding",
    "examine",
    "load",
    "normalized_score",
    "reference",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
