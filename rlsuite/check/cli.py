"""`rlsuite check`: does the code still do what it did?"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from rlsuite.errors import UserError

EPILOG = """\
levels:
  sanity       every run was finished and finite, made all its updates, moved what moves in the stored runs, and
               returned no more than the task has
  statistical  an exact rank-sum test of every measure against the stored runs; of the return one-sided, where less is
               worse. Over the whole suite a false alarm has at most the probability --alpha
  exact        the bits of the runs are the stored ones; skipped on another class of processors or with other versions

Exit code: 0 all is well, 1 a level of some case failed, 2 bad input.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `check`."""
    parser = subparsers.add_parser(
        "check",
        help="train every algorithm on small tasks and compare with stored runs; for CI",
        description="Train every algorithm on small tasks, several seeds each, and compare with stored runs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suite", nargs="?", type=Path, metavar="SUITE", help="TOML of cases (default: the package's)")
    parser.add_argument("--algo", metavar="FILE", help="guard this algorithm file instead")
    parser.add_argument("--like", metavar="NAME", help="with --algo: on whose cases (default: td3_bc's or ppo's)")
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        action="append",
        default=[],
        help="only cases whose name, algorithm or task matches, as in a shell; repeat it for more",
    )
    parser.add_argument("--levels", metavar="A,B", default="sanity,statistical,exact", help="default: all three")
    parser.add_argument("--seeds", type=int, default=8, metavar="N", help="runs of a case (default 8)")
    parser.add_argument(
        "--alpha", type=float, metavar="X", help="probability of a false alarm over the whole suite (default 0.01)"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="processes at a time (default: the number of cores)")
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="seconds for a process of up to 20 runs (default 600)"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write the outcome as JUnit XML")
    parser.add_argument(
        "--baselines",
        type=Path,
        metavar="DIR",
        help="where the stored runs are (default: the package's, or the folder check beside SUITE or FILE)",
    )
    parser.add_argument("--update", action="store_true", help="record new baselines and show what changed")
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="with --update: runs to store (default 100)")
    parser.set_defaults(handler=check)


def check(arguments: argparse.Namespace) -> int:
    from rlsuite.check import output, suite, verdict
    from rlsuite.check.baseline import FEWEST
    from rlsuite.check.check import judge, update

    levels = arguments.levels.split(",")
    for level in levels:
        if level not in verdict.LEVELS:
            raise UserError(f"--levels takes some of {', '.join(verdict.LEVELS)}, separated by commas, not '{level}'.")
    alpha = verdict.ALPHA if arguments.alpha is None else arguments.alpha
    if not 0 < alpha < 1:
        raise UserError(f"--alpha is a probability between 0 and 1, not {alpha:g}.")
    for name, lowest in (("seeds", 1), ("jobs", 1), ("timeout", 1), ("runs", FEWEST)):
        value = getattr(arguments, name)
        if value is not None and value < lowest:
            raise UserError(f"--{name} is at least {lowest}, not {value:g}.")
    if arguments.like and not arguments.algo:
        raise UserError("--like says on whose cases a file of --algo is tried; add --algo FILE.")

    cases = suite.read_suite(arguments.suite or suite.SUITE)
    beside = arguments.suite
    if arguments.algo:
        cases = suite.cases_like(arguments.algo, arguments.like, cases)
        beside = Path(arguments.algo)
    folder = arguments.baselines or (beside.parent / "check" if beside else suite.BASELINES)
    if arguments.algo and not arguments.update:  # of the cases that it could have, those that it was given
        cases = [case for case in cases if (folder / f"{case.name}.json").exists()] or cases
    whole, chosen = len(cases), suite.select(cases, arguments.only)
    started = time.monotonic()

    def tell(name: str, done: int, of: int) -> None:
        if done == of:
            print(f"rlsuite: {name}, {of} runs, {time.monotonic() - started:.0f} s", file=sys.stderr)

    if arguments.update:
        invocation = " ".join(["rlsuite", *sys.argv[1:]])
        for line in update(
            chosen, folder, arguments.seeds, arguments.runs, alpha / whole, arguments.jobs, arguments.timeout, tell,
            invocation,
        ):  # fmt: skip
            print(line)
        return 0
    judged = judge(chosen, folder, arguments.seeds, levels, alpha, whole, arguments.jobs, arguments.timeout, tell)
    seconds = time.monotonic() - started
    print(output.text(judged))
    if arguments.junit:
        output.write_junit(arguments.junit, judged, seconds)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print("\n".join(output.github(judged)))
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with open(summary, "a", encoding="utf-8") as file:
                file.write(output.markdown(judged))
    failed = [case.name for case in judged if case.failed]
    verb = f"{len(failed)} of {len(judged)} cases failed" if failed else f"all {len(judged)} cases are well"
    print(f"{verb}; {sum(len(case.runs) for case in judged)} runs in {seconds:.0f} s, false-alarm rate {alpha:g}.")
    return 1 if failed else 0
