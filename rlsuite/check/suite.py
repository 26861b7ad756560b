"""The cases of a check: which algorithm, on which task, with which settings. A TOML file, checked before it is used."""

from __future__ import annotations

import fnmatch
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rlsuite.errors import UserError, nearest
from rlsuite.harness.config import Algorithm, field_name, load_algorithm, resolve, schema

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SUITE = Path(__file__).with_name("suite.toml")
BASELINES = Path(__file__).with_name("baselines")
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"
LIKE = {"dataset": "td3_bc", "env": "ppo"}  # whose cases a user's file gets, by the kind of its task


@dataclass(frozen=True)
class Case:
    """One algorithm on one task.

    Attributes: `given`, keys of `rlsuite train`; `base`, the folder that relative paths in it start from; `best`, the
    highest return that the task has, None if unknown.
    """

    name: str
    algorithm: Algorithm
    given: dict[str, Any]
    base: Path
    best: float | None = None

    @property
    def task(self) -> str:
        return str(self.given.get("dataset") or self.given.get("env"))

    def about(self) -> dict[str, Any]:
        """What a baseline remembers of it; another `about` is another case."""
        source = self.algorithm.source
        return {"algorithm": Path(source).name if source.endswith(".py") else source, "given": self.given}


def read_suite(path: Path = SUITE) -> list[Case]:
    """The cases of a suite. Raises UserError for what is no TOML, unknown keys, and values that do not fit."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the suite {path}: {error.strerror}; give the path of a TOML file.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}.") from error
    for key in content:
        if key not in ("config", "case"):
            raise UserError(f"{path.name} has the key '{key}'; a suite has [config] and sections [case.NAME].")
    cases, shared = content.get("case", {}), content.get("config", {})
    if not isinstance(cases, dict) or not cases or not all(isinstance(c, dict) for c in [shared, *cases.values()]):
        raise UserError(f"{path.name} has no cases; write a section [case.NAME] with an algorithm and a task for each.")
    return [_case(name, case, shared, path) for name, case in cases.items()]


def _case(name: str, keys: dict[str, Any], shared: dict[str, Any], path: Path) -> Case:
    where = f"[case.{name}] of {path.name}"
    if not re.fullmatch(NAME, name):  # it names a file
        raise UserError(f"{where}: {name!r} is no name for a case; use letters, digits and _.+-.")
    source, best = keys.get("algorithm"), keys.get("best")
    if not isinstance(source, str):
        raise UserError(f"{where} names no algorithm; add algorithm = NAME, or the path of a .py file.")
    if best is not None and (isinstance(best, bool) or not isinstance(best, int | float)):
        raise UserError(f"{where}: best is the highest return of the task, a number, not {best!r}.")
    algorithm = load_algorithm(str(path.parent / source) if source.endswith(".py") else source)
    own = {key: value for key, value in keys.items() if key not in ("algorithm", "best")}
    if "seed" in own or "seed" in shared:
        raise UserError(f"{where} sets a seed, but the check chooses the seeds of its runs; take it out.")
    given = {**_known(shared, algorithm), **own}
    resolve(algorithm, given, where)
    # The package's own folder must not become the working directory of a process: its modules would be importable.
    return Case(name, algorithm, given, Path.cwd() if path == SUITE else path.resolve().parent, best)


def _known(keys: dict[str, Any], algorithm: Algorithm) -> dict[str, Any]:
    """Those of the shared settings that an algorithm has."""
    known = schema(algorithm)
    return {key: value for key, value in keys.items() if field_name(key, known) in known}


def cases_like(file: str, like: str | None, cases: Sequence[Case]) -> list[Case]:
    """The cases that guard a user's file: those of the algorithm `like`, with the settings that the file knows.

    By default like td3_bc where the Config has a `dataset`, else like ppo. Raises UserError where there are none.
    """
    algorithm = load_algorithm(file)
    names = {f.name for f in fields(algorithm.module.Config)}
    model = like or next(name for role, name in LIKE.items() if role in names)
    known = sorted({case.algorithm.name for case in cases})
    if model not in known:
        raise UserError(f"--like {model}: the suite has no cases of it; {nearest(model, known)}")
    own = []
    for case in cases:
        if case.algorithm.name == model:
            given = _known(case.given, algorithm)
            name = f"{algorithm.name}-{case.name.removeprefix(model).strip('-')}"
            resolve(algorithm, given, f"--algo {file}")
            own.append(replace(case, name=name, algorithm=algorithm, given=given))
    return own


def select(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases of which some pattern (as in a shell) matches the name, the algorithm or the task; all for none.

    Raises UserError if a pattern matches no case.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = {
            case.name
            for case in cases
            if any(fnmatch.fnmatchcase(text, pattern) for text in (case.name, case.algorithm.name, case.task))
        }
        if not found:
            names = {text for case in cases for text in (case.name, case.algorithm.name)}
            raise UserError(f"--only {pattern} matches no case of the suite; {nearest(pattern, names)}")
        chosen |= found
    return [case for case in cases if not patterns or case.name in chosen]
