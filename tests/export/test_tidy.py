"""What only the type checker needs goes, and nothing else."""

from __future__ import annotations

import doctest

import pytest

from rlsuite.export import tidy as module
from rlsuite.export.simplify import Text
from rlsuite.export.tidy import merged, tidy

CASES = {
    "a variable that is only returned": (
        "def f(x):\n    if x:\n        y: int = g(x)\n        return y\n    return 0\n",
        "def f(x):\n    if x:\n        return g(x)\n    return 0\n",
    ),
    "not without an annotation": ("def f(x):\n    y = g(x)\n    return y\n", None),
    "nor one with a comment": ("def f(x):\n    y: int = g(x)  # why\n    return y\n", None),
    "nor another one": ("def f(x):\n    y: int = g(x)\n    return x\n", None),
    "declarations in functions": (
        "class A:\n    x: int\n\n    def f(self):\n        self.y: int\n        self.y = g()\n",
        "class A:\n    x: int\n\n    def f(self):\n        self.y = g()\n",
    ),
    "entries of parameters that are gone": (
        'class A:\n    """A.\n\n    Args:\n        x: this\n        y, z: that,\n            longer\n        w: those\n'
        '    """\n\n'
        "    def __init__(self, x, w):\n        pass\n",
        'class A:\n    """A.\n\n    Args:\n        x: this\n        w: those\n    """\n\n'
        "    def __init__(self, x, w):\n        pass\n",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_tidy(case):
    source, expected = CASES[case]
    assert tidy(source) == (expected or source)


BASE = '''@dataclass
class A:
    """A."""

    x: int = 1
    """one"""
    y: int = 2

    def f(self):
        pass
'''


def test_fields_come_first_and_methods_last():
    text = merged(Text("@dataclass\nclass B(A):\n    # Why.\n    y: int = 3\n    z: int = 4\n"), Text(BASE))
    fields = '    x: int = 1\n    """one"""\n    # Why.\n    y: int = 3\n    z: int = 4\n'
    assert text == f'@dataclass\nclass B:\n    """A."""\n\n{fields}\n    def f(self):\n        pass\n'


@pytest.mark.parametrize(
    "own",
    [
        "@dataclass(frozen=True)\nclass B(A):\n    y: int = 3\n",
        "@dataclass\nclass B(A):\n    def f(self):\n        super().f()\n",
        "@dataclass\nclass B(A):\n    y = 3\n",
    ],
)
def test_what_is_more_than_fields_stays_two_classes(own):
    assert merged(Text(own), Text(BASE)) is None


def test_the_examples_of_the_module():
    assert doctest.testmod(module).failed == 0


def test_a_base_that_is_built_on_another_one_stays():
    base = Text(BASE.replace("class A:", "class A(O):"))
    assert merged(Text("@dataclass\nclass B(A):\n    y: int = 3\n"), base) is None
