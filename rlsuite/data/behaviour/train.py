"""Train the behaviour policies whose rollouts are the `rlsuite/...` datasets.

Stable-Baselines3 SAC with its default hyper-parameters, one torch thread. Every `--every` environment steps the actor
is evaluated (its own stochastic policy, as D4RL's medium data were collected, and its mean action) and written to
`OUT/actor-STEP.npz`: plain arrays, half precision, no pickle. `OUT/record.jsonl` is the training record.

    python -m rlsuite.data.behaviour.train --env Hopper-v5 --steps 500000 --seed 1 --out OUT
    python -m rlsuite.data.behaviour.train --env Hopper-v5 --steps 500000 --seed 1 --out OUT \\
        --pick 1100 --name hopper-medium

"medium" is the first checkpoint whose stochastic return reaches a third of the expert's, "expert" (`--pick best`) the
one with the best mean action. The second command copies it into the package as `NAME.npz`, with `NAME.json`: the
training record (up to there), the versions, and its return over 100 fresh episodes, measured by the code that rolls it
out.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np

from rlsuite.data.rollout import returns
from rlsuite.errors import UserError

EVALUATION_SEED = 20_000  # episode seeds of the record; training and recipes draw theirs from elsewhere


def actor_arrays(policy: Any) -> dict[str, np.ndarray]:
    """The SB3 SAC actor as arrays: `w{i}` (out, in) and `b{i}` (out,), the last layer giving [mean | log_std]."""
    actor = policy.actor
    layers = [m for m in actor.latent_pi if hasattr(m, "weight")]
    arrays = {}
    for i, layer in enumerate(layers):
        arrays[f"w{i}"] = layer.weight.detach().numpy()
        arrays[f"b{i}"] = layer.bias.detach().numpy()
    last = len(layers)
    for name in ("weight", "bias"):
        mean, log_std = (getattr(m, name).detach().numpy() for m in (actor.mu, actor.log_std))
        arrays[f"{name[0]}{last}"] = np.concatenate([mean, log_std])
    return {key: value.astype(np.float16) for key, value in arrays.items()}


def evaluate(model: Any, env_id: str, episodes: int, deterministic: bool) -> list[float]:
    """Undiscounted returns of `episodes` episodes with fixed seeds."""
    import gymnasium as gym
    import torch

    env = gym.make(env_id)
    returns = []
    with torch.random.fork_rng():  # measuring must not move the training's own random numbers
        torch.manual_seed(EVALUATION_SEED)
        for episode in range(episodes):
            observation, _ = env.reset(seed=EVALUATION_SEED + episode)
            total, done = 0.0, False
            while not done:
                action, _ = model.predict(observation, deterministic=deterministic)
                observation, reward, terminated, truncated, _ = env.step(action)
                total += float(reward)
                done = terminated or truncated
            returns.append(total)
    env.close()
    return returns


def train(env_id: str, steps: int, seed: int, out: Path, every: int, episodes: int) -> None:
    """Train SAC for `steps` environment steps, leaving one actor file and one record line every `every` steps."""
    import torch
    from stable_baselines3 import SAC

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    model = SAC("MlpPolicy", env_id, seed=seed, learning_starts=10_000, device="cpu")
    with (out / "record.jsonl").open("w") as record:
        for step in range(every, steps + 1, every):
            model.learn(every, reset_num_timesteps=False)
            np.savez(out / f"actor-{step:07d}.npz", allow_pickle=False, **actor_arrays(model.policy))
            line: dict[str, float] = {"env_steps": step}
            for label, deterministic in (("stochastic", False), ("deterministic", True)):
                returns = evaluate(model, env_id, episodes, deterministic)
                line[f"{label}_mean"] = round(float(np.mean(returns)), 1)
                line[f"{label}_std"] = round(float(np.std(returns)), 1)
            record.write(json.dumps(line) + "\n")
            record.flush()


def pick(out: Path, goal: float | None, name: str, env_id: str, command: str) -> dict[str, Any]:
    """Copy one checkpoint of `out` into the package: the first with a stochastic mean return of at least `goal`, or,
    for None, the one with the best deterministic mean return.

    Gives what `NAME.json` says about it. Raises UserError where no checkpoint is that good.
    """
    record = [json.loads(line) for line in (out / "record.jsonl").read_text().splitlines()]
    if goal is None:
        rule = "the checkpoint of the record with the highest deterministic mean return"
        chosen = max(range(len(record)), key=lambda i: record[i]["deterministic_mean"])
    else:
        rule = f"the first checkpoint of the record with a stochastic mean return of at least {goal:g}"
        reached = [i for i, line in enumerate(record) if line["stochastic_mean"] >= goal]
        if not reached:
            raise UserError(f"no checkpoint in {out} has reached a return of {goal}; train longer or ask for less.")
        chosen = reached[0]
        record = record[: chosen + 1]
    step = record[chosen]["env_steps"]
    target = Path(__file__).parent / f"{name}.npz"
    weights = (out / f"actor-{step:07d}.npz").read_bytes()
    target.write_bytes(weights)
    measured: dict[str, Any] = {"episodes": 100, "seed": EVALUATION_SEED}
    for label, deterministic in (("stochastic", False), ("deterministic", True)):
        values = returns(env_id, target, 100, EVALUATION_SEED, deterministic)
        statistics = {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
        measured[label] = {key: round(float(value), 1) for key, value in statistics.items()}
    story = {
        "name": name,
        "environment": env_id,
        "rule": rule,
        "env_steps": step,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "measured": measured,
        "command": command,
        "versions": {p: importlib.metadata.version(p) for p in ("stable-baselines3", "gymnasium", "mujoco", "torch")},
        "record": record,
    }
    target.with_suffix(".json").write_text(json.dumps(story, indent=1) + "\n")
    return story


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--env", default="Hopper-v5", help="Gymnasium id with a Box action space")
    parser.add_argument("--steps", type=int, default=500_000, help="environment steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=10_000, help="environment steps between checkpoints")
    parser.add_argument("--episodes", type=int, default=10, help="evaluation episodes a checkpoint and mode")
    parser.add_argument("--out", type=Path, required=True, help="folder for actors and record")
    parser.add_argument("--pick", help="instead of training: copy the first checkpoint of this return, or the 'best'")
    parser.add_argument("--name", help="with --pick: what to call it in the package, such as hopper-medium")
    args = parser.parse_args()
    if args.pick is not None:
        if args.name is None:
            parser.error("--pick needs --name")
        command = (
            f"python -m rlsuite.data.behaviour.train --env {args.env} --steps {args.steps} --seed {args.seed} "
            f"--every {args.every} --episodes {args.episodes} --out OUT"
        )
        goal = None if args.pick == "best" else float(args.pick)
        story = pick(args.out, goal, args.name, args.env, command)
        print(json.dumps({key: story[key] for key in ("name", "env_steps", "measured")}))
        return
    train(args.env, args.steps, args.seed, args.out, args.every, args.episodes)


if __name__ == "__main__":
    main()
