"""Training environments: n copies side by side, with one contract about the ends of episodes.

    transition = envs.step(actions)

gives the true successor of every observation, also of the last one of an episode; `envs.observations` is what to act
on next, the first observation of a new episode where one has just ended. So there is no transition that crosses a
reset, and nothing to leave out. Nothing resets itself: every episode begins with a seed of its own, drawn from the
copy's own stream, whose bits do not depend on the other copies.

That also makes the state of an environment small and exact: the seed of its episode and the actions since. A resumed
run plays them again and compares the observation that comes out, bit for bit. (A task whose episodes never end makes
that list, and a resume, as long as the run.) This restores what no snapshot does:
ale-py's vector environment has no way to copy its state, and that of a MuJoCo simulator is more than positions and
velocities.

Atari games are named with the protocol they are played under, as in `ale-dqn/Pong`:

                        ale-machado             ale-dqn                     ale-smoothing
    sticky actions      0.25                    none                        0.25
    actions             all 18                  the game's minimal set      the game's minimal set
    start               as the game begins      up to 30 no-ops, then FIRE  up to 30 no-ops
                                                where the game waits for it
    loss of a life      nothing                 a termination while         nothing
                                                training (the game goes on)
    training reward     the sign of the score (all)
    evaluation          raw score, until the game is over (all)

All: frame skip 4 with the maximum of the last two frames, 84 x 84 grey, 4 frames stacked, at most 108,000 frames.
Machado et al., 2018, arXiv 1709.06009; Mnih et al., 2015; Kumar et al., 2022, arXiv 2106.11420.
"""

from __future__ import annotations

import importlib
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np

import rlsuite_envs  # noqa: F401 (registers the suite's own environments)
from rlsuite.errors import UserError, nearest
from rlsuite.harness.ale import AleSlots
from rlsuite.harness.smoothing import SmoothedSlots, split_view

ROBOTICS = re.compile("Adroit|AntMaze|Fetch|FrankaKitchen|Hand|PointMaze")  # ids of gymnasium-robotics begin so
ATARI: dict[str, dict[str, Any]] = {
    "ale-machado": {
        "repeat_action_probability": 0.25,
        "full_action_space": True,
        "noop_max": 0,
        "use_fire_reset": False,
    },
    "ale-dqn": {"repeat_action_probability": 0.0, "full_action_space": False, "noop_max": 30, "use_fire_reset": True},
    "ale-smoothing": {
        "repeat_action_probability": 0.25,
        "full_action_space": False,
        "noop_max": 30,
        "use_fire_reset": False,
    },
}
TRAINING_SEEDS = 1 << 31  # below this number; evaluation seeds are above it
SMALLEST_PICTURE = 36  # height and width that the convolutions of Mnih et al., 2015, leave something of


class Diverged(FloatingPointError):
    """A metric, a return, an observation or a reward is NaN or infinite."""


@dataclass
class Episode:
    """One episode; finished if one of the flags is set."""

    seed: int
    total: float = 0.0  # undiscounted return
    length: int = 0  # environment steps
    terminated: bool = False
    truncated: bool = False


class Transition(NamedTuple):
    """One step of n copies."""

    next_observations: np.ndarray  # (n, ...) the true successors
    rewards: np.ndarray  # (n,) float32
    terminations: np.ndarray  # (n,) bool; no bootstrap
    truncations: np.ndarray  # (n,) bool; the episode ends by a time limit, not by the task


class Slots(Protocol):
    """n copies of an environment, each reset by number and seed."""

    observation_space: Any  # of one copy
    action_space: Any

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> list[np.ndarray]:
        """The first observations of new episodes in `slots`."""

    def step(self, slots: Sequence[int] | np.ndarray, actions: np.ndarray) -> tuple[Any, ...]:
        """Five sequences over `slots`: observations, rewards, terminations, truncations, and whether a life was lost.

        `actions` has a row for every copy.
        """

    def close(self) -> None: ...


class GymnasiumSlots:
    """Copies made by `gymnasium.make`, stepped one after another."""

    def __init__(self, env_id: str, n: int, **kwargs: Any) -> None:
        self.envs = [make_env(env_id, disable_env_checker=True, **kwargs) for _ in range(n)]
        self.observation_space, self.action_space = self.envs[0].observation_space, self.envs[0].action_space
        self._alive = [False] * n

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> list[np.ndarray]:
        return [self.envs[k].reset(seed=seed)[0] for k, seed in zip(slots, seeds, strict=True)]

    def step(self, slots: Sequence[int] | np.ndarray, actions: np.ndarray) -> tuple[list[Any], ...]:
        played = [self.envs[k].step(actions[k]) for k in slots]
        observations, rewards, terminations, truncations, _ = map(list, zip(*played, strict=True))
        return observations, rewards, terminations, truncations, self._alive

    def close(self) -> None:
        for env in self.envs:
            env.close()


class AtariSlots:
    """Copies inside one vector environment of ale-py.

    Its own automatic reset waits for the next step, and an explicit reset before that takes its place.
    """

    def __init__(self, env_id: str, n: int) -> None:
        from ale_py import AtariVectorEnv

        rom, preset = find_game(env_id)
        self.envs = AtariVectorEnv(rom.stem, n, reward_clipping=False, num_threads=1, **preset)
        self.observation_space, self.action_space = self.envs.single_observation_space, self.envs.single_action_space
        self.n, self.lives = n, np.zeros(n, np.int32)
        self._begun = False

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> list[np.ndarray]:
        if not self._begun:  # ale-py wants every copy to begin before one can be reset alone
            self.envs.reset(seed=np.zeros(self.n, np.int64))
            self._begun = True
        mask = np.zeros(self.n, bool)
        mask[list(slots)] = True
        # It takes 31 bits; half of a seed keeps those of training and evaluation apart.
        ordered = np.asarray(seeds, np.int64)[np.argsort(slots)] >> 1
        observations, info = self.envs.reset(seed=ordered, options={"reset_mask": mask})
        self.lives[mask] = info["lives"][mask]
        return [observations[k] for k in slots]

    def step(self, slots: Sequence[int] | np.ndarray, actions: np.ndarray) -> tuple[Any, ...]:
        observations, rewards, terminations, truncations, info = self.envs.step(np.asarray(actions[: self.n], np.int64))
        lost = info["lives"] < self.lives
        self.lives[:] = info["lives"]
        if len(slots) < self.n:
            picked = list(slots)
            return observations[picked], rewards[picked], terminations[picked], truncations[picked], lost[picked]
        return observations, rewards, terminations, truncations, lost

    def close(self) -> None:
        self.envs.close()


def find_game(env_id: str) -> tuple[Path, dict[str, Any]]:
    """The file of an Atari game, and how its preset plays it; UserError where there is no such game."""
    from ale_py import ALEInterface, LoggerMode, roms

    preset, _, game = env_id.partition("/")
    rom = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", game).lower()
    if rom not in roms.get_all_rom_ids():
        raise UserError(
            f"the environment '{env_id}' cannot be made: ale-py has no game '{game}'; "
            f"{nearest(game, [camel(name) for name in roms.get_all_rom_ids()])}"
        )
    try:
        path = roms.get_rom_path(rom)
    except OSError as error:
        raise UserError(
            f"the environment '{env_id}' cannot be made: {' '.join(str(error).split())}; "
            "reinstall ale-py, which brings the ROMs."
        ) from error
    assert path is not None
    ALEInterface.setLoggerMode(LoggerMode.Error)
    if ALEInterface.isSupportedROM(path) is None:
        raise UserError(f"the environment '{env_id}' cannot be made: the game is for two players; name another one.")
    return path, ATARI[preset]


def camel(rom: str) -> str:
    """space_invaders -> SpaceInvaders"""
    return "".join(word.capitalize() for word in rom.split("_"))


def is_atari(env_id: str) -> bool:
    """Whether `env_id` names a game of ale-py; UserError if it does so without one of the presets."""
    preset, slash, game = env_id.partition("/")
    if preset in ATARI and slash:
        return True
    if preset.startswith("ale-") and slash:
        raise UserError(f"the environment '{env_id}' has an unknown preset; {nearest(preset, ATARI)}")
    if preset == "ALE" and slash:
        name = game.partition("-")[0]
        raise UserError(
            f"the environment '{env_id}' does not say how it is played; name the preset, as in ale-machado/{name} "
            f"(sticky actions, all 18 actions) or ale-dqn/{name} (no-op starts, minimal actions)."
        )
    return False


def make_slots(env_id: str, n: int, rows: int = 0) -> Slots:
    """n copies of an environment, with the view that its name asks for; UserError if there is none of that name.

    `rows` is of what a view lets be `seen`.
    """
    name, view = split_view(env_id)
    if not is_atari(name):
        plain = own_slots(name, n) or GymnasiumSlots(name, n)
        return plain if view is None else SmoothedSlots(plain, n, view, rows)
    if view is None:
        return AtariSlots(name, n)
    rom, preset = find_game(name)
    return SmoothedSlots(AleSlots(rom, n, **preset, difficulty=view.difficulty, mode=view.mode), n, view, rows)


def own_slots(env_id: str, n: int) -> Slots | None:
    """n copies that one of the suite's own environments brings along in the attribute `slots` of its class, if it does.

    That is called with n, the time limit and the arguments of the registration. The copies do what as many of
    `gymnasium.make` would do, bit for bit, in less time.
    """
    spec = gym.registry.get(env_id.rpartition(":")[2])
    entry = spec.entry_point if spec else None
    if spec is None or not (isinstance(entry, str) and entry.startswith("rlsuite_envs.")):
        return None
    make = getattr(gym.envs.registration.load_env_creator(entry), "slots", None)
    return make and make(n, spec.max_episode_steps, **spec.kwargs)


def make_env(env_id: str, **kwargs: Any) -> gym.Env:
    """`gymnasium.make` with flat observations, and a sentence instead of a traceback where that cannot be had.

    Ids may name the module that registers them (`module:Id-v0`); those of gymnasium-robotics need not.
    """
    module, _, name = env_id.rpartition(":")
    if not module and ROBOTICS.match(name) and name not in gym.registry:
        module = "gymnasium_robotics"
    try:
        if module:
            importlib.import_module(module)
        if re.search("mujoco|robotics|ant_coverage", str(gym.spec(name).entry_point)):
            silence_mujoco()
        with warnings.catch_warnings():  # an older version is what was asked for, and stands in every row
            warnings.filterwarnings("ignore", message=".*is out of date")
            env = gym.make(name, **kwargs)
    except (gym.error.Error, ImportError, TypeError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, ImportError) and error.name == "gymnasium_robotics":
            reason = "run `pip install gymnasium-robotics`"
        raise UserError(f"the environment '{env_id}' cannot be made: {reason}") from error
    space = env.observation_space
    is_picture = space.dtype == np.uint8
    is_block = isinstance(space, gym.spaces.Box) and len(space.shape) != 1 and not is_picture
    flattens = is_block or isinstance(space, gym.spaces.Dict | gym.spaces.Discrete)
    return gym.wrappers.FlattenObservation(env) if flattens else env


@cache
def silence_mujoco() -> None:
    """Keep MuJoCo from leaving a MUJOCO_LOG.TXT with notes on Gymnasium's models in the working directory."""
    import mujoco

    mujoco.set_mju_user_warning(lambda message: None)


class Environments:
    """n training copies of one environment under the contract above.

    Args:
        env_id: Gymnasium's id, or `ale-machado/Game`, `ale-dqn/Game`, `ale-smoothing/Game`
        n: copies
        rng: gives the stream of a name; copy k draws the seeds of its episodes from `rng("env k")`
    """

    observations: np.ndarray
    """(n, ...) what to act on now; float32, or uint8 for pictures"""

    def __init__(self, env_id: str, n: int, rng: Callable[[str], np.random.Generator]) -> None:
        if n < 1:
            raise UserError(f"--n-envs is at least 1, not {n}.")
        self.env_id, self.n = env_id, n
        self.slots = make_slots(env_id, n)
        self.observation_space, self.action_space = check_spaces(env_id, self.slots)
        self._atari = env_id.partition("/")[0] if is_atari(env_id) else ""
        self._seeds = [rng(f"env {k}") for k in range(n)]
        self._all = range(n)
        dtype = np.uint8 if self.observation_space.dtype == np.uint8 else np.float32
        self.observations = np.zeros((n, *self.observation_space.shape), dtype)
        self.steps = 0  # of each copy
        self.episodes: list[Episode] = []  # running
        self.finished: list[Episode] = []
        self._actions: list[np.ndarray] = []  # of all copies, since the oldest running episode began
        self._begun = [0] * n  # where in them each running episode begins

    def begin(self) -> None:
        """Start the first episodes, unless a checkpoint has already continued some."""
        if not self.episodes:
            self.episodes = [Episode(-1) for _ in self._all]
            self._reset(list(self._all))

    def step(self, actions: np.ndarray) -> Transition:
        """Let every copy take its action: (n, action_dim) floats within the bounds, or (n,) whole numbers.

        Raises Diverged if an observation or a reward is not finite.
        """
        if not self.episodes:
            self.begin()
        self._actions.append(actions.copy())
        self.steps += 1
        observations, rewards, terminations, truncations, lost = self.slots.step(self._all, actions)
        following = np.array(observations, self.observations.dtype)
        ended = []
        for k, episode in enumerate(self.episodes):
            reward = float(rewards[k])
            if not math.isfinite(reward):
                raise Diverged(f"the reward of {self.env_id} is {reward} at its step {self.steps} (copy {k})")
            episode.total += reward
            episode.length += 1
            if terminations[k] or truncations[k]:
                episode.terminated, episode.truncated = bool(terminations[k]), bool(truncations[k])
                ended.append(k)
        self._check_finite(following)
        given = np.asarray(rewards, np.float32)
        terminated = np.asarray(terminations, bool)
        if self._atari:
            given = np.sign(given)
            if self._atari == "ale-dqn":
                terminated = terminated | lost
        transition = Transition(following, given, terminated, np.asarray(truncations, bool))
        self.observations = following
        if ended:
            self.observations = following.copy()
            self.finished += [self.episodes[k] for k in ended]
            self._reset(ended)
        return transition

    def statistics(self) -> dict[str, float]:
        """Mean return and length of the training episodes that ended since the last call; nothing if none did."""
        done, self.finished = self.finished, []
        if not done:
            return {}
        return {
            "episode_return": sum(e.total for e in done) / len(done),
            "episode_length": sum(e.length for e in done) / len(done),
            "episodes": float(len(done)),
        }

    def close(self) -> None:
        self.slots.close()

    def _reset(self, slots: list[int]) -> None:
        seeds = [int(self._seeds[k].integers(TRAINING_SEEDS)) for k in slots]
        for k, seed, observation in zip(slots, seeds, self.slots.reset(slots, seeds), strict=True):
            self.observations[k] = observation
            self.episodes[k] = Episode(seed)
            self._begun[k] = len(self._actions)
        self._check_finite(self.observations)
        oldest = min(self._begun)
        if oldest > 1000 and 2 * oldest > len(self._actions):
            del self._actions[:oldest]
            self._begun = [begun - oldest for begun in self._begun]

    def _check_finite(self, observations: np.ndarray) -> None:
        if observations.dtype == np.uint8:
            return
        flat = observations.ravel()
        if not math.isfinite(flat.dot(flat)):
            bad = [k for k in self._all if not np.isfinite(observations[k]).all()]
            if bad:
                raise Diverged(
                    f"an observation of {self.env_id} has a number that is not finite at its step {self.steps} "
                    f"(copy {bad[0]})"
                )

    # Resume

    def state_dict(self) -> dict[str, Any]:
        self.begin()
        oldest = min(self._begun)
        actions = self._actions[oldest:]
        return {
            "steps": self.steps,
            "observations": self.observations,
            "actions": np.array(actions) if actions else np.zeros((0, self.n)),
            "begun": [begun - oldest for begun in self._begun],
            "episodes": [[e.seed, e.total, e.length] for e in self.episodes],
            "finished": [[e.seed, e.total, e.length, e.terminated, e.truncated] for e in self.finished],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Play the running episodes again up to where they were.

        Raises UserError if the environment does not repeat itself, so that nobody takes the run for an exact one.
        """
        self.steps = state["steps"]
        self._actions, self._begun = list(state["actions"]), list(state["begun"])
        self.episodes = [Episode(*fields) for fields in state["episodes"]]
        self.finished = [Episode(*fields) for fields in state["finished"]]
        starts: dict[int, list[int]] = {}
        for k, begun in enumerate(self._begun):
            starts.setdefault(begun, []).append(k)
        playing: list[int] = []
        for t in range(len(self._actions) + 1):
            if t in starts:
                begin = starts[t]
                first = self.slots.reset(begin, [self.episodes[k].seed for k in begin])
                for k, observation in zip(begin, first, strict=True):
                    self.observations[k] = observation
                playing = sorted(playing + begin)
            if t < len(self._actions):
                played, *_ = self.slots.step(playing, self._actions[t])
                for k, observation in zip(playing, played, strict=True):
                    self.observations[k] = observation
        if not np.array_equal(self.observations, state["observations"]):
            raise UserError(
                f"{self.env_id} does not repeat an episode that is played again with the same seed and actions, so "
                "this run cannot be continued exactly; start it again in another --run-dir."
            )


def check_spaces(env_id: str, slots: Slots) -> tuple[gym.spaces.Box, gym.spaces.Box | gym.spaces.Discrete]:
    """The spaces of an environment that the suite's methods can learn in; UserError for others."""
    observations, actions = slots.observation_space, slots.action_space
    if not isinstance(observations, gym.spaces.Box):
        raise UserError(
            f"the observations of {env_id} are a {type(observations).__name__}; wrap the environment so that they are "
            "a Box, a Discrete, or a Dict of them."
        )
    shape = observations.shape
    if observations.dtype == np.uint8 and len(shape) > 1 and (len(shape) != 3 or min(shape[1:]) < SMALLEST_PICTURE):
        raise UserError(
            f"the observations of {env_id} are pictures of the shape {shape}; wrap the environment so that they are "
            f"(channels, height, width), of at least {SMALLEST_PICTURE} x {SMALLEST_PICTURE}."
        )
    if isinstance(actions, gym.spaces.Discrete) and actions.start == 0:
        return observations, actions
    if isinstance(actions, gym.spaces.Box) and len(actions.shape) == 1:
        return observations, actions
    raise UserError(
        f"the actions of {env_id} are {actions}; wrap the environment so that they are a Box of one axis or a Discrete "
        "that begins at 0."
    )
