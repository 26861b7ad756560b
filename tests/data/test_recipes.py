"""Built datasets: the same bits whoever builds them, and nothing half-made."""

from __future__ import annotations

import hashlib
import json
import os
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
from rlsuite.data import minari_store, recipes, rollout, scores
from rlsuite.data.behaviour import train
from rlsuite.data.dataset import ARRAYS
from rlsuite.errors import UserError

RANDOM, MEDIUM = recipes.RECIPES["rlsuite/hopper/random-v0"], recipes.RECIPES["rlsuite/hopper/medium-v0"]


def files(recipe: recipes.Recipe) -> dict[str, bytes]:
    folder = minari_store.folder(recipe.id)
    assert folder is not None
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if not path.name.endswith(".lock") and path.name != "rlsuite"]


@pytest.mark.parametrize("recipe", [RANDOM, MEDIUM], ids=lambda r: r.id)
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


def test_a_smaller_build_is_the_beginning_of_a_larger_one() -> None:
    recipes.build(MEDIUM, 2500, jobs=2)
    larger = data.load(MEDIUM.id, steps=2500, build=False)
    part = data.load(MEDIUM.id, steps=1000, build=False)
    recipes.build(MEDIUM, 1000, jobs=2, force=True)
    small = data.load(MEDIUM.id, steps=1000, build=False)
    assert part.content_hash == small.content_hash
    assert bool(small.truncations[-1]) != bool(small.terminations[-1])
    for name in ARRAYS[:5]:
        assert torch.equal(getattr(small, name), getattr(larger, name)[:1000]), name


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
    assert MEDIUM.weights is not None
    assert note["policy_sha256"] == hashlib.sha256(MEDIUM.weights.read_bytes()).hexdigest()
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


def test_a_used_environment_gives_the_bits_of_a_new_one() -> None:
    used, policy = gym.make("Hopper-v5"), None
    for k in (5, 2, 9):
        policy = rollout.make_policy(MEDIUM.weights, used.action_space)
        fresh = gym.make("Hopper-v5")
        first = rollout.rollout(used, policy, 7, k)
        second = rollout.rollout(fresh, rollout.make_policy(MEDIUM.weights, fresh.action_space), 7, k)
        assert first[0] == second[0]
        assert all(np.array_equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_the_policy_is_the_squashed_gaussian_of_its_weights() -> None:
    rng = np.random.default_rng(0)
    shapes = {"w0": (16, 11), "b0": (16,), "w1": (16, 16), "b1": (16,), "w2": (6, 16), "b2": (6,)}
    weights = {key: rng.normal(size=shape).astype(np.float16) for key, shape in shapes.items()}
    low, high = np.array([-1, 0, -4], np.float32), np.array([1, 2, 4], np.float32)
    policy = rollout.SquashedGaussian(weights, gym.spaces.Box(low, high))
    observations = rng.normal(size=(50, 11))
    policy.begin(np.random.default_rng(1), 50)
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
    mean_action.begin(np.random.default_rng(1), 50)
    assert np.allclose(
        mean_action.act(observations[0]), low + (np.tanh(mean[0].numpy()) + 1) / 2 * (high - low), atol=1e-5
    )


def test_recipes_share_no_seed() -> None:
    assert len({recipe.seed for recipe in recipes.RECIPES.values()}) == len(recipes.RECIPES)


def test_the_behaviour_is_what_its_record_says() -> None:
    assert MEDIUM.weights is not None
    text = MEDIUM.weights.with_suffix(".json").read_text()
    story = json.loads(text)
    assert story["sha256"] == MEDIUM.policy_sha256
    assert "/work" not in text and "/tmp" not in text and "/home" not in text
    means = [line["stochastic_mean"] for line in story["record"]]
    assert means[-1] >= 1100 > max(means[:-1])
    assert story["env_steps"] == story["record"][-1]["env_steps"]
    again = rollout.returns("Hopper-v5", MEDIUM.weights, 3, story["measured"]["seed"])
    measured = story["measured"]["stochastic"]
    assert measured["min"] - 1 <= again.min() and again.max() <= measured["max"] + 1


def test_our_references_are_what_was_measured() -> None:
    reference = scores.reference("Hopper-v5")
    assert reference is not None
    expert = json.loads((recipes.BEHAVIOUR / "hopper-expert.json").read_text())
    assert reference.expert == expert["measured"]["deterministic"]["mean"]
    assert expert["measured"]["episodes"] == 100
    weights = recipes.BEHAVIOUR / "hopper-expert.npz"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == expert["sha256"]
    seed = expert["measured"]["seed"]
    measured = expert["measured"]["deterministic"]
    again = rollout.returns("Hopper-v5", weights, 2, seed, deterministic=True)
    assert measured["min"] - 1 <= again.min() and again.max() <= measured["max"] + 1
    random = rollout.returns("Hopper-v5", None, 100, seed)
    assert random.mean() == pytest.approx(reference.random, abs=0.5)


def test_picking_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "__file__", str(tmp_path / "package/train.py"))
    (tmp_path / "package").mkdir()
    lines = [(100, 20.0, 30.0), (200, 60.0, 90.0), (300, 80.0, 70.0)]
    rows = [{"env_steps": n, "stochastic_mean": s, "deterministic_mean": d} for n, s, d in lines]
    (tmp_path / "record.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert MEDIUM.weights is not None
    for n in (100, 200, 300):
        (tmp_path / f"actor-{n:07d}.npz").write_bytes(MEDIUM.weights.read_bytes())
    monkeypatch.setattr(train, "returns", lambda *arguments: np.arange(100.0))
    for goal, step, length in ((50.0, 200, 2), (70.0, 300, 3), (None, 200, 3)):
        story = train.pick(tmp_path, goal, "x", "Hopper-v5", "command")
        assert story["env_steps"] == step
        assert len(story["record"]) == length
        assert json.loads((tmp_path / "package/x.json").read_text()) == story
        assert (tmp_path / "package/x.npz").read_bytes() == MEDIUM.weights.read_bytes()
    with pytest.raises(UserError, match="no checkpoint"):
        train.pick(tmp_path, 1000.0, "x", "Hopper-v5", "command")


def test_data_of_another_policy_are_not_mistaken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    recipes.build(RANDOM, 300)
    monkeypatch.setitem(recipes.RECIPES, RANDOM.id, replace(RANDOM, seed=5))
    with pytest.raises(UserError, match="--force"):
        data.load(RANDOM.id, steps=300)
    recipes.build(recipes.RECIPES[RANDOM.id], 300, force=True)
    assert len(data.load(RANDOM.id, steps=300)) == 300


def test_a_dying_worker_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    original = recipes.Recipe.weights
    missing = recipes.BEHAVIOUR / "absent.npz"
    monkeypatch.setattr(recipes.Recipe, "weights", property(lambda self: missing))
    monkeypatch.setattr(recipes.Recipe, "policy_sha256", None)
    with pytest.raises(UserError, match="process that was making episodes died"):
        recipes.build(MEDIUM, 300, jobs=2)
    monkeypatch.setattr(recipes.Recipe, "weights", original)
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


def test_two_builds_at_once_make_one(tmp_path: Path) -> None:
    processes = [start(tmp_path, RANDOM, 3000) for _ in range(2)]
    answers = sorted(process.communicate(timeout=120)[0].strip() for process in processes)
    assert answers == ["False", "True"]
    assert len(data.load(RANDOM.id, steps=3000, build=False)) == 3000
