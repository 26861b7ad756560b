"""`rlsuite data ...`: list, show, build, check and convert datasets."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsuite.errors import UserError

if TYPE_CHECKING:
    from rlsuite.data.cards import Card
    from rlsuite.data.recipes import Progress
    from rlsuite.data.registry import Source
    from rlsuite.data.scores import Reference


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
    show.add_argument("names", metavar="NAME", nargs="+", help=name_help)
    show.add_argument("--card", metavar="FOLDER", type=Path, help="write Markdown and a picture there instead")
    make = leaf("make", _make, "build a recipe's dataset, continuing an interrupted build, or let Minari download one")
    make.add_argument("name", metavar="NAME", help="such as rlsuite/hopper/medium-v0")
    make.add_argument("--steps", type=_positive, metavar="N", help="transitions (default: the recipe's size)")
    make.add_argument("--jobs", type=_positive, metavar="K", help="processes (default: all CPUs)")
    make.add_argument("--force", action="store_true", help="build or download again even if it is there")
    doctor = leaf("doctor", _doctor, "check a dataset; exit code 1 if something is wrong with it")
    doctor.add_argument("name", metavar="NAME_OR_PATH", help=name_help)
    convert = leaf("convert", _convert, "write a dataset in another format, bit for bit")
    convert.add_argument("source", metavar="SRC", help=name_help)
    convert.add_argument("target", metavar="DST", help="FILE.hdf5 (D4RL layout), FILE.npz or a Minari id")
    convert.add_argument("--steps", type=_positive, metavar="N", help="only the first N transitions")
    convert.add_argument("--force", action="store_true", help="replace what is there")
    scores = leaf("scores", _scores, "reference returns behind normalised scores")
    scores.add_argument("name", metavar="NAME", nargs="?", help="an environment or a dataset: all about its reference")


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
    """Names and values in two columns; on a terminal the second is wrapped."""
    margin = max(len(key) for key, _ in pairs) + 2
    room = max(shutil.get_terminal_size().columns, margin + 20) if sys.stdout.isatty() else sys.maxsize
    for key, value in pairs:
        lines = textwrap.wrap(value, room - margin, break_long_words=False, break_on_hyphens=False)
        print(key.ljust(margin) + f"\n{' ' * margin}".join(lines or [""]))


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
    from rlsuite.data import recipes, registry

    sources = [registry.resolve(name) for name in arguments.names]
    if arguments.card is not None:
        _write_cards(sources, arguments.card)
        return 0
    for number, source in enumerate(sources):
        if number:
            print()
        pairs = [("name", source.name), ("kind", {"d4rl": "D4RL-layout HDF5"}.get(source.kind, source.kind))]
        if source.path is not None:
            _show_stored(source, [*pairs, ("path", str(source.path)), ("size", _size(source.path))])
            continue
        recipe = recipes.RECIPES.get(source.name)
        if recipe is not None:
            pairs += [("description", recipe.description), ("environment", recipe.env_id), ("seed", str(recipe.seed))]
            pairs += [("behaviour", ", ".join(recipe.behaviours)), ("transitions", f"{recipe.steps:,} by default")]
        _pairs([*pairs, ("stored", f"not on this machine; `rlsuite data make {source.name}` gets it")])
    return 0


def _show_stored(source: Source, pairs: list[tuple[str, str]]) -> None:
    from rlsuite.data import cards

    card = _card(source)
    _pairs(pairs + cards.facts(card))
    print("\nepisodes by return")
    print("\n".join(cards.histogram(card.returns, _block())))
    if card.parts:
        print()
        _table(cards.PART_HEADER, cards.part_rows(card))


def _card(source: Source) -> Card:
    """The card of stored data. Raises UserError where the data are absent or unsound."""
    from rlsuite.data import cards, doctor

    recording = source.recording(dtype="float32")
    dataset, metadata = recording.dataset(), recording.header.metadata
    del recording
    doctor.check(dataset)
    return cards.card(dataset, metadata)


def _block() -> str:
    """What bars are drawn with."""
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#"
    return "█"


def _write_cards(sources: Sequence[Source], folder: Path) -> None:
    """A card and a picture for each dataset, and the folder's table of contents where that is ours to write."""
    from rlsuite.data import cards
    from rlsuite.data.files import write_atomic

    for source in sources:
        if source.path is None:
            raise UserError(f"{source.name} is not on this machine; get it with `rlsuite data make {source.name}`.")
    contents = folder / "README.md"
    for source in sources:
        card = _card(source)
        write_atomic(folder / f"{card.stem}.png", cards.png(card))
        write_atomic(folder / f"{card.stem}.md", cards.markdown(card))
        old = contents.read_text(encoding="utf-8", errors="replace") if contents.is_file() else cards.INDEX_TITLE
        if old.startswith(cards.INDEX_TITLE):
            write_atomic(contents, cards.index([card], old))
        print(f"{source.name}: {folder / card.stem}.md and .png")


def _make(arguments: argparse.Namespace) -> int:
    from rlsuite.data import minari_store, recipes, registry

    source = registry.resolve(arguments.name)
    recipe = recipes.RECIPES.get(arguments.name)
    if recipe is not None:
        with build_progress(recipe.id) as progress:
            built = recipes.build(recipe, arguments.steps, arguments.jobs, progress, arguments.force)
        source = registry.resolve(arguments.name)
    elif source.path is None or (arguments.force and source.kind == "minari" and minari_store.is_id(arguments.name)):
        source, built = registry.download(arguments.name, arguments.force), True
    elif source.kind != "minari":
        raise UserError(f"{arguments.name} is a file, so there is nothing to make; see `rlsuite data show`.")
    else:
        built = False
    pairs = [
        ("dataset", f"{arguments.name} ({'written now' if built else 'already there'})"),
        ("path", str(source.path)),
    ]
    metadata = minari_store.read_metadata(source.path or source.name)
    content_hash = metadata["rlsuite"]["content_hash"] if recipe is not None else None
    if content_hash is None:  # foreign data: only the arrays tell
        content_hash = registry.load(arguments.name, build=False).content_hash
    pairs += [
        ("transitions", f"{metadata['total_steps']:,}"),
        ("episodes", f"{metadata['total_episodes']:,}"),
        ("content hash", content_hash),
    ]
    _pairs(pairs)
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

    if arguments.name is not None:
        _pairs(_provenance(arguments.name))
        return 0
    for number, label in enumerate(dict.fromkeys(_collection(r) for r in references())):
        rows = [r for r in references() if _collection(r) == label]
        print(f"{chr(10) if number else ''}{label}")
        if rows[0].scope == "d4rl":
            _table(("robot", "random", "expert"), [(r.key, *_returns(r)) for r in rows])
            print("\n".join(dict.fromkeys(r.source for r in rows)))
        else:
            header = ("environment", "random", "expert", "expert policy")
            _table(header, [(r.key, *_returns(r), r.expert_policy) for r in rows])
    print("\nScore: 100 * (return - random) / (expert - random). Under different references, scores do not compare.")
    print("`rlsuite data scores NAME` tells where one comes from.")
    return 0


def _collection(reference: Reference) -> str:
    if reference.scope == "d4rl":
        return f"{reference.label}: constants for D4RL's own data, one pair a robot"
    return f"rlsuite: measured here, mean ± standard deviation over {reference.episodes} episodes"


def _returns(reference: Reference) -> tuple[str, str]:
    """Random and expert return in words; constants without a spread to their last digit."""
    from rlsuite.data.scores import mean_and_std

    both = ((reference.random, reference.random_std), (reference.expert, reference.expert_std))
    random, expert = (f"{mean:,}" if std is None else mean_and_std(mean, std) for mean, std in both)
    return random, expert


def _provenance(name: str) -> list[tuple[str, str]]:
    """All that is known about the reference of an environment or of a dataset. Raises UserError where none is."""
    from rlsuite.data import registry, scores
    from rlsuite.data.names import D4RL_NAME, split_episodes
    from rlsuite.errors import nearest

    name = split_episodes(name)[0]
    known = {r.key: r for r in scores.references()}
    found = known.get(name)
    env_id = None
    if found is None and D4RL_NAME.fullmatch(name):
        found = scores.reference(None, name)
    elif found is None:
        with contextlib.suppress(UserError):
            env_id = _environment(registry.resolve(name))
        found = scores.reference(env_id, name)
    if found is None and env_id is not None:
        raise UserError(f"{name} is of {env_id}, which has no reference returns, so its returns have no score.")
    if found is None:
        raise UserError(f"there are no reference returns for '{name}'; {nearest(name, known)}")
    random, expert = _returns(found)
    pairs = [
        ("label", found.label),
        ("environment" if found.scope == "environment" else "D4RL's robot", found.key),
        ("random", f"{random}  {found.random_policy}".strip()),
        ("expert", f"{expert}  {found.expert_policy}".strip()),
        ("episodes", "" if found.episodes is None else f"{found.episodes} each, of seed {found.seed}"),
        ("expert sha256", found.expert_sha256),
        ("versions", found.versions),
        ("date", found.date),
        ("source", found.source),
    ]
    return [pair for pair in pairs if pair[1]]


def _environment(source: Source) -> str | None:
    """The environment of a dataset, as cheaply as its kind allows."""
    from rlsuite.data import minari_store, recipes

    if source.kind == "recipe":
        return recipes.RECIPES[source.name].env_id
    if source.kind == "minari":
        return minari_store.env_id(minari_store.read_metadata(source.path)) if source.path else None
    return source.recording().header.env_id
