"""What is there for the package's type checker, or about parameters that are gone, is left out of an exported file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from rlsuite.export.simplify import Edit, Text

ENTRY = re.compile(r"^    (\w+(?:, \w+)*): ")  # of a docstring's "Args:"


def tidy(source: str) -> str:
    r"""A definition without variables that are only there to be returned, declarations, and entries of lost parameters.

    >>> print(tidy("def f(x):\n    y: float = g(x)\n    return y\n"), end="")
    def f(x):
        return g(x)
    """
    text = Text(source)
    return text.with_edits([*_declarations(text), *_returned(text), *_entries(text)])


def _blocks(text: Text) -> Iterator[list[ast.stmt]]:
    """Of functions, and within them."""
    for node in ast.walk(text.tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and not isinstance(node, ast.ClassDef | ast.Module):
            yield body


def _declarations(text: Text) -> Iterator[Edit]:
    """`self.mean: Tensor`"""
    for body in _blocks(text):
        for statement in body if len(body) > 1 else []:
            if isinstance(statement, ast.AnnAssign) and statement.value is None:
                yield text.cut(statement)


def _returned(text: Text) -> Iterator[Edit]:
    """`x: Array = f(); return x`, without comments between the two."""
    for body in _blocks(text):
        one, two = body[-2:] if len(body) > 1 else (None, None)
        if isinstance(one, ast.AnnAssign) and one.value is not None and isinstance(two, ast.Return) and two.value:
            start, end = text.span(one)[0], text.span(two)[1]
            if text.of(one.target) == text.of(two.value) and b"#" not in text.bytes[text.span(one)[1] : end]:
                yield Edit(start, end, f"return {text.of(one.value)}")


def _entries(text: Text) -> Iterator[Edit]:
    """Lines of the docstring of a class, below "Args:", about what its constructor does not take any more."""
    node = text.tree.body[0]
    if not isinstance(node, ast.ClassDef) or "    Args:\n" not in (ast.get_docstring(node, clean=False) or ""):
        return
    made = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
    if not made:
        return
    taken = {argument.arg for argument in made[0].args.args}
    first, last = node.body[0].lineno, node.body[0].end_lineno
    entry = False
    for number in range(first, last or first):
        line = text.lines[number].decode()
        if found := ENTRY.match(line.removeprefix("    ")):
            entry = not taken & set(found[1].split(", "))
        elif not line.startswith("            "):
            entry = False
        if entry:
            yield Edit(text.starts[number], text.starts[number + 1], "")


def merged(own: Text, base: Text) -> str | None:
    r"""A dataclass that is built on another one, as one that stands alone; None where more than fields would move.

    >>> base = Text("@dataclass\nclass A:\n    x: int = 1\n    y: int = 2\n")
    >>> print(merged(Text("@dataclass\nclass B(A):\n    x: int = 3\n"), base), end="")
    @dataclass
    class B:
        x: int = 3
        y: int = 2
    """
    (old,), (new,) = base.tree.body, own.tree.body
    assert isinstance(old, ast.ClassDef) and isinstance(new, ast.ClassDef)
    if list(map(ast.unparse, old.decorator_list)) != list(map(ast.unparse, new.decorator_list)) or old.bases:
        return None
    parts: dict[str, str] = {}
    for text, node in ((base, old), (own, new)):
        body = [part for part in node.body if not (isinstance(part, ast.Pass) or part is _docstring(node))]
        starts = [text.starts[text.first_line(part)] for part in body] + [text.starts[node.end_lineno or 0]]
        name = ""
        for part, start, end in zip(body, starts, starts[1:], strict=False):
            source = text.bytes[start:end].decode()
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                name = part.target.id
                parts[name] = source
            elif isinstance(part, ast.Expr) and name:
                parts[name] += source
            elif isinstance(part, ast.FunctionDef) and (part.name not in parts):
                parts[part.name] = source
            else:
                return None
    methods = {m.name for node in (old, new) for m in node.body if isinstance(m, ast.FunctionDef)}
    fields = [source.rstrip() for name, source in parts.items() if name not in methods]
    head = own.bytes[: own.starts[new.lineno - 1]].decode() + f"class {new.name}:\n"
    docstring = _docstring(new) or _docstring(old)
    if docstring is not None:
        whose = own if docstring in new.body else base
        fields.insert(0, f"    {whose.of(docstring)}\n")
    return head + "\n".join([*fields, *(f"\n{parts[name].rstrip()}" for name in parts if name in methods)]) + "\n"


def _docstring(node: ast.ClassDef) -> ast.stmt | None:
    return node.body[0] if ast.get_docstring(node) is not None else None
