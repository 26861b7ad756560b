"""Recorded episodes with the dtypes they were written with: what the readers give and the writers take."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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


class Part(NamedTuple):
    """A Box inside a space: the keys that lead to it, its shape and its dtype."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Space:
    """A flat Box: bounds of shape (dim,) and the dtype name.

    `layout` is Minari's JSON of what it was flattened from, if that was no flat Box: a Dict, possibly of Dicts, or a
    Box of another shape. The order of the numbers is that of `gymnasium.spaces.flatten`, the dtype the common one.
    """

    low: np.ndarray
    high: np.ndarray
    dtype: str
    layout: str | None = None

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

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The Boxes of which this is the concatenation; only itself, if it always was flat."""
        if self.layout is None:
            return (Part((), (self.dim,), np.dtype(self.dtype)),)
        return tuple(
            Part(path, tuple(box["shape"]), np.dtype(box["dtype"])) for path, box in _leaves(json.loads(self.layout))
        )

    def join(self, arrays: Sequence[np.ndarray], where: str) -> np.ndarray:
        """(T, dim) from the (T, *shape) of each part. Raises UserError for integers that the common dtype rounds."""
        if self.layout is None:
            return arrays[0]
        columns = []
        for part, array in zip(self.parts, arrays, strict=True):
            rows = array.astype(part.dtype, copy=False).reshape(len(array), math.prod(part.shape))
            columns.append(_cast(rows, np.dtype(self.dtype), part, where))
        return np.concatenate(columns, axis=1)

    def split(self, rows: np.ndarray, where: str) -> list[np.ndarray]:
        """The inverse of `join`. Raises UserError for numbers that a part's own dtype cannot hold."""
        if self.layout is None:
            return [rows]
        ends = np.cumsum([math.prod(part.shape) for part in self.parts])[:-1]
        return [
            _cast(columns, part.dtype, part, where).reshape(len(rows), *part.shape)
            for part, columns in zip(self.parts, np.split(rows, ends, axis=1), strict=True)
        ]

    def to_json(self) -> str:
        """As Minari's metadata spell it (infinities included, so not strict JSON)."""
        if self.layout is not None:
            return self.layout
        low, high = (x.astype(self.dtype).tolist() for x in (self.low, self.high))
        return json.dumps({"type": "Box", "dtype": self.dtype, "shape": [self.dim], "low": low, "high": high})

    @classmethod
    def from_json(cls, text: str, what: str, where: str) -> Space:
        """From Minari's JSON.

        Raises UserError, naming the space, for observations other than numbers in Boxes and Dicts of them and for
        actions other than a flat Box; ValueError, KeyError, TypeError or AttributeError where the JSON is damaged.
        """
        value = json.loads(text)
        leaves = list(_leaves(value))
        flat = value["type"] == "Box" and len(value["shape"]) == 1
        for path, leaf in leaves or [((), value)]:
            kind, shape = leaf["type"], leaf.get("shape")
            is_picture = leaf.get("dtype") == "uint8" and len(shape or ()) > 1
            if kind != "Box" or is_picture or (what == "actions" and not flat):
                described = kind if shape is None else f"{kind}{tuple(shape)} of {leaf.get('dtype')}"
                readable = "a flat Box" if what == "actions" else "numbers in a Box, or in a Dict of Boxes,"
                raise UserError(
                    f"{where} has {'/'.join((what, *path))} of space {described}, and only {readable} can be read."
                )
        low, high = (np.concatenate([_bound(leaf, key) for _, leaf in leaves]) for key in ("low", "high"))
        return cls(low, high, str(np.result_type(*(leaf["dtype"] for _, leaf in leaves))), None if flat else text)


def _leaves(value: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Keys and JSON of everything in a space that is no Dict, in the order of `gymnasium.spaces.flatten`."""
    if value["type"] == "Dict":
        for key, part in value["subspaces"].items():
            yield from _leaves(part, (*path, key))
    else:
        yield path, value


def _bound(box: dict[str, Any], key: str) -> np.ndarray:
    """(dim,) float64 of a Box in Minari's JSON; ValueError where its shape or dtype is not what the Box states."""
    bound = np.array(box[key], np.float64)
    if bound.shape != tuple(box["shape"]) or np.dtype(box["dtype"]).kind not in "biuf":
        raise ValueError(f"a Box of {box['dtype']} and shape {box['shape']} with bounds of shape {bound.shape}")
    return bound.ravel()


def _cast(array: np.ndarray, dtype: np.dtype[Any], part: Part, where: str) -> np.ndarray:
    """The same numbers in another dtype, or UserError."""
    if array.dtype == dtype:
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(dtype)
        back = cast.astype(array.dtype)
    if not np.array_equal(back, array, equal_nan=array.dtype.kind == "f"):
        name = "/".join(("observations", *part.path))
        raise UserError(
            f"{name} of {where} holds numbers of {array.dtype} that would change as {dtype}; give all parts of the "
            "observation space one dtype."
        )
    return cast


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
