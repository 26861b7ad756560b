"""Training the behaviour policies: Stable-Baselines3's SAC, only faster, and not lost when it is killed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC

from rlsuite.data.behaviour import train
from rlsuite.data.behaviour.sac import FastSAC


def test_the_update_is_that_of_stable_baselines3() -> None:
    states = []
    for algorithm in (SAC, FastSAC):
        model = algorithm("MlpPolicy", "Pendulum-v1", seed=3, learning_starts=300, device="cpu")
        model.learn(300)
        start = torch.cat([p.detach().flatten() for p in model.policy.parameters()])
        torch.manual_seed(0)
        np.random.seed(0)
        model.train(gradient_steps=20, batch_size=64)
        weights = torch.cat([p.detach().flatten() for p in model.policy.parameters()])
        states.append((weights, float(model.log_ent_coef.detach())))
        assert (weights - start).abs().max() > 20 * 1e-4
    assert torch.allclose(states[0][0], states[1][0], atol=2e-6)
    assert states[0][1] == pytest.approx(states[1][1], abs=1e-6)


OPTIONS = {"every": 300, "episodes": 1, "train_freq": 2, "learning_starts": 200, "hidden": 16}


def test_a_killed_training_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    saved = train._save

    def killed_after_two(model, folder, every, line):
        if line["env_steps"] > 600:
            raise KeyboardInterrupt  # the actor is written, the state is not
        saved(model, folder, every, line)

    monkeypatch.setattr(train, "_save", killed_after_two)
    with pytest.raises(KeyboardInterrupt):
        train.train("Pendulum-v1", 1200, 0, out, **OPTIONS)
    before = train.read_record(out)
    assert [line["env_steps"] for line in before] == [300, 600]

    steps = []
    learn = FastSAC.learn
    monkeypatch.setattr(train, "_save", saved)
    monkeypatch.setattr(
        FastSAC,
        "learn",
        lambda self, *a, **k: (steps.append((self.num_timesteps, self._n_updates)), learn(self, *a, **k)),
    )
    train.train("Pendulum-v1", 1200, 0, out, **OPTIONS)
    assert steps == [(600, 200), (900, 350)]
    record = train.read_record(out)
    assert record[:2] == before
    assert [line["env_steps"] for line in record] == [300, 600, 900, 1200]
    assert len(list(out.glob("actor-*.npz"))) == len(list(out.glob("transitions-*.npz"))) == 4
    with np.load(out / "actor-0000600.npz") as first, np.load(out / "actor-0001200.npz") as last:
        assert any(not np.array_equal(first[key], last[key]) for key in first.files)
        assert all(first[key].dtype == np.float16 for key in first.files)


def test_what_is_restored_is_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = []
    saved, restored = train._save, train._restore
    monkeypatch.setattr(train, "_save", lambda model, *rest: (models.append(model), saved(model, *rest)))
    train.train("Pendulum-v1", 600, 0, tmp_path, **OPTIONS)
    monkeypatch.setattr(train, "_restore", lambda model, out: (models.append(model), restored(model, out))[1])
    expected = np.random.get_state()
    np.random.seed(123)
    train.train("Pendulum-v1", 600, 0, tmp_path, **OPTIONS)  # nothing left to do
    assert all(np.array_equal(a, b) for a, b in zip(expected, np.random.get_state(), strict=True))
    first, second = models[-2], models[-1]
    assert first is not second
    for name in train.TRANSITION:
        assert np.array_equal(getattr(first.replay_buffer, name), getattr(second.replay_buffer, name))
    assert (first.replay_buffer.pos, first.replay_buffer.full) == (second.replay_buffer.pos, second.replay_buffer.full)
    for a, b in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.critic.optimizer.state_dict()["state"].keys() == second.critic.optimizer.state_dict()["state"].keys()
    assert torch.equal(first.log_ent_coef.detach(), second.log_ent_coef.detach())
    assert json.loads((tmp_path / "record.jsonl").read_text().splitlines()[-1])["env_steps"] == 600
