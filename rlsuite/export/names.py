"""Which names of a piece of source mean something outside of it, and which attributes it asks objects for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Use(NamedTuple):
    """A global name, with the attributes that are asked of it: `ppo.PRESETS` is ("ppo", ("PRESETS",))."""

    name: str
    attributes: tuple[str, ...]
    node: ast.Name
    chain: tuple[ast.Attribute, ...]  # the nodes of the attributes


def uses(tree: ast.AST) -> Iterator[Use]:
    """Every read of a name that is not local where it stands."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in _globals(tree, frozenset()):
        chain: list[ast.Attribute] = []
        above = parents.get(node)
        while isinstance(above, ast.Attribute):
            chain.append(above)
            above = parents.get(above)
        yield Use(node.id, tuple(a.attr for a in chain), node, tuple(chain))


def _globals(node: ast.AST, local: frozenset[str]) -> Iterator[ast.Name]:
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load) and node.id not in local:
            yield node
        return
    if isinstance(node, Function):
        inner = local | _bound(node)
        body = node.body if isinstance(node.body, list) else [node.body]
        outside = [node.args, getattr(node, "returns", None), *getattr(node, "decorator_list", [])]
        for part in filter(None, outside):
            yield from _globals(part, local)
        for part in body:
            yield from _globals(part, inner)
        return
    if isinstance(node, COMPREHENSIONS):
        targets = {n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
        local = local | targets
    for child in ast.iter_child_nodes(node):
        yield from _globals(child, local)


def _bound(function: Function) -> frozenset[str]:
    """Parameters and everything that is assigned in the function itself."""
    a = function.args
    names = {arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if arg is not None}
    todo: list[ast.AST] = list(function.body) if isinstance(function.body, list) else []
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif not isinstance(node, (ast.Lambda, *COMPREHENSIONS)):
            todo += ast.iter_child_nodes(node)
    return frozenset(names)


class Asked(NamedTuple):
    """An attribute that is read from an object."""

    receiver: str  # "self", "super", another name, or "" for an expression
    name: str
    call: ast.Call | None  # if it is called there and then
    kind: tuple[str, bool] | None = None  # a class that the receiver is, or is not, an object of


def asked(tree: ast.AST) -> Iterator[Asked]:
    """What a piece of source asks objects for. What it asks of a literal, as in `", ".join`, is left out."""
    calls = {node.func: node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    kinds = _kinds(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            value = node.value
            while isinstance(value, ast.Attribute):
                value = value.value
            if isinstance(value, ast.Constant | ast.JoinedStr):
                continue
            root = value.id if isinstance(value, ast.Name) else ""
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "super":
                root = "super" if value is node.value else ""
            elif root == "self" and value is not node.value:
                root = ""
            yield Asked(root, node.attr, calls.get(node), kinds.get(node.value))
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("getattr", "hasattr")
            and isinstance(node.args[1], ast.Constant)
        ):
            yield Asked("", str(node.args[1].value), None)


def _kinds(tree: ast.AST) -> dict[ast.AST, tuple[str, bool]]:
    """Reads of a name of which `isinstance(name, Class)` was asked: within that `if`, and below it if it returns."""
    kinds: dict[ast.AST, tuple[str, bool]] = {}
    for node in ast.walk(tree):
        block: list[ast.stmt] = node.body if isinstance(node, ast.FunctionDef | ast.If) else []
        for i, branch in enumerate(block):
            test = branch.test if isinstance(branch, ast.If) else None
            if not isinstance(branch, ast.If) or not isinstance(test, ast.Call):
                continue
            if ast.unparse(test.func) == "isinstance" and all(isinstance(x, ast.Name) for x in test.args):
                name, kind = map(ast.unparse, test.args)
                below = block[i + 1 :] if isinstance(branch.body[-1], ast.Return) else []
                for parts, known in ((branch.body, True), (branch.orelse + below, False)):
                    found = [n for p in parts for n in ast.walk(p) if isinstance(n, ast.Name) and n.id == name]
                    if all(isinstance(n.ctx, ast.Load) for n in found):
                        kinds |= dict.fromkeys(found, (kind, known))
    return kinds


def takes(method: ast.FunctionDef, call: ast.Call) -> bool:
    """Whether a method could be called so, by the number and the names of the arguments."""
    if any(isinstance(argument, ast.Starred) for argument in call.args) or any(k.arg is None for k in call.keywords):
        return True
    a = method.args
    plain = [arg.arg for arg in (*a.posonlyargs, *a.args)]
    if not any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in method.decorator_list):
        plain = plain[1:]
    required = plain[: max(0, len(plain) - len(a.defaults))]
    given = {k.arg for k in call.keywords}
    named = {*plain, *(arg.arg for arg in a.kwonlyargs)}
    if (len(call.args) > len(plain) and a.vararg is None) or (given - named and a.kwarg is None):
        return False
    return set(required[len(call.args) :]) <= given


def unread(function: ast.FunctionDef) -> set[str]:
    """Local names that are assigned in a function and never read; `x += 1` reads x, which may be an array."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    names += [ast.Name(ast.unparse(node.target)) for node in ast.walk(function) if isinstance(node, ast.AugAssign)]
    shared = {name for node in ast.walk(function) if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}
    read = {node.id for node in names if not isinstance(getattr(node, "ctx", None), ast.Store)}
    return {node.id for node in names} - read - shared
