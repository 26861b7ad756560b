from __future__ import annotations

import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlsuite.bench.table import read_table
from rlsuite.data.files import read_json
from rlsuite.errors import UserError
from rlsuite.harness import files, sb3
from rlsuite.harness.config import field_help, load_algorithm, resolve
from rlsuite.harness.environments import TRAINING_SEEDS, Environments
from rlsuite.harness.evaluation import evaluate
from rlsuite.harness.run import Run, execute, read_status
from rlsuite.harness.runs import first_difference, load_policy
from rlsuite.harness.seeding import Streams, evaluation_seeds

QUICK = {"seed": 3, "eval_every": 256, "eval_episodes": 2, "final_episodes": 3, "log_every": 128}
SMALL = {"n_steps": 128, "n_epochs": 2, "hidden": "16,16"}


def resolved(name: str, **given):
    return resolve(load_algorithm(name), {**QUICK, **given})


def cartpole(**given):
    return resolved("sb3:ppo", **{"env": "CartPole-v1", "total_steps": 1024, "checkpoint_every": 256, **SMALL, **given})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """An uninterrupted run of `cartpole`."""
    directory = tmp_path_factory.mktemp("sb3") / "run"
    assert execute(cartpole(), directory) == 0
    return directory


def test_flags_are_the_parameters_of_the_class():
    config = load_algorithm("sb3:ppo").module.Config
    parameters = inspect.signature(stable_baselines3.PPO).parameters
    defaults = {f.name: f.default for f in fields(config) if f.name in parameters and f.name != "env"}
    assert {"learning_rate", "n_steps", "clip_range", "clip_range_vf", "normalize_advantage", "target_kl"} <= set(
        defaults
    )
    assert all(default == parameters[name].default for name, default in defaults.items())
    assert not {"policy", "verbose", "device", "rollout_buffer_class"} & set(defaults)
    helps = field_help(config)
    assert all(helps[f.name] for f in fields(config))
    assert helps["n_epochs"] in " ".join((stable_baselines3.PPO.__doc__ or "").split())


@pytest.mark.parametrize(
    ("name", "key", "given", "value"),
    [
        ("sb3:ppo", "target_kl", "0.02", 0.02),
        ("sb3:ppo", "target_kl", 0.02, 0.02),
        ("sb3:ppo", "target_kl", "none", None),
        ("sb3:ppo", "target_kl", None, None),
        ("sb3:sac", "ent_coef", "0.2", 0.2),
        ("sb3:sac", "ent_coef", "auto_0.1", "auto_0.1"),
        ("sb3:dqn", "hidden", [8], (8,)),
    ],
)
def test_a_flag_may_be_a_number_or_something_else(name, key, given, value):
    assert getattr(resolve(load_algorithm(name), {"env": "x", key: given}).config, key) == value


def test_columns_are_evaluated_alike():
    """Without that a table would compare two protocols."""
    for env in ("CartPole-v1", "HalfCheetah-v5", "ale-dqn/Pong"):
        ours, theirs = (resolve(load_algorithm(name), {"env": env}) for name in ("ppo", "sb3:ppo"))
        assert ours.settings == theirs.settings
        assert ours.config.total_steps == theirs.config.total_steps
        assert ours.config.stochastic == theirs.config.stochastic


def test_another_release_is_another_configuration(monkeypatch):
    before = cartpole().run_id
    assert stable_baselines3.__version__ in load_algorithm("sb3:ppo").module.__version__
    monkeypatch.setattr(load_algorithm("sb3:ppo").module, "__version__", "stable_baselines3 1.0")
    assert cartpole().run_id != before


def test_the_library_is_imported_only_for_its_methods():
    program = (
        "import sys; from rlsuite.harness.config import load_algorithm, sb3_names; sb3_names(); load_algorithm('ppo');"
        "assert 'stable_baselines3' not in sys.modules;"
        "load_algorithm('sb3:ppo'); assert 'stable_baselines3' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


class Seeded(gym.Wrapper):
    """Every reset takes the next seed of the stream that the suite gives to a copy."""

    def __init__(self, env: gym.Env, rng: np.random.Generator) -> None:
        super().__init__(env)
        self.rng = rng

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=int(self.rng.integers(TRAINING_SEEDS)))


@pytest.mark.parametrize(
    ("name", "env", "steps", "given", "scaled"),
    [
        ("ppo", "Pendulum-v1", 512, {"n_steps": 128, "n_epochs": 2, "batch_size": 32}, True),
        ("a2c", "CartPole-v1", 300, {}, False),
        ("sac", "Pendulum-v1", 420, {"learning_starts": 390, "batch_size": 16}, True),
        ("td3", "Pendulum-v1", 420, {"learning_starts": 390, "batch_size": 16, "buffer_size": 300}, False),
        ("dqn", "CartPole-v1", 400, {"learning_starts": 50, "batch_size": 16, "target_update_interval": 40}, False),
    ],
)
def test_it_learns_what_stable_baselines3_learns_alone(name, env, steps, given, scaled, tmp_path):
    """The same weights, to the last bit, as without the suite: through time limits of 200 steps, evaluations and
    checkpoints, with copies that draw the same seeds."""
    scales = {"normalize_observations": True, "normalize_rewards": True} if scaled else {}
    quick = {"eval_every": 64, "eval_episodes": 1, "checkpoint_every": 100, "n_envs": 2, "total_steps": steps}
    assert execute(resolved(f"sb3:{name}", env=env, hidden="16,16", **quick, **given, **scales), tmp_path / "run") == 0

    streams = Streams(QUICK["seed"])
    copies = DummyVecEnv([lambda k=k: Seeded(gym.make(env), streams(f"env {k}")) for k in range(2)])
    venv = VecNormalize(copies) if scaled else copies
    model = getattr(stable_baselines3, name.upper())(
        "MlpPolicy", venv, seed=QUICK["seed"], device="cpu", policy_kwargs={"net_arch": [16, 16]}, **given
    )
    model.learn(steps)
    saved = files.read_policy(tmp_path / "run" / "policy.npz")[1]
    for key, weight in model.policy.state_dict().items():
        assert torch.equal(saved[f"policy.{key}"], weight), key
    if scaled:
        assert np.array_equal(saved["mean"].numpy(), venv.obs_rms.mean)
        assert np.array_equal(saved["variance"].numpy(), venv.obs_rms.var)


def test_the_loss_of_a_life_ends_nothing_but_the_return():
    envs = Environments("ale-dqn/Breakout", 2, Streams(0))
    copies = sb3.Copies(2, envs.observation_space, envs.action_space, envs)
    assert np.array_equal(copies.reset(), envs.observations)
    rng, lost, ended = np.random.default_rng(0), 0, []
    while not ended:
        observations, _, dones, infos = copies.step(rng.integers(4, size=2))
        for k in np.flatnonzero(dones):
            lost += 1
            assert not infos[k]["TimeLimit.truncated"]
            if "episode" in infos[k]:
                assert not np.array_equal(infos[k]["terminal_observation"], observations[k])
                ended.append(infos[k]["episode"])
            else:
                assert np.array_equal(infos[k]["terminal_observation"], observations[k])
        assert not any(infos[k] for k in np.flatnonzero(~dones))
    assert lost >= 5
    assert [{"r": e.total, "l": e.length} for e in envs.finished] == ended


def test_rows_and_metrics_are_those_of_every_run(finished):
    rows = files.read_lines(finished / "evaluations.jsonl")
    assert [(r["phase"], r["update"]) for r in rows] == [
        ("interim", u) for u in (0, 256, 512, 768) for _ in range(2)
    ] + [("final", 1024)] * 3
    assert {(r["algorithm"], r["env"], r["policy_mode"]) for r in rows} == {("sb3-ppo", "CartPole-v1", "deterministic")}
    metrics = files.read_lines(finished / "metrics.jsonl")
    assert [row["update"] for row in metrics] == list(range(128, 1025, 128))
    assert all({"approx_kl", "value_loss", "learning_rate"} <= set(row) for row in metrics)
    assert sum(row.get("episodes", 0) for row in metrics) > 20
    assert read_json(finished / "config.json")["algorithm"] == "sb3:ppo"


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("sb3:ppo", {"env": "Pendulum-v1", "total_steps": 256, "normalize_observations": True, **SMALL}),
        ("sb3:a2c", {"env": "CartPole-v1", "total_steps": 100, "stochastic": True, "normalize_rewards": True}),
        ("sb3:sac", {"env": "Pendulum-v1", "total_steps": 10, "use_sde": True, "hidden": "8"}),
    ],
)
def test_a_saved_policy_acts_as_it_did(name, given, tmp_path):
    setup = resolved(name, **{"eval_every": 0, **given})
    assert execute(setup, tmp_path / "run") == 0
    rows = files.read_lines(tmp_path / "run" / "evaluations.jsonl")
    policy = load_policy(tmp_path / "run")
    seeds = evaluation_seeds(setup.config.env, "final", len(rows))
    played = evaluate(policy.act, setup.config.env, seeds, stochastic=policy.stochastic)
    assert [row["return"] for row in rows] == [episode.total for episode in played]
    assert rows[0]["policy_mode"] == ("stochastic" if given.get("stochastic") else "deterministic")


def test_a_saved_policy_sees_pictures_as_it_did(tmp_path):
    config = resolved("sb3:dqn", env="ale-dqn/Pong", n_envs=2, normalize_rewards=True).config
    trained = sb3.Policy("dqn", asdict(config), (4, 84, 84), "uint8", 6, seed=1)
    assert type(trained.model.policy).__name__ == "CnnPolicy"
    files.save_policy(tmp_path / "policy.npz", trained, "sb3:dqn")
    loaded = load_policy(tmp_path)
    pictures = np.random.default_rng(0).integers(256, size=(16, 4, 84, 84), dtype=np.uint8)
    assert trained.act(pictures).shape == (16,)
    assert np.array_equal(loaded.act(pictures), trained.act(pictures))
    with torch.no_grad():
        values = [policy.model.q_net(torch.from_numpy(pictures)) for policy in (trained, loaded)]
    assert torch.equal(*values)


def test_pictures_of_floats_are_not_scaled_and_seen_by_convolutions():
    given = asdict(resolve(load_algorithm("sb3:dqn"), {"env": "x", "buffer_size": 10}).config)
    of_floats, of_bytes = (sb3.Policy("dqn", given, (2, 36, 36), kind, 3, seed=0) for kind in ("float32", "uint8"))
    assert type(of_floats.model.policy).__name__ == "CnnPolicy"
    of_floats.model.policy.load_state_dict(of_bytes.model.policy.state_dict())
    x = np.random.default_rng(0).integers(256, size=(4, 2, 36, 36), dtype=np.uint8)
    values = [
        p.model.q_net(torch.from_numpy(seen)) for p, seen in ((of_bytes, x), (of_floats, x.astype(np.float32) / 255))
    ]
    torch.testing.assert_close(*values)


def test_sampled_actions_follow_the_policy(tmp_path):
    assert execute(resolved("sb3:a2c", env="CartPole-v1", total_steps=200, final_episodes=1), tmp_path / "run") == 0
    policy = load_policy(tmp_path / "run")
    x = np.tile(np.array([0.1, 0.2, -0.1, 0.3], np.float32), (4000, 1))
    sampled = policy.act(x, np.random.default_rng(0).random(4000))
    with torch.no_grad():
        p = policy.model.policy.get_distribution(torch.from_numpy(x[:1])).distribution.probs[0, 1].item()
    assert abs(sampled.mean() - p) < 4 * np.sqrt(p * (1 - p) / 4000)


def _child(directory: Path) -> None:
    with open(directory.with_suffix(".log"), "w") as sys.stderr:
        code = execute(cartpole(), directory)
        sys.stderr.flush()
        os._exit(code)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_run_that_was_cut_begins_again_and_ends_the_same(number, code, finished, tmp_path, capfd):
    process = multiprocessing.get_context("fork").Process(target=_child, args=(tmp_path / "run",))
    process.start()
    while not (tmp_path / "run/checkpoints/update-0000000512.ckpt").exists():
        assert process.is_alive(), (tmp_path / "run.log").read_text()
        time.sleep(0.001)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    if number == signal.SIGTERM:
        assert "begin again with: rlsuite resume" in (tmp_path / "run.log").read_text()
        assert read_status(tmp_path / "run")["status"] == "stopped"
    assert execute(cartpole(), tmp_path / "run") == 0
    assert "begins again" in capfd.readouterr().err
    assert first_difference(finished, tmp_path / "run") == ""


def test_a_run_cut_in_its_final_evaluation_is_not_trained_again(finished, tmp_path, monkeypatch):
    def cut(run):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_finish", cut)
        with pytest.raises(KeyboardInterrupt):
            execute(cartpole(), tmp_path / "run")
    monkeypatch.setattr(stable_baselines3.PPO, "learn", lambda *a, **k: pytest.fail("it learnt again"))
    assert execute(cartpole(), tmp_path / "run") == 0
    assert first_difference(finished, tmp_path / "run") == ""


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("sb3:sac", {"env": "CartPole-v1"}, ["sb3:sac", "actions of CartPole-v1", "Discrete(2)", "sb3:dqn"]),
        ("sb3:dqn", {"env": "Pendulum-v1"}, ["sb3:dqn", "actions of Pendulum-v1", "Box(-2.0, 2.0", "sb3:sac"]),
        ("sb3:ppo", {"env": "CartPole-v1", "n_steps": 1}, ["sb3:ppo", "n_steps * n_envs", "change"]),
        ("sb3:dqn", {"env": "CartPole-v1", "train_freq": 0}, ["sb3:dqn", "at least 1 step", "change"]),
        ("sb3:sac", {"env": "Pendulum-v1", "ent_coef": "much"}, ["sb3:sac", "'much'", "change"]),
        ("sb3:ppo", {"env": "CartPole-v1", "total_steps": 100}, ["100", "2048"]),
        ("sb3:ppo", {"env": "CartPole-v1", "n_envs": 0}, ["--n-envs", "at least 1"]),
    ],
)
def test_what_the_library_refuses_is_one_sentence(name, given, words, tmp_path):
    with pytest.raises(UserError) as error:
        execute(resolved(name, **given), tmp_path / "run")
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("sb3:ppoo", "did you mean 'sb3:ppo'"),
        ("sb3:foo", "sb3:ppo"),
        ("sb3-ppo", "did you mean 'sb3:ppo'"),
        ("sb3:recurrentppo", "known|did you mean"),
    ],
)
def test_unknown_names(source, words):
    with pytest.raises(UserError, match=words):
        load_algorithm(source)


def test_a_method_of_sb3_contrib_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install sb3-contrib"):
        load_algorithm("sb3:tqc")


def test_bad_values_name_the_flag():
    with pytest.raises(UserError, match="target_kl is a number, not 'much'"):
        cartpole(target_kl="much")
    with pytest.raises(UserError, match=r"clip_rang.*did you mean 'clip_range'"):
        cartpole(clip_rang=0.1)


def test_weights_that_are_not_finite_stop_the_run(tmp_path):
    assert execute(cartpole(learning_rate=1e30, log_every=100_000, eval_every=0), tmp_path / "run") == 3
    status = read_status(tmp_path / "run")
    assert status["status"] == "diverged"
    assert "not finite" in status["message"]
    assert list((tmp_path / "run/checkpoints").iterdir())


def test_a_column_of_a_table(tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(
        'algorithms = ["ppo", "sb3:ppo"]\ntasks = ["CartPole-v1"]\nseeds = 1\n'
        "[config]\ntotal_steps = 4096\nlearning_rate = 1e-3\nhidden = [32]\nanneal = true\n"
        '[algorithm.sb3-ppo]\ntarget_kl = "none"\nclip_range_vf = 0.2\n'
    )
    ours, theirs = read_table(path).cells
    assert (ours.label, theirs.label) == ("ppo", "sb3-ppo")
    assert theirs.folder.startswith("sb3-ppo-CartPole-v1-s0-")
    source, *flags = theirs.arguments()
    assert source == "sb3:ppo"
    given = dict(flag.removeprefix("--").split("=") for flag in flags if "=" in flag) | {"anneal": True}
    assert "--anneal" in flags
    again = resolve(load_algorithm(source), given)
    assert again.run_id == theirs.run_id
    assert (again.config.target_kl, again.config.clip_range_vf, again.config.hidden) == (None, 0.2, (32,))
