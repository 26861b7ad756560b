"""From the episodes of a frozen policy to what can be promised of it, as rows of their own kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rlsuite.algorithms.policy_smoothing import Band, band, certified_budget, whole_budget
from rlsuite.certify import crop
from rlsuite.certify.play import Played, make_view, play
from rlsuite.certify.policies import Subject, file_of, load
from rlsuite.errors import UserError
from rlsuite.harness.environments import is_atari
from rlsuite.harness.manifest import code_version, cpu_class
from rlsuite.harness.seeding import evaluation_seeds
from rlsuite.harness.smoothing import View, spelt, split_view

Array = np.ndarray
MOST_BUDGETS = 1000
TOGETHER = {False: 50, True: 10}  # episodes that one attacker plays, of vectors and of pictures, which take memory
MOST_LEVELS = 500  # above that, alpha divided by them costs more than the band without
# Returns of an episode: lowest, highest, and whether they are whole numbers.
RETURNS: dict[str, tuple[float, float, bool]] = {
    "CartPole-v0": (0, 200, True),
    "CartPole-v1": (0, 500, True),
    "Freeway": (0, 99, True),  # its counter has two digits
    "Pong": (-21, 21, True),
}
LOCAL = "states certified (CROP-LoAct)"
COLUMNS = (
    "policy", "policy_sha256", "env", "sigma", "frames", "score", "low", "high", "episodes", "seeds", "method", "alpha",
    "kind", "level", "budget", "bound", "clean", "code_version", "cpu_class",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """What is to be certified of whom."""

    policy: Path
    env: str
    """with its view, which has noise"""
    episodes: int = 10_000
    alpha: float = 0.05
    score: str = "return"
    """return, or success: 1 for an episode that the task itself ended, 0 for one that a time limit did"""
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    """scores are whole numbers"""
    method: str = "auto"
    """cp, dkw, or auto: cp where there are at most 500 levels"""
    trust_pickle: bool = False
    bfloat16: bool = False
    """as it acts with convolutions in that precision"""

    @property
    def view(self) -> View:
        view = split_view(self.env)[1]
        assert view is not None
        return view

    @property
    def sigma(self) -> float:
        """In whose unit budgets are: 1, that is standard deviations, where noise differs from number to number."""
        return self.view.sigma[0] if len(self.view.sigma) == 1 else 1.0

    @property
    def levels(self) -> Array | None:
        """The values above `low` that a score can have, where they are few and known."""
        few = self.whole and self.high - self.low <= MOST_LEVELS
        if self.method == "cp" and not self.whole:
            raise UserError(
                "--method cp counts levels, and these returns are not known to be whole numbers; add --whole."
            )
        if self.method == "cp" and self.high - self.low > 1e5:
            raise UserError(f"--method cp would count {self.high - self.low:g} levels; use --method dkw.")
        return (
            np.arange(self.low + 1, self.high + 1) if self.method == "cp" or (self.method == "auto" and few) else None
        )

    def scores(self, played: Played) -> Array:
        """(n,)"""
        return played.returns if self.score == "return" else played.terminated.astype(np.float64)

    def band(self, played: Played) -> Band:
        return band(self.scores(played), self.alpha, self.low, self.high, self.levels)


def range_of(env_id: str, score: str, given: Sequence[float] | None, whole: bool) -> tuple[float, float, bool]:
    """Lowest and highest score of an episode, and whether scores are whole numbers."""
    if score == "success":
        return 0.0, 1.0, True
    if given:
        low, high = given
        if not -np.inf < low < high < np.inf:
            raise UserError(f"--range {low:g} {high:g} is no range; give the lowest return, then the highest.")
        return low, high, whole
    name, view = split_view(env_id)
    game = name.rpartition("/")[2] if is_atari(name) else name
    if game not in RETURNS:
        raise UserError(f"the returns of {name} have no known range; give the lowest and the highest with --range.")
    low, high, known_whole = RETURNS[game]
    if view is not None and view.steps:  # at most a point a step
        low, high = max(low, -float(view.steps)), min(high, float(view.steps))
    if view is not None and view.ends:
        low, high = max(low, -1.0), min(high, 1.0)
    return low, high, known_whole


def seeds_of(env_id: str, n: int, phase: str = "certify") -> list[int]:
    """The seeds of the first n certified episodes: no training or evaluation episode has them."""
    return evaluation_seeds(env_id, phase, n)


def check_fit(subject: Subject, env_id: str) -> None:
    """UserError where the policy does not take what this environment shows, or acts in other actions."""
    envs = make_view(env_id, 1)
    envs.close()
    shape, space = envs.observation_space.shape, envs.action_space
    shown = np.zeros((1, *shape), np.float32)
    try:
        actions = subject.act(shown, np.zeros(1)) if subject.stochastic else subject.act(shown)
    except Exception as error:  # torch, NumPy and Stable-Baselines3 each have their own
        raise UserError(
            f"{subject.name} does not take the observations of {env_id}, which have the shape {shape}; say by --env "
            "and --frames what it was trained in."
        ) from error
    choices = None if subject.network is None else subject.network.outputs(torch.from_numpy(shown)).shape[1]
    discrete = isinstance(space, gym.spaces.Discrete)
    if actions.shape[1:] != space.shape or (discrete and choices not in (None, space.n)):
        raise UserError(
            f"{subject.name} does not act in {env_id}, whose actions are {space}; say by --env what it was trained in."
        )


def play_policy(
    path: Path,
    env_id: str,
    seeds: Sequence[int],
    attack: Callable[..., Callable[..., Any]] | None = None,
    trust: bool = False,
    bfloat16: bool = False,
) -> Played:
    """Episodes of the policy at `path`; `attack` makes, from the policy and a seed, what `play` takes."""
    torch.set_num_threads(1)
    subject = load(path, trust, bfloat16)
    attacker = attack(subject, int(seeds[0])) if attack else None
    return play(subject.act, env_id, seeds, attacker, stochastic=subject.stochastic)


def play_all(
    path: Path,
    env_id: str,
    seeds: Sequence[int],
    jobs: int = 1,
    attack: Callable[..., Callable[..., Any]] | None = None,
    trust: bool = False,
    bfloat16: bool = False,
) -> Played:
    """The same in several processes, each with its share of the seeds; how many there are changes no number.

    An attacker draws his numbers for all that play at a time, so that who plays together must not depend on `jobs`.
    UserError if the policy's file changes meanwhile, as that of a run does which is still training.
    """
    before = file_of(path)
    together = TOGETHER[is_atari(env_id.partition("#")[0])]
    shares = -(-len(seeds) // together) if attack else min(jobs, len(seeds))
    parts = [
        (path, env_id, part.tolist(), attack, trust, bfloat16) for part in np.array_split(np.asarray(seeds), shares)
    ]
    if jobs == 1:
        played = [play_policy(*part) for part in parts]
    else:
        with ProcessPoolExecutor(min(jobs, shares), mp_context=get_context("spawn")) as pool:
            played = list(pool.map(play_policy, *zip(*parts, strict=True)))
    if file_of(path) != before:
        raise UserError(f"{before[0]} changed while it was played; wait until its run is finished.")
    return Played(*(np.concatenate([getattr(part, name) for part in played]) for name in Played.__dataclass_fields__))


def certify(
    question: Question,
    played: Played,
    budgets: Sequence[float],
    quantile: float,
    at: Sequence[float],
    theta: float = 0.5,
    local: crop.Local | None = None,
) -> list[dict[str, Any]]:
    """One row for each bound; all of them hold at once with confidence 1 - alpha, upper ones and CROP's apart.

    `at` are scores that it shall be said of how likely they are reached, and up to which budget more likely than
    `theta`: such a row has no budget, which is its bound.
    """
    subject = load(question.policy, question.trust_pickle, question.bfloat16)
    bounds, grid = question.band(played), np.asarray(budgets, np.float64)
    clean = float(question.scores(played).mean())
    sigma = question.sigma
    found: list[tuple[str, float | None, Array]] = [
        ("mean >=", None, bounds.mean(grid, sigma)),
        ("mean <=", None, bounds.mean_upper(grid, sigma)),
        ("quantile >=", quantile, bounds.quantile(quantile, grid, sigma)),
        ("mean >= (CROP-GRe, no confidence)", None, crop.global_mean(clean, grid, sigma, question.low, question.high)),
    ]
    found += [("P(score >= level) >=", level, bounds.probability(level, grid, sigma)) for level in at]
    if local is not None:
        found.append((LOCAL, None, local.certified(grid)))
    shared = {
        "policy": subject.name,
        "policy_sha256": subject.digest,
        "env": question.env,
        "sigma": ":".join(map(spelt, question.view.sigma)),
        "frames": question.view.frames,
        "score": question.score,
        "low": question.low,
        "high": question.high,
        "episodes": len(played.seeds),
        "seeds": "certify",
        "method": "dkw" if question.levels is None else f"clopper-pearson / {len(question.levels)}",
        "alpha": question.alpha,
        "clean": clean,
        "code_version": code_version(),
        "cpu_class": cpu_class(),
    }
    rows = [
        {**shared, "kind": kind, "level": "" if level is None else level, "budget": float(b), "bound": float(x)}
        for kind, level, values in found
        for b, x in zip(grid, values, strict=True)
    ]
    for level in at:
        most = float(certified_budget(bounds.probability(level), theta, sigma))
        rows.append({**shared, "kind": f"P(score >= level) > {theta:g}", "level": level, "budget": "", "bound": most})
    return rows


def budgets_of(text: str, flag: str = "--budgets") -> list[float]:
    """`0,0.2,0.4` or `0:1:0.1`, both ends included; UserError for anything else."""
    try:
        if ":" in text:
            first, last, step = (float(part) for part in text.split(":"))
            count = int(round((last - first) / step, 6)) + 1
            numbers = [round(first + i * step, 12) for i in range(min(count, MOST_BUDGETS + 1))]
        else:
            numbers = [float(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        numbers = []
    if not 0 < len(numbers) <= MOST_BUDGETS or min(numbers) < 0 or not np.isfinite(numbers).all():
        raise UserError(
            f"{flag} {text} are no budgets, or more than {MOST_BUDGETS}; write them as in 0,0.2,0.4 or 0:1:0.1."
        )
    return numbers


def steps_of(env_id: str) -> int:
    """The longest an episode can be, for budgets that are given for a step; UserError where nobody says it."""
    name, view = split_view(env_id)
    if view is not None and view.steps:
        return view.steps
    spec = gym.registry.get(name.rpartition(":")[2])
    if spec is None or not spec.max_episode_steps:
        raise UserError(
            f"{env_id} does not say how long its episodes are; say it in the name, as in {name}#steps=1000."
        )
    return spec.max_episode_steps


def numbers_of(env_id: str) -> int:
    """How many numbers a frame has."""
    envs = make_view(env_id, 1)
    envs.close()
    return int(np.prod(envs.shape))


def whole_budgets(budgets: Sequence[float], env_id: str, norm: str) -> list[float]:
    """Budgets of whole episodes from those of a step, in the Euclidean norm ("l2") or of each number ("linf")."""
    steps, numbers = steps_of(env_id), numbers_of(env_id) if norm == "linf" else 1
    return [whole_budget(size, steps, numbers) for size in budgets]
