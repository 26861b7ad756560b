"""From a dataset's name to the dataset.

rlsuite/hopper/medium-v0      built here by a recipe
mujoco/hopper/medium-v0       any other Minari id, downloaded by Minari if absent
d4rl/hopper-medium-v2         D4RL's file hopper_medium-v2.hdf5 in D4RL_DATASET_DIR or ~/.d4rl/datasets
FILE.hdf5, FILE.h5, FILE.npz  D4RL layout, or plain arrays
FOLDER                        a Minari dataset
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlsuite.data import doctor, formats, minari_store, recipes
from rlsuite.data.dataset import Dataset
from rlsuite.data.names import D4RL_NAME
from rlsuite.data.recording import Recording
from rlsuite.errors import UserError, nearest

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Source:
    """What a name resolved to."""

    name: str
    kind: str  # "recipe", "minari", "d4rl" or "npz"
    path: Path | None  # None for a recipe that is not built yet

    def recording(self, steps: int | None = None, drop_timeouts: bool = False, dtype: Any = None) -> Recording:
        """The first `steps` rows of what is stored, in the source's dtypes or `dtype`."""
        if self.path is None:
            raise UserError(f"{self.name} is not built on this machine; run `rlsuite data make {self.name}`.")
        if self.kind == "d4rl":
            return formats.d4rl_recording(self.path, drop_timeouts).first(steps)
        if self.kind == "npz":
            return formats.npz_recording(self.path, drop_timeouts).first(steps)
        recording = minari_store.read_recording(self.path, steps, dtype)
        return formats.as_qlearning(recording) if drop_timeouts else recording

    def read(self, steps: int | None = None, drop_timeouts: bool = False) -> Dataset:
        return self.recording(steps, drop_timeouts, np.float32).dataset()

    def content_hash(self) -> str | None:
        """The hash that was stored when the dataset was built."""
        if self.kind != "recipe" or self.path is None:
            return None
        stored: str | None = minari_store.read_metadata(self.path).get("rlsuite", {}).get("content_hash")
        return stored


def known() -> list[str]:
    """Names that can be loaded without the network: recipes and local Minari datasets."""
    import minari

    return sorted({*recipes.RECIPES, *minari.list_local_datasets()})


def resolve(name: str) -> Source:
    """Where `name` points to. Raises UserError, with the nearest known name, for what is neither a name nor a file."""
    path = Path(name).expanduser()
    if name in recipes.RECIPES:
        return Source(name, "recipe", minari_store.folder(name))
    if path.suffix in (".hdf5", ".h5", ".npz"):
        if not path.is_file():
            raise UserError(f"there is no file {path}; check the path.")
        return Source(name, "npz" if path.suffix == ".npz" else "d4rl", path)
    if name.startswith("d4rl/"):
        return _d4rl_file(name)
    stored = minari_store.folder(name)
    if stored is not None:
        return Source(name, "minari", stored)
    if path.exists():
        raise UserError(
            f"{path} is no dataset; give a D4RL-layout .hdf5 file, an .npz file or the folder of a Minari dataset."
        )
    namespace = name.split("/")[0]
    if not minari_store.is_id(name) or namespace in ("rlsuite", name):
        raise UserError(f"there is no dataset '{name}'; {nearest(name, known())}")
    return Source(name, "minari", None)


def _d4rl_file(name: str) -> Source:
    match = D4RL_NAME.fullmatch(name)
    folder = Path(os.environ.get("D4RL_DATASET_DIR", "~/.d4rl/datasets")).expanduser()
    stem = name.removeprefix("d4rl/")
    robot = match["robot"] if match else stem.split("-")[0]
    file = folder / f"{stem.replace('-', '_', stem.count('-') - 1)}.hdf5"
    if not file.is_file():
        raise UserError(
            f"{name} needs D4RL's file {file.name} in {folder}; fetch it from D4RL's server for {robot}, "
            "or use a dataset that is built here (`rlsuite data list`)."
        )
    return Source(name, "d4rl", file)


def download(name: str) -> Source:
    """Let Minari fetch a dataset. Raises UserError saying what to do where it cannot."""
    import minari

    try:
        minari.download_dataset(name)
    except Exception as error:  # Minari's remotes raise what their libraries raise
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise UserError(
            f"{name} is not on this machine and could not be downloaded ({reason}); go online (and have "
            f"`pip install 'minari[hf]'`), copy it to {minari_store.root()}, or check the id: "
            f"{nearest(name, known())}"
        ) from error
    return resolve(name)


def load(
    name: str,
    steps: int | None = None,
    drop_timeouts: bool = False,
    build: bool = True,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Dataset:
    """A dataset by name (see the module), as float32 on `device`.

    `steps` takes the first rows; a recipe's dataset is built first, or built larger, if that many (default: the
    recipe's size) are not stored, unless `build` is False; `progress(done, total)` is called meanwhile. `drop_timeouts`
    gives the rows that `d4rl.qlearning_dataset` would give for these data (of the first `steps` rows where it is a
    Minari dataset). The cheap part of the doctor runs: UserError for NaN, infinities, actions out of bounds and the
    like, a warning for milder defects.
    """
    source = resolve(name)
    if source.kind == "recipe":
        recipe = recipes.RECIPES[name]
        steps = recipe.steps if steps is None else steps
        if build:
            recipes.build(recipe, steps, progress=progress)
            source = resolve(name)
        elif (stored := recipes.stored_steps(recipe)) < steps:
            raise UserError(
                f"{name} has {stored} of {steps} steps on this machine; run `rlsuite data make {name} --steps {steps}`."
            )
    elif source.path is None:
        source = download(name)
    try:
        dataset = source.read(steps, drop_timeouts)
    except UserError:
        if source.kind != "recipe":
            raise
        with minari_store.locked(name):  # another process was just putting a larger build in its place
            dataset = resolve(name).read(steps, drop_timeouts)
    doctor.check(dataset)
    return dataset if device == "cpu" else dataset.to(device)
