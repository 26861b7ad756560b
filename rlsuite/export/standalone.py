"""What stands around an algorithm in an exported file: the same random streams, the same calls on environments and
data in the same order, evaluation and files; but no resume, no Atari, and only datasets that are there.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import inspect
import json
import math
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from rlsuite.data.dataset import ARRAYS, Batch, Dataset
from rlsuite.errors import UserError
from rlsuite.harness.environments import Transition
from rlsuite.harness.smoothing import SmoothedSlots, split_view
from rlsuite.harness.trajectories import Sampler

BATCH = 16  # rows of every forward pass of an evaluation: the last bits of a product depend on its shape
ALIASES = {"terminations": "terminals", "truncations": "timeouts"}


@dataclass(frozen=True)
class Settings:
    """What every run has, whatever its algorithm."""

    seed: int = 0
    """root of all random streams of the run"""
    device: str = "cpu"
    """torch device, cpu or cuda"""
    threads: int = 1
    """torch threads; the bits of a result depend on it"""
    eval_every: int = 5000
    """updates between interim evaluations; 0 for none"""
    eval_episodes: int = 10
    """episodes of an interim evaluation"""
    final_episodes: int = 100
    """fresh episodes of the final evaluation"""
    log_every: int = 1000
    """updates between logged metrics"""
    run_dir: str = "run"
    """folder for metrics.jsonl, evaluations.jsonl and weights.npz"""


class Run:
    """What `train(config, run)` is given."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.device = settings, torch.device(settings.device)
        self.directory, self.env_id = Path(settings.run_dir), ""
        self.update = 0  # the position: updates of an offline method, environment steps of an online one
        self.logged = 0  # the position of the last metrics
        self.online = False
        self.metrics: dict[str, float] = {}
        self.tracked: dict[str, Any] = {}
        self.streams: dict[str, np.random.Generator] = {}

    def rng(self, name: str) -> np.random.Generator:
        """The random stream `name`: the same object on every call."""
        sequence = np.random.SeedSequence(self.settings.seed, spawn_key=words(name))
        return self.streams.setdefault(name, np.random.default_rng(sequence))

    def dataset(self, name: str, steps: int = 0, env: str = "") -> Dataset:
        """Load a dataset, with the action bounds of the environment to evaluate in."""
        dataset = load(name, steps)
        self.env_id = env or dataset.env_id or ""
        if not self.env_id:
            raise UserError(f"{name} does not name its environment; add the one to evaluate in, as in --env Hopper-v5.")
        space = make_env(self.env_id).action_space
        if not isinstance(space, gym.spaces.Box) or space.shape != (dataset.action_dim,):
            raise UserError(f"the actions of {name} are not those of {self.env_id}; name its environment with --env.")
        return replace(dataset, action_low=space.low, action_high=space.high).to(self.device)

    def environments(self, env_id: str, n: int = 1) -> Environments:
        """n training copies of `env_id`, which is also what the run is evaluated in; the run counts their steps."""
        self.env_id, self.online = env_id, True
        return Environments(env_id, n, self.rng)

    def sampler(self, env_id: str, n: int = 1, horizon: int = 0, name: str = "") -> Sampler:
        """What plays whole episodes of `env_id`, in which the run is also evaluated; the run counts their steps."""
        self.env_id, self.online = env_id, True
        return Sampler(env_id, n, self.rng, horizon, name, self.advance)

    def task(self, env_id: str, needs: str) -> Any:
        """The bare environment of `env_id`, for methods that play it by its attribute `needs`; the run counts steps."""
        env = make_env(env_id).unwrapped
        if not hasattr(env, needs):
            raise UserError(f"the environment {env_id} has no `{needs}`, by which this method plays it; name another.")
        self.env_id, self.online = env_id, True
        return env

    def advance(self, steps: int) -> None:
        """Count environment steps of an update, in a loop with the stride 0."""
        self.update = min(self.update + steps, self.last)

    @property
    def place(self) -> str:
        """The position in words."""
        return f"{'step' if self.online else 'update'} {self.update}"

    def track(self, **objects: Any) -> None:
        """Name the objects whose networks are saved at the end."""
        self.tracked.update(objects)

    @property
    def logging(self) -> bool:
        """Whether metrics given now are kept: a multiple of `log_every` was reached since they last were."""
        every = self.settings.log_every
        return self.update // every > self.logged // every

    def log(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Keep the metrics of this update if it is a logged one."""
        if self.logging:
            self.metrics, self.logged = {key: float(value) for key, value in metrics.items()}, self.update

    def warn(self, message: str) -> None:
        """Say that something is amiss which does not end the run."""
        print(f"warning: {message}", file=sys.stderr)

    def loop(self, updates: int, policy: Any, stride: int = 1) -> Iterator[int]:
        """Yield the positions up to `updates`, in strides (0: as `advance` counts); log, and evaluate `policy`."""
        if updates < stride:
            raise UserError(f"the run is {updates} long, less than the {stride} of one update; ask for more.")
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            (self.directory / name).unlink(missing_ok=True)
        s, every, self.last = self.settings, self.settings.eval_every, updates - updates % max(1, stride)
        if self.online and every:
            self.evaluate("interim", s.eval_episodes, policy, 0)
        while self.update < self.last:
            before, self.update = self.update, self.update + stride
            yield self.update
            if self.metrics:
                if not all(map(math.isfinite, self.metrics.values())):
                    raise FloatingPointError(f"a metric is not finite at {self.update}: {self.metrics}")
                self.append("metrics.jsonl", {"update": self.update, **self.metrics})
                print(f"{self.update:>9}  " + "  ".join(f"{key} {value:.4g}" for key, value in self.metrics.items()))
                self.metrics = {}
            if every and self.update // every > before // every and self.update < self.last:
                self.evaluate("interim", s.eval_episodes, policy, self.update - (0 if stride else self.update % every))
        # Every network that is an attribute of a tracked object, as `object.attribute.weight`.
        arrays: dict[str, Any] = {}
        for name, k, part in (
            (name, *item) for name, tracked in self.tracked.items() for item in vars(tracked).items()
        ):
            if isinstance(part, nn.Module):
                arrays |= {f"{name}.{k}.{key}": w.cpu().numpy() for key, w in part.state_dict().items()}
        np.savez(self.directory / "weights.npz", allow_pickle=False, **arrays)
        self.evaluate("final", self.settings.final_episodes, policy, self.update)

    def evaluate(self, phase: str, episodes: int, policy: Any, position: int) -> None:
        """Play episodes, and store a row for each."""
        # They are the same for every algorithm and training seed, and no training episode has such a seed.
        sequence = np.random.SeedSequence(words(f"evaluation 1 {self.env_id} {phase}"))
        seeds = [int(word) | 1 << 31 for word in sequence.generate_state(episodes)]
        played = evaluate(policy.act, self.env_id, seeds, stochastic=getattr(policy, "stochastic", False))
        for k, e in enumerate(played):
            row = {"phase": phase, "update": position, "episode": k, "episode_seed": e.seed, "return": e.total}
            row |= {"length": e.length, "terminated": e.terminated, "truncated": e.truncated}
            self.append("evaluations.jsonl", row)
        print(f"{phase} evaluation at {position}: return {np.mean([e.total for e in played]):.1f}", flush=True)

    def append(self, name: str, row: dict[str, Any]) -> None:
        with (self.directory / name).open("a") as file:
            file.write(json.dumps(row) + "\n")


def words(text: str) -> tuple[int, ...]:
    """Four numbers that stand for a text."""
    return tuple(np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "<u4").tolist())


class Slots:
    """Copies of an environment, each reset by number and seed."""

    def __init__(self, env_id: str, n: int) -> None:
        self.envs = [make_env(env_id) for _ in range(n)]
        first: Any = self.envs[0]
        self.observation_space, self.action_space = first.observation_space, first.action_space

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> list[np.ndarray]:
        return [self.envs[k].reset(seed=seed)[0] for k, seed in zip(slots, seeds, strict=True)]

    def step(self, slots: Sequence[int] | np.ndarray, actions: np.ndarray) -> tuple[Any, ...]:
        """Over `slots`: observations, rewards, terminations, truncations, infos. `actions` has a row for every copy."""
        played: Any = [self.envs[k].step(actions[k]) for k in slots]
        return tuple(zip(*played, strict=True))

    def close(self) -> None:
        for env in self.envs:
            env.close()


def make_slots(env_id: str, n: int) -> Slots:
    return Slots(env_id, n)


def make_seen_slots(env_id: str, n: int) -> Slots | SmoothedSlots:
    """n copies of an environment, with the view that its name asks for."""
    name, view = split_view(env_id)
    slots: Any = Slots(name, n)
    return slots if view is None else SmoothedSlots(slots, n, view)


def evaluation_seeds(env_id: str, phase: str, episodes: int) -> list[int]:
    """Of episodes that are the same for every algorithm and training seed; no training episode has such a seed."""
    sequence = np.random.SeedSequence(words(f"evaluation 1 {env_id} {phase}"))
    return [int(word) | 1 << 31 for word in sequence.generate_state(episodes)]


def evaluate(
    act: Callable[..., np.ndarray], env_id: str, seeds: Sequence[int], stochastic: bool = False
) -> list[SimpleNamespace]:
    """Play one episode for each of `seeds`, up to `BATCH` at a time; no episode changes what happens in another.

    Gives the seed, total (undiscounted return), length and flags terminated and truncated of each.
    """
    slots = make_slots(env_id, min(BATCH, len(seeds)))
    episodes = [SimpleNamespace(seed=seed, total=0.0, length=0) for seed in seeds]
    observations = np.zeros((BATCH, *slots.observation_space.shape), np.float32)
    streams, uniforms = [np.random.default_rng(seed) for seed in seeds], np.zeros(BATCH)
    for first in range(0, len(seeds), BATCH):
        running = list(range(min(BATCH, len(seeds) - first)))
        observations[running] = slots.reset(running, seeds[first : first + BATCH])
        while running:
            if stochastic:
                uniforms[running] = [streams[first + k].random() for k in running]
            actions = act(observations, uniforms) if stochastic else act(observations)
            for k, observation, reward, *flags, _ in zip(list(running), *slots.step(running, actions), strict=True):
                observations[k] = observation
                episode = episodes[first + k]
                episode.total += float(reward)
                episode.length += 1
                episode.terminated, episode.truncated = map(bool, flags)
                if any(flags):
                    running.remove(k)
    return episodes


def evaluate_each(
    act: Callable[..., np.ndarray], env_id: str, seeds: Sequence[int], stochastic: bool = False
) -> list[SimpleNamespace]:
    """Play an episode for each of `seeds`, `BATCH` at a time: its undiscounted return, length and how it ended."""
    envs: list[Any] = [make_env(env_id) for _ in seeds[:BATCH]]
    episodes = [SimpleNamespace(seed=seed, total=0.0, length=0) for seed in seeds]
    observations = np.zeros((BATCH, *envs[0].observation_space.shape), np.float32)
    streams, uniforms = [np.random.default_rng(seed) for seed in seeds], np.zeros(BATCH)
    for first in range(0, len(seeds), BATCH):
        running = list(range(min(BATCH, len(seeds) - first)))
        for k in running:
            observations[k], _ = envs[k].reset(seed=seeds[first + k])
        while running:
            if stochastic:
                uniforms[running] = [streams[first + k].random() for k in running]
            actions = act(observations, uniforms) if stochastic else act(observations)
            for k in list(running):
                observations[k], reward, *flags, _ = envs[k].step(actions[k])
                episode = episodes[first + k]
                episode.total += float(reward)
                episode.length += 1
                episode.terminated, episode.truncated = map(bool, flags)
                if any(flags):
                    running.remove(k)
    return episodes


class Environments:
    """n training copies of one environment. Nothing resets itself: an episode begins with a seed of its own.

    A step gives the true successor of every observation; `observations` is what to act on next, the first observation
    of a new episode where one has just ended.
    """

    def __init__(self, env_id: str, n: int, rng: Callable[[str], np.random.Generator]) -> None:
        self.n, self.slots = n, make_slots(env_id, n)
        self.observation_space, self.action_space = self.slots.observation_space, self.slots.action_space
        if not isinstance(self.observation_space, gym.spaces.Box):
            raise UserError(f"{env_id} has observations {self.observation_space}; wrap it so that they are a Box.")
        actions, one_axis = self.action_space, len(self.action_space.shape or ()) == 1
        if not (isinstance(actions, gym.spaces.Discrete) or (isinstance(actions, gym.spaces.Box) and one_axis)):
            raise UserError(
                f"{env_id} has actions {actions}; wrap it so that they are a Discrete or a Box of one axis."
            )
        self.streams = [rng(f"env {k}") for k in range(n)]
        self.observations = np.zeros((n, *self.observation_space.shape), np.float32)
        self.returns, self.lengths = np.zeros(n), np.zeros(n)  # of the running episodes
        self.finished: list[tuple[float, float]] = []
        self.started = False

    def begin(self) -> None:
        """Start the first episodes, unless that was done."""
        if not self.started:
            self.started = True
            self._reset(list(range(self.n)))

    def step(self, actions: np.ndarray) -> Transition:
        """Let every copy take its action: (n, action_dim) floats within the bounds, or (n,) whole numbers."""
        observations, rewards, terminations, truncations, _ = self.slots.step(range(self.n), actions)
        self.observations = following = np.array(observations, np.float32)
        if not (np.isfinite(following).all() and np.isfinite(rewards).all()):
            raise FloatingPointError("an observation or a reward is not finite")
        self.returns += rewards
        self.lengths += 1
        flags = np.asarray(terminations, bool), np.asarray(truncations, bool)
        if ended := np.flatnonzero(flags[0] | flags[1]).tolist():
            self.observations = following.copy()
            self.finished += zip(self.returns[ended].tolist(), self.lengths[ended].tolist(), strict=True)
            self._reset(ended)
        return Transition(following, np.asarray(rewards, np.float32), *flags)

    def statistics(self) -> dict[str, float]:
        """Mean return and length of the training episodes that ended since the last call; nothing if none did."""
        done, self.finished = self.finished, []
        if not done:
            return {}
        total, length = (sum(part) / len(done) for part in zip(*done, strict=True))
        return {"episode_return": total, "episode_length": length, "episodes": float(len(done))}

    def _reset(self, slots: list[int]) -> None:
        seeds = [int(self.streams[k].integers(1 << 31)) for k in slots]
        self.observations[slots] = self.slots.reset(slots, seeds)
        self.returns[slots] = self.lengths[slots] = 0


def make_env(env_id: str) -> gym.Env:
    """`gymnasium.make` with flat observations."""
    env = gym.make(env_id, disable_env_checker=True)
    flat = isinstance(env.observation_space, gym.spaces.Box) and len(env.observation_space.shape) == 1
    return env if flat else gym.wrappers.FlattenObservation(env)


class Batches(Iterator[Batch]):
    """An endless stream of batches of rows drawn uniformly with replacement.

    They are drawn in blocks, because at batch 256 a call of the generator costs as much as a layer of the network.
    """

    def __init__(self, dataset: Dataset, batch_size: int, rng: np.random.Generator) -> None:
        if batch_size < 1 or len(dataset) == 0:
            raise UserError(f"cannot draw batches of {batch_size} from {len(dataset)} transitions of {dataset.name}.")
        blocks = (rng.integers(len(dataset), size=(256, batch_size), dtype=np.int64) for _ in count())
        self.dataset, self.rows = dataset, (r for block in blocks for r in torch.from_numpy(block).to(dataset.device))

    def __next__(self) -> Batch:
        d, rows = self.dataset, next(self.rows)
        arrays = d.observations, d.actions, d.rewards, d.next_observations, d.terminations
        parts = [x.index_select(0, rows) for x in arrays]  # several times as fast as [] here
        return Batch._make([*parts[:4], parts[4].float(), rows])


def load(name: str, steps: int | None = None) -> Dataset:
    """A D4RL-layout HDF5 file, an npz of such columns, or a Minari dataset by id or folder; the first `steps` rows.

    Any of them followed by #1 or #1,10 is these episodes alone, counted from 0.
    """
    match = re.fullmatch(r"(.+)#([0-9]+(?:,[0-9]+)*)", name)
    whole = match[1] if match else name
    columns, env_id = (read_columns if Path(whole).suffix in (".hdf5", ".h5", ".npz") else read_minari)(whole)
    *arrays, starts = with_successors(columns)
    if steps:
        if steps > len(arrays[0]):
            raise UserError(f"{name} has {len(arrays[0])} transitions, so the first {steps} cannot be taken.")
        arrays = [array[:steps] for array in arrays]
        arrays[5][-1] |= steps not in starts and not arrays[4][-1]  # cut there
        starts = starts[starts < steps]
    if match:
        bounds = np.append(starts, len(arrays[0]))
        parts = [np.arange(*bounds[int(k) :][:2]) for k in match[2].split(",")]
        arrays = [array[np.concatenate(parts)] for array in arrays]
        starts = np.cumsum([0, *map(len, parts[:-1])])
    kinds = [np.float32] * 4 + [np.bool_] * 2 + [np.int64]
    tensors: Any = [
        torch.from_numpy(np.array(x, kind, order="C")) for x, kind in zip([*arrays, starts], kinds, strict=True)
    ]
    return Dataset(**dict(zip(ARRAYS, tensors, strict=True)), name=whole, env_id=env_id)


def read_columns(path: str) -> tuple[dict[str, np.ndarray], str]:
    """The columns of a file by D4RL's names, and the environment if the file says so."""
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}; check the path.")
    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as archive:
            columns = {ALIASES.get(key, key): archive[key] for key in archive.files}
        header = str(columns.get("rlsuite_header", ""))
    else:
        import h5py

        with h5py.File(path) as file:
            columns = {key: file[key][()] for key in file if isinstance(file[key], h5py.Dataset)}
            if "metadata/episode_starts" in file:
                columns["episode_starts"] = file["metadata/episode_starts"][()]
            header = str(file.attrs.get("rlsuite_header", ""))
    if missing := {"observations", "actions", "rewards", "terminals"} - columns.keys():
        raise UserError(f"{path} is no dataset of transitions: it lacks {', '.join(sorted(missing))}.")
    spec = json.loads(json.loads(header)["header"])["env_spec"] if header else None
    return columns, json.loads(spec)["id"] if spec else ""


def with_successors(columns: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Columns as transitions whose true successor is known, in episodes: the arrays of a `Dataset`.

    Without stored next observations that of row i is row i + 1 of its episode, so that time-out rows are dropped;
    without time-outs too, an episode is taken to time out after 1000 steps, as D4RL does.
    """
    size = len(columns["rewards"])
    observations, actions = (columns[key].reshape(size, -1) for key in ("observations", "actions"))
    terminals, every = columns["terminals"].reshape(-1).astype(bool), np.arange(size)
    timeouts = columns["timeouts"].reshape(-1).astype(bool) if "timeouts" in columns else None
    if "next_observations" in columns:
        rows, successors = every, columns["next_observations"].reshape(size, -1)
        cut = np.append((observations[1:] != successors[:-1]).any(1), False) if timeouts is None else timeouts
    else:
        begins = np.maximum.accumulate(np.where(np.append(False, terminals[:-1]), every, 0))
        cut = (every - begins) % 1000 == 999 if timeouts is None else timeouts.copy()
        cut[-1] = True
        rows = np.flatnonzero(terminals | ~cut)
        successors = observations[np.where(terminals, every, np.minimum(every + 1, size - 1))[rows]]
    ended = (terminals | cut)[rows]
    starts = columns.get("episode_starts", np.flatnonzero(np.append(True, ended[:-1] | (np.diff(rows) > 1))))
    truncations = np.zeros(len(rows), bool) if timeouts is None else timeouts[rows]
    if "next_observations" not in columns or timeouts is None:
        last = np.append(starts[1:], len(rows)) - 1
        truncations[last] |= ~terminals[rows][last]
    kept = [array[rows] for array in (observations, actions, columns["rewards"].reshape(-1))]
    return [*kept, successors, terminals[rows], truncations, starts]


def read_minari(name: str) -> tuple[dict[str, np.ndarray], str]:
    """The columns of a Minari dataset by D4RL's names, and its environment."""
    import minari

    folder = next((path for path in (Path(name), Path(name) / "data") if (path / "metadata.json").is_file()), None)
    try:
        dataset = minari.MinariDataset(folder) if folder else minari.load_dataset(name)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"the dataset {name} cannot be read ({error}); fetch it, or give a file.") from error
    episodes = list(dataset.iterate_episodes())
    seen = [np.asarray(flat(dataset.observation_space, episode.observations)) for episode in episodes]
    columns = {"observations": np.concatenate([observations[:-1] for observations in seen])}
    columns["next_observations"] = np.concatenate([observations[1:] for observations in seen])
    for key in ("actions", "rewards", "terminations", "truncations"):
        columns[ALIASES.get(key, key)] = np.concatenate([getattr(episode, key) for episode in episodes])
    columns["episode_starts"] = np.cumsum([0] + [len(episode.rewards) for episode in episodes[:-1]])
    return columns, dataset.env_spec.id if dataset.env_spec else ""


def flat(space: gym.Space[Any], values: Any) -> np.ndarray:
    """Observations (T, ...) in a Box, or in a Dict of them, as (T, dim)."""
    if isinstance(space, gym.spaces.Dict):
        return np.concatenate([flat(part, values[key]) for key, part in space.spaces.items()], 1)
    return np.asarray(values).reshape(len(values), -1)


def parse(kind: Any, value: Any) -> Any:
    """A flag's text, or a preset, as a field of type `kind`."""
    arguments = typing.get_args(kind)
    try:
        if type(None) in arguments:
            return None if value in (None, "none") else parse(arguments[0], value)
        if typing.get_origin(kind) is typing.Literal:
            return arguments[[str(choice) for choice in arguments].index(value)]
        if typing.get_origin(kind) is tuple:
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(parse(arguments[0], part) for part in parts if part not in ("", "none"))
        return int(float(value)) if kind is int and "e" in str(value) else kind(value)
    except ValueError:
        raise UserError(f"'{value}' is no {getattr(kind, '__name__', kind)}; see --help.") from None


def main(train: Callable[..., None], config: type, presets: Mapping[str, Mapping[str, Any]]) -> None:
    """The command line: a flag for every field of the configuration and of `Settings`; presets by task."""
    parser = argparse.ArgumentParser(allow_abbrev=False, argument_default=argparse.SUPPRESS)
    kinds: dict[str, Any] = typing.get_type_hints(config) | typing.get_type_hints(Settings)
    source = "".join(inspect.getsource(cls) for cls in (*reversed(config.__mro__[:-1]), Settings))
    texts = dict(re.findall(r'^    (\w+): .*\n    """((?:.|\n)+?)"""', source, re.MULTILINE))  # below each field
    for f in fields(config) + fields(Settings):
        flag = "--" + f.name.rstrip("_").replace("_", "-")
        required, action = f.default is MISSING, argparse.BooleanOptionalAction if kinds[f.name] is bool else "store"
        text = texts[f.name].replace("%", "%%") + ("" if required else f" (default {f.default})")
        parser.add_argument(flag, dest=f.name, required=required, action=action, help=text)
    given = vars(parser.parse_args())
    task = str(given.get("dataset") or given.get("env")).lower()
    values: dict[str, Any] = {}
    for overrides in (v for pattern, v in presets.items() if fnmatch.fnmatch(task, pattern)):
        values |= {key if key in kinds else f"{key}_": value for key, value in overrides.items()}
    try:
        values = {key: parse(kinds[key], value) for key, value in (values | given).items() if key in kinds}
        own, settings = ({f.name: values[f.name] for f in fields(c) if f.name in values} for c in (config, Settings))
        run = Run(Settings(**settings))
        torch.set_num_threads(run.settings.threads)
        train(config(**own), run)
    except (UserError, FloatingPointError, gym.error.Error) as error:
        print(error, file=sys.stderr)
        sys.exit(3 if isinstance(error, FloatingPointError) else 2)
