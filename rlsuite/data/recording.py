"""Recorded episodes with the dtypes they were written with: what the readers give and the writers take."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from rlsuite.data.dataset import ARRAYS, Dataset
from rlsuite.errors import UserError


class Episode(NamedTuple):
    """T transitions as Minari stores them: one more observation than actions."""

    observations: np.ndarray  # (T + 1, observation_dim)
    actions: np.ndarray  # (T, action_dim)
    rewards: np.ndarray  # (T,)
    terminations: np.ndarray  # (T,) bool
    truncations: np.ndarray  # (T,) bool
    seed: int | None = None  # of the reset that began it


@dataclass(frozen=True)
class Space:
    """A flat Box: bounds of shape (dim,) and the dtype name."""

    low: np.ndarray
    high: np.ndarray
    dtype: str

    @classmethod
    def unbounded(cls, dim: int, dtype: np.dtype[Any]) -> Space:
        return cls(np.full(dim, -np.inf), np.full(dim, np.inf), str(dtype))

    @property
    def dim(self) -> int:
        return len(self.low)

    def bounds(self) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
        """float32 bounds, or None where they say nothing."""
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            return None, None
        return self.low.astype(np.float32), self.high.astype(np.float32)

    def to_json(self) -> str:
        """As Minari's metadata spell it (infinities included, so not strict JSON)."""
        low, high = (x.astype(self.dtype).tolist() for x in (self.low, self.high))
        return json.dumps({"type": "Box", "dtype": self.dtype, "shape": [self.dim], "low": low, "high": high})

    @classmethod
    def from_json(cls, text: str, what: str, where: str) -> Space:
        """Raises UserError, naming the space, for anything but a flat Box."""
        value = json.loads(text)
        kind, shape = value.get("type"), value.get("shape")
        if kind != "Box" or len(shape) != 1:
            described = f"{kind}{tuple(shape)}" if shape is not None else f"{kind}"
            raise UserError(f"{where} has {what} of space {described}, and only flat Box spaces can be read so far.")
        low, high = (np.array(value[key], np.float64) for key in ("low", "high"))
        return cls(low, high, value["dtype"])


@dataclass(frozen=True)
class Header:
    """What a recording says about itself beside its arrays."""

    observation_space: Space
    action_space: Space
    env_spec: str | None = None  # Gymnasium's EnvSpec as JSON
    metadata: Mapping[str, Any] = field(default_factory=dict)  # author, description, recipe ...

    @property
    def env_id(self) -> str | None:
        return json.loads(self.env_spec)["id"] if self.env_spec else None

    def to_json(self) -> str:
        return json.dumps(
            {
                "observation_space": self.observation_space.to_json(),
                "action_space": self.action_space.to_json(),
                "env_spec": self.env_spec,
                "metadata": dict(self.metadata),
            }
        )

    @classmethod
    def from_json(cls, text: str, where: str) -> Header:
        value = json.loads(text)
        return cls(
            Space.from_json(value["observation_space"], "observations", where),
            Space.from_json(value["action_space"], "actions", where),
            value["env_spec"],
            value["metadata"],
        )


@dataclass(frozen=True)
class Recording:
    """N transitions of E episodes in NumPy; the fields are those of `Dataset`, in the dtypes of the source."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    episode_starts: np.ndarray
    name: str
    header: Header

    def __len__(self) -> int:
        return len(self.rewards)

    def first(self, steps: int | None) -> Recording:
        """The first `steps` transitions; an episode that is cut short gets a truncation at its last row."""
        if steps is None or steps == len(self):
            return self
        if not 0 < steps <= len(self):
            raise UserError(f"{self.name} has {len(self)} transitions, so the first {steps} cannot be taken from it.")
        truncations = self.truncations[:steps].copy()
        if steps not in self.episode_starts and not self.terminations[steps - 1]:
            truncations[-1] = True
        return replace(
            self,
            observations=self.observations[:steps],
            actions=self.actions[:steps],
            rewards=self.rewards[:steps],
            next_observations=self.next_observations[:steps],
            terminations=self.terminations[:steps],
            truncations=truncations,
            episode_starts=self.episode_starts[self.episode_starts < steps],
        )

    def episodes(self) -> Iterator[Episode]:
        """Whole episodes in order.

        Raises UserError where a row's next observation is not, bit for bit, the observation of the row after it: such
        an episode cannot be written as a sequence of observations.
        """
        ends = np.append(self.episode_starts[1:], len(self))
        for start, end in zip(self.episode_starts, ends, strict=True):
            observations, successors = self.observations[start:end], self.next_observations[start:end]
            broken = np.flatnonzero((_bytes(observations[1:]) != _bytes(successors[:-1])).any(1))
            if len(broken):
                raise UserError(
                    f"row {start + broken[0]} of {self.name} does not lead to the row after it, so its episode is no "
                    "sequence of observations; write it as npz or D4RL HDF5 instead."
                )
            yield Episode(
                np.concatenate([observations, successors[-1:]]),
                self.actions[start:end],
                self.rewards[start:end],
                self.terminations[start:end],
                self.truncations[start:end],
            )

    def dataset(self, steps: int | None = None) -> Dataset:
        """The first `steps` transitions in memory as float32."""
        part = self.first(steps)
        low, high = self.header.action_space.bounds()

        def tensor(array: np.ndarray, dtype: Any) -> torch.Tensor:
            with np.errstate(over="ignore"):  # what does not fit becomes inf, which the doctor reports with its row
                return torch.from_numpy(np.array(array, dtype=dtype, order="C"))

        return Dataset(
            tensor(part.observations, np.float32),
            tensor(part.actions, np.float32),
            tensor(part.rewards, np.float32),
            tensor(part.next_observations, np.float32),
            tensor(part.terminations, np.bool_),
            tensor(part.truncations, np.bool_),
            tensor(part.episode_starts, np.int64),
            name=self.name,
            env_id=self.header.env_id,
            action_low=low,
            action_high=high,
        )

    @classmethod
    def of(cls, dataset: Dataset) -> Recording:
        """A Dataset as a recording in float32."""
        low, high = dataset.action_low, dataset.action_high
        observation_space = Space.unbounded(dataset.observation_dim, np.dtype(np.float32))
        action_space = (
            Space.unbounded(dataset.action_dim, np.dtype(np.float32))
            if low is None or high is None
            else Space(low, high, "float32")
        )
        return cls(
            **{key: getattr(dataset, key).cpu().numpy() for key in ARRAYS},
            name=dataset.name,
            header=Header(observation_space, action_space, env_spec(dataset.env_id)),
        )


def _bytes(rows: np.ndarray) -> np.ndarray:
    """(T, bytes) uint8: -0 is not 0 here, and NaN is itself."""
    return np.ascontiguousarray(rows).view(np.uint8)


def env_spec(env_id: str | None) -> str | None:
    """Gymnasium's EnvSpec of a registered id as JSON; None for an unknown id."""
    if env_id is None:
        return None
    import gymnasium as gym

    try:
        return gym.spec(env_id).to_json()
    except gym.error.Error:
        return None
