"""What an algorithm reaches: items, of classes only the methods that something asks for, and no attribute that is only
written.

Methods are matched by name. What `self` is asked for counts for the class and its relatives alone; what any other
object is asked for counts for all classes. A method that another library calls, because it stands in the place of one
of a base class's own, is always reached. What is asked for by a name that is computed at run time is not seen.
"""

from __future__ import annotations

import ast
import importlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from rlsuite.errors import UserError
from rlsuite.export.modules import PACKAGES, Import, Item, Library
from rlsuite.export.names import asked, takes, unread
from rlsuite.export.simplify import Edit

HARMLESS = {"bool", "dict", "float", "getattr", "hasattr", "int", "isinstance", "len", "list", "locals", "max", "min"}
HARMLESS |= {
    "str",
    "tuple",
    "items",
    "mean",
    "np.float32",
    "np.zeros",
    "np.random.default_rng",
    "self.parameters",
}  # calls
VALUES = (ast.Constant, ast.Dict, ast.DictComp, ast.List, ast.ListComp, ast.Compare, ast.BoolOp)
NOT_EXPORTED = {"state_dict", "load_state_dict"}  # no run is resumed
Kind = tuple[Item, bool] | None  # a class that an object is of, or is not of
ON_CPU = {("ObservationNormalizer", "_apply")}  # what keeps it there
BY_NUMPY = {"ActorCritic", "TanhMLP"}  # modules that are never called


class Reach:
    """The closure of `roots`, found anew after every change of an item."""

    def __init__(self, library: Library, roots: list[Item]) -> None:
        self.library, self.roots = library, roots
        self.find()

    def shorten(self) -> None:
        """Take what is not reached out of the source of every item."""
        for item in self.items:
            item.change(self._without_unreached(item))

    def find(self) -> None:
        self.items: dict[Item, None] = {}  # in the order of discovery
        self.imports: set[Import] = set()
        self.methods: dict[Item, set[str]] = {}
        self._asked: dict[tuple[Item | None, str], list[tuple[ast.Call | None, Kind]]] = defaultdict(list)
        self._family: dict[Item, Item] = {}
        self._below: dict[Item, list[Item]] = defaultdict(list)  # classes that are built on one
        self._used: set[Item] = set(self.roots)  # otherwise than to be built on
        for root in self.roots:
            self._reach(root)
        changed = True
        while changed:
            changed = False
            for item in list(self.items):
                for name, nodes in item.methods().items():
                    if name not in self.methods[item] and self._is_asked(item, name, nodes[0]):
                        changed = True
                        self.methods[item].add(name)
                        for node in nodes:
                            self._read(item, node)

    def _reach(self, item: Item) -> None:
        if item in self.items:
            return
        self.items[item] = None
        self.methods[item] = set()
        self._family[item] = item
        if isinstance(item.node, ast.ClassDef):
            for base in self.bases(item):
                self._reach(base)
                self._family[item] = self._root(base)
                self._below[base].append(item)
            methods = {method for group in item.methods().values() for method in group}
            for part in ast.iter_child_nodes(item.node):
                if part not in methods:
                    self._read(item, part, is_base=part in item.node.bases)
        else:
            self._read(item, item.text.tree)

    def _read(self, item: Item, part: ast.AST, is_base: bool = False) -> None:
        """Follow what a part of an item uses and asks for."""
        libraries, classes = set(), {}
        for node in ast.walk(part):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in PACKAGES:
                raise UserError(f"{item.module.path.name} imports {node.module} within {item.name}; do so at the top.")
        for use, target, _ in self.library.uses(item, [part]):
            if isinstance(target, Item):
                self._reach(target)
                classes[use.name] = target
                if not is_base:
                    self._used.add(target)
            else:
                libraries.add(use.name)
                self.imports.add(target)
        for receiver, name, call, kind in asked(part):
            if receiver == "super":
                self._asked[item, f"super.{name}"].append((call, None))
            if receiver in ("self", "super"):
                self._asked[self._root(item), name].append((call, None))
            elif receiver not in libraries:
                known = (classes[kind[0]], kind[1]) if kind and kind[0] in classes else None
                self._asked[None, name].append((call, known))

    def _root(self, item: Item) -> Item:
        while self._family[item] is not item:
            item = self._family[item]
        return item

    def bases(self, item: Item) -> list[Item]:
        node = item.node
        found = self.library.uses(item, list(node.bases)) if isinstance(node, ast.ClassDef) else []
        return [target for _, target, _ in found if isinstance(target, Item) and isinstance(target.node, ast.ClassDef)]

    def _is_asked(self, item: Item, name: str, method: ast.FunctionDef) -> bool:
        if name in NOT_EXPORTED or (item.name, name) in ON_CPU or (name == "forward" and item.name in BY_NUMPY):
            return False
        if name.startswith("__") and name.endswith("__"):
            return True
        if self._is_replaced(item, name):
            return False
        called = not any(isinstance(d, ast.Name) and d.id.endswith("property") for d in method.decorator_list)
        for call, kind in self._asked[None, name] + self._asked[self._root(item), name]:
            may_be = kind is None or (self.is_related(item, kind[0]) if kind[1] else item is not kind[0])
            if may_be and (call is None or not called or takes(method, call)):
                return True
        return self.is_hook(item, name)

    def _is_replaced(self, item: Item, name: str) -> bool:
        """Whether there are only objects of classes that are built on this one and have a method of their own."""
        below = self._below[item]
        own = all(name in other.methods() and (other, f"super.{name}") not in self._asked for other in below)
        return bool(below) and own and item not in self._used

    def is_hook(self, item: Item, name: str) -> bool:
        """Whether a method stands in the place of one of another library's class."""
        return any(hasattr(base, name) for base in self._foreign_bases(item))

    def is_related(self, one: Item, other: Item) -> bool:
        """Whether two classes have a common one below them."""
        return self._root(one) is self._root(other)

    def _foreign_bases(self, item: Item) -> Iterator[Any]:
        """The classes of other libraries below this one."""
        assert isinstance(item.node, ast.ClassDef)
        for use, target, _ in self.library.uses(item, list(item.node.bases)):
            if isinstance(target, Item):
                if isinstance(target.node, ast.ClassDef):
                    yield from self._foreign_bases(target)
                continue
            value: Any = importlib.import_module(target.module)
            for name in (*filter(None, [target.name]), *use.attributes):
                value = getattr(value, name)
            yield value

    # Shortening

    def drop_unread(self) -> bool:
        """Take out assignments to what nothing reads; whether there were any."""
        read = {name for item in self.items for node in self.living(item) for name in _read_attributes(node)}
        changed = False
        for item in self.items:
            plain = isinstance(item.node, ast.ClassDef) and not any(self._foreign_bases(item))
            edits = [edit for node in self.living(item) for edit in _unread(item, node, read, plain)]
            if edits:
                item.change(item.text.with_edits(edits))
                changed = True
        return changed

    def living(self, item: Item) -> list[ast.AST]:
        """The parts of an item that are reached."""
        if not isinstance(item.node, ast.ClassDef):
            return [item.node]
        dropped = {m for name, group in item.methods().items() if name not in self.methods[item] for m in group}
        return [part for part in item.node.body if part not in dropped]

    def _without_unreached(self, item: Item) -> str:
        node, text = item.node, item.text
        if not isinstance(node, ast.ClassDef):
            return item.source
        living = set(self.living(item))
        head = text.starts[text.first_line(node.body[0])]
        parts = [text.bytes[:head].decode()]
        heading, line = "", text.first_line(node.body[0])
        for statement in node.body:
            first = text.first_line(statement)
            between = b"".join(text.lines[line:first]).decode()
            if between.strip():  # a comment between blank lines is about several methods
                heading, between = between, "\n"
            assert statement.end_lineno is not None
            if statement in living:
                parts += [heading or between, b"".join(text.lines[first : statement.end_lineno]).decode()]
                heading = ""
            line = statement.end_lineno
        if not living:
            parts.append("    pass\n")
        return "".join(parts).rstrip() + "\n"


def _read_attributes(part: ast.AST) -> Iterator[str]:
    """Names of attributes that are read, and not only to set an entry: `self.arguments["tanh"] = tanh`."""
    entries = {n.value for n in ast.walk(part) if isinstance(n, ast.Subscript) and _is_entry(n)}
    for node in ast.walk(part):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node not in entries:
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # getattr(x, "name")
            yield node.value
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Attribute) and not _is_count(node):
            yield node.target.attr  # it may be an array that others hold, too


def _is_count(node: ast.AugAssign) -> bool:
    """Whether it is something like `self.updates += 1`."""
    return isinstance(node.value, ast.Constant)


def _is_entry(node: ast.Subscript) -> bool:
    return (
        isinstance(node.ctx, ast.Store) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
    )


def _unread(item: Item, part: ast.AST, read: set[str], plain: bool) -> Iterator[Edit]:
    """Edits that take out `self.x = ...` where x is not in `read`, and `x = ...` where the function does not read x,
    provided that the right side does nothing.

    A class that is not `plain` is built on one of another library, which may look at its attributes: there only what
    holds no object of somebody else's is taken out.
    """
    text = item.text
    if not isinstance(part, ast.FunctionDef):
        return
    local = unread(part)

    def is_dead(target: ast.expr) -> bool:
        if isinstance(target, ast.Subscript) and _is_entry(target):
            target = target.value
        if isinstance(target, ast.Attribute):
            return isinstance(target.value, ast.Name) and target.value.id == "self" and target.attr not in read
        return isinstance(target, ast.Name) and target.id in local

    def may_go(target: ast.expr, value: ast.expr) -> bool:
        own = plain or not isinstance(target, ast.Attribute) or isinstance(value, VALUES)
        return own and is_dead(target) and is_harmless(value)

    for node in ast.walk(part):
        body = getattr(node, "body", None)
        block: list[ast.stmt] = body if isinstance(body, list) else []
        for statement in block:
            targets: list[ast.expr]
            if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                targets, values = [statement.target], [statement.value]
            elif isinstance(statement, ast.AnnAssign):
                targets, values = [statement.target], [ast.Constant(None)]  # a declaration
            elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                target, value = statement.targets[0], statement.value
                if isinstance(target, ast.Tuple) and not isinstance(value, ast.Tuple):
                    inner = [e.value if isinstance(e, ast.Starred) else e for e in target.elts]
                    yield from (Edit(*text.span(e), "_") for e in inner if is_dead(e) and text.of(e) != "_")
                    continue
                pairs = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                targets = target.elts if pairs and isinstance(target, ast.Tuple) else [target]
                values = value.elts if pairs and isinstance(value, ast.Tuple) else [value]
            elif isinstance(statement, ast.AugAssign) and _is_count(statement):
                targets, values = [statement.target], [statement.value]
            else:
                continue
            kept = [(target, value) for target, value in zip(targets, values, strict=True) if not may_go(target, value)]
            if not kept:
                yield text.cut(statement, " " * statement.col_offset + "pass\n" if len(block) == 1 else "")
            elif len(kept) < len(targets):
                left, right = (", ".join(text.of(part) for part in side) for side in zip(*kept, strict=True))
                yield Edit(*text.span(statement), f"{left} = {right}")


def is_harmless(value: ast.expr) -> bool:
    """Whether nothing but a value comes of an expression: it calls nothing that could draw a number, say."""
    for node in ast.walk(value):
        if isinstance(node, ast.Call):
            called = {ast.unparse(node.func), node.func.attr if isinstance(node.func, ast.Attribute) else ""}
            if not called & HARMLESS:
                return False
        if isinstance(node, ast.Yield | ast.Await | ast.NamedExpr):
            return False
    return True
