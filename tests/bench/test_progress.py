"""What is shown while a table runs."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from rlsuite.bench.progress import Live, Plain, View, clock, rate
from rlsuite.bench.table import Cell, read_table
from tests.bench.fake_cells import write_table


@pytest.fixture
def cells(tmp_path: Path) -> tuple[Cell, ...]:
    return read_table(write_table(tmp_path, 'algorithms = ["toy.py"]\ntasks = ["a/b-v0"]\nseeds = 3')).cells


def test_plain_lines(cells: tuple[Cell, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with Plain(every=0.0) as progress:
        progress.begin(3, cells[:1])
        progress.started(cells[1], 0)
        progress.started(cells[2], 40)
        progress.refresh([View(cells[1], 10, 100, 5.0, 2.0), View(cells[2], 40, 100, None, 2.0)], 0)
        progress.settled(cells[1], "finished", "", 61.0, "score 33.3")
        progress.settled(cells[2], "crashed", "ValueError: no", 3.0, "")
        progress.refresh([], 1)
    assert capsys.readouterr().out.splitlines() == [
        "1 of 3 cells were finished before",
        "[0:00] start     toy a/b-v0 seed 1",
        "[0:00] start     toy a/b-v0 seed 2 from update 40",
        "[0:00] 1/3 cells; running: toy seed 1 10/100, 5.0/s, 0:18 left; toy seed 2 40/100",
        "[0:00] finished  toy a/b-v0 seed 1 (score 33.3, 1:01)",
        "[0:00] crashed   toy a/b-v0 seed 2 (0:03): ValueError: no",
        "[0:00] 2/3 cells, 1 failed, 1 run by another rlsuite bench",
    ]


def test_plain_summaries_are_rare(cells: tuple[Cell, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with Plain() as progress:
        progress.begin(3, [])
        for _ in range(100):
            progress.refresh([View(cells[0], 1, 2, None, 0.1)], 0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [60, 100])
def test_the_live_view_fits_the_terminal(cells: tuple[Cell, ...], width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=20, color_system=None)
    with Live(console, every=0.0) as progress:
        progress.begin(3, [])
        progress.started(cells[0], 0)
        console.print(progress.block([View(cells[0], 10, 100, 12.0, 1.0), View(cells[1], 100, 100, 9.0, 1.0)], 0))
    assert isinstance(console.file, io.StringIO)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).splitlines()
    first, second, overall = (next(line for line in lines if part in line) for part in ("10/100", "100/100", "0/3"))
    for part in ("toy", "a/b-v0", "seed 0", "12/s", "0:07"):
        assert part in first
    assert "evaluates" in second and "left" in overall
    assert max(len(line.rstrip()) for line in (first, second, overall)) <= width


def test_words_for_time_and_speed() -> None:
    assert [clock(t) for t in (None, 0, 75.9, 3700)] == ["-:--", "0:00", "1:15", "1:01:40"]
    assert [rate(s) for s in (None, 0.25, 9.9, 321.7)] == ["", "0.2/s", "9.9/s", "322/s"]
