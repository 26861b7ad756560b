"""Transitions in memory, and the stream of batches drawn from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlsuite.errors import UserError

if TYPE_CHECKING:
    from stable_baselines3.common.buffers import ReplayBuffer

ARRAYS = (
    "observations",
    "actions",
    "rewards",
    "next_observations",
    "terminations",
    "truncations",
    "episode_starts",
)


def array_head(key: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What stands before an array's bytes in a content hash."""
    return f"{key} {dtype.str} {shape}\n".encode()


class Batch(NamedTuple):
    """B transitions; `indices` (B,) are their rows in the dataset."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminations: Tensor  # float32: 1 where the episode truly ended, so that (1 - terminations) masks the bootstrap
    indices: Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """N transitions of E episodes as contiguous tensors on one device.

    `terminations` says that the state is terminal (no bootstrap), `truncations` that the episode was cut there by a
    time limit or by the end of the recording; an episode may end with neither. Rows of one episode are adjacent and in
    order; `episode_starts` holds the first row of each.
    """

    observations: Tensor  # (N, observation_dim) float32
    actions: Tensor  # (N, action_dim) float32
    rewards: Tensor  # (N,) float32
    next_observations: Tensor  # (N, observation_dim) float32, always the true successor
    terminations: Tensor  # (N,) bool
    truncations: Tensor  # (N,) bool
    episode_starts: Tensor  # (E,) int64, ascending, the first is 0
    name: str = "unnamed"
    env_id: str | None = None
    action_low: np.ndarray | None = field(default=None)  # (action_dim,), None where unknown
    action_high: np.ndarray | None = field(default=None)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def observation_dim(self) -> int:
        return self.observations.shape[1]

    @property
    def action_dim(self) -> int:
        return self.actions.shape[1]

    @property
    def device(self) -> torch.device:
        return self.rewards.device

    @property
    def episode_ends(self) -> Tensor:
        """(E,) int64: one past the last row of each episode."""
        end = torch.tensor([len(self)], device=self.device)
        return torch.cat([self.episode_starts[1:], end])

    @property
    def max_action(self) -> float:
        """The bound a of actions in [-a, a]^action_dim.

        Raises UserError where bounds are unknown, asymmetric or differ by dimension: tanh policies scale by one number.
        """
        if self.action_low is None or self.action_high is None:
            raise UserError(f"the action bounds of {self.name} are unknown; name its environment with --env.")
        bound = float(self.action_high[0])
        if not (np.all(self.action_high == bound) and np.all(self.action_low == -bound)):
            bounds = f"(low {self.action_low}, high {self.action_high}); rescale the actions to [-1, 1]."
            raise UserError(f"the action bounds of {self.name} are not one symmetric interval {bounds}")
        return bound

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) over names, shapes, dtypes and bytes of all arrays; names the data in every result row."""
        digest = hashlib.sha256()
        for key in ARRAYS:
            array = np.ascontiguousarray(getattr(self, key).cpu().numpy())
            digest.update(array_head(key, array.dtype, array.shape))
            digest.update(array.data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> Dataset:
        return replace(self, **{key: getattr(self, key).to(device) for key in ARRAYS})

    def episode_returns(self) -> np.ndarray:
        """(E,) float64: undiscounted sum of the rewards of each episode."""
        rewards = self.rewards.cpu().double().numpy()
        return np.add.reduceat(rewards, self.episode_starts.cpu().numpy()) if len(self) else rewards

    def observation_statistics(self, epsilon: float = 1e-3) -> tuple[Tensor, Tensor]:
        """Mean and population standard deviation + `epsilon`, each (observation_dim,), over `observations`."""
        observations = self.observations.double()
        mean, std = observations.mean(0), observations.std(0, correction=0)
        return mean.float(), std.float() + epsilon

    def normalized(self, mean: Tensor, std: Tensor) -> Dataset:
        """The same transitions with (x - mean) / std for x in observations and next_observations."""
        return replace(
            self,
            observations=torch.sub(self.observations, mean).div_(std),
            next_observations=torch.sub(self.next_observations, mean).div_(std),
        )

    def take_episodes(self, episodes: np.ndarray) -> Dataset:
        """The transitions of the given episodes (indices into `episode_starts`), in the given order."""
        starts = self.episode_starts.cpu().numpy()[episodes]
        lengths = self.episode_ends.cpu().numpy()[episodes] - starts
        rows = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
        index = torch.from_numpy(rows).to(self.device)
        arrays = {key: getattr(self, key)[index] for key in ARRAYS if key != "episode_starts"}
        new_starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        return replace(self, **arrays, episode_starts=torch.from_numpy(new_starts).to(self.device))

    def split(self, fraction: float, rng: np.random.Generator) -> tuple[Dataset, Dataset]:
        """Training and validation part; about `fraction` of the episodes, whole ones, go into the second."""
        episodes = len(self.episode_starts)
        held_out = round(fraction * episodes)
        if not 0 < held_out < episodes:
            raise UserError(
                f"{self.name} has {episodes} episodes, so a fraction of {fraction} cannot be held out; "
                "choose one that leaves at least one episode in each part."
            )
        order = rng.permutation(episodes)
        return (
            self.take_episodes(np.sort(order[held_out:])),
            self.take_episodes(np.sort(order[:held_out])),
        )

    def fill(self, buffer: ReplayBuffer) -> None:
        """Append all transitions to a Stable-Baselines3 `ReplayBuffer`, as its SAC and TD3 would have stored them.

        Actions are scaled from the bounds of the buffer's action space to [-1, 1]; an episode's end counts as done, and
        as a time-out where it was truncated but not terminal, if the buffer tells these apart. Raises UserError, and
        leaves the buffer as it was, for other spaces, too little room, several environments or shared observations.
        """
        low, high = (getattr(buffer.action_space, name, np.nan) for name in ("low", "high"))
        bounds = self.action_low, self.action_high
        own = (low, high) if bounds[0] is None or bounds[1] is None else np.stack([bounds[0], bounds[1]])
        shapes = buffer.observation_space.shape, buffer.action_space.shape
        fits = shapes == ((self.observation_dim,), (self.action_dim,)) and np.isfinite((low, high)).all()
        if not (fits and np.array_equal((low, high), own)):
            raise UserError(
                f"a replay buffer for {buffer.observation_space} and {buffer.action_space} cannot take {self.name}, "
                f"whose observations have {self.observation_dim} numbers and actions {self.action_dim} (bounds "
                f"{bounds[0]} and {bounds[1]}); make it for the environment of the data."
            )
        if buffer.n_envs != 1 or buffer.optimize_memory_usage:
            raise UserError(
                f"{self.name} cannot fill a replay buffer of {buffer.n_envs} environments or one that keeps no next "
                "observations; make it with n_envs=1 and optimize_memory_usage=False."
            )
        room = 0 if buffer.full else buffer.buffer_size - buffer.pos
        if len(self) > room:
            raise UserError(
                f"{self.name} has {len(self)} transitions, but the replay buffer has room for {room}; make it larger "
                "(buffer_size), or load fewer steps."
            )
        rows = slice(buffer.pos, buffer.pos + len(self))
        arrays = {key: getattr(self, key).cpu().numpy() for key in ARRAYS}
        buffer.observations[rows, 0] = arrays["observations"]
        buffer.next_observations[rows, 0] = arrays["next_observations"]
        buffer.actions[rows, 0] = 2.0 * ((arrays["actions"] - low) / (high - low)) - 1.0
        buffer.rewards[rows, 0] = arrays["rewards"]
        buffer.dones[rows, 0] = arrays["terminations"] | arrays["truncations"]
        if buffer.handle_timeout_termination:
            buffer.timeouts[rows, 0] = arrays["truncations"] & ~arrays["terminations"]
        buffer.pos = (buffer.pos + len(self)) % buffer.buffer_size
        buffer.full = len(self) == room

    def batches(self, batch_size: int, rng: np.random.Generator) -> Batches:
        """An endless stream of batches of rows drawn uniformly with replacement by `rng`."""
        return Batches(self, batch_size, rng)


class Batches:
    """An endless, resumable iterator of batches.

    Indices are drawn in blocks of `BLOCK` batches, because at batch 256 a call of the generator costs as much as a
    layer of the network.
    """

    BLOCK = 256

    def __init__(self, dataset: Dataset, batch_size: int, rng: np.random.Generator) -> None:
        if batch_size < 1 or len(dataset) == 0:
            raise UserError(f"cannot draw batches of {batch_size} from {len(dataset)} transitions of {dataset.name}.")
        self.dataset, self.batch_size, self.rng = dataset, batch_size, rng
        self._draw()

    def _draw(self) -> None:
        self._block_state: dict[str, Any] = dict(self.rng.bit_generator.state)
        rows = self.rng.integers(len(self.dataset), size=(self.BLOCK, self.batch_size), dtype=np.int64)
        self._block = torch.from_numpy(rows).to(self.dataset.device)
        self._position = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._position == self.BLOCK:
            self._draw()
        indices = self._block[self._position]
        self._position += 1
        d = self.dataset
        return Batch(  # index_select is several times as fast as [] here
            d.observations.index_select(0, indices),
            d.actions.index_select(0, indices),
            d.rewards.index_select(0, indices),
            d.next_observations.index_select(0, indices),
            d.terminations.index_select(0, indices).float(),
            indices,
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: the generator before the current block, and the position in the block."""
        return {"generator": self._block_state, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["generator"]
        self._draw()
        self._position = state["position"]
