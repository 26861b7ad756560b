"""Source text without the branches that are known not to be taken; what is left keeps its comments and its layout.

>>> print(simplify("if fast(x) and ready:\\n    a()\\nelse:\\n    b()\\n", {"fast(x)": True}), end="")
if ready:
    a()
else:
    b()
>>> print(simplify("y = 1 if x is None else x\\n", {"x is None": False}), end="")
y = x
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

Facts = Mapping[str, Any]  # an expression as `ast.unparse` spells it -> its value
UNKNOWN = object()
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
LITERAL = re.compile(r"\{'([\w ]+)'\}")  # within an f-string
BLOCKS = ("body", "orelse", "finalbody")


class Edit(NamedTuple):
    """Bytes from `start` to `end` become `text`."""

    start: int
    end: int
    text: str


class Text:
    """Source, its tree, and where in the one a node of the other stands."""

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self.bytes = source.encode()
        self.lines = self.bytes.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def span(self, node: ast.AST) -> tuple[int, int]:
        n = cast(ast.expr, node)
        assert n.end_lineno is not None and n.end_col_offset is not None
        return self.starts[n.lineno - 1] + n.col_offset, self.starts[n.end_lineno - 1] + n.end_col_offset

    def of(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.bytes[start:end].decode()

    def with_edits(self, edits: list[Edit]) -> str:
        """None of them may lie within another."""
        parts, at = [], 0
        for start, end, text in sorted(edits):
            assert start >= at, "edits overlap"
            parts += [self.bytes[at:start], text.encode()]
            at = end
        return b"".join([*parts, self.bytes[at:]]).decode()

    # Whole lines

    def first_line(self, statement: ast.stmt) -> int:
        """The line, from 0, where a statement begins with its decorators and the comments that stand right above it."""
        decorators = getattr(statement, "decorator_list", [])
        line: int = min([statement.lineno, *(d.lineno for d in decorators)]) - 1
        while line and self.lines[line - 1].lstrip().startswith(b"#") and not self._is_code(line - 1):
            line -= 1
        return line

    def _is_code(self, line: int) -> bool:
        """Whether what begins with # stands within a string."""
        return any(
            isinstance(node, ast.Constant) and isinstance(node.value, str) and node.lineno - 1 <= line < node.end_lineno
            for node in ast.walk(self.tree)
            if hasattr(node, "end_lineno") and node.end_lineno is not None
        )

    def cut(self, statement: ast.stmt, text: str = "") -> Edit:
        """Replace a statement and its comments."""
        assert statement.end_lineno is not None
        return Edit(self.starts[self.first_line(statement)], self.starts[statement.end_lineno], text)


def simplify(source: str, facts: Facts) -> str:
    """`source` without what `facts` decide. Raises SyntaxError if it is no Python."""
    while True:
        text = Text(source)
        edit = next(_edits(text, facts), None)
        if edit is None:
            return source
        source = text.with_edits([edit])


def known(node: ast.expr, facts: Facts) -> Any:
    """The value of an expression, or UNKNOWN."""
    if isinstance(node, ast.Constant):
        return node.value
    if facts and (spelt := ast.unparse(node)) in facts:
        return facts[spelt]
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        values = [known(element, facts) for element in node.elts]
        return UNKNOWN if UNKNOWN in values else tuple(values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        value = known(node.operand, facts)
        return value if value is UNKNOWN else not value
    if isinstance(node, ast.BoolOp):
        values = [known(part, facts) for part in node.values]
        decides = isinstance(node.op, ast.Or)
        for value in values:
            if value is not UNKNOWN and bool(value) is decides:
                return decides
        return UNKNOWN if UNKNOWN in values else not decides
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):  # 1 + config.twin
        values = [known(part, facts) for part in (node.left, node.right)]
        return sum(values) if all(isinstance(value, int) for value in values) else UNKNOWN
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = known(node.left, facts), known(node.comparators[0], facts)
        if left is not UNKNOWN and right is not UNKNOWN:
            return COMPARISONS[type(node.ops[0])](left, right)
    return UNKNOWN


def _edits(text: Text, facts: Facts) -> Iterator[Edit]:
    for node in ast.walk(text.tree):
        for name in BLOCKS:
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield from _block_edits(text, block, facts, can_be_empty=name != "body")
    for node in ast.walk(text.tree):
        yield from _expression_edits(text, node, facts)


def _block_edits(text: Text, block: list[ast.stmt], facts: Facts, can_be_empty: bool) -> Iterator[Edit]:
    for i, statement in enumerate(block):
        nothing = "" if len(block) > 1 or can_be_empty else " " * statement.col_offset + "pass\n"
        if isinstance(statement, ast.If):
            value = known(statement.test, facts)
            if value is not UNKNOWN:
                yield _decided(text, statement, bool(value), nothing)
        elif isinstance(statement, ast.Assert):
            if known(statement.test, facts) not in (UNKNOWN, False):
                yield text.cut(statement, nothing)
        elif isinstance(statement, ast.Return | ast.Raise | ast.Continue | ast.Break) and i + 1 < len(block):
            end = block[-1].end_lineno
            assert statement.end_lineno is not None and end is not None
            yield Edit(text.starts[statement.end_lineno], text.starts[end], "")


def _decided(text: Text, statement: ast.If, taken: bool, nothing: str) -> Edit:
    """Put a branch in the place of an `if` or `elif` statement."""
    assert statement.end_lineno is not None
    begin, end = text.starts[statement.lineno - 1], text.starts[statement.end_lineno]
    indent = " " * statement.col_offset
    otherwise = statement.orelse
    last = statement.body[-1].end_lineno
    assert last is not None
    chained = bool(otherwise) and text.of(otherwise[0]).startswith("elif")
    if text.bytes[begin:end].lstrip().startswith(b"elif"):
        if taken:
            return Edit(begin, end, f"{indent}else:\n" + _lines(text, _after_colon(text, statement), last))
        return Edit(begin, text.starts[last], "")
    if taken:
        kept = _lines(text, _after_colon(text, statement), last, 4)
    elif chained:
        rest = text.starts[otherwise[0].lineno - 1]
        kept = text.bytes[rest:end].decode().replace("elif", "if", 1)
    elif otherwise:
        final = otherwise[-1].end_lineno
        assert final is not None
        first = text.first_line(otherwise[0])
        kept = _lines(text, first, final, 4)
    else:
        return text.cut(statement, nothing)
    return Edit(begin, end, kept)


def _after_colon(text: Text, statement: ast.If) -> int:
    """The line, from 0, below the condition."""
    assert statement.test.end_lineno is not None
    line = statement.test.end_lineno - 1
    while not text.lines[line].split(b"#")[0].rstrip().endswith(b":"):
        line += 1
    return line + 1


def _lines(text: Text, first: int, end: int, dedent: int = 0) -> str:
    """Lines, from 0, `first` to `end`, moved to the left except within strings."""
    inside: set[int] = set()
    for node in ast.walk(text.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.end_lineno is not None:
            inside.update(range(node.lineno, node.end_lineno))
    lines = [
        line if k in inside else line.removeprefix(b" " * dedent) for k, line in enumerate(text.lines[first:end], first)
    ]
    return b"".join(lines).decode()


def _expression_edits(text: Text, node: ast.AST, facts: Facts) -> Iterator[Edit]:
    if isinstance(node, ast.IfExp) and (value := known(node.test, facts)) is not UNKNOWN:
        yield _without_parentheses(text, node, node.body if value else node.orelse)
    elif isinstance(node, ast.JoinedStr):
        start, end = text.span(node)
        spelt = text.bytes[start:end].decode()
        if (plain := LITERAL.sub(r"\1", spelt)) != spelt:
            yield Edit(start, end, plain)
    elif isinstance(node, ast.BoolOp):
        parts, values = node.values, [known(part, facts) for part in node.values]
        if (value := known(node, facts)) is not UNKNOWN:
            yield Edit(*text.span(node), repr(value))
        elif any(
            droppable := [
                value is not UNKNOWN and not _matters(part, node) for part, value in zip(parts, values, strict=True)
            ]
        ):
            word = " and " if isinstance(node.op, ast.And) else " or "
            left = [part for part, drop in zip(parts, droppable, strict=True) if not drop]
            loose = (ast.BoolOp, ast.IfExp, ast.Lambda, ast.NamedExpr) if len(left) > 1 else ()
            words = word.join(f"({text.of(part)})" if isinstance(part, loose) else text.of(part) for part in left)
            yield _without_parentheses(text, node, left[0]) if len(left) == 1 else Edit(*text.span(node), words)
    elif isinstance(node, ast.BinOp):
        if (value := known(node, facts)) is not UNKNOWN:
            yield Edit(*text.span(node), repr(value))
    elif isinstance(node, ast.Name | ast.Attribute | ast.Compare | ast.Call) and _is_fact(node, facts):
        yield Edit(*text.span(node), repr(facts[ast.unparse(node)]))


def _without_parentheses(text: Text, node: ast.expr, part: ast.expr) -> Edit:
    """Put a part in the place of a node, and of parentheses around it that are no call's."""
    start, end = text.span(node)
    before, after = text.bytes[:start], text.bytes[end:]
    loose = before.endswith(b"(") and after.startswith(b")") and not re.search(rb"[\w)\]]\($", before)
    if loose and isinstance(part, ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Constant):
        start, end = start - 1, end + 1
    return Edit(start, end, text.of(part))


def _matters(part: ast.expr, node: ast.BoolOp) -> bool:
    """Whether a known part may be the value of the whole: what stands last, as in `x or ()`."""
    return part is node.values[-1] and isinstance(part, ast.Constant | ast.Tuple | ast.List)


def _is_fact(node: ast.expr, facts: Facts) -> bool:
    """Whether something is known that is not assigned here."""
    return isinstance(getattr(node, "ctx", ast.Load()), ast.Load) and ast.unparse(node) in facts
