"""Episodes of a behaviour policy in NumPy, and the worker process that makes them.

Episode k of stream p draws everything from SeedSequence((seed, k, p)), so episodes do not depend on one another or on
who makes them. A worker is a plain child process, not a multiprocessing one: it never imports the caller's script, so a
recipe can be built from a notebook or from a script without a main guard.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np

import rlsuite_envs  # noqa: F401 (registers the suite's own environments)

BEHAVIOUR = Path(__file__).parent / "behaviour"
REQUEST = struct.Struct("<qq")  # stream, episode

# MuJoCo notes its warnings in a file in the working directory of whoever makes an environment.
with contextlib.suppress(ImportError, AttributeError):
    import mujoco

    mujoco.set_mju_user_warning(lambda message: None)


class Policy(Protocol):
    """Acts one episode at a time."""

    def begin(self, env: gym.Env, rng: np.random.Generator) -> dict[str, Any] | None:
        """The start of an episode, before its reset; gives the reset's options."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """(observation_dim,) -> (action_dim,)."""


class Uniform:
    """Actions drawn uniformly from the action space."""

    def begin(self, env: gym.Env, rng: np.random.Generator) -> None:
        space = env.action_space
        assert isinstance(space, gym.spaces.Box)
        draws = rng.uniform(space.low, space.high, (_steps(env), *space.shape))
        self._actions = iter(draws.astype(space.dtype))

    def act(self, observation: np.ndarray) -> np.ndarray:
        return next(self._actions)


class SquashedGaussian:
    """a = tanh(mean + std * noise) scaled to the action range; ReLU layers `w{i}` (out, in), `b{i}`, as SAC has them.

    The last layer gives [mean | log_std], log_std clipped to [-20, 2]. `deterministic` leaves the noise out.
    """

    def __init__(self, weights: dict[str, np.ndarray], space: gym.spaces.Box, deterministic: bool = False) -> None:
        count = len(weights) // 2
        self.layers = [(weights[f"w{i}"].astype(np.float32), weights[f"b{i}"].astype(np.float32)) for i in range(count)]
        self.low, self.high, self.dim = space.low, space.high, space.shape[0]
        self.deterministic = deterministic

    def begin(self, env: gym.Env, rng: np.random.Generator) -> None:
        noise = rng.standard_normal((_steps(env), self.dim), dtype=np.float32)
        self._noise = iter(0 * noise if self.deterministic else noise)

    def act(self, observation: np.ndarray) -> np.ndarray:
        x = observation.astype(np.float32)
        for weight, bias in self.layers[:-1]:
            x = np.maximum(weight @ x + bias, 0)
        weight, bias = self.layers[-1]
        out = weight @ x + bias
        std = np.exp(np.clip(out[self.dim :], -20, 2))
        squashed = np.tanh(out[: self.dim] + std * next(self._noise))
        action: np.ndarray = self.low + (squashed + 1) / 2 * (self.high - self.low)
        return action


def _steps(env: gym.Env) -> int:
    assert env.spec is not None and env.spec.max_episode_steps is not None
    return env.spec.max_episode_steps


def weights_file(behaviour: str) -> Path | None:
    """The file of a behaviour that has one: `hopper-medium`, `hopper-replay/3` (its fourth policy) or a path."""
    if behaviour in ("uniform", "waypoints", "waypoints-expert"):
        return None
    return Path(behaviour) if behaviour.endswith(".npz") else BEHAVIOUR / f"{behaviour.partition('/')[0]}.npz"


def make_policy(behaviour: str, env: gym.Env, deterministic: bool = False) -> Policy:
    """A behaviour by name: "uniform", "waypoints", "waypoints-expert", or what `weights_file` finds."""
    path = weights_file(behaviour)
    if path is None:
        if behaviour == "uniform":
            return Uniform()
        from rlsuite.data.waypoints import WaypointController

        return WaypointController(expert=behaviour == "waypoints-expert")
    with np.load(path, allow_pickle=False) as file:
        weights = dict(file)
    if path.stem != behaviour and not behaviour.endswith(".npz"):
        index = int(behaviour.partition("/")[2])
        weights = {key: stack[index] for key, stack in weights.items()}
    assert isinstance(env.action_space, gym.spaces.Box)
    return SquashedGaussian(weights, env.action_space, deterministic)


class Rollout(NamedTuple):
    """One episode of T steps, and what it was drawn from."""

    seed: int  # of the reset
    observations: np.ndarray  # (T + 1, observation_dim)
    actions: np.ndarray  # (T, action_dim)
    rewards: np.ndarray  # (T,) float64
    terminated: bool
    truncated: bool


def rollout(env: gym.Env, policy: Policy, seed: int, k: int, stream: int = 0) -> Rollout:
    """Episode `k` of a stream of `seed`."""
    sequence = np.random.SeedSequence((seed, k, stream))
    reset_seed = int(sequence.generate_state(1)[0])
    options = policy.begin(env, np.random.default_rng(sequence.spawn(1)[0]))
    observation, _ = env.reset(seed=reset_seed, options=options)
    observations, actions, rewards = [observation], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        action = policy.act(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
    arrays = np.array(observations), np.array(actions), np.array(rewards)
    return Rollout(reset_seed, *arrays, bool(terminated), bool(truncated))


def returns(env_id: str, behaviour: str, episodes: int, seed: int, deterministic: bool = False) -> np.ndarray:
    """(episodes,) float64: undiscounted returns of episodes 0, 1, ... of `seed`."""
    env = gym.make(env_id)
    policy = make_policy(behaviour, env, deterministic)
    return np.array([rollout(env, policy, seed, k).rewards.sum() for k in range(episodes)])


# A frame is an episode as bytes: this head, then observations, actions and rewards. It goes through the pipe of a
# worker and, as it is, into the file that keeps the episodes of a build until the build is done.
HEAD = struct.Struct("<4sqqqq??I")
MARK = b"EPIS"


class Head(NamedTuple):
    mark: bytes
    stream: int
    episode: int
    length: int
    seed: int
    terminated: bool
    truncated: bool
    checksum: int  # CRC-32 of what follows


def frame(stream: int, k: int, episode: Rollout) -> bytes:
    """The bytes of an episode."""
    body = episode.observations.tobytes() + episode.actions.tobytes() + episode.rewards.tobytes()
    length = len(episode.rewards)
    head = HEAD.pack(MARK, stream, k, length, episode.seed, episode.terminated, episode.truncated, zlib.crc32(body))
    return head + body


def serve(
    requests: IO[bytes],
    out: IO[bytes],
    env_id: str,
    max_episode_steps: int | None,
    behaviours: Sequence[str],
    seed: int,
) -> None:
    """Answer each request with its frame; `max_episode_steps` None is the environment's own limit."""
    env = gym.make(env_id, max_episode_steps=max_episode_steps)
    policies = [make_policy(behaviour, env) for behaviour in behaviours]
    while len(request := requests.read(REQUEST.size)) == REQUEST.size:
        stream, k = REQUEST.unpack(request)
        out.write(frame(stream, k, rollout(env, policies[stream], seed, k, stream)))
        out.flush()


def main() -> None:
    """Answer requests from standard input with frames on standard output until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    requests, out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not land among the frames
    try:
        serve(requests, out, **arguments)
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
