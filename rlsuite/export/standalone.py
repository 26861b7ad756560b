"""What stands around an algorithm in an exported file: the same random streams, the same calls on environments and
data in the same order, evaluation and files; but no resume, no Atari, and only datasets that are there.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import inspect
import json
import math
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from rlsuite.data.dataset import Dataset
from rlsuite.data.names import split_episodes
from rlsuite.errors import UserError
from rlsuite.harness.environments import (
    TRAINING_SEEDS,
    Diverged,
    Episode,
    GymnasiumSlots,
    Transition,
    check_spaces,
    make_slots,
)
from rlsuite.harness.evaluation import evaluate
from rlsuite.harness.seeding import Streams, evaluation_seeds
from rlsuite.harness.smoothing import SmoothedSlots, split_view

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
        self.settings, self.device, self.rng = settings, torch.device(settings.device), Streams(settings.seed)
        self.directory = Path(settings.run_dir)
        self.env_id = ""
        self.update = 0  # the position: updates of an offline method, environment steps of an online one
        self._online = False
        self._logged = 0  # the position of the last metrics
        self._metrics: dict[str, float] = {}
        self._tracked: dict[str, Any] = {}

    def dataset(self, name: str, steps: int = 0, env: str = "") -> Dataset:
        """Load a dataset, with the action bounds of the environment to evaluate in."""
        dataset = load(name, steps)
        self.env_id = env or dataset.env_id or ""
        if not self.env_id:
            raise UserError(f"{name} does not name its environment; add the one to evaluate in, as in --env Hopper-v5.")
        environment = make_env(self.env_id)
        space = environment.action_space
        environment.close()
        if not isinstance(space, gym.spaces.Box) or space.shape != (dataset.action_dim,):
            raise UserError(f"the actions of {name} are not those of {self.env_id}; name its environment with --env.")
        return replace(dataset, action_low=space.low, action_high=space.high).to(self.device)

    def environments(self, env_id: str, n: int = 1) -> Environments:
        """n training copies of `env_id`, which is also what the run is evaluated in; the run counts their steps."""
        self.env_id, self._online = env_id, True
        return Environments(env_id, n, self.rng)

    def track(self, **objects: Any) -> None:
        """Name the objects whose networks are saved at the end."""
        self._tracked.update(objects)

    @property
    def logging(self) -> bool:
        """Whether metrics given now are kept: a multiple of `log_every` was reached since they last were."""
        every = self.settings.log_every
        return self.update // every > self._logged // every

    def log(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Keep the metrics of this update if it is a logged one."""
        if self.logging:
            self._metrics = {key: float(value) for key, value in metrics.items()}
            self._logged = self.update

    def warn(self, message: str) -> None:
        """Say that something is amiss which does not end the run."""
        print(f"warning: {message}", file=sys.stderr)

    def loop(self, updates: int, policy: Any, stride: int = 1) -> Iterator[int]:
        """Yield the positions up to `updates` in strides; log, and evaluate `policy` now and at the end."""
        if updates < stride:
            raise UserError(f"the run is {updates} long, less than the {stride} of one update; ask for more.")
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            (self.directory / name).unlink(missing_ok=True)
        every, last = self.settings.eval_every, updates - updates % stride
        if self._online and every:
            self._evaluate("interim", self.settings.eval_episodes, policy)
        while self.update < last:
            self.update += stride
            yield self.update
            self._write_metrics()
            if every and self.update // every > (self.update - stride) // every and self.update < last:
                self._evaluate("interim", self.settings.eval_episodes, policy)
        self._save_weights()
        self._evaluate("final", self.settings.final_episodes, policy)

    def _write_metrics(self) -> None:
        if not all(map(math.isfinite, self._metrics.values())):
            raise Diverged(f"a metric is not finite at {self.update}: {self._metrics}")
        if self._metrics:
            self._append("metrics.jsonl", {"update": self.update, **self._metrics})
            print(f"{self.update:>9}  " + "  ".join(f"{key} {value:.4g}" for key, value in self._metrics.items()))
            self._metrics = {}

    def _evaluate(self, phase: str, episodes: int, policy: Any) -> None:
        seeds = evaluation_seeds(self.env_id, phase, episodes)
        played = evaluate(policy.act, self.env_id, seeds, stochastic=getattr(policy, "stochastic", False))
        for number, e in enumerate(played):
            row = {"episode": number, "episode_seed": e.seed, "return": e.total, "length": e.length}
            flags = {"terminated": e.terminated, "truncated": e.truncated}
            self._append("evaluations.jsonl", {"phase": phase, "update": self.update, **row, **flags})
        mean = np.mean([episode.total for episode in played])
        print(f"{phase} evaluation at {self.update}: return {mean:.1f} over {episodes} episodes", flush=True)

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with (self.directory / name).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _save_weights(self) -> None:
        """Every network that is an attribute of a tracked object, as `object.attribute.weight`."""
        arrays: dict[str, Any] = {}
        for name, tracked in self._tracked.items():
            for part, module in vars(tracked).items():
                weights = module.state_dict() if isinstance(module, nn.Module) else {}
                arrays |= {f"{name}.{part}.{key}": weight.detach().cpu().numpy() for key, weight in weights.items()}
        np.savez(self.directory / "weights.npz", allow_pickle=False, **arrays)


class Environments:
    """n training copies of one environment. Nothing resets itself: an episode begins with a seed of its own.

    A step gives the true successor of every observation; `observations` is what to act on next, the first observation
    of a new episode where one has just ended.
    """

    def __init__(self, env_id: str, n: int, rng: Callable[[str], np.random.Generator]) -> None:
        self.n, self.slots = n, make_slots(env_id, n)
        self.observation_space, self.action_space = check_spaces(env_id, self.slots)
        self._seeds = [rng(f"env {k}") for k in range(n)]
        self.observations = np.zeros((n, *self.observation_space.shape), np.float32)
        self._episodes: list[Episode] = []  # running
        self._finished: list[Episode] = []

    def begin(self) -> None:
        """Start the first episodes, unless that was done."""
        if not self._episodes:
            self._episodes = [Episode(-1) for _ in range(self.n)]
            self._reset(list(range(self.n)))

    def step(self, actions: np.ndarray) -> Transition:
        """Let every copy take its action: (n, action_dim) floats within the bounds, or (n,) whole numbers."""
        observations, rewards, terminations, truncations, _ = self.slots.step(range(self.n), actions)
        self.observations = following = np.array(observations, np.float32)
        if not (np.isfinite(following).all() and np.isfinite(rewards).all()):
            raise Diverged("an observation or a reward is not finite")
        for episode, reward in zip(self._episodes, rewards, strict=True):
            episode.total += float(reward)
            episode.length += 1
        flags = np.asarray(terminations, bool), np.asarray(truncations, bool)
        if ended := np.flatnonzero(flags[0] | flags[1]).tolist():
            self.observations = following.copy()
            self._finished += [self._episodes[k] for k in ended]
            self._reset(ended)
        return Transition(following, np.asarray(rewards, np.float32), *flags)

    def statistics(self) -> dict[str, float]:
        """Mean return and length of the training episodes that ended since the last call; nothing if none did."""
        done, self._finished = self._finished, []
        if not done:
            return {}
        return {
            "episode_return": sum(e.total for e in done) / len(done),
            "episode_length": sum(e.length for e in done) / len(done),
            "episodes": float(len(done)),
        }

    def _reset(self, slots: list[int]) -> None:
        seeds = [int(self._seeds[k].integers(TRAINING_SEEDS)) for k in slots]
        for k, seed, observation in zip(slots, seeds, self.slots.reset(slots, seeds), strict=True):
            self.observations[k] = observation
            self._episodes[k] = Episode(seed)


def make_env(env_id: str, **kwargs: Any) -> gym.Env:
    """`gymnasium.make` with flat observations."""
    try:
        env = gym.make(env_id, **kwargs)
    except (gym.error.Error, ImportError, TypeError) as error:
        raise UserError(f"the environment '{env_id}' cannot be made: {' '.join(str(error).split())}") from error
    space = env.observation_space
    flat = isinstance(space, gym.spaces.Box) and (len(space.shape) == 1 or space.dtype == np.uint8)
    return env if flat else gym.wrappers.FlattenObservation(env)


def make_seen_slots(env_id: str, n: int) -> GymnasiumSlots | SmoothedSlots:
    """n copies of an environment, with the view that its name asks for."""
    name, view = split_view(env_id)
    slots = GymnasiumSlots(name, n)
    return slots if view is None else SmoothedSlots(slots, n, view)


def load(name: str, steps: int | None = None, device: str = "cpu") -> Dataset:
    """A D4RL-layout HDF5 file, an npz of such columns, or a Minari dataset by id or folder; the first `steps` rows.

    Any of them followed by #1 or #1,10 is these episodes alone, counted from 0.
    """
    whole, episodes = split_episodes(name)
    path = Path(whole)
    if path.suffix in (".hdf5", ".h5", ".npz"):
        if not path.is_file():
            raise UserError(f"there is no file {path}; check the path.")
        columns, env_id = read_columns(path)
        arrays = with_successors(columns)
    else:
        arrays, env_id = read_minari(whole)
    if steps:
        if steps > len(arrays["rewards"]):
            raise UserError(f"{name} has {len(arrays['rewards'])} transitions, so the first {steps} cannot be taken.")
        starts = arrays.pop("episode_starts")
        arrays = {key: array[:steps].copy() for key, array in arrays.items()}
        if steps not in starts and not arrays["terminations"][-1]:
            arrays["truncations"][-1] = True
        arrays["episode_starts"] = starts[starts < steps]
    kinds = {"terminations": np.bool_, "truncations": np.bool_, "episode_starts": np.int64}
    tensors: dict[str, Any] = {
        k: torch.from_numpy(np.array(v, kinds.get(k, np.float32), order="C")) for k, v in arrays.items()
    }
    dataset = Dataset(**tensors, name=whole, env_id=env_id)
    dataset = dataset.take_episodes(np.array(episodes)) if episodes else dataset
    return dataset if device == "cpu" else dataset.to(device)


def read_columns(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """The columns of a file by D4RL's names, and the environment if the file says so."""
    if path.suffix == ".npz":
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
    missing = {"observations", "actions", "rewards", "terminals"} - columns.keys()
    if missing:
        raise UserError(f"{path} is no dataset of transitions: it lacks {', '.join(sorted(missing))}.")
    spec = json.loads(json.loads(header)["header"])["env_spec"] if header else None
    return columns, json.loads(spec)["id"] if spec else ""


def with_successors(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns as transitions whose true successor is known, in episodes.

    Without stored next observations that of row i is row i + 1 of its episode, so that time-out rows are dropped;
    without time-outs too, an episode is taken to time out after 1000 steps, as D4RL does.
    """
    observations, actions = (columns[key].reshape(len(columns["rewards"]), -1) for key in ("observations", "actions"))
    terminals, size = columns["terminals"].reshape(-1).astype(bool), len(observations)
    timeouts = columns["timeouts"].reshape(-1).astype(bool) if "timeouts" in columns else None
    every = np.arange(size)
    if "next_observations" in columns:
        rows, successors = every, columns["next_observations"].reshape(size, -1)
        starts = columns.get("episode_starts")
        if starts is None:
            cut = (observations[1:] != successors[:-1]).any(1) if timeouts is None else timeouts[:-1]
            starts = np.append(0, np.flatnonzero(terminals[:-1] | cut) + 1)
    else:
        begins = np.maximum.accumulate(np.where(np.append(False, terminals[:-1]), every, 0))
        cut = (every - begins) % 1000 == 999 if timeouts is None else timeouts.copy()
        cut[-1] = True
        rows = np.flatnonzero(terminals | ~cut)
        successors = observations[np.where(terminals, every, np.minimum(every + 1, size - 1))[rows]]
        ended = terminals[rows] | (timeouts[rows] if timeouts is not None else False)
        starts = np.flatnonzero(np.append(True, ended[:-1] | (np.diff(rows) > 1)))
    truncations = timeouts[rows] if timeouts is not None else np.zeros(len(rows), bool)
    if "next_observations" not in columns or timeouts is None:
        last = np.append(starts[1:], len(rows)) - 1
        truncations[last] |= ~terminals[rows][last]
    return {
        "observations": observations[rows],
        "actions": actions[rows],
        "rewards": columns["rewards"].reshape(-1)[rows],
        "next_observations": successors,
        "terminations": terminals[rows],
        "truncations": truncations,
        "episode_starts": starts,
    }


def read_minari(name: str) -> tuple[dict[str, np.ndarray], str]:
    """The transitions of a Minari dataset, and its environment."""
    import minari

    folder = next((path for path in (Path(name), Path(name) / "data") if (path / "metadata.json").is_file()), None)
    try:
        dataset = minari.MinariDataset(folder) if folder else minari.load_dataset(name)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"the dataset {name} cannot be read ({error}); fetch it, or give the path of a file."
        ) from error
    episodes = list(dataset.iterate_episodes())
    seen = [np.asarray(flat(dataset.observation_space, episode.observations)) for episode in episodes]
    columns = {
        "observations": np.concatenate([observations[:-1] for observations in seen]),
        "next_observations": np.concatenate([observations[1:] for observations in seen]),
    }
    for key in ("actions", "rewards", "terminations", "truncations"):
        columns[key] = np.concatenate([getattr(episode, key) for episode in episodes])
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


def helps(cls: type) -> dict[str, str]:
    """Field -> the string below it in the source."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        (tree,) = ast.parse(inspect.getsource(base)).body
        for statement, text in pairwise(ast.iter_child_nodes(tree)):
            if isinstance(statement, ast.AnnAssign) and isinstance(text, ast.Expr):
                found[ast.unparse(statement.target)] = ast.literal_eval(text.value)
    return found


def main(train: Callable[..., None], config: type, presets: Mapping[str, Mapping[str, Any]]) -> None:
    """The command line: a flag for every field of the configuration and of `Settings`; presets by task."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    kinds: dict[str, Any] = {}
    for cls in (config, Settings):
        kinds |= typing.get_type_hints(cls)
        for f in fields(cls):
            default = "required" if f.default is MISSING else f"default {f.default}"
            parser.add_argument(
                "--" + f.name.rstrip("_").replace("_", "-"),
                dest=f.name,
                required=f.default is MISSING,
                default=argparse.SUPPRESS,
                action=argparse.BooleanOptionalAction if kinds[f.name] is bool else "store",
                help=f"{helps(cls)[f.name]} ({default})".replace("%", "%%"),
            )
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
    except (UserError, Diverged) as error:
        print(error, file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 3)
