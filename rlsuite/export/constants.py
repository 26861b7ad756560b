"""What is the same in every call, or never read, is no parameter any more; what is set once to a constant no variable;
and a default that no call falls back on is none.

The constants are truth values, None and texts. One change at a time: `settle` is called until there is nothing to do.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from rlsuite.export.modules import Item
from rlsuite.export.names import asked, takes
from rlsuite.export.shake import Reach, is_harmless
from rlsuite.export.simplify import UNKNOWN, Edit, Text, known, simplify

Edits = dict[Item, list[Edit]]


def settle(reach: Reach) -> bool:
    """Make one change; whether there was one to be made."""
    edits = _parameter(reach) or _attribute(reach) or _local(reach) or _default(reach)
    for item, changes in edits.items():
        item.change(simplify(item.text.with_edits(changes), {}))
    return bool(edits)


def constant(node: ast.expr | None) -> Any:
    """A literal's value, or UNKNOWN."""
    value = known(node, {}) if isinstance(node, ast.Constant | ast.Tuple) else UNKNOWN
    parts = value if isinstance(value, tuple) else (value,)
    return value if all(part is None or isinstance(part, bool | str) for part in parts) else UNKNOWN


def _reads(text: Text, part: ast.AST, name: str, value: Any) -> list[Edit] | None:
    """Edits that put a value in the place of a local name; None where one stands within a text."""
    nodes = [n for n in ast.walk(part) if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load)]
    if any(text.of(node) != name for node in nodes):
        return None
    return [Edit(*text.span(node), repr(value)) for node in nodes]


def _stored(part: ast.AST) -> Counter[str]:
    """How often each local name is assigned, or a parameter of a function inside."""
    names = [n.id for n in ast.walk(part) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)]
    inner = [n for n in ast.walk(part) if isinstance(n, ast.FunctionDef | ast.Lambda) and n is not part]
    return Counter(names + [a.arg for n in inner for a in ast.walk(n.args) if isinstance(a, ast.arg)])


# Parameters


def _parameter(reach: Reach) -> Edits:
    calls = _calls(reach)
    for item, node, is_method in _functions(reach):
        found = calls.get(node, [])
        a = node.args
        static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
        bound = int(is_method and not static)
        if not found or a.vararg or a.kwarg or a.posonlyargs or a.kwonlyargs:
            continue
        defaults = [None] * (len(a.args) - len(a.defaults)) + a.defaults
        stored = _stored(node)
        for index, (argument, default) in enumerate(zip(a.args, defaults, strict=True)):
            if index < bound or argument.arg in stored:
                continue
            given = [_given(call, argument.arg, index - bound) for _, call in found]
            values = [constant(g if g is not None else default) for g in given]
            reads = [_reads(item.text, part, argument.arg, values[0]) for part in node.body]
            settled = UNKNOWN not in values and len(set(map(repr, values))) == 1
            unread = not any(reads) and all(g is None or is_harmless(g) for g in given)
            if None in reads or not (settled or unread):
                continue
            edits: Edits = defaultdict(list)
            edits[item] += [edit for part in reads for edit in part or []]
            ends: list[ast.AST] = [d or arg for arg, d in zip(a.args, defaults, strict=True)]
            edits[item].append(_without(item.text, [*a.args], ends, index))
            for (where, call), g in zip(found, given, strict=True):
                if g is not None:
                    arguments: list[ast.AST] = [*call.args, *call.keywords]
                    at = next(k for k, x in enumerate(arguments) if getattr(x, "value", x) is g or x is g)
                    edits[where].append(_without(where.text, arguments, arguments, at))
            return edits
    return {}


def _default(reach: Reach) -> Edits:
    """A default that no call leaves the parameter to."""
    calls = _calls(reach)
    for item, node, is_method in _functions(reach):
        a = node.args
        if node not in calls or not a.defaults or a.vararg or a.kwarg or a.posonlyargs or a.kwonlyargs:
            continue
        static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
        index = len(a.args) - len(a.defaults)
        given = [_given(call, a.args[index].arg, index - int(is_method and not static)) for _, call in calls[node]]
        if all(g is not None and hasattr(g, "lineno") for g in given):
            argument, optional = a.args[index], constant(a.defaults[0]) is None
            edits = [Edit(item.text.span(argument)[1], item.text.span(a.defaults[0])[1], "")]
            pairs = zip(calls[node], given, strict=True)
            if optional and argument.annotation and all(_is_there(where.node, g) for (where, _), g in pairs):
                edits += _never_none(item.text, node, argument)
            return {item: edits}
    return {}


def _is_there(caller: ast.AST, given: ast.expr | None) -> bool:
    """Whether what a call gives is no None: a random stream, or a parameter that is none."""
    if isinstance(given, ast.Call):
        return isinstance(given.func, ast.Attribute) and given.func.attr == "rng"
    functions = [node for node in ast.walk(caller) if isinstance(node, ast.FunctionDef)]
    found = [f for f in functions if any(node is given for node in ast.walk(f))]
    parameters = {a.arg: ast.unparse(a.annotation) for f in found for a in f.args.args if a.annotation}
    return (
        isinstance(given, ast.Name)
        and "None" not in parameters.get(given.id, "None")
        and not _stored(found[0])[given.id]
    )


def _never_none(text: Text, function: ast.FunctionDef, argument: ast.arg) -> Iterator[Edit]:
    """Take `None` out of its type, and what `x or ...` puts in its place."""
    assert argument.annotation is not None
    if text.of(argument.annotation).endswith(" | None"):
        end = text.span(argument.annotation)[1]
        yield Edit(end - len(" | None"), end, "")
    for node in ast.walk(function):
        value = node.value if isinstance(node, ast.Assign) else None
        if (
            isinstance(node, ast.Assign)
            and _is_default(value, argument.arg)
            and text.of(node.targets[0]) == argument.arg
        ):
            yield text.cut(node)
        elif isinstance(node, ast.Call | ast.keyword):
            parts = node.args if isinstance(node, ast.Call) else [node.value]
            yield from (Edit(*text.span(part), argument.arg) for part in parts if _is_default(part, argument.arg))


def _is_default(node: ast.expr | None, name: str) -> bool:
    own = isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or) and len(node.values) == 2
    return own and isinstance(node, ast.BoolOp) and ast.unparse(node.values[0]) == name


def _given(call: ast.Call, name: str, index: int) -> ast.expr | None:
    """What a call gives for a parameter; None if nothing."""
    if any(isinstance(x, ast.Starred) for x in call.args) or any(k.arg is None for k in call.keywords):
        return ast.Call(ast.Name("unknown"), [], [])
    by_name = next((k.value for k in call.keywords if k.arg == name), None)
    return call.args[index] if index < len(call.args) else by_name


def _without(text: Text, starts: list[Any], ends: list[Any], index: int) -> Edit:
    """Take one out of a list with commas."""
    start, end = text.span(starts[index])[0], text.span(ends[index])[1]
    if index + 1 < len(starts):
        return Edit(start, text.span(starts[index + 1])[0], "")
    if index:
        return Edit(text.span(ends[index - 1])[1], end, "")
    comma = text.bytes[end : text.bytes.index(b")", end)].strip() == b","
    return Edit(start, text.bytes.index(b")", end) if comma else end, "")


def _functions(reach: Reach) -> Iterator[tuple[Item, ast.FunctionDef, bool]]:
    """Functions and methods that nobody else calls."""
    for item in reach.items:
        if isinstance(item.node, ast.FunctionDef):
            yield item, item.node, False
        for part in reach.living(item) if isinstance(item.node, ast.ClassDef) else []:
            if isinstance(part, ast.FunctionDef) and (part.name == "__init__" or not reach.is_hook(item, part.name)):
                yield item, part, True


def _calls(reach: Reach) -> dict[ast.FunctionDef, list[tuple[Item, ast.Call]]]:
    """Every function all of whose uses are calls -> these, and where they stand."""
    calls: dict[ast.FunctionDef, list[tuple[Item, ast.Call]]] = defaultdict(list)
    by_name: dict[str, list[tuple[Item, ast.FunctionDef]]] = defaultdict(list)
    lost: set[ast.FunctionDef] = {reach.roots[-1].node} if isinstance(reach.roots[-1].node, ast.FunctionDef) else set()
    for item, node, is_method in _functions(reach):
        if is_method:
            by_name[node.name].append((item, node))
        elif item in reach.roots:
            lost.add(node)
    for item in reach.items:
        for part in reach.living(item):
            called = {node.func: node for node in ast.walk(part) if isinstance(node, ast.Call)}
            libraries = set()
            for use, target, length in reach.library.uses(item, [part]):
                if not isinstance(target, Item):
                    libraries.add(use.name)
                    continue
                callee: ast.expr = use.chain[0] if length else use.node
                function = _runs(reach, target)
                if function is not None and callee in called:
                    calls[function].append((item, called[callee]))
                elif function is not None and isinstance(target.node, ast.FunctionDef):
                    lost.add(function)
            for receiver, name, call, _ in asked(part):
                for owner, method in by_name[name] if receiver not in libraries else []:
                    if name == "__init__":
                        if call is not None and owner in reach.bases(item):
                            calls[method].append((item, call))
                    elif call is None or (takes(method, call) and len(by_name[name]) > 1):
                        lost.add(method)
                    elif takes(method, call):
                        calls[method].append((item, call))
    return {function: found for function, found in calls.items() if function not in lost}


def _runs(reach: Reach, item: Item) -> ast.FunctionDef | None:
    """What a call of an item runs: the function itself, or the constructor of the class, maybe inherited."""
    if isinstance(item.node, ast.FunctionDef):
        return item.node
    own = item.methods().get("__init__", [])
    return own[0] if own else next((f for base in reach.bases(item) if (f := _runs(reach, base))), None)


# Variables


def _attribute(reach: Reach) -> Edits:
    """`self.x = constant`, where no other x is assigned anywhere."""
    stores: Counter[str] = Counter()
    for item in reach.items:
        for part in reach.living(item):
            stores.update(n.attr for n in ast.walk(part) if isinstance(n, ast.Attribute) and _is_store(n))
    for item in reach.items:
        for method in reach.living(item) if isinstance(item.node, ast.ClassDef) else []:
            if not isinstance(method, ast.FunctionDef) or method.name != "__init__":
                continue
            for target, value in _assignments(method):
                name = target.attr if isinstance(target, ast.Attribute) else ""
                if stores[name] != 1 or constant(value) is UNKNOWN:
                    continue
                edits: Edits = {}
                for other in reach.items:
                    if reach.is_related(item, other):
                        reads = [n for part in reach.living(other) for n in ast.walk(part) if _is_own(n, name)]
                        if any(other.text.of(n) != f"self.{name}" for n in reads):
                            break
                        if reads:
                            edits[other] = [Edit(*other.text.span(n), repr(constant(value))) for n in reads]
                else:
                    if edits:
                        return edits
    return {}


def _is_store(node: ast.Attribute) -> bool:
    return not isinstance(node.ctx, ast.Load)


def _is_own(node: ast.AST, name: str) -> bool:
    own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return own and isinstance(node, ast.Attribute) and node.attr == name and not _is_store(node)


def _local(reach: Reach) -> Edits:
    """`x = constant` in a function's own block, where x is not assigned again."""
    for item in reach.items:
        for function in [item.node] if isinstance(item.node, ast.FunctionDef) else reach.living(item):
            if not isinstance(function, ast.FunctionDef):
                continue
            stored = _stored(function)
            for target, value in _assignments(function):
                if isinstance(target, ast.Name) and stored[target.id] == 1 and constant(value) is not UNKNOWN:
                    reads = _reads(item.text, function, target.id, constant(value))
                    if reads:
                        return {item: reads}
    return {}


def _assignments(function: ast.FunctionDef) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Targets and values of the function's own block, of tuples each for itself."""
    for statement in function.body:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            yield statement.target, statement.value
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], statement.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                yield from zip(target.elts, value.elts, strict=True)
            else:
                yield target, value
