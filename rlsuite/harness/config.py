"""From names, flags and TOML keys to one resolved configuration, and its identity.

An algorithm file declares a `Config` dataclass whose fields are each followed by a one-line docstring, and optionally
`PRESETS`, a mapping from a task pattern to the fields that differ there. Flags of the command line and keys of a
benchmark table both pass through `resolve`, so a setting means the same wherever it was written.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import pkgutil
import re
import sys
import textwrap
import traceback
import typing
from collections.abc import Container
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal

import rlsuite
from rlsuite.data.names import split_episodes
from rlsuite.errors import UserError, nearest, printable


@dataclass(frozen=True)
class Settings:
    """What every run has, whatever its algorithm."""

    seed: int = 0
    """root of all random streams of the run"""
    device: str = "cpu"
    """torch device, cpu or cuda"""
    threads: int = 1
    """torch threads; the bits of a result depend on it"""
    eval_every: int = 5000
    """updates between interim evaluations (learning curve); 0 for none"""
    eval_episodes: int = 10
    """episodes of an interim evaluation"""
    final_episodes: int = 100
    """fresh episodes of the final evaluation, which gives the headline score"""
    log_every: int = 1000
    """updates between logged metrics"""
    checkpoint_every: int = 5000
    """updates between checkpoints; does not change any result"""
    label: str = ""
    """what the report calls the algorithm; its file's name if empty"""


SB3 = ("a2c", "ddpg", "dqn", "ppo", "sac", "td3")  # Stable-Baselines3's classes behind names such as sb3:ppo
SB3_CONTRIB = ("crossq", "qrdqn", "tqc", "trpo")  # and those of sb3-contrib
NOT_IDENTITY = ("seed", "checkpoint_every", "label")  # another seed is another run of the same configuration


@dataclass(frozen=True)
class Algorithm:
    """An algorithm file, of the package or of the user."""

    name: str
    module: ModuleType
    source: str  # what `load_algorithm` finds it by: a name, or the path of a user's file

    @property
    def presets(self) -> dict[str, dict[str, Any]]:
        return getattr(self.module, "PRESETS", {})

    @property
    def summary(self) -> str:
        """The first paragraph of the file."""
        return " ".join((self.module.__doc__ or "").strip().split("\n\n")[0].split())

    @property
    def content(self) -> str:
        """What its code is, where that is not the package's: a file's SHA-256 (hex), or a library's version."""
        if self.source.endswith(".py"):
            return hashlib.sha256(Path(self.source).read_bytes()).hexdigest()
        return str(self.module.__version__)


@dataclass(frozen=True)
class Resolved:
    """Everything that determines the outcome of a run."""

    algorithm: Algorithm
    config: Any  # the algorithm's Config
    settings: Settings

    @property
    def label(self) -> str:
        return self.settings.label or self.algorithm.name

    @property
    def task(self) -> str:
        """The dataset of an offline method, the environment of an online one."""
        return getattr(self.config, "dataset", "") or getattr(self.config, "env", "")

    @property
    def config_hash(self) -> str:
        """SHA-256 (hex) of what determines the outcome, but for the seed and the data's content."""
        settings = {k: v for k, v in asdict(self.settings).items() if k not in NOT_IDENTITY}
        identity: dict[str, Any] = {
            "algorithm": self.algorithm.name,
            "version": rlsuite.__version__,
            "config": asdict(self.config),
            "settings": settings,
        }
        if self.algorithm.source != self.algorithm.name:
            identity["file"] = self.algorithm.content
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def run_id(self) -> str:
        return hashlib.sha256(f"{self.config_hash} {self.settings.seed}".encode()).hexdigest()[:12]

    @property
    def slug(self) -> str:
        """A readable folder name: algorithm, task, seed, and the identity that tells two settings apart."""
        whole = split_episodes(getattr(self.config, "dataset", ""))[0]
        file = Path(whole)  # ids of environments may have dots, too: my.module:Env-v0
        task = file.stem + self.task.removeprefix(whole) if file.suffix else self.task
        return f"{self.label}-{re.sub('[/:#,=]', '-', task)}-s{self.settings.seed}-{self.run_id[:8]}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm.source,
            "config": asdict(self.config),
            "settings": asdict(self.settings),
        }


def algorithm_names() -> list[str]:
    """The package's algorithms, found by file name without importing them."""
    import rlsuite.algorithms

    return sorted(m.name for m in pkgutil.iter_modules(rlsuite.algorithms.__path__))


def sb3_names() -> list[str]:
    """Stable-Baselines3's methods, and sb3-contrib's where that is installed, as `sb3:ppo`; without importing them."""
    return [f"sb3:{name}" for name in SB3 + (SB3_CONTRIB if importlib.util.find_spec("sb3_contrib") else ())]


def load_algorithm(source: str) -> Algorithm:
    """An algorithm by the name of its file in the package, by the path of a user's file (ends in .py), or `sb3:ppo`.

    Raises UserError for an unknown name and for a file without `Config` and `train`.
    """
    if source.endswith(".py"):
        path = Path(source).resolve()
        if not path.is_file():
            raise UserError(
                f"there is no algorithm file {source}; give the path of a .py file or one of the names "
                f"{', '.join(algorithm_names())}."
            )
        name = path.stem
        spec = importlib.util.spec_from_file_location(f"_rlsuite_user_{name}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and inspect look the module up by name
        try:
            spec.loader.exec_module(module)
        except SyntaxError as error:
            raise UserError(f"{source} is not Python: {error.msg} in line {error.lineno}.") from error
        except Exception as error:  # whatever a user's code may raise
            lines = [entry.lineno for entry in traceback.extract_tb(error.__traceback__) if entry.filename == str(path)]
            where = f", in line {lines[-1]}" if lines else ""
            raise UserError(f"{source} cannot be loaded: {type(error).__name__}: {printable(error)}{where}.") from error
        check_algorithm(module, source)
        source = str(path)
    elif source in sb3_names():
        from rlsuite.harness import sb3

        name, module = source.replace(":", "-"), sb3.load(source.partition(":")[2])
    else:
        if source not in algorithm_names():
            library, _, name = source.partition(":")
            if library == "sb3" and name in SB3_CONTRIB:
                raise UserError(f"{source} is a method of sb3-contrib; run `pip install sb3-contrib`.")
            known = sb3_names() if library == "sb3" else [*algorithm_names(), *sb3_names()]
            raise UserError(f"unknown algorithm '{source}'; {nearest(source, known)}")
        name = source
        module = importlib.import_module(f"rlsuite.algorithms.{source}")
    return Algorithm(name, module, source)


def check_algorithm(module: ModuleType, source: str) -> None:
    """UserError where a user's file lacks what a run needs, with the first thing that is missing."""
    for needed in ("Config", "train"):
        if not hasattr(module, needed):
            raise UserError(
                f"{source} has no `{needed}`; an algorithm file defines a dataclass Config and a function "
                "train(config, run)."
            )
    if not is_dataclass(module.Config):
        raise UserError(f"`Config` of {source} is no dataclass; write @dataclass(frozen=True) above it.")
    try:
        inspect.signature(module.train).bind("config", "run")
    except TypeError:
        raise UserError(f"`train` of {source} cannot be called as train(config, run); give it these two.") from None
    try:
        hints = typing.get_type_hints(module.Config)
    except NameError as error:
        raise UserError(f"`Config` of {source} has a field of a type that is not there: {error}.") from None
    names = [f.name for f in fields(module.Config)]
    if not {"dataset", "env"} & set(names):
        raise UserError(f"`Config` of {source} names no task; give it a field `dataset: str` or `env: str`.")
    for name in names:
        if name in {f.name for f in fields(Settings)}:
            raise UserError(f"`{name}` in the Config of {source} is a setting of every run; take another name for it.")
        if not expressible(hints[name]):
            raise UserError(
                f"`{name}` in the Config of {source} has the type {printable(hints[name])}, which no flag can express; "
                "take bool, int, float, str, a Literal of texts or a tuple of one of them, such as tuple[int, ...]."
            )


def expressible(kind: Any) -> bool:
    """Whether `coerce` knows a type."""
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return all(isinstance(part, str) for part in parts)
    if typing.get_origin(kind) is tuple or isinstance(kind, UnionType):
        return all(part in (NoneType, ...) or expressible(part) for part in parts)
    return kind in (bool, int, float, str)


def field_help(cls: type) -> dict[str, str]:
    """Field name -> the string literal that follows the field in the source of dataclass `cls`, or of its base.

    A class without source has them in the metadata of its fields, as `help`.
    """
    helps = field_help(cls.__bases__[0]) if cls.__bases__ != (object,) else {}
    helps |= {f.name: f.metadata["help"] for f in fields(cls) if "help" in f.metadata}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return helps
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    for statement, following in pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            helps[statement.target.id] = str(following.value.value)
    return helps


def coerce(name: str, kind: Any, value: Any) -> Any:
    """`value` (a string from the command line, or a TOML value) as a field of type `kind`; ValueError if it is none."""
    text = value.strip() if isinstance(value, str) else value
    if kind is bool:
        if isinstance(value, bool):
            return value
        if text in ("true", "false"):
            return text == "true"
        raise ValueError(f"{name} is true or false, not {value!r}")
    if isinstance(value, bool):
        raise ValueError(f"{name} is no switch, so it cannot be {value!r}")
    if kind is int:
        try:  # by way of a float, because 1e6 is how people write a million
            whole = int(text) if isinstance(text, int) or "e" not in str(text).lower() else int(float(text))
            if whole != float(text):
                raise ValueError
        except (ValueError, OverflowError, TypeError):
            raise ValueError(f"{name} is a whole number, not {value!r}") from None
        return whole
    if kind is float:
        try:
            number = float(text)
        except (ValueError, TypeError):
            raise ValueError(f"{name} is a number, not {value!r}") from None
        if math.isnan(number):
            raise ValueError(f"{name} is a number, not nan")
        return number
    if typing.get_origin(kind) is UnionType:  # the first kind that it fits
        first, *others = typing.get_args(kind)
        try:
            return coerce(name, first, value)
        except ValueError:
            if NoneType in others and (value is None or str(text).lower() == "none"):
                return None
            if str in others:
                return coerce(name, str, value)
            raise
    if kind is str:
        if not isinstance(value, str):
            raise ValueError(f"{name} is a text, not {value!r}")
        return value
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if text not in choices:
            raise ValueError(f"{name} is one of {', '.join(map(str, choices))}, not {value!r}")
        return text
    if typing.get_origin(kind) is tuple:
        parts = text.split(",") if isinstance(text, str) else text
        if text in ("", "none"):
            return ()
        return tuple(coerce(name, typing.get_args(kind)[0], part) for part in parts)
    raise TypeError(f"Config field {name} has the type {kind}, which no flag can express")


def field_name(key: str, known: Container[str]) -> str:
    """The field that a flag or a key of a table means: lambda is `lambda_`, because Python has a use for the word."""
    name = key.replace("-", "_")
    return f"{name}_" if name not in known and f"{name}_" in known else name


def flag_name(field: str) -> str:
    """The flag of a field."""
    return "--" + field.rstrip("_").replace("_", "-")


def schema(algorithm: Algorithm) -> dict[str, tuple[type, Any]]:
    """Every key a run of `algorithm` takes -> (the dataclass it belongs to, its type)."""
    known: dict[str, tuple[type, Any]] = {}
    for cls in (algorithm.module.Config, Settings):
        hints = typing.get_type_hints(cls)
        known.update({f.name: (cls, hints[f.name]) for f in fields(cls)})
    return known


def resolve(algorithm: Algorithm, given: dict[str, Any], where: str = "the command line") -> Resolved:
    """Defaults, then the presets of the task, then what was `given`; `where` names the giver in messages.

    Raises UserError for unknown keys (with the nearest known one) and for values that do not fit.
    """
    known = schema(algorithm)
    values: dict[type, dict[str, Any]] = {algorithm.module.Config: {}, Settings: {}}

    def put(key: str, value: Any, place: str) -> None:
        key = field_name(key, known)
        if key not in known:
            raise UserError(f"{place} has the key '{key}', which {algorithm.name} does not know; {nearest(key, known)}")
        cls, kind = known[key]
        try:
            values[cls][key] = coerce(key.rstrip("_"), kind, value)
        except ValueError as error:
            raise UserError(f"{place}: {error}.") from None

    # The task decides about the presets, so it is looked at first.
    task = given.get("dataset") or given.get("env") or ""
    for pattern, overrides in algorithm.presets.items():
        if fnmatch.fnmatch(str(task).lower(), pattern):
            for key, value in overrides.items():
                put(key, value, f"PRESETS['{pattern}'] of {algorithm.name}")
    for key, value in given.items():
        put(key, value, where)
    missing = [
        f.name
        for f in fields(algorithm.module.Config)
        if f.default is MISSING and f.default_factory is MISSING and f.name not in values[algorithm.module.Config]
    ]
    if missing:
        raise UserError(
            f"{where} does not say which {missing[0]} {algorithm.name} shall use; "
            f"add {missing[0]} ({flag_name(missing[0])})."
        )
    config = algorithm.module.Config(**values[algorithm.module.Config])
    for name, lowest in (("updates", 1), ("total_steps", 1), ("batch_size", 1), ("policy_freq", 1)):
        if getattr(config, name, lowest) < lowest:
            raise UserError(f"{where}: {name} is at least {lowest}, not {getattr(config, name)}.")
    for name in ("gamma", "tau"):
        if not 0 <= getattr(config, name, 0) <= 1:
            raise UserError(f"{where}: {name} lies between 0 and 1, not at {getattr(config, name):g}.")
    for name in (f.name for f in fields(config) if f.name.endswith(("learning_rate", "weight_decay"))):
        if getattr(config, name) < 0:
            raise UserError(f"{where}: {name} is at least 0, not {getattr(config, name):g}.")
    for name in ("hidden", "policy_hidden"):
        widths = getattr(config, name, ())
        if min(widths, default=1) < 1:
            raise UserError(f"{where}: {name} holds widths of layers, each at least 1, not {shown(widths)}.")
    settings = Settings(**values[Settings])
    for name, lowest in (
        ("seed", 0),
        ("threads", 1),
        ("eval_every", 0),
        ("eval_episodes", 1),
        ("final_episodes", 1),
        ("log_every", 1),
        ("checkpoint_every", 1),
    ):
        if getattr(settings, name) < lowest:
            raise UserError(f"{where}: {name} is at least {lowest}, not {getattr(settings, name)}.")
    return Resolved(algorithm, config, settings)


def add_flags(parser: argparse.ArgumentParser, algorithm: Algorithm) -> None:
    """One `--flag` for every key of `schema`; those not given stay out of the namespace, so presets can speak."""
    groups = {
        algorithm.module.Config: parser.add_argument_group(f"{algorithm.name}"),
        Settings: parser.add_argument_group("run"),
    }
    for cls, group in groups.items():
        helps = field_help(cls)
        hints = typing.get_type_hints(cls)
        for f in fields(cls):
            default = "required" if f.default is MISSING else f"default {shown(f.default)}"
            text = f"{helps.get(f.name, '')} ({default})".replace("%", "%%")
            flag = flag_name(f.name)
            if hints[f.name] is bool:
                group.add_argument(
                    flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, dest=f.name, help=text
                )
            else:
                group.add_argument(
                    flag, default=argparse.SUPPRESS, dest=f.name, metavar=metavar(hints[f.name]), help=text
                )


def shown(value: Any) -> str:
    """A default as one would type it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return str(value) if value not in ("", None) else "none"


def metavar(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "{" + ",".join(map(str, typing.get_args(kind))) + "}"
    if typing.get_origin(kind) is UnionType:
        return "|".join(metavar(part) for part in typing.get_args(kind))
    return {int: "N", float: "X", str: "NAME", NoneType: "none"}.get(kind, "N,N")
