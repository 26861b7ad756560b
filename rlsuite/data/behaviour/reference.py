"""Measure the reference returns behind normalised scores, and write them into `reference_scores.csv`.

For each environment of the recipes (or those given): the mean return of uniform actions and of the expert behaviour's
mean action, over 100 episodes of one stream. Rows of other environments, and D4RL's constants, stay as they are; an
environment without an expert gets no row.

    python -m rlsuite.data.behaviour.reference
    python -m rlsuite.data.behaviour.reference Hopper-v5 Walker2d-v5
"""

from __future__ import annotations

import argparse
import csv
import datetime
import hashlib
import importlib.metadata
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym

from rlsuite.data import rollout, scores
from rlsuite.data.behaviour.train import EVALUATION_SEED
from rlsuite.data.files import write_atomic
from rlsuite.data.recipes import RECIPES
from rlsuite.data.rollout import returns, weights_file
from rlsuite.errors import UserError, nearest

EPISODES = 100
Row = dict[str, str]


def environments() -> list[str]:
    """The environments of the recipes, in their order."""
    return list(dict.fromkeys(recipe.env_id for recipe in RECIPES.values()))


def expert(env_id: str) -> str:
    """The behaviour that is an environment's expert, whether it exists yet or not."""
    return "waypoints-expert" if "PointMaze" in env_id else f"{env_id.split('-')[0].lower()}-expert"


def determined_by(behaviour: str) -> Path:
    """The file that an expert is: its weights, or its code."""
    return weights_file(behaviour) or Path(rollout.__file__).with_name("waypoints.py")


def measure(env_id: str, episodes: int = EPISODES) -> Row:
    """One row of the table, as text: deterministic, but for the month. Raises UserError where no expert exists."""
    best = expert(env_id)
    file = determined_by(best)
    if not file.is_file():
        raise UserError(f"{env_id} has no expert yet ({file.name}); train one with rlsuite.data.behaviour.train.")
    low = returns(env_id, "uniform", episodes, EVALUATION_SEED)
    high = returns(env_id, best, episodes, EVALUATION_SEED, deterministic=True)
    return {
        "label": env_id if env_id.startswith("rlsuite/") else f"rlsuite {env_id}",
        "scope": "environment",
        "key": env_id,
        "random": _rounded(low.mean()),
        "random_std": _rounded(low.std()),
        "expert": _rounded(high.mean()),
        "expert_std": _rounded(high.std()),
        "episodes": str(episodes),
        "seed": str(EVALUATION_SEED),
        "random_policy": "uniform actions",
        "expert_policy": best if file.suffix == ".py" else f"mean action of {best}",
        "expert_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "versions": ", ".join(f"{package} {importlib.metadata.version(package)}" for package in _packages(env_id)),
        "date": f"{datetime.date.today():%Y-%m}",
        "source": f"measured by `python -m rlsuite.data.behaviour.reference {env_id}`",
    }


def _rounded(value: float) -> str:
    return f"{value:.{1 if abs(value) >= 100 else 2}f}"


def _packages(env_id: str) -> list[str]:
    """What an environment's numbers depend on."""
    entry = str(gym.spec(env_id).entry_point)
    if "maze" in entry:
        return ["gymnasium", "gymnasium-robotics", "mujoco"]
    return ["gymnasium", "mujoco"] if "mujoco" in entry else ["gymnasium"]


def update(rows: Sequence[Row], table: Path = scores.TABLE) -> list[str]:
    """Put `rows` into the table in one step; what that changed, in a sentence a row.

    A row that only differs in its date stays as it is.
    """
    with table.open(newline="", encoding="utf-8") as file:
        stored = {(row["scope"], row["key"]): row for row in csv.DictReader(file)}
    sentences = []
    for row in rows:
        place = row["scope"], row["key"]
        old = stored.get(place)
        numbers = f"random {row['random']}, expert {row['expert']}"
        if old is None:
            sentences.append(f"{row['key']}: {numbers} (new)")
        elif {**old, "date": ""} == {**row, "date": ""}:
            sentences.append(f"{row['key']}: {numbers} (as before)")
            continue
        else:
            changed = [f"{name} was {old[name]}" for name in scores.COLUMNS if old[name] != row[name]]
            sentences.append(f"{row['key']}: {numbers} (CHANGED: {', '.join(changed)})")
        stored[place] = row
    text = io.StringIO()
    writer = csv.DictWriter(text, scores.COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(stored.values())
    write_atomic(table, text.getvalue())
    scores.references.cache_clear()
    return sentences


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("environments", nargs="*", metavar="ENV_ID", help="default: all that have an expert")
    given = parser.parse_args(arguments).environments
    known = environments()
    try:
        for env_id in given:
            if env_id not in known:
                raise UserError(f"no recipe uses the environment '{env_id}'; {nearest(env_id, known)}")
        rows = []
        for env_id in given or known:
            if not given and not determined_by(expert(env_id)).is_file():
                print(f"{env_id}: left out, it has no expert yet")
                continue
            rows.append(measure(env_id))
        print("\n".join(update(rows)))
    except UserError as error:
        print(f"rlsuite: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
