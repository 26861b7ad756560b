"""Branches that are known not to be taken go, and everything else stays as it was written."""

from __future__ import annotations

import doctest

import pytest

from rlsuite.export import simplify as module
from rlsuite.export.simplify import simplify

CASES = {
    "a branch, with its comments": (
        "def f(x):\n    a()  # first\n    # about it\n    if late:\n        # inside\n        b()\n    return x\n",
        {"late": False},
        "def f(x):\n    a()  # first\n    return x\n",
    ),
    "the taken branch moves to the left, but not its texts": (
        'if early:\n    x = """a\n    b"""\n    # kept\n    y = 1\n',
        {"early": True},
        'x = """a\n    b"""\n# kept\ny = 1\n',
    ),
    "what follows a return": (
        "def f():\n    if early:\n        return 1\n    b()\n    return 2\n",
        {"early": True},
        "def f():\n    return 1\n",
    ),
    "the first of a chain": (
        "if a:\n    f()\nelif b:\n    g()\nelse:\n    h()\n",
        {"a": False},
        "if b:\n    g()\nelse:\n    h()\n",
    ),
    "the middle of a chain": (
        "if a:\n    f()\nelif b:\n    g()\nelse:\n    h()\n",
        {"b": False},
        "if a:\n    f()\nelse:\n    h()\n",
    ),
    "the end of a chain": (
        "if a:\n    f()\nelif b:\n    g()\nelse:\n    h()\n",
        {"b": True},
        "if a:\n    f()\nelse:\n    g()\n",
    ),
    "the only statement": ("def f():\n    if late:\n        g()\n", {"late": False}, "def f():\n    pass\n"),
    "an assertion": ("def f(x):\n    assert x.y\n    return x\n", {"x.y": True}, "def f(x):\n    return x\n"),
    "a part of a condition": (
        "x = a and (b or c) and d\n",
        {"a": True},
        "x = (b or c) and d\n",
    ),
    "a default at the end of an or stays": ("x = shape or ()\n", {}, "x = shape or ()\n"),
    "a comparison with something known": (
        'x = f(1 if c.kind == "a" else 2, c.kind)\n',
        {"c.kind": "b"},
        "x = f(2, 'b')\n",
    ),
    "an assignment to something known": ("self.late = f(self.late)\n", {"self.late": False}, "self.late = f(False)\n"),
    "parentheses of an expression and of a call": (
        "x = (a if late else b) / 2 + f(a if late else b)\n",
        {"late": False},
        "x = b / 2 + f(b)\n",
    ),
    "a value within a text": (
        "x = f\"--kind {c.kind} of {c.other!r}\"\n",
        {"c.kind": "a"},
        "x = f\"--kind a of {c.other!r}\"\n",
    ),
    "letters of more than one byte": ("x = 'ä' + (a if late else b)\n", {"late": False}, "x = 'ä' + b\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_simplify(case):
    source, facts, expected = CASES[case]
    assert simplify(source, facts) == expected


def test_the_examples_of_the_module():
    assert doctest.testmod(module).failed == 0
