"""Doctor under fire: variants of small files, each damaged in one way, each loaded as it was or refused in a sentence.

Every variant is loaded, examined and converted in a child process, so that a crash of a library is one failed variant.
Whatever the damage: nothing but UserError leaves these three, in one printable line; the doctor reports what a load
refuses and finds no error in what it accepts; memory does not grow; no file is left. Beside that, by the kind of file:

- ours (a recipe's Minari folder, .hdf5 and .npz that were written here): what is loaded or converted is the original,
  bit for bit. A rewritten file counts as ours as long as it has our header.
- an .npz by others: the same for changed bytes, because zip keeps a checksum of each array.
- HDF5 and Minari by others: changed bytes may change a number that nothing vouches for, so they may load with it.
- another structure or other values in files by others: `Change.verdict` says for each what must come of it.
- another field in the metadata.json of a Minari dataset by others: refused, or loaded with the arrays of the original.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import minari
import numpy as np

from rlsuite.data import doctor, formats, minari_store, recipes, registry
from rlsuite.data.dataset import ARRAYS
from rlsuite.data.recording import Header, Recording, Space, env_spec
from rlsuite.errors import UserError

STEPS = 200
BYTES = {"ours": 260, "others": 150}  # variants of each file with other bytes
RECIPE = "rlsuite/hopper/random-v0"
SECONDS = 20  # a variant may take, on a busy machine
MEMORY = 2**28  # bytes by which a child may grow

# structure and values

MATRICES = ("observations", "actions", "next_observations")
FLAGS = ("terminals", "timeouts")
NUMBERS = (*MATRICES, "rewards")
ALL = (*NUMBERS, *FLAGS)
MINARI = {"terminals": "terminations", "timeouts": "truncations"}


class Change(NamedTuple):
    """What is done to a column, to which columns, and what must come of it in a file by others.

    "refused"; "same", the arrays of the original; "loads", with whatever the file now says.
    """

    label: str
    columns: tuple[str, ...]
    function: Callable[[np.ndarray], Any]
    verdict: str


class Instead(enum.Enum):
    """What may stand in a file instead of an array."""

    NOTHING, OTHER_NAME, GROUP, PICKLE = enum.auto(), enum.auto(), enum.auto(), enum.auto()


def put(row: int, value: Any, dtype: Any = None) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(dtype or array.dtype)
        array[row] = value
        return array

    return change


CHANGES = [
    Change("one row less", ALL, lambda a: a[:-1], "refused"),
    Change("one row more", ALL, lambda a: np.concatenate([a, a[-1:]]), "refused"),
    Change("empty", ALL, lambda a: a[:0], "refused"),
    Change("scalar", ALL, lambda a: a.flat[0], "refused"),
    Change("transposed", MATRICES, lambda a: a.T, "refused"),
    Change("flattened", MATRICES, lambda a: a.ravel(), "refused"),
    Change("three dimensions", ALL, lambda a: a.reshape(len(a), -1, 1).repeat(2, 2), "refused"),
    Change("no columns", MATRICES, lambda a: a[:, :0], "refused"),
    Change("text", ALL, lambda a: np.full(a.shape, b"1.0"), "refused"),
    Change("complex", ALL, lambda a: a.astype(complex), "refused"),
    Change("structured", ALL, lambda a: np.zeros(a.shape, [("x", "f4"), ("y", "f4")]), "refused"),
    Change("group", ALL, lambda a: Instead.GROUP, "refused"),
    Change("missing", ("observations", "actions", "rewards", "terminals"), lambda a: Instead.NOTHING, "refused"),
    Change("renamed", ("observations", "actions", "rewards", "terminals"), lambda a: Instead.OTHER_NAME, "refused"),
    Change("NaN", NUMBERS, put(3, np.nan), "refused"),
    Change("infinity", NUMBERS, put(-1, -np.inf), "refused"),
    Change("more than float32 holds", NUMBERS, put(3, 1e300, "f8"), "refused"),
    Change("out of bounds", ("actions",), put(3, 1.5), "refused"),  # D4RL's file names tell the bounds
    Change("big-endian", NUMBERS, lambda a: a.astype(a.dtype.newbyteorder(">")), "same"),
    Change("another number", NUMBERS, put(3, 0.125), "loads"),
    Change("rows reversed", NUMBERS, lambda a: a[::-1], "loads"),
    Change("half precision", NUMBERS, lambda a: a.astype("f2"), "loads"),
    Change("flipped", FLAGS, put(3, True), "loads"),
    Change("as 0 and 1", FLAGS, lambda a: a.astype("i8"), "same"),
    Change("another byte", FLAGS, lambda a: put(3, 7, "u1")(a).view(bool), "refused"),
]
FLAT_CHANGES = [  # of columns alone, whose flags may have any type and where some may be absent
    Change("as 0.0 and 1.0 in a column", FLAGS, lambda a: a.astype("f4")[:, None], "same"),
    Change("NaN", FLAGS, put(3, np.nan, "f4"), "refused"),
    Change("2", FLAGS, put(3, 2, "i4"), "refused"),
    Change("-1", FLAGS, put(3, -1, "f8"), "refused"),
    Change("pickle", ALL, lambda a: Instead.PICKLE, "refused"),
    Change("missing", ("next_observations", "timeouts", "episode_starts"), lambda a: Instead.NOTHING, "loads"),
    Change("renamed", ("next_observations", "timeouts", "episode_starts"), lambda a: Instead.OTHER_NAME, "loads"),
    Change("empty", ("episode_starts",), lambda a: a[:0], "refused"),
    Change("late", ("episode_starts",), lambda a: a + 1, "refused"),
    Change("negative", ("episode_starts",), put(1, -5), "refused"),
    Change("huge", ("episode_starts",), put(-1, 2**62), "refused"),
    Change("unsigned and huge", ("episode_starts",), put(-1, 2**64 - 1, "u8"), "refused"),
    Change("falling", ("episode_starts",), lambda a: a[::-1], "refused"),
    Change("repeated", ("episode_starts",), lambda a: a.repeat(2), "refused"),
    Change("NaN", ("episode_starts",), put(1, np.nan, "f8"), "refused"),
    Change("a fraction", ("episode_starts",), put(1, 50.5, "f8"), "refused"),
    Change("scalar", ("episode_starts",), lambda a: a[0], "refused"),
    Change("group", ("episode_starts",), lambda a: Instead.GROUP, "refused"),
    Change("one fewer", ("episode_starts",), lambda a: a[:-1], "loads"),
]
HEADERS = ["", "{}", "[]", "null", "1", "[" * 100_000, '{"header": "{}", "sha256": ""}', 5, [1.5, np.nan]]
JUNK = [
    Instead.NOTHING,
    -1,
    0,
    1,
    STEPS // 2,
    10**18,
    1.5,
    np.nan,
    True,
    "x",
    "\ud800\n",
    "[" * 50_000,
    None,
    [],
    [[]],
    {},
    {"a": 1},
]
TEXTS = [b"", b"null", b"[]", b"{}", b"1", b"[" * 500_000, b'{"a":' * 100_000, b"\xff\xfe", b"\0" * 99, b"not JSON"]


def place(file: h5py.File, column: str) -> str:
    """Where a column stands in a flat file or, its second episode, in a Minari file; "" if nowhere."""
    minari_name = f"episode_1/{MINARI.get(column, column)}"
    return next((name for name in (column, f"metadata/{column}", minari_name) if name in file), "")


def change_hdf5(path: Path, change: Change, column: str) -> bool:
    """False where there is nothing to change."""
    with h5py.File(path, "r+") as file:
        name = place(file, column)
        value = change.function(file[name][()]) if name else Instead.PICKLE
        if value is Instead.PICKLE:
            return False
        if value is Instead.OTHER_NAME:
            file[f"{name}_"] = file[name]
        del file[name]
        if value is Instead.GROUP:
            file.create_group(name)
        elif not isinstance(value, Instead):
            file[name] = value
    return True


def change_npz(path: Path, change: Change, column: str) -> bool:
    with np.load(path) as file:
        arrays = dict(file)
    name = column if column in arrays else MINARI.get(column, column)
    value = change.function(arrays[name])
    if value is Instead.GROUP:
        return False
    if value is Instead.PICKLE:
        value = arrays[name].astype(object)
    if value is Instead.OTHER_NAME:
        arrays[f"{name}_"] = arrays[name]
    if isinstance(value, Instead):
        del arrays[name]
    else:
        arrays[name] = value
    np.savez(path, allow_pickle=True, **arrays)  # writing the trap; nothing of ours reads one
    return True


def without_seal(path: Path) -> None:
    """The same HDF5 objects in a new file."""
    copy = path.with_name("copy")
    with h5py.File(path) as old, h5py.File(copy, "w") as new:
        for name in old:
            old.copy(name, new)
        new.attrs.update(old.attrs)
    copy.replace(path)


def put_header(path: Path, text: Any) -> None:
    if path.suffix == ".npz":
        with np.load(path) as file:
            arrays = {**file, formats.HEADER: np.array(text)}
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "r+") as file:
            file.attrs[formats.HEADER] = text


# bytes


def damaged(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """One kind of damage, half of the time near the beginning or the end, where formats keep their structure."""
    size = len(content)
    head, tail = rng.integers(min(size, 2048)), size - 1 - rng.integers(min(size, 2048))
    at = int(rng.choice([rng.integers(size), rng.integers(size), head, tail]))
    run = int(rng.integers(1, 600))
    kind = str(rng.choice(["bit", "byte", "bytes", "zeros", "noise", "cut", "removed", "repeated", "inserted", "tail"]))
    data, noise = bytearray(content), rng.bytes(run)
    if kind == "bit":
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == "byte":
        data[at] = int(rng.integers(256))
    elif kind == "bytes":
        for position in (at, *rng.integers(size, size=7)):
            data[position] = int(rng.integers(256))
    elif kind == "zeros":
        data[at : at + run] = bytes(len(data[at : at + run]))
    elif kind == "noise":
        data[at : at + run] = noise[: len(data[at : at + run])]
    elif kind == "cut":
        del data[at:]
    elif kind == "removed":
        del data[at : at + run]
    elif kind == "repeated":
        data[at:at] = data[at : at + run]
    elif kind == "inserted":
        data[at:at] = noise
    else:
        data += noise
    return f"{kind} at {at}", bytes(data)


# the files


@dataclass
class Case:
    """A dataset in files, the first of which holds the arrays; `verdicts` are those that are right for other bytes."""

    name: str
    files: list[Path]
    verdicts: str = "refused same"
    ours: bool = True
    options: dict[str, Any] = field(default_factory=dict)  # of a load of all

    def __post_init__(self) -> None:
        self.contents = [path.read_bytes() for path in self.files]

    def restore(self) -> None:
        for path, content in zip(self.files, self.contents, strict=True):
            path.write_bytes(content)


def sample() -> Recording:
    """Four episodes of 50 rows, in Gymnasium's dtypes."""
    rng = np.random.default_rng(0)
    chains = rng.normal(size=(4, 51, 11))
    terminations, truncations = np.zeros((2, STEPS), bool)
    terminations[[49, 149]] = truncations[[99, 199]] = True
    unit, unbounded = np.ones(3), np.full(11, np.inf)
    return Recording(
        chains[:, :-1].reshape(-1, 11),
        rng.uniform(-1, 1, (STEPS, 3)).astype(np.float32),
        rng.normal(size=STEPS),
        chains[:, 1:].reshape(-1, 11),
        terminations,
        truncations,
        np.arange(0, STEPS, 50),
        "sample",
        Header(Space(-unbounded, unbounded, "float64"), Space(-unit, unit, "float32"), env_spec("Hopper-v5")),
    )


def our_minari(folder: Path) -> Case:
    recipes.build(recipes.RECIPES[RECIPE], STEPS, jobs=1)
    data = minari_store.root() / RECIPE / "data"
    assert {"content_hash", "file_sha256"} <= minari_store.read_metadata(RECIPE)["rlsuite"].keys()
    return Case(RECIPE, [data / "main_data.hdf5", data / "metadata.json"], options={"build": False, "steps": STEPS})


def our_hdf5(folder: Path) -> Case:
    formats.write_d4rl(sample(), folder / "a.hdf5")
    return Case(str(folder / "a.hdf5"), [folder / "a.hdf5"])


def our_npz(folder: Path) -> Case:
    formats.write_npz(sample(), folder / "a.npz")
    return Case(str(folder / "a.npz"), [folder / "a.npz"])


def their_columns() -> dict[str, np.ndarray]:
    recording = sample()
    return {key: getattr(recording, MINARI.get(key, key)) for key in (*ALL, "episode_starts")}


def their_hdf5(folder: Path) -> Case:
    path = folder / "hopper_medium-v2.hdf5"
    with h5py.File(path, "w") as file:
        for key, value in their_columns().items():
            file["metadata/episode_starts" if key == "episode_starts" else key] = value
        file["infos/qpos"] = np.zeros((STEPS, 6))
        file["metadata/algorithm"] = np.bytes_("SAC")
    return Case(str(path), [path], "refused same loads", ours=False)


def their_npz(folder: Path) -> Case:
    np.savez(folder / "a.npz", **their_columns())
    return Case(str(folder / "a.npz"), [folder / "a.npz"], ours=False)


def their_minari(folder: Path) -> Case:
    buffers = [
        minari.data_collector.EpisodeBuffer(
            observations=episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=episode.terminations,
            truncations=episode.truncations,
            infos={},
        )
        for episode in sample().episodes()
    ]
    minari.create_dataset_from_buffers("their/sample-v0", buffers, env="Hopper-v5", data_format="hdf5")
    data = minari_store.root() / "their/sample-v0/data"
    return Case("their/sample-v0", [data / "main_data.hdf5", data / "metadata.json"], "refused same loads", ours=False)


CASES = {make.__name__: make for make in (our_minari, our_hdf5, our_npz, their_hdf5, their_npz, their_minari)}

# the variants: each is on the disk when its label and the verdicts that are right for it are given


def variants(case: Case) -> Iterator[tuple[str, str]]:
    yield "untouched", "same"
    case.files[0].unlink()
    yield "absent", "refused"
    rng = np.random.default_rng(0)
    for k in range(BYTES["ours" if case.ours else "others"]):
        path, content = list(zip(case.files, case.contents, strict=True))[k % len(case.files)]
        label, data = damaged(content, rng)
        path.write_bytes(data)
        yield f"{path.name}: {label}", "refused same" if path.suffix == ".json" else case.verdicts
    yield from arrays(case)
    yield from sizes(case.files[0])
    if len(case.files) == 2:
        yield from metadata(case.files[1])


def arrays(case: Case) -> Iterator[tuple[str, str]]:
    path, is_minari = case.files[0], len(case.files) == 2
    for change in CHANGES if is_minari else CHANGES + FLAT_CHANGES:
        for column in change.columns:
            verdicts = {"loads": "same loads"}.get(change.verdict, change.verdict)
            if path.suffix == ".npz" and change.label == "out of bounds":
                verdicts = "loads"
            label = f"{column}: {change.label}"
            if (change_npz if path.suffix == ".npz" else change_hdf5)(path, change, column):
                yield label, "refused" if case.ours else verdicts
                if case.ours and case.name.endswith(".hdf5"):
                    change_hdf5(path, change, column)
                    without_seal(path)
                    yield f"{label}, without the seal", "refused"
    if not is_minari:
        for text in HEADERS:
            put_header(path, text)
            yield f"header: {text!r:.30}", "refused"


def sizes(path: Path) -> Iterator[tuple[str, str]]:
    """Arrays that are smaller or much larger than what is stored of them."""
    if path.suffix == ".npz":
        content = path.read_bytes()
        for match in re.finditer(rb"'<f8'|\(200,", content):
            wrong = {b"'<f8'": b"'<f4'", b"(200,": b"(100,"}[match[0]]
            path.write_bytes(content[: match.start()] + wrong + content[match.end() :])
            yield f"{match[0]!r} at {match.start()} says {wrong!r}", "refused"
    else:
        for column in ("observations", "rewards"):
            with h5py.File(path, "r+") as file:
                name = place(file, column)
                shape = (MEMORY // 2, *file[name].shape[1:])
                del file[name]
                file.create_dataset(name, shape, "f4", chunks=True)
            yield f"{column}: {shape} without content", "refused"


def metadata(path: Path) -> Iterator[tuple[str, str]]:
    """Another value in each field of metadata.json, and other texts."""
    original = path.read_text()
    for text in TEXTS:
        path.write_bytes(text)
        yield f"metadata.json: {text!r:.30}", "refused"
    keys = [(key,) for key in json.loads(original)]
    keys += [("rlsuite", key) for key in json.loads(original).get("rlsuite", ())]
    for *parents, key in keys:
        for junk in JUNK:
            content = json.loads(original)
            parent = content[parents[0]] if parents else content
            if junk is Instead.NOTHING:
                del parent[key]
            else:
                parent[key] = junk
            path.write_text(json.dumps(content))
            yield f"{key}: {junk!r:.30}", "refused same"


# the child


def attempt(case: Case, folder: Path, expected: dict[str, Any]) -> tuple[str, str]:
    """What becomes of what is on the disk: "refused", "same", "loads" (other numbers), and a message.

    Raises AssertionError where the doors to the data disagree, and whatever else leaves them.
    """
    found: dict[str, Any] = {}
    messages = []
    for door, enter in DOORS.items():
        try:
            found[door] = enter(case, folder)
        except UserError as error:
            found[door] = None
            messages.append(str(error))
    for message in messages:
        assert message.isprintable() and message.endswith(".") and len(message) < 1000, message
    if not case.options:  # a recipe by its name: also a question of this version, of how many steps are wanted
        assert found["examine"] is not True or found["load"] is None, "the doctor finds an error in what a load accepts"
        assert found["examine"] is not False or found["load"] is not None, "the doctor passes what a load refuses"
    del found["examine"]
    outcomes = {
        door: "refused" if value is None else "same" if value == expected.get(door, value) else "loads"
        for door, value in found.items()
    }
    changed = "loads" in outcomes.values()
    if found["load"] is None and not (case.ours and changed):  # by others, what cannot be used may still be copied
        return "refused", " | ".join(messages)
    return "loads" if changed else "same", f"{outcomes} {' | '.join(messages)}"


def load(case: Case, folder: Path) -> str:
    return registry.load(case.name, **case.options).content_hash


def load_part(case: Case, folder: Path) -> str:
    return registry.load(case.name, **{**case.options, "steps": STEPS // 2}).content_hash


def examine(case: Case, folder: Path) -> bool:
    """Whether there are errors."""
    findings = doctor.examine(case.name)
    assert all(finding.message.isprintable() for finding in findings)
    return any(finding.severity == "error" for finding in findings)


def convert(case: Case, folder: Path) -> str:
    """A hash of the copy, in the dtypes that are stored."""
    copy = folder / "copy.npz"
    try:
        formats.write_npz(registry.resolve(case.name).recording(), copy)
        try:
            recording = formats.npz_recording(copy)
        except UserError as error:
            raise AssertionError("a copy was made that cannot be read") from error
    finally:
        copy.unlink(missing_ok=True)
    digest = hashlib.sha256()
    for array in (getattr(recording, key) for key in ARRAYS):
        digest.update(repr((array.dtype.kind, array.dtype.itemsize, array.shape)).encode())
        digest.update(array.astype(array.dtype.newbyteorder("=")).tobytes())
    return digest.hexdigest()


DOORS: dict[str, Callable[[Case, Path], Any]] = {
    "load": load,
    "load_part": load_part,
    "examine": examine,
    "convert": convert,
}


def files_in(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(kind: str, folder: Path) -> None:
    """A line of JSON before each variant, [kind, label], and one after it, [verdicts, outcome, message]."""
    case = CASES[kind](folder)
    expected = {door: enter(case, folder) for door, enter in DOORS.items()}
    files, before = files_in(folder), peak()
    for label, verdicts in variants(case):
        print(json.dumps([kind, label]), flush=True)
        signal.alarm(SECONDS)  # which ends the process, also inside a library
        try:
            outcome, message = attempt(case, folder, expected)
            assert not (left := files_in(folder) - files), left
            assert peak() - before < MEMORY, f"{peak() - before} bytes of memory"
        except Exception:
            outcome, message = "raised", traceback.format_exc()
        print(json.dumps([verdicts, outcome, message]), flush=True)
        signal.alarm(0)
        case.restore()


def main(folder: Path, kinds: list[str]) -> None:
    warnings.simplefilter("ignore")
    os.fsync = lambda descriptor: None  # nothing here must outlast the machine, and it costs more than all the rest
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 8 * MEMORY, resource.RLIM_INFINITY))
    for kind in kinds:
        serve(kind, folder)


# the tests


def outcomes(folder: Path, *kinds: str) -> dict[str, Counter[str]]:
    """How many variants of each kind came to what. Fails where some came to something else than they should."""
    command = [sys.executable, __file__, str(folder), *kinds]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    labels, results = lines[::2], lines[1::2]
    assert done.returncode == 0, f"died at {labels[-1:]}: {done.stderr[-2000:]}"
    wrong = [
        f"{kind}, {label}: {outcome} instead of {verdicts}: {message}"
        for (kind, label), (verdicts, outcome, message) in zip(labels, results, strict=True)
        if outcome not in verdicts.split()
    ]
    assert not wrong, f"{len(wrong)} variants, such as\n" + "\n".join(wrong[:10])
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    for (kind, _), (_, outcome, _) in zip(labels, results, strict=True):
        counts[kind][outcome] += 1
    return counts


def test_a_thousand_variants_of_our_files(tmp_path: Path) -> None:
    counts = outcomes(tmp_path, "our_minari", "our_hdf5", "our_npz")
    for count in counts.values():
        assert set(count) == {"refused", "same"}, counts
        assert count["same"] > 10, counts  # what no reader looks at may change
        assert count["refused"] > 300, counts
    assert sum(count.total() for count in counts.values()) >= 1000


def test_variants_of_files_by_others(tmp_path: Path) -> None:
    counts = outcomes(tmp_path, "their_hdf5", "their_npz", "their_minari")
    for count in counts.values():
        assert set(count) == {"refused", "same", "loads"}, counts
        assert count["refused"] > 150, counts
        assert count["same"] > 20, counts
    assert sum(count.total() for count in counts.values()) >= 800


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
