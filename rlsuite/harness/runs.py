"""What one does with a finished or stopped run: resume it, evaluate its policy, verify it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rlsuite.data import scores
from rlsuite.data.files import read_json
from rlsuite.errors import UserError
from rlsuite.harness import files, networks
from rlsuite.harness.config import Resolved, Settings, load_algorithm, resolve
from rlsuite.harness.environments import GymnasiumSlots, is_atari, make_slots
from rlsuite.harness.evaluation import evaluate
from rlsuite.harness.run import execute, read_status
from rlsuite.harness.seeding import evaluation_seeds
from rlsuite.harness.smoothing import SmoothedSlots, split_view


def run_again(run: Path, into: Path, command: str = "") -> int:
    """Execute the configuration of `run` in the directory `into`, which may be the same; gives the exit code.

    Goes to the folder that the run was started in, because a dataset may have been named by a relative path.
    """
    run, into = run.resolve(), into.resolve()
    resolved = resolve_run(run)
    here, started_in = Path.cwd(), Path(read_json(run / "config.json").get("started_in", "."))
    try:
        os.chdir(started_in if started_in.is_dir() else here)
        return execute(resolved, into, command)
    finally:
        os.chdir(here)


def resolve_run(directory: Path) -> Resolved:
    """The configuration that a run directory was made with."""
    stored = read_json(directory / "config.json")
    try:
        algorithm = load_algorithm(stored["algorithm"])
        known = {f.name for f in fields(Settings)}
        given = {**stored["config"], **{k: v for k, v in stored["settings"].items() if k in known}}
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{directory / 'config.json'} is no configuration of a run; is {directory} one?") from None
    return resolve(algorithm, given, where=str(directory / "config.json"))


def load_policy(place: Path) -> Any:
    """The policy of a run's newest checkpoint, ready to `act`: of the run in the directory `place`, or of that file."""
    about, state = files.read_policy(place / "policy.npz" if place.is_dir() else place)
    module = load_algorithm(about["algorithm"]).module
    cls = getattr(module, about["class"], None) or getattr(networks, about["class"], None)
    if cls is None:
        raise UserError(f"the policy of {place} is a {about['class']}, which {about['algorithm']} does not have.")
    policy = cls(**about["arguments"])
    policy.load_state_dict(state)
    return policy


def evaluate_run(directory: Path, episodes: int, env: str, video: bool) -> int:
    """Print return and normalised score of `episodes` final-protocol episodes; `rlsuite eval`."""
    if episodes < 1:
        raise UserError(f"--episodes is at least 1, not {episodes}.")
    torch.set_num_threads(1)
    policy = load_policy(directory)
    manifest = read_json(directory / "manifest.json")
    if "env" not in manifest:
        raise UserError(f"{directory} has a policy but no manifest.json that names its environment; restore it.")
    env_id = env or manifest["env"]
    seeds = evaluation_seeds(env_id, "final", episodes)
    played = evaluate(policy.act, env_id, seeds, stochastic=getattr(policy, "stochastic", False))
    returns = np.array([episode.total for episode in played])
    lengths = np.array([episode.length for episode in played])
    status = read_status(directory)
    unit = "update" if manifest["dataset"] else "environment step"
    print(f"{manifest['algorithm']} on {manifest['task']}, {unit} {status.get('update')} of {status.get('updates')}")
    print(
        f"{env_id}: return {returns.mean():.1f}, standard deviation {returns.std(ddof=len(returns) > 1):.1f} over "
        f"{episodes} episodes, mean length {lengths.mean():.0f}"
    )
    reference = scores.reference(env_id, manifest["dataset"])
    if reference:
        print(f"normalised score {float(reference.score(returns.mean())):.1f} (reference: {reference.label})")
    if video:
        print(f"video in {record(policy, env_id, played[0].seed, directory)}")
    return 0


def record(policy: Any, env_id: str, seed: int, directory: Path) -> Path:
    """Film the episode that begins with `seed`; an mp4 file where imageio-ffmpeg is installed, else a GIF.

    Raises UserError where nothing can be rendered.
    """
    import importlib.util

    import imageio.v3 as imageio

    rng = np.random.default_rng(seed)
    stochastic = getattr(policy, "stochastic", False)

    def act(observation: np.ndarray) -> Any:
        batch = observation[None] if observation.dtype == np.uint8 else np.asarray(observation, np.float32)[None]
        return (policy.act(batch, rng.random(1)) if stochastic else policy.act(batch))[0]

    frames, fps = (film_atari if is_atari(env_id) else film)(act, env_id, seed)
    if importlib.util.find_spec("imageio_ffmpeg"):
        path = directory / "video.mp4"
        imageio.imwrite(path, frames, fps=fps)
    else:
        path = directory / "video.gif"
        imageio.imwrite(path, frames, duration=1000 / fps, loop=0)
    return path


def film(act: Callable[[np.ndarray], Any], env_id: str, seed: int) -> tuple[np.ndarray, float]:
    """The pictures of an episode as the environment renders them, and how many there are a second."""
    os.environ.setdefault("MUJOCO_GL", "egl" if not os.environ.get("DISPLAY") else "glfw")
    name, view = split_view(env_id)
    slots = GymnasiumSlots(name, 1, render_mode="rgb_array")
    env, envs = slots.envs[0], slots if view is None else SmoothedSlots(slots, 1, view)
    fps = env.metadata.get("render_fps", 30)
    stride = max(1, round(fps / 25))  # Hopper steps 125 times a second; 25 pictures are enough, and rendering is slow
    try:
        observation = envs.reset([0], [seed])[0]
        frames: list[Any] = [env.render()]
        step, done = 0, False
        while not done:
            played = envs.step([0], np.array([act(observation)]))
            observation, _, terminated, truncated, _ = (part[0] for part in played)
            step, done = step + 1, terminated or truncated
            if step % stride == 0 or done:
                frames.append(env.render())
    except (gym.error.Error, ImportError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{env_id} cannot be rendered here ({' '.join(str(error).split())}); on a machine without a screen install "
            "libegl1 and set MUJOCO_GL=egl."
        ) from error
    finally:
        envs.close()
    return np.stack(frames), fps / stride


def film_atari(act: Callable[[np.ndarray], Any], env_id: str, seed: int) -> tuple[np.ndarray, float]:
    """What the policy sees of a game, three times as large: ale-py's vector environment has no other picture."""
    envs = make_slots(env_id, 1)
    observation = envs.reset([0], [seed])[0]
    frames, done = [observation[-1]], False
    while not done:
        played = envs.step([0], np.array([act(observation)]))
        observation, _, terminated, truncated, _ = (part[0] for part in played)
        frames.append(observation[-1])
        done = terminated or truncated
    envs.close()
    film = np.stack(frames)
    if film.dtype != np.uint8:  # noisy floats
        film = (255 * film.clip(0, 1)).astype(np.uint8)
    return film.repeat(3, 1).repeat(3, 2), 15.0


def verify_run(directory: Path) -> int:
    """Run a finished run again in a scratch folder; 0 if every metric, row and weight is the same bit for bit."""
    if read_status(directory).get("status") != "finished":
        raise UserError(f"the run in {directory} is not finished; finish it with: rlsuite resume {directory}")
    with tempfile.TemporaryDirectory(prefix="rlsuite-verify-") as scratch:
        again = Path(scratch) / directory.name
        code = run_again(directory, again)
        if code:
            return code
        difference = first_difference(directory, again)
    if difference:
        print(f"DIFFERENT: {difference}")
        old = read_json(directory / "manifest.json")
        print(f"The run was made by {old['code_version']} on {old['cpu_class']}.")
        return 1
    print(f"identical: every metric, evaluation row and weight of {directory}")
    return 0


def first_difference(left: Path, right: Path) -> str:
    """Where two runs first differ: in a metric, an evaluation row, or a weight; empty if nowhere."""
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        rows = [files.read_lines(folder / name) for folder in (left, right)]
        for a, b in zip(*rows, strict=False):
            for key in (*a, *(key for key in b if key not in a)):
                if key != "code_version" and a.get(key) != b.get(key):
                    place = f"update {a['update']}" + (f" episode {a['episode']}" if "episode" in a else "")
                    return f"{name}: {key} at {place} is {a.get(key)} and {b.get(key)}"
        if len(rows[0]) != len(rows[1]):
            return f"{name} has {len(rows[0])} and {len(rows[1])} lines"
    newest = [max((folder / "checkpoints").glob("update-*.ckpt")) for folder in (left, right)]
    trees = [files.load_checkpoint(path)["tracked"] for path in newest]
    return _difference(trees[0], trees[1], "checkpoint")


def _difference(a: Any, b: Any, place: str) -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return f"{place} has the keys {sorted(map(str, a))} and {sorted(map(str, b))}"
        return next(filter(None, (_difference(a[k], b[k], f"{place}.{k}") for k in a)), "")
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return next(
            filter(None, (_difference(x, y, f"{place}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True)))), ""
        )
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if torch.equal(a, b):
            return ""
        return f"{place}: largest difference {(a.double() - b.double()).abs().max():.3g}"
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return "" if np.array_equal(a, b) else place
    return "" if a == b else f"{place} is {a} and {b}"
