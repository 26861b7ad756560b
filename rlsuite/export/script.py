"""The exported file: what is reached, put in order, with names that do not clash."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import textwrap
import typing
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rlsuite
from rlsuite.errors import UserError, nearest
from rlsuite.export.constants import settle
from rlsuite.export.modules import Import, Item, Library, Module
from rlsuite.export.shake import Reach
from rlsuite.export.simplify import Edit, Facts
from rlsuite.export.tidy import merged, tidy

if TYPE_CHECKING:
    from rlsuite.harness.config import Algorithm

STANDALONE = "rlsuite.export.standalone"
ENVIRONMENTS, NETWORKS = "rlsuite.harness.environments", "rlsuite.harness.networks"
KERNELS, LINEAR = "rlsuite.kernels.linear", "rlsuite.export.linear"
SLOTS, COPIES = (ENVIRONMENTS, "make_slots"), (STANDALONE, "Slots")
INSTEAD = {
    ("rlsuite.harness.run", "Run"): (STANDALONE, "Run"),
    ("rlsuite.data.registry", "load"): (STANDALONE, "load"),
    ("rlsuite.data.dataset", "Batches"): (STANDALONE, "Batches"),
    (ENVIRONMENTS, "make_env"): (STANDALONE, "make_env"),
    (ENVIRONMENTS, "Slots"): COPIES,
    (ENVIRONMENTS, "GymnasiumSlots"): COPIES,
    SLOTS: COPIES,
    ("rlsuite.harness.evaluation", "evaluate"): (STANDALONE, "evaluate"),
    ("rlsuite.harness.seeding", "evaluation_seeds"): (STANDALONE, "evaluation_seeds"),
    (STANDALONE, "make_slots"): COPIES,
    (ENVIRONMENTS, "Environments"): (STANDALONE, "Environments"),
    (KERNELS, "mlp"): (LINEAR, "mlp"),
    (KERNELS, "product"): (LINEAR, "product"),
    (KERNELS, "fast"): (LINEAR, "fast"),
    (NETWORKS, "GaussianActor"): ("rlsuite.export.networks", "GaussianActor"),
}
SEARCH, NEIGHBOURS = ("rlsuite.kernels.neighbours", "NearestNeighbours"), "rlsuite.export.neighbours"
SAMPLED = re.compile(r"\.stochastic|^    stochastic = True", re.MULTILINE)  # what a policy that can sample says
VIEW = ("rlsuite.harness.smoothing", "split_view")  # a method that looks at it is exported with smoothed environments
# No Atari, so no pictures; and the policy that NumPy drives stays on the CPU.
NO_PICTURES: Facts = {"self.pictures": False, "pictures": False, "len(shape) == 3": False}
ON_CPU: Facts = {
    "self.flat is None": False,
    "self.flat is not None": True,
    "flat is None": False,
    "flat is not None": True,
    "policy.flat is None": False,
    "self.behavior.flat is not None": True,
    "device.type != 'cpu'": False,
}
FACTS: dict[str, Facts] = {
    NETWORKS: {**NO_PICTURES, **ON_CPU},
    "rlsuite.algorithms.ppo": {**ON_CPU, "observations.dtype == np.uint8": False},
    "rlsuite.algorithms.props": {**NO_PICTURES, **ON_CPU},
    "rlsuite.algorithms.policy_smoothing": NO_PICTURES,
    "rlsuite.algorithms.npg_igt": ON_CPU,
    "rlsuite.harness.trajectories": {"len(self.observation_space.shape) != 1": False},
    "rlsuite.harness.smoothing": {**NO_PICTURES, "space.dtype == np.uint8": False, "self.scale != 1": False},
    ENVIRONMENTS: {
        "self._atari": "",
        "is_atari(env_id)": False,
        "self.observation_space.dtype == np.uint8": False,
        "observations.dtype == np.uint8": False,
    },
    "rlsuite.harness.evaluation": {"space.dtype == np.uint8": False, "space.shape is not None": True},
}
RECEIVERS = ("config", "c", "self.config")  # how algorithm files name their configuration
ON_CPU_ONLY = {(NETWORKS, "ActorCritic"), (NETWORKS, "FlatPolicy")}
WIDTH = 120


def export(source: str, name: str, given: Mapping[str, Any] | None = None, variants: bool = False) -> str:
    """The algorithm `source`, a name or a .py file, as one file, to be called `name`, without the package.

    Switches of the configuration (truth values and choices) are taken to be as `given`, or as they are by default, and
    are no flags of the file, unless a preset sets them or `variants` are asked for.

    Raises UserError for an unknown algorithm or key, one of another library, and what cannot be taken out of its file.
    """
    from rlsuite.harness.config import load_algorithm

    algorithm = load_algorithm(source)
    if source.startswith("sb3:"):
        raise UserError(f"{source} is another library's; export one of the package's algorithms, or a .py file.")
    path = Path(str(algorithm.module.__file__))
    fixed = switches(algorithm, given or {}, variants)
    choices = {} if variants else choices_left(algorithm, fixed)
    instead = dict(INSTEAD)
    if fixed.get("search") == "exact":
        instead[SEARCH] = (NEIGHBOURS, SEARCH[1])
    if hasattr(algorithm.module.Config, "dataset_steps"):  # nothing else plays
        instead[STANDALONE, "evaluate"] = (STANDALONE, "evaluate_each")
    settings: dict[str, Any] = {}
    sampled = True
    while True:
        library = library_for(algorithm, fixed, settings, instead, sampled, choices)
        main = library.load(algorithm.module.__name__, path)
        roots = [
            item for name, item in main.items.items() if name in ("Config", "PRESETS", "train") or item.is_statement
        ]
        reach = Reach(library, [*roots, library.item(STANDALONE, "main")])
        reached = {(item.module.name, item.name) for item in reach.items}
        if VIEW in reached and instead[SLOTS] == COPIES:
            instead[SLOTS] = instead[STANDALONE, "make_slots"] = (STANDALONE, "make_seen_slots")
        elif ON_CPU_ONLY & reached and not settings:
            settings = {"device": "cpu"}
        elif sampled and (
            fixed.get("stochastic") is False
            or (not ON_CPU_ONLY & reached and not SAMPLED.search(path.read_text(encoding="utf-8")))
        ):
            sampled = False
        else:
            while reach.drop_unread() or settle(reach):
                reach.find()
            reach.shorten()
            for item in reach.items:
                item.change(tidy(item.source))
            alike = flatten(library, reach, main)
            reach.find()
            return formatted(Script(library, reach, main, alike).text(header(algorithm, main, name, fixed)))


def flatten(library: Library, reach: Reach, main: Module) -> dict[Item, Item]:
    """Write `Config` as one class with the fields of those that it is built on; gives these -> `Config`."""
    own = main.items["Config"]
    alike: dict[Item, Item] = {}
    while len(bases := reach.bases(own)) == 1:
        base = bases[0].module
        for use, _, _ in library.uses(bases[0]):
            if use.name not in {*main.items, *main.imports}:
                main.imports[use.name] = base.imports.get(use.name, Import(base.name, use.name, use.name))
        elsewhere = any(library.meaning(main, use)[0] != target for use, target, _ in library.uses(bases[0]))
        text = None if elsewhere else merged(own.text, bases[0].text)
        if text is None:
            break
        own.change(text)
        alike[bases[0]] = own
    return alike


def header(algorithm: Algorithm, main: Module, name: str, fixed: Mapping[str, Any]) -> str:
    """The docstring of the algorithm's file, and where the new one comes from."""
    call = re.compile(r"^    rlsuite (train \S+ )?(.*)\n?", re.MULTILINE)
    text = call.sub(lambda found: f"    python {name} {found[2]}\n" if found[1] else "", main.docstring).rstrip()
    text = text.replace("\\", "\\\\")  # of equations
    settled = ", ".join(f"{key.rstrip('_')} = {value}" for key, value in fixed.items())
    notes = [
        f"Made from {algorithm.name}.py by rlsuite {rlsuite.__version__} (`rlsuite export`): the algorithm and what it "
        "reaches of that package, with which it agrees bit for bit on one thread (OMP_NUM_THREADS=1).",
        f"Settled: {settled}." if settled else "",
        "SPDX-License-Identifier: MIT. Copyright (c) 2026 the rlsuite authors.",
    ]
    wrapped = (textwrap.fill(note, WIDTH) for note in notes if note)
    return f'"""{text}\n\n' + "\n\n".join(wrapped) + '\n"""'


def switches(algorithm: Algorithm, given: Mapping[str, Any], variants: bool) -> dict[str, Any]:
    """The fields of the configuration that are settled, and how."""
    from rlsuite.harness.config import coerce, field_name

    hints = typing.get_type_hints(algorithm.module.Config)
    kinds = {name: kind for name, kind in hints.items() if kind is bool or typing.get_origin(kind) is typing.Literal}
    fixed = {}
    for key, value in given.items():
        name = field_name(key, hints)
        if name not in kinds:
            raise UserError(f"{algorithm.name} has no switch '{key}' that could be settled; {nearest(name, kinds)}")
        try:
            fixed[name] = coerce(key, kinds[name], value)
        except ValueError as error:
            raise UserError(f"{error}.") from None
    elsewhere = asked_elsewhere(algorithm)
    if lost := sorted(fixed.keys() & elsewhere):
        raise UserError(
            f"'{lost[0]}' cannot be settled, because {algorithm.name}.py asks something else than `config` or "
            "`self.config` for it; change that, or leave it as it is."
        )
    tasks = [task for task in algorithm.presets if not task.startswith(lost_presets(algorithm.module.Config))]
    preset = {field_name(key, hints) for task in tasks for key in algorithm.presets[task]}
    free = set() if variants else kinds.keys() - preset - elsewhere
    defaults = {f.name: f.default for f in fields(algorithm.module.Config) if f.default is not MISSING}
    return {name: default for name, default in defaults.items() if name in free} | fixed


def choices_left(algorithm: Algorithm, fixed: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The values that presets and defaults give the fields that are a choice and not settled."""
    from rlsuite.harness.config import field_name

    hints = typing.get_type_hints(algorithm.module.Config)
    defaults = {f.name: f.default for f in fields(algorithm.module.Config)}
    presets = [(field_name(key, hints), x) for values in algorithm.presets.values() for key, x in values.items()]
    left = {}
    for name, kind in hints.items():
        if typing.get_origin(kind) is typing.Literal and name not in fixed.keys() | asked_elsewhere(algorithm):
            used = {defaults[name], *(value for key, value in presets if key == name)}
            left[name] = tuple(choice for choice in typing.get_args(kind) if choice in used)
    return left


def lost_presets(config: type) -> tuple[str, ...]:
    """How the names of tasks begin that an exported file does not have."""
    return ("ale-",) if hasattr(config, "dataset_steps") else ("ale-", "rlsuite/")


def config_classes(config: type) -> list[type]:
    """A dataclass and those that it is built on."""
    return [cls for cls in config.__mro__[:-1] if is_dataclass(cls)]


def asked_elsewhere(algorithm: Algorithm) -> set[str]:
    """Names that are attributes of something that is not obviously the configuration."""
    config = algorithm.module.Config
    found = set()
    for module in {algorithm.module, *(sys.modules[cls.__module__] for cls in config_classes(config))}:
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        names = {cls.__name__ for cls in config_classes(config)}
        own = {n for c in tree.body if isinstance(c, ast.ClassDef) and c.name in names for n in ast.walk(c)}
        methods = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node not in methods:
                known = (*RECEIVERS, "self") if node in own else RECEIVERS
                found |= {node.attr} if ast.unparse(node.value) not in known else set()
    return found


def library_for(
    algorithm: Algorithm,
    fixed: Mapping[str, Any],
    settings: Mapping[str, Any],
    instead: Mapping[tuple[str, str], tuple[str, str]],
    sampled: bool,
    choices: Mapping[str, tuple[str, ...]],
) -> Library:
    """The package as an exported file sees it, without the switches that are settled and with `choices` of the others.

    Where nothing is `sampled`, no policy asks for random numbers in its evaluation.
    """
    facts: dict[str, dict[str, Any]] = defaultdict(dict, {name: dict(known) for name, known in FACTS.items()})
    kinds = [kind for key, kind in typing.get_type_hints(algorithm.module.Config).items() if key not in fixed]
    if all(typing.get_origin(kind) is not typing.Literal for kind in kinds):
        facts[STANDALONE]["typing.get_origin(kind) is typing.Literal"] = False
    if all(type(None) not in typing.get_args(kind) for kind in kinds):
        facts[STANDALONE]["type(None) in arguments"] = False
    if not sampled:
        facts[STANDALONE]["getattr(policy, 'stochastic', False)"] = False
    own, other = algorithm.module, importlib.import_module(STANDALONE)
    settled: list[tuple[Any, Mapping[str, Any]]] = []
    for module, config, values, receivers in (
        (own, own.Config, fixed, RECEIVERS),
        (other, other.Settings, settings, ("settings", "self.settings")),
    ):
        classes = config_classes(config)
        for name in {module.__name__, *(cls.__module__ for cls in classes)}:
            facts[name] |= {f"{receiver}.{key}": value for receiver in receivers for key, value in values.items()}
        settled += [(cls, values) for cls in classes]
    if rule := getattr(own, "METHODS", {}).get(fixed.get("method")):  # a row of a table of methods
        known = {field.name: getattr(rule, field.name) for field in fields(rule)}
        for owner in ("self.rule", "ascent.rule", "METHODS[config.method]"):
            facts[own.__name__] |= {f"{owner}.{key}": x for key, x in known.items() if isinstance(x, bool | str)}
            facts[own.__name__] |= {f"{owner}.{key} is None": x is None for key, x in known.items()}
    if "official" not in choices.get("scale_by_returns", ("official",)):
        facts["rlsuite.data.rewards"]["episodes == 'official'"] = False
    library = Library(facts, instead)
    library.load(own.__name__, Path(str(own.__file__)))
    for cls, values in settled:
        home = library.load(cls.__module__).items
        home[cls.__name__].settle(values)
        home[cls.__name__].narrow(choices)
        if "PRESETS" in home:
            home["PRESETS"].without_keys(lost_presets(cls))
    return library


class Script:
    """Items in an order in which they can be defined, the algorithm's own first."""

    def __init__(self, library: Library, reach: Reach, main: Module, alike: Mapping[Item, Item]) -> None:
        self.library, self.reach, self.main = library, reach, main
        self.items = self._merged() | {item: other for item, other in alike.items() if item in reach.items}
        self.names = self._named()

    def _merged(self) -> dict[Item, Item]:
        """Every item -> itself, or one of another module with the same source, such as `Array = np.ndarray`."""
        merged: dict[Item, Item] = {}
        first: dict[str, Item] = {}
        for item in sorted(self.reach.items, key=lambda item: item.module is not self.main):
            if isinstance(item.node, ast.Assign) and not any(
                isinstance(t, Item) for _, t, _ in self.library.uses(item)
            ):
                first.setdefault(ast.unparse(item.node), item)
                merged[item] = first[ast.unparse(item.node)]
            else:
                merged[item] = item
        return merged

    def _named(self) -> dict[Item, str]:
        """Every item that stays -> its name in the file: where two are alike, with that of the module."""
        aliases = defaultdict(set)
        for found in self.reach.imports:
            aliases[found.alias].add(found)
        if twice := sorted(alias for alias, meanings in aliases.items() if len(meanings) > 1):
            raise UserError(f"{twice[0]} is imported from two places under this name; import it by another one.")
        taken = set(aliases)
        names: dict[Item, str] = {}
        for item in sorted(dict.fromkeys(self.items.values()), key=lambda item: item.module is not self.main):
            name = item.name
            if name in taken and len(item.names) == 1:
                stem = item.module.name.rpartition(".")[2]
                if name.isupper():
                    name = f"{stem.upper()}_{name}"
                elif name[0].isupper():
                    name = stem.title().replace("_", "") + name
                else:
                    name = f"{stem}_{name}"
            if twice := sorted({name, *item.names[1:]} & taken):
                raise UserError(f"two definitions would both be called {twice[0]}; rename one of them.")
            taken.update((name, *item.names[1:]))
            names[item] = name
        return names

    def text(self, header: str) -> str:
        """The file, below `header`."""
        text = f"{header}\n\nfrom __future__ import annotations\n\n{self._imports()}"
        before: Item | None = None
        for item in self._ordered():
            both = before is not None and all(isinstance(x.node, ast.Assign | ast.AnnAssign) for x in (before, item))
            moved = item not in self._early and (before is None or before.module is not item.module)
            text += "\n" * (0 if both and not moved else 2)
            text += f"# From {item.module.name}\n" if moved else ""
            text += self._renamed(item)
            before = item
        presets = self.names[self.main.items["PRESETS"]] if "PRESETS" in self.main.items else "{}"
        return f'{text}\n\nif __name__ == "__main__":\n    main(train, Config, {presets})\n'

    def _ordered(self) -> list[Item]:
        """The algorithm's items as they stand in its file, before each what it needs to be defined; then the others."""
        ordered: dict[Item, None] = {}
        kept = self.names.keys()
        order: dict[Module, list[Item]] = defaultdict(list)
        for item in self.reach.items:
            if item in kept:
                order[item.module].append(item)
        groups = [self.main, *(m for m in order if m not in (self.main, self.library.load(STANDALONE)))]
        for module in [*groups, self.library.load(STANDALONE)]:
            for item in sorted(order[module], key=lambda item: list(module.items.values()).index(item)):
                self._place(item, ordered)
            if module is self.main:
                self._early = set(ordered)
        return list(ordered)

    def _place(self, item: Item, ordered: dict[Item, None], path: tuple[Item, ...] = ()) -> None:
        item = self.items[item]
        if item in ordered or item in path:
            return
        for needed in self._needed(item):
            self._place(needed, ordered, (*path, item))
        ordered[item] = None

    def _needed(self, item: Item) -> list[Item]:
        """What must be there when an item is defined: what it uses then, and what the functions that it uses use."""
        found: dict[Item, None] = {}
        todo = [target for _, target, _ in self.library.uses(item, item.shell())]
        while todo:
            target = todo.pop(0)
            if isinstance(target, Item) and target not in found:
                found[target] = None
                if isinstance(target.node, ast.FunctionDef):
                    todo += [used for _, used, _ in self.library.uses(target)]
        return list(found)

    def _renamed(self, item: Item) -> str:
        stored = {n.id for n in ast.walk(item.text.tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        edits = []
        if self.names[item] != item.name:
            edits.append(self._own_name(item))
        for use, target, length in self.library.uses(item):
            if isinstance(target, Item) and target in self.items:
                node: ast.expr = use.chain[0] if length else use.node
                spelt = use.attributes[0] if length else use.name
                name = spelt if spelt in target.names[1:] else self.names[self.items[target]]
                if item.text.of(node) != name:
                    if name in stored:
                        raise UserError(
                            f"{name} is also a variable in {item.name} of {item.module.path.name}; rename it."
                        )
                    edits.append(Edit(*item.text.span(node), name))
        return item.text.with_edits(edits)

    def _own_name(self, item: Item) -> Edit:
        start, end = item.text.span(item.node)
        found = re.compile(rf"\b{item.name}\b".encode()).search(item.text.bytes, start, end)
        assert found is not None
        return Edit(*found.span(), self.names[item])

    def _imports(self) -> str:
        """Sorted as ruff sorts them: the standard library first."""
        plain: set[Import] = {found for found in self.reach.imports if not found.name}
        named = defaultdict(set)
        for found in self.reach.imports - plain:
            named[found.module].add(found.name if found.alias == found.name else f"{found.name} as {found.alias}")
        sections = []
        for own in (True, False):
            lines = []
            for found in sorted(plain, key=lambda found: found.module):
                if (found.module.split(".")[0] in sys.stdlib_module_names) is own:
                    same = found.alias in (found.module, found.module.split(".")[0])
                    lines.append(f"import {found.module}" + ("" if same else f" as {found.alias}"))
            for module in sorted(named):
                if (module.split(".")[0] in sys.stdlib_module_names) is own:
                    words = sorted(named[module], key=_by_kind)
                    lines.append(f"from {module} import {', '.join(words)}")
            sections.append("\n".join(lines))
        return "\n\n".join(filter(None, sections)) + "\n"


def _by_kind(word: str) -> tuple[int, str]:
    """Constants, classes, functions."""
    name = word.split(" as ")[0]
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name


def formatted(source: str) -> str:
    """By ruff where that is installed, else as it is. A list that has lost parts may go on one line."""
    if importlib.util.find_spec("ruff") is None:
        return source
    for command in (["check", "--fix", "--select=I"], ["format", "--config=format.skip-magic-trailing-comma=true"]):
        options = ["--quiet", "--isolated", f"--line-length={WIDTH}", "-"]
        ruff = [sys.executable, "-m", "ruff", *command, *options]
        source = subprocess.run(ruff, input=source, capture_output=True, text=True).stdout
    return source
