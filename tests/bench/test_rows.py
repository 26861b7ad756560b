"""Result rows: reading, checking, collecting from run directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rlsuite.bench import rows
from rlsuite.data.files import write_atomic
from rlsuite.errors import UserError

ROW: rows.Row = {
    "run_id": "0123456789ab",
    "config_hash": "c" * 64,
    "algorithm": "bc",
    "task": "rlsuite/hopper/medium-v0",
    "env": "Hopper-v5",
    "dataset": "rlsuite/hopper/medium-v0",
    "dataset_hash": "d" * 64,
    "dataset_rows": 200_000,
    "seed": 0,
    "phase": "final",
    "protocol": "final-2ep-deterministic",
    "update": 100,
    "episode": 0,
    "episode_seed": 77,
    "return": 1500.1234567890123,
    "length": 500,
    "terminated": True,
    "truncated": False,
    "score": 46.5,
    "score_reference": "rlsuite Hopper-v5",
    "policy_mode": "deterministic",
    "code_version": "0.1.0",
    "cpu_class": "x86-64-avx2",
    "status": "ok",
    "message": "",
}


def make_cell(results: Path, name: str, made: list[rows.Row], status: dict[str, Any] | None, **files: Any) -> Path:
    cell = results / "cells" / name
    cell.mkdir(parents=True)
    (cell / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    if status is not None:
        (cell / "status.json").write_text(json.dumps(status))
    for key, value in files.items():
        (cell / f"{key}.json").write_text(json.dumps(value))
    return cell


def test_columns_are_the_schema() -> None:
    assert tuple(ROW) == rows.COLUMNS


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    odd = ROW | {"return": 0.1 + 0.2, "score": -1e-17, "message": 'a "quoted", text', "episode": 1}
    online = ROW | {
        "dataset": "",
        "dataset_hash": "",
        "dataset_rows": None,
        "score": None,
        "score_reference": "",
        "seed": 1,
    }
    rows.write(tmp_path / "rows.csv", [online, odd, ROW])
    frame = rows.read(tmp_path / "rows.csv")
    assert frame["seed"].tolist() == [0, 0, 1] and frame["episode"].tolist() == [0, 1, 0]
    assert frame["return"].tolist() == [ROW["return"], 0.1 + 0.2, ROW["return"]]
    assert frame["score"][1] == -1e-17 and frame["score"].isna().tolist() == [False, False, True]
    assert frame["message"][1] == 'a "quoted", text'
    assert frame["terminated"].tolist() == [True] * 3 and frame["dataset"][2] == ""
    again = [
        {c: None if r[c] is None or r[c] != r[c] else r[c] for c in rows.COLUMNS}
        for r in frame.astype(object).where(frame.notna(), None).to_dict("records")
    ]
    rows.write(tmp_path / "again.csv", again)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"return": None}, "'return' is empty"),
        ({"return": float("nan")}, "'return' is nan"),
        ({"seed": 1.5}, "'seed' is 1.5"),
        ({"terminated": "maybe"}, "'terminated' is 'maybe'"),
        ({"algorithm": ""}, "'algorithm' is empty"),
        ({"algorithm": 3}, "'algorithm' is 3"),
        ({"status": "fine"}, "status 'fine' is none of ok"),
        ({"phase": "middle"}, "phase 'middle'"),
        ({"score": None}, "must be given together"),
    ],
)
def test_bad_fields_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"^here:3: .*{words}"):
        rows.check(ROW | change, "here:3")


@pytest.mark.parametrize("column", rows.COLUMNS)
def test_every_missing_field_is_an_error(column: str) -> None:
    with pytest.raises(UserError, match=f"here:1: the field '{column}' is missing"):
        rows.check({key: value for key, value in ROW.items() if key != column}, "here:1")


def test_csv_errors_name_file_and_line(tmp_path: Path) -> None:
    path = rows.write(tmp_path / "rows.csv", [ROW, ROW | {"episode": 1}])
    text = path.read_text()
    path.write_text(text.replace(",46.5,", ",", 1))
    with pytest.raises(UserError, match=r"rows.csv:2: 24 fields where the header names 25"):
        rows.read(path)
    path.write_text(text.replace(",score,", ",points,"))
    with pytest.raises(UserError, match=r"rows.csv:1: the column 'score' is missing"):
        rows.read(path)
    lines = text.splitlines()
    lines[2] = lines[2].replace("1500.1", "x1500.1")
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"rows.csv:3: the field 'return'"):
        rows.read(path)
    with pytest.raises(UserError, match="does not exist"):
        rows.read(tmp_path / "none.csv")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        rows.read(path)


def test_collect(tmp_path: Path) -> None:
    finished = {"status": "finished", "update": 100, "updates": 100}
    make_cell(tmp_path, "bc-hopper-s0-00000000", [ROW | {"episode": e} for e in (1, 0)], finished)
    identity = {"algorithm": "bc", "task": ROW["task"], "seed": 1, "run_id": "r1", "folder": "x"}
    half_line = make_cell(
        tmp_path,
        "bc-hopper-s1-00000001",
        [],
        {"status": "failed", "update": 7, "message": "out of\nmemory"},
        cell=identity,
    )
    (half_line / "evaluations.jsonl").write_text('{"run_id": "01')  # a killed run may leave half a line
    make_cell(
        tmp_path,
        "bc-hopper-s2-00000002",
        [ROW],
        {"status": "running", "update": 40, "updates": 100},
        cell=identity | {"seed": 2},
        manifest={"env": "Hopper-v5", "dataset_hash": "d"},
    )
    make_cell(
        tmp_path,
        "bc-hopper-s3-00000003",
        [],
        {"status": "diverged", "update": 9, "message": "loss is nan"},
    )
    make_cell(tmp_path, "bc-hopper-s4-00000004", [], None, cell=identity | {"seed": 4})
    make_cell(tmp_path, "bc-hopper-s5-00000005", [], {"status": "timeout", "message": "stopped after 3 s"})
    make_cell(
        tmp_path,
        "bc-hopper-s6-00000006",
        [ROW | {"phase": "interim"}],
        finished,
        cell=identity | {"seed": 6},
    )
    (tmp_path / "cells" / ".locks").mkdir()

    path = rows.collect(tmp_path)
    frame = rows.read(path)
    found = [(r["seed"], r["status"], r["message"], r["task"]) for r in frame.sort_values("seed").to_dict("records")]
    assert found == [
        (0, "ok", "", ROW["task"]),
        (0, "ok", "", ROW["task"]),
        (1, "crashed", "out of memory", ROW["task"]),
        (2, "interrupted", "not finished: update 40 of 100", ROW["task"]),
        (3, "diverged", "loss is nan", "hopper"),
        (4, "interrupted", "not started", ROW["task"]),
        (5, "timeout", "stopped after 3 s", "hopper"),
        (6, "crashed", "the run says that it finished, but has no final evaluation", ROW["task"]),
    ]
    failed = frame[frame["status"] != "ok"]
    assert failed["return"].isna().all() and failed["score"].isna().all()
    assert frame.set_index("seed").loc[2, "env"] == "Hopper-v5"
    first = path.read_bytes()
    assert rows.collect(tmp_path).read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells", "rows.csv"]


def test_collect_only_the_cells_of_the_table(tmp_path: Path) -> None:
    finished = {"status": "finished"}
    make_cell(tmp_path, "bc-hopper-s0-aaaaaaaa", [ROW | {"config_hash": "old"}], finished)
    make_cell(tmp_path, "bc-hopper-s0-bbbbbbbb", [ROW], finished)
    assert len(rows.read(rows.collect(tmp_path))) == 2
    (tmp_path / "manifest.json").write_text(json.dumps({"cells": [{"folder": "bc-hopper-s0-bbbbbbbb"}]}))
    assert rows.read(rows.collect(tmp_path))["config_hash"].tolist() == ["c" * 64]
    assert rows.read(rows.collect(tmp_path, ["bc-hopper-s0-aaaaaaaa"]))["config_hash"].tolist() == ["old"]


def test_collect_refuses_an_incomplete_row(tmp_path: Path) -> None:
    short = {key: value for key, value in ROW.items() if key != "episode_seed"}
    make_cell(tmp_path, "bc-hopper-s0-00000000", [ROW, short], {"status": "finished"})
    with pytest.raises(UserError, match=r"evaluations.jsonl:2: the field 'episode_seed' is missing"):
        rows.collect(tmp_path)
    assert not (tmp_path / "rows.csv").exists()


def test_a_reference_that_came_later_scores_the_rows(tmp_path: Path) -> None:
    unscored = ROW | {"score": None, "score_reference": "", "return": 18.4}
    unknown = unscored | {"env": "rlsuite/LineWorld-v0", "task": "line", "dataset": "line.npz", "run_id": "1"}
    make_cell(tmp_path, "bc-hopper-s0-00000000", [unscored], {"status": "finished"})
    make_cell(tmp_path, "bc-line-s0-11111111", [unknown], {"status": "finished"})
    frame = rows.read(rows.collect(tmp_path)).set_index("env")
    assert frame.loc["Hopper-v5", "score"] == pytest.approx(0, abs=0.01)  # the random policy's return
    assert frame.loc["Hopper-v5", "score_reference"] == "rlsuite Hopper-v5"
    assert (
        pd.isna(frame.loc["rlsuite/LineWorld-v0", "score"])
        and frame.loc["rlsuite/LineWorld-v0", "score_reference"] == ""
    )


def test_write_atomic_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder" / "file").mkdir(parents=True)
    with pytest.raises(UserError, match="no file can be written"):
        write_atomic(tmp_path / "folder" / "file", b"x")
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["file"]
