"""Episodes of a behaviour policy in NumPy, and the worker process that streams them.

Episode k draws everything from SeedSequence((seed, k)), so episodes do not depend on one another or on who makes them.
A worker is a plain child process, not a multiprocessing one: it never imports the caller's script, so a recipe can be
built from a notebook or from a script without a main guard.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import sys
from pathlib import Path
from typing import IO, Any, Protocol

import gymnasium as gym
import numpy as np

FRAME = struct.Struct("<qqq??")  # episode, length, reset seed, terminated, truncated

# MuJoCo notes its warnings in a file in the working directory of whoever makes an environment.
with contextlib.suppress(ImportError, AttributeError):
    import mujoco

    mujoco.set_mju_user_warning(lambda message: None)


class Policy(Protocol):
    """Acts for one episode: gets the generator at its start, then one observation (observation_dim,) at a time."""

    def begin(self, rng: np.random.Generator, steps: int) -> None: ...

    def act(self, observation: np.ndarray) -> np.ndarray: ...


class Uniform:
    """Actions drawn uniformly from the action space."""

    def __init__(self, space: gym.spaces.Box) -> None:
        self.space = space

    def begin(self, rng: np.random.Generator, steps: int) -> None:
        draws = rng.uniform(self.space.low, self.space.high, (steps, *self.space.shape))
        self._actions = iter(draws.astype(self.space.dtype))

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

    def begin(self, rng: np.random.Generator, steps: int) -> None:
        noise = rng.standard_normal((steps, self.dim), dtype=np.float32)
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


def make_policy(weights: Path | None, space: gym.spaces.Box, deterministic: bool = False) -> Policy:
    if weights is None:
        return Uniform(space)
    with np.load(weights, allow_pickle=False) as file:
        return SquashedGaussian(dict(file), space, deterministic)


def rollout(env: gym.Env, policy: Policy, seed: int, k: int) -> tuple[int, list[np.ndarray], bool, bool]:
    """Episode k: (reset seed, [observations (T + 1, o), actions (T, a), rewards (T,)], terminated, truncated)."""
    sequence = np.random.SeedSequence((seed, k))
    reset_seed = int(sequence.generate_state(1)[0])
    assert env.spec is not None and env.spec.max_episode_steps is not None
    policy.begin(np.random.default_rng(sequence.spawn(1)[0]), env.spec.max_episode_steps)
    observation, _ = env.reset(seed=reset_seed)
    observations, actions, rewards = [observation], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        action = policy.act(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
    arrays = [np.stack(observations), np.stack(actions), np.array(rewards)]
    return reset_seed, arrays, bool(terminated), bool(truncated)


def returns(env_id: str, weights: Path | None, episodes: int, seed: int, deterministic: bool = False) -> np.ndarray:
    """(episodes,) float64: undiscounted returns of episodes 0, 1, ... of stream `seed`."""
    env = gym.make(env_id)
    assert isinstance(env.action_space, gym.spaces.Box)
    policy = make_policy(weights, env.action_space, deterministic)
    return np.array([rollout(env, policy, seed, k)[1][2].sum() for k in range(episodes)])


def _serve(out: IO[bytes], env_id: str, weights: str | None, seed: int, first: int, stride: int) -> None:
    env = gym.make(env_id)
    assert isinstance(env.action_space, gym.spaces.Box)
    policy = make_policy(Path(weights) if weights else None, env.action_space)
    k = first
    while True:
        reset_seed, arrays, terminated, truncated = rollout(env, policy, seed, k)
        out.write(FRAME.pack(k, len(arrays[2]), reset_seed, terminated, truncated))
        for array in arrays:
            out.write(array.tobytes())
        out.flush()
        k += stride


def main() -> None:
    """Stream episodes first, first + stride, ... to standard output until nobody listens any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not land among the frames
    try:
        _serve(out, **arguments)
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
