"""Result rows: the one form in which outcomes are stored, read and checked.

A row is one evaluation episode of one run, or one failed run. Everything that a report says is computed from rows, so a
row that misses a field is an error here and not a gap in a table there.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rlsuite.bench.units import STEPS, UPDATES, singular
from rlsuite.data.files import read_json, write_atomic
from rlsuite.data.scores import reference
from rlsuite.errors import UserError

Row = dict[str, Any]

ROWS_FILE = "rows.csv"
CELLS_FOLDER = "cells"
STATUSES = ("ok", "crashed", "diverged", "timeout", "interrupted")
PHASES = ("interim", "final")

_KINDS = {
    "run_id": "text",
    "config_hash": "text",
    "algorithm": "text",
    "task": "text",
    "env": "text",
    "dataset": "text",
    "dataset_hash": "text",
    "dataset_rows": "int",
    "seed": "int",
    "phase": "text",
    "protocol": "text",
    "update": "int",
    "episode": "int",
    "episode_seed": "int",
    "return": "float",
    "length": "int",
    "terminated": "bool",
    "truncated": "bool",
    "score": "float",
    "score_reference": "text",
    "policy_mode": "text",
    "code_version": "text",
    "cpu_class": "text",
    "status": "text",
    "message": "text",
}
COLUMNS = tuple(_KINDS)
# What may be empty in an episode's row: online tasks have no dataset, environments without a reference have no score.
_OPTIONAL = {"dataset", "dataset_hash", "dataset_rows", "score", "score_reference", "message"}
_NEEDED_OF_A_FAILURE = ("algorithm", "task", "seed", "status")
_DTYPES = {"text": "object", "int": "Int64", "float": "float64", "bool": "boolean"}
_STATUS_OF_RUN = {"failed": "crashed", "stopped": "interrupted", "running": "interrupted"}
_CELL_NAME = re.compile(r"(?P<algorithm>.+?)-(?P<task>.+)-s(?P<seed>\d+)-(?P<hash>[0-9a-f]{8,})")


# ---- collecting ----------------------------------------------------------------------------------


def collect(results: Path, cells: Iterable[str] | None = None) -> Path:
    """Read all cells of a results folder and write `rows.csv`, sorted, in one atomic step; returns its path.

    `cells` are folder names below `results/cells`; by default those that `results/manifest.json` lists, or where it
    lists none every folder but hidden ones. A finished cell gives its evaluation rows, any other cell one row with a
    status. The file is a pure function of the cells and the reference scores. Raises UserError naming file and line
    where a row is incomplete.
    """
    results = Path(results)
    root = results / CELLS_FOLDER
    if cells is None:
        cells = listed_cells(read_json(results / "manifest.json"))
        cells = cells or [path.name for path in root.glob("[!.]*") if path.is_dir()]
    rows = [row for name in sorted(set(cells)) if (root / name).is_dir() for row in cell_rows(root / name)]
    return write(results / ROWS_FILE, rows)


def listed_cells(manifest: Mapping[str, Any]) -> list[str]:
    """Folder names of the cells that the manifest of a results folder lists, in its order."""
    entries = manifest.get("cells") or []
    return [str(entry["folder"] if isinstance(entry, dict) else entry) for entry in entries]


def has_cells(results: Path) -> bool:
    """Whether rows can be collected here: a copy of a results folder often comes without its run directories."""
    root = results / CELLS_FOLDER
    listed = listed_cells(read_json(results / "manifest.json"))
    return all((root / name).is_dir() for name in listed) if listed else any(root.glob("[!.]*"))


def table_order(results: Path) -> tuple[list[str], list[str]]:
    """Algorithms and tasks in the order in which the table of a results folder names them, with repetitions."""
    entries = read_json(results / "manifest.json").get("cells") or []
    cells = [entry for entry in entries if isinstance(entry, dict)]
    return [str(cell.get("algorithm")) for cell in cells], [str(cell.get("task")) for cell in cells]


def of_results(results: Path) -> pd.DataFrame:
    """All rows of a results folder; its `rows.csv` is collected from the cells if it is missing.

    Raises UserError if there are neither, or where a row is incomplete.
    """
    if not results.is_dir():
        raise UserError(f"there is no results folder {results}; give the one that `rlsuite bench` wrote.")
    if not (results / ROWS_FILE).exists():
        if not has_cells(results):
            raise UserError(f"{results} holds neither {ROWS_FILE} nor cells; run `rlsuite bench` with it first.")
        collect(results)
    return read(results / ROWS_FILE)


def cell_rows(cell: Path) -> list[Row]:
    """The rows of one run directory: its evaluation episodes if it finished, else the single row of its failure."""
    status = read_json(cell / "status.json")
    state = str(status.get("status", ""))
    if state != "finished":
        return [_failure(cell, status, _STATUS_OF_RUN.get(state, state), str(status.get("message") or ""))]
    rows = list(_episodes(cell / "evaluations.jsonl"))
    if not any(row["phase"] == "final" for row in rows):
        return [
            _failure(
                cell,
                status,
                "crashed",
                "the run says that it finished, but has no final evaluation",
            )
        ]
    return rows


def _episodes(path: Path) -> Iterator[Row]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        try:
            raw = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: this is not a JSON row ({error}); run the cell again.") from error
        if not isinstance(raw, dict):
            raise UserError(f"{where}: this is not a JSON row with named fields; run the cell again.")
        yield _scored(check(raw, where))


def _scored(row: Row) -> Row:
    """The row, with a score if its environment got a reference only after the run was made."""
    if row["status"] == "ok" and row["score"] is None:
        found = reference(row["env"], row["dataset"])
        if found is not None:
            return row | {"score": float(found.score(row["return"])), "score_reference": found.label}
    return row


def _failure(cell: Path, status: Mapping[str, Any], state: str, message: str) -> Row:
    """One row with the identity columns that the run directory knows.

    A run that died before its manifest was written is known by `cell.json`, which the engine writes before it starts
    one, or at least by the name of its folder.
    """
    known: dict[str, Any] = {}
    if name := _CELL_NAME.fullmatch(cell.name):
        known |= {"algorithm": name["algorithm"], "task": name["task"], "seed": int(name["seed"])}
        known["config_hash"] = name["hash"]
    config = read_json(cell / "config.json")
    known |= {"algorithm": config["algorithm"]} if "algorithm" in config else {}
    known |= {"seed": config["settings"]["seed"]} if "seed" in config.get("settings", {}) else {}
    known |= read_json(cell / "cell.json") | read_json(cell / "manifest.json")
    if not status:
        message = "not started"
    if state not in STATUSES or state == "ok":
        state = "interrupted"
    if not message and state == "interrupted":
        unit = STEPS if known.get("dataset") == "" else UPDATES
        message = f"not finished: {singular(unit)} {status.get('update', '?')} of {status.get('updates', '?')}"
    row = {column: known.get(column) for column in COLUMNS}
    row |= {
        "phase": None,
        "return": None,
        "score": None,
        "update": status.get("update"),
        "status": state,
    }
    return check(row | {"message": " ".join(message.split())[:300]}, str(cell))


# ---- reading and writing -------------------------------------------------------------------------


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as CSV, sorted by run, phase, update and episode, in one atomic step; returns the path."""
    lines = [",".join(COLUMNS)]
    lines += [",".join(_field(row[column]) for column in COLUMNS) for row in sorted(rows, key=_order)]
    write_atomic(path, ("\n".join(lines) + "\n").encode())
    return path


def read(path: Path) -> pd.DataFrame:
    """All rows of a `rows.csv`, one typed column for each of `COLUMNS`; empty fields are "" (text) or missing (others).

    Raises UserError naming file and line where a field is missing or cannot be read.
    """
    rows = []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if missing := [column for column in COLUMNS if column not in header]:
                raise UserError(f"{path}:1: the column {missing[0]!r} is missing; collect the rows again.")
            for fields in reader:
                where = f"{path}:{reader.line_num}"
                if len(fields) != len(header):
                    raise UserError(f"{where}: {len(fields)} fields where the header names {len(header)}.")
                rows.append(check(dict(zip(header, fields, strict=True)), where))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; run `rlsuite bench` with this results folder first.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a text file with comma-separated rows ({error}).") from error
    columns = {column: pd.Series([row[column] for row in rows], dtype=_DTYPES[kind]) for column, kind in _KINDS.items()}
    return pd.DataFrame(columns)


def check(raw: Mapping[str, Any], where: str) -> Row:
    """The row with typed fields in the order of `COLUMNS`, from JSON values or CSV text.

    Raises UserError that names `where` (file and line) and the field that is missing, empty or unreadable.
    """
    row: Row = {}
    for column, kind in _KINDS.items():
        if column not in raw:
            raise UserError(f"{where}: the field {column!r} is missing; a row must have every field.")
        value = raw[column]
        try:
            row[column] = None if value is None or value == "" else _READ[kind](value)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: the field {column!r} is {value!r}, which is no {kind}.") from error
        if kind == "text" and row[column] is None:
            row[column] = ""
    if row["status"] not in STATUSES:
        raise UserError(f"{where}: the status {row['status']!r} is none of {', '.join(STATUSES)}.")
    ok = row["status"] == "ok"
    needed = [column for column in COLUMNS if column not in _OPTIONAL] if ok else _NEEDED_OF_A_FAILURE
    for column in needed:
        if row[column] in (None, ""):
            raise UserError(f"{where}: the field {column!r} is empty; a row must name what it belongs to.")
    if ok and row["phase"] not in PHASES:
        raise UserError(f"{where}: the phase {row['phase']!r} is none of {', '.join(PHASES)}.")
    if (row["score"] is None) != (row["score_reference"] == "") and ok:
        raise UserError(f"{where}: a normalised score and its score_reference must be given together, or neither.")
    return row


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise TypeError
    return int(value)


def _float(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError
    return number


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() not in ("true", "false"):
        raise ValueError
    return str(value).lower() == "true"


_READ: dict[str, Callable[[Any], Any]] = {
    "text": _text,
    "int": _int,
    "float": _float,
    "bool": _bool,
}


def _field(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, float) else str(value)
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n\r') else text


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    phase = PHASES.index(row["phase"]) if row["phase"] in PHASES else len(PHASES)
    names = row["task"], row["algorithm"], row["seed"], row["run_id"]
    return *names, phase, row["update"] or 0, row["episode"] or 0
