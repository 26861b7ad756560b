"""Train the behaviour policies whose rollouts are the `rlsuite/...` datasets.

Stable-Baselines3 SAC with its default hyper-parameters, one torch thread. Every `--every` environment steps the actor
is evaluated (its own stochastic policy, as D4RL's medium data were collected, and its mean action) and written to
`OUT/actor-STEP.npz`: plain arrays, half precision, no pickle. `OUT/record.jsonl` is the training record.

    python -m rlsuite.data.behaviour.train --env Hopper-v5 --steps 500000 --seed 1 --out OUT
    python -m rlsuite.data.behaviour.train --env Hopper-v5 --steps 500000 --seed 1 --out OUT \\
        --pick 1100 --name hopper-medium

"medium" is the first checkpoint whose stochastic return reaches a third of D4RL's reference for the expert, "expert"
(`--pick best`) the one with the best mean action; `--pick replay` stacks ten checkpoints from the first to medium. The
second command copies them into the package as `NAME.npz`, with `NAME.json`: the training record (up to there), the
versions, and the returns over 100 fresh episodes, measured by the code that rolls them out.

A training that was interrupted continues from its last checkpoint when the first command is given again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlsuite.data.files import atomic_file, read_json, write_atomic, write_json
from rlsuite.data.rollout import BEHAVIOUR as HERE
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


def train(
    env_id: str,
    steps: int,
    seed: int,
    out: Path,
    every: int,
    episodes: int,
    train_freq: int,
    learning_starts: int,
    hidden: int,
) -> None:
    """Train SAC for `steps` environment steps, leaving one actor file and one record line every `every` steps.

    Continues where a killed training left `out`: everything but the episode under way is as it was.
    """
    import gymnasium as gym
    import torch

    from rlsuite.data.behaviour.sac import FastSAC

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    env = gym.wrappers.DtypeObservation(gym.make(env_id), np.float32)  # half the replay buffer
    policy = {"optimizer_kwargs": {"fused": True}, "net_arch": [hidden, hidden]}
    model = FastSAC(
        "MlpPolicy",
        env,
        seed=seed,
        learning_starts=learning_starts,
        buffer_size=min(steps, 1_000_000),
        train_freq=train_freq,
        gradient_steps=1,
        policy_kwargs=policy,
        device="cpu",
    )
    start = _restore(model, out)
    for step in range(start + every, steps + 1, every):
        model.learn(every, reset_num_timesteps=False)
        actor = out / f"actor-{step:07d}.npz"
        with atomic_file(actor) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **actor_arrays(model.policy))
        line: dict[str, float] = {"env_steps": step}
        for label, deterministic in (("stochastic", False), ("deterministic", True)):
            values = returns(env_id, str(actor), episodes, EVALUATION_SEED, deterministic)
            line[f"{label}_mean"] = round(float(values.mean()), 1)
            line[f"{label}_std"] = round(float(values.std()), 1)
        _save(model, out, every, line)


TRANSITION = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def _save(model: Any, out: Path, every: int, line: dict[str, float]) -> None:
    """Write the transitions since the last call, the record so far and, last, the state they belong to."""
    import torch

    buffer, step = model.replay_buffer, int(line["env_steps"])
    rows = np.arange(step - every, step) % buffer.buffer_size
    with atomic_file(out / f"transitions-{step:07d}.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: getattr(buffer, name)[rows] for name in TRANSITION})
    record = [entry for entry in read_record(out) if entry["env_steps"] < step]
    write_atomic(out / "record.jsonl", "".join(json.dumps(entry) + "\n" for entry in [*record, line]))
    state = {
        "step": step,
        "parameters": model.get_parameters(),
        "log_ent_coef": model.log_ent_coef.detach(),
        "updates": model._n_updates,
        "torch": torch.get_rng_state(),
        "numpy": _plain(np.random.get_state(legacy=False)),
    }
    with atomic_file(out / "state.pt") as temporary:
        torch.save(state, temporary)


def _restore(model: Any, out: Path) -> int:
    """Give `model` what `_save` last wrote to `out`; the environment step it had reached, 0 for a new training."""
    import torch

    if not (out / "state.pt").exists():
        return 0
    state = torch.load(out / "state.pt", weights_only=True)
    model.set_parameters(state["parameters"])
    with torch.no_grad():
        model.log_ent_coef.copy_(state["log_ent_coef"])
    buffer, step = model.replay_buffer, int(state["step"])
    end = 0
    for path in sorted(out.glob("transitions-*.npz")):
        if int(path.stem.split("-")[1]) > step:
            continue
        with np.load(path) as chunk:
            rows = np.arange(end, end + len(chunk["rewards"])) % buffer.buffer_size
            for name in TRANSITION:
                getattr(buffer, name)[rows] = chunk[name]
        end += len(rows)
    buffer.pos, buffer.full = end % buffer.buffer_size, end >= buffer.buffer_size
    model.num_timesteps, model._n_updates = step, state["updates"]
    torch.set_rng_state(state["torch"])
    generator = state["numpy"]
    generator["state"]["key"] = np.array(generator["state"]["key"], np.uint32)
    np.random.set_state(generator)
    return step


def _plain(generator: dict[str, Any]) -> dict[str, Any]:
    """A state of NumPy's global generator without arrays, so that reading it back needs no pickle."""
    return {**generator, "state": {**generator["state"], "key": generator["state"]["key"].tolist()}}


def read_record(out: Path) -> list[dict[str, float]]:
    """The record lines of a training folder."""
    path = out / "record.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def pick(out: Path, goal: float | None, name: str, env_id: str, command: str) -> dict[str, Any]:
    """Copy one checkpoint of `out` into the package: the first with a stochastic mean return of at least `goal`, or,
    for None, the one with the best deterministic mean return.

    Gives what `NAME.json` says about it. Raises UserError where no checkpoint is that good.
    """
    record = read_record(out)
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
    step = int(record[chosen]["env_steps"])
    target = HERE / f"{name}.npz"
    write_atomic(target, (out / f"actor-{step:07d}.npz").read_bytes())
    story = {"name": name, "environment": env_id, "rule": rule, "env_steps": step}
    return _tell(target, story | {"measured": measure(env_id, name), "record": record}, command)


def pick_replay(out: Path, name: str, env_id: str, command: str, count: int = 10) -> dict[str, Any]:
    """Stack `count` checkpoints, evenly spaced up to the robot's medium policy, into one file of the package.

    `name` is `ROBOT-replay`, and `ROBOT-medium` is there already. Gives what `NAME.json` says about them.
    """
    medium = read_json(HERE / f"{name.replace('-replay', '-medium')}.json")
    record = [line for line in read_record(out) if line["env_steps"] <= medium["env_steps"]]
    if len(record) < count:
        raise UserError(
            f"{out} has {len(record)} checkpoints up to {name}'s end, not {count}; train with less --every."
        )
    steps = [int(record[i]["env_steps"]) for i in np.linspace(0, len(record) - 1, count).round().astype(int)]
    stacks: dict[str, list[np.ndarray]] = {}
    for step in steps:
        with np.load(out / f"actor-{step:07d}.npz") as actor:
            for key in actor.files:
                stacks.setdefault(key, []).append(actor[key])
    target = HERE / f"{name}.npz"
    with atomic_file(target) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{key: np.stack(stack) for key, stack in stacks.items()})
    rule = f"{count} checkpoints of the record, evenly spaced from the first to the medium policy"
    measured = [measure(env_id, f"{name}/{i}", modes=("stochastic",)) for i in range(count)]
    story = {"name": name, "environment": env_id, "rule": rule, "env_steps": steps, "measured": measured}
    return _tell(target, story | {"record": record}, command)


def measure(env_id: str, behaviour: str, modes: Sequence[str] = ("stochastic", "deterministic")) -> dict[str, Any]:
    """Mean, std, min and max return of a behaviour over 100 episodes, sampled and with its mean action."""
    measured: dict[str, Any] = {"episodes": 100, "seed": EVALUATION_SEED}
    for mode in modes:
        values = returns(env_id, behaviour, 100, EVALUATION_SEED, mode == "deterministic")
        statistics = {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
        measured[mode] = {key: round(float(value), 1) for key, value in statistics.items()}
    return measured


def _tell(weights: Path, story: dict[str, Any], command: str) -> dict[str, Any]:
    record = story.pop("record")
    story |= {
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "command": command,
        "versions": {p: importlib.metadata.version(p) for p in ("stable-baselines3", "gymnasium", "mujoco", "torch")},
        "record": record,
    }
    write_json(weights.with_suffix(".json"), story)
    return story


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--env", default="Hopper-v5", help="Gymnasium id with a Box action space")
    parser.add_argument("--steps", type=int, default=500_000, help="environment steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=10_000, help="environment steps between checkpoints")
    parser.add_argument("--episodes", type=int, default=10, help="evaluation episodes a checkpoint and mode")
    parser.add_argument("--train-freq", type=int, default=1, help="environment steps between gradient steps")
    parser.add_argument("--learning-starts", type=int, default=10_000, help="environment steps of uniform actions")
    parser.add_argument("--hidden", type=int, default=256, help="width of the two layers of each network")
    parser.add_argument("--out", type=Path, required=True, help="folder for actors and record; continued if there")
    parser.add_argument(
        "--pick", help="instead of training: copy the first checkpoint of this return, 'best' or 'replay'"
    )
    parser.add_argument("--name", help="with --pick: what to call it in the package, such as hopper-medium")
    args = parser.parse_args()
    if args.pick is None:
        options = (args.every, args.episodes, args.train_freq, args.learning_starts, args.hidden)
        train(args.env, args.steps, args.seed, args.out, *options)
        return
    if args.name is None:
        parser.error("--pick needs --name")
    given = {key: value for key, value in vars(args).items() if key not in ("pick", "name", "out")}
    flags = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in given.items())
    command = f"python -m rlsuite.data.behaviour.train {flags} --out OUT"
    if args.pick == "replay":
        story = pick_replay(args.out, args.name, args.env, command)
    else:
        story = pick(args.out, None if args.pick == "best" else float(args.pick), args.name, args.env, command)
    print(json.dumps({key: story[key] for key in ("name", "env_steps", "measured")}))


if __name__ == "__main__":
    main()
