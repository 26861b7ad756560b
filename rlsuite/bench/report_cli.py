"""`rlsuite report RESULTS`: write the report of a results folder again, from its rows."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `report`."""
    parser = subparsers.add_parser(
        "report",
        help="tables, curves and a self-contained page from a results folder",
        description="Write table.md, table.tex, table.csv, curves.png, intervals.png and report.html into a results "
        "folder, from its stored rows. The same rows give the same bytes.",
    )
    parser.add_argument("results", metavar="RESULTS", type=Path, help="folder that `rlsuite bench` wrote")
    parser.add_argument(
        "--baseline",
        metavar="ALGO",
        help="whom the others are compared with (default: the first algorithm)",
    )
    parser.add_argument(
        "--metric",
        metavar="score|return|auc",
        help="normalised score x 100, raw return, or the time average of the learning curve of raw returns (default: "
        "score, or return where no task has a reference)",
    )
    parser.add_argument(
        "--until",
        metavar="N",
        type=_natural,
        help="with --metric auc, cut the curves at this update or environment step",
    )
    parser.add_argument(
        "--resamples",
        metavar="N",
        type=int,
        default=50_000,
        help="bootstrap resamples (default: 50000)",
    )
    parser.add_argument("--seed", metavar="N", type=_natural, default=0, help="seed of the bootstrap (default: 0)")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the report and print the table."""
    from rlsuite.bench import report, rows

    results: Path = arguments.results
    if rows.has_cells(results):  # newer than the rows, if an engine was killed before it could collect them
        rows.collect(results)
    written = report.build(
        results,
        baseline=arguments.baseline,
        metric=arguments.metric,
        until=arguments.until,
        resamples=arguments.resamples,
        seed=arguments.seed,
    )
    report.print_table(written)
    return 0


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)
