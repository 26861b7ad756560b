"""Imitation with O-DICE: which data are the demonstrations, what is done to them, and that they are imitated."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rlsuite import data
from rlsuite.algorithms import odice_il
from rlsuite.algorithms.odice import ODICE
from rlsuite.algorithms.odice_il import Config, MixedBatches
from rlsuite.cli import main
from rlsuite.data.dataset import Dataset
from rlsuite.errors import UserError
from rlsuite.harness import files
from rlsuite.harness.config import load_algorithm, resolve
from rlsuite.harness.run import Run, execute
from rlsuite.harness.runs import first_difference
from tests.algorithms.test_iql import descend, layers
from tests.contract.kills import cut_and_finish

ENV = "rlsuite/LineWorld-v0"
QUICK = {"env": ENV, "hidden": "64,64", "policy_hidden": "64,64", "batch_size": 16, "eval_every": 0}


def resolved(dataset: object, **given):
    return resolve(load_algorithm("odice_il"), {"dataset": str(dataset), **QUICK, **given})


@pytest.fixture
def prepared(tmp_path, monkeypatch) -> Callable[..., tuple[ODICE, odice_il.Batches | MixedBatches]]:
    """The agent and the batches that a run would begin to learn with."""

    def prepare(dataset: object, **given):
        seen = []
        monkeypatch.setattr(odice_il, "fit", lambda agent, batches, run: seen.append((agent, batches)))
        setup = resolved(dataset, **given)
        odice_il.train(setup.config, Run(setup, tmp_path / "run"))
        assert not (tmp_path / "run").exists()
        return seen[0]

    return prepare


def save(path: Path, episodes: list[list[tuple[float, float, float]]], reward: float = 0.0) -> Path:
    """Episodes of (x, action, next x) in LineWorld as npz; those that do not reach the goal are truncated."""
    x, actions, following = np.array([row for episode in episodes for row in episode], np.float32).T
    last = np.zeros(len(x), bool)
    last[np.cumsum([len(episode) for episode in episodes]) - 1] = True
    np.savez(
        path,
        observations=x[:, None],
        actions=actions[:, None],
        rewards=np.full(len(x), reward, np.float32),
        next_observations=following[:, None],
        terminations=following >= 30,
        truncations=last & (following < 30),
    )
    return path


def walk(x: float, policy: Callable[[float], float], steps: int = 150) -> list[tuple[float, float, float]]:
    episode = []
    while len(episode) < steps and x < 30:
        action = policy(x)
        episode.append((x, action, float(np.clip(x + action, 0, 30))))
        x = episode[-1][2]
    return episode


def expert(x: float) -> float:
    return 0.7 + 0.3 * np.sin(x / 2)


# ---- which data


def test_demos_and_episodes_in_the_name_are_the_same_data(line_world, tmp_path):
    quick = {"updates": 60, "log_every": 10, "final_episodes": 2}
    runs = {
        "demos": resolved(line_world, demos="1,3", **quick),
        "name": resolved(f"{line_world}#1,3", **quick),
        "all": resolved(line_world, **quick),
    }
    rows, metrics, policies = {}, {}, {}
    for name, setup in runs.items():
        assert execute(setup, tmp_path / name) == 0
        rows[name] = files.read_lines(tmp_path / name / "evaluations.jsonl")[0]
        metrics[name] = files.read_lines(tmp_path / name / "metrics.jsonl")
        policies[name] = files.read_policy(tmp_path / name / "policy.npz")[1]
    whole = data.load(str(line_world))
    part = whole.take_episodes(np.array([1, 3]))
    for name in ("demos", "name"):
        assert rows[name]["dataset"].endswith("line_world.npz#1,3")
        assert (rows[name]["dataset_hash"], rows[name]["dataset_rows"]) == (part.content_hash, len(part))
    assert (rows["all"]["dataset_hash"], rows["all"]["dataset_rows"]) == (whole.content_hash, len(whole))
    assert rows["all"]["dataset_hash"] != rows["name"]["dataset_hash"]
    assert metrics["demos"] == metrics["name"] != metrics["all"]
    assert all(torch.equal(weight, policies["name"][key]) for key, weight in policies["demos"].items())


def test_rewards_are_zero_whatever_the_data_say(tmp_path, prepared):
    path = save(tmp_path / "demo.npz", [walk(0.0, expert), walk(3.0, expert)], reward=5.0)
    assert data.load(str(path)).rewards.unique().tolist() == [5.0]
    _, batches = prepared(path, demo_reward=7.0)  # which is beside suboptimal data alone
    assert batches.dataset.rewards.unique().tolist() == [0.0]
    assert torch.equal(batches.dataset.terminations, data.load(str(path)).terminations)


def test_observations_are_standardised_by_the_demonstrations_own_statistics(line_world, prepared):
    whole = data.load(str(line_world))
    demos = whole.take_episodes(np.array([2, 5]))
    agent, batches = prepared(line_world, demos="2,5")
    x = demos.observations.double()
    mean, std = x.mean(0).float(), x.std(0, correction=0).float() + 1e-3
    torch.testing.assert_close(agent.actor.mean, mean)
    torch.testing.assert_close(agent.actor.std, std)
    assert (whole.observation_statistics()[0] - mean).abs() > 1
    for name in ("observations", "next_observations"):
        expected = (getattr(demos, name) - mean) / std
        torch.testing.assert_close(getattr(batches.dataset, name), expected, rtol=1e-4, atol=1e-5)
    agent, batches = prepared(line_world, demos="2,5", normalize=False)
    assert torch.equal(batches.dataset.observations, demos.observations)
    assert (agent.actor.mean.item(), agent.actor.std.item()) == (0.0, 1.0)


# ---- demonstrations beside other data


@pytest.mark.parametrize(("batch_size", "demos"), [(16, 8), (7, 4), (2, 1)])
def test_half_of_every_batch_comes_from_the_other_data(line_world, tmp_path, prepared, batch_size, demos):
    demo = save(tmp_path / "demo.npz", [walk(0.0, expert)], reward=3.0)
    agent, batches = prepared(demo, suboptimal=str(line_world), batch_size=batch_size)
    other = data.load(str(line_world))
    mean, std = data.load(str(demo)).observation_statistics()
    assert torch.equal(agent.actor.mean, mean)
    for _ in range(20):
        batch = next(batches)
        assert batch.rewards.tolist() == [10.0] * demos + [0.0] * (batch_size - demos)
        for source, rows in ((data.load(str(demo)), slice(0, demos)), (other, slice(demos, batch_size))):
            index = batch.indices[rows]
            assert torch.equal(batch.actions[rows], source.actions[index])
            assert torch.equal(batch.terminations[rows], source.terminations[index].float())
            for name in ("observations", "next_observations"):
                assert torch.equal(getattr(batch, name)[rows], (getattr(source, name)[index] - mean) / std)
    _, batches = prepared(demo, suboptimal=str(line_world), suboptimal_steps=100, demo_reward=2.5)
    assert next(batches).rewards.unique().tolist() == [0.0, 2.5]
    assert torch.cat([next(batches).indices[8:] for _ in range(200)]).max() == 99
    _, batches = prepared(demo, suboptimal=f"{line_world}#3,4")
    assert len(batches.others.dataset) == 20


def test_mixed_batches_continue_where_they_were(line_world):
    whole = data.load(str(line_world))

    def mixed(seed):
        rng = np.random.default_rng
        return MixedBatches(whole.take_episodes(np.array([1])).batches(2, rng(seed)), whole.batches(1, rng(seed + 1)))

    batches, other = mixed(0), mixed(7)
    for _ in range(300):  # over the end of a block
        next(batches)
    other.load_state_dict(batches.state_dict())
    for _ in range(300):
        assert all(map(torch.equal, next(batches), next(other)))
    with pytest.raises(KeyError):
        other.load_state_dict({"demos": batches.demos.state_dict()})


def test_a_run_beside_other_data_continues_exactly(line_world, tmp_path):
    """Over the end of a block of batches, too."""
    quick = {"updates": 300, "log_every": 10, "checkpoint_every": 100, "final_episodes": 1, "batch_size": 5}
    setup = resolved(f"{line_world}#1", suboptimal=str(line_world), **quick)
    assert execute(setup, tmp_path / "whole") == 0
    cut_and_finish(setup, tmp_path / "cut", 2)
    assert first_difference(tmp_path / "whole", tmp_path / "cut") == ""


def test_a_batch_of_one_has_no_half(line_world, prepared):
    assert len(next(prepared(line_world, batch_size=1)[1]).rewards) == 1
    with pytest.raises(UserError, match="--batch-size is at least 2"):
        prepared(line_world, suboptimal=str(line_world), batch_size=1)


def test_other_data_are_of_the_same_spaces(line_world, tmp_path, prepared):
    arrays = dict(np.load(line_world))
    for name, factor in (("observations", 1), ("actions", 1), ("actions", 50)):
        wide = {key: array if factor > 1 else np.repeat(array, 2, 1) for key, array in arrays.items() if name in key}
        np.savez(tmp_path / "other.npz", **{**arrays, **{key: factor * array for key, array in wide.items()}})
        with pytest.raises(UserError, match=r"other\.npz ha(s|ve)") as error:
            prepared(line_world, suboptimal=str(tmp_path / "other.npz"))
        assert "outside the bounds" in str(error.value) if factor > 1 else f"the {name} of" in str(error.value)


def test_the_other_data_belong_to_what_a_run_is(line_world, tmp_path):
    """Their content is in every row, so that a run does not go on with changed ones."""
    setup = resolved(line_world, suboptimal=str(line_world), suboptimal_steps=50, updates=20, final_episodes=1)
    assert execute(setup, tmp_path / "run") == 0
    whole, part = data.load(str(line_world)), data.load(str(line_world), 50)
    (row, *_) = files.read_lines(tmp_path / "run" / "evaluations.jsonl")
    assert row["dataset"] == f"{whole.name} + {part.name}"
    assert row["dataset_rows"] == len(whole) + 50
    both = f"{whole.content_hash} {part.content_hash}"
    assert row["dataset_hash"] == hashlib.sha256(both.encode()).hexdigest()


def test_the_demonstrations_are_named_once(line_world, prepared):
    with pytest.raises(UserError, match="names the demonstrations already"):
        prepared(f"{line_world}#1,3", demos="1")
    with pytest.raises(UserError, match="counted from 0"):
        prepared(line_world, demos="-1")


@pytest.mark.parametrize("weight", [-0.5, 0, 1, 2])
def test_lambda_lies_between_0_and_1(line_world, prepared, weight):
    with pytest.raises(UserError, match=f"--lambda lies between 0 and 1, not at {weight}"):
        prepared(line_world, **{"lambda": weight})


# ---- the boundary


def four_episodes(path: Path) -> Path:
    """They begin at 1, 25, 3 and 4 and are cut after six steps, with which the second reaches the goal."""
    save(path, [walk(x, lambda x: 0.9, 6) for x in (1.0, 25.0, 3.0, 4.0)])
    arrays = dict(np.load(path))
    assert np.flatnonzero(arrays["terminations"]).tolist() == [11]
    np.savez(path, **{**arrays, "truncations": arrays["truncations"] | arrays["terminations"]})
    return path


@pytest.mark.parametrize(
    ("demos", "successors"),
    [
        ("", {0: 25.0, 2: 4.0}),  # whose last state is followed by which
        ("0", {0: 25.0}),
        ("1", {}),
        ("3", {}),
        ("2,0", {0: 4.0, 1: 25.0}),
        ("1,3,2", {2: 4.0}),
    ],
)
@pytest.mark.parametrize("way", ["demos", "name"])
def test_the_boundary_of_the_authors_code(tmp_path, prepared, demos, successors, way):
    """Only a cut demonstration's last transition changes, and leads to the first state of the next episode."""
    path = four_episodes(tmp_path / "a.npz")
    dataset = f"{path}#{demos}" if demos and way == "name" else path
    given = {"demos": demos if way == "demos" else "", "normalize": False}
    plain, changed = (prepared(dataset, **given, keep_boundary=keep)[1].dataset for keep in (False, True))
    ends = (plain.episode_ends - 1).tolist()
    expected = plain.next_observations.clone()
    for demo, x in successors.items():
        assert plain.truncations[ends[demo]] and not plain.terminations[ends[demo]]
        expected[ends[demo]] = x
    assert torch.equal(changed.next_observations, expected)
    assert torch.equal(plain.next_observations, changed.next_observations) == (not successors)
    for name in ("observations", "actions", "rewards", "terminations"):
        assert torch.equal(getattr(plain, name), getattr(changed, name))


def test_the_boundary_is_standardised_with_the_rest(tmp_path, prepared):
    agent, batches = prepared(four_episodes(tmp_path / "a.npz"), demos="0", keep_boundary=True)
    assert torch.equal(batches.dataset.next_observations[-1], (25.0 - agent.actor.mean) / agent.actor.std)


# ---- settings


@pytest.mark.parametrize(
    ("task", "decay"),
    [
        ("rlsuite/hopper/expert-v0#1", 1e-5),
        ("d4rl/walker2d-expert-v2", 1e-3),
        ("rlsuite/walker2d/expert-v0#10", 1e-3),
        ("demo.npz", 1e-5),
    ],
)
def test_settings_are_those_of_the_authors_imitation(task, decay):
    c: Config = resolve(load_algorithm("odice_il"), {"dataset": task}).config
    assert c.weight_decay == decay
    assert (c.gradient, c.f, c.policy_weight) == ("orthogonal", "pearson", "code")
    assert (c.lambda_, c.eta, c.gamma, c.tau) == (0.4, 1.0, 0.99, 0.005)
    assert (c.value_learning_rate, c.policy_learning_rate, c.batch_size, c.updates) == (1e-4, 1e-4, 256, 500_000)
    assert (c.hidden, c.policy_hidden) == ((256, 256), (1024, 1024))
    assert (c.tanh, c.layer_norm, c.twin, c.normalize) == (True, False, True, True)
    assert (c.keep_boundary, c.demos, c.suboptimal, c.max_residual) == (False, (), "", float("inf"))


def test_the_policy_is_squashed_and_decays(line_world, prepared):
    agent, _ = prepared(line_world, weight_decay=0.25)
    assert agent.actor.tanh and not agent.value.heads[0].layer_norm and len(agent.value.heads) == 2
    assert (agent.actor_optimizer.weight_decay, agent.value_optimizer.weight_decay) == (0.25, 0.0)


def test_with_weights_of_one_it_is_cloning(line_world, prepared):
    """Whatever the value function does, the policy is that of a plain Gaussian log-likelihood."""
    agents = []
    for gradient in ("orthogonal", "true"):
        agent, batches = prepared(line_world, policy_weight="one", gradient=gradient, policy_learning_rate=1e-3)
        mean, log_std = layers(agent.actor.net), torch.nn.Parameter(torch.zeros(1))
        adam = torch.optim.Adam([*mean.parameters(), log_std], 1e-3, weight_decay=1e-5)
        for _ in range(25):
            batch = next(batches)
            metrics = agent.update(batch)
            gaussian = torch.distributions.Normal(mean(batch.observations).tanh(), log_std.exp())
            loss = -gaussian.log_prob(batch.actions).mean()
            descend(adam, loss)
            assert metrics["actor_loss"].item() == pytest.approx(loss.item(), abs=1e-5)
            assert metrics["weight"].item() == metrics["positive_weights"].item() == 1
        for weight, expected in zip(agent.actor.net.parameters(), mean.parameters(), strict=True):
            torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(agent.actor.log_std, log_std, rtol=1e-5, atol=1e-5)
        assert log_std.abs() > 1e-3
        agents.append(agent)
    assert all(map(torch.equal, agents[0].actor.parameters(), agents[1].actor.parameters()))
    assert not any(map(torch.equal, agents[0].weights, agents[1].weights))


# ---- learning

LEARN = {"updates": 800, "batch_size": 64, "value_learning_rate": 1e-3, "policy_learning_rate": 1e-3}


def final(setup, directory: Path) -> dict:
    assert execute(setup, directory) == 0
    return files.read_lines(directory / "evaluations.jsonl")[-1]


def test_a_single_demonstration_is_imitated(tmp_path):
    """From 0 to 30 in steps of 0.4 to 1 whose length depends on the place."""
    demo = walk(0.0, expert)
    path = save(tmp_path / "demos.npz", [walk(20.0, lambda x: -1.0), demo])
    row = final(resolved(path, demos="1", final_episodes=1, **LEARN), tmp_path / "run")
    assert (row["return"], row["dataset_rows"]) == (1.0, len(demo))
    assert abs(row["length"] - len(demo)) <= 2


def test_other_data_lead_to_the_demonstrated_states(tmp_path):
    """The demonstration begins half-way, the rest are random walks; a clone of both stays at the start for long."""
    rng = np.random.default_rng(0)
    path = save(tmp_path / "demo.npz", [walk(15.0, expert)])
    walks = [walk(rng.uniform(0, 20), lambda x: rng.uniform(-1, 1), 30) for _ in range(200)]
    other = str(save(tmp_path / "walks.npz", walks))
    given = {**LEARN, "suboptimal": other, "demo_reward": 10, "lambda": 0.6, "gamma": 0.9, "tau": 0.05}
    row = final(resolved(path, final_episodes=1, **given), tmp_path / "run")
    assert row["return"] == 1 and row["length"] < 50
    cloned = final(resolved(path, final_episodes=1, policy_weight="one", **given), tmp_path / "cloned")
    assert cloned["length"] > 100


# ---- a benchmark of single demonstrations


def test_a_table_of_single_demonstrations_runs_reports_and_continues(line_world, tmp_path, capsys):
    table, results = tmp_path / "table.toml", tmp_path / "results"
    tasks = [f"{line_world}#{episode}" for episode in (1, 10)]
    settings = {"updates": 20, "batch_size": 8, "final_episodes": 1, "eval_every": 0, "hidden": [8], "threads": 1}
    table.write_text(
        f'algorithms = ["odice_il"]\ntasks = {tasks}\nseeds = 1\n[config]\nenv = "{ENV}"\npolicy_hidden = [8]\n'
        + "".join(f"{key} = {value}\n" for key, value in settings.items())
    )
    started = []
    for only in (["--only", tasks[1]], []):
        assert main(["bench", str(table), "--results", str(results), "--jobs", "1", *only]) == 0
        started += re.findall(r"start .*#(\d+) seed", capsys.readouterr().out)
    assert started == ["10", "1"], "what was finished is not run again"
    assert not [path for path in results.rglob("*") if "#" in path.name]
    with open(results / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    whole: Dataset = data.load(str(line_world))
    for row, task, episode in zip(rows, tasks, (1, 10), strict=True):
        assert (row["task"], row["status"]) == (task, "ok")
        assert row["dataset_hash"] == whole.take_episodes(np.array([episode])).content_hash
    for name in ("table.md", "table.csv", "report.html"):
        assert all(task in (results / name).read_text() for task in tasks)
    assert all(task.replace("#", r"\#").replace("_", r"\_") in (results / "table.tex").read_text() for task in tasks)
