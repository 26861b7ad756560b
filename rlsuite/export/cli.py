"""The commands `rlsuite export` and `rlsuite new`: one algorithm as a file of the user's own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rlsuite.errors import UserError

ABOUT = """\
The file needs torch, numpy, scipy and gymnasium, and h5py or minari where it reads such data. With the same flags it
gives the same metrics, evaluations and weights as the package, bit for bit; it leaves out what is not the method's:
resume, Atari, building datasets, normalised scores. Its switches (truth values and choices) are settled, so that only
the code of one variant is there; numbers stay flags, and presets by task stay.
"""


def add_parsers(subparsers: Any) -> None:
    """Add both to the parser of the command line."""
    command = subparsers.add_parser(
        "export",
        help="one algorithm as one self-contained file",
        description="Write an algorithm, and what it reaches of the package, as one file.",
        epilog=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("algorithm", help="a name, or the path of a .py file")
    command.add_argument("-o", "--out", type=Path, metavar="FILE", help="default ALGORITHM_single.py")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="settle a switch otherwise than by default, such as --set gradient=semi; may be repeated",
    )
    command.add_argument("--variants", action="store_true", help="settle no switches but those that are --set")
    command.add_argument("--force", action="store_true", help="replace FILE if it is there")
    command.set_defaults(handler=write)

    command = subparsers.add_parser(
        "new",
        help="begin an algorithm of your own from one of the package's",
        description="Write a starting file that trains, resumes, stands in tables and exports like the package's own.",
    )
    command.add_argument("name", help="of the method, such as my_method; the file is NAME.py")
    command.add_argument("--from", dest="source", default="td3_bc", metavar="ALGORITHM", help="default td3_bc")
    command.add_argument("--force", action="store_true", help="replace NAME.py if it is there")
    command.set_defaults(handler=begin)


def write(arguments: argparse.Namespace) -> int:
    """Write the file, whole or not at all."""
    from rlsuite.data.files import write_atomic
    from rlsuite.export.script import export

    out = arguments.out or Path(f"{Path(arguments.algorithm).stem}_single.py")
    _refuse_to_replace(out, arguments.force)
    given = {}
    for text in arguments.set:
        key, sign, value = text.partition("=")
        if not sign:
            raise UserError(f"--set {text} names no value; write it as in --set {key}=VALUE.")
        given[key] = value
    content = export(arguments.algorithm, out.name, given, arguments.variants)
    write_atomic(out, content)
    print(f"rlsuite: {out} has {len(content.splitlines())} lines", file=sys.stderr)
    return 0


def begin(arguments: argparse.Namespace) -> int:
    """Write the starting file, and say what can be done with it."""
    from rlsuite.data.files import write_atomic
    from rlsuite.export.new import begin

    out = Path(f"{arguments.name}.py")
    content = begin(arguments.name, arguments.source, f"./{out}")
    _refuse_to_replace(out, arguments.force)
    write_atomic(out, content)
    print(
        f"{out} is a copy of {arguments.source}, yours to change.\n"
        f"  rlsuite train ./{out} --help\n"
        f'  algorithms = {{ {arguments.source} = "{arguments.source}", mine = "./{out}" }}    in a benchmark table\n'
        f"  rlsuite export ./{out}"
    )
    return 0


def _refuse_to_replace(out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise UserError(f"{out} is there already; choose another name, or replace it with --force.")
