"""`rlsuite bench` from a checked table to rows: what surrounds the engine.

A results folder gets a copy of the table, a manifest, one folder for each cell and, at the end, `rows.csv`.
"""

from __future__ import annotations

import fnmatch
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlsuite.bench import rows
from rlsuite.bench.attempt import Outcome, is_locked, peek
from rlsuite.bench.engine import Command, Engine, Place, Result, folder_of, is_due, outcome_of, train_command
from rlsuite.bench.progress import Progress
from rlsuite.bench.table import Cell, Table
from rlsuite.data.files import write_atomic
from rlsuite.errors import UserError, nearest

Prepare = Callable[[Sequence[Cell], Path], None]


def select(table: Table, patterns: Sequence[str] = ()) -> list[Cell]:
    """The cells of which some pattern (as in a shell) matches the algorithm's label, the task or the folder's name.

    Raises UserError if a pattern matches no cell.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = [
            cell.folder
            for cell in table.cells
            if any(fnmatch.fnmatchcase(name, pattern) for name in (cell.label, cell.task, cell.folder))
        ]
        if not found:
            names = {name for cell in table.cells for name in (cell.label, cell.task)}
            raise UserError(f"--only {pattern} matches no cell of {table.path.name}; {nearest(pattern, names)}")
        chosen.update(found)
    return [cell for cell in table.cells if not patterns or cell.folder in chosen]


def run_table(
    table: Table,
    results: Path,
    *,
    only: Sequence[str] = (),
    place: Place | None = None,
    jobs: int | None = None,
    timeout: float | None = None,
    retry_failed: bool = False,
    command: Command = train_command,
    prepare: Prepare | None = None,
    progress: Progress | None = None,
    invocation: str = "",
    grace: float = 20.0,
) -> Result:
    """Run what is due of a table and collect the rows of all its cells.

    `prepare` (default `check_inputs`) is given the cells that will run, before anything is written. `invocation` is the
    command line that the manifest shall name; see `Engine` for the others. Raises UserError for bad input.
    """
    chosen = select(table, only)
    due = [cell for cell in chosen if is_due(outcome_of(results, cell), retry_failed)]
    if due:
        (prepare or check_inputs)(due, table.base)
    describe(table, results, invocation, running=bool(due))
    engine = Engine(
        table, results, place=place, jobs=jobs, timeout=timeout, retry_failed=retry_failed, command=command,
        progress=progress, grace=grace,
    )  # fmt: skip
    try:
        return engine.run(chosen)
    finally:
        if all(outcome_of(results, cell).state == "finished" for cell in table.cells):
            _note_end(results)
        rows.collect(results)


def standing(table: Table, results: Path, only: Sequence[str] = ()) -> list[tuple[Cell, Outcome, bool]]:
    """Each chosen cell, its outcome so far, and whether a process runs it now. Writes nothing."""
    return [(cell, outcome_of(results, cell), is_locked(folder_of(results, cell))) for cell in select(table, only)]


def describe(table: Table, results: Path, invocation: str, running: bool) -> None:
    """Write what the folder holds: the table, the manifest, and in each cell's folder which cell it is.

    A folder whose cells are the same and where nothing will run is left as it is.
    """
    cells = [cell.identity() for cell in table.cells]
    for cell in cells:
        _write_json(results / rows.CELLS_FOLDER / cell["folder"] / "cell.json", cell)
    path = results / "manifest.json"
    old = peek(path)
    same = old.get("cells") == cells
    if not same or running:
        from rlsuite.harness.manifest import code_version, machine

        content = {
            "name": table.name,
            "title": table.title,
            "command": invocation,
            "started": old["started"] if same and old.get("started") and not old.get("finished") else _now(),
            "finished": None,
            "code_version": code_version(),
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            **machine(),
            "cells": cells,
        }
        _write_json(path, content)
    copy = results / "table.toml"
    if not copy.exists() or copy.read_text(encoding="utf-8") != table.text:
        write_atomic(copy, table.text.encode())


def check_inputs(cells: Sequence[Cell], base: Path) -> None:
    """Load every dataset that the cells need, which builds or fetches what is missing, and open every environment.

    Raises UserError where that fails, and where the spaces of a dataset and of its environment differ.
    """
    from rlsuite import data
    from rlsuite.data.cli import build_progress
    from rlsuite.harness.environments import make_slots
    from rlsuite.harness.run import match_spaces

    needs = {_need(cell) for cell in cells}
    with inside(base):
        # The largest part of a dataset first: the smaller ones are cut from it.
        for dataset, steps, env in sorted(needs, key=lambda need: (need[0], -need[1] if need[1] else float("-inf"))):
            if dataset:
                print(f"dataset {dataset}{f', {steps:,} transitions' if steps else ''}", flush=True)
                with build_progress(dataset) as progress:
                    loaded = data.load(dataset, steps=steps or None, progress=progress)
                if env or loaded.env_id:
                    match_spaces(loaded, env or str(loaded.env_id))
            else:
                make_slots(env, 1).close()


def _need(cell: Cell) -> tuple[str, int, str]:
    """Dataset ("" for none), transitions (0 for all) and environment ("" for the dataset's own)."""
    config = cell.resolved.config
    return getattr(config, "dataset", ""), getattr(config, "dataset_steps", 0), getattr(config, "env", "")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Relative names in a table start from the table's folder, as they do for its cells."""
    old = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(old)


def _note_end(results: Path) -> None:
    path = results / "manifest.json"
    content = peek(path)
    if content and not content.get("finished"):
        _write_json(path, {**content, "finished": _now()})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    if peek(path) != content:
        write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def cpu_model() -> str:
    """The processor's name as it is sold."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
