"""What of a small module is reached, and what is left of it."""

from __future__ import annotations

import re
import textwrap

import pytest

from rlsuite.export.constants import settle
from rlsuite.export.modules import Library
from rlsuite.export.shake import Reach

CASES = {
    "methods that somebody asks for, and their headings": (
        """
        class A:
            # Reading

            def read(self):
                return self._line()

            # about the line
            def _line(self):
                return 1

            # Writing

            def write(self):
                return self._line()

        def train():
            return A().read()
        """,
        """
        class A:
            # Reading

            def read(self):
                return self._line()

            # about the line
            def _line(self):
                return 1

        def train():
            return A().read()
        """,
    ),
    "what an object is asked for after isinstance counts for its class, or for all others": (
        """
        class A:
            def one(self):
                return 1

            def two(self):
                return 2

        class B:
            def two(self):
                return 4

            def one(self):
                return 3

        def train(x):
            if isinstance(x, A):
                return x.one()
            return x.two(), A(), B()
        """,
        """
        class A:
            def one(self):
                return 1

        class B:
            def two(self):
                return 4

        def train(x):
            if isinstance(x, A):
                return x.one()
            return x.two(), A(), B()
        """,
    ),
    "what self is asked for counts for its relatives alone": (
        """
        class A:
            def go(self):
                return self.step()

            def step(self):
                return 1

        class B:
            def step(self):
                return 2

        def train():
            return A().go(), B()
        """,
        """
        class A:
            def go(self):
                return self.step()

            def step(self):
                return 1

        class B:
            pass

        def train():
            return A().go(), B()
        """,
    ),
    "not what could not be called so": (
        """
        class A:
            def split(self, fraction, rng):
                return 1

        def train(text):
            return A(), text.split(",")
        """,
        """
        class A:
            pass

        def train(text):
            return A(), text.split(",")
        """,
    ),
    "not what every object replaces": (
        """
        class A:
            def go(self):
                return self.step()

            def step(self):
                return 1

        class B(A):
            def step(self):
                return 2

        def train():
            return B().go()
        """,
        """
        class A:
            def go(self):
                return self.step()

        class B(A):
            def step(self):
                return 2

        def train():
            return B().go()
        """,
    ),
    "but what it asks super for": (
        """
        class A:
            def go(self):
                return 1

        class B(A):
            def go(self):
                return super().go()

        def train():
            return B().go()
        """,
        None,
    ),
    "what is only written, unless it may be seen elsewhere": (
        """
        class A:
            def __init__(self, shared, rng):
                self.name, self.size = "a", 2
                self.count = 0
                self.total = shared
                self.drawn = rng.random()

            def go(self):
                self.count += 1
                self.total += self.size
                unused = self.size
                return 1

        def train(shared, rng):
            return A(shared, rng).go()
        """,
        """
        class A:
            def __init__(self, shared, rng):
                self.size = 2
                self.total = shared
                self.drawn = rng.random()

            def go(self):
                self.total += self.size
                return 1

        def train(shared, rng):
            return A(shared, rng).go()
        """,
    ),
    "but what another library may look at": (
        """
        from torch import nn

        class A(nn.Module):
            def __init__(self, part):
                self.part = part
                self.name = ["a"]

            def forward(self, x):
                return x

        def train(part, x):
            return A(part)(x)
        """,
        """
        class A(nn.Module):
            def __init__(self, part):
                self.part = part

            def forward(self, x):
                return x

        def train(part, x):
            return A(part)(x)
        """,
    ),
    "a parameter that is the same in every call": (
        """
        def f(x, flag=False):
            return x if flag else g(x, mode="a")

        def g(x, mode="b"):
            return x + 1 if mode == "a" else x

        def train(x):
            return f(x), f(x, False)
        """,
        """
        def f(x):
            return g(x)

        def g(x):
            return x + 1

        def train(x):
            return f(x), f(x)
        """,
    ),
    "but not in a function that is handed on": (
        """
        def f(x, flag=False):
            return flag

        def train(x):
            return f(x), map(f, x, x)
        """,
        None,
    ),
    "nor in a method that is handed on, or that another class has, too": (
        """
        class A:
            def f(self, x, flag=False):
                return flag

            def g(self, x, flag=False):
                return flag

        class B:
            def g(self, x, flag=True):
                return flag

        def train(x):
            return A().f(x), map(A().f, x, x), A().g(x), B().g(x)
        """,
        None,
    ),
    "nor one that differs, or comes from outside": (
        """
        def f(x, flag=False, other=True):
            return flag, other

        def train(x, given):
            return f(x), f(x, True, *given), f(x, other=x)
        """,
        None,
    ),
    "a parameter that is not read": (
        """
        def f(x, y):
            return x

        def train(x):
            return f(x, x.size)
        """,
        """
        def f(x):
            return x

        def train(x):
            return f(x)
        """,
    ),
    "a variable that is set once": (
        """
        def train(x):
            kind, other = "a", "b"
            other = x
            return 1 if kind == "a" else other
        """,
        """
        def train(x):
            return 1
        """,
    ),
    "an attribute that is set once": (
        """
        class A:
            def __init__(self, flag=True):
                self.flag = flag
                self.open = False

            def go(self):
                self.open = True
                return (1 if self.flag else 2), self.open

        def train():
            return A().go()
        """,
        """
        class A:
            def __init__(self):
                self.open = False

            def go(self):
                self.open = True
                return 1, self.open

        def train():
            return A().go()
        """,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_reach(case, tmp_path):
    source, expected = (textwrap.dedent(text).strip() if text else text for text in CASES[case])
    path = tmp_path / "small.py"
    path.write_text(source + "\n")
    library = Library({}, {})
    module = library.load("small", path)
    reach = Reach(library, [module.items["train"]])
    while reach.drop_unread() or settle(reach):
        reach.find()
    reach.shorten()
    left = [item.source for item in dict.fromkeys(module.items.values()) if item in reach.items]
    assert [part.strip() for part in left] == re.split(r"\n\n(?=\S)", expected or source)
