"""`rlsuite compare RESULTS_A RESULTS_B`: what differs between two results folders, and whether that can be chance."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

FILES = ("compare.md", "compare.csv", "compare.png")
EPILOG = """\
Exit code: 0 compared, 1 B is worse (only with --fail-if-worse), 2 bad input. To compare two algorithms of one folder,
name it twice: rlsuite compare results/quick results/quick --column td3_bc=prdc
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `compare`."""
    parser = subparsers.add_parser(
        "compare",
        help="two results folders: differences, tests, and how many more seeds would settle them",
        description="Compare what two results folders have in common, task by task: difference of the means with an "
        "interval, a test adjusted by Holm for the number of comparisons, probability of improvement, and the runs to "
        "add where nothing is settled.",
        epilog=EPILOG,
    )
    parser.add_argument("first", metavar="RESULTS_A", type=Path, help="folder of `rlsuite bench` to start from")
    parser.add_argument("second", metavar="RESULTS_B", type=Path, help="the one in question: above A is better")
    parser.add_argument(
        "--column",
        metavar="A[=B]",
        type=_columns,
        action="append",
        default=[],
        help="an algorithm of A, and its name in B if that is another; repeat it for more (default: all common names)",
    )
    parser.add_argument(
        "--task",
        metavar="TASK",
        action="append",
        default=[],
        help="only this task; repeat it (default: all common)",
    )
    parser.add_argument(
        "--metric",
        metavar="score|return|auc",
        help="as in `rlsuite report` (default: score, or return where a task has no reference)",
    )
    parser.add_argument("--until", metavar="N", type=int, help="with --metric auc, cut the curves at this position")
    parser.add_argument(
        "--test", metavar="welch|permutation", default="welch", help="Welch's t-test, or the permutation test of its t"
    )
    parser.add_argument(
        "--detect",
        metavar="D",
        type=float,
        help="plan the runs to add for a true difference of D in units of the metric (default: the measured one)",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help=f"also write {', '.join(FILES)} there")
    parser.add_argument(
        "--fail-if-worse",
        metavar="ALPHA",
        type=_level,
        help="exit with 1 if B is worse anywhere: one-sided tests, adjusted by Holm, so that a false alarm has at most "
        "this probability over all of them; or if all runs failed of a cell that has finished ones in A",
    )
    parser.add_argument(
        "--resamples", metavar="N", type=int, default=50_000, help="of bootstrap and permutations (default: 50000)"
    )
    parser.add_argument("--seed", metavar="N", type=_natural, default=0, help="of the resampling (default: 0)")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print, and write what `--out` asks for; returns the exit code."""
    from rlsuite.bench import compare_text
    from rlsuite.bench.compare import compare, title

    comparison = compare(
        arguments.first,
        arguments.second,
        columns=arguments.column,
        tasks=arguments.task,
        metric=arguments.metric,
        until=arguments.until,
        test=arguments.test,
        detect=arguments.detect,
        resamples=arguments.resamples,
        seed=arguments.seed,
    )
    if arguments.out is not None:
        from rlsuite.bench import compare_plot
        from rlsuite.data.files import write_atomic

        contents = compare_text.markdown(comparison), compare_text.tidy_csv(comparison)
        written = *(text.encode() for text in contents), compare_plot.png(comparison)
        for name, content in zip(FILES, written, strict=True):
            write_atomic(arguments.out / name, content)
    compare_text.print_comparison(comparison)
    if arguments.fail_if_worse is None:
        return 0
    level = arguments.fail_if_worse
    worse = [
        f"{title(pair.columns)} on {pair.task} ({compare_text.change(pair)}, "
        f"one-sided p (Holm) {compare_text.probability(pair.worse_holm)})"
        for pair in comparison.worse(level)
    ]
    if worse:
        print(f"rlsuite: B is significantly worse at level {level:g}: {'; '.join(worse)}.", file=sys.stderr)
    for line in comparison.lost:
        print(f"rlsuite: {line}", file=sys.stderr)
    return 1 if worse or comparison.lost else 0


def _columns(text: str) -> tuple[str, str]:
    first, equals, second = text.partition("=")
    if not first or (equals and not second):
        raise argparse.ArgumentTypeError(f"{text!r} is no name, and no pair of names such as prdc=my_prdc")
    return first, second or first


def _level(text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = math.nan
    if not 0 < level < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no probability between 0 and 1, such as 0.05")
    return level


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)
