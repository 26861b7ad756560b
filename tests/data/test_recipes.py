"""Built datasets: the same bits whoever builds them, and nothing half-made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch

from rlsuite import data
from rlsuite.data import minari_store, recipes, rollout, workers
from rlsuite.data.behaviour import train
from rlsuite.data.dataset import ARRAYS
from rlsuite.data.rollout import BEHAVIOUR
from rlsuite.errors import UserError
from rlsuite.harness.manifest import cpu_class

RANDOM, MEDIUM, REPLAY, MIXED = (
    recipes.RECIPES[f"rlsuite/{name}-v0"]
    for name in ("hopper/random", "hopper/medium", "hopper/medium-replay", "pendulum/mixed")
)
GOLDEN = "d20c8d591c37911e3ae2d7d009fe11bf14ae95e8d5e2cbe70bd0d1818e54bee1"
BUILT_IN = {"uniform", "waypoints"}
WEIGHTS = BEHAVIOUR / "hopper-medium.npz"


def files(recipe: recipes.Recipe) -> dict[str, bytes]:
    folder = minari_store.folder(recipe.id)
    assert folder is not None
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if not path.name.endswith(".lock") and path.name != "rlsuite"]


@pytest.mark.parametrize("recipe", [RANDOM, MEDIUM, REPLAY], ids=lambda r: r.id)
def test_the_number_of_processes_changes_no_byte(recipe: recipes.Recipe) -> None:
    assert recipes.build(recipe, 2000, jobs=1)
    one = files(recipe)
    assert recipes.build(recipe, 2000, jobs=3, force=True)
    assert files(recipe) == one


@pytest.mark.parametrize("core", ["Haswell", "Sandybridge", None])
def test_the_kernel_that_openblas_would_choose_changes_no_byte(core: str | None, monkeypatch) -> None:
    recipes.build(MEDIUM, 1000, jobs=1)
    before = data.load(MEDIUM.id, steps=1000, build=False).content_hash
    if core is None:
        monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    else:
        monkeypatch.setenv("OPENBLAS_CORETYPE", core)
    recipes.build(MEDIUM, 1000, jobs=1, force=True)
    assert data.load(MEDIUM.id, steps=1000, build=False).content_hash == before


@pytest.mark.parametrize("recipe", [MEDIUM, REPLAY], ids=lambda r: r.id)
def test_a_smaller_build_is_the_beginning_of_a_larger_one(recipe: recipes.Recipe) -> None:
    recipes.build(recipe, 2500, jobs=2)
    larger = data.load(recipe.id, steps=2500, build=False)
    part = data.load(recipe.id, steps=1010, build=False)
    recipes.build(recipe, 1010, jobs=2, force=True)
    small = data.load(recipe.id, steps=1010, build=False)
    assert part.content_hash == small.content_hash
    assert bool(small.truncations[-1]) != bool(small.terminations[-1])
    for name in ARRAYS[:5]:
        assert torch.equal(getattr(small, name), getattr(larger, name)[:1010]), name


@pytest.mark.skipif(not cpu_class().startswith("AuthenticAMD-26"), reason="other processors round differently")
def test_the_bytes_are_those_of_the_first_release() -> None:
    """The first 1,000 steps of the dataset whose first 200,000 have the hash in results/hopper_medium/rows.csv."""
    recipes.build(MEDIUM, 1000, jobs=2)
    dataset = data.load(MEDIUM.id, steps=1000, build=False)
    assert dataset.content_hash == GOLDEN
    sequences = [np.random.SeedSequence(key).generate_state(4).tolist() for key in ((1001, 5), (1001, 5, 0))]
    assert sequences[0] == sequences[1]


def test_behaviours_take_turns() -> None:
    recipes.build(MIXED, 10_000, jobs=3)
    dataset = data.load(MIXED.id, steps=10_000, build=False)
    parts = minari_store.read_metadata(MIXED.id)["rlsuite"]["parts"]
    assert [part["behaviour"] for part in parts] == list(MIXED.behaviours)
    assert [part["steps"] for part in parts] == [4000, 3000, 3000]  # episodes have 200 steps, turns 1,000
    assert [part["episodes"] for part in parts] == [20, 15, 15]
    means = dataset.episode_returns().reshape(10, 5).mean(1)
    for i, level in enumerate(("uniform", "medium", "expert")):
        turns = means[i::3]
        assert (turns < -1000).all() if level == "uniform" else (turns > -900).all(), (level, turns)
    assert means[2::3].mean() > means[1::3].mean()


def test_a_mixture_is_equal_parts_at_any_size() -> None:
    recipes.build(REPLAY, 20_000, jobs=2)
    parts = minari_store.read_metadata(REPLAY.id)["rlsuite"]["parts"]
    assert len(parts) == 10
    assert sum(part["steps"] for part in parts) == 20_000
    assert all(1000 <= part["steps"] <= 3000 for part in parts)


def test_loading_more_builds_more() -> None:
    assert len(data.load(RANDOM.id, steps=500)) == 500
    seen: list[tuple[int, int]] = []
    assert len(data.load(RANDOM.id, steps=800, progress=lambda done, total: seen.append((done, total)))) == 800
    assert seen[-1] == (800, 800)
    assert minari_store.read_metadata(RANDOM.id)["total_steps"] == 800
    assert not recipes.build(RANDOM, 600)
    with pytest.raises(UserError, match=r"800 of 900 steps.*rlsuite data make"):
        data.load(RANDOM.id, steps=900, build=False)
    assert leftovers(minari_store.root()) == []


def test_what_is_stored() -> None:
    recipes.build(MEDIUM, 2000, jobs=2)
    dataset = minari.load_dataset(MEDIUM.id)
    metadata = dataset.storage.metadata
    assert dataset.total_steps == 2000
    assert dataset.env_spec.id == "Hopper-v5"
    assert any(requirement.startswith("mujoco") for requirement in metadata["requirements"])
    assert "SAC" in metadata["description"]
    note = metadata["rlsuite"]
    assert note["recipe"] == MEDIUM.id
    assert note["seed"] == MEDIUM.seed
    assert note["policy_sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    file = minari_store.folder(MEDIUM.id) / "main_data.hdf5"
    assert note["file_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert note["parts"] == [{"behaviour": "hopper-medium", "episodes": dataset.total_episodes, "steps": 2000}]
    assert note["content_hash"] == data.load(MEDIUM.id, steps=2000).content_hash
    assert set(note["versions"]) >= {"gymnasium", "mujoco", "numpy", "rlsuite"}
    episode = dataset[0]
    assert episode.observations.dtype == np.float64
    env = gym.make("Hopper-v5")
    seed = next(iter(dataset.storage.get_episode_metadata([0])))["seed"]
    observation, _ = env.reset(seed=seed)
    assert np.array_equal(observation, episode.observations[0])
    for action, expected, reward in zip(episode.actions, episode.observations[1:], episode.rewards, strict=True):
        observation, got, *_ = env.step(action)
        assert np.array_equal(observation, expected)
        assert got == reward


def test_the_hash_of_a_spool_is_the_hash_of_the_dataset() -> None:
    for recipe, steps in ((RANDOM, 700), (MIXED, 450), (REPLAY, 1234)):  # the last episode is cut, and whole
        recipes.build(recipe, steps, jobs=2)
        note = minari_store.read_metadata(recipe.id)["rlsuite"]
        assert note["content_hash"] == data.load(recipe.id, steps, build=False).content_hash


def test_a_used_environment_gives_the_bits_of_a_new_one() -> None:
    used = gym.make("Hopper-v5")
    for k in (5, 2, 9):
        policy, fresh = rollout.make_policy("hopper-medium", used), gym.make("Hopper-v5")
        first = rollout.rollout(used, policy, 7, k)
        second = rollout.rollout(fresh, rollout.make_policy("hopper-medium", fresh), 7, k)
        assert first.seed == second.seed
        assert all(np.array_equal(a, b) for a, b in zip(first[1:4], second[1:4], strict=True))


def test_one_of_several_stacked_policies() -> None:
    env = gym.make("Hopper-v5")
    stacked = rollout.rollout(env, rollout.make_policy("hopper-replay/9", env), 7, 0)
    alone = rollout.rollout(env, rollout.make_policy("hopper-medium", env), 7, 0)
    other = rollout.rollout(env, rollout.make_policy("hopper-replay/0", env), 7, 0)
    assert np.array_equal(stacked.actions, alone.actions)  # the last one is medium
    assert not np.array_equal(other.actions[0], alone.actions[0])


def test_the_policy_is_the_squashed_gaussian_of_its_weights() -> None:
    rng = np.random.default_rng(0)
    shapes = {"w0": (16, 11), "b0": (16,), "w1": (16, 16), "b1": (16,), "w2": (6, 16), "b2": (6,)}
    weights = {key: rng.normal(size=shape).astype(np.float16) for key, shape in shapes.items()}
    low, high = np.array([-1, 0, -4], np.float32), np.array([1, 2, 4], np.float32)
    policy = rollout.SquashedGaussian(weights, gym.spaces.Box(low, high))
    env = gym.make("Pendulum-v1", max_episode_steps=50)
    observations = rng.normal(size=(50, 11))
    policy.begin(env, np.random.default_rng(1))
    actions = np.stack([policy.act(observation) for observation in observations])
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal((50, 3), dtype=np.float32))
    x = torch.from_numpy(observations).float()
    w = {key: torch.from_numpy(value).float() for key, value in weights.items()}
    for i in (0, 1):
        x = torch.relu(x @ w[f"w{i}"].T + w[f"b{i}"])
    mean, log_std = (x @ w["w2"].T + w["b2"]).chunk(2, dim=1)
    squashed = torch.tanh(mean + log_std.clamp(-20, 2).exp() * noise).numpy()
    assert np.allclose(actions, low + (squashed + 1) / 2 * (high - low), atol=1e-5)
    assert actions.dtype == np.float32
    mean_action = rollout.SquashedGaussian(weights, gym.spaces.Box(low, high), deterministic=True)
    mean_action.begin(env, np.random.default_rng(1))
    assert np.allclose(
        mean_action.act(observations[0]), low + (np.tanh(mean[0].numpy()) + 1) / 2 * (high - low), atol=1e-5
    )


def test_recipes_share_no_seed() -> None:
    assert len({recipe.seed for recipe in recipes.RECIPES.values()}) == len(recipes.RECIPES)


LEARNT = sorted(
    {name.partition("/")[0] for recipe in recipes.RECIPES.values() for name in recipe.behaviours} - BUILT_IN
)


def test_the_weights_in_the_package_are_those_of_the_recipes() -> None:
    assert sorted(path.stem for path in BEHAVIOUR.glob("*.npz")) == LEARNT
    assert sum(path.stat().st_size for path in BEHAVIOUR.glob("*.npz")) < 25e6


@pytest.mark.parametrize("name", LEARNT)
def test_a_behaviour_is_what_its_record_says(name: str) -> None:
    text = (BEHAVIOUR / f"{name}.json").read_text()
    story = json.loads(text)
    assert story["sha256"] == hashlib.sha256((BEHAVIOUR / f"{name}.npz").read_bytes()).hexdigest()
    assert "/work" not in text and "/tmp" not in text and "/home" not in text
    steps = [line["env_steps"] for line in story["record"]]
    assert steps == sorted(set(steps))
    robot, level = name.split("-")
    if level == "replay":
        assert story["env_steps"][0] == steps[0] and story["env_steps"][-1] == steps[-1]
        assert steps[-1] == json.loads((BEHAVIOUR / f"{robot}-medium.json").read_text())["env_steps"]
        spacing = np.diff(story["env_steps"])
        assert len(spacing) == 9 and spacing.max() <= 2 * spacing.min()
        behaviour, measured = f"{name}/4", story["measured"][4]
    else:
        behaviour, measured = name, story["measured"]
        mode = "stochastic_mean" if level == "medium" else "deterministic_mean"
        means = dict(zip(steps, (line[mode] for line in story["record"]), strict=True))
        if level == "medium":
            goal = float(story["rule"].split()[-1])
            assert means.pop(story["env_steps"]) >= goal > max(means.values())
        else:
            assert means[story["env_steps"]] == max(means.values())
    assert measured["episodes"] == 100
    if robot != "ant":  # its episodes are slow
        again = rollout.returns(story["environment"], behaviour, 2, measured["seed"])
        assert measured["stochastic"]["min"] - 1 <= again.min() <= again.max() <= measured["stochastic"]["max"] + 1


def test_picking_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "HERE", tmp_path / "package")
    (tmp_path / "package").mkdir()
    lines = [(100, 20.0, 30.0), (200, 60.0, 90.0), (300, 80.0, 70.0)]
    rows = [{"env_steps": n, "stochastic_mean": s, "deterministic_mean": d} for n, s, d in lines]
    (tmp_path / "record.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for n in (100, 200, 300):
        np.savez(tmp_path / f"actor-{n:07d}.npz", w0=np.full((2, 3), n, np.float16))
    monkeypatch.setattr(train, "returns", lambda *arguments: np.arange(100.0))
    for goal, step, length in ((50.0, 200, 2), (70.0, 300, 3), (None, 200, 3)):
        story = train.pick(tmp_path, goal, "x", "Hopper-v5", "command")
        assert story["env_steps"] == step
        assert len(story["record"]) == length
        assert json.loads((tmp_path / "package/x.json").read_text()) == story
        assert (tmp_path / "package/x.npz").read_bytes() == (tmp_path / f"actor-{step:07d}.npz").read_bytes()
    with pytest.raises(UserError, match="no checkpoint"):
        train.pick(tmp_path, 1000.0, "x", "Hopper-v5", "command")
    train.pick(tmp_path, 50.0, "x-medium", "Hopper-v5", "command")
    story = train.pick_replay(tmp_path, "x-replay", "Hopper-v5", "command", count=2)
    assert story["env_steps"] == [100, 200]
    with np.load(tmp_path / "package/x-replay.npz") as stacked:
        assert stacked["w0"][:, 0, 0].tolist() == [100, 200]
    with pytest.raises(UserError, match="2 checkpoints up to x-replay's end, not 3"):
        train.pick_replay(tmp_path, "x-replay", "Hopper-v5", "command", count=3)


def test_data_of_another_policy_are_not_mistaken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    recipes.build(RANDOM, 300)
    monkeypatch.setitem(recipes.RECIPES, RANDOM.id, replace(RANDOM, seed=5))
    with pytest.raises(UserError, match="--force"):
        data.load(RANDOM.id, steps=300)
    recipes.build(recipes.RECIPES[RANDOM.id], 300, force=True)
    assert len(data.load(RANDOM.id, steps=300)) == 300


def test_a_dying_worker_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes.Recipe, "policy_sha256", None)
    with pytest.raises(UserError, match=r"process that was making episodes died .*absent\.npz"):
        recipes.build(replace(MEDIUM, behaviours=("absent",)), 300, jobs=2)
    assert minari_store.folder(MEDIUM.id) is None
    assert leftovers(minari_store.root()) == []


# Real processes. The scripts have no main guard on purpose: building must not need one.

BUILD = """
import sys
from rlsuite.data import recipes
built = recipes.build(recipes.RECIPES[sys.argv[1]], int(sys.argv[2]), jobs=2)
print(built)
"""


def start(tmp_path: Path, recipe: recipes.Recipe, steps: int) -> subprocess.Popen[str]:
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    return subprocess.Popen([sys.executable, script, recipe.id, str(steps)], stdout=subprocess.PIPE, text=True)


def until(condition: Iterator[bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not next(condition):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_killed_build_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, RANDOM, 10_000_000)
    root = minari_store.root()

    def has_begun() -> Iterator[bool]:
        while True:
            yield any(path.stat().st_size > 100_000 for path in root.rglob("main_data.hdf5"))

    until(has_begun())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    def workers_are_gone() -> Iterator[bool]:
        while True:
            yield not any(alive(int(child)) for child in children)

    until(workers_are_gone())
    assert minari_store.folder(RANDOM.id) is None
    assert minari.list_local_datasets() == {}
    assert recipes.build(RANDOM, 300)  # the lock is free
    assert leftovers(root) == []


def test_an_interrupted_build_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    recipes.build(REPLAY, 5000, jobs=2)
    whole = files(REPLAY)
    shutil.rmtree(minari_store.folder(REPLAY.id).parent)

    def interrupt(done: int, total: int) -> None:
        if done > 2500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recipes.build(REPLAY, 5000, jobs=2, progress=interrupt)
    assert minari_store.folder(REPLAY.id) is None
    assert minari.list_local_datasets() == {}
    (spool,) = minari_store.root().glob(".*.spool")
    with spool.open("ab") as file:
        file.write(b"EPIS and then the power went")
    requests: list[tuple[int, int]] = []
    ask = workers.Worker.ask
    monkeypatch.setattr(workers.Worker, "ask", lambda self, *what: (requests.append(what), ask(self, *what)))
    assert recipes.build(REPLAY, 5000, jobs=3)
    assert files(REPLAY) == whole
    assert leftovers(minari_store.root()) == []
    assert requests and (0, 0) not in requests  # the first episodes were there


def test_what_another_recipe_left_is_not_continued() -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recipes.build(replace(RANDOM, seed=7), 500, progress=interrupt)
    assert any(minari_store.root().glob(".*.spool"))
    recipes.build(RANDOM, 500)
    found = files(RANDOM)
    recipes.build(RANDOM, 500, force=True)
    assert files(RANDOM) == found


def test_two_builds_at_once_make_one(tmp_path: Path) -> None:
    processes = [start(tmp_path, RANDOM, 3000) for _ in range(2)]
    answers = sorted(process.communicate(timeout=120)[0].strip() for process in processes)
    assert answers == ["False", "True"]
    assert len(data.load(RANDOM.id, steps=3000, build=False)) == 3000
