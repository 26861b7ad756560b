"""The form of an algorithm file: what a reader may rely on wherever he opens one.

Docstring (paper, idea, equations, how to run it), `Config` with a line on every field, `PRESETS`, networks, the agent
(the class that updates them), `train(config, run)`, and the call that makes the file a command.
"""

from __future__ import annotations

import ast
from itertools import pairwise

SECTIONS = ("Config", "PRESETS", "the networks", "the agent", "train")


def departures(source: str) -> list[str]:
    """What the source of an algorithm file lacks of the form, as ends of sentences that begin with its name."""
    tree = ast.parse(source)
    found = []
    if not ast.get_docstring(tree):
        found.append("has no docstring; say there what the method is and how to run it.")
    found += [f"does not say what `{name}` of {cls} is; write a line of text below it." for cls, name in _silent(tree)]
    order = [_section(node) for node in tree.body]
    present = [name for name in order if name]
    for before, after in pairwise(present):
        if SECTIONS.index(before) > SECTIONS.index(after):
            found.append(f"has {before} before {after}; the order is {', '.join(SECTIONS)}.")
    if "train" in present and [node for node in tree.body[order.index("train") + 1 :] if not isinstance(node, ast.If)]:
        found.append("goes on after `train`; put it last.")
    if not any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body):
        found.append("is no command of its own; end it as the package's files do, with `if __name__ == ...`.")
    return found


def _silent(tree: ast.Module) -> list[tuple[str, str]]:
    """(class, field) of the fields of `Config`, and of dataclasses that it is built on here, without a line of text."""
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    todo, found = ["Config"], []
    while todo:
        node = classes.get(todo.pop())
        if node is None:
            continue
        todo += [base.id for base in node.bases if isinstance(base, ast.Name)]
        for statement, following in pairwise([*node.body, ast.Pass()]):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                text = following.value if isinstance(following, ast.Expr) else None
                if not (isinstance(text, ast.Constant) and isinstance(text.value, str) and text.value.strip()):
                    found.append((node.name, statement.target.id))
    return found


def is_agent(node: ast.ClassDef) -> bool:
    """Whether a class has methods such as `update` and `update_actor`."""
    return any(isinstance(f, ast.FunctionDef) and f.name.split("_")[0] == "update" for f in node.body)


def _section(node: ast.stmt) -> str:
    """Which of `SECTIONS` a statement of the file is; empty for what may stand anywhere."""
    if isinstance(node, ast.ClassDef):
        if node.name == "Config":
            return "Config"
        if any(ast.unparse(base).endswith("Module") for base in node.bases):
            return "the networks"
        return "the agent" if is_agent(node) else ""
    if isinstance(node, ast.FunctionDef):
        return "train" if node.name == "train" else ""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return "PRESETS" if any(ast.unparse(target) == "PRESETS" for target in targets) else ""
