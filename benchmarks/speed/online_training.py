"""Environment steps a second of training online, learning included: our PPO and PROPS beside Stable-Baselines3's PPO.

One thread, the same settings in both: 2048 steps, 32 minibatches, 10 epochs, 64-64 tanh, running normalisation; Pong
with 8 copies, 128 steps each, 4 epochs of 4 minibatches (Stable-Baselines3's frames need opencv-python-headless). They
take turns in blocks, so that a busy machine slows both; ratios are medians over blocks. No evaluation, no logging to
disk. "environment" is the share of our time spent inside the environment, "acting" that of the rest of collecting,
"learning" that of the update.

A peer of your own, given as NAME=COMMAND, takes its turn too: a command with {env} and {steps} in it whose last line is
`steps_per_second X`. It is timed for every MuJoCo environment.

    python benchmarks/speed/online_training.py [--blocks 5] [--tasks HalfCheetah-v5:1 ...] [--peer 'cleanrl=python ...']
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded, so before the imports below

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from rlsuite.algorithms.ppo import PPO
from rlsuite.algorithms.props import PROPS
from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.environments import Environments
from rlsuite.harness.run import Run

Block = Callable[[], float]  # runs one block and gives its steps a second


class Clock:
    """Seconds inside the environments, and of collecting as a whole."""

    def __init__(self) -> None:
        self.inside = self.collecting = self.total = 0.0

    @contextmanager
    def watch(self, envs: Environments) -> Iterator[None]:
        plain = envs.slots.step

        def timed(*arguments: object) -> object:
            begun = time.perf_counter()
            result = plain(*arguments)  # type: ignore[arg-type]
            self.inside += time.perf_counter() - begun
            return result

        envs.slots.step = timed  # type: ignore[method-assign, assignment]
        yield
        envs.slots.step = plain  # type: ignore[method-assign]

    def shares(self) -> str:
        environment, collecting = self.inside / self.total, self.collecting / self.total
        return f"environment {environment:.0%}, acting {collecting - environment:.0%}, learning {1 - collecting:.0%}"


def ours(algorithm: str, env: str, copies: int, clock: Clock) -> Block:
    given: dict[str, object] = {"env": env, "n_envs": copies}
    if algorithm == "ppo" and not env.startswith("ale-"):
        given |= {"anneal": False, "clip_value": False}  # as Stable-Baselines3 has it
    resolved = resolve(load_algorithm(algorithm), given)
    run = Run(resolved, Path(tempfile.gettempdir()) / "online-training-writes-nothing")
    envs, config = run.environments(env, copies), resolved.config
    agent = PPO(envs, config, run) if algorithm == "ppo" else PROPS(envs, config, run)
    rollouts = max(1, (2048 if env.startswith("ale-") else 8192) // config.rollout_steps)

    def iterate() -> None:
        if isinstance(agent, PPO):
            begun = time.perf_counter()
            rollout = agent.collect(envs, config.rollout_steps // copies)
            clock.collecting += time.perf_counter() - begun
            agent.update(rollout)
            return
        for _ in range(config.rollout_steps // config.behavior_steps):
            begun = time.perf_counter()
            buffer = agent.collect(envs)
            clock.collecting += time.perf_counter() - begun
            agent.update(buffer)

    def block() -> float:
        begun = time.perf_counter()
        with clock.watch(envs):
            for _ in range(rollouts):
                iterate()
        seconds = time.perf_counter() - begun
        clock.total += seconds
        return rollouts * config.rollout_steps / seconds

    iterate()  # warm
    clock.collecting = 0.0
    return block


def sb3(env: str, copies: int) -> Block:
    if env.startswith("ale-"):
        import ale_py

        gym.register_envs(ale_py)
        name = env.partition("/")[2] + "NoFrameskip-v4"
        envs = VecFrameStack(make_atari_env(name, n_envs=copies, seed=0), 4)
        settings = {"n_steps": 128, "batch_size": 256, "n_epochs": 4, "clip_range": 0.1, "ent_coef": 0.01}
        model = SB3PPO("CnnPolicy", envs, learning_rate=2.5e-4, device="cpu", seed=0, **settings)  # type: ignore[arg-type]
        steps = 2048
    else:
        envs = VecNormalize(make_vec_env(env, n_envs=copies, seed=0))
        model = SB3PPO("MlpPolicy", envs, n_steps=2048 // copies, batch_size=64, n_epochs=10, device="cpu", seed=0)
        steps = 8192
    model.learn(1)  # one rollout, to warm up

    def block() -> float:
        begun = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return steps / (time.perf_counter() - begun)

    return block


def peer(command: str, env: str, steps: int) -> Block:
    def block() -> float:
        words = shlex.split(command.format(env=env, steps=steps))
        lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
        return float(next(line for line in reversed(lines) if line.startswith("steps_per_second")).split()[1])

    return block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--blocks", type=int, default=5)
    default = ["HalfCheetah-v5:1", "Hopper-v5:1", "HalfCheetah-v5:4", "CartPole-v1:8", "ale-dqn/Pong:8"]
    parser.add_argument("--tasks", nargs="+", default=default, metavar="ENV:COPIES")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'task':18} {'what':16} {'steps/s':>8} {'ppo is':>8} {'props is':>9}")
    for task in args.tasks:
        env, _, copies = task.rpartition(":")
        clocks = {"ppo": Clock(), "props": Clock()}
        mujoco = not env.startswith(("ale-", "CartPole"))
        blocks: dict[str, Block] = {"ppo": ours("ppo", env, int(copies), clocks["ppo"])}
        if mujoco:
            blocks["props"] = ours("props", env, int(copies), clocks["props"])
        blocks["sb3 ppo"] = sb3(env, int(copies))
        for given in args.peer if mujoco and copies == "1" else ():
            called, _, command = given.partition("=")
            blocks[called] = peer(command, env, 10_240)
        rates: dict[str, list[float]] = {name: [] for name in blocks}
        for _ in range(args.blocks):
            for name, block in blocks.items():
                rates[name].append(block())
        for name, found in rates.items():
            ratios = [f"{np.median(np.divide(rates[a], found)):.2f}x" if a in rates else "" for a in ("ppo", "props")]
            shares = clocks[name].shares() if name in clocks else ""
            print(f"{task:18} {name:16} {np.median(found):8.0f} {ratios[0]:>8} {ratios[1]:>9}  {shares}", flush=True)


if __name__ == "__main__":
    main()
