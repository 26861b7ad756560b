"""The house has floors: imports point one way, and an algorithm file imports little."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import rlsuite
from rlsuite.harness.form import departures

ROOT = Path(rlsuite.__file__).parent
ALLOWED = {  # room -> the rooms it may import from
    "errors": set(),
    "kernels": {"errors"},
    "data": {"errors", "kernels", "__init__"},
    "harness": {"errors", "kernels", "data", "algorithms", "__init__"},
    "algorithms": {"errors", "kernels", "data", "harness", "cli"},
    "bench": {"errors", "data", "harness", "__init__"},
    "certify": {"errors", "data", "harness", "algorithms", "cli"},
    "check": {"errors", "data", "harness", "bench"},
    "export": {"errors", "kernels", "data", "harness", "__init__"},
}
# The harness finds algorithms by name, without importing one; a file's __main__ calls the command line.
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem == "errors")


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether at top level) for every import statement."""
    tree = ast.parse(path.read_text())
    top = set(tree.body)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            names = [f"{node.module}.{alias.name}" if node.module == "rlsuite" else node.module for alias in node.names]
            found += [(name, node in top) for name in names]
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__version__" else "__init__"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_one_way(path):
    here = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for module, at_top in imports(path):
        if not module.startswith("rlsuite") or module.startswith("rlsuite_envs"):
            continue
        there = room(module)
        assert there == here or there in ALLOWED[here], f"{path} imports {module}"
        # A method may be built on another, and certificates stand in the file of theirs.
        if there == "cli" or (there == "algorithms" and here not in ("algorithms", "certify")):
            assert not at_top, f"{path} imports {module} before it is needed"


@pytest.mark.parametrize("path", sorted((ROOT / "algorithms").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_an_algorithm_file_has_the_form(path):
    text = path.read_text()
    known = {"__future__", "collections", "copy", "dataclasses", "typing", "math"}
    known |= {"torch", "numpy", "scipy", "gymnasium", "rlsuite"}
    assert {module.split(".")[0] for module, _ in imports(path)} <= known
    assert 60 <= len(text.splitlines()) <= 450
    assert "rlsuite train" in (ast.get_docstring(ast.parse(text)) or "")
    assert departures(text) == []


def test_no_two_algorithm_files_have_a_function_with_the_same_body():
    """What two methods share is below them, or imported from the one that the other is built on. (One statement, such
    as a call of what is below, may be the same.)"""
    bodies: dict[str, str] = {}
    for path in sorted((ROOT / "algorithms").glob("[a-z]*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            statements = node.body[1:] if ast.get_docstring(node) else node.body
            place = f"{node.name} of {path.stem}"
            if len(statements) > 1:
                other = bodies.setdefault("\n".join(map(ast.unparse, statements)), place)
                assert other.split()[-1] == path.stem, f"{place} is {other}"


def test_the_environments_stand_alone():
    for path in Path(__import__("rlsuite_envs").__file__).parent.glob("*.py"):
        later = {"gymnasium_robotics"}  # when such an environment is made
        for module, at_top in imports(path):
            name = module.split(".")[0]
            known = {"rlsuite_envs", "gymnasium", "mujoco", "numpy"} | sys.stdlib_module_names
            assert name in known or (name in later and not at_top), module
