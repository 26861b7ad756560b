"""A benchmark table: TOML in, checked cells out.

A cell is one algorithm on one task with one seed. Everything is checked here, for all cells, before
anything runs: keys, values, algorithm files, and that no two columns are the same runs.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from rlsuite.bench.units import unit_of
from rlsuite.errors import UserError, nearest
from rlsuite.harness.config import (
    Algorithm,
    Resolved,
    coerce,
    field_name,
    flag_name,
    load_algorithm,
    resolve,
    schema,
)
from rlsuite.harness.environments import ATARI

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Section = tuple[str, dict[str, Any], bool]  # its name, its keys, whether it speaks of several algorithms
LABEL = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"
KEYS = ("name", "title", "algorithms", "tasks", "seeds", "config", "algorithm", "task")


@dataclass(frozen=True)
class Cell:
    """One run of a table."""

    label: str  # the column of the report; two may run one algorithm with different settings
    task: str
    seed: int
    resolved: Resolved
    given: tuple[str, ...]  # the keys that the table sets, in the order of the flags

    @cached_property
    def folder(self) -> str:
        """Name of the run directory; cached, so that an edit of a user's file does not move it."""
        return self.resolved.slug

    @cached_property
    def run_id(self) -> str:
        return self.resolved.run_id

    @cached_property
    def config_hash(self) -> str:
        return self.resolved.config_hash

    @property
    def title(self) -> str:
        return f"{self.label} {self.task} seed {self.seed}"

    @property
    def updates(self) -> int:
        """Length of the run in its own unit (updates, or environment steps), 0 if unknown."""
        config = self.resolved.config
        return getattr(config, "updates", 0) or getattr(config, "total_steps", 0)

    @property
    def unit(self) -> str:
        """What its positions count."""
        return unit_of(getattr(self.resolved.config, "dataset", ""))

    @property
    def threads(self) -> int:
        return self.resolved.settings.threads

    def arguments(self) -> list[str]:
        """What follows `rlsuite train` to run this cell."""
        flags = []
        for key in self.given:
            holder = self.resolved.settings if hasattr(self.resolved.settings, key) else self.resolved.config
            flags.append(_flag(key, getattr(holder, key)))
        return [self.resolved.algorithm.source, *flags]

    def identity(self) -> dict[str, Any]:
        """The cell as the manifest of a results folder names it."""
        source = self.resolved.algorithm.source
        return {
            "folder": self.folder,
            "algorithm": self.label,
            "source": os.path.basename(source),
            "task": self.task,
            "seed": self.seed,
            "run_id": self.run_id,
            "config_hash": self.config_hash,
        }


@dataclass(frozen=True)
class Table:
    """A checked table, its cells seed by seed, so that a table cut short compares what it has."""

    path: Path
    text: str
    name: str
    title: str
    cells: tuple[Cell, ...]

    @property
    def base(self) -> Path:
        """The folder that relative paths in the table start from."""
        return self.path.resolve().parent


def read_table(path: str | Path) -> Table:
    """Read and check a table.

    Raises UserError for the first thing wrong: not TOML, unknown keys (with the nearest known one),
    values that do not fit, unknown algorithms, Atari games under different presets, two columns that would be the same
    runs.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise UserError(f"cannot read the table {path}: {error.strerror}; give the path of a TOML file.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text file; give the path of a TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}.") from error
    where = path.name
    _known(content, KEYS, where)

    name = content.get("name", path.stem)
    if not isinstance(name, str) or not re.fullmatch(LABEL, name):
        raise UserError(f"{where}: name is a text of letters, digits and _.+- that can name a folder, not {name!r}.")
    title = content.get("title", "")
    if not isinstance(title, str):
        raise UserError(f"{where}: title is a text, not {title!r}.")
    algorithms = _algorithms(content.get("algorithms"), path.resolve().parent, where)
    tasks = _texts(content.get("tasks"), "tasks", where)
    _one_preset(tasks, where)
    seeds = _seeds(content.get("seeds"), where)
    shared = _section(content.get("config", {}), "[config]", where)
    per_algorithm = _section(content.get("algorithm", {}), "[algorithm]", where)
    per_task = _section(content.get("task", {}), "[task]", where)
    _known(per_algorithm, algorithms, f"[algorithm] of {where}", "algorithm")
    _known(per_task, tasks, f"[task] of {where}", "task")

    def sections(label: str, task: str) -> list[Section]:
        own = _section(per_algorithm.get(label, {}), f"[algorithm.{label}]", where)
        of_task = _section(per_task.get(task, {}), f'[task."{task}"]', where)
        inner = {key: value for key, value in of_task.items() if isinstance(value, dict)}
        _known(inner, algorithms, f'[task."{task}"] of {where}', "algorithm")
        return [  # from the weakest to the strongest
            ("[config]", shared, True),
            (f"[algorithm.{label}]", own, False),
            (f'[task."{task}"]', {key: value for key, value in of_task.items() if key not in inner}, True),
            (f'[task."{task}".{label}]', inner.get(label, {}), False),
        ]

    cells = tuple(
        _cell(label, algorithm, task, seed, sections(label, task), where)
        for seed in seeds
        for task in tasks
        for label, algorithm in algorithms.items()
    )
    _distinct(cells, where)
    return Table(path, text, name, title, cells)


def _cell(label: str, algorithm: Algorithm, task: str, seed: int, sections: list[Section], where: str) -> Cell:
    own = {f.name for f in fields(algorithm.module.Config)}
    role = "dataset" if "dataset" in own else "env"
    if role not in own:
        raise UserError(
            f"{algorithm.name} in {where} has neither `dataset` nor `env` in its Config, so no task can be given to it."
        )
    known = schema(algorithm)
    given: dict[str, Any] = {role: task, "seed": seed}
    said_by = {role: "tasks", "seed": "seeds", "label": "algorithms"}
    if label != algorithm.name:
        given["label"] = label
    for section, values, shared in sections:
        place = f"{section} of {where}"
        for key, value in values.items():
            name = field_name(key, known)
            if name in said_by:
                raise UserError(f"{place} sets '{key}', which the key `{said_by[name]}` of a table says; take it out.")
            if name not in known:
                hint = f" What only some know belongs under [algorithm.{label}] and its like." if shared else ""
                raise UserError(
                    f"{place} has the key '{key}', which {label} does not know; {nearest(name, known)}{hint}"
                )
            try:
                coerce(key, known[name][1], value)
            except ValueError as error:
                raise UserError(f"{place}: {error}.") from None
            except (TypeError, AttributeError):
                raise UserError(f"{place}: {key} cannot be {value!r}.") from None
            given[name] = value
    return Cell(label, task, seed, resolve(algorithm, given, where), tuple(given))


def _algorithms(value: Any, base: Path, where: str) -> dict[str, Algorithm]:
    """Label -> algorithm, from a list of names and paths or a table label -> name or path."""
    if isinstance(value, list):
        sources = _texts(value, "algorithms", where)
        labelled = {Path(s).stem if s.endswith(".py") else s.replace(":", "-"): s for s in sources}
        if len(labelled) < len(sources):
            raise UserError(
                f"{where}: two of its algorithms have the same name; give them labels: "
                'algorithms = { mine = "./my_prdc.py", ... }.'
            )
    elif isinstance(value, dict) and value and all(isinstance(v, str) and v for v in value.values()):
        labelled = value
    else:
        raise UserError(
            f'{where}: algorithms is a list of names such as ["bc", "prdc"], or a table of labels such as '
            '{ mine = "./my_prdc.py" }, not '
            f"{value!r}."
        )
    for label in labelled:
        if not re.fullmatch(LABEL, label):  # it becomes part of a folder's name
            raise UserError(f"{where}: {label!r} is no label for an algorithm; use letters, digits and _.+-.")
    return {label: _load(source, base, where) for label, source in labelled.items()}


def _load(source: str, base: Path, where: str) -> Algorithm:
    try:
        return load_algorithm(str(base / source) if source.endswith(".py") else source)
    except UserError as error:
        raise UserError(f"algorithms of {where}: {error}") from None
    except Exception as error:  # a user's file may do anything while it is imported
        raise UserError(
            f"algorithms of {where}: {source} cannot be imported: {type(error).__name__}: {error}."
        ) from error


def _texts(value: Any, key: str, where: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
        raise UserError(f"{where}: {key} is a list with at least one name, not {value!r}.")
    twice = [v for i, v in enumerate(value) if v in value[:i]]
    if twice:
        raise UserError(f"{where}: {key} names '{twice[0]}' twice; take one out.")
    return value


def _seeds(value: Any, where: str) -> list[int]:
    if type(value) is int and value > 0:
        return list(range(value))
    if not isinstance(value, list) or not value or not all(type(v) is int and v >= 0 for v in value):
        raise UserError(f"{where}: seeds is a list of whole numbers such as [0, 1, 2], or how many, not {value!r}.")
    twice = [v for i, v in enumerate(value) if v in value[:i]]
    if twice:
        raise UserError(f"{where}: seeds names {twice[0]} twice; take one out.")
    return value


def _one_preset(tasks: list[str], where: str) -> None:
    """Sticky actions or not: scores under two Atari presets must not stand in one table."""
    games: dict[str, str] = {}  # preset -> its first task
    for task in tasks:
        preset, slash, _ = task.partition("/")
        if slash and preset in ATARI:
            games.setdefault(preset, task)
    if len(games) > 1:
        raise UserError(
            f"{where}: {' and '.join(games.values())} are played under different presets, so their scores must not "
            "stand in one table; make a table for each."
        )


def _section(value: Any, name: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {name} is a section with keys below it, not {value!r}.")
    return value


def _known(keys: Iterable[str], known: Iterable[str], place: str, what: str = "key") -> None:
    known = list(known)
    for key in keys:
        if key not in known:
            raise UserError(f"{place} has the {what} '{key}', which this table does not know; {nearest(key, known)}")


def _distinct(cells: Iterable[Cell], where: str) -> None:
    """Refuse two columns of the same runs. On some tasks they may coincide, as a choice made for each task can."""
    columns: dict[str, list[str]] = {}
    for cell in cells:
        columns.setdefault(cell.label, []).append(cell.run_id)
    seen: dict[tuple[str, ...], str] = {}
    for label, runs in columns.items():
        other = seen.setdefault(tuple(runs), label)
        if other != label:
            raise UserError(
                f"{where}: '{label}' and '{other}' are the same runs with the same settings; take one out or change "
                "its settings."
            )


def _flag(key: str, value: Any) -> str:
    flag = flag_name(key)
    if isinstance(value, bool):
        return flag if value else flag.replace("--", "--no-", 1)
    if isinstance(value, tuple | list):
        value = ",".join(map(str, value))
    return f"{flag}={value}"  # with '=', so that a negative number is no flag
