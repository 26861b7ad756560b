"""From a dataset's name to the dataset.

rlsuite/hopper/medium-v0      built here by a recipe
mujoco/hopper/medium-v0       any other Minari id, downloaded by Minari if absent
d4rl/hopper-medium-v2         D4RL's file hopper_medium-v2.hdf5 in D4RL_DATASET_DIR or ~/.d4rl/datasets
FILE.hdf5, FILE.h5, FILE.npz  D4RL layout, or plain arrays
FOLDER                        a Minari dataset

Any of them followed by #1 or #1,10,20 is these episodes alone, counted from 0.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlsuite.data import doctor, formats, hdf5, minari_store, recipes
from rlsuite.data.dataset import Dataset
from rlsuite.data.names import D4RL_NAME, split_episodes
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
        """The first `steps` rows of what is stored, in the source's dtypes or `dtype`.

        Raises UserError for what is damaged. The file of a recipe's dataset is compared with the SHA-256 that its
        metadata hold before HDF5 opens it.
        """
        if self.path is None:
            raise UserError(f"{self.name} is not built on this machine; run `rlsuite data make {self.name}`.")
        if self.kind == "d4rl":
            return formats.d4rl_recording(self.path, drop_timeouts).first(steps)
        if self.kind == "npz":
            return formats.npz_recording(self.path, drop_timeouts).first(steps)
        stored = self._built().get("file_sha256")
        if stored is not None:
            try:
                digest = hdf5.sha256(self.path / "main_data.hdf5")
            except OSError as error:
                raise UserError(f"the data of {self.name} cannot be read ({error}); build or copy it again.") from error
            if digest != stored:
                raise self._changed()
        recording = minari_store.read_recording(self.path, steps, dtype)
        return formats.as_qlearning(recording) if drop_timeouts else recording

    def read(self, steps: int | None = None, drop_timeouts: bool = False) -> Dataset:
        """As `recording`, in float32; where a recipe's dataset is read whole, its content hash is compared."""
        dataset = self.recording(steps, drop_timeouts, np.float32).dataset()
        built = self._built()
        whole = built and not drop_timeouts and len(dataset) == built["total_steps"]
        if whole and built.get("content_hash") != dataset.content_hash:
            raise self._changed()
        return dataset

    def _built(self) -> dict[str, Any]:
        """What the build of a recipe noted, wherever the folder lies now, and `total_steps`; {} for other datasets."""
        if self.path is None or self.kind not in ("recipe", "minari"):
            return {}
        metadata = minari_store.read_metadata(self.path)
        note: dict[str, Any] = metadata.get("rlsuite", {})
        if self.kind != "recipe" and note.get("recipe") != metadata.get("dataset_id"):
            return {}
        return {**note, "total_steps": metadata["total_steps"]}

    def _changed(self) -> UserError:
        return UserError(
            f"{self.path} was truncated, damaged or edited since it was built (its SHA-256 differs); "
            f"build it again with `rlsuite data make {self.name} --force` or copy it again."
        )


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
    if name.startswith("d4rl/") and "#" not in name:
        return _d4rl_file(name)
    stored = minari_store.folder(name)
    if stored is not None:
        return Source(name, "minari", stored)
    if path.exists():
        raise UserError(
            f"{path} is no dataset; give a D4RL-layout .hdf5 file, an .npz file or the folder of a Minari dataset."
        )
    if "#" in name:
        raise _part(name)
    namespace = name.split("/")[0]
    if not minari_store.is_id(name) or namespace in ("rlsuite", name):
        raise UserError(f"there is no dataset '{name}'; {nearest(name, known())}")
    return Source(name, "minari", None)


def _part(name: str) -> UserError:
    """Of what is no whole dataset."""
    whole, episodes = split_episodes(name)
    if episodes:
        return UserError(f"{name} is a part of {whole}, and only training takes parts of a dataset; give {whole} here.")
    return UserError(
        f"what follows # in '{name}' are no episodes; write their numbers, counted from 0, as in NAME#0 or NAME#1,10."
    )


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


def download(name: str, force: bool = False) -> Source:
    """Let Minari fetch a dataset, with `force` also in place of one that is there (cut short, for example).

    Raises UserError saying what to do where it cannot, within seconds if offline.
    """
    import minari

    absent = f"{name} is not on this machine and could not be downloaded"
    twin = f"rlsuite/{name.partition('/')[2]}"
    instead = f", or use {twin}, which is built here" if twin in recipes.RECIPES else ""
    try:
        _reach_remote()
        minari.download_dataset(name, force_download=force)
    except ImportError as error:
        raise UserError(f"{absent}: Minari needs another package; run `pip install 'minari[hf]'`{instead}.") from error
    except Exception as error:  # Minari's remotes raise what their libraries raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        if isinstance(error, ValueError):  # Minari's own answer: there is no such dataset or version
            raise UserError(f"{absent} ({reason}); check the id: {nearest(name, known())}") from error
        copy = f"copy it from elsewhere to {minari_store.root() / name}"
        raise UserError(f"{absent} ({reason}); go online, {copy}{instead}.") from error
    return resolve(name)


def _reach_remote() -> None:
    """One request to the Hugging Face hub, if that is Minari's remote; Minari's own is repeated for half a minute."""
    remote = os.environ.get("MINARI_REMOTE", "hf://")
    if remote.startswith("hf://") and importlib.util.find_spec("huggingface_hub"):
        hub = importlib.import_module("huggingface_hub")
        hub.get_session().head(hub.constants.ENDPOINT, timeout=10)


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
    whole, episodes = split_episodes(name)
    if episodes:
        return _take(load(whole, steps, drop_timeouts, build, progress, device), episodes)
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


def _take(dataset: Dataset, episodes: tuple[int, ...]) -> Dataset:
    """Only these episodes; UserError if there are not so many."""
    if max(episodes) >= len(dataset.episode_starts):
        raise UserError(
            f"{dataset.name} has {len(dataset.episode_starts)} episodes in {len(dataset)} transitions, so there is no "
            f"episode {max(episodes)} (counted from 0); name another one, or load more of it (--dataset-steps)."
        )
    name = f"{dataset.name}#{','.join(map(str, episodes))}"
    return replace(dataset.take_episodes(np.array(episodes)), name=name)
