"""CPU seconds of the episodes that a certificate is made from, in CartPole and in Freeway, on one core.

CartPole: 10,000 episodes of 200 steps under noise, five frames, by `rlsuite.certify.play.play`. A Q network 256-256 is
evaluated at every step, and then a linear rule acts that survives, so that the episodes are as long as those of a
trained policy. Beside it the loop that people write: one environment, Gymnasium's wrappers, and `DQN.predict` of
Stable-Baselines3, over a few episodes, its seconds extrapolated to as many steps; and a step of Gymnasium's own vector
CartPole, with no noise, no frames and no policy.

Freeway: `play` with the convolutional network of Mnih et al., 2015, four frames, noise of 0.05, 250 steps, difficulty
1; beside it ale-py's vector environment with random actions (which knows only difficulty 0), both with as many copies.
They take turns in blocks of steps, so that a busy machine slows both; what an episode costs to begin is counted with
ours, what the copies cost to be made is not. Then the share of each stage.

    python benchmarks/speed/certification.py [--episodes 10000] [--only cartpole|freeway] [--quick]
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded, so before the imports below

import gymnasium as gym
import numpy as np
import torch

from rlsuite.algorithms.policy_smoothing import QPolicy
from rlsuite.certify.play import PICTURES, VECTORS, play
from rlsuite.harness.ale import AleSlots, Shrink
from rlsuite.harness.seeding import evaluation_seeds
from rlsuite.harness.smoothing import SmoothedSlots
from rlsuite.kernels.linear import backend
from rlsuite_envs.cart_pole import CartPoleBatch

CARTPOLE = "CartPole-v0#frames=5,sigma=0.2"
FREEWAY = "ale-smoothing/Freeway#frames=4,sigma=0.05,steps={steps},difficulty=1"
BALANCE = np.array([0.01, 0.18, 1.8, 0.88], np.float32)  # of the mean of the last frames
TURN = 25  # steps of a block
STAGES = {  # what is timed: attribute -> stage
    (CartPoleBatch, "step"): "environment",
    (AleSlots, "step"): "emulator, grey, maximum",
    (Shrink, "__call__"): "84 x 84",
    (SmoothedSlots, "_draw"): "noise",
    (SmoothedSlots, "advance"): "frames",
    (SmoothedSlots, "begin"): "beginnings",
    (QPolicy, "act"): "network",
}
Array = np.ndarray


class Clock:
    """CPU seconds in each stage; what a stage calls of another is not counted."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.inside = [0.0]  # what the stages under way have spent in others

    @contextmanager
    def watching(self) -> Iterator[None]:
        kept = {at: getattr(*at) for at in STAGES}
        for (owner, attribute), stage in STAGES.items():
            setattr(owner, attribute, self.timed(stage, kept[owner, attribute]))
        try:
            yield
        finally:
            for (owner, attribute), function in kept.items():
                setattr(owner, attribute, function)

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.inside.append(0.0)
            begun = time.process_time()
            result = function(*arguments)
            seconds = time.process_time() - begun
            self.spent[stage] += seconds - self.inside.pop()
            self.inside[-1] += seconds
            return result

        return call

    def shares(self, total: float) -> str:
        stages = sorted(self.spent.items(), key=lambda item: -item[1])
        stages.append(("the rest", total - sum(self.spent.values())))
        return ", ".join(f"{stage} {seconds / total:.0%}" for stage, seconds in stages if seconds > 0.005 * total)


def balance(observations: Array) -> Array:
    """The rule that survives: (B, 20) -> (B,)."""
    return (observations.reshape(len(observations), -1, 4).mean(1) @ BALANCE > 0).astype(np.int64)


def predict_loop(episodes: int) -> tuple[int, float]:
    """Steps and CPU seconds of the loop that people write."""
    from stable_baselines3 import DQN

    noise = np.random.default_rng(0)
    env: gym.Env = gym.make("CartPole-v1", max_episode_steps=200)
    env = gym.wrappers.TransformObservation(
        env, lambda frame: frame + 0.2 * noise.standard_normal(4, np.float32), env.observation_space
    )
    env = gym.wrappers.FlattenObservation(gym.wrappers.FrameStackObservation(env, 5))
    model = DQN("MlpPolicy", env, buffer_size=1, policy_kwargs={"net_arch": [256, 256]}, device="cpu")
    steps, begun = 0, time.process_time()
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        over = False
        while not over:
            model.predict(observation, deterministic=True)
            observation, _, terminated, truncated, _ = env.step(int(balance(observation[None])[0]))
            over = terminated or truncated
            steps += 1
    return steps, time.process_time() - begun


def vector_step(steps: int) -> float:
    """CPU seconds of a step of one of Gymnasium's vectorised CartPoles."""
    envs = gym.make_vec("CartPole-v1", VECTORS, vectorization_mode="vector_entry_point")
    envs.reset(seed=0)
    actions = np.random.default_rng(0).integers(2, size=(steps, VECTORS))
    begun = time.process_time()
    for action in actions:
        envs.step(action)
    return (time.process_time() - begun) / (steps * VECTORS)


def cartpole(episodes: int, loops: int) -> None:
    policy, clock = QPolicy((20,), 2, (256, 256)), Clock()

    def act(observations: Array) -> Array:
        policy.act(observations)
        return balance(observations)

    seeds = evaluation_seeds(CARTPOLE, "certify", episodes)
    play(act, CARTPOLE, seeds[:10])
    with clock.watching():
        begun = time.process_time()
        played = play(act, CARTPOLE, seeds)
        seconds = time.process_time() - begun
    steps = int(played.lengths.sum())
    print(f"{CARTPOLE}: {episodes} episodes, {steps} steps, mean return {played.returns.mean():.1f}")
    print(f"{'what':34} {'us a step':>9} {'CPU s':>8}  ours is")

    def line(what: str, each: float, note: str) -> None:
        ratio = each * steps / seconds
        print(f"{what:34} {1e6 * each:9.2f} {each * steps:8.1f} {ratio:8.2f} x  {note}")

    print(f"{'play':34} {1e6 * seconds / steps:9.2f} {seconds:8.1f}")
    looped, spent = predict_loop(loops)
    line("  Stable-Baselines3's predict loop", spent / looped, f"extrapolated from {looped} steps")
    line("  Gymnasium's vector environment", vector_step(200 if episodes > 1000 else 50), "alone")
    print(f"  {clock.shares(seconds)}\n", flush=True)


def freeway(steps: int, rounds: int, bfloat16: bool) -> None:
    from ale_py import AtariVectorEnv

    preset = {"repeat_action_probability": 0.25, "noop_max": 30, "use_fire_reset": False}
    theirs = AtariVectorEnv("freeway", PICTURES, num_threads=1, reward_clipping=False, **preset)
    theirs.reset(seed=np.arange(PICTURES))
    random = np.random.default_rng(0)
    policy, clock = QPolicy((4, 84, 84), theirs.single_action_space.n), Clock()
    if bfloat16:
        policy.trunk.bfloat16()
    blocks: list[tuple[float, float]] = []
    mark, calls = 0.0, 0

    def act(observations: Array) -> Array:
        """Whenever a block of ours is full, it is their turn."""
        nonlocal mark, calls
        if calls and calls % TURN == 0:
            ours, begun = time.process_time() - mark, time.process_time()
            for _ in range(TURN):
                theirs.step(random.integers(theirs.single_action_space.n, size=PICTURES))
            blocks.append((ours, time.process_time() - begun))
        if not calls or calls % TURN == 0:
            mark = time.process_time()
        calls += 1
        actions: Array = policy.act(observations)
        return actions

    name = FREEWAY.format(steps=steps)
    with clock.watching():
        played = play(act, name, evaluation_seeds(name, "certify", rounds * PICTURES))
    first = clock.spent["beginnings"] / rounds  # those before the first block
    mine, others = np.array(blocks).T
    ours = (mine.sum() + time.process_time() - mark + first) / played.lengths.sum()
    vector = others.sum() / (len(blocks) * TURN * PICTURES)
    print(f"{name}: {PICTURES} copies, {len(blocks)} blocks of {TURN} steps")
    print(f"{'what':34} {'us a step':>9} {'steps/s':>8}  ours is")
    print(f"{'play' + ', bfloat16' * bfloat16:34} {1e6 * ours:9.0f} {1 / ours:8.0f}")
    each = f"{'  vector environment, random':34} {1e6 * vector:9.0f} {1 / vector:8.0f}"
    print(f"{each} {vector / ours:8.2f} x  of its rate; in the median block {np.median(others / mine):.2f} x")
    print(f"  {clock.shares(ours * played.lengths.sum())}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--episodes", type=int, default=10_000, help="of CartPole")
    parser.add_argument("--only", choices=("cartpole", "freeway"))
    parser.add_argument("--quick", action="store_true", help="a few episodes, to see that it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"matrix product: {backend()}; one thread, CPU time")
    if arguments.only != "freeway":
        cartpole(200 if arguments.quick else arguments.episodes, 2 if arguments.quick else 20)
    if arguments.only != "cartpole":
        for bfloat16 in (False, True):
            freeway(*((50, 1) if arguments.quick else (250, 2)), bfloat16)


if __name__ == "__main__":
    main()
