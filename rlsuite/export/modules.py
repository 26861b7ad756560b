"""Modules as lists of top-level items: functions, classes and constants, each with its source."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from rlsuite.errors import UserError
from rlsuite.export.names import Use, uses
from rlsuite.export.simplify import Edit, Facts, Text, simplify

PACKAGES = ("rlsuite", "rlsuite_envs")  # what an exported file does without


class Import(NamedTuple):
    """`from module import name as alias`, or `import module as alias` where there is no name."""

    module: str
    name: str
    alias: str


@dataclass(eq=False)
class Item:
    """A top-level definition."""

    module: Module
    names: list[str]  # one, but for `low, high = 0, 1`
    source: str
    text: Text = field(init=False)
    _uses: dict[ast.AST, list[Use]] = field(init=False)

    def __post_init__(self) -> None:
        self.change(self.source)

    def change(self, source: str) -> None:
        self.source, self.text, self._uses = source, Text(source), {}

    def uses(self, part: ast.AST) -> list[Use]:
        """`names.uses` of a part, found once."""
        if part not in self._uses:
            self._uses[part] = list(uses(part))
        return self._uses[part]

    def settle(self, values: Mapping[str, Any]) -> None:
        """Let a dataclass do without these fields, whose values its methods are to take for granted."""
        assert isinstance(self.node, ast.ClassDef)
        edits = []
        for statement, following in pairwise([*self.node.body, ast.Pass()]):
            if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) in values:
                edits.append(self.text.cut(statement))
                if isinstance(following, ast.Expr):
                    edits.append(self.text.cut(following))
        self.change(self.text.with_edits(edits))
        self.change(simplify(self.source, {f"self.{name}": value for name, value in values.items()}))

    def narrow(self, choices: Mapping[str, tuple[str, ...]]) -> None:
        """Let fields of a dataclass take these values alone."""
        assert isinstance(self.node, ast.ClassDef)
        fields = [part for part in self.node.body if isinstance(part, ast.AnnAssign)]
        spelt = {field.annotation: choices.get(ast.unparse(field.target)) for field in fields}
        edits = [
            Edit(*self.text.span(kind), f"Literal[{', '.join(map(json.dumps, left))}]")
            for kind, left in spelt.items()
            if left is not None
        ]
        self.change(self.text.with_edits(edits))

    def without_keys(self, prefixes: tuple[str, ...]) -> None:
        """Let a dictionary do without the entries whose keys begin with one of these."""
        value = getattr(self.node, "value", None)
        if isinstance(value, ast.Dict):
            pairs = [*zip(value.keys, value.values, strict=True), (None, None)]
            edits = []
            for (key, of_key), (following, _) in pairwise(pairs):
                if isinstance(key, ast.Constant) and str(key.value).startswith(prefixes) and of_key is not None:
                    start = self.text.span(key)[0]
                    end = self.text.span(following)[0] if following else self.text.span(value)[1] - 1
                    edits.append(Edit(start, end, ""))
            self.change(self.text.with_edits(edits))

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def is_statement(self) -> bool:
        """Whether it defines nothing and is there for what it does."""
        return not isinstance(self.node, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign)

    @property
    def node(self) -> ast.stmt:
        return self.text.tree.body[0]

    def methods(self) -> dict[str, list[ast.FunctionDef]]:
        """Those of a class, by name; a property and its setter share one."""
        found: dict[str, list[ast.FunctionDef]] = {}
        for node in getattr(self.node, "body", []) if isinstance(self.node, ast.ClassDef) else []:
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, []).append(node)
        return found

    def shell(self) -> list[ast.AST]:
        """What runs when the item is defined: of a class all but its methods, of a function what surrounds its body.

        Annotations are not among it.
        """
        node = self.node
        if isinstance(node, ast.ClassDef):
            methods = {method for group in self.methods().values() for method in group}
            parts: list[ast.AST] = [*node.bases, *(k.value for k in node.keywords), *node.decorator_list]
            for statement in node.body:
                if statement in methods:
                    parts += _eager(statement)
                elif isinstance(statement, ast.AnnAssign):
                    parts += [statement.value] if statement.value else []
                else:
                    parts.append(statement)
            return parts
        if isinstance(node, ast.AnnAssign):
            return [node.value] if node.value else []
        return _eager(node) if isinstance(node, ast.FunctionDef) else [node]


def _eager(function: ast.stmt) -> list[ast.AST]:
    assert isinstance(function, ast.FunctionDef)
    defaults = [default for default in function.args.kw_defaults if default is not None]
    return [*function.decorator_list, *function.args.defaults, *defaults]


class Module:
    """A module's items and imports; `facts` shorten the source of every item."""

    def __init__(self, name: str, path: Path, facts: Facts) -> None:
        self.name, self.path = name, path
        text = Text(path.read_text(encoding="utf-8"))
        self.docstring = ast.get_docstring(text.tree, clean=False) or ""
        self.items: dict[str, Item] = {}
        self.imports: dict[str, Import] = {}
        for node in text.tree.body:
            if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
                continue
            self.imports |= {found.alias: found for found in _imports(node)}
            names = [name for name in _defined(node) if not name.startswith("__")] or _done(node)
            if names:
                start = text.starts[text.first_line(node)]
                assert node.end_lineno is not None
                source = simplify(text.bytes[start : text.starts[node.end_lineno]].decode(), facts)
                item = Item(self, names, source)
                self.items |= dict.fromkeys(names, item)


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]


def _done(node: ast.stmt) -> list[str]:
    """A name for a statement that is there for what it does, such as `torch.set_float32_matmul_precision("high")`."""
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    silent = text or types or isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign)
    return [] if silent else [f"line {node.lineno}"]


def _imports(node: ast.stmt) -> Iterator[Import]:
    """Also of `if TYPE_CHECKING`."""
    for part in ast.walk(node) if isinstance(node, ast.If) else [node]:
        if isinstance(part, ast.Import):
            for alias in part.names:
                yield Import(alias.name, "", alias.asname or alias.name.split(".")[0])
        elif isinstance(part, ast.ImportFrom) and part.module != "__future__":
            if part.level or part.names[0].name == "*":
                raise UserError(f"`{ast.unparse(part)}` cannot be followed; name the module and what comes from it.")
            for alias in part.names:
                yield Import(part.module or "", alias.name, alias.asname or alias.name)


class Library:
    """The modules of the package and, by path, a user's own file.

    Args:
        facts: of each module, by its name
        instead: (module, name) of an item -> that of the item which an exported file has in its place
    """

    def __init__(self, facts: Mapping[str, Facts], instead: Mapping[tuple[str, str], tuple[str, str]]) -> None:
        self.facts, self.instead = facts, instead
        self.modules: dict[str, Module] = {}

    def load(self, name: str, path: Path | None = None) -> Module:
        if name not in self.modules:
            if path is None:
                spec = importlib.util.find_spec(name)
                assert spec is not None and spec.origin is not None
                path = Path(spec.origin)
            self.modules[name] = Module(name, path, self.facts.get(name, {}))
        return self.modules[name]

    def item(self, module: str, name: str) -> Item:
        """The item that `name` means in `module`, wherever it comes from. Raises UserError if there is none."""
        module, name = self.instead.get((module, name), (module, name))
        home = self.load(module)
        if name in home.items:
            return home.items[name]
        if name in home.imports:
            found = home.imports[name]
            return self.item(found.module, found.name)
        import importlib

        value = getattr(importlib.import_module(module), name, None)  # a package that loads its names late
        origin = getattr(value, "__module__", module)
        if origin == module:
            raise UserError(f"{module} has no {name} that could be exported; import it from where it is defined.")
        return self.item(origin, name)

    def meaning(self, module: Module, use: Use) -> tuple[Item | Import | None, int]:
        """What a global name is, and how many of its attributes belong to the name; None for a builtin."""
        if use.name in module.items:
            item = module.items[use.name]
            return self.item(module.name, use.name) if (module.name, use.name) in self.instead else item, 0
        found = module.imports.get(use.name)
        if found is None or found.module.split(".")[0] not in PACKAGES:
            return found, 0
        whole = f"{found.module}.{found.name}" if found.name else found.module
        if found.name and not _is_module(whole):
            return self.item(found.module, found.name), 0
        if not use.attributes:
            raise UserError(
                f"{module.path.name} uses the module {whole} as a whole, which cannot be exported; import the names "
                "that it needs."
            )
        return self.item(whole, use.attributes[0]), 1

    def uses(self, item: Item, parts: list[ast.AST] | None = None) -> Iterator[tuple[Use, Item | Import, int]]:
        """Every use of something outside in the item, or in parts of it."""
        for part in parts if parts is not None else [item.text.tree]:
            for use in item.uses(part):
                target, length = self.meaning(item.module, use)
                if target is not None and target is not item:
                    yield use, target, length


def _is_module(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module, not a package
        return False
