"""`rlsuite data ...`: list, show, build, check and convert datasets."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rlsuite.errors import UserError

if TYPE_CHECKING:
    from rlsuite.data.recipes import Progress


def add_parser(subparsers: Any) -> None:
    """Add `data` to the subparsers of the `rlsuite` command; each leaf sets `handler(arguments) -> exit code`."""
    data = subparsers.add_parser(
        "data", help="list, show, build, check and convert datasets", description=__doc__.split("\n")[0]
    )
    leaves = data.add_subparsers(dest="data_command", metavar="COMMAND", required=True)

    def leaf(name: str, handler: Any, help: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = leaves.add_parser(name, help=help, description=help.capitalize() + ".")
        parser.set_defaults(handler=handler)
        return parser

    name_help = "a dataset's name, or a path to a .hdf5, .npz or Minari folder"
    leaf("list", _list, "datasets that can be built, and those on this machine")
    show = leaf("show", _show, "what a dataset holds and where it comes from")
    show.add_argument("name", metavar="NAME", help=name_help)
    make = leaf("make", _make, "build a recipe's dataset, or let Minari download one")
    make.add_argument("name", metavar="NAME", help="such as rlsuite/hopper/medium-v0")
    make.add_argument("--steps", type=_positive, metavar="N", help="transitions (default: the recipe's size)")
    make.add_argument("--jobs", type=_positive, metavar="K", help="processes (default: all CPUs)")
    make.add_argument("--force", action="store_true", help="build again even if it is there")
    doctor = leaf("doctor", _doctor, "check a dataset; exit code 1 if something is wrong with it")
    doctor.add_argument("name", metavar="NAME_OR_PATH", help=name_help)
    convert = leaf("convert", _convert, "write a dataset in another format, bit for bit")
    convert.add_argument("source", metavar="SRC", help=name_help)
    convert.add_argument("target", metavar="DST", help="FILE.hdf5 (D4RL layout), FILE.npz or a Minari id")
    convert.add_argument("--steps", type=_positive, metavar="N", help="only the first N transitions")
    convert.add_argument("--force", action="store_true", help="replace what is there")
    leaf("scores", _scores, "reference returns behind normalised scores")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_positive.__name__ = "positive whole number"  # what argparse calls it


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A rich table on a terminal, aligned plain columns elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*headers, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in (headers, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _pairs(pairs: Sequence[tuple[str, str]]) -> None:
    width = max(len(key) for key, _ in pairs)
    for key, value in pairs:
        print(f"{key.ljust(width)}  {value}")


@contextlib.contextmanager
def build_progress(name: str) -> Iterator[Progress]:
    """A callback for `load` and `build`: a bar on a terminal, elsewhere a line every five seconds."""
    with contextlib.ExitStack() as stack:
        draw = _draw_bar(name, stack) if sys.stderr.isatty() else _draw_lines(name)
        yield draw


def _draw_bar(name: str, stack: contextlib.ExitStack) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(f"building {name}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))

    def draw(done: int, total: int) -> None:
        if not bar.tasks:
            stack.enter_context(bar)
            bar.add_task("", total=total)
        bar.update(bar.tasks[0].id, completed=done)

    return draw


def _draw_lines(name: str) -> Progress:
    start = last = time.monotonic()

    def draw(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 5 or done == total:
            last = now
            rate = done / max(now - start, 1e-9)
            print(f"building {name}: {done:,} of {total:,} steps, {rate:,.0f} a second", file=sys.stderr, flush=True)

    return draw


def _size(path: Any) -> str:
    size = sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size
    return f"{size / 1e6:.1f} MB"


def _list(arguments: argparse.Namespace) -> int:
    from rlsuite.data import minari_store, recipes, registry

    rows = []
    for name in registry.known():
        recipe = recipes.RECIPES.get(name)
        folder = minari_store.folder(name)
        stored = size = "-"
        env = recipe.env_id if recipe else "-"
        if folder is not None:
            metadata = minari_store.read_metadata(name)
            stored, size = f"{metadata['total_steps']:,}", _size(folder)
            env = env if recipe else minari_store.env_id(metadata) or "-"
        rows.append((name, env, stored, size, f"built here, {recipe.steps:,} steps" if recipe else "Minari"))
    _table(("name", "environment", "stored steps", "size", "source"), rows)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from rlsuite.data import minari_store, recipes, registry, scores

    source = registry.resolve(arguments.name)
    recipe = recipes.RECIPES.get(arguments.name)
    pairs = [("name", source.name), ("kind", {"d4rl": "D4RL-layout HDF5"}.get(source.kind, source.kind))]
    if recipe is not None:
        pairs += [("description", recipe.description), ("environment", recipe.env_id), ("seed", str(recipe.seed))]
        pairs += [("policy", f"{recipe.behaviour or 'uniform'} (sha256 {recipe.policy_sha256 or '-'})")]
    if source.path is None:
        _pairs([*pairs, ("stored", f"not on this machine; `rlsuite data make {source.name}` gets it")])
        return 0
    dataset = source.read()
    lengths = (dataset.episode_ends - dataset.episode_starts).double()
    returns = dataset.episode_returns()
    pairs += [("path", str(source.path))]
    if source.kind in ("recipe", "minari") and recipe is None:
        pairs.append(("description", str(minari_store.read_metadata(source.path).get("description", "-"))))
    if recipe is None:
        pairs.append(("environment", dataset.env_id or "unknown"))
    pairs += [
        ("size", _size(source.path)),
        ("transitions", f"{len(dataset):,}"),
        ("episodes", f"{len(returns):,}, length {lengths.mean():.1f} ({lengths.min():.0f} to {lengths.max():.0f})"),
        ("ends", f"{int(dataset.terminations.sum()):,} terminated, {int(dataset.truncations.sum()):,} truncated"),
        ("returns", f"mean {returns.mean():.1f}, std {returns.std():.1f}, {returns.min():.1f} to {returns.max():.1f}"),
    ]
    normalised = scores.normalized_score(returns, dataset.env_id, dataset.name)
    reference = scores.reference(dataset.env_id, dataset.name)
    if normalised is not None and reference is not None:
        pairs.append(("score", f"mean {normalised.mean():.1f} ({reference.label})"))
    pairs += [
        ("observations", f"{dataset.observation_dim} numbers"),
        ("actions", f"{dataset.action_dim} numbers, low {dataset.action_low}, high {dataset.action_high}"),
        ("content hash", dataset.content_hash),
    ]
    _pairs(pairs)
    return 0


def _make(arguments: argparse.Namespace) -> int:
    from rlsuite.data import recipes, registry

    source = registry.resolve(arguments.name)
    recipe = recipes.RECIPES.get(arguments.name)
    if recipe is not None:
        with build_progress(recipe.id) as progress:
            built = recipes.build(recipe, arguments.steps, arguments.jobs, progress, arguments.force)
        source = registry.resolve(arguments.name)
    elif source.path is None:
        source, built = registry.download(arguments.name), True
    elif source.kind != "minari":
        raise UserError(f"{arguments.name} is a file, so there is nothing to make; see `rlsuite data show`.")
    else:
        built = False
    dataset = registry.load(arguments.name, arguments.steps, build=False)
    _pairs(
        [
            ("dataset", f"{arguments.name} ({'written now' if built else 'already there'})"),
            ("path", str(source.path)),
            ("transitions", f"{len(dataset):,}"),
            ("episodes", f"{len(dataset.episode_starts):,}"),
            ("content hash", dataset.content_hash),
        ]
    )
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from rlsuite.data.doctor import examine

    findings = examine(arguments.name)
    for finding in findings:
        print(finding)
    wrong = [finding for finding in findings if finding.severity != "note"]
    if wrong:
        print(f"{arguments.name}: {len(wrong)} of the checks failed.")
    else:
        print(f"{arguments.name} is sound.")
    return 1 if wrong else 0


def _convert(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from rlsuite.data import formats, registry

    target = Path(arguments.target).expanduser()
    is_file = target.suffix in (".hdf5", ".h5", ".npz")
    if is_file and target.exists() and not arguments.force:
        raise UserError(f"{target} exists already; choose another name or pass --force.")
    source = registry.resolve(arguments.source)
    if source.path is None and source.kind == "minari":
        source = registry.download(arguments.source)
    recording = source.recording(arguments.steps)
    if target.suffix == ".npz":
        formats.write_npz(recording, target)
    elif is_file:
        formats.write_d4rl(recording, target)
    else:
        formats.write_minari(recording, arguments.target, overwrite=arguments.force)
    print(f"{len(recording):,} transitions of {source.name} written to {arguments.target}")
    return 0


def _scores(arguments: argparse.Namespace) -> int:
    from rlsuite.data.scores import references

    found = references()
    _table(("label", "for", "random", "expert"), [(r.label, r.key, f"{r.random:g}", f"{r.expert:g}") for r in found])
    print()
    sources = {
        f"{r.label}: random, {r.random_source}; expert, {r.expert_source}"
        if r.random_source != r.expert_source
        else f"{r.label}: {r.random_source}"
        for r in found
    }
    print("\n".join(sorted(sources)))
    return 0
