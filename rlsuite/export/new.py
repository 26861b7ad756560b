"""A user's own algorithm file, begun from one of the package's."""

from __future__ import annotations

import ast
import io
import keyword
import re
import tokenize
from pathlib import Path

import rlsuite
from rlsuite.errors import UserError
from rlsuite.harness.form import is_agent

BEGUN = '''\
"""{title}: say in a sentence what it does.

Begun as a copy of {source}.py of rlsuite {version}, whose text follows; it is yours to change.

{text}    rlsuite train {place} {flags}
"""
'''
USAGE = re.compile(r"^    rlsuite train \S+ (.*)\n(?:    rlsuite .*\n)*", re.MULTILINE)


def begin(name: str, source: str, place: str) -> str:
    """The text of a new algorithm file `name`.py, to be called by the path `place`, from the package's `source`.

    The class of the agent gets the new name, and the docstring a first line to be written. Raises UserError for a name
    that cannot be that of a module, or that is taken in the package or in the file, and for an unknown source.
    """
    from rlsuite.harness.config import algorithm_names, load_algorithm

    if not name.isidentifier() or keyword.iskeyword(name):
        raise UserError(f"'{name}' cannot be the name of a Python module; take letters, digits and _, as in my_method.")
    if name in algorithm_names():
        raise UserError(
            f"{name} is one of the package's own algorithms; take another name, so that tables tell them apart."
        )
    if source.endswith(".py") or source.startswith("sb3:"):
        raise UserError(f"--from {source} is none of the package's algorithms; known: {', '.join(algorithm_names())}.")
    algorithm = load_algorithm(source)
    text = Path(str(algorithm.module.__file__)).read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstring = tree.body[0]
    assert isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant) and docstring.end_lineno
    old = str(docstring.value.value).replace("\\", "\\\\")
    usage = USAGE.search(old)
    assert usage is not None
    head = BEGUN.format(
        title=name, source=source, version=rlsuite.__version__, text=old[: usage.start()], place=place, flags=usage[1]
    )
    body = "".join(text.splitlines(keepends=True)[docstring.end_lineno :])
    agents = [node.name for node in tree.body if isinstance(node, ast.ClassDef) and is_agent(node)]
    return head + (_renamed(body, agents[0], camel(name)) if agents else body)


def camel(name: str) -> str:
    """my_method -> MyMethod"""
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def _renamed(source: str, old: str, new: str) -> str:
    """The same text with another identifier; UserError if that is one already."""
    lines = source.splitlines(keepends=True)
    names = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.NAME]
    if new in {token.string for token in names}:
        raise UserError(
            f"{new} would be the name of the agent, but something else in the file has it; take another name."
        )
    for token in reversed(names):
        if token.string == old:
            (row, column), line = token.start, lines[token.start[0] - 1]
            lines[row - 1] = line[:column] + new + line[column + len(old) :]
    return "".join(lines)
