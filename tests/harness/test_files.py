"""Files are whole or absent, damage is noticed, pickles are never loaded."""

import json
import pickle

import numpy as np
import pytest
import torch

from rlsuite.data.files import write_json
from rlsuite.errors import UserError
from rlsuite.harness import files
from rlsuite.harness.networks import DeterministicActor

TREE = {
    "step": 3,
    "pair": (1.5, None),
    "list": [True, "text", {"deep": np.arange(3)}],
    "state": {0: {"mean": torch.arange(6.0).reshape(2, 3)}, "inc": 2**127 + 1},
    "nothing": {},
}


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def test_checkpoint_round_trip(tmp_path):
    path = tmp_path / "c.ckpt"
    files.save_checkpoint(path, TREE)
    assert same(files.load_checkpoint(path), TREE)
    assert [p.name for p in tmp_path.iterdir()] == ["c.ckpt"]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
def test_damaged_checkpoint_is_refused_in_one_sentence(tmp_path, damage):
    path = tmp_path / "c.ckpt"
    files.save_checkpoint(path, TREE)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"flip": data, "cut": data[:-7], "empty": b"", "foreign": b"PK\3\4 something"}[damage])
    with pytest.raises(UserError) as error:
        files.load_checkpoint(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_refuses_what_would_need_a_pickle(tmp_path):
    with pytest.raises(TypeError, match="cannot hold"):
        files.save_checkpoint(tmp_path / "c.ckpt", {"f": object()})
    assert not any(tmp_path.iterdir())


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_json(path, {"a": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


def test_a_log_is_cut_back_to_the_checkpoint(tmp_path):
    log = files.JsonLines(tmp_path / "m.jsonl")
    log.append({"update": 1})
    offset = log.sync()
    log.append({"update": 2}, {"update": 3})
    log.close()
    log = files.JsonLines(tmp_path / "m.jsonl", offset)
    log.append({"update": 20})
    log.close()
    assert files.read_lines(tmp_path / "m.jsonl") == [{"update": 1}, {"update": 20}]


def test_policy_round_trip_keeps_the_normaliser(tmp_path):
    actor = DeterministicActor(3, 2, 0.4, (16,), np.random.default_rng(0))
    actor.set_normalizer(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0]))
    files.save_policy(tmp_path / "policy.npz", actor, "bc")
    about, state = files.read_policy(tmp_path / "policy.npz")
    again = DeterministicActor(**about["arguments"])
    again.load_state_dict(state)
    observations = np.random.default_rng(1).standard_normal((16, 3)).astype(np.float32)
    assert np.array_equal(actor.act(observations), again.act(observations))
    assert np.abs(again.act(observations)).max() <= 0.4


class Bomb:
    exploded = False

    def __reduce__(self):
        return (setattr, (Bomb, "exploded", True))


@pytest.mark.parametrize("kind", ["pickle", "object array", "torch file"])
def test_a_weights_file_with_a_pickle_is_refused_and_not_run(tmp_path, kind):
    path = tmp_path / "policy.npz"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif kind == "object array":
        np.savez(path, __policy__=np.array([Bomb()], dtype=object))
    else:
        torch.save({"w": torch.zeros(2), "bomb": Bomb()}, path)
    with pytest.raises(UserError, match="pickle"):
        files.read_policy(path)
    assert not Bomb.exploded
