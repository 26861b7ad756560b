"""The `rlsuite` command: a thin shell. Heavy imports happen in the handlers, so that --help is quick."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import rlsuite
from rlsuite.errors import UserError, nearest

BAD_INPUT = 2


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one sentence with a hint, raised instead of printed."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`).")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Also how argparse calls the parser of a command, which knows its own flags best."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            flag = unknown[0].split("=")[0]
            if flag.startswith("-"):
                raise UserError(f"unknown flag {flag} of `{self.prog}`; {nearest(flag, flags)}")
            raise UserError(f"unexpected argument '{flag}' of `{self.prog}`; see `{self.prog} --help`.")
        return parsed, unknown


def train(arguments: argparse.Namespace) -> int:
    """`rlsuite train ALGO`: the flags depend on the algorithm, so they are parsed once it is known."""
    from rlsuite.harness import config

    if arguments.algorithm in (None, "-h", "--help"):
        print_algorithms()
        return 0
    algorithm = config.load_algorithm(arguments.algorithm)
    if arguments.algorithm.endswith(".py"):
        from rlsuite.harness.form import departures

        for departure in departures(Path(arguments.algorithm).read_text(encoding="utf-8")):
            print(f"rlsuite: {arguments.algorithm} {departure}", file=sys.stderr)
    parser = Parser(prog=f"rlsuite train {arguments.algorithm}", description=algorithm.summary, allow_abbrev=False)
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="where the run lives (default runs/NAME)")
    config.add_flags(parser, algorithm)
    given = vars(parser.parse_args(arguments.rest))
    run_dir = given.pop("run_dir")
    limit_threads(given.get("threads", 1))
    resolved = config.resolve(algorithm, given)
    from rlsuite.harness.run import execute

    directory = run_dir or Path("runs") / resolved.slug
    print(f"rlsuite: {resolved.label} on {resolved.task}, run {resolved.run_id} in {directory}", file=sys.stderr)
    return execute(resolved, directory, command=" ".join(["rlsuite", *sys.argv[1:]]))


def print_algorithms() -> None:
    from rlsuite.harness import config

    print("usage: rlsuite train ALGORITHM [--flags]\n\nALGORITHM is the path of a .py file, or one of\n")
    for name in config.algorithm_names():
        print(f"  {name:10} {config.load_algorithm(name).summary}")
    print(f"  {'sb3:...':10} Stable-Baselines3, to compare with: {', '.join(config.sb3_names())}")
    print("\n`rlsuite train ALGORITHM --help` lists its flags.")


def resume(arguments: argparse.Namespace) -> int:
    """Continue a run from its newest checkpoint."""
    from rlsuite.harness.runs import run_again

    limit_threads(1)
    return run_again(arguments.run, arguments.run, command=" ".join(["rlsuite", *sys.argv[1:]]))


def evaluate(arguments: argparse.Namespace) -> int:
    """Play fresh episodes with a run's policy."""
    from rlsuite.harness import runs

    limit_threads(1)
    return runs.evaluate_run(arguments.run, arguments.episodes, arguments.env, arguments.video)


def verify(arguments: argparse.Namespace) -> int:
    """Run a run again in a scratch folder and compare."""
    from rlsuite.harness import runs

    limit_threads(1)
    return runs.verify_run(arguments.run)


def limit_threads(threads: Any) -> None:
    """One thread for the libraries that read this at their first import; torch is told its number by the run."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))


def build_parser() -> Parser:
    import rlsuite.bench.cli
    import rlsuite.bench.compare_cli
    import rlsuite.bench.report_cli
    import rlsuite.certify.cli
    import rlsuite.check.cli
    import rlsuite.data.cli
    import rlsuite.export.cli

    parser = Parser(prog="rlsuite", description=rlsuite.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=rlsuite.__version__)
    commands: Any = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)

    command = commands.add_parser("train", help="train one algorithm on one task", add_help=False)
    command.add_argument("algorithm", nargs="?", help="a name, or the path of a .py file")
    command.add_argument("rest", nargs=argparse.REMAINDER)
    command.set_defaults(handler=train)

    command = commands.add_parser("resume", help="continue a run from its newest checkpoint")
    command.add_argument("run", type=Path, metavar="RUN", help="run directory")
    command.set_defaults(handler=resume)

    command = commands.add_parser("eval", help="play fresh episodes with a run's policy")
    command.add_argument("run", type=Path, metavar="RUN", help="run directory")
    command.add_argument("--episodes", type=int, default=100, metavar="N", help="default 100")
    command.add_argument("--env", default="", metavar="NAME", help="another environment with the same spaces")
    command.add_argument(
        "--video",
        action="store_true",
        help="also film the first episode: RUN/video.mp4 (with the extra `video`), else video.gif",
    )
    command.set_defaults(handler=evaluate)

    command = commands.add_parser("verify", help="run a run again and compare it bit for bit")
    command.add_argument("run", type=Path, metavar="RUN", help="run directory")
    command.set_defaults(handler=verify)

    rlsuite.certify.cli.add_parsers(commands)
    rlsuite.bench.cli.add_parser(commands)
    rlsuite.bench.report_cli.add_parser(commands)
    rlsuite.bench.compare_cli.add_parser(commands)
    rlsuite.check.cli.add_parser(commands)
    rlsuite.data.cli.add_parser(commands)
    rlsuite.export.cli.add_parsers(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 1 failed, 2 bad input, 3 diverged)."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        if given[:1] == ["train"]:  # its flags are the algorithm's, which argparse would not pass through
            return train(argparse.Namespace(algorithm=next(iter(given[1:2]), None), rest=given[2:]))
        parser = build_parser()
        parsed = parser.parse_args(given)
        if not hasattr(parsed, "handler"):
            parser.print_help()
            return 0
        return int(parsed.handler(parsed))
    except UserError as error:
        print(f"rlsuite: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("rlsuite: stopped.", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `rlsuite ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run_file(path: str) -> NoReturn:
    """`python some_algorithm.py --flags` is `rlsuite train some_algorithm --flags`."""
    from rlsuite.harness import config

    file = Path(path).resolve()
    inside = file.parent == Path(rlsuite.__file__).parent / "algorithms" and file.stem in config.algorithm_names()
    raise SystemExit(main(["train", file.stem if inside else str(file), *sys.argv[1:]]))
