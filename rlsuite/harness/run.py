"""One run: its directory, its random streams, its loop. Evaluation, checkpoints, resume and logging live in `Run.loop`.

A run directory holds
    config.json        the resolved configuration
    manifest.json      versions, processor class, dataset and environment identity, the command
    status.json        running, finished, stopped, diverged or failed, and how far it is
    metrics.jsonl      one line every `log_every` updates (of an online method: environment steps)
    evaluations.jsonl  one row an evaluation episode
    tensorboard/       a mirror of both
    checkpoints/       the newest two, whole and with a checksum
    policy.npz         the policy of the newest checkpoint, plain arrays
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import signal
import sys
import time
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlsuite import data
from rlsuite.data import scores
from rlsuite.data.cli import build_progress
from rlsuite.data.dataset import Dataset
from rlsuite.data.files import read_json, write_json
from rlsuite.errors import UserError
from rlsuite.harness import files
from rlsuite.harness.config import Resolved
from rlsuite.harness.environments import Diverged, Environments, make_env
from rlsuite.harness.evaluation import Policy, evaluate
from rlsuite.harness.manifest import code_version, cpu_class, machine
from rlsuite.harness.mirror import Mirror
from rlsuite.harness.progress import Progress
from rlsuite.harness.seeding import Streams, evaluation_seeds
from rlsuite.harness.trajectories import Sampler

KEPT = 2  # checkpoints
PARTS = {
    "config.json",
    "manifest.json",
    "status.json",
    "metrics.jsonl",
    "evaluations.jsonl",
    "tensorboard",
    "checkpoints",
    "policy.npz",
    "cell.json",  # a benchmark cell: what it is
    "log.txt",  # and its output
}


class Stopped(Exception):
    """A signal asked the run to stop; it can be resumed."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Run:
    """What an algorithm's `train(config, run)` is given.

    Nothing is written before `loop` begins, so that bad input found while loading leaves no folder behind.
    """

    def __init__(self, resolved: Resolved, directory: Path, command: str = "") -> None:
        self.resolved, self.directory, self.command = resolved, directory, command
        self.settings = resolved.settings
        self.device = torch_device(self.settings.device)
        self.rng = Streams(self.settings.seed)
        self.data_used: dict[str, Any] = {"dataset": "", "dataset_hash": "", "dataset_rows": 0}  # not the arrays
        self.env_id = ""
        self.unit = "update"
        self.restarts = False  # whether a run that was cut begins again, because nothing can continue it exactly
        self.update = 0  # the position: updates of an offline method, environment steps of an online one
        self._before = -1  # the position before it
        self._tracked: dict[str, Any] = {}
        self._metrics: dict[str, float] = {}
        self._logged = 0  # the position of the last metrics
        self._settled = True  # whether everything that surrounds `self.update` is done
        self._signal = 0
        self._warning = ""
        self._check_directory()

    # What a train function calls

    def dataset(self, name: str, steps: int = 0, env: str = "") -> Dataset:
        """Load a dataset onto the run's device and make it the run's data.

        `steps` > 0 takes the first so many transitions; `env` overrides the environment that the data name. A second
        dataset stands beside the first in what the run says of its data. Raises UserError if the spaces of data and
        environment differ.
        """
        with build_progress(name) as progress:
            loaded = data.load(name, steps=steps or None, progress=progress)
        env_id = env or loaded.env_id
        if not env_id:
            raise UserError(f"{name} does not name its environment; add the one to evaluate in, as in --env Hopper-v5.")
        loaded = match_spaces(loaded, env_id)
        self._use(loaded)
        self.env_id = env_id
        return loaded.to(self.device)

    def _use(self, loaded: Dataset) -> None:
        """Remember what the data are, but not the arrays."""
        name, content, rows = loaded.name, loaded.content_hash, len(loaded)
        if self.data_used["dataset"]:
            name = f"{self.data_used['dataset']} + {name}"
            content = hashlib.sha256(f"{self.data_used['dataset_hash']} {content}".encode()).hexdigest()
            rows += self.data_used["dataset_rows"]
        self.data_used = {"dataset": name, "dataset_hash": content, "dataset_rows": rows}

    def environments(self, env_id: str, n: int = 1) -> Environments:
        """n training copies of `env_id`, which is also what the run is evaluated in; the run counts their steps.

        Raises UserError if there is no such environment or its spaces are not the suite's.
        """
        envs = Environments(env_id, n, self.rng)
        self.env_id, self.unit = env_id, "step"
        self._settled = False  # a learning curve begins before the first step
        self.track(environments=envs)
        return envs

    def sampler(self, env_id: str, n: int = 1, horizon: int = 0, name: str = "") -> Sampler:
        """What plays whole episodes of `env_id`, in which the run is also evaluated; see `Sampler`.

        The run counts their steps, and its loop has the stride 0. A second sampler has a `name` of its own.
        """
        sampler = Sampler(env_id, n, self.rng, horizon, name, self.advance)
        self.env_id, self.unit = env_id, "step"
        self._settled = False
        self.track(**{f"{name}sampler": sampler})
        return sampler

    def task(self, env_id: str, needs: str) -> Any:
        """The bare environment of `env_id`, for methods that play it by a way of its own, the attribute `needs`.

        The run is evaluated in it, and counts its steps. Between two updates no episode may run, as none is stored.
        Raises UserError where the environment has no such attribute.
        """
        env = make_env(env_id).unwrapped
        if not hasattr(env, needs):
            raise UserError(
                f"the environment {env_id} has no `{needs}`, by which this method plays it; name one that has, such as "
                "rlsuite/GP0-v0."
            )
        self.env_id, self.unit = env_id, "step"
        self._settled = False
        return env

    def advance(self, steps: int) -> None:
        """Count environment steps of an update, in a loop with the stride 0."""
        self.update = min(self.update + steps, self.updates)

    def track(self, **objects: Any) -> None:
        """Name what a checkpoint holds beside the streams.

        An object with `state_dict` and `load_state_dict` is asked for them; of another one, such as an agent, every
        attribute that has them is stored, and every attribute that is a plain number.
        """
        self._tracked.update(objects)

    @property
    def place(self) -> str:
        """The position in words."""
        return f"{self.unit} {self.update}"

    @property
    def logging(self) -> bool:
        """Whether metrics given now are kept: a multiple of `log_every` was reached since they last were.

        Costly diagnostics need only be computed then.
        """
        every = self.settings.log_every
        return self.update // every > self._logged // every

    def log(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Keep the metrics of this update if it is a logged one. Reading tensors back stalls, so others are dropped."""
        if self.logging:
            self._metrics = {key: float(value) for key, value in metrics.items()}
            self._logged = self.update

    def warn(self, message: str) -> None:
        """Say, within the loop, that something is amiss which does not end the run; the rows that follow say it too."""
        self._warning = message
        self._progress.say(f"warning: {message}")

    def loop(self, updates: int, policy: Policy, stride: int = 1) -> Generator[int, None, None]:
        """Yield the positions still to be reached, and do everything that surrounds them.

        A position is the number of updates, or of environment steps in strides of `stride`; the last one is the largest
        multiple of `stride` up to `updates`. `policy` is evaluated when the position reaches or passes a multiple of
        `eval_every` (of an online method also at 0) and, on fresh episodes, at the end; checkpoints likewise.

        With a `stride` of 0 an update takes as many steps as `advance` is told, and the last one reaches `updates` or
        passes it. So that runs whose updates differ stand in one table, an evaluation then counts for the multiple that
        was reached, and the last position for `updates`.
        """
        least = max(1, stride)
        if updates < least:
            raise UserError(
                f"the run is {updates} {self.unit}s long, less than the {least} of one update; ask for more."
            )
        self.policy, self.updates, self._stride = policy, updates - updates % least, stride
        self._open()
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            with self._progress:
                self._after_update()  # a run killed while evaluating evaluates again
                while self.update < self.updates:
                    self._before = self.update
                    self.update += stride
                    self._settled = False
                    yield self.update
                    self._after_update()
                self._finish()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._mirror.close()

    # The directory

    def _check_directory(self) -> None:
        """Refuse, before anything is loaded, a directory that cannot take this run."""
        if not self.directory.exists():
            return
        if not self.directory.is_dir():
            raise UserError(f"{self.directory} is a file; choose a folder for --run-dir.")
        strangers = sorted({path.name for path in self.directory.iterdir()} - PARTS)
        strangers = [name for name in strangers if not name.startswith(".")]
        if strangers:
            raise UserError(
                f"{self.directory} holds something else than a run ({strangers[0]}); choose another --run-dir."
            )
        if not (self.directory / "manifest.json").exists():
            return  # new, or killed before it began
        run_id = read_json(self.directory / "manifest.json").get("run_id")
        if run_id != self.resolved.run_id:
            raise UserError(
                f"{self.directory} holds a run of another configuration ({run_id}, not {self.resolved.run_id}); give "
                "the flags it was started with, or choose another --run-dir."
            )
        if read_status(self.directory).get("status") == "finished":
            raise UserError(f"the run in {self.directory} is finished; choose another --run-dir to run it again.")

    def _open(self) -> None:
        """Create the directory, or continue from its newest checkpoint."""
        checkpoints = self.directory / "checkpoints"
        try:
            checkpoints.mkdir(parents=True, exist_ok=True)
            self._lock: TextIO = (self.directory / ".lock").open("w")
        except OSError as error:
            raise UserError(
                f"cannot write the run directory {self.directory}: {error.strerror}; choose another --run-dir."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process runs in {self.directory}; wait for it or choose another.") from None
        self.identity = self._identity()
        self._progress = Progress(self.resolved.label, self.resolved.task, self.settings.seed, self.updates, self.unit)
        offsets = {"metrics.jsonl": 0, "evaluations.jsonl": 0}
        newest = max(checkpoints.glob("update-*.ckpt"), default=None)
        if newest is not None and self.restarts and newest != self._checkpoint_path(self.updates):
            self._progress.say("cannot be continued exactly, so it begins again; what was there is dropped")
            for stale in (*sorted(checkpoints.glob("update-*.ckpt")), self.directory / "policy.npz"):
                stale.unlink(missing_ok=True)
            newest = None
        if newest is not None:
            tree = files.load_checkpoint(newest)
            self._restore(tree, newest)
            offsets = tree["offsets"]
        else:
            write_json(self.directory / "config.json", {**self.resolved.as_dict(), "started_in": str(Path.cwd())})
            write_json(
                self.directory / "manifest.json",
                {**self.identity, **machine(), "threads": self.settings.threads, "command": self.command},
            )
        for leftover in (*self.directory.glob(".*.tmp"), *checkpoints.glob(".*.tmp")):
            leftover.unlink()  # of a process killed while writing; the lock says that no other is alive
        self._metrics_log = files.JsonLines(self.directory / "metrics.jsonl", offsets["metrics.jsonl"])
        self._rows_log = files.JsonLines(self.directory / "evaluations.jsonl", offsets["evaluations.jsonl"])
        self._mirror = Mirror(self.directory / "tensorboard")
        for row in files.read_lines(self._metrics_log.path):
            self._mirror.metrics(row)
        self._last_status = 0.0
        self._status("running")
        if newest is not None:
            self._progress.say(f"continuing at {self.place} of {self.updates}")

    def _identity(self) -> dict[str, Any]:
        """The columns that every row of this run carries."""
        return {
            "run_id": self.resolved.run_id,
            "config_hash": self.resolved.config_hash,
            "algorithm": self.resolved.label,
            "task": self.resolved.task,
            "env": self.env_id,
            **self.data_used,
            "seed": self.settings.seed,
            "code_version": code_version(),
            "cpu_class": cpu_class(),
        }

    # Around an update

    def _after_update(self) -> None:
        """Log, checkpoint, evaluate; in this order, so that a checkpoint never holds half an evaluation."""
        s, t = self.settings, self.update
        if not self._settled:
            if self._metrics:
                self._write_metrics()
            if self._reaches(s.checkpoint_every) or t == self.updates:
                self._checkpoint()
            if s.eval_every and self._reaches(s.eval_every) and t < self.updates:
                self._evaluate("interim", s.eval_episodes)
            self._settled = t < self.updates  # the last update has its final evaluation still to come
        if self._signal:
            self._checkpoint()
            self._stop()
        if time.monotonic() - self._last_status > 1:
            self._status("running")

    def _reaches(self, every: int) -> bool:
        """Whether the current update reached or passed a multiple of `every`."""
        return self.update // every > self._before // every

    def _write_metrics(self) -> None:
        bad = [key for key, value in self._metrics.items() if not math.isfinite(value)]
        if bad:
            raise Diverged(f"{bad[0]} is {self._metrics[bad[0]]} at {self.place}")
        row = {"update": self.update, **self._metrics}
        self._metrics_log.append(row)
        self._mirror.metrics(row)
        self._progress.metrics(self.update, self._metrics)
        self._metrics = {}

    def _evaluate(self, phase: str, episodes: int) -> None:
        rows = []
        position = self.update
        if not self._stride and phase == "interim":
            position -= position % self.settings.eval_every
        seeds = evaluation_seeds(self.env_id, phase, episodes)
        stochastic = getattr(self.policy, "stochastic", False)
        mode = "stochastic" if stochastic else "deterministic"
        played = evaluate(self.policy.act, self.env_id, seeds, tick=self._tick, stochastic=stochastic)
        reference = scores.reference(self.env_id, self.identity["dataset"])
        for number, episode in enumerate(played):
            if not math.isfinite(episode.total):
                raise Diverged(f"the return of evaluation episode {number} is {episode.total} at {self.place}")
            rows.append(
                {
                    **self.identity,
                    "phase": phase,
                    "protocol": f"{phase}-{episodes}ep-{mode}",
                    "update": position,
                    "episode": number,
                    "episode_seed": episode.seed,
                    "return": episode.total,
                    "length": episode.length,
                    "terminated": episode.terminated,
                    "truncated": episode.truncated,
                    "score": float(reference.score(np.asarray(episode.total))) if reference else None,
                    "score_reference": reference.label if reference else "",
                    "policy_mode": mode,
                    "status": "ok",
                    "message": self._warning,
                }
            )
        self._rows_log.append(*rows)
        returns = [episode.total for episode in played]
        self._mirror.returns(position, phase, returns)
        self._progress.returns(position, phase, returns, [row["score"] for row in rows])

    def _finish(self) -> None:
        self._evaluate("final", self.settings.final_episodes)
        self._rows_log.sync()
        self._status("finished", self._warning)

    def _tick(self) -> None:
        """In the middle of an evaluation: the checkpoint before it is what a resumed run begins from."""
        if self._signal and self.update == self.updates:
            self._stop()

    def _stop(self) -> None:
        self._status("stopped", f"by {signal.Signals(self._signal).name}")
        raise Stopped(self._signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def _status(self, status: str, message: str = "") -> None:
        self._last_status = time.monotonic()
        self._progress.at(self.update)
        content = {"status": status, "update": self.update, "updates": self.updates, "message": message}
        write_json(self.directory / "status.json", content)

    def release(self) -> None:
        """Let another process have the directory."""
        if hasattr(self, "_lock"):
            self._lock.close()

    def fail(self, status: str, message: str) -> None:
        """Leave word of how the run ended, if it got so far as to have a directory."""
        if (self.directory / "status.json").exists():
            content = {"status": status, "update": self.update, "updates": self.updates, "message": message}
            write_json(self.directory / "status.json", content)

    # Checkpoints

    def _checkpoint(self) -> None:
        # Before the streams: environments that have not begun yet draw their first seeds here.
        states = {name: state_of(tracked) for name, tracked in self._tracked.items()}
        files.save_checkpoint(
            self._checkpoint_path(self.update),
            {
                "run_id": self.resolved.run_id,
                "dataset_hash": self.identity["dataset_hash"],
                "update": self.update,
                "before": self._before,
                "settled": self._settled,
                "logged": self._logged,
                "warning": self._warning,
                "offsets": {log.path.name: log.sync() for log in (self._metrics_log, self._rows_log)},
                "streams": self.rng.state_dict(),
                "tracked": states,
            },
        )
        files.save_policy(self.directory / "policy.npz", self.policy, self.resolved.algorithm.source)
        for old in sorted((self.directory / "checkpoints").glob("update-*.ckpt"))[:-KEPT]:
            old.unlink()

    def _checkpoint_path(self, update: int) -> Path:
        return self.directory / "checkpoints" / f"update-{update:010d}.ckpt"

    def _restore(self, tree: dict[str, Any], path: Path) -> None:
        if tree["run_id"] != self.resolved.run_id:
            raise UserError(
                f"the checkpoint {path} is from another configuration ({tree['run_id']}, not {self.resolved.run_id}); "
                "give the flags it was started with, or choose another --run-dir."
            )
        if tree["dataset_hash"] != self.identity["dataset_hash"]:
            raise UserError(
                f"the dataset {self.identity['dataset']} is not the one that {self.directory} began with (content "
                f"{self.identity['dataset_hash'][:12]}, not {tree['dataset_hash'][:12]}); restore it or start afresh."
            )
        self.update, self._settled, self._logged = tree["update"], tree["settled"], tree.get("logged", tree["update"])
        self._before = tree.get("before", self.update - self._stride)
        self._warning = tree.get("warning", "")
        for name, tracked in self._tracked.items():
            load_state(tracked, tree["tracked"][name])
        self.rng.load_state_dict(tree["streams"])


def state_of(tracked: Any) -> dict[str, Any]:
    """What `Run.track` stores of an object."""
    if hasattr(tracked, "state_dict"):
        state: dict[str, Any] = tracked.state_dict()
        return state
    state = {}
    for name, part in vars(tracked).items():
        if hasattr(part, "state_dict"):
            state[name] = part.state_dict()
        elif isinstance(part, int | float):
            state[name] = part
    return state


def load_state(tracked: Any, state: dict[str, Any]) -> None:
    """The inverse of `state_of`."""
    if hasattr(tracked, "load_state_dict"):
        tracked.load_state_dict(state)
        return
    for name, value in state.items():
        if isinstance(value, dict):
            getattr(tracked, name).load_state_dict(value)
        else:
            setattr(tracked, name, value)


def torch_device(name: str) -> torch.device:
    """A usable torch device; UserError where this machine has none of that name."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises the latter for a CUDA it was built without
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used here ({reason}); use cpu or cuda.") from error
    return device


def match_spaces(dataset: Dataset, env_id: str) -> Dataset:
    """The dataset with the action bounds of `env_id`; UserError if the environment's spaces are not the data's."""
    env = make_env(env_id)
    observation_space, action_space = env.observation_space, env.action_space
    env.close()
    for what, space, width in (
        ("observations", observation_space, dataset.observation_dim),
        ("actions", action_space, dataset.action_dim),
    ):
        if not isinstance(space, gym.spaces.Box) or space.shape != (width,):
            raise UserError(
                f"the {what} of {dataset.name} have {width} numbers, but {env_id} has the space {space}; name the "
                "environment that the data come from with --env."
            )
    assert isinstance(action_space, gym.spaces.Box)
    reach = dataset.actions.abs().max().item() if len(dataset) else 0.0
    if reach > np.abs([action_space.low, action_space.high]).max() + 1e-5:
        raise UserError(
            f"{dataset.name} has an action of size {reach:.3g}, outside the bounds of {env_id} ({action_space}); name "
            "the environment that the data come from with --env."
        )
    return replace(dataset, env_id=env_id, action_low=action_space.low, action_high=action_space.high)


def execute(resolved: Resolved, directory: Path, command: str = "") -> int:
    """Run to the end and return the exit code: 0 finished, 3 diverged, 128 + n stopped by signal n.

    Raises UserError for bad input; any other exception is a crash, noted in the run directory and raised on.
    """
    torch.set_num_threads(resolved.settings.threads)
    # A safety net only: library code draws from the run's own streams (a test holds that).
    torch.manual_seed(resolved.settings.seed)
    np.random.seed(resolved.settings.seed % (1 << 32))
    run = Run(resolved, directory, command)
    try:
        resolved.algorithm.module.train(resolved.config, run)
    except Diverged as error:
        run.fail("diverged", str(error))
        print(f"rlsuite: the run in {directory} diverged: {error}.", file=sys.stderr)
        return 3
    except Stopped as error:
        way = "begin again" if run.restarts else "continue"
        print(f"rlsuite: stopped at {run.place}; {way} with: rlsuite resume {directory}", file=sys.stderr)
        return 128 + error.number
    except BaseException as error:
        run.fail("failed", " ".join(f"{type(error).__name__}: {error}".split()))
        raise
    finally:
        run.release()
    return 0


def read_status(directory: Path) -> dict[str, Any]:
    """The content of status.json; empty if the run was killed before its loop began."""
    return read_json(directory / "status.json")
