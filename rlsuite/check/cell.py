"""What is measured of a run, and the process that makes some runs of a case: `python -m rlsuite.check.cell JOB OUT`."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rlsuite.errors import UserError
from rlsuite.harness import files
from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.run import execute, read_status

SCORE = "return"  # the measure of which less is worse
OF_THE_PLACE = ("code_version", "cpu_class", "run_id", "config_hash")  # columns that the outcome does not depend on
SIMULATOR = "environments"  # what is tracked under this name is no part of the learner


def measure(directory: Path) -> dict[str, Any]:
    """What a check knows of a finished run.

    measures   SCORE, the mean return of the final episodes, and their spread and mean length; of each metric the mean
               over the first and over the second half of the run; of each part of the learner the root mean square of
               its numbers at the end, and of their change since the checkpoint before
    moved      the paths of all numbers of the learner that changed since then
    digest     SHA-256 (hex) of every metric, evaluation row and number of the learner
    """
    status, metrics = read_status(directory), files.read_lines(directory / "metrics.jsonl")
    rows = files.read_lines(directory / "evaluations.jsonl")
    rows = [{key: value for key, value in row.items() if key not in OF_THE_PLACE} for row in rows]
    final = [row for row in rows if row["phase"] == "final"]
    returns = [row["return"] for row in final]
    measures = {SCORE: float(np.mean(returns)), "spread of returns": float(np.std(returns))}
    measures["episode length"] = float(np.mean([row["length"] for row in final]))

    values: dict[str, list[float]] = defaultdict(list)
    for row in metrics:
        half = "early" if row["update"] <= status["updates"] / 2 else "late"
        for key, value in row.items():
            if key != "update":
                values[f"{key} {half}"].append(value)
    measures |= {key: float(np.mean(numbers)) for key, numbers in values.items()}

    before, after = (
        dict(_leaves(files.load_checkpoint(path)["tracked"])) for path in sorted((directory / "checkpoints").iterdir())
    )
    moved = [key for key, value in after.items() if key in before and not _same(before[key], value)]
    parts: dict[str, list[tuple[np.ndarray, np.ndarray | None]]] = defaultdict(list)
    for key, value in after.items():
        if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating):
            old = before.get(key)
            fits = isinstance(old, np.ndarray) and old.shape == value.shape
            parts[".".join(key.split(".")[:3])].append((value, value - old if fits else None))
    for part, arrays in parts.items():
        measures[f"{part} size"] = _rms([value for value, _ in arrays])
        if all(change is not None for _, change in arrays):
            measures[f"{part} change"] = _rms([change for _, change in arrays if change is not None])

    digest = hashlib.sha256(json.dumps([metrics, rows], sort_keys=True).encode())
    for key, value in after.items():
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return {
        "update": status["update"],
        "updates": status["updates"],
        "highest": max(returns),
        "measures": measures,
        "moved": moved,
        "digest": digest.hexdigest(),
    }


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, array or plain value) of all that a checkpoint tracked of the learner."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else None
    if items is None:
        yield path, tree.numpy() if isinstance(tree, Tensor) else tree
        return
    for key, value in items:
        if path or key != SIMULATOR:
            yield from _leaves(value, f"{path}.{key}".lstrip("."))


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        return np.array_equal(old, new)
    return bool(type(old) is type(new) and old == new)


def _rms(arrays: list[np.ndarray]) -> float:
    flat = np.concatenate([array.ravel() for array in arrays]).astype(np.float64)
    return math.sqrt(float(np.mean(flat**2))) if len(flat) else 0.0


def run(source: str, given: dict[str, Any], seed: int) -> dict[str, Any]:
    """One run in a scratch folder: what `measure` says, or how it failed as {"failure": sentence}."""
    with tempfile.TemporaryDirectory(prefix="rlsuite-check-") as scratch:
        directory = Path(scratch) / "run"
        try:
            resolved = resolve(load_algorithm(source), {**given, "seed": seed})
            length = getattr(resolved.config, "updates", 0) or getattr(resolved.config, "total_steps", 0)
            # Two checkpoints are kept: this makes the older one fall in the second half.
            settings = replace(resolved.settings, checkpoint_every=max(1, length * 3 // 5))
            code = execute(replace(resolved, settings=settings), directory)
        except UserError as error:
            return {"seed": seed, "failure": str(error)}
        except Exception as error:  # whatever an algorithm may raise; the traceback goes to the log
            sys.excepthook(type(error), error, error.__traceback__)
            return {"seed": seed, "failure": " ".join(f"{type(error).__name__}: {error}".split())}
        if code:
            return {"seed": seed, "failure": read_status(directory).get("message") or f"it ended with code {code}"}
        return {"seed": seed, **measure(directory)}


def main(job: str, out: str) -> None:
    """Make the runs that the JSON text `job` asks for, and append a JSON line for each to the file `out`."""
    asked = json.loads(job)
    with open(out, "a", encoding="utf-8") as file:
        for seed in asked["seeds"]:
            file.write(json.dumps(run(asked["algorithm"], asked["given"], seed)) + "\n")
            file.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
