"""The command `rlsuite bench`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsuite.errors import UserError

if TYPE_CHECKING:
    from rlsuite.bench.attempt import Outcome
    from rlsuite.bench.engine import Place, Result
    from rlsuite.bench.table import Table

EPILOG = """\
Finished cells are skipped and unfinished ones continue, so the same command again goes on where it was stopped.
Crashed and timed-out cells are tried again by the next call; diverged ones, which would diverge again, only with
--retry-failed. Exit code: 0 all finished, 1 some failed, 2 bad input, 130 stopped.
"""


def add_parser(subparsers: Any) -> None:
    """Add `rlsuite bench` to the parser of the command line."""
    parser = subparsers.add_parser(
        "bench",
        help="run a benchmark table: algorithms x tasks x seeds",
        description="Run every cell of a benchmark table in its own process, collect the rows and write the report.",
        epilog=EPILOG,
    )
    parser.add_argument("table", metavar="TABLE.toml", help="the table, such as benchmarks/quick.toml")
    parser.add_argument("--results", metavar="DIR", help="results folder (default: results/NAME-OF-THE-TABLE)")
    parser.add_argument(
        "--jobs", type=_positive(int), metavar="N", help="cells at a time (default: one a core; with slurm 100)"
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray", "slurm"),
        default="local",
        help="where cells run: this machine; the Ray cluster at RAY_ADDRESS, or else the one that runs here; or Slurm. "
        "Machines of a cluster share the results folder, the data and the Python under the same paths",
    )
    parser.add_argument(
        "--slurm",
        metavar="KEY=VALUE",
        type=_option,
        action="append",
        default=[],
        help="with --engine slurm, an option of sbatch, as in --slurm partition=long --slurm time=240 (minutes)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATTERN",
        help="only cells whose algorithm, task or folder matches, as in --only prdc 'rlsuite/hopper/*'",
    )
    parser.add_argument(
        "--timeout", type=_positive(float), metavar="SECONDS", help="limit for each cell (default: none)"
    )
    parser.add_argument("--retry-failed", action="store_true", help="run diverged cells again, too")
    parser.add_argument("--dry-run", action="store_true", help="show the cells and their state, and write nothing")
    parser.set_defaults(handler=bench)


def bench(arguments: argparse.Namespace) -> int:
    """Run a table; returns the exit code."""
    from rlsuite.bench import runner
    from rlsuite.bench.progress import make_progress
    from rlsuite.bench.table import read_table

    table = read_table(arguments.table)
    results = Path(arguments.results or Path("results") / table.name)
    if results.exists() and not results.is_dir():
        raise UserError(f"{results} is a file; choose a folder with --results.")
    if arguments.dry_run:
        return _show(table, results, arguments.only)
    place = _place(arguments, results)
    try:
        result = runner.run_table(
            table,
            results,
            only=arguments.only,
            place=place,
            jobs=arguments.jobs,
            timeout=arguments.timeout,
            retry_failed=arguments.retry_failed,
            progress=make_progress(),
            invocation=_invocation(),
        )
    except KeyboardInterrupt:  # before the first cell was started or after the last one ended
        print(f"Stopped. Continue with: {_invocation()}", file=sys.stderr)
        return 130
    finally:
        if place is not None:
            place.close()
    return _conclude(table, results, result)


def _place(arguments: argparse.Namespace, results: Path) -> Place | None:
    """The cluster that is asked for, None for this machine."""
    if arguments.slurm and arguments.engine != "slurm":
        raise UserError("--slurm gives options of sbatch; add --engine slurm.")
    if arguments.engine == "local":
        return None
    from rlsuite.bench.cluster import Cluster, Ray, Slurm

    return Cluster(Ray() if arguments.engine == "ray" else Slurm(results, dict(arguments.slurm)))


def _conclude(table: Table, results: Path, result: Result) -> int:
    total = len(result.outcomes)
    if result.stopped:
        print(
            f"Stopped with {result.finished} of {total} cells finished. Continue with: {_invocation()}", file=sys.stderr
        )
        return 130
    _report(results)
    if not result.failures:
        return 0
    titles = {cell.folder: cell.title for cell in table.cells}
    words = [f"{titles[name]} ({_word(outcome)})" for name, outcome in result.failures.items()]
    shown = ", ".join(words[:6]) + (f" and {len(words) - 6} more" if len(words) > 6 else "")
    advice = "the same command tries them again"
    if all(outcome.state == "diverged" for outcome in result.failures.values()):
        advice = "--retry-failed runs diverged cells again"
    log = results / "cells" / next(iter(result.failures)) / "log.txt"
    print(f"rlsuite: {len(words)} of {total} cells failed: {shown}; see {log} and its like; {advice}.", file=sys.stderr)
    return 1


def _word(outcome: Outcome) -> str:
    return "stopped" if outcome.state in ("unfinished", "new") else outcome.state


def _report(results: Path) -> None:
    from rlsuite.bench import report

    try:
        built = report.build(results)
    except (
        UserError
    ) as error:  # no finished run yet, or runs that must not be averaged: the rows are there all the same
        print(f"No report: {error}", file=sys.stderr)
        return
    report.print_table(built)


def _invocation() -> str:
    return shlex.join(["rlsuite", *sys.argv[1:]])


def _show(table: Table, results: Path, only: list[str]) -> int:
    from rlsuite.bench import runner
    from rlsuite.bench.units import singular

    words = {
        "new": "to run",
        "unfinished": "to continue",
        "crashed": "crashed, to retry",
        "timeout": "timeout, to retry",
    }
    lines, due = [], 0
    for cell, outcome, locked in runner.standing(table, results, only):
        due += outcome.state not in ("finished", "diverged")
        state = "running" if locked else words.get(outcome.state, outcome.state)
        state += f" ({singular(cell.unit)} {outcome.update})" if outcome.update and state not in ("finished",) else ""
        lines.append((state, cell.label, cell.task, f"seed {cell.seed}", cell.folder))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    for line in lines:
        print("  ".join([*(part.ljust(width) for part, width in zip(line[:4], widths, strict=True)), line[4]]))
    print(f"{len(lines)} cells, {due} to run, in {results}")
    return 0


def _option(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUE")
    return key.removeprefix("--").replace("-", "_"), value


def _positive(kind: type) -> Any:
    def parse(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value

    parse.__name__ = "positive number"  # what argparse calls it
    return parse
