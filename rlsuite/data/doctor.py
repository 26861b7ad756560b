"""Is a dataset sound? Findings are plain sentences with the row they are about.

Severities: "error", the data cannot be used and a loader refuses them; "defect", they are wrong somewhere and a loader
warns; "note", worth knowing and often legitimate.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from rlsuite.data.dataset import Dataset
from rlsuite.errors import UserError

TOLERANCE = 1e-6  # of the action range: what rounding to float32 may add to a bound


@dataclass(frozen=True)
class Finding:
    severity: Literal["error", "defect", "note"]
    check: str
    message: str  # one sentence
    row: int | None = None  # the first row it is about

    def __str__(self) -> str:
        return f"{self.severity}: {self.message}"


def examine(dataset: Dataset | str | Path, thorough: bool = True) -> list[Finding]:
    """All findings on a Dataset, or on a dataset's name or path, the worst first; [] for sound data.

    The cheap part is vectorised (well under a second for a million rows). `thorough` adds duplicates. A dataset that
    is damaged, or not what its stored hash says, is a finding too, not an exception; UserError is only for a name or a
    path that leads to no dataset.
    """
    if not isinstance(dataset, Dataset):
        from rlsuite.data import registry

        source = registry.resolve(str(dataset))
        try:
            dataset = source.read()
        except UserError as error:
            return [Finding("error", "readable", str(error))]
    findings = list(_structure(dataset))
    if not findings:
        findings += _values(dataset)
        findings += _flags(dataset)
        findings += _continuity(dataset)
        if thorough:
            findings += _duplicates(dataset)
    order = ("error", "defect", "note")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def check(dataset: Dataset) -> None:
    """The cheap part, as every load runs it: raises UserError for errors, warns about defects."""
    for finding in examine(dataset, thorough=False):
        if finding.severity == "error":
            raise UserError(f"{dataset.name} cannot be used: {finding.message}")
        if finding.severity == "defect":
            warnings.warn(f"{dataset.name}: {finding.message}", stacklevel=3)


def _structure(d: Dataset) -> Iterator[Finding]:
    size = len(d.rewards)
    dims = {"observations": 2, "next_observations": 2, "actions": 2, "rewards": 1, "terminations": 1, "truncations": 1}
    for name, ndim in dims.items():
        tensor = getattr(d, name)
        wanted = torch.bool if name in ("terminations", "truncations") else torch.float32
        if tensor.dtype != wanted:
            yield Finding("error", "dtypes", f"{name} have dtype {tensor.dtype}, not {wanted}.")
        elif wanted == torch.bool and (tensor.view(torch.uint8) > 1).any():  # a stored bool may be any byte
            yield Finding("error", "dtypes", f"{name} hold other bytes than 0 and 1.")
        if tensor.ndim != ndim or len(tensor) != size:
            yield Finding("error", "shapes", f"{name} have shape {tuple(tensor.shape)} beside {size} rewards.")
    if d.observations.shape != d.next_observations.shape:
        shapes = tuple(d.observations.shape), tuple(d.next_observations.shape)
        yield Finding("error", "shapes", f"observations have shape {shapes[0]}, next_observations {shapes[1]}.")
    if size == 0:
        yield Finding("error", "shapes", "there are no transitions.")
    starts = d.episode_starts
    if starts.dtype != torch.int64 or starts.ndim != 1:
        yield Finding("error", "episodes", "episode_starts are no vector of int64.")
    elif size and (len(starts) == 0 or starts[0] != 0 or starts[-1] >= size or (starts.diff() <= 0).any()):
        yield Finding("error", "episodes", f"episode_starts do not rise from 0 to below {size}.")


def _marked(mask: torch.Tensor) -> tuple[str, int] | None:
    """The marked rows in words, and the first; None where there are none."""
    rows = torch.nonzero(mask)
    if len(rows) == 0:
        return None
    first = int(rows[0])
    return (f"row {first}" if len(rows) == 1 else f"{len(rows)} rows, the first is row {first}"), first


def _values(d: Dataset) -> Iterator[Finding]:
    for name in ("observations", "actions", "rewards", "next_observations"):
        tensor = getattr(d, name)
        if torch.isfinite(tensor.sum(dtype=torch.float64)):  # one pass in the usual case
            continue
        if found := _marked(~torch.isfinite(tensor.reshape(len(d), -1)).all(1)):
            yield Finding("error", "finite", f"{name} hold NaN or infinity in {found[0]}.", found[1])
    if d.action_low is None or d.action_high is None:
        return
    if len(d.action_low) != d.action_dim:
        yield Finding("error", "bounds", f"actions have {d.action_dim} dimensions, their bounds {len(d.action_low)}.")
        return
    low, high = (torch.as_tensor(x, dtype=torch.float32, device=d.device) for x in (d.action_low, d.action_high))
    slack = TOLERANCE * (high - low)
    if found := _marked(((d.actions < low - slack) | (d.actions > high + slack)).any(1)):
        yield Finding("error", "bounds", f"actions leave their bounds in {found[0]}.", found[1])


def _flags(d: Dataset) -> Iterator[Finding]:
    last = torch.zeros(len(d), dtype=torch.bool, device=d.device)
    last[d.episode_ends - 1] = True
    for name in ("terminations", "truncations"):
        if found := _marked(getattr(d, name) & ~last):
            yield Finding("defect", "flags", f"{name} are set in the middle of an episode in {found[0]}.", found[1])
    if found := _marked(d.terminations & d.truncations):
        yield Finding("note", "flags", f"terminated and truncated are both set in {found[0]}.", found[1])
    if found := _marked(last & ~d.terminations & ~d.truncations):
        yield Finding("note", "flags", f"an episode ends without a flag in {found[0]}.", found[1])


def _continuity(d: Dataset) -> Iterator[Finding]:
    inside = torch.ones(len(d) - 1, dtype=torch.bool, device=d.device)
    inside[d.episode_starts[1:] - 1] = False
    if found := _marked((d.observations[1:] != d.next_observations[:-1]).any(1) & inside):
        message = f"inside an episode, the next observation is not the observation of the row after it in {found[0]}."
        yield Finding("defect", "continuity", message, found[1])


def _duplicates(d: Dataset) -> Iterator[Finding]:
    rows = np.concatenate(
        [getattr(d, key).cpu().numpy().reshape(len(d), -1) for key in ("observations", "actions", "next_observations")]
        + [d.rewards.cpu().numpy()[:, None]],
        axis=1,
    )
    # A 64-bit linear hash a row: sorting whole rows would take many times as long.
    draws = np.random.default_rng(0).integers(2**63, size=rows.shape[1], dtype=np.uint64)
    factors = np.atleast_1d(draws) | 1  # odd, so that no factor loses bits
    words = np.ascontiguousarray(rows).view(np.uint32)
    hashes = np.zeros(len(d), np.uint64)
    for column in range(words.shape[1]):
        hashes += words[:, column] * factors[column]
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    originals = first[inverse]
    copies = np.flatnonzero(originals != np.arange(len(d)))
    if len(copies):
        row, original = int(copies[0]), int(originals[copies[0]])
        many = "1 transition repeats" if len(copies) == 1 else f"{len(copies)} transitions repeat"
        yield Finding(
            "note", "duplicates", f"{many} an earlier one, the first is row {row} (like row {original}).", row
        )
    seen: dict[bytes, int] = {}
    repeated = []
    for start, end in zip(d.episode_starts.tolist(), d.episode_ends.tolist(), strict=True):
        original = seen.setdefault(hashlib.sha256(hashes[start:end].tobytes()).digest(), start)
        if original != start:
            repeated.append((start, original))
    if repeated:
        row, original = repeated[0]
        many = "1 whole episode repeats" if len(repeated) == 1 else f"{len(repeated)} whole episodes repeat"
        message = f"{many} an earlier one, the first begins at row {row} (like that at row {original})."
        yield Finding("defect", "duplicates", message, row)
