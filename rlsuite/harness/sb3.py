"""Stable-Baselines3's methods as columns to compare with: `sb3:ppo`, `sb3:sac`, `sb3:dqn` and their like.

One adapter for all of them. Theirs are networks, buffers, updates and defaults, and `learn` runs as it is; the suite's
are the environments (seeds, Atari presets, true last observations), the evaluation episodes, the directory and the
log. A flag that the suite's own methods have too keeps the suite's name, so that one table can speak to both; the
others are the numbers, texts and switches of the class's signature, with its defaults and its words.

Stable-Baselines3 draws from the global generators, in a loop of its own: such a run cannot be continued where it was
cut. It begins again and, by its seed, comes to the same end.
"""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import MISSING, asdict, field, fields, make_dataclass
from functools import cache, partial, reduce
from operator import or_
from types import ModuleType, NoneType
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from rlsuite.errors import UserError, printable
from rlsuite.harness.config import SB3_CONTRIB, Settings
from rlsuite.harness.environments import Diverged, Environments
from rlsuite.harness.run import Run
from rlsuite.kernels.distributions import Categorical

Array = np.ndarray
# Parameters that are no flags: what the adapter gives itself, and what it does not let a class do.
OWN = ("policy", "env", "policy_kwargs", "seed", "device")
WITHOUT = ("verbose", "tensorboard_log", "stats_window_size", "optimize_memory_usage")
COMMON: tuple[tuple[str, Any, Any, str], ...] = (
    ("env", str, MISSING, "environment: a Gymnasium id, ale-machado/Game or ale-dqn/Game"),
    ("total_steps", int, 1_000_000, "environment steps, over all copies"),
    ("n_envs", int, 1, "copies of the environment"),
    ("normalize_observations", bool, False, "VecNormalize's running moments; without meaning for pictures"),
    ("normalize_rewards", bool, False, "VecNormalize's running deviation of the discounted return"),
    ("hidden", tuple[int, ...], (), "net_arch, the widths of the hidden layers; its own if none"),
    ("anneal", bool, False, "let the learning rate fall linearly to 0"),
)
ACTION_NOISE = "deviation of Gaussian noise on actions scaled to [-1, 1]; 0 for none, 0.1 in the paper of TD3"
STOCHASTIC = "evaluate discrete policies with sampled actions"


@cache
def load(name: str) -> ModuleType:
    """What a file of an algorithm would define, for the class called `name` in lower case."""
    cls = find(name)
    title = (inspect.getdoc(cls) or cls.__name__).splitlines()[0]
    module = ModuleType(f"{__name__}:{name}", f"Stable-Baselines3's {cls.__name__}: {title}")
    config = make_config(cls)
    library = importlib.import_module(cls.__module__.partition(".")[0])
    module.__dict__.update(
        Config=config,
        PRESETS=presets(config),
        Policy=Policy,
        train=partial(train, name),
        __version__=f"{library.__name__} {library.__version__}",
    )
    return module


def find(name: str) -> type[BaseAlgorithm]:
    library = importlib.import_module("sb3_contrib" if name in SB3_CONTRIB else "stable_baselines3")
    cls: type[BaseAlgorithm] = getattr(library, next(key for key in library.__all__ if key.lower() == name))
    return cls


def make_config(cls: type[BaseAlgorithm]) -> type:
    """A frozen dataclass of the flags of `cls`; help lines are in the metadata of its fields."""
    parameters = inspect.signature(cls).parameters
    rows = list(COMMON)
    if issubclass(cls.policy_aliases["MlpPolicy"], ActorCriticPolicy):
        rows.append(("stochastic", bool, False, STOCHASTIC))
    if "action_noise" in parameters:
        rows.append(("action_noise", float, 0.0, ACTION_NOISE))
    helps = documented(cls)
    for name, parameter in parameters.items():
        kind = kind_of(parameter.annotation)
        if kind is not None and name not in OWN + WITHOUT and not name.startswith("_"):
            default = float(parameter.default) if kind is float else parameter.default
            rows.append((name, kind, default, helps.get(name, "")))
    return make_dataclass(
        "Config", [(name, kind, field(default=d, metadata={"help": text})) for name, kind, d, text in rows], frozen=True
    )


def kind_of(annotation: Any) -> Any:
    """The part of a parameter's type that a flag can express: float of `float | Schedule`; None if there is none."""
    members = typing.get_args(annotation) or (annotation,)
    kinds: list[Any] = [kind for kind in (bool, int, float, str) if kind in members]
    if kinds and NoneType in members:
        kinds.append(NoneType)
    return reduce(or_, kinds) if kinds else None


def documented(cls: type) -> dict[str, str]:
    """Parameter -> what the docstring of `cls` says about it, on one line."""
    entries = re.findall(r":param (\w+):(.*?)(?=\n:param|\Z)", inspect.getdoc(cls) or "", re.DOTALL)
    return {name: " ".join(text.replace("``", "").split()) for name, text in entries}


def presets(config: type) -> dict[str, dict[str, Any]]:
    """Those of the suite's PPO, as far as they say how long a run is and when it is evaluated."""
    from rlsuite.algorithms import ppo

    shared = {f.name for f in fields(Settings)} | {"total_steps", "stochastic"} & {f.name for f in fields(config)}
    return {
        pattern: {key: value for key, value in given.items() if key in shared} for pattern, given in ppo.PRESETS.items()
    }


class Copies(VecEnv):
    """The suite's environments under Stable-Baselines3's contract: what follows the end of an episode is the next one.

    Without `envs` they have spaces only, which is all that a policy is built from.
    """

    def __init__(
        self, n: int, observations: gym.Space[Any], actions: gym.Space[Any], envs: Environments | None = None
    ) -> None:
        super().__init__(n, observations, actions)
        self.envs: Any = envs

    def reset(self) -> Array:
        self.envs.begin()
        observations: Array = self.envs.observations
        return observations

    def step_async(self, actions: Array) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        episodes = list(self.envs.episodes)
        following, rewards, terminations, truncations = self.envs.step(self._actions)
        dones = terminations | truncations
        infos: list[dict[str, Any]] = [{} for _ in episodes]
        for k in np.flatnonzero(dones):
            infos[k]["terminal_observation"] = following[k]
            infos[k]["TimeLimit.truncated"] = bool(truncations[k] and not terminations[k])
            if self.envs.episodes[k] is not episodes[k]:  # the game goes on after the loss of a life
                infos[k]["episode"] = {"r": episodes[k].total, "l": episodes[k].length}
        return self.envs.observations, rewards, dones, infos

    def close(self) -> None:
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None] * self.num_envs

    # VecEnv demands the next two. None of the methods offered here needs them, and nothing may reach around the suite's
    # contract.

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"{attr_name} cannot be set: the copies are the suite's own")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(f"{method_name} cannot be called: the copies are the suite's own")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class Policy:
    """A model of Stable-Baselines3 and how it acts; VecNormalize's moments are part of it.

    Args:
        name: of its class, in lower case
        config: the values of its Config
        observation_shape, dtype: of one observation; three axes are a picture, of floats up to 1 where not uint8
        actions: action dimensions, or how many actions there are to choose from
        low, high: bounds of continuous actions; none for discrete ones
        envs: what it is trained in; none where it shall only act
        seed, device: of the training

    Raises UserError where Stable-Baselines3 refuses the spaces or the values.
    """

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        observation_shape: Sequence[int],
        dtype: str,
        actions: int,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        envs: Environments | None = None,
        seed: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "envs", "seed", "device")}
        self.stochastic = bool(config.get("stochastic")) and low is None
        is_picture = len(observation_shape) == 3
        bounds = (0.0, 255.0) if dtype == "uint8" else (-np.inf, np.inf)
        observation_space = gym.spaces.Box(*bounds, tuple(observation_shape), np.dtype(dtype))
        action_space = action_space_of(actions, low, high)
        venv: Any = Copies(config["n_envs"], observation_space, action_space, envs)
        normalizes = config["normalize_observations"] and not is_picture
        if normalizes or config["normalize_rewards"]:
            venv = VecNormalize(
                venv, norm_obs=normalizes, norm_reward=config["normalize_rewards"], gamma=config["gamma"]
            )
        self.normalizer = venv if normalizes else None
        cls = find(name)
        given = {key: value for key, value in config.items() if key in inspect.signature(cls).parameters}
        given |= {"policy": "CnnPolicy" if is_picture else "MlpPolicy", "env": venv, "seed": seed, "device": device}
        given["policy_kwargs"] = {"net_arch": list(config["hidden"])} if config["hidden"] else {}
        if is_picture and dtype != "uint8":
            given["policy_kwargs"]["normalize_images"] = False
        if config["anneal"]:
            given["learning_rate"] = lambda remaining: remaining * config["learning_rate"]
        if noise := given.pop("action_noise", 0.0):
            given["action_noise"] = NormalActionNoise(np.zeros(actions), np.full(actions, noise))
        if "buffer_size" in given:  # a buffer that the run cannot fill would be memory set aside for nothing
            room = config["n_envs"] + (config["total_steps"] if envs else 0)
            given["buffer_size"] = min(given["buffer_size"], room)
        try:
            self.model: Any = cls(**given)
        except (AssertionError, ValueError) as error:
            if "as action spaces" in str(error):
                takes = "ppo, sb3:a2c and sb3:dqn do" if low is None else "ppo, sb3:a2c, sb3:sac and sb3:td3 do"
                reason = f"does not take the actions of {config['env']}, {action_space}; sb3:{takes}"
            else:
                reason = f"refuses these settings: {printable(error).rstrip('.')}; change them"
            raise UserError(f"sb3:{name} {reason}.") from error

    def act(self, observations: Array, uniforms: Array | None = None) -> Array:
        """(B, ...) as the environment gives them -> actions within the bounds: the best, or sampled at `uniforms`."""
        if self.normalizer is not None:
            observations = self.normalizer.normalize_obs(observations)
        policy = self.model.policy
        if uniforms is None:
            best: Array = policy.predict(observations, deterministic=True)[0]
            return best
        policy.set_training_mode(False)
        with torch.no_grad():
            logits = policy.get_distribution(policy.obs_to_tensor(observations)[0]).distribution.logits
        return Categorical.of(logits.cpu().numpy()).at(uniforms)

    def state_dict(self) -> dict[str, Any]:
        state = {f"policy.{key}": value for key, value in self.model.policy.state_dict().items()}
        if self.normalizer is not None:
            moments = self.normalizer.obs_rms
            state |= {"mean": torch.from_numpy(moments.mean), "variance": torch.from_numpy(moments.var)}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        weights = {key.removeprefix("policy."): value for key, value in state.items() if key.startswith("policy.")}
        self.model.policy.load_state_dict(weights)
        if self.normalizer is not None:
            moments = self.normalizer.obs_rms
            moments.mean, moments.var = state["mean"].numpy(), state["variance"].numpy()


def action_space_of(actions: int, low: Sequence[float] | None, high: Sequence[float] | None) -> gym.Space[Any]:
    if low is None:
        return gym.spaces.Discrete(actions)
    return gym.spaces.Box(np.asarray(low, np.float32), np.asarray(high, np.float32))


class Positions(BaseCallback):
    """Moves the loop of a run on whenever Stable-Baselines3 has learnt from what it collected."""

    def __init__(self, run: Run, envs: Environments, loop: Generator[int, None, None]) -> None:
        super().__init__()
        self.run, self.envs, self.loop = run, envs, loop

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps:
            self._reached()

    def _on_training_end(self) -> None:
        self._reached()

    def _reached(self) -> None:
        assert self.run.update == self.num_timesteps
        if self.run.logging:
            recorded = {key.rpartition("/")[2]: value for key, value in self.logger.name_to_value.items()}
            numbers = {k: float(v) for k, v in recorded.items() if isinstance(v, int | float | np.number)}
            self.run.log(numbers | self.envs.statistics())
        next(self.loop, None)


def train(name: str, config: Any, run: Run) -> None:
    """Let the class `name` learn in `config.env`, in as many whole rollouts as `config.total_steps` has."""
    envs = run.environments(config.env, config.n_envs)
    space, actions = envs.observation_space, envs.action_space
    policy = Policy(
        name,
        asdict(config),
        space.shape,
        str(envs.observations.dtype),
        actions.shape[0] if isinstance(actions, gym.spaces.Box) else int(actions.n),
        actions.low.tolist() if isinstance(actions, gym.spaces.Box) else None,
        actions.high.tolist() if isinstance(actions, gym.spaces.Box) else None,
        envs,
        run.settings.seed % (1 << 32),
        run.device,
    )
    model = policy.model
    model.set_logger(Logger(None, []))
    steps = model.n_steps if isinstance(model, OnPolicyAlgorithm) else model.train_freq.frequency
    if steps < 1:
        raise UserError(f"sb3:{name} learns from at least 1 step at a time, not {steps}; change its flags.")
    run.track(policy=policy)
    run.restarts = True
    with closing(run.loop(config.total_steps, policy=policy, stride=steps * config.n_envs)) as loop:
        if next(loop, None) is None:
            return  # all but the final evaluation was done
        try:
            model.learn(run.updates, Positions(run, envs, loop), log_interval=None)
        except ValueError as error:  # what torch's distributions raise where a parameter is NaN
            if all(bool(torch.isfinite(weight).all()) for weight in model.policy.parameters()):
                raise
            raise Diverged(f"a weight of the policy is not finite before {run.place}") from error
