"""Names of datasets that are some episodes of another one: NAME#1,10."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pytest

from rlsuite import data
from rlsuite.data import cli, formats, minari_store, registry, scores
from rlsuite.data.names import split_episodes
from rlsuite.data.recording import Recording
from rlsuite.errors import UserError
from rlsuite.harness.config import load_algorithm, resolve

HOPPER = "rlsuite/hopper/random-v0"


@pytest.fixture
def names(tmp_path: Path, recording: Recording) -> dict[str, str]:
    """The same four episodes (5, 1, 7 and 3 rows) under every kind of name."""
    formats.write_minari(recording, "test/sample-v0")
    formats.write_d4rl(recording, tmp_path / "a.hdf5")
    formats.write_npz(recording, tmp_path / "a.npz")
    (tmp_path / "d4rl").mkdir()
    formats.write_d4rl(recording, tmp_path / "d4rl/hopper_expert-v2.hdf5")
    return {
        "minari": "test/sample-v0",
        "folder": str(minari_store.root() / "test/sample-v0"),
        "hdf5": str(tmp_path / "a.hdf5"),
        "npz": str(tmp_path / "a.npz"),
        "d4rl": "d4rl/hopper-expert-v2",
    }


def test_a_name_and_its_episodes() -> None:
    assert split_episodes("a/b-v0#1") == ("a/b-v0", (1,))
    assert split_episodes("a/b-v0#1,10,1") == ("a/b-v0", (1, 10, 1))
    assert split_episodes("a#1.npz#20") == ("a#1.npz", (20,))
    for whole in ("a/b-v0", "a#1.npz", "a#" + "9" * 5000, "#1", "a#", "a#x", "a#1,", "a#-1", "a#1-3", "a# 1", "a#1/"):
        assert split_episodes(whole) == (whole, ())


@pytest.mark.parametrize("kind", ["minari", "folder", "hdf5", "npz", "d4rl"])
def test_episodes_of_every_kind_of_name(names: dict[str, str], kind: str) -> None:
    name = names[kind]
    whole = data.load(name)
    for text, episodes, starts in (("2", [2], [0]), ("0,3", [0, 3], [0, 5]), ("2,1", [2, 1], [0, 7])):
        part = data.load(f"{name}#{text}")
        assert part.content_hash == whole.take_episodes(np.array(episodes)).content_hash != whole.content_hash
        assert part.episode_starts.tolist() == starts
        assert part.name == f"{whole.name}#{text}"
        assert (part.env_id, part.max_action) == (whole.env_id, whole.max_action)
    assert data.load(f"{name}#0,1,2,3").content_hash == whole.content_hash
    assert len(data.load(f"{name}#2", steps=8)) == 2, "of the first eight rows"
    assert len(data.load(f"{name}#0", drop_timeouts=True)) == 5
    with pytest.raises(UserError, match="has 3 episodes in 8 transitions"):
        data.load(f"{name}#3", steps=8)


def test_episodes_of_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"rlsuite data make {HOPPER} --steps 300"):
        data.load(f"{HOPPER}#1", steps=300, build=False)
    part = data.load(f"{HOPPER}#1,4", steps=300)
    whole = data.load(HOPPER, steps=300)
    assert part.content_hash == whole.take_episodes(np.array([1, 4])).content_hash
    assert part.name == f"{HOPPER}#1,4"
    shutil.copytree(minari_store.root() / HOPPER, tmp_path / "copy")
    assert data.load(f"{tmp_path / 'copy'}#1,4", steps=300).content_hash == part.content_hash


def one_sentence(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith((".", "?"))
    return text


@pytest.mark.parametrize("bad", ["#", "#x", "#1,", "#,1", "#-1", "#1-3", "#1.5", "# 1", "#1 ", "##"])
@pytest.mark.parametrize("kind", ["minari", "folder", "hdf5", "npz", "d4rl", "recipe"])
def test_what_is_no_list_of_episodes(names: dict[str, str], kind: str, bad: str) -> None:
    name = {**names, "recipe": HOPPER}[kind] + bad
    with pytest.raises(UserError) as error:
        data.load(name)
    assert one_sentence(error).startswith(f"what follows # in '{name}' are no episodes")


@pytest.mark.parametrize("name", ["#", "#1", "absent.npz#1", "a/b-v0#1#x"])
def test_episodes_of_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "download", None)
    with pytest.raises(UserError) as error:
        data.load(name)
    assert name.split("#")[0] in one_sentence(error)


@pytest.mark.parametrize("episodes", ["4", "0,99", "999999999"])
def test_more_episodes_than_there_are(names: dict[str, str], episodes: str) -> None:
    for kind, name in names.items():
        with pytest.raises(UserError, match="has 4 episodes in 16 transitions") as error:
            data.load(f"{name}#{episodes}")
        text = one_sentence(error)
        assert f"no episode {episodes.split(',')[-1]} (counted from 0)" in text, kind
        assert Path(name).name.replace("hopper-", "hopper_") in text


def test_files_whose_names_have_a_mark(tmp_path: Path, recording: Recording) -> None:
    """What a name ends with decides: a file ends with its suffix, and a folder may end with a slash."""
    for name in ("a#1.npz", "a.npz#1.npz", "b#x.hdf5"):
        path = tmp_path / name
        (formats.write_npz if path.suffix == ".npz" else formats.write_d4rl)(recording, path)
        whole = data.load(str(path))
        assert (len(whole), whole.name) == (16, name)
        assert len(data.load(f"{path}#2")) == 7
    formats.write_minari(recording, "test/sample-v0")
    folder = tmp_path / "runs#1"
    shutil.copytree(minari_store.root() / "test/sample-v0", folder)
    assert len(data.load(f"{folder}/")) == 16
    assert len(data.load(f"{folder}/#2")) == 7
    with pytest.raises(UserError, match="there is no dataset") as error:
        data.load(str(folder))
    assert one_sentence(error)
    assert registry.resolve(str(folder)).kind == "minari", "for the commands, which take whole datasets alone"


def test_commands_about_whole_datasets_say_so(
    names: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(tmp_path.rglob("*"))
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    target = str(tmp_path / "out.npz")
    for name in (*(names[kind] for kind in ("minari", "folder", "hdf5", "npz")), HOPPER):
        for command in (["show"], ["show", "--card", str(tmp_path / "cards")], ["doctor"], ["make"], ["convert"]):
            given = [command[0], f"{name}#1", *command[1:], *([target] if command == ["convert"] else [])]
            namespace = parser.parse_args(["data", *given])
            with pytest.raises(UserError) as error:
                namespace.handler(namespace)
            assert f"{name}#1 is a part of {name}" in one_sentence(error)
    for name, random in ((f"{names['npz']}#1", "rlsuite Hopper-v5"), ("d4rl/hopper-expert-v2#1", "-20.272305")):
        namespace = parser.parse_args(["data", "scores", name])
        assert namespace.handler(namespace) == 0
        assert random in capsys.readouterr().out
    assert set(tmp_path.rglob("*")) == before


def test_the_reference_of_d4rl_holds_for_its_episodes(names: dict[str, str]) -> None:
    found = scores.reference("Hopper-v4", "d4rl/hopper-expert-v2#1")
    assert found is not None and found.label == "D4RL v2"
    assert found == scores.reference("Hopper-v4", data.load("d4rl/hopper-expert-v2#1,2").name)
    assert found == scores.reference("Hopper-v4", "hopper_expert-v2.hdf5#0")
    path = registry.resolve("d4rl/hopper-expert-v2").path
    assert found == scores.reference("Hopper-v4", data.load(f"{path}#1").name)
    ours = scores.reference("Hopper-v5", "d4rl/hopper-expert-v2#1")
    assert ours is not None and ours.label == "rlsuite Hopper-v5"


def test_folders_of_runs_have_no_mark() -> None:
    def slug(name: str) -> str:
        return resolve(load_algorithm("odice_il"), {"dataset": name}).slug

    assert slug(f"{HOPPER}#1,10").startswith("odice_il-rlsuite-hopper-random-v0-1-10-s0-")
    assert slug("/x/a.npz#1,2").startswith("odice_il-a-1-2-s0-")
    assert slug("/x/b#1.npz").startswith("odice_il-b-1-s0-")
    names = [f"{HOPPER}#1", f"{HOPPER}#10", f"{HOPPER}#1,10", "d4rl/hopper-expert-v2#1", "/x/a.npz#1", "/x/a.b/c#1"]
    assert not set("#/,") & set("".join(map(slug, names)))
    assert len(set(map(slug, names))) == len(names)
