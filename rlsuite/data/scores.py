"""Reference returns and the normalised score 100 * (R - random) / (expert - random).

References belong to an environment and its version, or to a published collection of data; `reference_scores.csv` holds
them with their provenance, and `rlsuite.data.behaviour.reference` measures those of our own environments. Scores under
different references are never comparable, so each carries a label.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np

from rlsuite.data.names import D4RL_NAME, split_episodes

TABLE = Path(__file__).parent / "reference_scores.csv"


@dataclass(frozen=True)
class Reference:
    """Mean undiscounted returns of a random and of an expert policy, and where they come from: one row of the table.

    Standard deviations (population, over episodes), `episodes` and `seed` are None, and texts empty, where the source
    does not tell.
    """

    label: str  # written beside every score, such as "rlsuite Hopper-v5"
    scope: str  # "environment": data of that environment; "d4rl": D4RL's data of that robot
    key: str  # environment id, or robot
    random: float
    random_std: float | None
    expert: float
    expert_std: float | None
    episodes: int | None  # of each policy
    seed: int | None  # of rlsuite.data.rollout.returns
    random_policy: str
    expert_policy: str
    expert_sha256: str  # of the file that determines the expert
    versions: str
    date: str
    source: str  # who says so, or the command that measures it

    def score(self, returns: np.ndarray | float) -> np.ndarray:
        """100 * (returns - random) / (expert - random), same shape, float64 (D4RL, arXiv:2004.07219)."""
        return 100.0 * (np.asarray(returns, np.float64) - self.random) / (self.expert - self.random)


def rounded(value: float, like: float | None = None) -> str:
    """A return in words: two decimals, from 10 on one; a spread has as many as the value that it is `like`."""
    return f"{value:,.{1 if abs(value if like is None else like) >= 10 else 2}f}"


def mean_and_std(mean: float, std: float) -> str:
    return f"{rounded(mean)} ± {rounded(std, like=mean)}"


COLUMNS = tuple(field.name for field in fields(Reference))


@cache
def references() -> tuple[Reference, ...]:
    """All rows of the table."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return tuple(_parse(row) for row in csv.DictReader(file))


def _parse(row: dict[str, str]) -> Reference:
    kinds = {"random": float, "expert": float, "random_std": float, "expert_std": float, "episodes": int, "seed": int}
    values = {key: (kinds[key](row[key]) if row[key] else None) if key in kinds else row[key] for key in COLUMNS}
    return Reference(**values)  # type: ignore[arg-type]  # by column, as the table has them


def reference(env_id: str | None, dataset_name: str | None = None) -> Reference | None:
    """The reference for returns in `env_id` of a policy trained on `dataset_name`, or None.

    D4RL's constants hold for D4RL's data (`d4rl/hopper-medium-v2`, `hopper_medium-v2.hdf5`) evaluated in an environment
    older than v5, which changed rewards; everything else is looked up by environment id with its version.
    """
    match = D4RL_NAME.fullmatch(split_episodes(dataset_name)[0]) if dataset_name else None
    if match is not None and (env_id is None or not env_id.endswith("-v5")):
        key, scope = match["robot"].lower(), "d4rl"
    else:
        key, scope = env_id, "environment"
    return next((r for r in references() if r.key == key and r.scope == scope), None)


def normalized_score(
    returns: np.ndarray | float, env_id: str | None, dataset_name: str | None = None
) -> np.ndarray | None:
    """Normalised scores x 100 of undiscounted returns, same shape; None where there is no reference.

    Each return is normalised by itself: average scores afterwards, and never push a standard deviation through here.
    """
    found = reference(env_id, dataset_name)
    return None if found is None else found.score(np.asarray(returns))
